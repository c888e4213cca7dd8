//! The connections of the gossip network: one to each known peer, dialled
//! again when it is lost; everybody else is refused.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, allow_block_list,
    multiaddr::Protocol,
    noise, ping,
    swarm::{DialError, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use tally_ledger::crypto::SecretKey;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, info};

use super::{
    Counters, GossipConfig, GossipError, add,
    inbound::{self, Rate, Taker},
    lane::{Lane, Settings},
};
use crate::{config::keypair, handle::Stop};

/// A connection that does not answer for so long after a ping is dead.
const PING: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(6));
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(NetworkBehaviour)]
struct Behaviour {
    allowed: allow_block_list::Behaviour<allow_block_list::AllowedPeers>,
    streams: libp2p_stream::Behaviour,
    ping: ping::Behaviour,
}

#[derive(Debug)]
struct Peer {
    address: Multiaddr,
    connected: watch::Sender<bool>,
}

pub(super) struct Mesh {
    swarm: Swarm<Behaviour>,
    peers: BTreeMap<PeerId, Peer>,
    tasks: JoinSet<()>,
    /// Whom lanes have given up.
    dead: (mpsc::Sender<PeerId>, mpsc::Receiver<PeerId>),
    counters: Arc<Counters>,
    listening: watch::Sender<Option<Multiaddr>>,
    redial: Duration,
    ticks: u64,
}

impl Mesh {
    pub(super) fn new(
        config: &GossipConfig,
        key: &SecretKey,
        counters: Arc<Counters>,
        listening: watch::Sender<Option<Multiaddr>>,
    ) -> Result<Self, GossipError> {
        let mut swarm = swarm(key)?;
        let mut peers = BTreeMap::new();
        for address in config.peers.clone() {
            let Some(Protocol::P2p(peer)) = address.iter().last() else {
                return Err(GossipError::NoPeerId(address));
            };
            if peer != *swarm.local_peer_id() {
                swarm.behaviour_mut().allowed.allow_peer(peer);
                let connected = watch::channel(false).0;
                peers.insert(peer, Peer { address, connected });
            }
        }
        let address = config.listen.clone();
        swarm
            .listen_on(address.clone())
            .map_err(|e| GossipError::Listen {
                address,
                why: e.to_string(),
            })?;
        Ok(Self {
            swarm,
            peers,
            tasks: JoinSet::new(),
            dead: mpsc::channel(16),
            counters,
            listening,
            redial: config.redial,
            ticks: 0,
        })
    }

    /// Lanes to all peers.
    pub(super) fn lanes(
        &mut self,
        settings: &Settings,
        counters: &Arc<Counters>,
    ) -> Arc<[Arc<Lane>]> {
        let control = self.swarm.behaviour().streams.new_control();
        let start = |(id, peer): (&PeerId, &Peer)| {
            let lane = Arc::new(Lane::new(*id, settings.clone(), counters.clone()));
            let (connected, dead) = (peer.connected.subscribe(), self.dead.0.clone());
            self.tasks
                .spawn(lane.clone().run(control.clone(), connected, dead));
            lane
        };
        self.peers.iter().map(start).collect()
    }

    /// Takes what peers send over a protocol, in frames of at most `limit`
    /// bytes, from each at most at `rate`.
    pub(super) fn accept(
        &mut self,
        protocol: StreamProtocol,
        limit: usize,
        rate: Option<Rate>,
        taker: impl Taker,
    ) {
        let mut control = self.swarm.behaviour().streams.new_control();
        let streams = control
            .accept(protocol)
            .expect("each protocol has one taker");
        self.tasks
            .spawn(inbound::accept(streams, limit, rate, taker));
    }

    pub(super) async fn run(mut self, stop: Stop) {
        let mut redial = interval(self.redial);
        redial.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(peer) = self.dead.1.recv() => {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                _ = redial.tick() => self.dial_missing(),
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                info!(%address, "transaction gossip listens");
                self.listening.send_replace(Some(address));
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } => self.set_connected(peer_id, true),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                peer,
                connection,
                result: Err(ping::Failure::Timeout | ping::Failure::Other { .. }),
            })) => {
                debug!(%peer, "a connection is dead");
                self.swarm.close_connection(connection);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established,
                ..
            } => self.set_connected(peer_id, num_established > 0),
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

    fn set_connected(&mut self, id: PeerId, connected: bool) {
        if let Some(peer) = self.peers.get(&id) {
            peer.connected.send_replace(connected);
        }
    }

    /// Of two peers the one with the smaller id dials; the other one only now
    /// and then, so that they rarely meet twice.
    fn dial_missing(&mut self) {
        self.ticks += 1;
        let own = *self.swarm.local_peer_id();
        let patient = !self.ticks.is_multiple_of(4);
        for (id, peer) in &self.peers {
            if *peer.connected.borrow() || (own > *id && patient) {
                continue;
            }
            // A dial that is under way already makes this one fail; so be it.
            let options = DialOpts::peer_id(*id)
                .addresses(vec![peer.address.clone()])
                .build();
            let _ = self.swarm.dial(options);
        }
    }
}

fn swarm(key: &SecretKey) -> Result<Swarm<Behaviour>, GossipError> {
    let behaviour = Behaviour {
        allowed: allow_block_list::Behaviour::default(),
        streams: libp2p_stream::Behaviour::new(),
        ping: ping::Behaviour::new(
            ping::Config::new()
                .with_interval(PING.0)
                .with_timeout(PING.1),
        ),
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
