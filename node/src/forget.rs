//! Forgetting: details of debits, with their salts, leave the block files of
//! this node for good. What stays is in [`tally_ledger::redacted`]: totals,
//! proofs and replay need nothing of what goes.
//!
//! Two things ask for it: an operator (`tally prune`), by class and age; and
//! the chain, when an account was erased. Neither touches what a legal hold
//! keeps. What is done is in `privacy.log`.

pub mod erasures;
pub mod holds;
pub mod journal;
pub mod rule;
pub mod sweep;
pub mod sweeper;

pub use erasures::{Erasure, Erasures};
pub use holds::{Hold, Holds, HoldsFile};
pub use journal::Journal;
pub use rule::Rule;
pub use sweep::{Sweep, SweepError, Swept};
pub use sweeper::Sweeper;
