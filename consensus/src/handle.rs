//! The handle of a running consensus: its status, its end.

use std::{path::PathBuf, sync::Arc};

use tally_ledger::{hash::Hash, ids::Height};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::application::Fatal;

/// What a node takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Votes, if it is in the validator set.
    Validator,
    /// Follows and signs nothing, because it may have signed at this or a
    /// higher height without remembering what.
    Observer(Observing),
}

/// Why a node signs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observing {
    /// There is no guard file: until a block is certified that is later than
    /// this node's start by more than the largest clock error.
    NoGuard,
    /// It may have signed up to this height: until that is committed.
    UpTo(Height),
}

/// A vote that this node sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentVote {
    /// Its height.
    pub height: Height,
    /// Its round.
    pub round: u32,
    /// A precommit, else a prevote.
    pub precommit: bool,
    /// What for; `None` is nil.
    pub block: Option<Hash>,
}

/// Where consensus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Voting or observing.
    pub mode: Mode,
    /// The height worked on, or waited for.
    pub height: Height,
    /// Its round.
    pub round: u32,
    /// The last committed height.
    pub committed: Height,
    /// Connected peers of the consensus network.
    pub peers: usize,
    /// The last vote that left this node.
    pub last_vote: Option<SentVote>,
    /// Double votes and proposals seen since the start.
    pub equivocations: u64,
    /// Set when consensus has stopped for a reason that an operator must see.
    pub unhealthy: Option<String>,
}

impl Status {
    /// Before the first height begins.
    pub fn new(committed: Height) -> Self {
        Self {
            mode: Mode::Validator,
            height: Height(committed.0.saturating_add(1)),
            round: 0,
            committed,
            peers: 0,
            last_vote: None,
            equivocations: 0,
            unhealthy: None,
        }
    }
}

/// Why consensus stopped.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The application's fault.
    #[error("the application stopped consensus: {0}")]
    Application(#[source] Fatal),
    /// A certified block does not execute here to what it says, or no form of
    /// it that more validators sent than may be faulty does, or can be read:
    /// this node's state or software differs from a quorum's. Compare the
    /// program's version, and the state at the height before, with another
    /// node's.
    #[error("certified block {id} of height {height} is invalid here: {why}")]
    Diverged {
        /// The height.
        height: Height,
        /// The certified block.
        id: Hash,
        /// Why it is invalid here.
        why: String,
    },
    /// A file of consensus cannot be read or written.
    #[error(
        "{path}: {error}; nothing was signed that is not in the guard file. Make room and check \
         the disk, then start the node again"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// A file of consensus is damaged: restore it from nowhere. Move it away,
    /// and the node observes until it is safe to vote again.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The engine's own log failed; nothing more can be signed. Check the
    /// disk and start again: the guard file prevents a double signature.
    #[error(
        "the engine's log (consensus.wal) failed. Make room and check the disk, then start the \
         node again: the guard file prevents a double signature"
    )]
    LogFailed,
    /// The engine stopped by itself.
    #[error("the engine stopped: {0}")]
    Engine(String),
}

/// A running consensus.
#[derive(Debug)]
pub struct Handle {
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) stop: Stop,
    pub(crate) task: JoinHandle<Result<(), ConsensusError>>,
}

impl Handle {
    /// Where consensus is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status, to wait for changes of it.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Something to end it with from elsewhere.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits for the end: `Ok` after a [`Stop::stop`], else the fault.
    pub async fn join(self) -> Result<(), ConsensusError> {
        match self.task.await {
            Ok(result) => result,
            Err(panic) => Err(ConsensusError::Engine(panic.to_string())),
        }
    }

    /// Ends it in order, and waits.
    pub async fn shutdown(self) -> Result<(), ConsensusError> {
        self.stop.stop();
        self.join().await
    }
}

/// Ends a running consensus in order.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Notify>);

impl Stop {
    /// Asks for the end; [`Handle::join`] says when it is there.
    pub fn stop(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn stopped(&self) {
        self.0.notified().await;
    }
}
