//! The one trait between consensus and the node.
//!
//! Block bodies are opaque here: the application builds, executes and stores
//! them, consensus agrees on their ids. Every method is called by one task,
//! one call at a time; those that may touch a disk or execute a block
//! (`&mut self`) run on blocking threads.
//!
//! An error of any method is this machine's own fault (a disk, a diverged
//! state): consensus stops and hands it back from [`crate::Handle::join`]. It
//! never becomes a verdict on a block.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Instant};

use bytes::Bytes;
use tally_ledger::{
    block::{Certificate, ValidatorSet},
    crypto::ChainId,
    evidence::Evidence,
    hash::Hash,
    ids::{Height, Time},
};
use tokio::sync::Notify;

/// What consensus needs from the node.
pub trait Application: Send + 'static {
    /// The chain: part of every signed message.
    fn chain(&self) -> ChainId;

    /// The last height whose block and certificate are fsynced and applied;
    /// 0 after the genesis.
    fn committed(&self) -> Height;

    /// The validators of a height: asked for `history_min()` up to
    /// `committed() + 1`. Cheap, never empty, the same for ever.
    fn validators(&self, height: Height) -> ValidatorSet;

    /// Builds and executes a block on top of the committed state. The caller
    /// makes it durable. Never waits for work: an empty block is an answer.
    ///
    /// Asked at most once per height and round, also across restarts.
    fn propose(&mut self, slot: Slot, effort: Effort) -> Result<Candidate, Fatal>;

    /// The id of a body: what its header hashes to, if the rest of the body is
    /// what the header commits to; else `None`. So an id names one body, and a
    /// peer that puts a good header on another body is the one to blame.
    /// Nothing is executed.
    fn id(&self, body: &Bytes) -> Option<Hash>;

    /// The same of a body that is another form of a certified block, from
    /// which something was taken away since: it has an id only where a
    /// certificate for it is known, and is never proposed or voted for.
    /// Whether what it says instead is true shows when it is executed, so
    /// whoever sent one that is invalid is to blame for that; unless more
    /// validators did than may be faulty: then this node is.
    fn certified_id(&self, body: &Bytes) -> Option<Hash> {
        let _ = body;
        None
    }

    /// Executes a block on top of the committed state and says whether the
    /// header it carries is the result (I9). The answer depends on the body
    /// and the committed state alone, but for the clock test: that one is
    /// made only if `source` [asks for it](Source::clock_test).
    ///
    /// `slot.proposer` is who proposes in this round; it is the builder of
    /// the block only if the block was not proposed in an earlier round, so
    /// nothing may be refused for that difference.
    ///
    /// Results are worth keeping by id until the next commit:
    /// [`Self::commit`] follows for at most one of them.
    fn validate(&mut self, slot: Slot, body: &Bytes, source: Source) -> Result<Verdict, Fatal>;

    /// Makes a decided block part of the chain, and returns its time. Returns
    /// only after the block and its certificate are fsynced and the state is
    /// the one after it.
    ///
    /// Called once per height, in order, only for an id that `propose`
    /// returned or `validate` called valid since this process started, with a
    /// certificate that was verified against `validators(height)`.
    fn commit(&mut self, decision: Decision) -> Result<Time, Fatal>;

    /// Committed blocks of a range for a peer that catches up: from the first
    /// height on, without gaps, as many as exist and fit into `max_bytes`
    /// (but one at least), in the form in which `commit` got them.
    fn history(
        &mut self,
        range: RangeInclusive<Height>,
        max_bytes: usize,
    ) -> Result<Vec<Decision>, Fatal>;

    /// The first height that `history` can serve.
    fn history_min(&self) -> Height;

    /// What the wait before the next height depends on. Asked after each
    /// commit and after each [`Wake::wake`]; cheap.
    fn pace(&self) -> Pace;

    /// Validators signed two different messages for one step of the height
    /// that was just committed; each is verified against `validators(height)`.
    /// Bounded, and told once: what is not kept is lost with this process.
    fn evidence(&mut self, evidence: Vec<Evidence>) -> Result<(), Fatal>;
}

/// Where in the protocol a block is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The height: always `committed() + 1`.
    pub height: Height,
    /// The round.
    pub round: u32,
    /// Index of the round's proposer in `validators(height)`.
    pub proposer: u16,
}

/// How much a proposer may put into a block. After a block of its own that
/// was not decided it proposes an empty one, then half, then all again, so
/// that a block too heavy for the network cannot be proposed for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// All that fits.
    Full,
    /// Half of what fits; one transaction at least.
    Half,
    /// No transactions.
    Empty,
}

impl Effort {
    /// How much of something a block may take: of one, half is one, or what
    /// is alone would never get in.
    pub fn share(self, of: usize) -> usize {
        match self {
            Effort::Full => of,
            Effort::Half => of.div_ceil(2),
            Effort::Empty => 0,
        }
    }
}

/// A block to propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The id that is voted on.
    pub id: Hash,
    /// The block's canonical bytes.
    pub body: Bytes,
}

/// How a body came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the round's proposer, over the network, just now.
    Live {
        /// No such block was seen at this height before.
        first_seen: bool,
        /// The proof-of-lock round of the signed proposal, if that is known
        /// and verified already.
        pol_round: Option<u32>,
    },
    /// A block proposed in an earlier round, again.
    Restreamed,
    /// With a verified certificate, by value sync: it **is** part of the
    /// chain if its id is the certified one.
    Synced,
    /// From this node's own disk, after a restart.
    Replayed,
}

impl Source {
    /// Whether a certificate for the block is known, so that a form of it
    /// that has only a [certified id](Application::certified_id) will do. On
    /// this node's disk there is such a form only if it was judged before.
    pub fn is_certified(self) -> bool {
        matches!(self, Source::Synced | Source::Replayed)
    }

    /// Whether a block time more than 500 ms ahead of the own clock makes the
    /// block invalid. A block that others may already have voted for is never
    /// measured by this node's clock.
    pub fn clock_test(self) -> bool {
        matches!(
            self,
            Source::Live {
                first_seen: true,
                pol_round: None
            }
        )
    }
}

/// The answer on a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It executes to exactly what its header says, and the header's hash is
    /// the id that [`Application::id`] gives.
    Valid,
    /// It does not. The reason is for the log, and for the operator if it is
    /// certified all the same.
    Invalid(String),
}

impl Verdict {
    pub(crate) fn is_valid(&self) -> bool {
        matches!(self, Verdict::Valid)
    }
}

/// A decided block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its height.
    pub height: Height,
    /// Its id.
    pub id: Hash,
    /// Its canonical bytes.
    pub body: Bytes,
    /// A quorum of precommits, sorted by validator.
    pub certificate: Certificate,
}

/// When the next height may begin on this node.
///
/// A height begins at `latest`; or sooner, with `work`, but not before
/// `earliest`; or at once, when a peer shows that it is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// There is something to put into a block now.
    pub work: bool,
    /// Not before this, work or not.
    pub earliest: Option<Instant>,
    /// Not after this: the heartbeat, or a due step.
    pub latest: Instant,
}

/// Says to consensus that there is work now. Cheap to clone and to call.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// A new handle; give a clone to `start`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something changed that [`Application::pace`] reports.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for the next [`Self::wake`], or returns if one was missed.
    pub(crate) async fn woken(&self) {
        self.0.notified().await;
    }
}

/// A fault of this machine. It stops the node.
pub struct Fatal(Box<dyn std::error::Error + Send + Sync>);

impl Fatal {
    /// Wraps an error, or a text.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fatal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl From<std::io::Error> for Fatal {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}
