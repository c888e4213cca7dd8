//! The sealed segments of the index, in sled.

use std::path::Path;

use sled::{Batch, Db, Tree};
use tally_ledger::{ids::Height, transaction::TransactionId};

use super::{IndexError, tail::Tail};
use crate::view::{Listing, Place};

/// Entries of a posting chunk.
const CHUNK: usize = 16_384;
/// Items of a sorted run.
const RUN: usize = 2_048;

/// What sled holds.
#[derive(Debug)]
pub(super) struct Sealed {
    db: Db,
    segments: Tree,
    postings: Tree,
    transactions: Tree,
    holds: Tree,
    batches: Tree,
}

/// First bytes of the keys of a list.
fn list_key(listing: Listing) -> Option<[u8; 5]> {
    let (kind, number) = match listing {
        Listing::Account(number) => (1, number.0),
        Listing::Gateway(number) => (2, number.0),
        Listing::Class(number) => (3, number.0.into()),
        Listing::Control => (4, 0),
        Listing::All => return None,
    };
    Some(posting_key(kind, number))
}

fn posting_key(kind: u8, number: u32) -> [u8; 5] {
    let mut key = [kind; 5];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, IndexError> {
    let field = bytes.get(at..at + 8).ok_or(IndexError::Damaged)?;
    Ok(u64::from_be_bytes(field.try_into().expect("eight bytes")))
}

/// A key and its value in a sorted run.
type Item<const K: usize, const V: usize> = ([u8; K], [u8; V]);

/// Writes sorted items in runs, `K` bytes of key and `V` of value each.
fn write_runs<const K: usize, const V: usize>(
    tree: &Tree,
    segment: u64,
    items: &[Item<K, V>],
) -> Result<(), IndexError> {
    let mut batch = Batch::default();
    for run in items.chunks(RUN) {
        let mut key = segment.to_be_bytes().to_vec();
        key.extend_from_slice(&run[0].0);
        let mut value = Vec::with_capacity(run.len() * (K + V));
        for (item, place) in run {
            value.extend_from_slice(item);
            value.extend_from_slice(place);
        }
        batch.insert(key, value);
    }
    Ok(tree.apply_batch(batch)?)
}

/// The last item of a segment whose key is not above `key`.
fn floor<const K: usize, const V: usize>(
    tree: &Tree,
    segment: u64,
    key: &[u8; K],
) -> Result<Option<Item<K, V>>, IndexError> {
    let start = segment.to_be_bytes().to_vec();
    let end = [&start[..], key].concat();
    let Some((_, run)) = tree.range(start..=end).next_back().transpose()? else {
        return Ok(None);
    };
    if run.len() % (K + V) != 0 {
        return Err(IndexError::Damaged);
    }
    let items: Vec<&[u8]> = run.chunks_exact(K + V).collect();
    let after = items.partition_point(|item| item[..K] <= key[..]);
    let item = after.checked_sub(1).map(|at| items[at]);
    Ok(item.map(|item| {
        let (key, value) = item.split_at(K);
        let key = key.try_into().expect("split at its length");
        (key, value.try_into().expect("the rest of an item"))
    }))
}

impl Sealed {
    pub(super) fn open(folder: &Path) -> Result<Self, IndexError> {
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(64 << 20)
            .flush_every_ms(None)
            .open()?;
        Ok(Self {
            segments: db.open_tree("segments")?,
            postings: db.open_tree("postings")?,
            transactions: db.open_tree("transactions")?,
            holds: db.open_tree("holds")?,
            batches: db.open_tree("batches")?,
            db,
        })
    }

    /// Where the sealed part ends: log index and height.
    pub(super) fn end(&self) -> Result<(u64, Height), IndexError> {
        match self.segments.last()? {
            Some((_, value)) => Ok((u64_at(&value, 0)?, Height(u64_at(&value, 8)?))),
            None => Ok((0, Height(0))),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) -> Result<(), IndexError> {
        let trees = [
            &self.segments,
            &self.postings,
            &self.transactions,
            &self.holds,
            &self.batches,
        ];
        trees.into_iter().try_for_each(Tree::clear)?;
        self.db.flush()?;
        Ok(())
    }

    /// Writes a tail; it counts from when its segment is there.
    pub(super) fn write(&self, tail: &Tail) -> Result<(), IndexError> {
        self.write_postings(tail)?;
        let place = |place: &Place| {
            let mut value = [0; 12];
            value[..8].copy_from_slice(&place.height.0.to_be_bytes());
            value[8..].copy_from_slice(&place.index.to_be_bytes());
            value
        };
        let mut items: Vec<Item<32, 12>> = tail
            .transactions
            .iter()
            .map(|(id, at)| (id.0, place(at)))
            .collect();
        items.sort_unstable();
        write_runs(&self.transactions, tail.start, &items)?;
        let entry = |entry: &u32| (tail.start + u64::from(*entry)).to_be_bytes();
        let mut items: Vec<Item<16, 8>> = tail
            .holds
            .iter()
            .map(|(key, at)| (*key, entry(at)))
            .collect();
        items.sort_unstable();
        write_runs(&self.holds, tail.start, &items)?;
        let items: Vec<Item<16, 8>> = tail
            .batches
            .iter()
            .map(|(key, at)| (*key, entry(at)))
            .collect();
        write_runs(&self.batches, tail.start, &items)?;
        self.db.flush()?;
        let value = [tail.end().to_be_bytes(), tail.height.0.to_be_bytes()].concat();
        self.segments.insert(tail.start.to_be_bytes(), value)?;
        self.db.flush()?;
        Ok(())
    }

    fn write_postings(&self, tail: &Tail) -> Result<(), IndexError> {
        let control = [(0, tail.control.as_slice())];
        let lists = (tail.accounts.iter().map(|(n, list)| (1, n, list)))
            .chain(tail.gateways.iter().map(|(n, list)| (2, n, list)))
            .chain(tail.classes.iter().map(|(n, list)| (3, n, list)))
            .chain(control.into_iter().map(|(n, list)| (4, n, list)));
        let mut batch = Batch::default();
        for (kind, number, list) in lists {
            for chunk in list.chunks(CHUNK) {
                let first = chunk[0];
                let index = tail.start + u64::from(first);
                let key = [&posting_key(kind, number)[..], &index.to_be_bytes()].concat();
                let value: Vec<u8> = chunk
                    .iter()
                    .flat_map(|entry| (entry - first).to_be_bytes())
                    .collect();
                batch.insert(key, value);
            }
        }
        Ok(self.postings.apply_batch(batch)?)
    }

    /// Asks every segment, latest first.
    fn in_segments<T>(
        &self,
        ask: impl Fn(u64) -> Result<Option<T>, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        for segment in self.segments.iter().rev() {
            let found = ask(u64_at(&segment?.0, 0)?)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    pub(super) fn transaction(&self, id: &TransactionId) -> Result<Option<Place>, IndexError> {
        self.in_segments(|segment| {
            let found = floor::<32, 12>(&self.transactions, segment, &id.0)?;
            Ok(found
                .filter(|(key, _)| *key == id.0)
                .map(|(_, value)| Place {
                    height: Height(u64::from_be_bytes(
                        value[..8].try_into().expect("eight bytes"),
                    )),
                    index: u32::from_be_bytes(value[8..].try_into().expect("four bytes")),
                }))
        })
    }

    pub(super) fn hold(&self, key: &[u8; 16]) -> Result<Option<u64>, IndexError> {
        self.in_segments(|segment| {
            let found = floor::<16, 8>(&self.holds, segment, key)?;
            Ok(found
                .filter(|(found, _)| found == key)
                .map(|(_, at)| u64::from_be_bytes(at)))
        })
    }

    pub(super) fn batch(&self, key: &[u8; 16]) -> Result<Option<u64>, IndexError> {
        self.in_segments(|segment| {
            let found = floor::<16, 8>(&self.batches, segment, key)?;
            let found = found.filter(|(found, _)| found[..8] == key[..8]);
            Ok(found.map(|(_, at)| u64::from_be_bytes(at)))
        })
    }

    /// Appends entries of a listing in `from..to`, `limit` at most.
    pub(super) fn list(
        &self,
        listing: Listing,
        from: u64,
        to: u64,
        limit: usize,
        out: &mut Vec<u64>,
    ) -> Result<(), IndexError> {
        let Some(list) = list_key(listing) else {
            return Ok(());
        };
        let key = |index: u64| [&list[..], &index.to_be_bytes()].concat();
        // The chunk that holds `from` may begin before it.
        let before = self
            .postings
            .range(key(0)..=key(from))
            .next_back()
            .transpose()?;
        let start = before.map_or_else(|| key(from), |(key, _)| key.to_vec());
        for chunk in self.postings.range(start..key(to)) {
            let (key, value) = chunk?;
            let first = u64_at(&key, 5)?;
            for entry in value.chunks_exact(4) {
                if out.len() >= limit {
                    return Ok(());
                }
                let entry = u32::from_be_bytes(entry.try_into().expect("chunks of four"));
                let index = first + u64::from(entry);
                if (from..to).contains(&index) {
                    out.push(index);
                }
            }
        }
        Ok(())
    }

    /// The last entry of a listing before an index.
    pub(super) fn last_before(
        &self,
        listing: Listing,
        index: u64,
    ) -> Result<Option<u64>, IndexError> {
        let Some(list) = list_key(listing) else {
            return Ok(None);
        };
        let key = |index: u64| [&list[..], &index.to_be_bytes()].concat();
        // Chunks are keyed by their first entry, which is never empty.
        let Some((key, value)) = self
            .postings
            .range(key(0)..key(index))
            .next_back()
            .transpose()?
        else {
            return Ok(None);
        };
        let first = u64_at(&key, 5)?;
        let entries = value.chunks_exact(4).rev();
        let mut entries = entries.map(|entry| {
            first
                + u64::from(u32::from_be_bytes(
                    entry.try_into().expect("chunks of four"),
                ))
        });
        Ok(entries.find(|entry| *entry < index))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}
