//! Origins: which peers sent which bodies by value sync, of the heights that
//! are not committed yet.
//!
//! The engine hands a synced body over without its sender. For most bodies
//! that does not matter: their ids bind them. A form of a block from which
//! something was taken away is bound by its execution alone, so where it
//! fails, either its sender is false or this node is; how many validators
//! sent one that fails tells which ([`Origins::failed`]).
//!
//! The network notes what comes on a task of its own, which may be later than
//! the body's way through the engine. Then a sender is not counted this time;
//! it is when it sends the same again.
//!
//! Bounded per peer, so nobody pushes out what another one sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;
use tally_ledger::{hash::Hash, ids::Height};

/// Most bodies remembered of a peer, those of the lowest heights: more than
/// the engine asks for ahead.
pub(crate) const BODIES: usize = 256;
/// Most peers; only configured ones are ever asked.
const PEERS: usize = 256;

/// Who sent what.
#[derive(Debug, Default)]
pub(crate) struct Origins(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    committed: Height,
    /// Heights and hashes of bodies.
    sent: BTreeMap<PeerId, BTreeSet<(Height, Hash)>>,
    /// Who sent a form of the next height's block that fails here.
    failed: BTreeSet<PeerId>,
}

fn hash(body: &[u8]) -> Hash {
    Hash(*blake3::hash(body).as_bytes())
}

impl Origins {
    fn known(&self) -> MutexGuard<'_, Known> {
        // What was added before a panic elsewhere is true all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is decided.
    pub(crate) fn commit(&self, committed: Height) {
        let mut known = self.known();
        known.committed = committed;
        known.failed.clear();
        known.sent.retain(|_, bodies| {
            bodies.retain(|(height, _)| *height > committed);
            !bodies.is_empty()
        });
    }

    /// A peer sent a body.
    pub(crate) fn note(&self, peer: PeerId, height: Height, body: &[u8]) {
        let hash = hash(body);
        let mut known = self.known();
        if height <= known.committed {
            return;
        }
        if known.sent.len() >= PEERS && !known.sent.contains_key(&peer) {
            return;
        }
        let bodies = known.sent.entry(peer).or_default();
        bodies.insert((height, hash));
        if bodies.len() > BODIES {
            bodies.pop_last();
        }
    }

    /// A form of the next height's block fails here: all peers that sent it,
    /// or another one that failed before.
    pub(crate) fn failed(&self, height: Height, body: &[u8]) -> BTreeSet<PeerId> {
        let body = (height, hash(body));
        let mut known = self.known();
        let Known { sent, failed, .. } = &mut *known;
        let senders = sent.iter().filter(|(_, bodies)| bodies.contains(&body));
        failed.extend(senders.map(|(peer, _)| *peer));
        failed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Height = Height(7);

    fn origins() -> Origins {
        let origins = Origins::default();
        origins.commit(Height(6));
        origins
    }

    #[test]
    fn who_sent_what_fails_is_counted_once_and_until_the_commit() {
        let origins = origins();
        let [one, other, third] = [(); 3].map(|()| PeerId::random());
        origins.note(one, NEXT, b"a");
        origins.note(one, NEXT, b"b");
        // Another height, and a body that never failed.
        origins.note(other, Height(8), b"a");
        origins.note(third, NEXT, b"c");
        for body in [b"a", b"b", b"a"] {
            assert_eq!(origins.failed(NEXT, body), [one].into());
        }
        // Noted too late for the first time, and in time for the next.
        assert_eq!(origins.failed(NEXT, b"d"), [one].into());
        origins.note(third, NEXT, b"d");
        assert_eq!(origins.failed(NEXT, b"d"), [one, third].into());
        origins.commit(NEXT);
        assert_eq!(origins.failed(Height(8), b"a"), [other].into());
        // What is decided is not noted any more.
        origins.note(one, NEXT, b"a");
        assert_eq!(origins.failed(NEXT, b"a"), [other].into());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_a_flood_costs_its_sender_alone() {
        let origins = origins();
        let (honest, liar) = (PeerId::random(), PeerId::random());
        origins.note(honest, NEXT, b"a");
        for n in 0..2 * BODIES as u64 {
            origins.note(liar, NEXT, &n.to_le_bytes());
            origins.note(liar, Height(8 + n), b"a");
        }
        assert_eq!(origins.known().sent[&liar].len(), BODIES);
        assert_eq!(origins.failed(NEXT, b"a"), [honest].into());
        for _ in 0..2 * PEERS {
            origins.note(PeerId::random(), NEXT, b"a");
        }
        assert_eq!(origins.known().sent.len(), PEERS);
    }
}
