//! What the ledger refused after this node had admitted it, for the calls
//! that wait for it: two that exclude each other may both be admitted, and
//! only one of them can be executed.
//!
//! Bounded: the oldest are forgotten, and whoever waits for one of those
//! waits until its deadline. A refusal is this node's answer at its height.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tally_ledger::{reason::Reason, transaction::TransactionId};
use tokio::sync::watch;

/// How many are remembered.
const REMEMBERED: usize = 1_024;

/// The latest refusals.
#[derive(Debug)]
pub struct Refusals {
    kept: Mutex<Kept>,
    /// How many are kept: looking for one costs no lock while there are none.
    count: AtomicUsize,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Kept {
    reasons: HashMap<TransactionId, Reason>,
    order: VecDeque<TransactionId>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            count: AtomicUsize::new(0),
            news: watch::Sender::new(()),
        }
    }
}

impl Refusals {
    fn locked(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics while it is locked")
    }

    /// Remembers a refusal and tells those who wait.
    pub(crate) fn add(&self, id: TransactionId, reason: Reason) {
        let mut kept = self.locked();
        if kept.reasons.insert(id, reason).is_none() {
            kept.order.push_back(id);
        }
        while kept.order.len() > REMEMBERED {
            let oldest = kept.order.pop_front();
            oldest.and_then(|id| kept.reasons.remove(&id));
        }
        self.count.store(kept.order.len(), Ordering::Release);
        drop(kept);
        self.news.send_replace(());
    }

    /// Forgets one: it has been admitted again.
    pub(crate) fn forget(&self, id: &TransactionId) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut kept = self.locked();
        if kept.reasons.remove(id).is_some() {
            kept.order.retain(|other| other != id);
            self.count.store(kept.order.len(), Ordering::Release);
        }
    }

    /// Why a transaction was refused, if it was.
    pub(crate) fn of(&self, id: &TransactionId) -> Option<Reason> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.locked().reasons.get(id).copied()
    }

    /// Changes with every refusal from now on.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::hash::Hash;

    use super::*;

    fn id(number: usize) -> TransactionId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Hash(bytes)
    }

    #[test]
    fn the_latest_are_remembered_and_those_that_come_again_are_not() {
        let refusals = Refusals::default();
        let news = refusals.news();
        assert_eq!(refusals.of(&id(0)), None);
        for number in 0..REMEMBERED + 10 {
            refusals.add(id(number), Reason::Duplicate);
        }
        assert!(news.has_changed().unwrap());
        assert_eq!(refusals.of(&id(9)), None);
        assert_eq!(refusals.of(&id(10)), Some(Reason::Duplicate));
        refusals.add(id(10), Reason::KeyBoundBefore);
        assert_eq!(refusals.of(&id(10)), Some(Reason::KeyBoundBefore));
        refusals.forget(&id(10));
        assert_eq!(refusals.of(&id(10)), None);
        assert_eq!(refusals.of(&id(11)), Some(Reason::Duplicate));
    }
}
