//! A validator: the engine's core and the real host of consensus, over a disk
//! that outlives them.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use malachitebft_app_channel::AppMsg;
use malachitebft_app_channel::app::{
    consensus::{Error, Input, LivenessMsg, SignedConsensusMsg, State as Core},
    engine::host::Next,
    types::{
        PeerId,
        sync::{RawDecidedValue, Request, Response, Status},
    },
};
use malachitebft_codec::Codec;
use malachitebft_core_consensus::process;
use malachitebft_core_types::{HeightParams, Timeout, ValueResponse};
use malachitebft_metrics::Metrics;
use malachitebft_sync::ValueRequest;
use tally_consensus::{
    Config, ConsensusError, Guard, Mode,
    bare::Bare,
    context::{Engine as Ctx, Height},
    disk::Disk,
};
use tally_ledger::transaction::Transaction;
use tokio::sync::oneshot;

use super::message::{Ask, Cut, Out, Packet, Tell, WIRE, show};
use super::{
    app::{App, MAX_BODY, Shared},
    clock::Clock,
    core::core,
    disk::SimDisk,
    engine::Engine,
    genesis::keys,
    rng::Rng,
};

/// How long a request for blocks is waited for, in us.
const PATIENCE: u64 = 2_000_000;
/// Most blocks asked for at once.
const BATCH: u64 = 20;

/// The transport's name of a node.
pub fn peer(node: usize) -> PeerId {
    PeerId::from_bytes(&keys(node).peer_id().to_bytes()).expect("a peer id reads back")
}

/// A validator, up or down.
pub struct Node {
    /// Which.
    pub index: usize,
    /// Its disk.
    pub disk: SimDisk,
    /// How often it was started.
    pub boots: u64,
    honest: bool,
    shared: Shared,
    clock: Clock,
    rng: Rng,
    life: Option<Life>,
}

/// A node that is up.
struct Life {
    app: App,
    bare: Bare<App>,
    core: Option<Core<Ctx>>,
    engine: Engine,
    metrics: Metrics,
    starts: u64,
    /// Blocks that came by value sync and are not fed yet.
    synced: BTreeMap<u64, (usize, RawDecidedValue<Ctx>)>,
    asked_until: u64,
    /// When the next height begins.
    begin: Option<u64>,
    /// The engine has stopped by itself.
    gone: bool,
    counts: Counts,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Entries of the engine's log that were replayed.
    pub replayed: u64,
    /// Starts as an observer.
    pub observed: u64,
    /// Blocks taken by value sync.
    pub synced: u64,
    /// Starts of the engine within a process, after it was stopped.
    pub restarts: u64,
}

/// What happens to a node.
pub enum Happening {
    /// A message came.
    Packet(usize, Packet),
    /// A timer ran out.
    Timer(Timeout, u64),
    /// Nothing but time has passed.
    Time,
}

impl Node {
    /// A validator with a fresh guard file and nothing else; down.
    pub fn new(index: usize, honest: bool, shared: Shared, clock: Clock, mut rng: Rng) -> Self {
        let disk = SimDisk::new(rng.fork());
        let (chain, key) = (shared.genesis.chain(), keys(index).consensus.public());
        Guard::create_on(&disk, Path::new("consensus"), chain, key)
            .expect("a new disk takes a guard file");
        Self {
            index,
            disk,
            boots: 0,
            honest,
            shared,
            clock,
            rng,
            life: None,
        }
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// Whether it votes.
    pub fn votes(&self) -> bool {
        (self.life.as_ref()).is_some_and(|life| life.engine.run.mode == Mode::Validator)
    }

    /// Its application, while it is up.
    pub fn app(&self) -> Option<&App> {
        self.life.as_ref().map(|life| &life.app)
    }

    /// When it wants to be told that time has passed, in us.
    pub fn wants(&self) -> Option<u64> {
        self.life.as_ref()?.begin
    }

    /// For the report: height, round, mode.
    pub fn describe(&self) -> String {
        let Some(life) = &self.life else {
            return "down".into();
        };
        let mode = life.engine.run.mode;
        let committed = life.bare.committed();
        match &life.core {
            Some(core) => format!(
                "{mode:?}, committed {committed}, at {} round {} step {:?}",
                core.height(),
                core.round(),
                core.driver.step()
            ),
            None => format!("{mode:?}, committed {committed}, no core"),
        }
    }

    /// The power is back; `disk` may fail again meanwhile.
    pub async fn boot(&mut self, out: &mut Vec<Out>) -> Counts {
        self.boots += 1;
        if !self.honest {
            // Its own lies came back to it and are in its log: it does not
            // contradict itself by accident, and keeps no log.
            let _ = self.disk.remove(Path::new("consensus/consensus.wal"));
        }
        match self.open() {
            Ok(life) => {
                self.life = Some(life);
                self.happen(Happening::Time, out).await
            }
            Err(why) => {
                self.fault(&why);
                Counts::default()
            }
        }
    }

    fn fault(&mut self, why: &str) {
        if !self.disk.is_off() {
            let index = self.index;
            (self.shared.judge()).condemn(format!("node {index} does not start: {why}"));
        }
        self.disk.fail();
    }

    fn open(&self) -> Result<Life, String> {
        let (shared, clock) = (self.shared.clone(), self.clock.clone());
        let app = App::open(shared.clone(), self.index, clock.clone(), &self.disk)?;
        let address = "/ip4/127.0.0.1/tcp/0".parse();
        let address = address.map_err(|_| "no such address")?;
        let home = "consensus".into();
        let mut config = Config::new(&self.index.to_string(), address, Vec::new(), home);
        config.max_block_bytes = MAX_BODY;
        config.max_clock_error = Duration::from_secs(3);
        let disk = Arc::new(self.disk.clone());
        let (keys, now) = (keys(self.index), clock.wall().0);
        let text = |error: ConsensusError| error.to_string();
        let mut bare = Bare::open(disk, config, keys, app.clone(), now).map_err(text)?;
        let run = bare.run(self.streams(0)).map_err(text)?;
        let mut counts = Counts::default();
        counts.observed += u64::from(run.mode != Mode::Validator);
        let parts = (shared, clock, self.disk.clone());
        let engine = Engine::open(self.index, self.honest, run, parts, self.rng.clone().fork())?;
        Ok(Life {
            app,
            bare,
            core: None,
            engine,
            metrics: Metrics::new(),
            starts: 1,
            synced: BTreeMap::new(),
            asked_until: 0,
            begin: None,
            gone: false,
            counts,
        })
    }

    /// Above all numbers of streams of earlier starts.
    fn streams(&self, starts: u64) -> u64 {
        self.clock.now() * 1_000_000 + self.boots * 1_000 + starts
    }

    /// Crashes in the middle of something soon: after so many operations of
    /// the disk, or effects of the core.
    pub fn doom(&mut self, operations: Option<u64>, effects: Option<u64>) {
        if let Some(operations) = operations {
            self.disk.fail_after(operations);
        }
        if let Some(life) = &mut self.life {
            life.engine.effects_left = effects;
        }
    }

    /// The power fails now.
    pub fn crash(&mut self) {
        self.disk.fail();
        self.life = None;
    }

    /// The disk is as a crash left it.
    pub fn power_on(&mut self) {
        self.disk.boot();
    }

    /// Everything that follows from something, until nothing is left to do.
    /// The node may be down afterwards.
    pub async fn happen(&mut self, what: Happening, out: &mut Vec<Out>) -> Counts {
        let Some(mut life) = self.life.take() else {
            return Counts::default();
        };
        life.take_in(what);
        loop {
            life.settle(&mut self.rng).await;
            out.append(&mut life.engine.out);
            if life.engine.dead || self.disk.is_off() {
                self.disk.fail();
                return life.counts;
            }
            if !self.stop_and_start(&mut life) {
                break;
            }
        }
        let counts = std::mem::take(&mut life.counts);
        if self.disk.is_off() {
            return counts;
        }
        self.life = Some(life);
        counts
    }

    /// Starts the engine again if it was stopped.
    fn stop_and_start(&mut self, life: &mut Life) -> bool {
        if !life.gone && life.engine.stopped.is_none() {
            return false;
        }
        life.starts += 1;
        life.counts.restarts += 1;
        let stopped = life.engine.stopped.take();
        let streams = self.streams(life.starts);
        let run = (life.bare.after(stopped)).and_then(|()| life.bare.run(streams));
        let parts = (self.shared.clone(), self.clock.clone(), self.disk.clone());
        let opened = run.map_err(|error| error.to_string()).and_then(|run| {
            life.counts.observed += u64::from(run.mode != Mode::Validator);
            Engine::open(self.index, self.honest, run, parts, self.rng.fork())
        });
        match opened {
            Ok(engine) => {
                life.engine = engine;
                (life.core, life.metrics) = (None, Metrics::new());
                life.begin = None;
                life.gone = false;
                true
            }
            Err(why) => {
                self.fault(&why);
                false
            }
        }
    }

    /// Says to all others what it has.
    pub fn status(&self) -> Option<Packet> {
        let life = self.life.as_ref()?;
        let status = Status {
            peer_id: peer(self.index),
            tip_height: life.bare.committed().into(),
            history_min_height: Height(1),
        };
        WIRE.encode(&status).ok().map(Packet::Status)
    }
}

impl Life {
    /// Puts what happens into the queues.
    fn take_in(&mut self, what: Happening) {
        match what {
            Happening::Packet(from, packet) => {
                // What cannot be read is dropped, as the engine does.
                let _ = self.packet(from, packet);
            }
            Happening::Timer(timeout, number) => {
                if self.engine.elapsed(timeout, number) {
                    self.tell(Input::TimeoutElapsed(timeout));
                }
            }
            Happening::Time => {}
        }
    }

    fn tell(&mut self, input: Input<Ctx>) {
        self.engine.tells.push_back(Tell::Input(input));
    }

    fn packet(&mut self, from: usize, packet: Packet) -> Option<()> {
        match packet {
            Packet::Consensus(bytes) => {
                let message: SignedConsensusMsg<Ctx> = WIRE.decode(bytes).ok()?;
                self.bare.received(&message);
                self.tell(match message {
                    SignedConsensusMsg::Vote(vote) => Input::Vote(vote),
                    SignedConsensusMsg::Proposal(proposal) => Input::Proposal(proposal),
                });
            }
            Packet::Liveness(bytes) => {
                let input = match WIRE.decode(bytes).ok()? {
                    LivenessMsg::Vote(vote) => {
                        self.bare.received(&SignedConsensusMsg::Vote(vote.clone()));
                        Input::Vote(vote)
                    }
                    LivenessMsg::PolkaCertificate(certificate) => {
                        Input::PolkaCertificate(certificate)
                    }
                    LivenessMsg::SkipRoundCertificate(certificate) => {
                        Input::RoundCertificate(certificate)
                    }
                };
                self.tell(input);
            }
            Packet::Part(bytes) => {
                let ask = Ask::Part(peer(from), WIRE.decode(bytes).ok()?);
                self.engine.asks.push_back(ask);
            }
            Packet::Status(bytes) => {
                let status: Status<Ctx> = WIRE.decode(bytes).ok()?;
                self.catch_up(from, status.tip_height.0);
            }
            Packet::Request(bytes) => {
                let Request::ValueRequest(request) = WIRE.decode(bytes).ok()?;
                self.engine
                    .asks
                    .push_back(Ask::History(from, request.range));
            }
            Packet::Response(bytes) => {
                let Response::ValueResponse(response) = WIRE.decode(bytes).ok()?;
                self.asked_until = 0;
                for value in response.values {
                    let height = value.certificate.height;
                    let sender = keys(from).peer_id();
                    (self.bare).served(sender, height.into(), &value.value_bytes);
                    self.synced.insert(height.0, (from, value));
                }
                self.feed_synced();
            }
            Packet::Transaction(bytes) => self.app.submit(Transaction::decode(&bytes).ok()?),
        }
        Some(())
    }

    /// A peer has more: ask it.
    fn catch_up(&mut self, from: usize, tip: u64) {
        let next = self.bare.committed().0 + 1;
        let now = self.engine_now();
        if tip < next || now < self.asked_until || self.synced.contains_key(&next) {
            return;
        }
        let last = tip.min(next + BATCH - 1);
        let request = ValueRequest::new(Height(next)..=Height(last));
        if let Ok(bytes) = WIRE.encode(&Request::ValueRequest(request)) {
            self.asked_until = now + PATIENCE;
            let out = Out::One(from, Packet::Request(bytes));
            self.engine.out.push(out);
        }
    }

    fn engine_now(&self) -> u64 {
        self.engine.now()
    }

    /// Gives the core the block of its height, if it came.
    fn feed_synced(&mut self) {
        let Some(height) = self.core.as_ref().map(|core| core.height().0) else {
            return;
        };
        self.synced = self.synced.split_off(&height);
        if let Some((from, value)) = self.synced.remove(&height) {
            self.counts.synced += 1;
            let (bytes, certificate) = (value.value_bytes, value.certificate);
            let response = ValueResponse::new(peer(from), bytes, certificate);
            self.tell(Input::SyncValueResponse(response));
        }
    }

    /// Works until nothing is left, in an order that only the seed knows.
    async fn settle(&mut self, rng: &mut Rng) {
        if self.core.is_none() {
            self.ready().await;
        }
        while self.engine.goes_on() && !self.gone {
            let (asks, tells) = (self.engine.asks.len(), self.engine.tells.len());
            if tells > 0 && (asks == 0 || rng.chance(500)) {
                self.step().await;
            } else if asks > 0 {
                self.engine.answer(&mut self.bare).await;
            } else if !self.go_on() {
                return;
            }
        }
    }

    /// The engine is ready: what is the first height?
    async fn ready(&mut self) {
        let (reply, mut first) = oneshot::channel();
        let (network, _) = tokio::sync::mpsc::channel(1);
        let ready = AppMsg::ConsensusReady { reply };
        match self.bare.handle(ready, &network).await {
            Ok(()) => {
                let first = first.try_recv().ok();
                let start = first.map(|(height, params)| Tell::Start(height, params));
                self.engine.tells.extend(start);
            }
            Err(stopped) => self.engine.stopped = Some(stopped),
        }
    }

    /// Goes on to the next height if its time has come; else sees to it that
    /// the world knows when.
    fn go_on(&mut self) -> bool {
        let Some(at) = self.bare.begin(self.engine.instant()) else {
            return false;
        };
        let at = self.engine.micros(at);
        if at > self.engine_now() {
            self.begin = Some(at);
            return false;
        }
        self.begin = None;
        self.bare.go_on();
        let next = self
            .engine
            .next
            .take()
            .and_then(|mut next| next.try_recv().ok());
        match next {
            Some(Next::Start(height, params) | Next::Restart(height, params)) => {
                self.engine.tells.push_back(Tell::Start(height, params));
                true
            }
            None => false,
        }
    }

    async fn step(&mut self) {
        match self.engine.tells.pop_front() {
            Some(Tell::Input(input)) => self.feed(input).await,
            Some(Tell::Start(height, params)) => self.start(height, params).await,
            None => {}
        }
    }

    async fn process(&mut self, input: Input<Ctx>) -> Result<(), Error<Ctx>> {
        let Some(core) = self.core.as_mut() else {
            return Ok(());
        };
        let (engine, bare) = (&mut self.engine, &mut self.bare);
        show(|| format!("node {} is told {input:?}", engine.node));
        process!(
            input: input,
            state: core,
            metrics: &self.metrics,
            with: effect => match engine.effect(effect, bare).await {
                Ok(resume) => Ok(resume),
                Err(Cut) => Err(()),
            }
        )
    }

    /// Feeds the core; an error ends the engine.
    async fn feed(&mut self, input: Input<Ctx>) {
        if self.process(input).await.is_err() && self.engine.goes_on() {
            self.gone = true;
        }
    }

    async fn start(&mut self, height: Height, params: HeightParams<Ctx>) {
        if self.core.is_none() {
            self.core = Some(core(height, &params, self.engine.run.address));
        }
        let entries = self.engine.begin(height, &params);
        let policy = params.vote_extension_policy;
        let start = Input::StartHeight(height, params.validator_set, false, None, policy);
        self.feed(start).await;
        if !entries.is_empty() && self.engine.goes_on() && !self.gone {
            self.replay(entries).await;
        }
        self.feed_synced();
    }

    /// Replays the log. What goes wrong there ends the node: the engine
    /// waits for its operator.
    async fn replay(&mut self, entries: Vec<Input<Ctx>>) {
        self.engine.recovering = true;
        if let Some(core) = &mut self.core {
            core.record_recovered_own_precommit_extensions(&entries);
            core.index_wal_entries(&entries);
        }
        for entry in entries {
            self.counts.replayed += 1;
            show(|| format!("node {} replays {entry:?}", self.engine.node));
            if let Err(error) = self.process(entry).await
                && self.engine.goes_on()
            {
                match self.engine.refused {
                    true => self.gone = true,
                    false => self.engine.fail(format!("replaying its log: {error}")),
                }
            }
            if !self.engine.goes_on() || self.gone {
                return;
            }
        }
        if let Some(core) = &mut self.core {
            core.reset_entries_index();
        }
        self.engine.recovering = false;
    }
}
