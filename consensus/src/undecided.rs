//! Bodies of blocks that are not decided yet, durable before this node votes
//! for one or proposes it. The engine's log holds only their ids.
//!
//! One append-only file, emptied with each commit:
//!
//! ```text
//! magic "tallyund", version u32 (1)
//! then records: length u32, CRC32C u32, and of that length, under the CRC:
//!   height u64, round u32, own u8, id 32, body
//! ```
//!
//! Integers are little-endian. `own` is 1 for what this node proposes in that
//! round. A record without a body repeats the body of an earlier one with the
//! same id. A torn or damaged record ends the file when it is opened: what is
//! lost is fetched by value sync if it gets decided.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tally_ledger::{hash::Hash, ids::Height};

use crate::{
    disk::{Disk, DiskFile, sync_parent},
    handle::ConsensusError,
};

const FILE: &str = "undecided";
const HEADER: &[u8; 12] = b"tallyund\x01\x00\x00\x00";
const FIXED: usize = 8 + 4 + 1 + 32;

/// A body and where it was proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The height.
    pub(crate) height: Height,
    /// The round.
    pub(crate) round: u32,
    /// Proposed by this node.
    pub(crate) own: bool,
    /// The id that its header claims.
    pub(crate) id: Hash,
    /// The body.
    pub(crate) body: Bytes,
}

/// The open file, and all of it in memory.
#[derive(Debug)]
pub(crate) struct Undecided {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    entries: Vec<Entry>,
    length: u64,
}

impl Undecided {
    /// Opens or creates the file in `home`; keeps what is above `committed`.
    pub(crate) fn open(
        disk: &dyn Disk,
        home: &Path,
        committed: Height,
    ) -> Result<Self, ConsensusError> {
        let path = home.join(FILE);
        Self::open_file(disk, &path, committed)
            .map_err(|error| ConsensusError::File { path, error })
    }

    fn open_file(disk: &dyn Disk, path: &Path, committed: Height) -> io::Result<Self> {
        let file = disk.open(path, true)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(&mut bytes, 0)?;
        if !bytes.starts_with(HEADER) {
            file.set_len(0)?;
            file.write_at(HEADER, 0)?;
            file.sync()?;
            sync_parent(disk, path)?;
            bytes = HEADER.to_vec();
        }
        let (mut entries, length) = read_all(&Bytes::from(bytes));
        entries.retain(|entry| entry.height > committed);
        file.set_len(length)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            entries,
            length,
        })
    }

    /// Makes a body durable; nothing is written for one that is there.
    pub(crate) fn put(&mut self, entry: Entry) -> Result<(), ConsensusError> {
        let known = self.body(entry.height, &entry.id).is_some();
        let same = |e: &Entry| e.height == entry.height && e.round == entry.round && e.own;
        if known && (!entry.own || self.entries.iter().any(same)) {
            return Ok(());
        }
        let record = encode(&entry, known);
        self.append(&record).map_err(|error| ConsensusError::File {
            path: self.path.clone(),
            error,
        })?;
        self.entries.push(entry);
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_at(record, self.length)?;
        self.file.sync()?;
        self.length += record.len() as u64;
        Ok(())
    }

    /// What this node proposed in a round.
    pub(crate) fn own(&self, height: Height, round: u32) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|e| e.own && e.height == height && e.round == round)
    }

    /// What was proposed in a round.
    pub(crate) fn of_round(&self, height: Height, round: u32) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |e| e.height == height && e.round == round)
    }

    /// A body by its id.
    pub(crate) fn body(&self, height: Height, id: &Hash) -> Option<&Bytes> {
        self.entries
            .iter()
            .find(|e| e.height == height && e.id == *id)
            .map(|e| &e.body)
    }

    /// Forgets everything up to a committed height. The file need not be
    /// durably shorter: old heights are skipped when it is opened.
    pub(crate) fn commit(&mut self, committed: Height) -> Result<(), ConsensusError> {
        self.entries.retain(|entry| entry.height > committed);
        let header = HEADER.len() as u64;
        if self.entries.is_empty() && self.length > header {
            self.file
                .set_len(header)
                .map_err(|error| ConsensusError::File {
                    path: self.path.clone(),
                    error,
                })?;
            self.length = header;
        }
        Ok(())
    }
}

fn encode(entry: &Entry, known: bool) -> Vec<u8> {
    let body: &[u8] = if known { &[] } else { &entry.body };
    let mut record = Vec::with_capacity(8 + FIXED + body.len());
    record.extend_from_slice(&((FIXED + body.len()) as u32).to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&entry.height.0.to_le_bytes());
    record.extend_from_slice(&entry.round.to_le_bytes());
    record.push(u8::from(entry.own));
    record.extend_from_slice(entry.id.as_bytes());
    record.extend_from_slice(body);
    let crc = crc32c::crc32c(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    record
}

/// The records up to the first bad one, and where they end.
fn read_all(bytes: &Bytes) -> (Vec<Entry>, u64) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = HEADER.len();
    while let Some((mut entry, length)) = read_one(&bytes.slice(at..)) {
        if entry.body.is_empty()
            && let Some(earlier) = entries.iter().find(|e| e.id == entry.id)
        {
            entry.body = earlier.body.clone();
        }
        entries.push(entry);
        at += length;
    }
    (entries, at as u64)
}

fn read_one(bytes: &Bytes) -> Option<(Entry, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let end = length.checked_add(8)?;
    let record = bytes.get(8..end)?;
    if length < FIXED || crc != crc32c::crc32c(record) {
        return None;
    }
    let entry = Entry {
        height: Height(u64::from_le_bytes(record[..8].try_into().ok()?)),
        round: u32::from_le_bytes(record[8..12].try_into().ok()?),
        own: record[12] == 1,
        id: Hash(record[13..FIXED].try_into().ok()?),
        body: bytes.slice(8 + FIXED..end),
    };
    Some((entry, end))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::RealDisk;

    fn entry(height: u64, round: u32, own: bool, byte: u8) -> Entry {
        let body = Bytes::from(vec![byte; 10 + usize::from(byte)]);
        Entry {
            height: Height(height),
            round,
            own,
            id: Hash([byte; 32]),
            body,
        }
    }

    #[test]
    fn bodies_survive_reopening_and_go_with_the_commit() {
        let home = tempfile::tempdir().unwrap();
        let mut store = Undecided::open(&RealDisk, home.path(), Height(4)).unwrap();
        let all = [
            entry(5, 0, false, 1),
            entry(5, 1, true, 2),
            entry(5, 2, true, 1),
        ];
        for entry in &all {
            store.put(entry.clone()).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(store.own(Height(5), 1), Some(&all[1]));
            assert_eq!(store.own(Height(5), 2), Some(&all[2]));
            assert_eq!(store.own(Height(5), 0), None);
            assert_eq!(store.body(Height(5), &all[0].id), Some(&all[0].body));
            assert_eq!(store.of_round(Height(5), 0).count(), 1);
            drop(store);
            store = Undecided::open(&RealDisk, home.path(), Height(4)).unwrap();
        }
        store.commit(Height(5)).unwrap();
        assert_eq!(store.body(Height(5), &all[0].id), None);
        store.put(entry(6, 0, false, 9)).unwrap();
        let store = Undecided::open(&RealDisk, home.path(), Height(5)).unwrap();
        assert_eq!(store.entries, [entry(6, 0, false, 9)]);
    }

    #[test]
    fn a_body_is_written_once() {
        let home = tempfile::tempdir().unwrap();
        let mut store = Undecided::open(&RealDisk, home.path(), Height(0)).unwrap();
        store.put(entry(1, 0, false, 1)).unwrap();
        let length = store.length;
        store.put(entry(1, 1, false, 1)).unwrap();
        assert_eq!(store.length, length);
        store.put(entry(1, 1, true, 1)).unwrap();
        assert_eq!(store.length, length + 8 + FIXED as u64);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_ends_the_file_at_a_whole_record() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let all = [entry(1, 0, true, 3), entry(1, 1, false, 4)];
        let mut store = Undecided::open(&RealDisk, home.path(), Height(0)).unwrap();
        let mut ends = vec![HEADER.len()];
        for entry in &all {
            store.put(entry.clone()).unwrap();
            ends.push(store.length as usize);
        }
        let good = fs::read(&path).unwrap();
        let whole = |place: usize| ends.iter().filter(|end| **end <= place).count().max(1) - 1;
        for place in 0..good.len() {
            for cut in [true, false] {
                let mut bad = good.clone();
                if cut {
                    bad.truncate(place);
                } else {
                    bad[place] ^= 0x80;
                }
                fs::write(&path, &bad).unwrap();
                let store = Undecided::open(&RealDisk, home.path(), Height(0)).unwrap();
                assert_eq!(
                    store.entries,
                    all[..whole(place)],
                    "byte {place}, cut {cut}"
                );
                if place % 7 != 0 {
                    continue;
                }
                drop(store);
                let mut store = Undecided::open(&RealDisk, home.path(), Height(0)).unwrap();
                store.put(entry(1, 7, true, 5)).unwrap();
                let store = Undecided::open(&RealDisk, home.path(), Height(0)).unwrap();
                assert_eq!(store.entries.len(), whole(place) + 1);
            }
        }
    }
}
