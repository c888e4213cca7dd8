//! Receipts files: many receipts under one header, shown by one proof that all
//! of them share; checked with the genesis alone.
//!
//! ```text
//! magic "TALLYRCS" | version u8 = 1 | certified header |
//! receipts: list of (log index u64, leaf 86, detail) |
//! path: list of hashes | prices: list of state proofs
//! detail: 0, or 1 and 112 bytes, or 2 and 128 bytes
//! ```
//!
//! The receipts ascend by log index; the path is theirs together
//! ([`crate::merkle::multi`]), so that each further receipt of a batch costs
//! little more than itself. Later price tables than the genesis's that a
//! detail names are leaves of the state under the same header, ascending by
//! version; one may be missing, then the cost of those receipts is unknown.
//!
//! What it leaves out: the debits' fixed parts. Fee, limit, lease and API key
//! are shown by a receipt file ([`crate::receipt`]); here the fee is what the
//! cost implies. A receipt that is not in the file may still exist: that none
//! is missing is what a history file shows ([`crate::history`]).

use serde::{Deserialize, Serialize};

use crate::{
    certified::{CertifiedHeader, Trust},
    codec::{DecodeError, List},
    debit::Detail,
    entry::Receipt,
    genesis::Genesis,
    hash::Hash,
    ids::TableVersion,
    merkle::{leaf_hash, verify_multi},
    price::PriceTable,
    receipt::{
        VerifiedReceipt, VerifyError, check_amounts, check_detail, check_price,
        layout::{self, file, read_file},
        price_table,
    },
    state_proof::StateProof,
};

/// First bytes of a receipts file.
pub const RECEIPTS_MAGIC: [u8; 8] = *b"TALLYRCS";
/// Version of the file's layout.
pub const RECEIPTS_FILE_VERSION: u8 = 1;
/// Most receipts of a file.
pub const MAX_RECEIPTS: usize = 100_000;
/// Most hashes of its path: no leaf needs more than 64.
pub const MAX_RECEIPTS_PATH: usize = 64 * MAX_RECEIPTS;
/// Most price tables that it proves.
pub const MAX_RECEIPTS_TABLES: usize = 64;
/// Most bytes of a receipts file.
pub const MAX_RECEIPTS_FILE_BYTES: usize = 32 * 1024 * 1024;

/// A receipt in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownReceipt {
    /// Its index in the log.
    pub index: u64,
    /// The receipt; the file carries its leaf.
    #[serde(with = "layout::leaf")]
    pub receipt: Receipt,
    /// The debit's detail, if it is kept.
    #[serde(with = "layout::detail")]
    pub detail: Option<Detail>,
}

/// Receipts and the proofs that they share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptsFile {
    /// The header under whose roots everything is shown.
    pub certified: CertifiedHeader,
    /// By log index, at least one.
    pub receipts: List<ShownReceipt, MAX_RECEIPTS>,
    /// Shows them all in the log of `header.log_size` entries.
    pub path: List<Hash, MAX_RECEIPTS_PATH>,
    /// Price tables that details name, by version; version 1 is the genesis's.
    pub prices: List<StateProof, MAX_RECEIPTS_TABLES>,
}

impl ReceiptsFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        file(RECEIPTS_MAGIC, RECEIPTS_FILE_VERSION, self)
    }

    /// Reads a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let limit = MAX_RECEIPTS_FILE_BYTES;
        let read = read_file(RECEIPTS_MAGIC, &[RECEIPTS_FILE_VERSION], bytes, limit);
        read.map(|(_, file)| file)
    }

    /// Checks everything in the file, starting from the genesis.
    pub fn verify(&self, genesis: &Genesis) -> Result<Vec<VerifiedReceipt>, VerifyError> {
        self.verify_with(&mut Trust::new(genesis)?)
    }

    /// The same as one of many files.
    pub fn verify_with(&self, trust: &mut Trust<'_>) -> Result<Vec<VerifiedReceipt>, VerifyError> {
        trust.check(&self.certified)?;
        let header = &self.certified.header;
        if let Some(wrong) = self
            .receipts
            .windows(2)
            .find(|pair| pair[0].index >= pair[1].index)
        {
            return Err(VerifyError::NotInLog {
                index: wrong[1].index,
            });
        }
        let leaves = self.receipts.iter();
        let leaves: Vec<_> = leaves
            .map(|shown| (shown.index, leaf_hash(&shown.receipt.leaf())))
            .collect();
        let (size, root) = (header.log_size, &header.log_root);
        if leaves.is_empty() || !verify_multi(&leaves, size, &self.path, root) {
            return Err(VerifyError::NoneInLog);
        }
        let tables = self.tables()?;
        let block = header.id();
        let verify = |shown: &ShownReceipt| {
            check_amounts(&shown.receipt, header)?;
            check_detail(&shown.receipt, shown.detail.as_ref())?;
            let proven = shown.detail.and_then(|detail| {
                let at = tables.binary_search_by_key(&detail.table, |table| table.version);
                at.ok().map(|at| &tables[at])
            });
            Ok(VerifiedReceipt {
                receipt: shown.receipt,
                index: shown.index,
                height: header.height,
                block,
                detail: shown.detail,
                fixed: None,
                price: check_price(
                    trust.genesis(),
                    &shown.receipt,
                    shown.detail.as_ref(),
                    None,
                    proven,
                )?,
            })
        };
        self.receipts.iter().map(verify).collect()
    }

    /// The price tables that the file proves, ascending by version: under its
    /// header, which [`Self::verify`] checks.
    pub fn tables(&self) -> Result<Vec<PriceTable>, VerifyError> {
        let mut tables: Vec<PriceTable> = Vec::new();
        for proof in self.prices.iter() {
            let version = TableVersion(proof.number.saturating_add(1));
            let leaf = proof.verify(&self.certified.header.state_root)?;
            let table = leaf.and_then(|leaf| price_table(proof.table, leaf));
            let table = table.filter(|table| table.version == version);
            let later =
                |table: &PriceTable| tables.last().is_none_or(|l| l.version < table.version);
            tables.push(
                table
                    .filter(later)
                    .ok_or(VerifyError::PriceTable(version))?,
            );
        }
        Ok(tables)
    }
}
