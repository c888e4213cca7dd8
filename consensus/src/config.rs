//! What a node configures. None of it is relevant to consensus: two nodes
//! with different values here still agree on every block.

use std::{path::PathBuf, time::Duration};

use libp2p::{Multiaddr, PeerId, identity};
use tally_ledger::crypto::{PublicKey, SecretKey};

use crate::gossip::Direct;

/// Consensus of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name in logs and metrics; unique within a process.
    pub moniker: String,
    /// Where to listen for the other validators, `/ip4/../tcp/..`.
    pub listen: Multiaddr,
    /// The other validators, `/ip4/../tcp/../p2p/<peer id>`. Nobody else may
    /// connect.
    pub peers: Vec<Multiaddr>,
    /// Folder of `consensus.wal`, `guard` and `undecided`.
    pub home: PathBuf,
    /// Streams to all validators, for votes, proposals and bodies; where they
    /// do not reach all, and without them, messages go by gossipsub.
    pub direct: Option<Direct>,
    /// How long the steps of a round wait.
    pub timeouts: Timeouts,
    /// The largest body.
    pub max_block_bytes: usize,
    /// How wrong the clocks of honest validators may be, at most: a node
    /// without a guard file observes until the chain is this far past its
    /// start.
    pub max_clock_error: Duration,
}

impl Config {
    /// The usual values.
    pub fn new(moniker: &str, listen: Multiaddr, peers: Vec<Multiaddr>, home: PathBuf) -> Self {
        Self {
            moniker: moniker.to_owned(),
            listen,
            peers,
            home,
            direct: None,
            timeouts: Timeouts::default(),
            max_block_bytes: 4 << 20,
            max_clock_error: Duration::from_secs(15 * 60),
        }
    }
}

/// How long the steps of round r wait: base + r * step, 10 s at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the proposal.
    pub propose: Duration,
    /// More of it per round.
    pub propose_step: Duration,
    /// For the votes, after the first quorum of mixed ones.
    pub vote: Duration,
    /// More of it per round.
    pub vote_step: Duration,
    /// Between repetitions of the own last vote.
    pub rebroadcast: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            propose: Duration::from_secs(1),
            propose_step: Duration::from_millis(300),
            vote: Duration::from_millis(500),
            vote_step: Duration::from_millis(100),
            rebroadcast: Duration::from_secs(2),
        }
    }
}

/// The keys that consensus uses.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Signs votes, proposals and the peer proof.
    pub consensus: SecretKey,
    /// Identity of the transport.
    pub network: SecretKey,
}

impl Keys {
    /// The transport's key pair.
    pub(crate) fn keypair(&self) -> identity::Keypair {
        keypair(&self.network)
    }

    /// The transport's peer id.
    pub fn peer_id(&self) -> PeerId {
        self.keypair().public().to_peer_id()
    }
}

/// A transport key pair of our key.
pub(crate) fn keypair(key: &SecretKey) -> identity::Keypair {
    identity::Keypair::ed25519_from_bytes(key.seed()).expect("a seed has 32 bytes")
}

/// The peer id of a network key, `None` if that is no curve point.
pub fn peer_id(key: &PublicKey) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(&key.0).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}
