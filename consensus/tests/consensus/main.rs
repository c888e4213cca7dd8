//! Consensus over loopback, in this process. One program for all, so that it
//! is linked once; what changes the process itself is in `full_disk.rs`.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

#[path = "../common/mod.rs"]
mod common;
mod direct;
mod diverged;
mod engine;
mod gossip;
mod solo;
