//! The rules of Tally, a permissioned ledger of compute tokens: state, price,
//! proofs and the verifier.
//!
//! Everything here is a synchronous, deterministic function of its inputs
//! (I6): no clock, disk, network, randomness, float or hash map. Time is the
//! block's; iteration is over sorted data. Proposer, voter, syncing node,
//! offline verifier and simulator call the same functions.

#![deny(
    clippy::float_arithmetic,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod account;
pub mod action;
pub mod audit;
pub mod block;
pub mod certified;
pub mod checkpoint;
pub mod class;
pub mod codec;
pub mod consistency_file;
pub mod correction;
pub mod crypto;
pub mod debit;
pub mod entry;
pub mod evidence;
pub mod execute;
pub mod gateway;
pub mod genesis;
pub mod hash;
pub mod history;
pub mod ids;
pub mod merkle;
pub mod note;
pub mod parameters;
pub mod person;
pub mod price;
pub mod queue_order;
pub mod rates;
pub mod reason;
pub mod receipt;
pub mod receipts;
pub mod redacted;
pub mod snapshot;
pub mod state;
pub mod state_file;
pub mod state_proof;
pub mod tile;
pub mod tlog_proof;
pub mod transaction;
pub mod tree;
pub mod verify;
pub mod witness;
