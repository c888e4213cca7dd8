//! Going through block files and dropping what a rule says.
//!
//! One file at a time, under the lock of the legal holds: they are read, the
//! file's blocks are looked through with their receipts from the log, and if
//! details go the file is written again without them ([`crate::storage::blockfile::Rewriter`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use tally_ledger::{
    codec::DecodeError,
    entry::{Entry, Receipt},
    ids::Height,
    redacted::{OtherReceipts, StoredBlock},
};

use super::{HoldsFile, Rule, holds::HoldError, rule::Fate};
use crate::{
    chain::{MAX_BODY, header_of},
    storage::{
        BlockReader, LogReader,
        blockfile::{BlockFileError, Rewriter},
        logfile::LogFileError,
    },
};

/// Why details cannot be dropped. What was not written again is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The block files.
    #[error(transparent)]
    Blocks(#[from] BlockFileError),
    /// The log's files.
    #[error(transparent)]
    Log(#[from] LogFileError),
    /// The legal holds.
    #[error(transparent)]
    Holds(#[from] HoldError),
    /// A stored block is no block.
    #[error("block {height} on disk is no block: {error}")]
    Form {
        /// Which.
        height: Height,
        /// Why.
        error: DecodeError,
    },
    /// The log has other receipts than the block has debits.
    #[error("block {height}: {error}; run `tally reindex`")]
    Receipts {
        /// Which.
        height: Height,
        /// Why.
        error: OtherReceipts,
    },
}

/// What was dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Details that went.
    pub dropped: u64,
    /// Details that would have gone but for a legal hold.
    pub held: u64,
    /// Blocks that lost details.
    pub blocks: u64,
    /// Files that were written again.
    pub files: u64,
    /// Bytes of these files before.
    pub before: u64,
    /// Bytes of these files after.
    pub after: u64,
}

impl Swept {
    /// Adds what another file lost.
    pub fn add(&mut self, other: &Swept) {
        self.dropped += other.dropped;
        self.held += other.held;
        self.blocks += other.blocks;
        self.files += other.files;
        self.before += other.before;
        self.after += other.after;
    }
}

/// Where details are dropped.
#[derive(Debug)]
pub struct Sweep {
    /// The block files.
    pub rewriter: Rewriter,
    /// The log's entries.
    pub log: LogReader,
    /// Who must be left alone.
    pub holds: HoldsFile,
}

impl Sweep {
    /// Drops details of the blocks of one file, from its `first` to `last`;
    /// with `dry` only says what would go, but for the bytes. The rule's holds
    /// are read anew.
    pub fn file(
        &self,
        first: Height,
        last: Height,
        rule: &mut Rule,
        dry: bool,
    ) -> Result<Swept, SweepError> {
        let _lock = self.holds.lock()?;
        rule.holds = self.holds.read()?;
        let mut swept = Swept::default();
        let bodies = self.plan(first, last, rule, &mut swept)?;
        swept.blocks = bodies.len() as u64;
        if !bodies.is_empty() && !dry {
            let sizes = self.rewriter.rewrite(first, &bodies)?;
            (swept.files, swept.before, swept.after) = (1, sizes.before, sizes.after);
        }
        Ok(swept)
    }

    /// The files that hold blocks below the rule's heights, the last one too,
    /// with their first block and the last below.
    pub fn files(&self, rule: &Rule) -> Result<Vec<(Height, Height)>, SweepError> {
        let end = rule.before.values().max().map_or(0, |height| height.0);
        let end = Height(end.saturating_sub(1));
        let reader = self.rewriter.reader();
        let mut files = Vec::new();
        for (first, _) in reader.files() {
            let last = reader.last_of(first)?.min(end);
            if first <= last {
                files.push((first, last));
            }
        }
        Ok(files)
    }

    /// The same as [`Sweep::file`] of all these files: nobody may append
    /// meanwhile.
    pub fn all(&self, rule: &mut Rule, dry: bool) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        for (first, last) in self.files(rule)? {
            swept.add(&self.file(first, last, rule, dry)?);
        }
        Ok(swept)
    }

    /// What blocks lose, and what is left of them.
    fn plan(
        &self,
        first: Height,
        last: Height,
        rule: &Rule,
        swept: &mut Swept,
    ) -> Result<BTreeMap<Height, Bytes>, SweepError> {
        let mut bodies = BTreeMap::new();
        let mut before = self.size_before(first)?;
        for height in (first.0..=last.0).map(Height) {
            let body = read(self.rewriter.reader(), height)?;
            let form = |error| SweepError::Form { height, error };
            let size = header_of(&body).map_err(form)?.log_size;
            let count = size.saturating_sub(before) as usize;
            let entries = self.log.range(before, count)?;
            before = size;
            let receipts = || entries.iter().filter_map(receipt);
            if !receipts().any(|receipt| rule.fate(receipt) != Fate::Stays) {
                continue;
            }
            let block = StoredBlock::decode(&body, MAX_BODY).map_err(form)?;
            let goes = |receipt: &Receipt| {
                let fate = rule.fate(receipt);
                swept.held += u64::from(fate == Fate::Held);
                fate == Fate::Goes
            };
            let left = block.redact(receipts(), goes);
            let left = left.map_err(|error| SweepError::Receipts { height, error })?;
            if let Some((block, dropped)) = left {
                swept.dropped += dropped;
                bodies.insert(height, block.encode().into());
            }
        }
        Ok(bodies)
    }

    /// Size of the log before a block.
    fn size_before(&self, height: Height) -> Result<u64, SweepError> {
        if height.0 <= 1 {
            return Ok(1);
        }
        let height = Height(height.0 - 1);
        let body = read(self.rewriter.reader(), height)?;
        let header = header_of(&body);
        Ok(header
            .map_err(|error| SweepError::Form { height, error })?
            .log_size)
    }
}

fn read(blocks: &BlockReader, height: Height) -> Result<Bytes, SweepError> {
    let record = blocks.read(height)?;
    Ok(record.expect("a block of a file that is there").body)
}

fn receipt(entry: &Entry) -> Option<&Receipt> {
    match entry {
        Entry::Receipt(receipt) => Some(receipt),
        Entry::Event(..) => None,
    }
}
