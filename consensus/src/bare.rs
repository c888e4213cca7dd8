//! A node's side of consensus without the engine's actors, network and clock:
//! for the simulation, which drives the engine's core by itself. Everything
//! here is what [`crate::start`] runs, on any disk: which mode a node starts
//! in, the host's answers, the guarded key, the checker of signatures.

use std::{path::PathBuf, sync::Arc, time::Instant};

use libp2p::PeerId;
use malachitebft_app_channel::app::{consensus::SignedConsensusMsg, engine::util::events::Event};
use malachitebft_app_channel::{AppMsg, NetworkMsg};
use malachitebft_signing::{Signer, Verifier};
use tally_ledger::ids::Height;
use tokio::sync::mpsc;

use crate::{
    application::{Application, Wake},
    config::{Config, Keys},
    context::{Address, Engine},
    disk::Disk,
    engine::{self, NOBODY, Node},
    handle::{ConsensusError, Mode},
    host::{Exit, Host, Until},
};

/// A node's side of consensus.
pub struct Bare<A> {
    node: Node,
    host: Host<A>,
    observing: Option<Until>,
}

/// One run of the engine, as this node wants it.
pub struct Run {
    /// Voting or observing.
    pub mode: Mode,
    /// For whom the engine signs.
    pub address: Address,
    /// Where its log is.
    pub log: PathBuf,
    /// Signs for it; an observer has none.
    pub signer: Option<Box<dyn Signer<Engine>>>,
    /// Checks signatures for it.
    pub verifier: Box<dyn Verifier<Engine>>,
}

/// The engine is to be stopped; [`Bare::after`] says what comes then.
pub struct Stopped(Exit);

impl<A: Application> Bare<A> {
    /// Opens a node's files; `now` is the time in ms. Must be called within a
    /// tokio runtime.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        keys: Keys,
        application: A,
        now: u64,
    ) -> Result<Self, ConsensusError> {
        let (node, host) = engine::open(disk, config, keys, application, Wake::new(), now)?;
        let observing = node.must_observe(host.committed())?;
        Ok(Self {
            node,
            host,
            observing,
        })
    }

    /// Before the engine is started. `streams` is above all numbers of
    /// streams of earlier runs.
    pub fn run(&mut self, streams: u64) -> Result<Run, ConsensusError> {
        let mode = self
            .observing
            .map_or(Mode::Validator, |until| Mode::Observer(until.why));
        let log = self.node.log_for(mode)?;
        self.host.reset(self.observing, streams);
        let key = match mode {
            Mode::Validator => self.node.guarded_key(log.clone()),
            Mode::Observer(_) => None,
        };
        Ok(Run {
            mode,
            address: key.as_ref().map_or(NOBODY, |key| Address(key.key.public())),
            log,
            signer: key.map(|key| Box::new(key) as Box<dyn Signer<Engine>>),
            verifier: Box::new(self.node.checker()),
        })
    }

    /// Answers one message of the engine.
    pub async fn handle(
        &mut self,
        message: AppMsg<Engine>,
        network: &mpsc::Sender<NetworkMsg<Engine>>,
    ) -> Result<(), Stopped> {
        self.host
            .on_message(message, network)
            .await
            .map_err(Stopped)
    }

    /// The engine got this from a peer.
    pub fn received(&mut self, message: &SignedConsensusMsg<Engine>) {
        self.host.on_event(&Event::Received(message.clone()));
    }

    /// The network got a body from a peer by value sync.
    pub fn served(&self, peer: PeerId, height: Height, body: &[u8]) {
        self.node.origins.note(peer, height, body);
    }

    /// When the next height begins, if this node waits for it.
    pub fn begin(&mut self, now: Instant) -> Option<Instant> {
        self.host.waits().then(|| self.host.begin(now))
    }

    /// Begins it.
    pub fn go_on(&mut self) {
        self.host.go_on();
    }

    /// The last committed height.
    pub fn committed(&self) -> Height {
        self.host.committed()
    }

    /// The engine was stopped, or stopped by itself (`None`): decides as
    /// what it runs next, or that this node is at fault.
    pub fn after(&mut self, stopped: Option<Stopped>) -> Result<(), ConsensusError> {
        let exit = stopped.map_or(Exit::EngineGone, |stopped| stopped.0);
        self.observing = self.node.after(exit, self.host.committed())?;
        Ok(())
    }
}
