//! Gossip of transactions among the validators: opaque bytes, pushed by the
//! node that got them to every other one, over a libp2p network of our own
//! (TCP, Noise, Yamux).
//!
//! The validators are few and form a full mesh, so nobody forwards. A push
//! carries whatever is queued for the peer, up to a bound, in order, and is
//! acknowledged only when the receiver's node has taken it: a slow node slows
//! what is sent to it, and what does not fit its queue is dropped and
//! counted. Losing a transaction here costs a round trip, not the
//! transaction: its sender repeats it. After a reconnection nothing is
//! replayed; a node may publish again what it still holds.
//!
//! Peers are known by their peer ids; all others are refused.

mod batch;
mod seen;
mod swarm;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use tally_ledger::crypto::SecretKey;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::handle::Stop;

/// What the gossip network needs.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// Where to listen, `/ip4/../tcp/..`.
    pub listen: Multiaddr,
    /// The other validators, `/ip4/../tcp/../p2p/<peer id>`.
    pub peers: Vec<Multiaddr>,
    /// The largest transaction.
    pub max_message: usize,
    /// The most bytes that wait for one peer.
    pub max_queued: usize,
    /// How often a lost peer is dialled.
    pub redial: Duration,
}

impl GossipConfig {
    /// The usual values.
    pub fn new(listen: Multiaddr, peers: Vec<Multiaddr>) -> Self {
        Self {
            listen,
            peers,
            max_message: 4 << 20,
            max_queued: 32 << 20,
            redial: Duration::from_millis(500),
        }
    }
}

/// Why gossip cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// A peer's address does not end in `/p2p/<peer id>`.
    #[error("the address {0} does not end in /p2p/<peer id>")]
    NoPeerId(Multiaddr),
    /// The transport cannot be made.
    #[error("the transport cannot be set up: {0}")]
    Transport(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why.
        why: String,
    },
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    published: AtomicU64,
    received: AtomicU64,
    duplicates: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
    peers: AtomicUsize,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// What happened so far; counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GossipCounts {
    /// Transactions taken from this node.
    pub published: u64,
    /// Transactions handed to this node.
    pub received: u64,
    /// Transactions that came again.
    pub duplicates: u64,
    /// Transactions not sent to some peer, for want of room or connection.
    pub dropped: u64,
    /// Connections of unknown peers.
    pub refused: u64,
    /// Peers connected now.
    pub peers: usize,
}

/// The handle of a running gossip network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gossip {
    outgoing: mpsc::Sender<Bytes>,
    max_message: usize,
    counters: Arc<Counters>,
    listening: watch::Receiver<Option<Multiaddr>>,
    stop: Stop,
}

/// Transactions from other nodes, each with the peer that sent it.
pub type Incoming = mpsc::Receiver<(PeerId, Bytes)>;

/// Starts the gossip network: its handle, what comes in, and its task.
pub fn start(
    config: GossipConfig,
    key: &SecretKey,
) -> Result<(Gossip, Incoming, JoinHandle<()>), GossipError> {
    let counters = Arc::new(Counters::default());
    let (outgoing, from_node) = mpsc::channel(4096);
    let (to_node, incoming) = mpsc::channel(4096);
    let (tell, listening) = watch::channel(None);
    let stop = Stop::default();
    let max_message = config.max_message;
    let mesh = swarm::Mesh::new(config, key, counters.clone(), to_node, tell)?;
    let task = tokio::spawn(mesh.run(from_node, stop.clone()));
    let gossip = Gossip {
        outgoing,
        max_message,
        counters,
        listening,
        stop,
    };
    Ok((gossip, incoming, task))
}

impl Gossip {
    /// Sends a transaction to all peers. `false`: it was too large, or too
    /// many are waiting; it was dropped and counted.
    pub fn publish(&self, transaction: Bytes) -> bool {
        let fits = transaction.len() <= self.max_message;
        let taken = fits && self.outgoing.try_send(transaction).is_ok();
        add(
            if taken {
                &self.counters.published
            } else {
                &self.counters.dropped
            },
            1,
        );
        taken
    }

    /// As [`Self::publish`], but waits for room.
    pub async fn publish_all(&self, transactions: impl IntoIterator<Item = Bytes>) {
        for transaction in transactions {
            let fits = transaction.len() <= self.max_message;
            let taken = fits && self.outgoing.send(transaction).await.is_ok();
            add(
                if taken {
                    &self.counters.published
                } else {
                    &self.counters.dropped
                },
                1,
            );
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> GossipCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GossipCounts {
            published: get(&self.counters.published),
            received: get(&self.counters.received),
            duplicates: get(&self.counters.duplicates),
            dropped: get(&self.counters.dropped),
            refused: get(&self.counters.refused),
            peers: self.counters.peers.load(Ordering::Relaxed),
        }
    }

    /// The address listened on, with the port that the system chose if the
    /// configured one was 0.
    pub async fn listening(&self) -> Option<Multiaddr> {
        let mut listening = self.listening.clone();
        listening.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Ends the network.
    pub fn stop(&self) {
        self.stop.stop();
    }
}
