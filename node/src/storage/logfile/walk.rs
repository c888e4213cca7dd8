//! The log's files read from front to back as they are, for who verifies them:
//! nothing is cut or written, and a node may be writing behind.
//!
//! Each slot must be the one that its entry is written to: checked, without
//! anything in its unused bytes, its event right behind the one before. What
//! the entry says is for others to judge. Of the files' end, only what is
//! whole counts.

use std::{ops::Range, path::Path};

use tally_ledger::{
    entry::{EVENT_LEAF_BYTES, RECEIPT_LEAF_BYTES},
    verify::StoredEntry,
};

use super::{EVENT, Files, LogFileError, LogReader, MAX_EVENT, RECEIPT, SLOT};
use crate::storage::disk::Disk;

/// Where the unused bytes of an event's slot are.
const UNUSED: Range<usize> = 71..SLOT - 1;

/// Reads the files once, in order.
#[derive(Debug)]
pub struct LogWalk {
    log: LogReader,
    size: u64,
    next: u64,
    /// Where the next event begins; unknown after a skip.
    event: Option<u64>,
}

/// Entries in a row.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<u8>,
    events: Vec<u8>,
    /// Where `events` begins in its file.
    start: u64,
}

impl LogWalk {
    /// Opens the files of a folder.
    pub fn open(disk: &dyn Disk, folder: &Path) -> Result<Self, LogFileError> {
        let files = Files::open(disk, folder)?;
        let size = files.leaves.check(files.leaves.file.len())? / SLOT as u64;
        files.size.store(size, std::sync::atomic::Ordering::Release);
        Ok(LogWalk {
            log: LogReader(files.into()),
            size,
            next: 0,
            event: Some(0),
        })
    }

    /// Number of whole slots.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Index of the next entry.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// Goes on from an entry without looking at those before.
    pub fn skip_to(&mut self, index: u64) {
        self.next = index;
        self.event = None;
    }

    /// The entries up to `end`, exclusive; `None`: the files end before.
    pub fn read_to(&mut self, end: u64) -> Result<Option<Slots>, LogFileError> {
        if end > self.size {
            return Ok(None);
        }
        let count = end.saturating_sub(self.next);
        let slots = self.log.slots(self.next, count)?;
        let (start, to) = self.check(&slots)?;
        let events = &self.log.0.events;
        if events.check(events.file.len())? < to {
            return Ok(None);
        }
        let events = events.read(start, (to - start) as usize)?;
        self.next += count;
        self.event = (to > start).then_some(to).or(self.event);
        Ok(Some(Slots {
            slots,
            events,
            start,
        }))
    }

    /// Checks the slots' form; where their events begin and end.
    fn check(&self, slots: &[u8]) -> Result<(u64, u64), LogFileError> {
        let mut row: Option<(u64, u64)> = self.event.map(|event| (event, event));
        for (index, slot) in (self.next..).zip(slots.chunks_exact(SLOT)) {
            self.log.leaf(index, slot)?;
            if slot[0] != EVENT {
                continue;
            }
            let (offset, length) = LogReader::event_place(slot);
            let (start, end) = row.unwrap_or((offset, offset));
            let whole = offset == end && length <= MAX_EVENT;
            if !whole || slot[UNUSED].iter().any(|byte| *byte != 0) {
                return Err(self.log.damaged(index));
            }
            row = Some((start, end + length as u64));
        }
        Ok(row.unwrap_or_default())
    }
}

impl Slots {
    /// The entries, in place.
    pub fn entries(&self) -> Vec<StoredEntry<'_>> {
        let entry = |slot| self.entry(slot);
        self.slots.chunks_exact(SLOT).map(entry).collect()
    }

    fn entry<'a>(&'a self, slot: &'a [u8]) -> StoredEntry<'a> {
        const WHOLE: &str = "a slot is longer than its leaf";
        if slot[0] == RECEIPT {
            let leaf = slot[1..].first_chunk::<RECEIPT_LEAF_BYTES>();
            return StoredEntry::Receipt(leaf.expect(WHOLE));
        }
        let (offset, length) = LogReader::event_place(slot);
        let at = (offset - self.start) as usize;
        let leaf = slot[1..].first_chunk::<EVENT_LEAF_BYTES>();
        StoredEntry::Event(leaf.expect(WHOLE), &self.events[at..at + length])
    }
}
