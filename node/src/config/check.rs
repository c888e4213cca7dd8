//! Why a configuration cannot be used: all that can be checked before anything
//! is opened.

use std::{net::SocketAddr, path::PathBuf};

use tally_consensus::peer_id;
use tally_ledger::crypto::PublicKey;

use super::{Listen, NodeConfig, witness};

/// Largest `rpc.history_entries`: a whole block of one subject fits behind it
/// into a history file.
const MOST_HISTORY_ENTRIES: u64 = 50_000;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {why}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// `name` must have 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
    #[error("`name` must have 1 to 64 characters of a-z, A-Z, 0-9, '.', '_' and '-'")]
    Name,
    /// Without TLS, gRPC must listen on loopback.
    #[error("listen.grpc {0} is not on loopback: set [tls], or listen on 127.0.0.1")]
    PlainRemote(SocketAddr),
    /// The metrics have no access control.
    #[error("listen.http {0} must be on loopback")]
    HttpRemote(SocketAddr),
    /// Two listeners cannot share an address.
    #[error("{0} is used twice")]
    Twice(SocketAddr),
    /// A peer's key is no key, or another peer's.
    #[error("peer {name}: network_key {key} {why}")]
    Peer {
        /// Which.
        name: String,
        /// Its key.
        key: PublicKey,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A setting that is gone.
    #[error(
        "rpc.allow_remote_audit is gone: remote callers are answered when they log in; take it \
         out, or set rpc.login = \"none\" for what it did"
    )]
    RemoteAudit,
    /// A witness's address is none, its key does not cosign, or is another's.
    #[error("witness {name}: {why}")]
    Witness {
        /// Which.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A number is out of its range.
    #[error("{name} must be between {min} and {max}")]
    Range {
        /// Which.
        name: &'static str,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
}

impl NodeConfig {
    /// Checks everything that can be checked before anything is opened.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(known) {
            return Err(ConfigError::Name);
        }
        self.validate_listeners()?;
        self.validate_peers()?;
        if self.rpc.allow_remote_audit {
            return Err(ConfigError::RemoteAudit);
        }
        witness::validate(&self.witness)?;
        self.validate_ranges()
    }

    fn validate_ranges(&self) -> Result<(), ConfigError> {
        let ranges: [(&'static str, u64, u64, u64); 17] = [
            (
                "checkpoint.period_ms",
                self.checkpoint.period_ms,
                100,
                24 * 3600 * 1000,
            ),
            (
                "rpc.max_message_bytes",
                self.rpc.max_message_bytes as u64,
                4 << 20,
                64 << 20,
            ),
            ("rpc.max_waiting", self.rpc.max_waiting as u64, 1, 1 << 20),
            ("rpc.max_watches", self.rpc.max_watches as u64, 1, 1 << 16),
            (
                "rpc.max_watches_per_caller",
                self.rpc.max_watches_per_caller as u64,
                1,
                1 << 16,
            ),
            ("rpc.watch_stall_s", self.rpc.watch_stall_s, 1, 3_600),
            ("rpc.watch_buffer", self.rpc.watch_buffer as u64, 1, 1 << 16),
            ("rpc.max_histories", self.rpc.max_histories as u64, 1, 64),
            (
                "rpc.history_entries",
                self.rpc.history_entries as u64,
                1,
                MOST_HISTORY_ENTRIES,
            ),
            (
                "rpc.receipt_blocks",
                self.rpc.receipt_blocks as u64,
                1,
                MOST_HISTORY_ENTRIES,
            ),
            (
                "access_log.file_bytes",
                self.access_log.file_bytes,
                1 << 10,
                1 << 30,
            ),
            ("access_log.files", self.access_log.files as u64, 1, 1 << 12),
            (
                "mempool.max_transactions",
                self.mempool.max_transactions as u64,
                16,
                1 << 22,
            ),
            (
                "mempool.max_bytes",
                self.mempool.max_bytes as u64,
                8 << 20,
                8 << 30,
            ),
            (
                "storage.snapshot_every",
                self.storage.snapshot_every,
                1,
                1 << 32,
            ),
            (
                "storage.segment_bytes",
                self.storage.segment_bytes,
                1 << 10,
                1 << 31,
            ),
            (
                "storage.index_segment_entries",
                self.storage.index_segment_entries,
                16,
                1 << 26,
            ),
        ];
        match ranges
            .into_iter()
            .find(|(_, value, min, max)| value < min || value > max)
        {
            Some((name, _, min, max)) => Err(ConfigError::Range { name, min, max }),
            None => Ok(()),
        }
    }

    fn validate_listeners(&self) -> Result<(), ConfigError> {
        let Listen {
            consensus,
            gossip,
            grpc,
            http,
        } = self.listen;
        if !http.ip().is_loopback() {
            return Err(ConfigError::HttpRemote(http));
        }
        if !grpc.ip().is_loopback() && self.tls.is_none() {
            return Err(ConfigError::PlainRemote(grpc));
        }
        let all = [consensus, gossip, grpc, http];
        let twice = (0..all.len()).find(|&i| all[i].port() != 0 && all[..i].contains(&all[i]));
        twice.map_or(Ok(()), |i| Err(ConfigError::Twice(all[i])))
    }

    fn validate_peers(&self) -> Result<(), ConfigError> {
        for (i, peer) in self.peers.iter().enumerate() {
            let why = if peer_id(&peer.network_key).is_none() {
                "is no ed25519 key"
            } else if self.peers[..i]
                .iter()
                .any(|other| other.network_key == peer.network_key)
            {
                "is another peer's"
            } else {
                continue;
            };
            let (name, key) = (peer.name.clone(), peer.network_key);
            return Err(ConfigError::Peer { name, key, why });
        }
        Ok(())
    }
}
