//! The loop between the engine and the application.
//!
//! The engine sends one message after another and waits for each answer, but
//! for Decided and Finalized; so everything here answers, and nothing waits
//! but the answer to Finalized, which paces the chain. What follows a
//! decision - the answers to Decided and Finalized - follows the commit,
//! which is durable when it returns.

mod blocks;
mod decide;
mod evidence;
mod proposals;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use libp2p::PeerId;
use malachitebft_app_channel::{
    AppMsg, Channels, Reply,
    app::{
        consensus::SignedConsensusMsg,
        engine::{host::Next, util::events::Event},
        events::RxEvent,
    },
};
use malachitebft_core_types::{HeightParams, LinearTimeouts, NilOrVal, Proposal, Vote, VoteType};
use tally_ledger::{block::ValidatorSet, crypto::ChainId, hash::Hash, ids::Height};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    task::{JoinError, spawn_blocking},
    time::sleep_until,
};

use crate::{
    application::{Application, Fatal, Wake},
    calls::Calls,
    config::{Config, Timeouts},
    context::{self, Address, Engine, Validators},
    effort::Efforts,
    handle::{ConsensusError, Observing, SentVote, Status, Stop},
    origins::Origins,
    parts::{Assembled, Assembler},
    undecided::Undecided,
    verifier::Witness,
};

/// Why the loop ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// It was asked to.
    Stopped,
    /// The engine is gone.
    EngineGone,
    /// A fault of this machine.
    Fault(ConsensusError),
    /// This node must not sign up to that height.
    Observe(Height),
    /// This node may vote again.
    Vote,
}

impl From<ConsensusError> for Exit {
    fn from(error: ConsensusError) -> Self {
        Exit::Fault(error)
    }
}

impl From<Fatal> for Exit {
    fn from(fatal: Fatal) -> Self {
        Exit::Fault(ConsensusError::Application(fatal))
    }
}

impl From<JoinError> for Exit {
    fn from(error: JoinError) -> Self {
        Exit::Fault(ConsensusError::Engine(error.to_string()))
    }
}

/// The side of consensus that talks to the application.
pub(crate) struct Host<A> {
    application: Calls<A>,
    chain: ChainId,
    config: Config,
    wake: Wake,
    status: watch::Sender<Status>,
    witness: Arc<Witness>,
    origins: Arc<Origins>,
    undecided: Arc<Mutex<Undecided>>,
    parts: Assembler,
    /// Complete bodies of heights and rounds that are not here yet.
    early: Vec<Assembled>,
    committed: Height,
    validators: ValidatorSet,
    /// The engine's form of them.
    voters: Validators,
    height: HeightState,
    efforts: Efforts,
    streams: u64,
    /// The unanswered Finalized.
    next: Option<Reply<Next<Engine>>>,
    observing: Option<Until>,
}

/// Until when this node observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Until {
    /// Why.
    pub(crate) why: Observing,
    /// Without a guard: the block time, in ms, that must be passed.
    pub(crate) later_than: u64,
}

/// What is known of the height that is being decided.
#[derive(Debug, Default)]
struct HeightState {
    round: u32,
    /// Ids that were validated in this process.
    valid: BTreeSet<Hash>,
    /// Ids that came here.
    seen: BTreeSet<Hash>,
    /// New bodies per publisher and round.
    taken: BTreeMap<(PeerId, u32), u32>,
    /// What the engine was told: round and id.
    told: BTreeSet<(u32, Hash)>,
    /// A peer is at this height already.
    peer_is_there: bool,
    /// Its block came by value sync.
    synced: bool,
    /// The decision was good enough to vote again.
    vote_again: bool,
}

impl<A: Application> Host<A> {
    pub(crate) fn new(
        mut application: Calls<A>,
        config: Config,
        wake: Wake,
        status: watch::Sender<Status>,
        witness: Arc<Witness>,
        origins: Arc<Origins>,
        undecided: Undecided,
    ) -> Self {
        let committed = application.cheap().committed();
        let chain = application.cheap().chain();
        let validators = application.cheap().validators(Height(committed.0 + 1));
        witness.commit(committed);
        origins.commit(committed);
        Self {
            chain,
            parts: Assembler::new(config.max_block_bytes, committed),
            application,
            config,
            wake,
            status,
            witness,
            origins,
            undecided: Arc::new(Mutex::new(undecided)),
            early: Vec::new(),
            committed,
            voters: Validators::new(&validators),
            validators,
            height: HeightState::default(),
            efforts: Efforts::new(),
            streams: 0,
            next: None,
            observing: None,
        }
    }

    pub(crate) fn committed(&self) -> Height {
        self.committed
    }

    /// Talks to one engine until something ends it.
    pub(crate) async fn run(
        &mut self,
        mut channels: Channels<Engine>,
        observing: Option<Until>,
        streams: u64,
        stop: &Stop,
    ) -> Exit {
        self.reset(observing, streams);
        let mut events = channels.events.subscribe();
        loop {
            match self.step(&mut channels, &mut events, stop).await {
                Ok(()) => {}
                Err(exit) => return exit,
            }
        }
    }

    /// Forgets what belongs to an engine that is gone.
    pub(crate) fn reset(&mut self, observing: Option<Until>, streams: u64) {
        self.observing = observing;
        self.streams = streams;
        self.next = None;
        self.parts = Assembler::new(self.config.max_block_bytes, self.committed);
        self.height.told.clear();
    }

    async fn step(
        &mut self,
        channels: &mut Channels<Engine>,
        events: &mut RxEvent<Engine>,
        stop: &Stop,
    ) -> Result<(), Exit> {
        let waiting = self.waits();
        let now = Instant::now();
        let begin = if waiting { self.begin(now) } else { now };
        if waiting && begin <= now {
            self.go_on();
            return Ok(());
        }
        let wake = self.wake.clone();
        tokio::select! {
            biased;
            () = stop.stopped() => Err(Exit::Stopped),
            message = channels.consensus.recv() => match message {
                Some(message) => self.on_message(message, &channels.network).await,
                None => Err(Exit::EngineGone),
            },
            event = events.recv() => {
                match event {
                    Ok(event) => self.on_event(&event),
                    // Events are for the status and for waking up; others come.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(Exit::EngineGone),
                }
                Ok(())
            }
            () = wake.woken(), if waiting => Ok(()),
            () = sleep_until(begin.into()), if waiting => Ok(()),
        }
    }

    /// Answers one message of the engine.
    pub(crate) async fn on_message(
        &mut self,
        message: AppMsg<Engine>,
        network: &mpsc::Sender<NetworkMsg>,
    ) -> Result<(), Exit> {
        // A reply that nobody waits for any more is dropped: the engine is
        // going down, and the channel's end will tell.
        match message {
            AppMsg::ConsensusReady { reply } => {
                let height = Height(self.committed.0 + 1);
                let _ = reply.send((height.into(), self.params()));
            }
            AppMsg::StartedRound {
                height,
                round,
                reply_value,
                ..
            } => {
                let values = self.on_started_round(height.into(), round).await?;
                let _ = reply_value.send(values);
            }
            AppMsg::GetValue {
                height,
                round,
                reply,
                ..
            } => {
                self.on_get_value(height.into(), round, reply, network)
                    .await?;
            }
            AppMsg::ReceivedProposalPart {
                from,
                published_by,
                part,
                reply,
            } => {
                let value = self.on_part(from, published_by, part).await?;
                let _ = reply.send(value);
            }
            AppMsg::RestreamProposal {
                height,
                round,
                valid_round,
                value_id,
                ..
            } => {
                let id = value_id.0;
                self.on_restream(height.into(), round, valid_round, id, network)
                    .await?;
            }
            AppMsg::ProcessSyncedValue {
                height,
                round,
                proposer,
                value_bytes,
                reply,
            } => {
                let outcome = self
                    .on_synced(height.into(), round, proposer, value_bytes)
                    .await?;
                let _ = reply.send(outcome);
            }
            AppMsg::Decided {
                certificate, reply, ..
            } => {
                self.on_decided(certificate).await?;
                let _ = reply.send(());
            }
            AppMsg::Finalized {
                evidence, reply, ..
            } => self.on_finalized(&evidence, reply).await?,
            AppMsg::GetDecidedValues { range, reply } => {
                let _ = reply.send(self.on_history(range).await?);
            }
            AppMsg::GetHistoryMinHeight { reply } => {
                let _ = reply.send(self.application.cheap().history_min().into());
            }
            AppMsg::ExtendVote { reply, .. } => {
                let _ = reply.send(None);
            }
            AppMsg::VerifyVoteExtensions {
                extensions, reply, ..
            } => {
                // Extensions are off, and votes cannot carry any.
                let _ = reply.send(
                    extensions
                        .into_iter()
                        .map(|(who, _)| (who, Ok(())))
                        .collect(),
                );
            }
        }
        Ok(())
    }

    /// Keeps the status, and notices peers that are at the next height.
    pub(crate) fn on_event(&mut self, event: &Event<Engine>) {
        match event {
            Event::Received(SignedConsensusMsg::Vote(vote)) => {
                self.peer_at(vote.message.height().into());
            }
            Event::Received(SignedConsensusMsg::Proposal(proposal)) => {
                self.peer_at(proposal.message.height().into());
            }
            Event::Published(SignedConsensusMsg::Vote(vote)) => {
                let vote = &vote.message;
                let sent = SentVote {
                    height: vote.height.into(),
                    round: vote.round.as_u32().unwrap_or(0),
                    precommit: vote.kind == VoteType::Precommit,
                    block: match vote.block {
                        NilOrVal::Nil => None,
                        NilOrVal::Val(id) => Some(id.0),
                    },
                };
                self.status
                    .send_modify(|status| status.last_vote = Some(sent));
            }
            _ => {}
        }
    }

    /// A peer works on that height.
    fn peer_at(&mut self, height: Height) {
        if height.0 == self.committed.0 + 1 {
            self.height.peer_is_there = true;
        }
    }

    /// The engine is done with a height and waits for the next.
    pub(crate) fn waits(&self) -> bool {
        self.next.is_some()
    }

    /// When the next height begins.
    pub(crate) fn begin(&mut self, now: Instant) -> Instant {
        if self.height.peer_is_there {
            return now;
        }
        self.application.cheap().pace().begin(now)
    }

    /// Answers Finalized.
    pub(crate) fn go_on(&mut self) {
        if let Some(reply) = self.next.take() {
            let height = Height(self.committed.0 + 1);
            let _ = reply.send(Next::Start(height.into(), self.params()));
        }
    }

    fn params(&self) -> HeightParams<Engine> {
        HeightParams::new(self.voters.clone(), linear(&self.config.timeouts), None)
    }

    /// Takes the validators of the next height from the application.
    fn set_validators(&mut self) {
        let next = Height(self.committed.0 + 1);
        let validators = self.application.cheap().validators(next);
        if validators != self.validators {
            self.voters = Validators::new(&validators);
            self.validators = validators;
        }
    }

    /// Index and address of the proposer of a round at the next height.
    fn proposer(&self, round: u32) -> (u16, Address) {
        use malachitebft_core_types::Validator as _;
        let height = context::Height(self.committed.0 + 1);
        let address = *self.voters.proposer(height, round).address();
        (self.validators.index_of(&address.0).unwrap_or(0), address)
    }

    /// Works on the undecided bodies, off the async threads.
    async fn undecided<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Undecided) -> R + Send + 'static,
    ) -> Result<R, Exit> {
        let undecided = self.undecided.clone();
        let task = move || work(&mut undecided.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(spawn_blocking(task).await?)
    }

    /// The same, for what is in memory.
    fn undecided_now<R>(&self, look: impl FnOnce(&Undecided) -> R) -> R {
        look(
            &self
                .undecided
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

type NetworkMsg = malachitebft_app_channel::NetworkMsg<Engine>;

fn linear(timeouts: &Timeouts) -> LinearTimeouts {
    LinearTimeouts {
        propose: timeouts.propose,
        propose_delta: timeouts.propose_step,
        prevote: timeouts.vote,
        prevote_delta: timeouts.vote_step,
        precommit: timeouts.vote,
        precommit_delta: timeouts.vote_step,
        rebroadcast: timeouts.rebroadcast,
        max_timeout: std::time::Duration::from_secs(10),
    }
}
