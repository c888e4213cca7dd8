//! A node's own configuration, `config.toml` in its home. Nothing in it
//! matters to consensus: that is in the genesis, or changed by transactions.
//!
//! [`NodeConfig::validate`] checks all that can be checked before anything is
//! opened.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

mod check;
mod network;
mod rpc;
mod witness;

pub use check::ConfigError;
pub use network::{Listen, Peer, Spread, Tls, multiaddr};
pub use rpc::{LoginOf, Rpc};
pub use witness::{Checkpoints, Witness};

/// All of `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's name in logs and metrics; unique among the validators.
    pub name: String,
    /// Addresses to listen on.
    pub listen: Listen,
    /// Certificate of the gRPC listener; without, it is plain and must be on
    /// loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How votes, proposals and bodies spread.
    #[serde(default)]
    pub spread: Spread,
    /// What this node does beside voting.
    #[serde(default)]
    pub consensus: Consensus,
    /// What the gRPC services allow.
    #[serde(default)]
    pub rpc: Rpc,
    /// The log of who asked for what.
    #[serde(default)]
    pub access_log: AccessConfig,
    /// Bounds of the transactions that wait for a block.
    #[serde(default)]
    pub mempool: MempoolConfig,
    /// Files.
    #[serde(default)]
    pub storage: Storage,
    /// Days for which the details of each class, by its name, are kept by
    /// `tally prune --by-retention`; a class that is not here is not pruned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retention: BTreeMap<String, u32>,
    /// Checkpoints of the log.
    #[serde(default)]
    pub checkpoint: Checkpoints,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// Outside parties that are asked to cosign checkpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witness: Vec<Witness>,
    /// The other validators. Nobody else may connect.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// What this node does beside voting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Consensus {
    /// Put on the chain what validators were seen to sign twice. A validator
    /// of a build that does not know Evidence takes a block with it for
    /// invalid: so it is off where it is missing, in homes of such builds,
    /// and on in homes that are made now.
    pub report_evidence: bool,
}

/// Bounds of the log of who asked for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// A file is closed when it has as many bytes.
    pub file_bytes: u64,
    /// Files that are kept.
    pub files: usize,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            file_bytes: 16 << 20,
            files: 16,
        }
    }
}

/// Bounds of the transactions that wait for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MempoolConfig {
    /// Most transactions.
    pub max_transactions: usize,
    /// Most bytes.
    pub max_bytes: usize,
    /// Most transactions of one author.
    pub max_per_author: usize,
    /// Most bytes of one author.
    pub max_bytes_per_author: usize,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self {
            max_transactions: 20_000,
            max_bytes: 64 << 20,
            max_per_author: 2_048,
            max_bytes_per_author: 32 << 20,
        }
    }
}

/// Files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// A snapshot of the state is written at every multiple of this height.
    pub snapshot_every: u64,
    /// Snapshots that are kept.
    pub snapshots_kept: usize,
    /// A block file is closed when it is larger than this.
    pub segment_bytes: u64,
    /// Entries of a sealed index segment.
    pub index_segment_entries: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            snapshot_every: 1_000,
            snapshots_kept: 2,
            segment_bytes: 64 << 20,
            index_segment_entries: 1 << 20,
        }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// One JSON object per line instead of text.
    pub json: bool,
    /// Filter in the syntax of `RUST_LOG`, which overrides it.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            json: false,
            filter: "info,arc_malachitebft=warn,informalsystems_malachitebft=warn,\
                     libp2p=warn,libp2p_gossipsub=error,libp2p_swarm=warn"
                .into(),
        }
    }
}

impl NodeConfig {
    /// The usual values, with these addresses.
    pub fn new(name: &str, listen: Listen, peers: Vec<Peer>) -> Self {
        Self {
            name: name.to_owned(),
            listen,
            tls: None,
            spread: Spread::default(),
            consensus: Consensus {
                report_evidence: true,
            },
            rpc: Rpc::default(),
            access_log: AccessConfig::default(),
            mempool: MempoolConfig::default(),
            storage: Storage::default(),
            retention: BTreeMap::new(),
            checkpoint: Checkpoints::default(),
            log: Log::default(),
            witness: Vec::new(),
            peers,
        }
    }

    /// Reads and validates a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError::File {
            path: path.into(),
            error,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::Form {
            path: path.into(),
            why: error.to_string(),
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain values have a text")
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tally_consensus::peer_id;
    use tally_ledger::crypto::{PublicKey, SecretKey};

    use super::*;

    fn config() -> NodeConfig {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let listen = Listen {
            consensus: at(1),
            gossip: at(2),
            grpc: at(3),
            http: at(4),
        };
        let peer = |seed: u8| Peer {
            name: format!("v{seed}"),
            network_key: SecretKey::from_seed(&[seed; 32]).public(),
            consensus: at(5),
            gossip: at(6),
        };
        NodeConfig::new("v0", listen, vec![peer(1), peer(2)])
    }

    #[test]
    fn the_file_reads_back_and_unknown_fields_are_refused() {
        let config = config();
        config.validate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, config.to_toml()).unwrap();
        assert_eq!(NodeConfig::read(&path).unwrap(), config);
        fs::write(&path, format!("colour = 1\n{}", config.to_toml())).unwrap();
        let error = NodeConfig::read(&path).unwrap_err().to_string();
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_reason() {
        let remote = SocketAddr::from(([10, 0, 0, 1], 3));
        let check = |change: &dyn Fn(&mut NodeConfig), wanted: &str| {
            let mut config = config();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        };
        check(&|c| c.name = "a b".into(), "`name`");
        check(&|c| c.listen.grpc = remote, "set [tls]");
        check(&|c| c.listen.http = remote, "loopback");
        check(&|c| c.listen.http = c.listen.grpc, "used twice");
        check(&|c| c.peers[1] = c.peers[0].clone(), "another peer's");
        check(
            &|c| c.peers[0].network_key = PublicKey([2; 32]),
            "no ed25519 key",
        );
        check(&|c| c.rpc.max_message_bytes = 0, "max_message_bytes");
    }

    #[test]
    fn with_tls_grpc_may_be_remote() {
        let mut config = config();
        config.listen.grpc = SocketAddr::from(([10, 0, 0, 1], 3));
        let (certificate, key) = ("tls.crt".into(), "tls.key".into());
        config.tls = Some(Tls {
            certificate,
            key,
            client_ca: None,
            client_optional: false,
        });
        config.validate().unwrap();
    }

    #[test]
    fn homes_of_before_are_read_and_what_opened_them_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let text = config().to_toml();
        assert!(text.contains("login = \"remote\"") && !text.contains("allow_remote_audit"));
        let with = |value: &str| {
            let old = format!("[rpc]\nallow_remote_audit = {value}");
            fs::write(&path, text.replace("[rpc]", &old)).unwrap();
            NodeConfig::read(&path)
        };
        assert_eq!(with("false").unwrap(), config());
        let error = with("true").unwrap_err().to_string();
        assert!(error.contains("rpc.login = \"none\""), "{error}");
    }

    #[test]
    fn peers_become_addresses_with_their_ids() {
        let config = config();
        let id = peer_id(&config.peers[0].network_key).unwrap();
        let addresses = config.consensus_peers();
        assert_eq!(
            addresses[0].to_string(),
            format!("/ip4/127.0.0.1/tcp/5/p2p/{id}")
        );
        assert_eq!(config.gossip_peers().len(), 2);
    }
}
