//! Where things are: transactions, receipts by hold and by debit, and the
//! entries of each account, gateway and class.
//!
//! The latest part, the tail, is in memory; when it holds about a million
//! entries it is sealed: written to sled in one go, in sorted runs, beside
//! the next tail. Nothing is written to sled per debit or per block. A folder
//! that is deleted or behind is filled again from the blocks.
//!
//! Trees of sled; numbers in keys are big-endian so that they sort:
//!
//! ```text
//! segments   first entry u64 -> end u64, last height u64; written last
//! postings   kind u8, number u32, first index u64 -> u32 each, relative to
//!            the first index; at most 16,384
//! transactions, holds, batches
//!            segment's first entry u64, first key of the run
//!            -> (key, value) each, sorted; at most 2,048
//! ```
//!
//! Keys and values of runs: transaction id 32 -> height u64, index u32;
//! gateway u32, journal u32, hold u64 -> entry u64; gateway u32, journal u32,
//! first debit u64 -> entry of the first receipt u64.

mod sealed;
mod tail;

use std::{
    path::Path,
    sync::{Arc, RwLock, RwLockWriteGuard},
    thread::JoinHandle,
};

use tally_ledger::{
    ids::{GatewayNumber, Height, JournalNumber},
    transaction::TransactionId,
};

use crate::view::{CommittedBlock, Listing, Place};
use sealed::Sealed;
use tail::Tail;

/// Blocks after which a tail is sealed even if it holds few entries.
const MAX_TAIL_BLOCKS: u64 = 100_000;

/// sled failed, or holds what cannot be.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// sled's own error.
    #[error(
        "data/index: {0}; make room and check the disk, then start the node again, or delete the \
         folder: it is made again"
    )]
    Sled(#[from] sled::Error),
    /// A value has another form.
    #[error("data/index is damaged: delete the folder, it is made again")]
    Damaged,
}

/// The index; one owner adds, all read.
#[derive(Debug)]
pub struct Index {
    sealed: Arc<Sealed>,
    parts: Arc<RwLock<Parts>>,
    sealing: Option<JoinHandle<Result<(), IndexError>>>,
    segment_entries: u64,
}

/// What is in memory: the tail, and the one before while it is written.
#[derive(Debug)]
struct Parts {
    before: Option<Arc<Tail>>,
    tail: Tail,
}

/// For whoever changes it.
fn locked(parts: &RwLock<Parts>) -> RwLockWriteGuard<'_, Parts> {
    parts.write().expect("nobody panics while it is locked")
}

/// Reads the index; cheap to clone, from any thread.
#[derive(Debug, Clone)]
pub struct IndexReader {
    sealed: Arc<Sealed>,
    parts: Arc<RwLock<Parts>>,
}

impl Index {
    /// Opens the folder. `committed` is the last block, `entries` the size of
    /// the log: an index of more than that is another history's and is
    /// emptied.
    pub fn open(
        folder: &Path,
        committed: Height,
        entries: u64,
        segment_entries: u64,
    ) -> Result<Self, IndexError> {
        let sealed = Sealed::open(folder)?;
        let (mut end, mut height) = sealed.end()?;
        if height > committed || end > entries {
            sealed.clear()?;
            (end, height) = (0, Height(0));
        }
        let tail = Tail::new(end, height);
        Ok(Self {
            sealed: Arc::new(sealed),
            parts: Arc::new(RwLock::new(Parts { before: None, tail })),
            sealing: None,
            segment_entries,
        })
    }

    /// The next block that [`Self::add`] wants.
    pub fn next(&self) -> Height {
        let parts = self.parts.read().expect("nobody panics while it is locked");
        Height(parts.tail.height.0 + 1)
    }

    /// For whoever reads.
    pub fn reader(&self) -> IndexReader {
        IndexReader {
            sealed: self.sealed.clone(),
            parts: self.parts.clone(),
        }
    }

    /// Takes in the next block. What failed beside it since the last one shows
    /// here.
    pub fn add(&mut self, block: &CommittedBlock) -> Result<(), IndexError> {
        if self.sealing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.finish()?;
        }
        let full = {
            let mut parts = locked(&self.parts);
            parts.tail.add(block);
            parts.tail.len() >= self.segment_entries || parts.tail.blocks() >= MAX_TAIL_BLOCKS
        };
        if full { self.seal() } else { Ok(()) }
    }

    /// Begins a new tail and writes the old one beside it.
    fn seal(&mut self) -> Result<(), IndexError> {
        self.finish()?;
        let full = {
            let mut parts = locked(&self.parts);
            let next = Tail::new(parts.tail.end(), parts.tail.height);
            let full = Arc::new(std::mem::replace(&mut parts.tail, next));
            parts.before = Some(full.clone());
            full
        };
        let (sealed, parts) = (self.sealed.clone(), self.parts.clone());
        self.sealing = Some(std::thread::spawn(move || {
            sealed.write(&full)?;
            locked(&parts).before = None;
            Ok(())
        }));
        Ok(())
    }

    /// Waits until nothing is being written.
    pub fn finish(&mut self) -> Result<(), IndexError> {
        match self.sealing.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // An error here costs a replay at the next start and nothing else.
        let _ = self.sealing.take().map(JoinHandle::join);
    }
}

fn key16(gateway: GatewayNumber, journal: JournalNumber, number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&gateway.0.to_be_bytes());
    key[4..8].copy_from_slice(&journal.0.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

impl IndexReader {
    /// Looks in memory first, then in sled.
    fn find<T>(
        &self,
        in_memory: impl Fn(&Tail) -> Option<T>,
        on_disk: impl FnOnce(&Sealed) -> Result<Option<T>, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        {
            let parts = self.parts.read().expect("nobody panics while it is locked");
            let before = parts.before.as_deref();
            let found = in_memory(&parts.tail).or_else(|| before.and_then(&in_memory));
            if found.is_some() {
                return Ok(found);
            }
        }
        on_disk(&self.sealed)
    }

    /// Where a transaction is.
    pub fn transaction(&self, id: &TransactionId) -> Result<Option<Place>, IndexError> {
        self.find(|tail| tail.transaction(id), |sealed| sealed.transaction(id))
    }

    /// The receipt that settles a hold.
    pub fn hold(
        &self,
        gateway: GatewayNumber,
        journal: JournalNumber,
        hold: u64,
    ) -> Result<Option<u64>, IndexError> {
        let key = key16(gateway, journal, hold);
        self.find(|tail| tail.hold(&key), |sealed| sealed.hold(&key))
    }

    /// The first receipt of the batch that holds a debit, if the journal has
    /// got that far: the debit's own follows at or after it.
    pub fn batch(
        &self,
        gateway: GatewayNumber,
        journal: JournalNumber,
        debit: u64,
    ) -> Result<Option<u64>, IndexError> {
        let key = key16(gateway, journal, debit);
        self.find(|tail| tail.batch(&key), |sealed| sealed.batch(&key))
    }

    /// Entries of a listing, ascending, from `from` on, `limit` at most. Of
    /// `All` there is no list: every index is in it.
    pub fn list(&self, listing: Listing, from: u64, limit: usize) -> Result<Vec<u64>, IndexError> {
        // In memory first: what is sealed meanwhile is then seen twice, not
        // missed, and sorted out below.
        let (start, recent) = {
            let parts = self.parts.read().expect("nobody panics while it is locked");
            let before = parts.before.as_deref();
            let start = before.map_or(parts.tail.start, |before| before.start);
            let mut recent = Vec::new();
            for tail in before.into_iter().chain([&parts.tail]) {
                tail.list(listing, from, limit - recent.len().min(limit), &mut recent);
            }
            (start, recent)
        };
        let mut found = Vec::new();
        if from < start {
            self.sealed.list(listing, from, start, limit, &mut found)?;
        }
        found.extend(recent);
        found.truncate(limit);
        Ok(found)
    }

    /// The last block that is in the index.
    pub fn height(&self) -> Height {
        let parts = self.parts.read().expect("nobody panics while it is locked");
        parts.tail.height
    }

    /// The last entry of a listing before an index. Of `All` there is no list.
    pub fn last_before(&self, listing: Listing, index: u64) -> Result<Option<u64>, IndexError> {
        self.find(
            |tail| tail.last_before(listing, index),
            |sealed| sealed.last_before(listing, index),
        )
    }

    /// Bytes of sled's folder.
    pub fn bytes(&self) -> u64 {
        self.sealed.bytes()
    }
}

#[cfg(test)]
mod tests;
