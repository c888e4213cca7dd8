//! Why a gateway does not start, or stops. Each names what the operator must
//! do.

use std::{io, path::PathBuf};

use tally_ledger::{ids::GatewayNumber, reason::Reason};

use crate::{chain::ChainError, config::ConfigError, journal::start::StartError};

/// A local fault, or one that only people can mend.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A reload would change what only a start takes.
    #[error("{0}: only a restart changes that")]
    Fixed(String),
    /// A file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another process uses this home.
    #[error("{0} is in use by another gateway process")]
    InUse(PathBuf),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// No threads to serve with.
    #[error("cannot start threads: {0}; allow this process more of them")]
    Threads(io::Error),
    /// One of them has ended by itself, which it never should.
    #[error("a thread that serves has ended; see the log for why, and start again")]
    Lost,
    /// The key is not the registered one.
    #[error("the key file is not the key of gateway {0} on this chain")]
    NotOurs(GatewayNumber),
    /// The ledger will not open the journal.
    #[error("the ledger refuses to open the journal: {0}")]
    NotOpened(Reason),
    /// The journal's directory is another gateway's, or of another chain.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The journal cannot be read or written.
    #[error("journal: {0}; free or replace the disk and start again")]
    Journal(io::Error),
    /// See the variant.
    #[error(transparent)]
    Chain(#[from] ChainError),
}
