//! Live transaction ids (table 8): what makes a replay visible.
//!
//! An author uses an id once until its `valid_until` has passed. The ids of
//! one `valid_until` hour are a bucket; there are [`BUCKETS`] slots, numbered
//! hour % 256, and an id is at most 168 hours ahead, so two live hours never
//! share one. The leaf carries count and running hash; the ids themselves are
//! in memory and in snapshots, where the hash checks them.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::{
    hash::{Context, Hash},
    transaction::{Author, TransactionId},
};

/// Slots of table 8.
pub const BUCKETS: usize = 256;
/// Most clock hours that `valid_until` may be ahead.
pub const MAX_HOURS_AHEAD: u32 = 168;
/// Most live ids of one author.
pub const LIVE_IDS_PER_AUTHOR: u32 = 100_000;

static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| Context::IdBucket.key());

/// A bucket's leaf; all zero if the slot is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdBucket {
    /// `valid_until` of its ids.
    pub hour: u32,
    /// How many there are.
    pub count: u32,
    /// h' = keyed(h || author kind u8 || author number u32 || id 16 ||
    /// transaction id 32), from zero, in the order of the log.
    pub hash: Hash,
}

/// A used id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LiveId {
    pub(crate) author: Author,
    pub(crate) id: [u8; 16],
    pub(crate) transaction: TransactionId,
}

impl IdBucket {
    /// The slot of an hour.
    pub fn slot(hour: u32) -> u32 {
        hour % BUCKETS as u32
    }

    /// Takes in an id of `hour`.
    pub(crate) fn add(&mut self, hour: u32, used: &LiveId) {
        self.hour = hour;
        self.count += 1;
        let mut bytes = [0; 32 + 5 + 16 + 32];
        bytes[..32].copy_from_slice(&self.hash.0);
        bytes[32] = used.author.kind.into();
        bytes[33..37].copy_from_slice(&used.author.number.to_le_bytes());
        bytes[37..53].copy_from_slice(&used.id);
        bytes[53..].copy_from_slice(&used.transaction.0);
        self.hash = Hash(blake3::keyed_hash(&KEY, &bytes).into());
    }
}

/// A bucket with its ids, in the order of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) hour: u32,
    pub(crate) ids: Vec<LiveId>,
    /// Follows from the rest; kept so that no block hashes old ids again.
    #[serde(skip)]
    pub(crate) leaf: IdBucket,
}

impl Bucket {
    pub(crate) fn add(&mut self, hour: u32, used: LiveId) {
        self.hour = hour;
        self.leaf.add(hour, &used);
        self.ids.push(used);
    }

    /// Computes the leaf again, for a bucket that was read from a snapshot.
    pub(crate) fn rebuild(&mut self) {
        let ids = std::mem::take(&mut self.ids);
        self.leaf = IdBucket::default();
        ids.into_iter().for_each(|used| self.add(self.hour, used));
    }
}

/// Finds used ids by author. Derived from the buckets.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdIndex {
    /// The transaction and its `valid_until`.
    pub(crate) used: BTreeMap<(Author, [u8; 16]), (TransactionId, u32)>,
    counts: BTreeMap<(Author, u32), u32>,
}

impl IdIndex {
    pub(crate) fn add(&mut self, hour: u32, used: &LiveId) {
        self.used
            .insert((used.author, used.id), (used.transaction, hour));
        *self.counts.entry((used.author, hour)).or_default() += 1;
    }

    /// Forgets a bucket.
    pub(crate) fn remove(&mut self, bucket: &Bucket) {
        for used in &bucket.ids {
            self.used.remove(&(used.author, used.id));
            self.counts.remove(&(used.author, bucket.hour));
        }
    }

    /// The transaction that used an id, if that is live at clock hour `now`.
    pub(crate) fn find(&self, author: Author, id: [u8; 16], now: u32) -> Option<TransactionId> {
        let (transaction, hour) = self.used.get(&(author, id))?;
        (*hour > now).then_some(*transaction)
    }

    /// An author's ids that are live at clock hour `now`.
    pub(crate) fn count(&self, author: Author, now: u32) -> u32 {
        let live = (author, now.saturating_add(1))..=(author, u32::MAX);
        self.counts.range(live).map(|(_, count)| count).sum()
    }
}
