//! Redacted blocks: certified blocks of which some debits' details were
//! dropped, and with them their salts. What is left proves and does all that
//! the block did: each dropped detail leaves its hash, which the batch's leaf
//! and the receipt's leaf carry, and each payload its hash, which the
//! transaction's leaf carries; and what execution made of the detail, its
//! cost and whether the class or the API key forbade the model, so that the
//! block executes to the roots that a quorum signed
//! ([`crate::execute::check_stored`]). Nothing of a dropped detail can be
//! computed from that, for the salt is gone.
//!
//! ```text
//! version u8 = 129 | header 219 | transactions | list of batches
//! batch:   index u32 of its transaction, whose payload is empty |
//!          H(payload) 32 | list of debits | list of dropped
//! debit:   fixed 38 | detail: 0 (dropped); or 1 and 112, or 2 and 128 bytes
//! dropped: H(detail) 32 | cost u64 | class rule bool; one for each 0, in order
//! ```
//!
//! The first byte tells a redacted block from a block, which begins with its
//! header's version.
//!
//! What binds what is left: H(payload) the transactions root; fixed parts and
//! detail hashes the signed batch root ([`RedactedBlock::is_whole`]); cost
//! and class rule only the log root, after execution. So a redacted block is
//! taken only where a certificate is known, never as a proposal, and whoever
//! sent one that executes to something else is to blame for it; unless more
//! validators did than may be faulty: then whoever executed them is.

use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, Debits},
    block::{Block, Header},
    codec::{self, DecodeError, List},
    debit::{
        Debit, Detail, Fixed, MAX_BATCH, Position, RawDebit, batch_leaf, raw_debits, record_bytes,
    },
    entry::Receipt,
    hash::{Context, Hash},
    ids::{Amount, DebitNumber, GatewayNumber},
    merkle::{self, Frontier},
    receipt::layout,
    transaction::{AuthorKind, Body, Transaction},
};

/// First byte of a redacted block.
pub const REDACTED_VERSION: u8 = 129;

/// One debit of a redacted batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactedDebit {
    /// The fixed part.
    #[serde(with = "layout::fixed")]
    pub fixed: Fixed,
    /// The detail; `None`: it was dropped.
    #[serde(with = "layout::detail")]
    pub detail: Option<Detail>,
}

/// What is left of a detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its hash.
    pub detail: Hash,
    /// What the debit cost.
    pub cost: Amount,
    /// Class or API key may not buy the model.
    pub class_rule: bool,
}

/// A batch of debits of which at least one detail was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactedBatch {
    /// Index of its transaction in the block.
    pub index: u32,
    /// Hash of the payload as it was.
    pub payload: Hash,
    /// All debits, in order.
    pub debits: List<RedactedDebit, MAX_BATCH>,
    /// What is left of the dropped details, in order.
    pub dropped: List<Dropped, MAX_BATCH>,
}

/// What there is of a debit's detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains<'a> {
    /// All of it.
    Kept(&'a Detail),
    /// Its hash and its outcome.
    Dropped(&'a Dropped),
}

impl Remains<'_> {
    /// The detail's hash.
    pub fn hash(&self) -> Hash {
        match self {
            Remains::Kept(detail) => detail.hash(),
            Remains::Dropped(dropped) => dropped.detail,
        }
    }
}

impl RedactedBatch {
    /// The debits with what there is of their details, in order.
    pub fn remains(&self) -> impl Iterator<Item = (&Fixed, Remains<'_>)> {
        let mut dropped = self.dropped.iter();
        self.debits.iter().map(move |debit| {
            let remains = match &debit.detail {
                Some(detail) => Remains::Kept(detail),
                None => Remains::Dropped(dropped.next().expect("one for each, as decoded")),
            };
            (&debit.fixed, remains)
        })
    }

    /// The debit at an index of the batch; `Err` has its fixed part, if only
    /// that is left.
    pub fn debit(&self, index: usize) -> Option<Result<Debit, Fixed>> {
        let RedactedDebit { fixed, detail } = *self.debits.get(index)?;
        Some(detail.map_or(Err(fixed), |detail| Ok(Debit { fixed, detail })))
    }

    /// Hashes of the batch leaves, for the first debit's position.
    pub fn leaf_hashes(&self, first: Position) -> impl Iterator<Item = Hash> {
        (0..).zip(self.remains()).map(move |(i, (fixed, remains))| {
            let position = Position {
                // Nobody has signed numbers that run over.
                number: DebitNumber(first.number.0.wrapping_add(i)),
                ..first
            };
            merkle::leaf_hash(&batch_leaf(&position, &fixed.write(), &remains.hash()))
        })
    }

    /// One of `dropped` for each detail that is missing, and one at least;
    /// all records of one known version.
    fn has_form(&self) -> bool {
        let missing = self.debits.iter().filter(|debit| debit.detail.is_none());
        let version = self.debits.first().map_or(0, |debit| debit.fixed.version);
        let fits = |debit: &RedactedDebit| {
            let detail = debit.detail.map(|detail| detail.write().len());
            let size = record_bytes(version).map(|size| size - crate::debit::FIXED_BYTES);
            debit.fixed.version == version
                && size.is_some()
                && detail.is_none_or(|d| Some(d) == size)
        };
        !self.dropped.is_empty()
            && missing.count() == self.dropped.len()
            && self.debits.iter().all(fits)
    }

    /// Whether these are the debits that the transaction's body signs.
    fn is_signed(&self, transaction: &Transaction) -> bool {
        let Some((gateway, debits)) = debits_of(transaction) else {
            return false;
        };
        let first = Position {
            gateway,
            journal: debits.journal,
            number: debits.first,
        };
        let last = debits.first.0.checked_add(u64::from(debits.count));
        let mut root = Frontier::new();
        self.leaf_hashes(first).for_each(|leaf| root.append(leaf));
        last.is_some() && debits.count as usize == self.debits.len() && debits.root == root.root()
    }
}

/// The gateway and the batch that a transaction announces, if it does.
pub fn debits_of(transaction: &Transaction) -> Option<(GatewayNumber, Debits)> {
    let body = Body::decode(&transaction.body).ok()?;
    match body.action {
        Action::Debits(debits) if body.author.kind == AuthorKind::Gateway => {
            Some((GatewayNumber(body.author.number), debits))
        }
        _ => None,
    }
}

/// A block of which details were dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactedBlock {
    /// Header and transactions; the payloads of redacted batches are empty.
    pub block: Block,
    /// Those batches, ascending by index.
    pub batches: Vec<RedactedBatch>,
}

/// The bytes of a redacted block's two parts.
pub fn encode_redacted(block: &Block, batches: &[RedactedBatch]) -> Vec<u8> {
    let mut bytes = vec![REDACTED_VERSION];
    bytes.extend(block.encode());
    bytes.extend(codec::encode(&batches));
    bytes
}

fn error(why: &str) -> DecodeError {
    DecodeError {
        what: "redacted block",
        why: why.to_owned(),
    }
}

impl RedactedBlock {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_redacted(&self.block, &self.batches)
    }

    /// Reads its bytes, at most `limit` of them.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Self, DecodeError> {
        let rest = bytes.strip_prefix(&[REDACTED_VERSION]);
        let rest = rest.ok_or_else(|| error("it does not begin as one"))?;
        let (block, batches): (Block, Vec<RedactedBatch>) =
            codec::decode(rest, limit.saturating_sub(1))?;
        let ascending = batches.windows(2).all(|pair| pair[0].index < pair[1].index);
        let emptied = |batch: &RedactedBatch| {
            let transaction = block.transactions.get(batch.index as usize);
            transaction.is_some_and(|transaction| transaction.payload.is_empty())
        };
        if batches.is_empty() || !ascending || !batches.iter().all(emptied) {
            return Err(error("its batches are not those of its transactions"));
        }
        if !batches.iter().all(RedactedBatch::has_form) {
            return Err(error("a batch has another form"));
        }
        Ok(RedactedBlock { block, batches })
    }

    /// The redacted batch of a transaction, by its index.
    pub fn batch(&self, index: usize) -> Option<&RedactedBatch> {
        batch_of(&self.batches, index)
    }

    /// Whether transactions and batches are those that the header commits
    /// to. What the batches say of dropped details but their hashes is not
    /// bound by that, only by execution.
    pub fn is_whole(&self) -> bool {
        let mut root = Frontier::new();
        for (index, transaction) in self.block.transactions.iter().enumerate() {
            root.append(merkle::leaf_hash(&leaf_of(transaction, self.batch(index))));
        }
        let signed =
            |batch: &RedactedBatch| batch.is_signed(&self.block.transactions[batch.index as usize]);
        root.root() == self.block.header.transactions_root && self.batches.iter().all(signed)
    }
}

/// A transaction's leaf under the transactions root, whatever was dropped of
/// its payload.
pub fn leaf_of(transaction: &Transaction, batch: Option<&RedactedBatch>) -> [u8; 96] {
    match batch {
        Some(batch) => transaction.leaf_with(&transaction.id(), &batch.payload),
        None => transaction.leaf(),
    }
}

/// The batch of a transaction among a block's redacted ones.
pub fn batch_of(batches: &[RedactedBatch], index: usize) -> Option<&RedactedBatch> {
    let index = u32::try_from(index).ok()?;
    let at = batches.binary_search_by_key(&index, |batch| batch.index);
    at.ok().map(|at| &batches[at])
}

/// A block as it is stored: with all details, or without some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredBlock {
    /// As it was decided.
    Whole(Block),
    /// Some details were dropped.
    Redacted(RedactedBlock),
}

/// Receipts that are not those of the block's debits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receipts are not those of the block's debits")]
pub struct OtherReceipts;

impl StoredBlock {
    /// Reads either form, at most `limit` bytes.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Self, DecodeError> {
        match bytes.first() {
            Some(&REDACTED_VERSION) => {
                RedactedBlock::decode(bytes, limit).map(StoredBlock::Redacted)
            }
            _ => Block::decode(bytes, limit).map(StoredBlock::Whole),
        }
    }

    /// The header that leads the bytes of either form.
    pub fn header_of(bytes: &[u8]) -> Result<Header, DecodeError> {
        let bytes = bytes.strip_prefix(&[REDACTED_VERSION]).unwrap_or(bytes);
        Header::decode(&bytes[..bytes.len().min(crate::block::HEADER_BYTES)])
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            StoredBlock::Whole(block) => block.encode(),
            StoredBlock::Redacted(block) => block.encode(),
        }
    }

    /// Header and transactions; payloads of redacted batches are empty.
    pub fn block(&self) -> &Block {
        match self {
            StoredBlock::Whole(block) => block,
            StoredBlock::Redacted(redacted) => &redacted.block,
        }
    }

    /// Whether its transactions are those that the header commits to, see
    /// [`RedactedBlock::is_whole`].
    pub fn is_whole(&self) -> bool {
        match self {
            StoredBlock::Whole(block) => block.is_whole(),
            StoredBlock::Redacted(block) => block.is_whole(),
        }
    }

    /// The redacted batches, ascending by index.
    pub fn batches(&self) -> &[RedactedBatch] {
        match self {
            StoredBlock::Whole(_) => &[],
            StoredBlock::Redacted(redacted) => &redacted.batches,
        }
    }

    /// Header, transactions and redacted batches, by value.
    pub fn into_parts(self) -> (Block, Vec<RedactedBatch>) {
        match self {
            StoredBlock::Whole(block) => (block, Vec::new()),
            StoredBlock::Redacted(redacted) => (redacted.block, redacted.batches),
        }
    }

    /// Drops the details of those debits whose receipts `drop` names, of
    /// those that are still there. `receipts` are all of the block, in the
    /// order of the log. Gives the block without them, and how many they
    /// were; `None`: there are none.
    pub fn redact<'r>(
        &self,
        receipts: impl IntoIterator<Item = &'r Receipt>,
        mut drop: impl FnMut(&Receipt) -> bool,
    ) -> Result<Option<(RedactedBlock, u64)>, OtherReceipts> {
        let mut receipts = receipts.into_iter();
        let (block, batches) = (self.block(), self.batches());
        let mut redacted = RedactedBlock {
            block: Block {
                header: block.header,
                transactions: Vec::with_capacity(block.transactions.len()),
            },
            batches: Vec::new(),
        };
        let mut count = 0;
        for (index, transaction) in block.transactions.iter().enumerate() {
            let old = batch_of(batches, index);
            let mut transaction = transaction.clone();
            if old.is_some() || debits_of(&transaction).is_some() {
                let batch = match old {
                    Some(batch) => batch.clone(),
                    None => whole_batch(index, &transaction).ok_or(OtherReceipts)?,
                };
                let (batch, dropped) = batch.redact(&mut receipts, &mut drop)?;
                count += dropped;
                if !batch.dropped.is_empty() {
                    transaction.payload = Vec::new();
                    redacted.batches.push(batch);
                }
            }
            redacted.block.transactions.push(transaction);
        }
        match receipts.next() {
            Some(_) => Err(OtherReceipts),
            None => Ok((count > 0).then_some((redacted, count))),
        }
    }
}

/// A batch of which nothing was dropped yet.
fn whole_batch(index: usize, transaction: &Transaction) -> Option<RedactedBatch> {
    let debit = |raw: RawDebit<'_>| {
        raw.read().map(|Debit { fixed, detail }| RedactedDebit {
            fixed,
            detail: Some(detail),
        })
    };
    let debits = raw_debits(&transaction.payload).map(debit);
    Some(RedactedBatch {
        index: u32::try_from(index).ok()?,
        payload: Context::Payload.hash(&transaction.payload),
        debits: List::new(debits.collect::<Option<_>>()?).ok()?,
        dropped: List::default(),
    })
}

impl RedactedBatch {
    /// The same without the details that `drop` names; how many they are.
    fn redact<'r>(
        self,
        receipts: &mut impl Iterator<Item = &'r Receipt>,
        drop: &mut impl FnMut(&Receipt) -> bool,
    ) -> Result<(Self, u64), OtherReceipts> {
        let mut debits = Vec::with_capacity(self.debits.len());
        let mut left = Vec::with_capacity(self.debits.len());
        let mut count = 0;
        for (fixed, remains) in self.remains() {
            let receipt = receipts.next().ok_or(OtherReceipts)?;
            let mut kept = None;
            match remains {
                Remains::Dropped(dropped) => left.push(*dropped),
                Remains::Kept(detail) if !drop(receipt) => kept = Some(*detail),
                Remains::Kept(detail) => {
                    if receipt.detail != detail.hash() {
                        return Err(OtherReceipts);
                    }
                    count += 1;
                    left.push(Dropped {
                        detail: receipt.detail,
                        cost: receipt.cost,
                        class_rule: receipt.flags.has(crate::debit::Flags::CLASS_RULE),
                    });
                }
            }
            debits.push(RedactedDebit {
                fixed: *fixed,
                detail: kept,
            });
        }
        let bounded = "as many as before";
        let batch = RedactedBatch {
            index: self.index,
            payload: self.payload,
            debits: List::new(debits).expect(bounded),
            dropped: List::new(left).expect(bounded),
        };
        Ok((batch, count))
    }
}
