//! Gossip of transactions among the validators: opaque bytes, pushed by the
//! node that got them to every other one, over a libp2p network of our own
//! (TCP, Noise, Yamux).
//!
//! The validators are few and form a full mesh, so nobody forwards. To each
//! peer one stream stays open; what is queued for it is written in order. A
//! node that does not take what came slows what is sent to it, and what does
//! not fit its queue is dropped and counted. Losing a transaction here costs
//! a round trip, not the transaction: its sender repeats it. After a
//! reconnection nothing is replayed; a node may publish again what it still
//! holds.
//!
//! The same connections carry what consensus sends [`Direct`], and
//! [`Notices`].
//!
//! Peers are known by their peer ids; all others are refused.

mod direct;
mod frame;
mod inbound;
mod lane;
mod notices;
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
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tally_ledger::crypto::SecretKey;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use direct::Direct;
use inbound::Taker;
use lane::{Lane, Settings};
pub use notices::{MAX_NOTICE_BYTES, Notices};
use seen::Seen;
use swarm::Mesh;

use crate::{codec, handle::Stop};

const TRANSACTIONS: StreamProtocol = StreamProtocol::new("/tally/transactions/2");
/// Least time between two writes to a peer: a burst shares them.
const GAP: Duration = Duration::from_millis(2);

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
    /// Whether to take part in [`Direct`].
    pub direct: bool,
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
            direct: true,
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

impl Counters {
    /// A peer came, or went.
    fn count_peer(&self, came: bool) {
        if came {
            self.peers.fetch_add(1, Ordering::Relaxed);
        } else {
            self.peers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> GossipCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GossipCounts {
            published: get(&self.published),
            received: get(&self.received),
            duplicates: get(&self.duplicates),
            dropped: get(&self.dropped),
            refused: get(&self.refused),
            peers: self.peers.load(Ordering::Relaxed),
        }
    }
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
    lanes: Arc<[Arc<Lane>]>,
    seen: Arc<Seen>,
    direct: Option<Direct>,
    notices: Notices,
    max_message: usize,
    counters: Arc<Counters>,
    listening: watch::Receiver<Option<Multiaddr>>,
    stop: Stop,
}

/// Transactions from other nodes, each with the peer that sent it.
pub type Incoming = mpsc::Receiver<(PeerId, Bytes)>;

/// Gives new transactions to the node.
#[derive(Debug, Clone)]
struct ToNode {
    seen: Arc<Seen>,
    counters: Arc<Counters>,
    node: mpsc::Sender<(PeerId, Bytes)>,
}

impl Taker for ToNode {
    async fn take(&self, from: PeerId, transaction: Bytes) -> bool {
        if !self.seen.insert(&transaction) {
            add(&self.counters.duplicates, 1);
            return true;
        }
        let taken = self.node.send((from, transaction)).await.is_ok();
        add(&self.counters.received, taken.into());
        taken
    }
}

/// Starts the gossip network: its handle, what comes in, and its task.
pub fn start(
    config: GossipConfig,
    key: &SecretKey,
) -> Result<(Gossip, Incoming, JoinHandle<()>), GossipError> {
    let (counters, seen) = (Arc::<Counters>::default(), Arc::<Seen>::default());
    let (node, incoming) = mpsc::channel(4096);
    let (tell, listening) = watch::channel(None);
    let stop = Stop::default();
    let max_message = config.max_message;
    let mut mesh = Mesh::new(&config, key, counters.clone(), tell)?;
    let settings = Settings {
        protocol: TRANSACTIONS,
        room: config.max_queued,
        gap: GAP,
        retry: config.redial,
    };
    let lanes = mesh.lanes(&settings, &counters);
    let to_node = ToNode {
        seen: seen.clone(),
        counters: counters.clone(),
        node,
    };
    mesh.accept(TRANSACTIONS, max_message, None, to_node);
    let mut streams = |protocol: StreamProtocol, room, limit, rate| {
        let settings = Settings {
            protocol: protocol.clone(),
            room,
            gap: Duration::ZERO,
            ..settings.clone()
        };
        let inbox = direct::Inbox::default();
        let lanes = mesh.lanes(&settings, &inbox.counters);
        mesh.accept(protocol, limit, Some(rate), inbox.clone());
        Direct { lanes, inbox }
    };
    let direct = config.direct.then(|| {
        streams(
            direct::PROTOCOL,
            direct::ROOM,
            codec::MAX_FRAME,
            direct::RATE,
        )
    });
    let notices = Notices(streams(
        notices::PROTOCOL,
        notices::ROOM,
        MAX_NOTICE_BYTES,
        notices::RATE,
    ));
    let task = tokio::spawn(mesh.run(stop.clone()));
    let gossip = Gossip {
        lanes,
        seen,
        direct,
        notices,
        max_message,
        counters,
        listening,
        stop,
    };
    Ok((gossip, incoming, task))
}

impl Gossip {
    /// Sends a transaction to all peers, unless it came or went before.
    /// `false`: it is too large, and was dropped and counted.
    pub fn publish(&self, transaction: Bytes) -> bool {
        if transaction.len() > self.max_message {
            add(&self.counters.dropped, 1);
            return false;
        }
        add(&self.counters.published, 1);
        if self.seen.insert(&transaction) {
            for lane in self.lanes.iter() {
                lane.push(transaction.clone());
            }
        } else {
            add(&self.counters.duplicates, 1);
        }
        true
    }

    /// The streams for consensus, if configured.
    pub fn direct(&self) -> Option<Direct> {
        self.direct.clone()
    }

    /// The streams for notices.
    pub fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// What happened so far.
    pub fn counts(&self) -> GossipCounts {
        self.counters.counts()
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
