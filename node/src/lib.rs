//! The validator node of Tally: storage, mempool, the application that
//! consensus drives, gRPC, metrics. The commands of the binary are beside it.
//!
//! What is true is in the block files: everything else on disk can be
//! rebuilt from them. Nothing follows from a decision before its block and
//! certificate are fsynced. A fault of this machine stops the process and
//! never becomes a refusal.

pub mod access_log;
pub mod application;
pub mod chain;
pub mod checkpoint;
pub mod config;
pub mod forget;
pub mod health;
pub mod home;
pub mod http;
pub mod mempool;
pub mod metrics;
pub mod node;
pub mod refusals;
pub mod rpc;
pub mod run;
pub mod signatures;
mod statvfs;
pub mod storage;
pub mod store;
pub mod testimony;
pub mod verify;
pub mod view;
pub mod web;
pub mod witness;

pub use home::Home;
pub use run::{Engine, NodeError, RunningNode, run_node};
