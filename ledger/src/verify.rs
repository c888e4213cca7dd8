//! Whole histories, checked offline: from the genesis, the stored blocks with
//! their certificates and, beside them, the stored log. No node is asked and
//! nothing is believed but the genesis.
//!
//! Three levels, each on top of the one before:
//!
//! - [`Headers`]: a quorum of the genesis's validators signed each header,
//!   and the headers are one chain;
//! - [`Bytes`]: the stored transactions and the stored log are the ones that
//!   these headers commit to, and fit each other;
//! - [`Replay`]: executed again from the genesis, or from a state under a
//!   certified header, the blocks give these very roots: prices, balances and
//!   all other rules are as this program knows them.
//!
//! Each says where a history first diverges: block, transaction, entry and
//! field. `expected` is what follows from the genesis and from what was
//! checked before, `found` what is stored. Reading files is the caller's.

mod bytes;
mod headers;
mod replay;
mod stored;

use std::fmt;

use crate::{
    codec::DecodeError,
    ids::{ClassNumber, Height},
    redacted::StoredBlock,
    transaction::TransactionId,
    tree::Table,
};

pub use bytes::Bytes;
pub use headers::Headers;
pub use replay::{Beside, Replay};
pub use stored::StoredEntry;

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The stored piece is not one: cut, or its checksum is wrong.
    Record,
    /// The body does not decode.
    Body,
    /// A field of the header, in words.
    Header(&'static str),
    /// The certificate.
    Certificate,
    /// The transaction's body does not decode.
    TransactionBody,
    /// A batch has another number of debits than its payload.
    DebitCount,
    /// The root of a batch's debits.
    BatchRoot,
    /// Whether the ledger takes the transaction.
    Verdict,
    /// A bound of a block.
    Bound(&'static str),
    /// Something of a debit's receipt. Both numbers count from 0.
    Debit {
        /// What.
        what: &'static str,
        /// Which debit of its batch.
        debit: u64,
        /// Which transaction of the block.
        transaction: usize,
    },
    /// Something of an entry of the log.
    Entry {
        /// What.
        what: &'static str,
        /// Its index in the log.
        index: u64,
    },
    /// A leaf of the state.
    Leaf(Table, u32),
    /// The totals of a class (I1).
    Totals(ClassNumber),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Record => f.write_str("stored record"),
            Field::Body => f.write_str("body"),
            Field::Header(name) => f.write_str(name),
            Field::Certificate => f.write_str("certificate"),
            Field::TransactionBody => f.write_str("body of the transaction"),
            Field::DebitCount => f.write_str("number of debits"),
            Field::BatchRoot => f.write_str("root of the batch"),
            Field::Verdict => f.write_str("verdict on the transaction"),
            Field::Bound(name) => f.write_str(name),
            Field::Debit {
                what,
                debit,
                transaction,
            } => write!(f, "{what} of debit {debit} of transaction {transaction}"),
            Field::Entry { what, index } => write!(f, "{what} of entry {index}"),
            Field::Leaf(table, number) => write!(f, "{table:?} {number} in the state"),
            Field::Totals(class) => write!(f, "totals of class {class}"),
        }
    }
}

/// Where a history first is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// In which block.
    pub height: Height,
    /// In which transaction, from 0; none: the block as a whole, or a due
    /// step.
    pub transaction: Option<Box<(usize, TransactionId)>>,
    /// At which index of the log, if that is known.
    pub entry: Option<u64>,
    /// In what.
    pub field: Field,
    /// What follows from the genesis and from what was checked before.
    pub expected: String,
    /// What is stored.
    pub found: String,
}

impl Divergence {
    /// Of a block as a whole.
    pub fn of_block(
        height: Height,
        field: Field,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Divergence {
            height,
            transaction: None,
            entry: None,
            field,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    pub(crate) fn in_transaction(mut self, index: usize, id: TransactionId) -> Self {
        self.transaction = Some(Box::new((index, id)));
        self
    }

    /// The same, at an index of the log.
    #[must_use]
    pub fn at_entry(mut self, index: u64) -> Self {
        self.entry = Some(index);
        self
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.height)?;
        if let Some((index, id)) = self.transaction.as_deref() {
            write!(f, ", transaction {index} ({id})")?;
        }
        let Divergence {
            field,
            expected,
            found,
            ..
        } = self;
        write!(f, ": {field}: expected {expected}, found {found}")
    }
}

impl std::error::Error for Divergence {}

/// Reads a stored body of at most `limit` bytes, whatever was dropped of its
/// details. All levels read stored blocks
/// here and nowhere else.
pub fn read_block(height: Height, body: &[u8], limit: usize) -> Result<StoredBlock, Divergence> {
    let error = |DecodeError { why, .. }| {
        Divergence::of_block(height, Field::Body, "a canonical block", why)
    };
    StoredBlock::decode(body, limit).map_err(error)
}
