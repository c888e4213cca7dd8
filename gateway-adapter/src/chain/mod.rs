//! The gateway's view of the chain: a light client of two nodes or more.
//!
//! - [`nodes`]: calls, the preferred node first.
//! - [`light`]: what is believed: certified headers and leaves proven under
//!   them, never older than what is believed already.
//! - [`follow`]: every control entry after the header at which the gateway
//!   started, contiguous by number and proven; the alarm when no header comes.
//! - [`fleet`]: which gateways share the chain's limits.
//! - [`receipts`]: receipts with their proofs, for who asks for its own.
//! - [`debits`], [`leases`]: what the gateway writes; `returns` gives leases
//!   back.

pub mod debits;
pub mod fleet;
pub mod follow;
pub mod leases;
pub mod light;
pub mod nodes;
pub mod opening;
pub mod receipts;
mod returns;
pub mod sign;
pub mod terms;

use tally_ledger::{
    ids::{DebitNumber, LeaseNumber},
    reason::{Reason, Retry},
};

/// Whether a refusal is final: not one that a node gives because it is behind.
fn is_final(reason: Reason) -> bool {
    reason.retry() == Retry::Never && reason != Reason::JournalNotCurrent
}

/// Why something about the chain is not known now, or cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A node's address is no address.
    #[error("node {address}: {why}")]
    Address {
        /// As configured.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// No node answers, or none with something new enough. Try again.
    #[error("no node answers: {0}")]
    Unreachable(String),
    /// A node sent what it could not prove.
    #[error("a node's answer does not hold: {0}")]
    Unproven(String),
    /// The validators are not those of the genesis any more.
    #[error("the validator set has changed; this version follows the genesis's only")]
    ValidatorsChanged,
    /// The journal is not the gateway's current one.
    #[error("another journal was opened for this gateway: two processes with one key?")]
    Fenced,
    /// The chain's word about our journal cannot be true of it.
    #[error(transparent)]
    Diverged(#[from] crate::journal::Diverged),
    /// The debits cannot be taken: nothing behind them can be either.
    #[error(
        "the ledger refuses the debits from number {first} on for good ({reason}): keep the journal, open no new one; \
         see whether nodes, genesis and version are the right ones, then start again"
    )]
    DebitsRefused {
        /// The first of the batch.
        first: DebitNumber,
        /// Why.
        reason: Reason,
    },
    /// The Lease cannot be taken, and no later one can be without it.
    #[error(
        "the ledger refuses lease {number} for good ({reason}): see whether nodes, genesis and version are the right \
         ones, then start again"
    )]
    LeaseRefused {
        /// Which.
        number: LeaseNumber,
        /// Why.
        reason: Reason,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalFailed),
}

impl ChainError {
    /// Whether the gateway must stop: going on could double or lose money.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            ChainError::Fenced
                | ChainError::Diverged(_)
                | ChainError::Journal(_)
                | ChainError::ValidatorsChanged
                | ChainError::DebitsRefused { .. }
                | ChainError::LeaseRefused { .. }
        )
    }
}
