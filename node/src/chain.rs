//! The committed chain as everybody on this node reads it: the state, the
//! history on disk, and the blocks of the last moments in memory.
//!
//! One owner changes it (the application, through [`crate::store::Store`]);
//! all others read. Nothing shows here before its block and certificate are
//! fsynced.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tally_ledger::{
    block::{Certificate, Header},
    entry::Entry,
    genesis::Genesis,
    hash::Hash,
    ids::{ClassNumber, Height},
    redacted::StoredBlock,
    state::State,
    transaction::TransactionId,
};
use tokio::sync::broadcast;

use crate::{
    storage::{BlockReader, IndexReader, LogReader, Record},
    view::{CommittedBlock, Listing, Place, ReadError, ReceiptName},
};

/// Most entries of the blocks that are kept in memory.
const RECENT_ENTRIES: usize = 60_000;
/// Most blocks that are kept in memory.
const RECENT_BLOCKS: usize = 256;
/// Blocks that a subscriber may lag behind.
const SUBSCRIBER_BLOCKS: usize = 256;
/// Largest block body that is read: the largest that parameters allow, and
/// some room.
pub const MAX_BODY: usize = 8 << 20;

/// The state with the certificate of its last block.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) state: State,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) since: Instant,
}

/// Blocks of the last moments.
#[derive(Debug, Default)]
struct Recent {
    blocks: VecDeque<Arc<CommittedBlock>>,
    entries: usize,
}

/// The committed chain.
#[derive(Debug)]
pub struct Chain {
    pub(crate) genesis: Genesis,
    pub(crate) committed: RwLock<Committed>,
    pub(crate) blocks: BlockReader,
    pub(crate) log: LogReader,
    pub(crate) index: IndexReader,
    recent: Mutex<Recent>,
    /// How often details were dropped since the start.
    rewrites: AtomicU64,
    news: broadcast::Sender<Arc<CommittedBlock>>,
}

fn unreadable(error: impl std::fmt::Display) -> ReadError {
    ReadError(error.to_string())
}

impl Chain {
    pub(crate) fn new(
        genesis: Genesis,
        committed: Committed,
        blocks: BlockReader,
        log: LogReader,
        index: IndexReader,
    ) -> Self {
        Self {
            genesis,
            committed: RwLock::new(committed),
            blocks,
            log,
            index,
            recent: Mutex::default(),
            rewrites: AtomicU64::new(0),
            news: broadcast::channel(SUBSCRIBER_BLOCKS).0,
        }
    }

    /// Runs `read` on the committed state. Holds a lock meanwhile: be brief.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Committed) -> T) -> T {
        read(
            &self
                .committed
                .read()
                .expect("nobody panics while it is locked"),
        )
    }

    /// Shows a block that has just been committed.
    pub(crate) fn announce(&self, block: Arc<CommittedBlock>) {
        {
            let mut recent = self
                .recent
                .lock()
                .expect("nobody panics while it is locked");
            recent.entries += block.entries.len();
            recent.blocks.push_back(block.clone());
            while recent.entries > RECENT_ENTRIES || recent.blocks.len() > RECENT_BLOCKS {
                let Some(old) = recent.blocks.pop_front() else {
                    break;
                };
                recent.entries -= old.entries.len();
            }
        }
        // Nobody need be listening.
        let _ = self.news.send(block);
    }

    /// Details were dropped in blocks up to this one: they are read from disk
    /// from now on.
    pub(crate) fn forget_cached(&self, up_to: Height) {
        let mut recent = self
            .recent
            .lock()
            .expect("nobody panics while it is locked");
        while let Some(block) = recent.blocks.front()
            && block.block.header.height <= up_to
        {
            recent.entries -= block.entries.len();
            recent.blocks.pop_front();
        }
        self.rewrites.fetch_add(1, Ordering::SeqCst);
    }

    /// How often details were dropped since the start: what was read before
    /// the last time may still have them.
    pub(crate) fn rewrites(&self) -> u64 {
        self.rewrites.load(Ordering::SeqCst)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<CommittedBlock>> {
        self.news.subscribe()
    }

    fn recent(&self, height: Height) -> Option<Arc<CommittedBlock>> {
        let recent = self
            .recent
            .lock()
            .expect("nobody panics while it is locked");
        let first = recent.blocks.front()?.block.header.height;
        let at = height.0.checked_sub(first.0)?;
        recent.blocks.get(usize::try_from(at).ok()?).cloned()
    }

    /// Height of the last committed block.
    pub fn last(&self) -> Height {
        self.read(|committed| committed.state.height())
    }

    /// The header of a committed block.
    pub fn header_at(&self, height: Height) -> Result<Option<Header>, ReadError> {
        Ok(self.header(height)?.map(|(header, _)| header))
    }

    /// The classes' names and numbers.
    pub fn classes(&self) -> Vec<(String, ClassNumber)> {
        self.read(|committed| {
            let names = committed.state.classes().iter();
            let names = names.map(|class| class.rules.name.clone());
            names.zip((0..).map(ClassNumber)).collect()
        })
    }

    fn record(&self, height: Height) -> Result<Option<Record>, ReadError> {
        if height.0 == 0 || height > self.last() {
            return Ok(None);
        }
        self.blocks.read(height).map_err(unreadable)
    }

    pub(crate) fn block(&self, height: Height) -> Result<Option<Arc<CommittedBlock>>, ReadError> {
        if let Some(block) = self.recent(height) {
            return Ok(Some(block));
        }
        let Some(record) = self.record(height)? else {
            return Ok(None);
        };
        let before = match height.0 {
            1 => 1,
            _ => {
                let before = self.record(Height(height.0 - 1))?;
                let before = before.ok_or_else(|| unreadable("a block is missing"))?;
                header_of(&before.body).map_err(unreadable)?.log_size
            }
        };
        assemble(record, before, &self.log)
            .map(|block| Some(Arc::new(block)))
            .map_err(unreadable)
    }

    pub(crate) fn header(
        &self,
        height: Height,
    ) -> Result<Option<(Header, Certificate)>, ReadError> {
        if let Some(block) = self.recent(height) {
            return Ok(Some((block.block.header, block.certificate.clone())));
        }
        let Some(record) = self.record(height)? else {
            return Ok(None);
        };
        let header = header_of(&record.body).map_err(unreadable)?;
        Ok(Some((header, record.certificate)))
    }

    /// Entries that committed blocks made.
    fn log_size(&self) -> u64 {
        self.read(|committed| committed.state.log().size())
    }

    pub(crate) fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, ReadError> {
        let end = range.end.min(self.log_size());
        let count = end.saturating_sub(range.start) as usize;
        self.log.range(range.start, count).map_err(unreadable)
    }

    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        if index >= size || size > self.log_size() {
            return Ok(None);
        }
        self.log
            .inclusion(index, size)
            .map(Some)
            .map_err(unreadable)
    }

    pub(crate) fn consistency(&self, old: u64, new: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        if old > new || new > self.log_size() {
            return Ok(None);
        }
        self.log.consistency(old, new).map(Some).map_err(unreadable)
    }

    pub(crate) fn multi_path(
        &self,
        indexes: &[u64],
        size: u64,
    ) -> Result<Option<Vec<Hash>>, ReadError> {
        if size > self.log_size() || indexes.iter().any(|index| *index >= size) {
            return Ok(None);
        }
        self.log.multi(indexes, size).map(Some).map_err(unreadable)
    }

    pub(crate) fn find_transaction(&self, id: &TransactionId) -> Result<Option<Place>, ReadError> {
        let found = self.index.transaction(id).map_err(unreadable)?;
        Ok(found.filter(|place| place.height <= self.last()))
    }

    pub(crate) fn find_receipt(&self, name: ReceiptName) -> Result<Option<u64>, ReadError> {
        let found = match name {
            ReceiptName::Hold(gateway, journal, hold) => self
                .index
                .hold(gateway, journal, hold)
                .map_err(unreadable)?,
            ReceiptName::Debit(gateway, journal, debit) => {
                let batch = self.index.batch(gateway, journal, debit.0);
                match batch.map_err(unreadable)? {
                    Some(start) => self.receipt_from(start, |receipt| {
                        let position = receipt.position;
                        let same = (position.gateway, position.journal) == (gateway, journal);
                        same.then(|| position.number.cmp(&debit))
                    })?,
                    None => None,
                }
            }
        };
        Ok(found.filter(|index| *index < self.log_size()))
    }

    /// Follows the receipts of one batch from its first entry on; `compare`
    /// says where a receipt of that journal stands.
    fn receipt_from(
        &self,
        start: u64,
        compare: impl Fn(&tally_ledger::entry::Receipt) -> Option<std::cmp::Ordering>,
    ) -> Result<Option<u64>, ReadError> {
        const STEP: u64 = 1024;
        let mut from = start;
        loop {
            let entries = self.entries(from..from + STEP)?;
            for (index, entry) in (from..).zip(&entries) {
                let Entry::Receipt(receipt) = entry else {
                    continue;
                };
                match compare(receipt) {
                    Some(std::cmp::Ordering::Less) => {}
                    Some(std::cmp::Ordering::Equal) => return Ok(Some(index)),
                    Some(std::cmp::Ordering::Greater) | None => return Ok(None),
                }
            }
            if (entries.len() as u64) < STEP {
                return Ok(None);
            }
            from += STEP;
        }
    }

    pub(crate) fn list(
        &self,
        listing: Listing,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, ReadError> {
        let size = self.log_size();
        if listing == Listing::All {
            return Ok((from..size).take(limit).collect());
        }
        let mut found = self.index.list(listing, from, limit).map_err(unreadable)?;
        found.retain(|index| *index < size);
        Ok(found)
    }

    pub(crate) fn indexed(&self) -> Height {
        self.index.height()
    }

    pub(crate) fn last_before(
        &self,
        listing: Listing,
        index: u64,
    ) -> Result<Option<u64>, ReadError> {
        let index = index.min(self.log_size());
        if listing == Listing::All {
            return Ok(index.checked_sub(1));
        }
        self.index.last_before(listing, index).map_err(unreadable)
    }
}

/// The header that leads a body, redacted or not.
pub(crate) fn header_of(body: &[u8]) -> Result<Header, tally_ledger::codec::DecodeError> {
    StoredBlock::header_of(body)
}

/// A block from disk with its entries; `before` is the log's size before it.
pub(crate) fn assemble(
    record: Record,
    before: u64,
    log: &LogReader,
) -> Result<CommittedBlock, Box<dyn std::error::Error + Send + Sync>> {
    let (block, redacted) = StoredBlock::decode(&record.body, MAX_BODY)?.into_parts();
    let count = block.header.log_size.saturating_sub(before) as usize;
    let entries = log.range(before, count)?;
    if entries.len() != count {
        return Err("data/log has fewer entries than the blocks: run `tally reindex`".into());
    }
    Ok(CommittedBlock {
        id: block.header.id(),
        transactions: block.transactions.iter().map(|t| t.id()).collect(),
        block,
        redacted,
        certificate: record.certificate,
        first_entry: before,
        entries,
    })
}
