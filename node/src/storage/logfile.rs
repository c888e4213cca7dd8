//! The log's entries, by index, and the hashes that make proofs cheap.
//!
//! Derived from the blocks and not fsynced with them: on opening, the files
//! are cut to a size at which they are known to be on disk (a snapshot's),
//! and the blocks after that are executed again.
//!
//! ```text
//! leaves:  a slot of 88 bytes per entry
//!          kind u8 = 1 | receipt's leaf 86 | check u8
//!          kind u8 = 2 | event's leaf 58 | offset u64 | length u32 | 0 .. | check u8
//! events:  canonical bytes of events, at those offsets
//! tiles-8, tiles-16, tiles-24:
//!          roots of the complete subtrees of 2^8, 2^16, 2^24 leaves, 32 each
//! ```
//!
//! `check` is the lowest byte of the CRC32C of the slot's first 87. A path
//! reads at most 255 neighbours per level of tiles: well below 100 us.

mod walk;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tally_ledger::{
    codec,
    entry::{EVENT_LEAF_BYTES, Entry, Event, EventLeaf, RECEIPT_LEAF_BYTES, Receipt},
    hash::Hash,
    merkle::{self, Frontier, leaf_hash},
};

use super::disk::{Disk, DiskFile};

pub use walk::{LogWalk, Slots};

const SLOT: usize = 88;
const RECEIPT: u8 = 1;
const EVENT: u8 = 2;
/// Levels of which complete subtrees are kept.
const TILES: [u32; 3] = [8, 16, 24];
/// Most bytes of an event.
const MAX_EVENT: usize = 1 << 20;

/// Why the log's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogFileError {
    /// A file cannot be read or written.
    #[error("{path}: {error}; make room and check the disk, then start the node again")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// What is there cannot be: these files can be made again.
    #[error("{path} is damaged at entry {index}: run `tally reindex`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        index: u64,
    },
}

#[derive(Debug)]
struct NamedFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl NamedFile {
    fn open(disk: &dyn Disk, path: PathBuf) -> Result<Self, LogFileError> {
        match disk.open(&path, true) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(LogFileError::File { path, error }),
        }
    }

    fn check<T>(&self, result: io::Result<T>) -> Result<T, LogFileError> {
        result.map_err(|error| LogFileError::File {
            path: self.path.clone(),
            error,
        })
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, LogFileError> {
        let mut bytes = vec![0; length];
        self.check(self.file.read_at(&mut bytes, offset))?;
        Ok(bytes)
    }
}

#[derive(Debug)]
struct Files {
    leaves: NamedFile,
    events: NamedFile,
    tiles: [NamedFile; TILES.len()],
    size: AtomicU64,
}

impl Files {
    fn open(disk: &dyn Disk, folder: &Path) -> Result<Self, LogFileError> {
        let tile = |level| NamedFile::open(disk, folder.join(format!("tiles-{level}")));
        Ok(Files {
            leaves: NamedFile::open(disk, folder.join("leaves"))?,
            events: NamedFile::open(disk, folder.join("events"))?,
            tiles: [tile(TILES[0])?, tile(TILES[1])?, tile(TILES[2])?],
            size: AtomicU64::new(0),
        })
    }
}

/// Reads entries and makes paths; cheap to clone, from any thread.
#[derive(Debug, Clone)]
pub struct LogReader(Arc<Files>);

/// The open files; one owner writes.
#[derive(Debug)]
pub struct LogFiles {
    files: Arc<Files>,
    frontier: Frontier,
    events_end: u64,
}

fn check_byte(slot: &[u8]) -> u8 {
    crc32c::crc32c(&slot[..SLOT - 1]) as u8
}

/// Bytes collected for one write per file.
#[derive(Default)]
struct Writes {
    leaves: Vec<u8>,
    events: Vec<u8>,
    tiles: [Vec<u8>; TILES.len()],
}

impl Writes {
    fn add(&mut self, entry: &Entry, events_start: u64) {
        let mut slot = [0; SLOT];
        match entry {
            Entry::Receipt(receipt) => {
                slot[0] = RECEIPT;
                slot[1..=RECEIPT_LEAF_BYTES].copy_from_slice(&receipt.leaf());
            }
            Entry::Event(leaf, event) => {
                let bytes = event.encode();
                let offset = events_start + self.events.len() as u64;
                slot[0] = EVENT;
                slot[1..=EVENT_LEAF_BYTES].copy_from_slice(&leaf.leaf());
                slot[59..67].copy_from_slice(&offset.to_le_bytes());
                slot[67..71].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
                self.events.extend_from_slice(&bytes);
            }
        }
        slot[SLOT - 1] = check_byte(&slot);
        self.leaves.extend_from_slice(&slot);
    }
}

impl LogFiles {
    /// Opens the files of a folder, cut to the log that `frontier` describes.
    /// `None`: they hold less than that, or something else.
    pub fn open(
        disk: &dyn Disk,
        folder: &Path,
        frontier: &Frontier,
    ) -> Result<Option<Self>, LogFileError> {
        disk.list(folder).map_err(|error| LogFileError::File {
            path: folder.into(),
            error,
        })?;
        let files = Files::open(disk, folder)?;
        let size = frontier.size();
        let mut lengths = vec![(&files.leaves, size * SLOT as u64)];
        for (file, level) in files.tiles.iter().zip(TILES) {
            lengths.push((file, (size >> level) * 32));
        }
        for (file, wanted) in &lengths {
            if file.check(file.file.len())? < *wanted {
                return Ok(None);
            }
        }
        for (file, wanted) in lengths {
            file.check(file.file.set_len(wanted))?;
        }
        files.size.store(size, Ordering::Release);
        let reader = LogReader(Arc::new(files));
        let Ok(events_end) = reader.events_end(size) else {
            return Ok(None);
        };
        let events = &reader.0.events;
        if events.check(events.file.len())? < events_end {
            return Ok(None);
        }
        events.check(events.file.set_len(events_end))?;
        Ok(Some(Self {
            files: reader.0,
            frontier: frontier.clone(),
            events_end,
        }))
    }

    /// For whoever reads.
    pub fn reader(&self) -> LogReader {
        LogReader(self.files.clone())
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Root of the log.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Adds entries with the hashes of their leaves. Not durable before the
    /// next [`LogReader::sync`].
    pub fn append(&mut self, entries: &[Entry], leaf_hashes: &[Hash]) -> Result<(), LogFileError> {
        assert_eq!(entries.len(), leaf_hashes.len(), "one hash per entry");
        let start = self.frontier.size();
        let mut writes = Writes::default();
        writes.leaves.reserve(entries.len() * SLOT);
        for (entry, hash) in entries.iter().zip(leaf_hashes) {
            writes.add(entry, self.events_end);
            self.frontier.append_seen(*hash, |level, _, root| {
                if let Some(tile) = TILES.iter().position(|l| *l == level) {
                    writes.tiles[tile].extend_from_slice(&root.0);
                }
            });
        }
        let write = |file: &NamedFile, bytes: &[u8], offset| {
            if bytes.is_empty() {
                return Ok(());
            }
            file.check(file.file.write_at(bytes, offset))
        };
        let files = &self.files;
        write(&files.leaves, &writes.leaves, start * SLOT as u64)?;
        write(&files.events, &writes.events, self.events_end)?;
        for (i, level) in TILES.into_iter().enumerate() {
            write(&files.tiles[i], &writes.tiles[i], (start >> level) * 32)?;
        }
        self.events_end += writes.events.len() as u64;
        files.size.store(self.frontier.size(), Ordering::Release);
        Ok(())
    }
}

impl LogReader {
    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.0.size.load(Ordering::Acquire)
    }

    /// Makes everything so far durable.
    pub fn sync(&self) -> Result<(), LogFileError> {
        let files = [&self.0.leaves, &self.0.events];
        let mut files = files.into_iter().chain(&self.0.tiles);
        files.try_for_each(|file| file.check(file.file.sync()))
    }

    /// The entry at an index; `None` past the end.
    pub fn read(&self, index: u64) -> Result<Option<Entry>, LogFileError> {
        Ok(self.range(index, 1)?.pop())
    }

    /// At most `count` entries from `from` on.
    pub fn range(&self, from: u64, count: usize) -> Result<Vec<Entry>, LogFileError> {
        let slots = self.slots(from, count as u64)?;
        let entry = |(i, slot)| self.entry(from + i as u64, slot);
        slots.chunks_exact(SLOT).enumerate().map(entry).collect()
    }

    fn slots(&self, from: u64, count: u64) -> Result<Vec<u8>, LogFileError> {
        let count = count.min(self.size().saturating_sub(from));
        if count == 0 {
            // `from` may be any number, of whoever asks.
            return Ok(Vec::new());
        }
        self.0
            .leaves
            .read(from * SLOT as u64, count as usize * SLOT)
    }

    fn damaged(&self, index: u64) -> LogFileError {
        LogFileError::Damaged {
            path: self.0.leaves.path.clone(),
            index,
        }
    }

    /// Bytes of a slot's leaf.
    fn leaf<'a>(&self, index: u64, slot: &'a [u8]) -> Result<&'a [u8], LogFileError> {
        if slot[SLOT - 1] != check_byte(slot) {
            return Err(self.damaged(index));
        }
        match slot[0] {
            RECEIPT => Ok(&slot[1..=RECEIPT_LEAF_BYTES]),
            EVENT => Ok(&slot[1..=EVENT_LEAF_BYTES]),
            _ => Err(self.damaged(index)),
        }
    }

    fn event_place(slot: &[u8]) -> (u64, usize) {
        let offset = u64::from_le_bytes(slot[59..67].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(slot[67..71].try_into().expect("four bytes"));
        (offset, length as usize)
    }

    fn entry(&self, index: u64, slot: &[u8]) -> Result<Entry, LogFileError> {
        let leaf = self.leaf(index, slot)?;
        let damaged = || self.damaged(index);
        if slot[0] == RECEIPT {
            return Receipt::from_leaf(leaf)
                .map(Entry::Receipt)
                .ok_or_else(damaged);
        }
        let leaf = EventLeaf::from_leaf(leaf).ok_or_else(damaged)?;
        let (offset, length) = Self::event_place(slot);
        if length > MAX_EVENT {
            return Err(damaged());
        }
        let bytes = self.0.events.read(offset, length)?;
        let event: Event = codec::decode(&bytes, MAX_EVENT).map_err(|_| damaged())?;
        if event.hash() != leaf.event {
            return Err(damaged());
        }
        Ok(Entry::Event(leaf, event))
    }

    /// Where the events of the first `size` entries end.
    fn events_end(&self, size: u64) -> Result<u64, LogFileError> {
        let mut end = size;
        while end > 0 {
            let from = end.saturating_sub(4096);
            let slots = self.slots(from, end - from)?;
            for (i, slot) in slots.chunks_exact(SLOT).enumerate().rev() {
                self.leaf(from + i as u64, slot)?;
                if slot[0] == EVENT {
                    let (offset, length) = Self::event_place(slot);
                    return Ok(offset + length as u64);
                }
            }
            end = from;
        }
        Ok(0)
    }

    /// The root of a complete subtree, as [`Frontier::append_seen`] names
    /// them.
    pub fn subtree(&self, level: u32, index: u64) -> Result<Hash, LogFileError> {
        let kept = TILES.iter().rposition(|kept| *kept <= level);
        let below = kept.map_or(0, |tile| TILES[tile]);
        let count = 1u64 << (level - below);
        let start = index << (level - below);
        let mut frontier = Frontier::new();
        match kept {
            Some(tile) => {
                let bytes = self.0.tiles[tile].read(start * 32, count as usize * 32)?;
                for hash in bytes.chunks_exact(32) {
                    frontier.append(Hash(hash.try_into().expect("chunks of 32")));
                }
            }
            None => {
                let slots = self.slots(start, count)?;
                for (i, slot) in slots.chunks_exact(SLOT).enumerate() {
                    frontier.append(leaf_hash(self.leaf(start + i as u64, slot)?));
                }
            }
        }
        Ok(frontier.root())
    }

    /// The leaves of entries, as the log's tree has them; fewer past the end.
    pub fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, LogFileError> {
        let slots = self.slots(from, count)?;
        let leaf = |(i, slot)| self.leaf(from + i as u64, slot).map(<[u8]>::to_vec);
        slots.chunks_exact(SLOT).enumerate().map(leaf).collect()
    }

    /// Root of the log of the first `size` entries.
    ///
    /// # Panics
    /// Unless `size <= self.size()`.
    pub fn root(&self, size: u64) -> Result<Hash, LogFileError> {
        assert!(size <= self.size(), "a log of {size} entries is not here");
        merkle::tree_root(size, |level, index| self.subtree(level, index))
    }

    /// Inclusion path of an entry in the log of the first `size` ones.
    ///
    /// # Panics
    /// Unless `index < size <= self.size()`.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, LogFileError> {
        assert!(size <= self.size(), "a log of {size} entries is not here");
        merkle::inclusion_path(index, size, |level, index| self.subtree(level, index))
    }

    /// The hashes that show entries, by ascending indexes, in the log of the
    /// first `size` ones.
    ///
    /// # Panics
    /// Unless every index is below `size <= self.size()`.
    pub fn multi(&self, indexes: &[u64], size: u64) -> Result<Vec<Hash>, LogFileError> {
        assert!(size <= self.size(), "a log of {size} entries is not here");
        merkle::multi_path(indexes, size, |level, index| self.subtree(level, index))
    }

    /// Consistency path between two sizes of the log.
    ///
    /// # Panics
    /// Unless `old <= new <= self.size()`.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LogFileError> {
        assert!(new <= self.size(), "a log of {new} entries is not here");
        merkle::consistency_path(old, new, |level, index| self.subtree(level, index))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let files = [&self.0.leaves, &self.0.events];
        let files = files.into_iter().chain(&self.0.tiles);
        files.map(|file| file.file.len().unwrap_or(0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tally_ledger::{
        debit::{Flags, Position},
        ids::{
            AccountNumber, Amount, ClassNumber, DebitNumber, GatewayNumber, Height, JournalNumber,
        },
        merkle::{Levels, verify_consistency, verify_inclusion},
    };

    use super::*;
    use crate::storage::disk::RealDisk;

    /// Every seventh is an event.
    fn entry(index: u64) -> Entry {
        if index.is_multiple_of(7) {
            let event = Event::ParametersSet {
                transaction: Hash([index as u8; 32]),
            };
            let leaf = EventLeaf {
                kind: event.kind(),
                height: Height(index / 10),
                account: AccountNumber::NONE,
                entry: 0,
                control: index / 7 + 1,
                event: event.hash(),
            };
            return Entry::Event(leaf, event);
        }
        Entry::Receipt(Receipt {
            flags: Flags(0),
            height: Height(index / 10),
            account: AccountNumber(index as u32 % 5),
            entry: index as u32,
            position: Position {
                gateway: GatewayNumber(0),
                journal: JournalNumber(1),
                number: DebitNumber(index),
            },
            class: ClassNumber(0),
            cost: Amount(index),
            charged: Amount(index),
            detail: Hash([9; 32]),
        })
    }

    fn fill(files: &mut LogFiles, to: u64) {
        while files.size() < to {
            let end = (files.size() + 37).min(to);
            let entries: Vec<_> = (files.size()..end).map(entry).collect();
            let hashes: Vec<_> = entries.iter().map(Entry::leaf_hash).collect();
            files.append(&entries, &hashes).unwrap();
        }
    }

    fn levels(size: u64) -> Levels {
        Levels::of((0..size).map(|i| entry(i).leaf_hash()))
    }

    #[test]
    fn entries_and_paths_are_those_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = LogFiles::open(&RealDisk, folder.path(), &Frontier::new())
            .unwrap()
            .unwrap();
        let size = 66_000;
        fill(&mut files, size);
        let (log, reader) = (levels(size), files.reader());
        assert_eq!(files.root(), log.root());
        assert_eq!(reader.size(), size);
        for index in (0..size)
            .step_by(997)
            .chain([0, 255, 256, 65_535, 65_536, size - 1])
        {
            assert_eq!(reader.read(index).unwrap(), Some(entry(index)));
            for size in [index + 1, (index + 300).min(size), size] {
                let path = reader.inclusion(index, size).unwrap();
                assert_eq!(path, log.inclusion(index, size).unwrap());
                let root = levels_root(&log, size);
                assert!(verify_inclusion(
                    &entry(index).leaf_hash(),
                    index,
                    size,
                    &path,
                    &root
                ));
            }
        }
        for (old, new) in [
            (0, size),
            (1, 2),
            (300, 65_536),
            (65_537, size),
            (size, size),
        ] {
            let path = reader.consistency(old, new).unwrap();
            let (a, b) = (levels_root(&log, old), levels_root(&log, new));
            assert!(verify_consistency(old, new, &a, &b, &path));
        }
        assert_eq!(reader.range(size - 2, 10).unwrap().len(), 2);
        assert_eq!(reader.range(u64::MAX, 1).unwrap().len(), 0);
        assert_eq!(reader.read(size).unwrap(), None);
    }

    fn levels_root(log: &Levels, size: u64) -> Hash {
        let leaves: Vec<_> = (0..size).map(|i| log.subtree(0, i).unwrap()).collect();
        merkle::root_of(&leaves)
    }

    #[test]
    fn reopened_at_an_earlier_size_it_goes_on_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut frontier = Frontier::new();
        (0..1000).for_each(|i| frontier.append(entry(i).leaf_hash()));
        let open =
            |frontier: &Frontier| LogFiles::open(&RealDisk, folder.path(), frontier).unwrap();
        let mut files = open(&Frontier::new()).unwrap();
        fill(&mut files, 1500);
        drop(files);
        let mut files = open(&frontier).unwrap();
        assert_eq!(files.size(), 1000);
        fill(&mut files, 1700);
        assert_eq!(files.root(), levels(1700).root());
        for index in [0, 994, 999, 1000, 1001, 1699] {
            assert_eq!(files.reader().read(index).unwrap(), Some(entry(index)));
        }
        drop(files);
        (1000..2000).for_each(|i| frontier.append(entry(i).leaf_hash()));
        assert!(open(&frontier).is_none(), "it does not have 2000");
    }

    #[test]
    fn damage_is_named_and_never_served() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = LogFiles::open(&RealDisk, folder.path(), &Frontier::new())
            .unwrap()
            .unwrap();
        fill(&mut files, 20);
        for (name, place) in [
            ("leaves", 7 * SLOT + 20),
            ("leaves", 5 * SLOT + 40),
            ("events", 10),
        ] {
            let path = folder.path().join(name);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[place] ^= 4;
            fs::write(&path, &bad).unwrap();
            let index = if name == "events" {
                0
            } else {
                place as u64 / SLOT as u64
            };
            let error = files.reader().read(index).unwrap_err();
            assert!(error.to_string().contains("tally reindex"), "{error}");
            fs::write(&path, &good).unwrap();
            files.reader().read(index).unwrap();
        }
    }
}
