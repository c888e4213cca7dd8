//! Where a node listens, and the validators that it speaks with.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use tally_consensus::{Multiaddr, peer_id};
use tally_ledger::crypto::PublicKey;

use super::NodeConfig;

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

impl NodeConfig {
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
