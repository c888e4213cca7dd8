//! Direct: small messages of consensus from each validator to each other one,
//! on streams that stay open.
//!
//! Nobody forwards, and nothing is signed twice: the transport authenticates
//! the peer, and what it carries is signed where it matters. So it serves
//! only while all peers are reached; else there is the engine's gossipsub.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::mpsc;

use super::{
    Counters, GossipCounts, add,
    inbound::{Rate, Taker},
    lane::Lane,
};

pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/tally/consensus/1");
/// Most bytes that wait for one peer: a few blocks.
pub(super) const ROOM: usize = 32 << 20;
/// What is read of one peer: several times what a validator sends. The engine's
/// queues have no bound, so this keeps a peer from filling them.
pub(super) const RATE: Rate = Rate {
    frames: 4_000,
    bytes: 64 << 20,
};
/// Frames that wait for the engine, of all peers.
const WAITING: usize = 64;

/// A frame, and who sent it.
pub(crate) type Frame = (PeerId, Bytes);

/// The streams to all validators. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Direct {
    pub(super) lanes: Arc<[Arc<Lane>]>,
    pub(super) inbox: Inbox,
}

/// Where frames of peers go: to the engine that runs, if one does.
#[derive(Debug, Clone, Default)]
pub(super) struct Inbox {
    engine: Arc<Mutex<Option<mpsc::Sender<Frame>>>>,
    pub(super) counters: Arc<Counters>,
}

impl Direct {
    /// Whether there is a stream to each peer, and enough of them for so many
    /// validators.
    pub(crate) fn reaches_all(&self, validators: usize) -> bool {
        self.lanes.len() + 1 >= validators && self.lanes.iter().all(|lane| lane.is_open())
    }

    /// Sends a frame to all peers; `false`: not to each of them.
    pub(crate) fn send(&self, frame: &Bytes) -> bool {
        add(&self.inbox.counters.published, 1);
        let sent = self.lanes.iter().filter(|lane| lane.push(frame.clone()));
        sent.count() == self.lanes.len()
    }

    /// What happened so far, in frames.
    pub fn counts(&self) -> GossipCounts {
        self.inbox.counters.counts()
    }

    /// What comes from now on; whoever received before gets no more.
    pub(crate) fn receive(&self) -> mpsc::Receiver<Frame> {
        let (sender, receiver) = mpsc::channel(WAITING);
        *self.inbox.engine() = Some(sender);
        receiver
    }
}

impl Inbox {
    fn engine(&self) -> MutexGuard<'_, Option<mpsc::Sender<Frame>>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taker for Inbox {
    /// Without an engine, frames are lost: nobody would vote on them.
    async fn take(&self, from: PeerId, frame: Bytes) -> bool {
        add(&self.counters.received, 1);
        let engine = self.engine().clone();
        if let Some(engine) = engine {
            let _ = engine.send((from, frame)).await;
        }
        true
    }
}
