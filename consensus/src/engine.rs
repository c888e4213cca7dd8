//! Starting the engine, as a validator or as an observer, and starting it
//! again as the other when that must change.
//!
//! A node votes only if it knows what it has signed: its guard file is at or
//! below the last committed height, or the engine's log is at the guard's
//! height. Otherwise it observes - takes blocks by value sync, signs nothing -
//! until the height in question is committed, and then votes above it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytesize::ByteSize;
use malachitebft_app_channel::{
    Channels, ConsensusContext, EngineBuilder, EngineHandle, NetworkIdentity, NetworkRequest,
    RequestContext, SyncContext, WalContext,
    app::config::{
        ConsensusConfig, GossipSubConfig, NodeConfig, PubSubProtocol, ValuePayload, ValueSyncConfig,
    },
};
use malachitebft_codec::Codec;
use tally_ledger::{
    crypto::{ChainId, PublicKey},
    ids::Height,
};
use tokio::{
    sync::{mpsc, watch},
    time::{interval, sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    application::{Application, Wake},
    calls::Calls,
    codec::Wire,
    config::{Config, Keys},
    context::{Address, Engine},
    disk::{Disk, RealDisk},
    guard::{Guard, Refusal},
    handle::{ConsensusError, Handle, Mode, Observing, Status, Stop},
    host::{Exit, Host, Until},
    origins::Origins,
    relay,
    signer::{GuardedKey, LastRefusal},
    undecided::Undecided,
    verifier::{Checker, Witness},
    wal,
};

/// Most bytes of a sync response; a message of the transport is a bit larger.
const MAX_RESPONSE: usize = 48 << 20;
const MAX_RPC: u64 = 64 << 20;
/// The engine signs for an address in the validator set; so an observer has
/// one that is never in it.
pub(crate) const NOBODY: Address = Address(PublicKey([0; 32]));
/// How long the parts of a stopped engine may take to let go of files and
/// ports.
const LET_GO: Duration = Duration::from_secs(5);

/// Starts consensus with the engine. Must be called within a tokio runtime.
///
/// Errors of files show here; what happens later is for [`Handle::join`].
pub fn start<A: Application>(
    config: Config,
    keys: Keys,
    application: A,
    wake: Wake,
) -> Result<Handle, ConsensusError> {
    start_on(Arc::new(RealDisk), config, keys, application, wake)
}

/// The same on another disk, for tests; but for the log that the engine
/// itself writes.
pub fn start_on<A: Application>(
    disk: Arc<dyn Disk>,
    config: Config,
    keys: Keys,
    application: A,
    wake: Wake,
) -> Result<Handle, ConsensusError> {
    let home = config.home.clone();
    std::fs::create_dir_all(&home).map_err(|error| ConsensusError::File { path: home, error })?;
    let (node, host) = open(disk, config, keys, application, wake, now_ms())?;
    let status = node.status.subscribe();
    let stop = Stop::default();
    let task = tokio::spawn(node.run(host, stop.clone()));
    Ok(Handle { status, stop, task })
}

/// Opens the files of consensus; `now` is the time in ms.
pub(crate) fn open<A: Application>(
    disk: Arc<dyn Disk>,
    config: Config,
    keys: Keys,
    application: A,
    wake: Wake,
    now: u64,
) -> Result<(Node, Host<A>), ConsensusError> {
    let (committed, chain) = (application.committed(), application.chain());
    let own = keys.consensus.public();
    let guard = Guard::open_on(disk.as_ref(), &config.home, chain, own)?;
    let undecided = Undecided::open(disk.as_ref(), &config.home, committed)?;
    let (sender, _) = watch::channel(Status::new(committed));
    let witness = Arc::new(Witness::default());
    let origins = Arc::new(Origins::default());
    let host = Host::new(
        Calls::new(application),
        config.clone(),
        wake,
        sender.clone(),
        witness.clone(),
        origins.clone(),
        undecided,
    );
    let node = Node {
        disk,
        later_than: now.saturating_add(config.max_clock_error.as_millis() as u64),
        config,
        keys,
        chain,
        own,
        guard: guard.map(|guard| Arc::new(Mutex::new(guard))),
        witness,
        origins,
        status: sender,
        refusal: LastRefusal::default(),
        starts: 0,
    };
    Ok((node, host))
}

/// The engine's metrics of all nodes of this process, in Prometheus' text
/// format.
pub fn metrics() -> String {
    let mut text = String::new();
    malachitebft_metrics::export(&mut text);
    text
}

fn now_ms() -> u64 {
    // A clock before 1970 makes an observer wait longer; nothing else.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_millis() as u64)
}

/// What outlives one run of the engine, besides the host.
pub(crate) struct Node {
    disk: Arc<dyn Disk>,
    config: Config,
    keys: Keys,
    chain: ChainId,
    own: PublicKey,
    guard: Option<Arc<Mutex<Guard>>>,
    witness: Arc<Witness>,
    pub(crate) origins: Arc<Origins>,
    status: watch::Sender<Status>,
    refusal: LastRefusal,
    /// Block time, in ms, after which a node without a guard may vote.
    later_than: u64,
    starts: u64,
}

impl Node {
    async fn run<A: Application>(
        mut self,
        mut host: Host<A>,
        stop: Stop,
    ) -> Result<(), ConsensusError> {
        let result = self.runs(&mut host, &stop).await;
        if let Err(error) = &result {
            error!(%error, "consensus stopped");
            self.status
                .send_modify(|status| status.unhealthy = Some(error.to_string()));
        }
        result
    }

    async fn runs<A: Application>(
        &mut self,
        host: &mut Host<A>,
        stop: &Stop,
    ) -> Result<(), ConsensusError> {
        let mut observing = self.must_observe(host.committed())?;
        loop {
            let exit = self.run_once(host, observing, stop).await?;
            if matches!(exit, Exit::Stopped) {
                return Ok(());
            }
            observing = self.after(exit, host.committed())?;
        }
    }

    /// What the engine is started as after it was stopped for a reason.
    pub(crate) fn after(
        &mut self,
        exit: Exit,
        committed: Height,
    ) -> Result<Option<Until>, ConsensusError> {
        match exit {
            Exit::Fault(error) => Err(error),
            Exit::Observe(height) => Ok(Some(self.observe_up_to(height))),
            Exit::EngineGone => self.after_refusal().map(Some),
            Exit::Vote | Exit::Stopped => {
                self.may_vote_above(committed)?;
                Ok(None)
            }
        }
    }

    /// Whether this node has to observe first. See the module's words.
    pub(crate) fn must_observe(&self, committed: Height) -> Result<Option<Until>, ConsensusError> {
        let Some(guard) = &self.guard else {
            return Ok(Some(Until {
                why: Observing::NoGuard,
                later_than: self.later_than,
            }));
        };
        let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Height(committed.0 + 1);
        let until = |height| {
            Some(Until {
                why: Observing::UpTo(height),
                later_than: 0,
            })
        };
        if guard.damaged() {
            return Ok(until(guard.height().max(next)));
        }
        let log = wal::remember(
            &self.disk,
            &wal::voting_log(&self.config.home),
            self.own,
            guard.lock(),
        )?;
        if log.is_some_and(|log| log.height == guard.height() && log.lock) {
            guard.lock_is_known();
        }
        let remembers = log.is_some_and(|log| log.height == next && next == guard.height());
        if guard.height() <= committed || remembers {
            return Ok(None);
        }
        Ok(until(guard.height()))
    }

    fn observe_up_to(&self, height: Height) -> Until {
        let guarded = self.guard.as_ref().map_or(Height(0), |guard| {
            guard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .height()
        });
        Until {
            why: Observing::UpTo(height.max(guarded)),
            later_than: 0,
        }
    }

    /// Observing is over: nothing up to the committed height gets signed.
    fn may_vote_above(&mut self, committed: Height) -> Result<(), ConsensusError> {
        let (disk, home) = (self.disk.as_ref(), &self.config.home);
        let error = |error| ConsensusError::File {
            path: home.join("guard"),
            error,
        };
        match &self.guard {
            Some(guard) => {
                let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
                guard.raise(committed).map_err(error)?;
            }
            None => {
                Guard::create_above(disk, home, self.chain, self.own, committed).map_err(error)?;
                let guard = Guard::open_on(disk, home, self.chain, self.own)?;
                self.guard = guard.map(|guard| Arc::new(Mutex::new(guard)));
            }
        }
        Ok(())
    }

    /// The engine is gone by itself: because a signature was refused, or for
    /// a reason of its own.
    fn after_refusal(&mut self) -> Result<Until, ConsensusError> {
        match self.refusal.take() {
            Some(Refusal::Io(error)) => Err(ConsensusError::File {
                path: self.config.home.join("guard"),
                error,
            }),
            Some(refusal) => {
                warn!(%refusal, "the engine has forgotten what was signed; observing a height");
                Ok(self.observe_up_to(Height(0)))
            }
            None => Err(ConsensusError::Engine(
                "it gave no reason; see the log".to_owned(),
            )),
        }
    }

    async fn run_once<A: Application>(
        &mut self,
        host: &mut Host<A>,
        observing: Option<Until>,
        stop: &Stop,
    ) -> Result<Exit, ConsensusError> {
        let mode = observing.map_or(Mode::Validator, |until| Mode::Observer(until.why));
        info!(?mode, committed = %host.committed(), "consensus starts");
        self.status.send_modify(|status| status.mode = mode);
        let log = self.log_for(mode)?;
        let (channels, engine) = self.build(mode, log.clone()).await?;
        let peers = tokio::spawn(count_peers(
            channels.net_requests.clone(),
            self.status.clone(),
        ));
        // Above all streams of earlier starts: nanoseconds since 1970.
        let streams = now_ms().saturating_mul(1_000_000);
        let exit = host.run(channels, observing, streams, stop).await;
        peers.abort();
        self.status.send_modify(|status| status.peers = 0);
        let exit = match exit {
            // It may hang then, in its replay; but the log did not fail.
            Exit::EngineGone if self.refusal.is_set() => Exit::EngineGone,
            Exit::EngineGone if hangs(&engine).await => Exit::Fault(ConsensusError::LogFailed),
            exit => exit,
        };
        shut_down(engine).await;
        wait_for_log(&self.disk, &log, self.own).await?;
        Ok(exit)
    }

    /// The engine's log of a mode. An observer's is another file: a restart
    /// must not take its empty height for a validator's memory of it.
    pub(crate) fn log_for(&self, mode: Mode) -> Result<PathBuf, ConsensusError> {
        let (disk, home) = (&self.disk, &self.config.home);
        let log = wal::voting_log(home);
        match mode {
            Mode::Validator => wal::make(disk, &log).map(|()| log),
            Mode::Observer(_) => {
                wal::forget(disk.as_ref(), &log)?;
                // It holds nothing, but a crash may have torn its head.
                let log = wal::observing_log(home);
                wal::forget(disk.as_ref(), &log)?;
                Ok(log)
            }
        }
    }

    /// The key of a validator whose engine writes that log; `None` without a
    /// guard.
    pub(crate) fn guarded_key(&self, log: PathBuf) -> Option<GuardedKey> {
        Some(GuardedKey {
            key: self.keys.consensus.clone(),
            chain: self.chain,
            guard: self.guard.clone()?,
            disk: self.disk.clone(),
            wal: log,
            refusal: self.refusal.clone(),
        })
    }

    /// What checks signatures for the engine.
    pub(crate) fn checker(&self) -> Checker {
        Checker {
            chain: self.chain,
            witness: self.witness.clone(),
        }
    }

    async fn build(
        &mut self,
        mode: Mode,
        log: PathBuf,
    ) -> Result<(Channels<Engine>, EngineHandle), ConsensusError> {
        self.starts += 1;
        let wire = Wire {
            max_response: MAX_RESPONSE,
        };
        let settings = Settings::new(&self.config, self.starts);
        let moniker = settings.moniker.clone();
        let checker = self.checker();
        let (identity, consensus) = match (mode, self.guarded_key(log.clone())) {
            (Mode::Validator, Some(key)) => {
                let address = Address(self.own);
                let peer = self.keys.peer_id().to_bytes();
                let proof = wire
                    .encode(&key.prove(self.own.0.to_vec(), peer))
                    .map_err(|error| ConsensusError::Engine(error.to_string()))?;
                let name = self.own.to_string();
                let keypair = self.keys.keypair();
                let identity = NetworkIdentity::new_validator(moniker, keypair, name, proof);
                let key = Box::new(key);
                (
                    identity,
                    ConsensusContext::new_validator(address, Box::new(checker), key),
                )
            }
            _ => {
                let nobody = NOBODY;
                let identity = NetworkIdentity::new(moniker, self.keys.keypair(), None);
                (
                    identity,
                    ConsensusContext::new_full_node(nobody, Box::new(checker)),
                )
            }
        };
        let error = |error| ConsensusError::Engine(format!("{error:#}"));
        let engine = EngineBuilder::new(Engine, settings.clone())
            .with_default_wal(WalContext::new(log, wire))
            .with_default_sync(SyncContext::new(wire))
            .with_default_consensus(consensus)
            .with_default_request(RequestContext::new(100));
        let (direct, origins) = (self.config.direct.clone(), self.origins.clone());
        let spawned = relay::spawn(direct, origins, identity, &settings, wire).await;
        let (network, sender) = spawned.map_err(error)?;
        let built = engine
            .with_custom_network(network.clone(), sender)
            .build()
            .await;
        built.map_err(|failed| {
            network.stop(None);
            error(failed)
        })
    }
}

/// After its log failed, the engine stays, with nothing left that works.
async fn hangs(engine: &EngineHandle) -> bool {
    for _ in 0..100 {
        if engine.handle.is_finished() {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}

/// Stops all parts of the engine and waits for them.
async fn shut_down(engine: EngineHandle) {
    let node = engine.actor.get_cell();
    node.stop_children_and_wait(None, Some(LET_GO)).await;
    engine.actor.stop(None);
    if timeout(LET_GO, engine.handle).await.is_err() {
        warn!("the engine does not stop");
    }
}

/// The engine's log is written by a thread that outlives its actor a little.
async fn wait_for_log(
    disk: &Arc<dyn Disk>,
    log: &Path,
    own: PublicKey,
) -> Result<(), ConsensusError> {
    let mut tries = 0;
    loop {
        match wal::remember(disk, log, own, None) {
            Ok(_) => return Ok(()),
            Err(error) if tries >= 500 => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        sleep(LET_GO / 500).await;
    }
}

/// Keeps the number of peers in the status.
async fn count_peers(requests: mpsc::Sender<NetworkRequest>, status: watch::Sender<Status>) {
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let Ok(dump) = NetworkRequest::dump_state(&requests).await else {
            continue;
        };
        let peers = dump.map_or(0, |dump| dump.peers.len());
        status.send_if_modified(|status| std::mem::replace(&mut status.peers, peers) != peers);
    }
}

/// The engine's configuration.
#[derive(Debug, Clone)]
struct Settings {
    moniker: String,
    consensus: ConsensusConfig,
    sync: ValueSyncConfig,
}

impl Settings {
    fn new(config: &Config, start: u64) -> Self {
        let mut consensus = ConsensusConfig {
            value_payload: ValuePayload::ProposalAndParts,
            ..ConsensusConfig::default()
        };
        let p2p = &mut consensus.p2p;
        p2p.listen_addr = config.listen.clone();
        p2p.persistent_peers = config.peers.clone();
        p2p.persistent_peers_only = true;
        p2p.protocol = PubSubProtocol::GossipSub(GossipSubConfig::default());
        p2p.pubsub_max_size = ByteSize::mib(4);
        p2p.rpc_max_size = ByteSize::b(MAX_RPC);
        p2p.discovery.enabled = false;
        p2p.discovery.max_connections_per_ip = 256;
        let sync = ValueSyncConfig {
            status_update_interval: Duration::from_secs(1),
            max_response_size: ByteSize::b(MAX_RESPONSE as u64),
            batch_size: 20,
            ..ValueSyncConfig::default()
        };
        // Metrics of one process share a registry: every start has its name.
        let moniker = match start {
            1 => config.moniker.clone(),
            n => format!("{}.{n}", config.moniker),
        };
        Self {
            moniker,
            consensus,
            sync,
        }
    }
}

impl NodeConfig for Settings {
    fn moniker(&self) -> &str {
        &self.moniker
    }

    fn consensus(&self) -> &ConsensusConfig {
        &self.consensus
    }

    fn consensus_mut(&mut self) -> &mut ConsensusConfig {
        &mut self.consensus
    }

    fn value_sync(&self) -> &ValueSyncConfig {
        &self.sync
    }

    fn value_sync_mut(&mut self) -> &mut ValueSyncConfig {
        &mut self.sync
    }
}
