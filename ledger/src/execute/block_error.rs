//! Why a block is not valid on a state. Where a quorum has certified the
//! block all the same, this is what an operator gets to see of how this node
//! differs from the others: so it says what the header has and what execution
//! makes it here.

use crate::{hash::Hash, reason::Reason, transaction::TransactionId};

/// Why a block is not valid on a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A field of the header that is known before execution.
    #[error("the header's {0} is wrong")]
    Header(&'static str),
    /// The body is larger than the parameters allow.
    #[error("{0} bytes, more than the largest block")]
    TooLarge(usize),
    /// More debits than the parameters allow.
    #[error("{0} debits, more than in the largest block")]
    TooManyDebits(u64),
    /// A transaction is refused.
    #[error("transaction {index}, {id}, is refused: {reason}")]
    Refused {
        /// Which, from 0.
        index: usize,
        /// Its id.
        id: TransactionId,
        /// Why.
        reason: Reason,
    },
    /// A root over what the body and the state before determine.
    #[error("the header's {name} is {header}, execution makes it {made}")]
    Root {
        /// Which.
        name: &'static str,
        /// As the header has it.
        header: Hash,
        /// As execution makes it.
        made: Hash,
    },
    /// The block has more or fewer entries. A header does not say which: the
    /// first that differs is found by comparing logs from `first` on.
    #[error(
        "the header's log size is {header}, execution makes it {made}; the first entry that \
         differs is {first} or one after it"
    )]
    LogSize {
        /// Index of the block's first entry.
        first: u64,
        /// As the header has it.
        header: u64,
        /// As execution makes it.
        made: u64,
    },
    /// The block's entries are as many, and not the same.
    #[error(
        "the header's log root is {header}, execution makes it {made}; the first entry that \
         differs is one of {first} to {last}"
    )]
    LogRoot {
        /// Index of the block's first entry.
        first: u64,
        /// Index of its last one.
        last: u64,
        /// As the header has it.
        header: Hash,
        /// As execution makes it.
        made: Hash,
    },
}
