//! What engine, host and world tell each other, in order and whole: the
//! queues of the simulation carry nothing else.

use std::{ops::RangeInclusive, sync::LazyLock, time::Duration};

use bytes::Bytes;
use malachitebft_app_channel::app::{
    consensus::{Error, Input, MisbehaviorEvidence},
    streaming::StreamMessage,
    types::PeerId,
};
use malachitebft_core_types::{
    CommitCertificate, Context, HeightParams, Round, Timeout, ValueResponse, VoteExtensions,
};
use tally_consensus::{
    codec::Wire,
    context::{Address, Engine as Ctx, Height, Part},
};

/// How messages are written.
pub const WIRE: Wire = Wire {
    max_response: 48 << 20,
};

/// A message between nodes, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A vote or proposal.
    Consensus(Bytes),
    /// A repeated vote, or a certificate.
    Liveness(Bytes),
    /// A piece of a body.
    Part(Bytes),
    /// What a node has.
    Status(Bytes),
    /// Asks for blocks.
    Request(Bytes),
    /// Blocks.
    Response(Bytes),
    /// A transaction.
    Transaction(Bytes),
}

/// What a node wants of the world.
#[derive(Debug)]
pub enum Out {
    /// To all others; `cut` short by a crash.
    All(Packet, bool),
    /// To one.
    One(usize, Packet),
    /// To be told when the time has come.
    Timer(u64, Timeout, u64),
}

/// For the host, in order.
#[allow(clippy::large_enum_variant, reason = "queues are short")]
pub enum Ask {
    /// Build a value.
    GetValue(Height, Round, Duration),
    /// Stream a body again.
    Restream(Height, Round, Round, Address, <Ctx as Context>::Value),
    /// Commit.
    Decided(CommitCertificate<Ctx>, VoteExtensions<Ctx>),
    /// The height is done.
    Finalized(
        CommitCertificate<Ctx>,
        VoteExtensions<Ctx>,
        MisbehaviorEvidence<Ctx>,
    ),
    /// A piece of a body came.
    Part(PeerId, StreamMessage<Part>),
    /// A block with a verified certificate came.
    Synced(ValueResponse<Ctx>, Address),
    /// Somebody asks for blocks.
    History(usize, RangeInclusive<Height>),
}

/// For the core, in order.
#[allow(clippy::large_enum_variant, reason = "queues are short")]
pub enum Tell {
    /// An input.
    Input(Input<Ctx>),
    /// The next height.
    Start(Height, HeightParams<Ctx>),
}

/// Why an effect was not carried out; what it says is known elsewhere.
#[derive(Debug)]
pub struct Cut;

impl From<Error<Ctx>> for Cut {
    fn from(_: Error<Ctx>) -> Self {
        Cut
    }
}

/// Shows what happens, if `TALLY_SIM_TRACE` is set.
pub fn show(what: impl FnOnce() -> String) {
    static SHOWN: LazyLock<bool> = LazyLock::new(|| std::env::var_os("TALLY_SIM_TRACE").is_some());
    if *SHOWN {
        let text: String = what().chars().take(300).collect();
        println!("{text}");
    }
}
