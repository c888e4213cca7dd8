//! A node's own configuration, `config.toml` in its home. Nothing in it
//! matters to consensus: that is in the genesis, or changed by transactions.
//!
//! [`NodeConfig::validate`] checks all that can be checked before anything is
//! opened.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tally_consensus::{Multiaddr, peer_id};
use tally_ledger::crypto::PublicKey;

mod witness;

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

/// Addresses to listen on. Port 0: any free one (for trials).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Votes and blocks, from the other validators.
    pub consensus: SocketAddr,
    /// Transactions, and what consensus sends directly, from the other
    /// validators.
    pub gossip: SocketAddr,
    /// gRPC, from clients.
    pub grpc: SocketAddr,
    /// `/metrics`, `/healthz`, `/checkpoint` and `/tile`; loopback only.
    pub http: SocketAddr,
}

/// Another validator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Identity of its transport, as in the genesis.
    pub network_key: PublicKey,
    /// Where it listens for votes and blocks.
    pub consensus: SocketAddr,
    /// Where it listens for transactions.
    pub gossip: SocketAddr,
}

/// TLS of the gRPC listener. Paths are relative to the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate chain.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authority that clients' certificates must be from;
    /// without, clients need none. A certificate whose subject's common name
    /// is a caller (`person:3`) and whose key is that caller's on the chain is
    /// its login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Clients without a certificate are let in too; they may log in by JWT.
    #[serde(default)]
    pub client_optional: bool,
}

/// Who has to log in before the Audit service answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginOf {
    /// Callers that are not on this machine. Those on loopback read all: who
    /// has a shell here has the files too.
    #[default]
    Remote,
    /// All callers: for a machine with other users, or with something on it
    /// that passes on connections from elsewhere.
    All,
    /// Nobody: whoever reaches the port reads all.
    None,
}

/// How votes, proposals and bodies spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// From each validator straight to each other one while all are reached,
    /// else by gossipsub.
    #[default]
    Direct,
    /// Always by gossipsub, which every validator passes on.
    Gossipsub,
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

/// Largest `rpc.history_entries`: a whole block of one subject fits behind it
/// into a history file.
const MOST_HISTORY_ENTRIES: u64 = 50_000;

/// What the gRPC services allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rpc {
    /// Who has to log in.
    pub login: LoginOf,
    /// The name that `login = "none"` once had; false is read and means
    /// nothing.
    #[serde(skip_serializing)]
    pub allow_remote_audit: bool,
    /// Largest request, in bytes.
    pub max_message_bytes: usize,
    /// Calls that may wait for finality at the same time.
    pub max_waiting: usize,
    /// Watches that may be open at the same time.
    pub max_watches: usize,
    /// Of one caller that logged in, or of one address beyond loopback.
    pub max_watches_per_caller: usize,
    /// Seconds after which a watcher that takes nothing is dropped.
    pub watch_stall_s: u64,
    /// Blocks that a watcher may lag behind before it is dropped.
    pub watch_buffer: usize,
    /// Histories that may be gathered at the same time; each takes about a
    /// second of a processor at most, which validating needs too.
    pub max_histories: usize,
    /// Entries of a history file, unless one block alone has more.
    pub history_entries: usize,
    /// Blocks whose receipts one file may have with their details: each is
    /// read and decoded whole.
    pub receipt_blocks: usize,
}

impl Default for Rpc {
    fn default() -> Self {
        Self {
            login: LoginOf::Remote,
            allow_remote_audit: false,
            max_message_bytes: 5 << 20,
            max_waiting: 4096,
            max_watches: 256,
            max_watches_per_caller: 8,
            watch_stall_s: 60,
            watch_buffer: 256,
            max_histories: 2,
            history_entries: 10_000,
            receipt_blocks: 1_000,
        }
    }
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

    /// The peers' addresses for consensus.
    pub fn consensus_peers(&self) -> Vec<Multiaddr> {
        self.addresses(|peer| peer.consensus)
    }

    /// The peers' addresses for gossip.
    pub fn gossip_peers(&self) -> Vec<Multiaddr> {
        self.addresses(|peer| peer.gossip)
    }

    fn addresses(&self, address: impl Fn(&Peer) -> SocketAddr) -> Vec<Multiaddr> {
        let of = |peer: &Peer| {
            let id = peer_id(&peer.network_key)?;
            format!("{}/p2p/{id}", multiaddr(address(peer)))
                .parse()
                .ok()
        };
        self.peers.iter().filter_map(of).collect()
    }
}

/// A TCP address as libp2p writes it.
pub fn multiaddr(address: SocketAddr) -> Multiaddr {
    let family = if address.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{family}/{}/tcp/{}", address.ip(), address.port())
        .parse()
        .expect("an IP address and a port make a multiaddr")
}

#[cfg(test)]
mod tests {
    use tally_ledger::crypto::SecretKey;

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
