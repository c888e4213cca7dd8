//! What the test binaries of this workspace share: the naive oracle that the
//! real ledger is compared with, and the worlds that property tests run both
//! in.

#![allow(clippy::unwrap_used)]

pub mod compare;
pub mod oracle;
pub mod rfc9162;
pub mod sim;
pub mod world;
