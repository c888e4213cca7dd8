//! Nodes with their real services, in this process unless a disk or a limit
//! asks for one of their own. One program for all, so that it is linked once.
#![allow(clippy::unwrap_used)]

mod access;
mod auditors;
mod checkpoints;
#[path = "../cli_common/mod.rs"]
mod cli_common;
mod equivocator;
mod four;
mod full_disk;
mod histories;
mod net;
mod privacy;
mod receipts;
mod solo;
mod testimony;
mod verify;
mod watchers;
