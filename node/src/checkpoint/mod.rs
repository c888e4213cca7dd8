//! Checkpoints of the log, for outsiders (C2SP): this validator signs the
//! head of its log at the first block of every period of block time, gathers
//! the other validators' signatures, hands the whole to witnesses, and serves
//! it with the log's tiles.
//!
//! What it guarantees: a head is signed only after its block is durable, and
//! after the signature has been written down and fsynced; never two different
//! ones of one size, never one that does not continue the last. What is
//! served has a quorum of signatures and is the beginning of this node's log.
//! Consensus does not wait for any of it, and nothing of it is in the chain.

mod board;
mod files;
mod head;
mod pages;
mod run;
mod shown;
mod submit;

pub(crate) use board::Settings;
pub use board::{Board, CheckpointFault};
pub use pages::home_tile;
pub(crate) use pages::pages;
pub(crate) use run::run;
pub(crate) use submit::Submitter;
