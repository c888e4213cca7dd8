//! Reading a journal back after a stop or crash.
//!
//! What follows the last fsync may be torn: it is cut. What was fsynced and
//! does not read back is damage, and the journal counts as lost from there
//! on. The two are told apart by `Synced` records: each batch says how much
//! of its segment was durable before it. So a bad record at offset p is a
//! torn tail unless a later good batch says that p was durable, or a later
//! segment exists (one is only begun when all before it is durable).
//!
//! Damage that is the very end of the last segment looks like a torn tail.
//! The chain tells: the gateway's proven leaf is then ahead of the journal,
//! unless what was lost was never sent; its holds are bounded by their leases.

use std::io;

use tally_ledger::{hash::Hash, ids::DebitNumber};

use super::{
    record::{Head, Record, SegmentHead},
    state::{State, Unproven},
    store::Store,
};

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// No journal was ever begun here.
    Nothing,
    /// All that was durable is here.
    Intact(Contents),
    /// Something durable is unreadable. What was read before it, if any.
    Damaged {
        /// The segment.
        segment: u64,
        /// Where in it.
        offset: u64,
        /// Up to there.
        readable: Option<Contents>,
    },
}

/// A journal's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Where the journal stood at the start of the first segment.
    pub start: Head,
    /// What the records add up to.
    pub state: State,
    /// The journal's debits in the files, in order.
    pub unproven: Vec<Unproven>,
    /// Its segments with the last debit at the end of each.
    pub segments: Vec<(u64, DebitNumber)>,
    /// Length of the last segment.
    pub length: u64,
}

/// Reads the journal and cuts a torn tail.
pub fn recover(store: &mut dyn Store) -> io::Result<Recovered> {
    let mut segments = Vec::new();
    for number in store.segments()? {
        segments.push((number, store.read(number)?));
    }
    // A segment without its snapshot's end was being begun.
    if let Some((number, bytes)) = segments.last()
        && !has_snapshot(bytes)
        && !durable_after(bytes, 0)
    {
        store.remove(*number)?;
        segments.pop();
    }
    if segments.is_empty() {
        return Ok(Recovered::Nothing);
    }
    let start = segments
        .iter()
        .rposition(|(_, bytes)| head_of(bytes).is_some_and(|head| head.first))
        .unwrap_or(0);
    let older: Vec<u64> = segments.drain(..start).map(|(number, _)| number).collect();
    for number in older {
        store.set_aside(number)?;
    }
    let mut reader = Reader::default();
    let last = segments.len() - 1;
    for (i, (number, bytes)) in segments.iter().enumerate() {
        let Err(offset) = reader.segment(*number, bytes) else {
            continue;
        };
        let torn = i == last && reader.contents.is_some() && !durable_after(bytes, offset);
        if !torn {
            return Ok(Recovered::Damaged {
                segment: *number,
                offset,
                readable: reader.contents,
            });
        }
        reader.close(*number, offset);
    }
    let contents = reader.contents.ok_or(io::ErrorKind::InvalidData)?;
    store.cut(segments[last].0, contents.length)?;
    Ok(Recovered::Intact(contents))
}

fn head_of(bytes: &[u8]) -> Option<SegmentHead> {
    match Record::read(bytes)?.0 {
        Record::Segment(head) => Some(head),
        _ => None,
    }
}

fn has_snapshot(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some((record, length)) = Record::read(&bytes[at..]) {
        if record == Record::SnapshotEnd {
            return true;
        }
        at += length;
    }
    false
}

/// Whether a good batch after `offset` says that `offset` was durable.
fn durable_after(bytes: &[u8], offset: u64) -> bool {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    (from + 1..bytes.len()).any(|at| {
        matches!(Record::read(&bytes[at..]),
            Some((Record::Synced { offset: durable }, _)) if durable > offset)
    })
}

#[derive(Default)]
struct Reader {
    contents: Option<Contents>,
}

impl Contents {
    /// The running hash after debit `number`, if the files tell.
    pub fn hash_at(&self, number: DebitNumber) -> Option<Hash> {
        if number == self.start.last {
            return Some(self.start.hash);
        }
        let debit = self.unproven.iter().find(|debit| debit.number == number)?;
        Some(debit.hash)
    }
}

impl Reader {
    /// Takes in a segment; the error is the offset of the first bad record.
    fn segment(&mut self, number: u64, bytes: &[u8]) -> Result<(), u64> {
        let Some((Record::Segment(head), mut at)) = Record::read(bytes) else {
            return Err(0);
        };
        let (mut unproven, mut segments, mut start) = (Vec::new(), Vec::new(), head.head);
        if let Some(before) = self.contents.take() {
            let expected = SegmentHead {
                first: head.first,
                ..before.state.base
            };
            if head != expected {
                self.contents = Some(before);
                return Err(0);
            }
            unproven = before.unproven;
            segments = before.segments;
            start = before.start;
        }
        let contents = self.contents.insert(Contents {
            start,
            state: State::new(head),
            unproven,
            segments,
            length: 0,
        });
        while at < bytes.len() {
            let Some((record, length)) = Record::read(&bytes[at..]) else {
                return Err(at as u64);
            };
            match contents.state.apply(&record) {
                Ok(debit) => contents.unproven.extend(debit),
                Err(_) => return Err(at as u64),
            }
            at += length;
        }
        self.close(number, at as u64);
        Ok(())
    }

    fn close(&mut self, number: u64, length: u64) {
        if let Some(contents) = &mut self.contents {
            let last = contents.state.head().last;
            contents.segments.push((number, last));
            contents.length = length;
        }
    }
}
