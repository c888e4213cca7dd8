//! Execution: what a block does to the state.
//!
//! [`build`] makes a block from candidates, [`check`] executes a block that
//! somebody else made; both do the same (I9), and neither changes
//! the state: [`State::commit`] takes an [`Execution`] over. [`admit`] is the
//! dry run of one transaction. Order within a block:
//!
//! 1. ids whose hour has passed are forgotten; a price table that the block
//!    before set comes into force;
//! 2. due steps (see [`crate::state::Due`]);
//! 3. transactions, in order. One that is refused leaves no trace: `build`
//!    passes over it, `check` rejects the block.
//!
//! Everything is a function of state, block and nothing else (I6). The only
//! thing a caller brings is how signatures are checked, so that a node can
//! check each once.

mod accounts;
mod admission;
mod authority;
mod block_error;
mod debits;
mod delta;
mod draft;
mod evidence;
mod finish;
mod gateways;
mod governance;
mod grants;
mod leases;
mod overlay;
mod steps;

use std::borrow::Borrow;

use crate::{
    block::{BLOCK_VERSION, Block, HEADER_BYTES, Header},
    crypto::{ChainId, Domain, PublicKey, Signature},
    debit,
    entry::Entry,
    hash::Hash,
    ids::Time,
    merkle::{self, Frontier},
    reason::Reason,
    redacted::{RedactedBatch, RedactedBlock, StoredBlock, leaf_of},
    state::State,
    transaction::{Transaction, TransactionId},
};

use admission::Call;
pub use block_error::BlockError;
use draft::Draft;
pub(crate) use finish::{Change, Tally};

/// How signatures are checked. Must be `verify_strict` or remember what that
/// has said about exactly these inputs.
pub trait SignatureCheck {
    /// Whether `signature` is `key`'s over `bytes` in `domain` on `chain`.
    fn verify(
        &self,
        key: &PublicKey,
        domain: Domain,
        chain: &ChainId,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool;
}

/// Checks each signature anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct Strict;

impl SignatureCheck for Strict {
    fn verify(
        &self,
        key: &PublicKey,
        domain: Domain,
        chain: &ChainId,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool {
        key.verify(domain, chain, bytes, signature)
    }
}

/// Says yes to every signature: for blocks whose certificate says that a
/// quorum has checked them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trusted;

impl SignatureCheck for Trusted {
    fn verify(&self, _: &PublicKey, _: Domain, _: &ChainId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// What a block does, computed and not yet taken over.
#[derive(Debug)]
pub struct Execution {
    pub(crate) header: Header,
    pub(crate) entries: Vec<Entry>,
    pub(crate) leaf_hashes: Vec<Hash>,
    pub(crate) change: Change,
}

impl Execution {
    /// The block's header, as execution makes it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The block's entries. The first one's index in the log is the size of
    /// the log before.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Hashes of their leaves.
    pub fn leaf_hashes(&self) -> &[Hash] {
        &self.leaf_hashes
    }

    /// The log afterwards.
    pub fn log(&self) -> &Frontier {
        &self.change.log
    }
}

/// A block that was made here.
#[derive(Debug)]
pub struct Built {
    /// The block.
    pub block: Block,
    /// What it does.
    pub execution: Execution,
    /// Candidates that were refused, and why.
    pub refused: Vec<(TransactionId, Reason)>,
}

/// Whether a transaction could enter the next block at time `now`: what
/// [`build`] would say of it alone. Of the block's due steps only those that
/// concern the transaction are run, so that one call is cheap even after an
/// outage.
///
/// A Lease or Debits whose number is ahead of the gateway's next is admitted
/// on its form and signature: the numbers between may be on their way.
pub fn admit(
    state: &State,
    now: Time,
    transaction: &Transaction,
    signatures: &dyn SignatureCheck,
) -> Result<TransactionId, Reason> {
    let mut draft = Draft::new(state, next_time(state, now));
    let call = Call::examine(&draft, transaction, signatures)?;
    if !draft.is_ahead(&call)? {
        draft.run_due_steps_for(&call);
        draft.apply(&call)?;
    }
    Ok(call.id)
}

/// The next block's time at clock time `time`: just after the block before,
/// if that is later.
fn next_time(state: &State, time: Time) -> Time {
    time.max(Time(state.time().0 + 1))
}

/// Makes the next block from candidates, in their order, as validator
/// `proposer` of the set. Its time is `time`, or just after the block before
/// if that is later. The first candidate that does not fit any more ends the
/// block; one that fits into no block is refused.
pub fn build<T: Borrow<Transaction>>(
    state: &State,
    time: Time,
    proposer: u16,
    candidates: impl IntoIterator<Item = T>,
    signatures: &dyn SignatureCheck,
) -> Built {
    let mut run = Run::start(state, next_time(state, time));
    let mut transactions = Vec::new();
    let mut refused = Vec::new();
    for candidate in candidates {
        let transaction = candidate.borrow();
        if run.fit(transaction).is_err() && Call::fits_a_block(state, transaction) {
            break;
        }
        match run.transaction(transaction, signatures) {
            Ok(()) => transactions.push(transaction.clone()),
            Err(reason) => refused.push((transaction.id(), reason)),
        }
    }
    let execution = run.finish(proposer);
    Built {
        block: Block {
            header: execution.header,
            transactions,
        },
        execution,
        refused,
    }
}

/// Executes a block on the state. Every field of its header must be what
/// execution makes it (I9), and one refused transaction rejects it.
pub fn check(
    state: &State,
    block: &Block,
    signatures: &dyn SignatureCheck,
) -> Result<Execution, BlockError> {
    let execution = outcome(state, block, signatures)?;
    compare_roots(&block.header, &execution.header, state.log().size())?;
    Ok(execution)
}

/// Executes a stored block, whatever was dropped of its details. One without
/// any of them executes like any other; of one with some dropped, the price
/// of those debits is taken from what is left of them, and the roots show
/// whether that is true. So it may be executed only under a certificate for
/// its header, and the bounds of a block are not looked at again.
pub fn check_stored(
    state: &State,
    block: &StoredBlock,
    signatures: &dyn SignatureCheck,
) -> Result<Execution, BlockError> {
    let header = &block.block().header;
    let execution = outcome_stored(state, block, signatures)?;
    compare_roots(header, &execution.header, state.log().size())?;
    Ok(execution)
}

/// [`check_stored`] whatever roots the header has: for who wants to see how
/// they differ.
pub(crate) fn outcome_stored(
    state: &State,
    block: &StoredBlock,
    signatures: &dyn SignatureCheck,
) -> Result<Execution, BlockError> {
    match block {
        StoredBlock::Whole(block) => outcome(state, block, signatures),
        StoredBlock::Redacted(block) => outcome_redacted(state, block, signatures),
    }
}

fn outcome(
    state: &State,
    block: &Block,
    signatures: &dyn SignatureCheck,
) -> Result<Execution, BlockError> {
    let mut run = Run::of(state, &block.header)?;
    for (index, transaction) in block.transactions.iter().enumerate() {
        run.fit(transaction)?;
        run.transaction(transaction, signatures)
            .map_err(|reason| refused(index, transaction, reason))?;
    }
    Ok(run.finish(block.header.proposer))
}

fn outcome_redacted(
    state: &State,
    redacted: &RedactedBlock,
    signatures: &dyn SignatureCheck,
) -> Result<Execution, BlockError> {
    let block = &redacted.block;
    let mut run = Run::of(state, &block.header)?;
    for (index, transaction) in block.transactions.iter().enumerate() {
        let done = match redacted.batch(index) {
            Some(batch) => run.redacted(transaction, batch, signatures),
            None => run.transaction(transaction, signatures),
        };
        done.map_err(|reason| refused(index, transaction, reason))?;
    }
    Ok(run.finish(block.header.proposer))
}

fn refused(index: usize, transaction: &Transaction, reason: Reason) -> BlockError {
    BlockError::Refused {
        index,
        id: transaction.id(),
        reason,
    }
}

/// Compares what is known before execution.
fn compare(header: &Header, made: &Header) -> Result<(), BlockError> {
    first_wrong(&[
        ("version", header.version == made.version),
        ("chain", header.chain == made.chain),
        ("height", header.height == made.height),
        ("previous block", header.previous == made.previous),
    ])
}

fn first_wrong(fields: &[(&'static str, bool)]) -> Result<(), BlockError> {
    match fields.iter().find(|(_, equal)| !equal) {
        Some((name, _)) => Err(BlockError::Header(name)),
        None => Ok(()),
    }
}

/// Compares what execution has made; `first` is the block's first entry.
pub(crate) fn compare_roots(header: &Header, made: &Header, first: u64) -> Result<(), BlockError> {
    compare_root(
        "transactions root",
        header.transactions_root,
        made.transactions_root,
    )?;
    if header.log_size != made.log_size {
        return Err(BlockError::LogSize {
            first,
            header: header.log_size,
            made: made.log_size,
        });
    }
    if header.log_root != made.log_root {
        return Err(BlockError::LogRoot {
            first,
            last: made.log_size.saturating_sub(1),
            header: header.log_root,
            made: made.log_root,
        });
    }
    compare_root("state root", header.state_root, made.state_root)?;
    compare_root(
        "next validators",
        header.next_validators,
        made.next_validators,
    )
}

fn compare_root(name: &'static str, header: Hash, made: Hash) -> Result<(), BlockError> {
    match header == made {
        true => Ok(()),
        false => Err(BlockError::Root { name, header, made }),
    }
}

/// A block in the making: the one function behind [`build`] and [`check`].
struct Run<'a> {
    draft: Draft<'a>,
    /// Leaf hashes under the transactions root.
    transactions: Frontier,
    bytes: usize,
    debits: u64,
}

impl<'a> Run<'a> {
    fn start(state: &'a State, time: Time) -> Self {
        let mut draft = Draft::new(state, time);
        draft.run_due_steps();
        Run {
            draft,
            transactions: Frontier::new(),
            bytes: HEADER_BYTES + 8,
            debits: 0,
        }
    }

    /// Of a block that somebody else made, as far as its header can be
    /// compared before execution.
    fn of(state: &'a State, header: &Header) -> Result<Self, BlockError> {
        if header.time <= state.time() {
            return Err(BlockError::Header("time"));
        }
        if usize::from(header.proposer) >= state.validators().0.len() {
            return Err(BlockError::Header("proposer"));
        }
        let run = Run::start(state, header.time);
        compare(header, &run.head(header.proposer))?;
        Ok(run)
    }

    /// Whether a transaction still fits under the bounds that the state
    /// before the block sets.
    fn fit(&self, transaction: &Transaction) -> Result<(), BlockError> {
        let parameters = self.draft.base.parameters();
        let bytes = self.bytes + transaction.encoded_len();
        if bytes > parameters.max_block_bytes as usize {
            return Err(BlockError::TooLarge(bytes));
        }
        let debits = self.debits + debit_count(transaction);
        if debits > u64::from(parameters.max_block_debits) {
            return Err(BlockError::TooManyDebits(debits));
        }
        Ok(())
    }

    fn transaction(
        &mut self,
        transaction: &Transaction,
        signatures: &dyn SignatureCheck,
    ) -> Result<(), Reason> {
        let call = Call::examine(&self.draft, transaction, signatures)?;
        self.draft.transact(&call)?;
        self.bytes += transaction.encoded_len();
        self.debits += debit_count(transaction);
        self.transactions
            .append(merkle::leaf_hash(&transaction.leaf_of(&call.id)));
        Ok(())
    }

    /// A transaction that has lost details since it was executed first.
    fn redacted(
        &mut self,
        transaction: &Transaction,
        batch: &RedactedBatch,
        signatures: &dyn SignatureCheck,
    ) -> Result<(), Reason> {
        let call = Call::examine_redacted(&self.draft, transaction, batch, signatures)?;
        self.draft.transact(&call)?;
        let leaf = leaf_of(transaction, Some(batch));
        self.transactions.append(merkle::leaf_hash(&leaf));
        Ok(())
    }

    /// The header before its roots are known.
    fn head(&self, proposer: u16) -> Header {
        let state = self.draft.base;
        Header {
            version: BLOCK_VERSION,
            chain: state.chain,
            height: self.draft.height,
            time: self.draft.now,
            previous: state.block_id(),
            proposer,
            transactions_root: Hash::ZERO,
            log_size: 0,
            log_root: Hash::ZERO,
            state_root: Hash::ZERO,
            next_validators: Hash::ZERO,
        }
    }

    fn finish(self, proposer: u16) -> Execution {
        let mut header = self.head(proposer);
        header.transactions_root = self.transactions.root();
        self.draft.finish(header)
    }
}

/// Debits that a transaction carries, by its payload's length.
fn debit_count(transaction: &Transaction) -> u64 {
    debit::debit_count(&transaction.payload) as u64
}
