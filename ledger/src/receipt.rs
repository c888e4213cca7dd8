//! Receipt files: one receipt with everything that proves it, checked with
//! the genesis alone, without a network and without trust in who wrote it.
//!
//! ```text
//! magic "TALLYRCT" | version u8 | header 219 | certificate |
//! set changes u64 = 0 | log index u64 | leaf 86 | path (u64 n, n x 32) |
//! detail (0, or 1 and 112 bytes, or 2 and 128 bytes) |
//! debit proof (0, or 1 and the proof) |
//! price table (0, or 1 and header, certificate, set changes, state proof)
//! ```
//!
//! The version is 2 if the file carries a detail of version 2, else 1.
//!
//! What a verified file proves:
//!
//! - always: a quorum of the genesis's validators certified a log in which
//!   this leaf stands at this index; charged <= cost, the rest is the
//!   gateway's loss;
//! - with the detail: model, usage and times are those that the leaf binds;
//! - with the debit proof: the certified block of the receipt's height
//!   executed a batch, authored by the gateway, that holds this very debit,
//!   with this fee and limit; charged <= limit;
//! - with detail, debit proof and price table (version 1 is in the genesis,
//!   later ones come as a proof under a header of any height, for a version
//!   never changes): the cost is exactly `price(usage, fee)` (I4). Without the debit proof the fee is unknown,
//!   because the leaf does not carry it: then cost - `price(usage, 0)` is
//!   reported as the fee that it implies.
//!
//! What it cannot prove: that the usage is true (the gateway's word), what
//! remained in the lease, or a transaction's place in its block.

use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, Debits},
    block::Header,
    certified::{CertifiedHeader, HeaderError, Trust},
    codec::{self, DecodeError, List},
    correction::MAX_PATH,
    debit::{Detail, Fixed, batch_leaf},
    entry::Receipt,
    genesis::{Genesis, GenesisError},
    hash::Hash,
    ids::{Amount, GatewayNumber, Height, ModelNumber, TableVersion},
    merkle::{leaf_hash, verify_inclusion},
    price::{MAX_FEE, PriceTable, UsageError},
    state_file::{StateFile, StateFileError},
    state_proof::StateProofError,
    transaction::{Author, Body, transaction_id},
    tree::Table,
};

pub(crate) mod layout;

/// First bytes of a receipt file.
pub const RECEIPT_MAGIC: [u8; 8] = *b"TALLYRCT";
/// Version of the file's layout, if it carries a detail of version 2.
pub const RECEIPT_FILE_VERSION: u8 = 2;
/// Version of any other receipt file.
pub const FIRST_RECEIPT_FILE_VERSION: u8 = 1;
/// Most bytes of a receipt file.
pub const MAX_RECEIPT_FILE_BYTES: usize = 1024 * 1024;
/// Most bytes of a Debits body.
pub const MAX_DEBITS_BODY_BYTES: usize = 256;

/// A receipt and its proofs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptFile {
    /// The header under whose log root the receipt is shown.
    pub certified: CertifiedHeader,
    /// Its index in the log.
    pub index: u64,
    /// The receipt; the file carries its leaf.
    #[serde(with = "layout::leaf")]
    pub receipt: Receipt,
    /// Inclusion path in the log of `header.log_size` entries.
    pub path: List<Hash, MAX_PATH>,
    /// The debit's detail, if it is kept.
    #[serde(with = "layout::detail")]
    pub detail: Option<Detail>,
    /// The debit behind it, under the same header's transactions root: then
    /// the header is the one of the receipt's height.
    pub debit: Option<DebitProof>,
    /// The price table that the detail names, proven at any height: a
    /// version never changes. Not needed for version 1.
    pub prices: Option<StateFile>,
}

/// Proof that a block executed a debit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebitProof {
    /// The debit's fixed part.
    #[serde(with = "layout::fixed")]
    pub fixed: Fixed,
    /// Inclusion path of the batch leaf under the body's root.
    pub batch_path: List<Hash, MAX_PATH>,
    /// Canonical body of the Debits transaction.
    pub body: List<u8, MAX_DEBITS_BODY_BYTES>,
    /// Hash of its encoded signatures.
    pub signatures: Hash,
    /// Hash of its payload.
    pub payload: Hash,
    /// Its index in the block.
    pub index: u32,
    /// Number of transactions in the block.
    pub count: u32,
    /// Inclusion path under the header's transactions root.
    pub path: List<Hash, MAX_PATH>,
}

/// How far the cost was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceCheck {
    /// cost = price(usage, fee), every input proven.
    Exact,
    /// cost = price(usage, 0) + this; whether it is the debit's fee is not
    /// proven.
    ImpliedFee(Amount),
    /// The file does not carry the price table of this version.
    UnknownTable(TableVersion),
    /// The detail is not kept.
    NoDetail,
}

/// What a receipt file proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedReceipt {
    /// The receipt.
    pub receipt: Receipt,
    /// Its index in the log.
    pub index: u64,
    /// Height of the certified header.
    pub height: Height,
    /// Id of the certified header.
    pub block: Hash,
    /// The debit's detail, if the file carries it.
    pub detail: Option<Detail>,
    /// The debit's fixed part, if the file proves it.
    pub fixed: Option<Fixed>,
    /// How far the cost was checked.
    pub price: PriceCheck,
}

impl VerifiedReceipt {
    /// What the gateway lost.
    pub fn loss(&self) -> Amount {
        self.receipt.cost.saturating_sub(self.receipt.charged)
    }
}

/// Why a receipt file proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The genesis cannot start a chain.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// The header is not certified.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The receipt's height is not between 1 and the header's.
    #[error("a receipt of height {receipt} under the header of height {header}")]
    Height {
        /// The receipt's.
        receipt: Height,
        /// The header's.
        header: Height,
    },
    /// The leaf is not at this index of the certified log.
    #[error("the receipt is not entry {index} of the certified log")]
    NotInLog {
        /// The claimed index.
        index: u64,
    },
    /// Receipts that share a proof are not all in the certified log.
    #[error("the receipts are not where the file says in the certified log")]
    NoneInLog,
    /// More charged than the debit cost or its hold allowed.
    #[error("charged {charged}, which is more than {limit}")]
    Overcharged {
        /// What was charged.
        charged: Amount,
        /// What could be.
        limit: Amount,
    },
    /// The detail is not the one that the leaf binds.
    #[error("the detail is not the receipt's")]
    Detail,
    /// The debit proof does not lead to this receipt.
    #[error("debit: {0}")]
    Debit(#[from] DebitError),
    /// The proof of the price table does not verify.
    #[error("price table: {0}")]
    PriceProof(#[from] StateFileError),
    /// The proof of a price table under the same header does not verify.
    #[error("price table: {0}")]
    PriceLeaf(#[from] StateProofError),
    /// The proven leaf is not the price table that the detail names.
    #[error("the proven state is not price table {0}")]
    PriceTable(TableVersion),
    /// The table does not have the model.
    #[error("price table {table} has no model {model}")]
    NoModel {
        /// The table.
        table: TableVersion,
        /// The model.
        model: ModelNumber,
    },
    /// The usage or fee has no price.
    #[error("usage: {0}")]
    Usage(#[from] UsageError),
    /// The cost is not the price (I4).
    #[error("the receipt's cost is {found}, the price {wanted}")]
    Cost {
        /// What the price function gives.
        wanted: Amount,
        /// What the receipt says.
        found: Amount,
    },
}

/// Why a debit proof does not lead to its receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DebitError {
    /// The header is not the one of the receipt's height.
    #[error("the header is not of the receipt's height")]
    OtherHeight,
    /// The transaction is not under the header's transactions root.
    #[error("the transaction is not in the block")]
    NotInBlock,
    /// The body is not this gateway's Debits with this number.
    #[error("the transaction is no batch of the gateway that holds this number")]
    OtherBatch,
    /// The fixed part and the detail are not in the batch at this number.
    #[error("the debit is not in the batch")]
    NotInBatch,
    /// Account, class or flags are not the receipt's.
    #[error("account, class or flags differ from the receipt's")]
    OtherReceipt,
}

impl ReceiptFile {
    fn version(&self) -> u8 {
        match self.detail {
            Some(detail) if detail.queued.is_some() => RECEIPT_FILE_VERSION,
            _ => FIRST_RECEIPT_FILE_VERSION,
        }
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        layout::file(RECEIPT_MAGIC, self.version(), self)
    }

    /// Reads a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let known = [FIRST_RECEIPT_FILE_VERSION, RECEIPT_FILE_VERSION];
        let limit = MAX_RECEIPT_FILE_BYTES;
        let (version, file): (u8, ReceiptFile) =
            layout::read_file(RECEIPT_MAGIC, &known, bytes, limit)?;
        if version == file.version() {
            Ok(file)
        } else {
            Err(DecodeError {
                what: std::any::type_name::<Self>(),
                why: format!("version {version}, the content is of {}", file.version()),
            })
        }
    }

    /// Checks everything in the file, starting from the genesis.
    pub fn verify(&self, genesis: &Genesis) -> Result<VerifiedReceipt, VerifyError> {
        self.verify_with(&mut Trust::new(genesis)?)
    }

    /// The same as one of many files.
    pub fn verify_with(&self, trust: &mut Trust<'_>) -> Result<VerifiedReceipt, VerifyError> {
        trust.check(&self.certified)?;
        self.check_leaf()?;
        check_detail(&self.receipt, self.detail.as_ref())?;
        if let Some(debit) = &self.debit {
            debit.verify(&self.certified, &self.receipt)?;
            at_most(self.receipt.charged, debit.fixed.limit)?;
        }
        let proven = self.proven_prices(trust)?;
        let detail = self.detail.as_ref();
        if let (Some(proven), Some(detail)) = (&proven, detail)
            && proven.version != detail.table
        {
            return Err(VerifyError::PriceTable(detail.table));
        }
        let fee = self.debit.as_ref().map(|debit| debit.fixed.fee);
        let price = check_price(trust.genesis(), &self.receipt, detail, fee, proven.as_ref())?;
        Ok(VerifiedReceipt {
            receipt: self.receipt,
            index: self.index,
            height: self.certified.header.height,
            block: self.certified.header.id(),
            detail: self.detail,
            fixed: self.debit.as_ref().map(|debit| debit.fixed),
            price,
        })
    }

    fn check_leaf(&self) -> Result<(), VerifyError> {
        let ReceiptFile { receipt, index, .. } = self;
        let header = &self.certified.header;
        check_height(receipt, header)?;
        let leaf = leaf_hash(&receipt.leaf());
        let (size, root) = (header.log_size, &header.log_root);
        if !verify_inclusion(&leaf, *index, size, &self.path, root) {
            return Err(VerifyError::NotInLog { index: *index });
        }
        at_most(receipt.charged, receipt.cost)
    }

    /// The price table that the file proves, if it carries one.
    fn proven_prices(&self, trust: &mut Trust<'_>) -> Result<Option<PriceTable>, VerifyError> {
        let Some(file) = &self.prices else {
            return Ok(None);
        };
        let named = self.detail.map_or(TableVersion(0), |detail| detail.table);
        let other = VerifyError::PriceTable(named);
        let leaf = file.verify_with(trust)?;
        let table = leaf.and_then(|leaf| price_table(file.proof.table, leaf));
        table.map(Some).ok_or(other)
    }
}

/// A proven leaf of the state as a price table; `None`: it is none.
pub(crate) fn price_table(table: Table, leaf: &[u8]) -> Option<PriceTable> {
    let read = || codec::decode(leaf, leaf.len()).ok();
    let prices: Option<PriceTable> = (table == Table::PriceTables).then(read)?;
    prices.filter(|prices| prices.validate().is_ok())
}

fn check_height(receipt: &Receipt, header: &Header) -> Result<(), VerifyError> {
    if receipt.height.0 == 0 || receipt.height > header.height {
        return Err(VerifyError::Height {
            receipt: receipt.height,
            header: header.height,
        });
    }
    Ok(())
}

/// What a leaf in the log must satisfy by itself.
pub(crate) fn check_amounts(receipt: &Receipt, header: &Header) -> Result<(), VerifyError> {
    check_height(receipt, header)?;
    at_most(receipt.charged, receipt.cost)
}

/// Whether the detail is the one that the leaf binds.
pub(crate) fn check_detail(receipt: &Receipt, detail: Option<&Detail>) -> Result<(), VerifyError> {
    match detail {
        Some(detail) if detail.hash() != receipt.detail => Err(VerifyError::Detail),
        _ => Ok(()),
    }
}

/// Whether the cost is the price of the detail's usage and the fee, if that
/// is proven. `proven` is the table that the detail
/// names; without it, the genesis's may be.
pub(crate) fn check_price(
    genesis: &Genesis,
    receipt: &Receipt,
    detail: Option<&Detail>,
    fee: Option<Amount>,
    proven: Option<&PriceTable>,
) -> Result<PriceCheck, VerifyError> {
    let Some(detail) = detail else {
        return Ok(PriceCheck::NoDetail);
    };
    let table = match proven {
        Some(table) => table,
        None if detail.table == genesis.prices.version => &genesis.prices,
        None => return Ok(PriceCheck::UnknownTable(detail.table)),
    };
    let model = table.model(detail.model).ok_or(VerifyError::NoModel {
        table: detail.table,
        model: detail.model,
    })?;
    let price = model.cost(&detail.usage, fee.unwrap_or(Amount::ZERO))?;
    let found = receipt.cost;
    let rest = found.checked_sub(price);
    match (fee, rest) {
        (Some(_), Some(Amount::ZERO)) => Ok(PriceCheck::Exact),
        (None, Some(rest)) if rest.0 < MAX_FEE => Ok(PriceCheck::ImpliedFee(rest)),
        _ => Err(VerifyError::Cost {
            wanted: price,
            found,
        }),
    }
}

fn at_most(charged: Amount, limit: Amount) -> Result<(), VerifyError> {
    if charged > limit {
        return Err(VerifyError::Overcharged { charged, limit });
    }
    Ok(())
}

impl DebitProof {
    /// Checks that the certified block executed this debit, and that the
    /// receipt is its outcome. The transaction's index and the number of
    /// transactions are hints for the path: no root binds them.
    fn verify(&self, certified: &CertifiedHeader, receipt: &Receipt) -> Result<(), DebitError> {
        let header = &certified.header;
        if header.height != receipt.height {
            return Err(DebitError::OtherHeight);
        }
        let leaf = [
            transaction_id(&self.body).0,
            self.signatures.0,
            self.payload.0,
        ]
        .concat();
        let (index, count) = (self.index.into(), self.count.into());
        let root = &header.transactions_root;
        if !verify_inclusion(&leaf_hash(&leaf), index, count, &self.path, root) {
            return Err(DebitError::NotInBlock);
        }
        self.verify_batch(receipt)?;
        let Fixed {
            account,
            class,
            flags,
            ..
        } = self.fixed;
        if (account, class) != (receipt.account, receipt.class) || !receipt.flags.has(flags) {
            return Err(DebitError::OtherReceipt);
        }
        Ok(())
    }

    fn verify_batch(&self, receipt: &Receipt) -> Result<(), DebitError> {
        let position = &receipt.position;
        let batch = debits(&self.body, position.gateway).ok_or(DebitError::OtherBatch)?;
        let index = position.number.0.checked_sub(batch.first.0);
        let index = index.filter(|_| batch.journal == position.journal);
        let index = index.ok_or(DebitError::OtherBatch)?;
        let leaf = batch_leaf(position, &self.fixed.write(), &receipt.detail);
        let count = batch.count.into();
        if !verify_inclusion(
            &leaf_hash(&leaf),
            index,
            count,
            &self.batch_path,
            &batch.root,
        ) {
            return Err(DebitError::NotInBatch);
        }
        Ok(())
    }
}

/// The batch that a body of this gateway announces, if it does.
fn debits(body: &[u8], gateway: GatewayNumber) -> Option<Debits> {
    let body = Body::decode(body).ok()?;
    match body.action {
        Action::Debits(debits) if body.author == Author::from(gateway) => Some(debits),
        _ => None,
    }
}
