//! The task of the gossip network: connections, queues, and the flow between
//! them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, allow_block_list,
    multiaddr::Protocol,
    noise,
    request_response::{self, OutboundFailure, ProtocolSupport, ResponseChannel},
    swarm::{DialError, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use tally_ledger::crypto::SecretKey;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, info};

use super::{
    Counters, GossipConfig, GossipError, add,
    batch::{BATCH_BYTES, Batches, PROTOCOL},
    seen::Seen,
};
use crate::{config::keypair, handle::Stop};

/// Pushes under way to a peer. One, so that transactions arrive in order: a
/// gateway's debits are numbered.
const IN_FLIGHT: usize = 1;
/// Least time between two pushes to a peer. Each opens a stream, which costs
/// both sides far more than what it carries: a burst shares pushes, and after
/// a pause the first one leaves at once.
const PUSH_GAP: Duration = Duration::from_millis(4);
/// As much does not wait for the gap.
const PUSH_FULL: usize = 64 * 1024;
/// Pushes that a peer may have open towards us.
const INBOUND_STREAMS: usize = 4;
/// A push not taken within this is given up, and the connection with it.
const PUSH_TIMEOUT: Duration = Duration::from_secs(10);
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(NetworkBehaviour)]
struct Behaviour {
    allowed: allow_block_list::Behaviour<allow_block_list::AllowedPeers>,
    pushes: request_response::Behaviour<Batches>,
}

#[derive(Debug, Default)]
struct Peer {
    address: Option<Multiaddr>,
    connections: usize,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    in_flight: usize,
    /// When the next push may leave.
    next_push: Option<Instant>,
}

impl Peer {
    /// Until when what is queued has to wait, if it does.
    fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.next_push
            .filter(|next| now < *next && self.queued_bytes < PUSH_FULL)
    }
}

/// A push that the own node has not taken yet.
struct Arrived {
    from: PeerId,
    transactions: VecDeque<Bytes>,
    taken: ResponseChannel<()>,
}

pub(super) struct Mesh {
    swarm: Swarm<Behaviour>,
    peers: BTreeMap<PeerId, Peer>,
    seen: Seen,
    arrived: VecDeque<Arrived>,
    to_node: mpsc::Sender<(PeerId, Bytes)>,
    counters: Arc<Counters>,
    listening: watch::Sender<Option<Multiaddr>>,
    max_queued: usize,
    redial: Duration,
    ticks: u64,
    /// When queued transactions may leave that had to wait.
    due: Option<Instant>,
}

impl Mesh {
    pub(super) fn new(
        config: GossipConfig,
        key: &SecretKey,
        counters: Arc<Counters>,
        to_node: mpsc::Sender<(PeerId, Bytes)>,
        listening: watch::Sender<Option<Multiaddr>>,
    ) -> Result<Self, GossipError> {
        let mut swarm = swarm(key, config.max_message)?;
        let mut peers = BTreeMap::new();
        for address in config.peers {
            let Some(Protocol::P2p(peer)) = address.iter().last() else {
                return Err(GossipError::NoPeerId(address));
            };
            if peer != *swarm.local_peer_id() {
                swarm.behaviour_mut().allowed.allow_peer(peer);
                peers.insert(
                    peer,
                    Peer {
                        address: Some(address),
                        ..Peer::default()
                    },
                );
            }
        }
        let address = config.listen;
        swarm
            .listen_on(address.clone())
            .map_err(|e| GossipError::Listen {
                address,
                why: e.to_string(),
            })?;
        let (max_queued, redial) = (config.max_queued, config.redial);
        Ok(Self {
            swarm,
            peers,
            seen: Seen::default(),
            arrived: VecDeque::new(),
            to_node,
            counters,
            listening,
            max_queued,
            redial,
            ticks: 0,
            due: None,
        })
    }

    pub(super) async fn run(mut self, mut from_node: mpsc::Receiver<Bytes>, stop: Stop) {
        let mut redial = interval(self.redial);
        redial.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let to_node = self.to_node.clone();
            let due = self.due;
            tokio::select! {
                () = stop.stopped() => return,
                event = self.swarm.select_next_some() => self.on_event(event),
                transaction = from_node.recv() => match transaction {
                    Some(first) => self.publish(first, &mut from_node),
                    None => return,
                },
                permit = to_node.reserve(), if !self.arrived.is_empty() => match permit {
                    Ok(permit) => self.hand_over(permit),
                    Err(_) => return,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    self.fill_all();
                }
                _ = redial.tick() => self.dial_missing(),
            }
        }
    }

    /// Queues a transaction and all that wait behind it, then fills the
    /// connections: bursts share pushes.
    fn publish(&mut self, first: Bytes, from_node: &mut mpsc::Receiver<Bytes>) {
        let mut next = Some(first);
        let mut left = 1024;
        while let Some(transaction) = next {
            if self.seen.insert(&transaction) {
                self.queue(&transaction);
            } else {
                add(&self.counters.duplicates, 1);
            }
            left -= 1;
            next = if left > 0 {
                from_node.try_recv().ok()
            } else {
                None
            };
        }
        self.fill_all();
    }

    fn fill_all(&mut self) {
        let peers: Vec<_> = self.peers.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.fill(peer));
    }

    fn queue(&mut self, transaction: &Bytes) {
        for peer in self.peers.values_mut() {
            let room = peer.queued_bytes + transaction.len() <= self.max_queued;
            if peer.connections == 0 || !room {
                add(&self.counters.dropped, 1);
                continue;
            }
            peer.queued_bytes += transaction.len();
            peer.queue.push_back(transaction.clone());
        }
    }

    /// Starts pushes to a peer while it has any room for them.
    fn fill(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let now = Instant::now();
        while peer.connections > 0 && peer.in_flight < IN_FLIGHT && !peer.queue.is_empty() {
            if let Some(until) = peer.waits_until(now) {
                self.due = Some(self.due.map_or(until, |due| due.min(until)));
                return;
            }
            peer.next_push = Some(now + PUSH_GAP);
            let mut push = Vec::new();
            let mut bytes = 0;
            while let Some(transaction) = peer.queue.front() {
                bytes += 4 + transaction.len();
                if !push.is_empty() && bytes > BATCH_BYTES {
                    break;
                }
                peer.queued_bytes -= transaction.len();
                push.extend(peer.queue.pop_front());
            }
            peer.in_flight += 1;
            self.swarm.behaviour_mut().pushes.send_request(&id, push);
        }
    }

    /// Gives the node one transaction, and says `taken` after the last.
    fn hand_over(&mut self, permit: mpsc::Permit<'_, (PeerId, Bytes)>) {
        let Some(arrived) = self.arrived.front_mut() else {
            return;
        };
        if let Some(transaction) = arrived.transactions.pop_front() {
            add(&self.counters.received, 1);
            permit.send((arrived.from, transaction));
        }
        if arrived.transactions.is_empty() {
            let taken = self.arrived.pop_front().map(|arrived| arrived.taken);
            // The peer may be gone; then nobody waits for the answer.
            taken.map(|channel| self.swarm.behaviour_mut().pushes.send_response(channel, ()));
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Pushes(event)) => self.on_push(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                info!(%address, "transaction gossip listens");
                self.listening.send_replace(Some(address));
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                num_established,
                ..
            } => {
                self.set_connections(peer_id, num_established.get() as usize);
                self.fill(peer_id);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established,
                ..
            } => {
                self.set_connections(peer_id, num_established as usize);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                add(&self.counters.refused, 1);
                debug!(%error, "an incoming connection was refused");
            }
            SwarmEvent::OutgoingConnectionError { error, .. }
                if !matches!(error, DialError::DialPeerConditionFalse(_)) =>
            {
                debug!(%error, "a peer cannot be dialled");
            }
            _ => {}
        }
    }

    fn set_connections(&mut self, id: PeerId, connections: usize) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.connections = connections;
        if connections == 0 {
            add(&self.counters.dropped, peer.queue.len() as u64);
            peer.queue.clear();
            peer.queued_bytes = 0;
        }
        let connected = self
            .peers
            .values()
            .filter(|peer| peer.connections > 0)
            .count();
        self.counters.peers.store(connected, Ordering::Relaxed);
    }

    fn on_push(&mut self, event: request_response::Event<Vec<Bytes>, ()>) {
        use request_response::{Event, Message};
        match event {
            Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => self.arrive(peer, request, channel),
                Message::Response { .. } => self.pushed(peer),
            },
            Event::OutboundFailure { peer, error, .. } => {
                add(&self.counters.dropped, 1);
                debug!(%peer, %error, "a push failed");
                self.pushed(peer);
                if matches!(error, OutboundFailure::Timeout) {
                    // The connection is dead without knowing it.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Event::InboundFailure { peer, error, .. } => debug!(%peer, %error, "a push broke off"),
            Event::ResponseSent { .. } => {}
        }
    }

    fn pushed(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        self.fill(id);
    }

    fn arrive(&mut self, from: PeerId, push: Vec<Bytes>, taken: ResponseChannel<()>) {
        let total = push.len();
        let transactions: VecDeque<_> = push
            .into_iter()
            .filter(|bytes| self.seen.insert(bytes))
            .collect();
        add(
            &self.counters.duplicates,
            (total - transactions.len()) as u64,
        );
        self.arrived.push_back(Arrived {
            from,
            transactions,
            taken,
        });
    }

    /// Of two peers the one with the smaller id dials; the other one only now
    /// and then, so that they rarely meet twice.
    fn dial_missing(&mut self) {
        self.ticks += 1;
        let own = *self.swarm.local_peer_id();
        let patient = !self.ticks.is_multiple_of(4);
        let missing = self
            .peers
            .iter()
            .filter(|(id, peer)| peer.connections == 0 && !(own > **id && patient));
        let missing: Vec<_> = missing
            .filter_map(|(id, peer)| Some((*id, peer.address.clone()?)))
            .collect();
        for (id, address) in missing {
            // A dial that is under way already makes this one fail; so be it.
            let options = DialOpts::peer_id(id).addresses(vec![address]).build();
            let _ = self.swarm.dial(options);
        }
    }
}

fn swarm(key: &SecretKey, max_message: usize) -> Result<Swarm<Behaviour>, GossipError> {
    let config = request_response::Config::default()
        .with_request_timeout(PUSH_TIMEOUT)
        .with_max_concurrent_streams(INBOUND_STREAMS);
    let pushes = request_response::Behaviour::with_codec(
        Batches::new(max_message),
        [(PROTOCOL, ProtocolSupport::Full)],
        config,
    );
    let behaviour = Behaviour {
        allowed: allow_block_list::Behaviour::default(),
        pushes,
    };
    let builder = SwarmBuilder::with_existing_identity(keypair(key))
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .map_err(|e| GossipError::Transport(e.to_string()))?
        .with_behaviour(|_| behaviour)
        .map_err(|e| GossipError::Transport(e.to_string()))?;
    Ok(builder
        .with_swarm_config(|c| c.with_idle_connection_timeout(FOR_EVER))
        .build())
}
