//! Blocks whose receipts are asked for, with the Merkle trees that prove
//! their debits. An auditor asks for the receipts of a block one after the
//! other: the block is read and its trees are built once, and each further
//! receipt costs a path of each tree.
//!
//! What is kept is bounded in bytes; what was not asked for the longest goes
//! first. A committed block never changes, so nothing is ever out of date, but
//! for details that are dropped: then all is read again.

use std::{
    collections::VecDeque,
    mem::size_of,
    sync::{Arc, Mutex, OnceLock},
};

use tally_ledger::{
    action::{Action, Debits},
    block::{Certificate, Header},
    codec::List,
    debit::{Debit, Detail, Fixed, Position, RawDebit, debit_count, raw_debits},
    entry::Entry,
    hash::Hash,
    ids::{DebitNumber, Height},
    merkle::{self, Levels},
    receipt::DebitProof,
    redacted::{Dropped, RedactedBatch, RedactedDebit, batch_of, leaf_of},
    transaction::{Body, Transaction},
};

use crate::view::{CommittedBlock, ReadError};

/// Most bytes that are kept.
const MOST_BYTES: usize = 64 << 20;

/// The blocks that are kept, the one that was asked for last at the end.
#[derive(Debug, Default)]
pub(super) struct ProvenBlocks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    blocks: VecDeque<Arc<ProvenBlock>>,
    bytes: usize,
    /// How often details had been dropped when these were read.
    rewrites: u64,
}

impl Kept {
    fn find(&mut self, height: Height) -> Option<Arc<ProvenBlock>> {
        let at = self
            .blocks
            .iter()
            .position(|block| block.header().height == height)?;
        let block = self.blocks.remove(at)?;
        self.blocks.push_back(block.clone());
        Some(block)
    }

    fn keep(&mut self, block: &Arc<ProvenBlock>) {
        self.bytes += block.bytes;
        self.blocks.push_back(block.clone());
        while self.bytes > MOST_BYTES {
            let Some(oldest) = self.blocks.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes;
        }
    }
}

impl ProvenBlocks {
    /// The block of a height; `read` gets it if it is not kept. `rewrites` is
    /// how often details have been dropped by now.
    pub(super) fn get(
        &self,
        height: Height,
        rewrites: u64,
        read: impl FnOnce() -> Result<Option<Arc<CommittedBlock>>, ReadError>,
    ) -> Result<Option<Arc<ProvenBlock>>, ReadError> {
        let kept = || {
            let mut kept = self.0.lock().expect("nobody panics while it is locked");
            if kept.rewrites < rewrites {
                *kept = Kept {
                    rewrites,
                    ..Kept::default()
                };
            }
            kept
        };
        if let Some(block) = kept().find(height) {
            return Ok(Some(block));
        }
        // Read without the lock: others' blocks need not wait for this one.
        let Some(block) = read()? else {
            return Ok(None);
        };
        let block = Arc::new(ProvenBlock::of(block));
        let mut kept = kept();
        if let Some(other) = kept.find(height) {
            return Ok(Some(other));
        }
        if kept.rewrites == rewrites {
            kept.keep(&block);
        }
        Ok(Some(block))
    }
}

/// A committed block with its trees, each built when it is first needed.
#[derive(Debug)]
pub(super) struct ProvenBlock {
    block: Arc<CommittedBlock>,
    batches: Vec<Batch>,
    tree: OnceLock<Tree>,
    /// What it takes once all trees are built.
    bytes: usize,
}

/// The transactions' leaves, and the tree over them.
#[derive(Debug)]
struct Tree {
    leaves: Vec<[u8; 96]>,
    levels: Levels,
}

/// A transaction that brought debits.
#[derive(Debug)]
struct Batch {
    /// Its index in the block.
    index: usize,
    gateway: u32,
    debits: Debits,
    levels: OnceLock<Levels>,
}

/// A leaf and the nodes above it.
const LEAF_BYTES: usize = 2 * size_of::<Hash>();

fn bytes_of(block: &CommittedBlock) -> usize {
    let transaction = |transaction: &Transaction| {
        let debits = debit_count(&transaction.payload);
        let own = size_of::<Transaction>() + size_of::<Batch>() + transaction.encoded_len();
        own + (debits + 1) * LEAF_BYTES + 96
    };
    let transactions: usize = block.block.transactions.iter().map(transaction).sum();
    let redacted = block.redacted.iter().map(|batch| {
        size_of::<RedactedBatch>()
            + batch.debits.len() * (size_of::<RedactedDebit>() + LEAF_BYTES)
            + batch.dropped.len() * size_of::<Dropped>()
    });
    let transactions = transactions + redacted.sum::<usize>();
    transactions + block.entries.len() * size_of::<Entry>() + size_of::<ProvenBlock>()
}

impl ProvenBlock {
    fn of(block: Arc<CommittedBlock>) -> Self {
        let transactions = block.block.transactions.iter().enumerate();
        let batch = |(index, transaction): (usize, &Transaction)| {
            let body = Body::decode(&transaction.body).ok()?;
            let Action::Debits(debits) = body.action else {
                return None;
            };
            Some(Batch {
                index,
                gateway: body.author.number,
                debits,
                levels: OnceLock::new(),
            })
        };
        ProvenBlock {
            batches: transactions.filter_map(batch).collect(),
            tree: OnceLock::new(),
            bytes: bytes_of(&block),
            block,
        }
    }

    /// Its header.
    pub(super) fn header(&self) -> &Header {
        &self.block.block.header
    }

    /// The quorum.
    pub(super) fn certificate(&self) -> &Certificate {
        &self.block.certificate
    }

    fn tree(&self) -> &Tree {
        self.tree.get_or_init(|| {
            let transactions = self.block.block.transactions.iter().enumerate();
            let leaf = |(index, transaction): (usize, &Transaction)| {
                leaf_of(transaction, batch_of(&self.block.redacted, index))
            };
            let leaves: Vec<_> = transactions.map(leaf).collect();
            let levels = Levels::of(leaves.iter().map(|leaf| merkle::leaf_hash(leaf)));
            Tree { leaves, levels }
        })
    }

    /// A debit that this block brought, or only its fixed part if its detail
    /// is not kept; with its batch, and its place there.
    fn find(&self, position: &Position) -> Option<(&Batch, u64, Result<Debit, Fixed>)> {
        let batch = self.batches.iter().find(|batch| batch.has(position))?;
        let offset = position.number.0 - batch.debits.first.0;
        let debit = match batch_of(&self.block.redacted, batch.index) {
            Some(redacted) => redacted.debit(offset as usize)?,
            None => {
                let transaction = self.block.block.transactions.get(batch.index)?;
                let raw = raw_debits(&transaction.payload).nth(offset as usize)?;
                Ok(raw.read()?)
            }
        };
        Some((batch, offset, debit))
    }

    /// The detail of a debit that this block brought, if it is kept.
    pub(super) fn detail(&self, position: &Position) -> Option<Detail> {
        let (.., debit) = self.find(position)?;
        Some(debit.ok()?.detail)
    }

    /// A debit that this block brought, or only its fixed part if its detail
    /// is not kept; and the proof of it.
    pub(super) fn debit(&self, position: &Position) -> Option<(Result<Debit, Fixed>, DebitProof)> {
        let (batch, offset, debit) = self.find(position)?;
        let fixed = debit
            .as_ref()
            .map_or_else(|fixed| *fixed, |debit| debit.fixed);
        let transaction = self.block.block.transactions.get(batch.index)?;
        let redacted = batch_of(&self.block.redacted, batch.index);
        let levels = batch.levels(transaction, redacted, position);
        let tree = self.tree();
        let leaf = tree.leaves.get(batch.index)?;
        let part = |at: usize| Hash(leaf[at..at + 32].try_into().expect("a leaf has 96 bytes"));
        let proof = DebitProof {
            fixed,
            batch_path: List::new(levels.inclusion(offset, levels.size())?).ok()?,
            body: List::new(transaction.body.clone()).ok()?,
            signatures: part(32),
            payload: part(64),
            index: batch.index as u32,
            count: tree.leaves.len() as u32,
            path: List::new(
                tree.levels
                    .inclusion(batch.index as u64, tree.levels.size())?,
            )
            .ok()?,
        };
        Some((debit, proof))
    }
}

impl Batch {
    fn has(&self, position: &Position) -> bool {
        let first = self.debits.first.0;
        let last = first + u64::from(self.debits.count);
        self.gateway == position.gateway.0
            && self.debits.journal == position.journal
            && (first..last).contains(&position.number.0)
    }

    /// The tree under the body's root; `position` is of any of its debits.
    fn levels(
        &self,
        transaction: &Transaction,
        redacted: Option<&RedactedBatch>,
        position: &Position,
    ) -> &Levels {
        self.levels.get_or_init(|| {
            if let Some(redacted) = redacted {
                let first = Position {
                    number: self.debits.first,
                    ..*position
                };
                return Levels::of(redacted.leaf_hashes(first));
            }
            let leaf = |(number, raw): (u64, RawDebit<'_>)| {
                raw.leaf_hash(&Position {
                    number: DebitNumber(number),
                    ..*position
                })
            };
            let records = raw_debits(&transaction.payload);
            Levels::of((self.debits.first.0..).zip(records).map(leaf))
        })
    }
}
