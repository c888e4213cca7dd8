//! Files of receipts, of one or of many: read, verified, and which of the
//! receipts in them is meant.

use std::path::Path;

use anyhow::Context;
use tally_ledger::{
    block::Header,
    certified::Trust,
    codec::{self, DecodeError},
    genesis::Genesis,
    price::PriceTable,
    receipt::{ReceiptFile, VerifiedReceipt},
    receipts::{RECEIPTS_MAGIC, ReceiptsFile},
};
use tally_proto::v1;

use super::{
    evidence::unproven,
    exit::{Exit, Failure},
    kind::{self, Kind},
};

/// Receipts that are named one by one.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Named {
    /// By its index in the log; may be repeated
    #[arg(long)]
    index: Vec<u64>,
    /// By its hold, GATEWAY/JOURNAL/NUMBER; may be repeated
    #[arg(long, value_name = "G/J/N", value_parser = parse_triple)]
    hold: Vec<(u32, u32, u64)>,
    /// By its debit, GATEWAY/JOURNAL/NUMBER; may be repeated
    #[arg(long, value_name = "G/J/N", value_parser = parse_triple)]
    debit: Vec<(u32, u32, u64)>,
}

/// Parses `0/1/17`; a name with dashes, as headers carry it, does too.
fn parse_triple(text: &str) -> Result<(u32, u32, u64), String> {
    let error = || format!("`{text}` is no GATEWAY/JOURNAL/NUMBER such as 0/1/17");
    let parts: Vec<&str> = text.split(['/', '-', '.']).collect();
    let [gateway, journal, number] = parts[..] else {
        return Err(error());
    };
    Ok((
        gateway.parse().map_err(|_| error())?,
        journal.parse().map_err(|_| error())?,
        number.parse().map_err(|_| error())?,
    ))
}

/// The hold that a receipt settles, if its detail is there.
pub(crate) fn hold_of(verified: &VerifiedReceipt) -> Option<(u32, u32, u64)> {
    let detail = verified.detail?;
    let gateway = verified.receipt.position.gateway.0;
    Some((gateway, detail.hold_journal.0, detail.hold))
}

fn debit_of(verified: &VerifiedReceipt) -> (u32, u32, u64) {
    let position = verified.receipt.position;
    (position.gateway.0, position.journal.0, position.number.0)
}

impl Named {
    fn is_empty(&self) -> bool {
        self.index.is_empty() && self.hold.is_empty() && self.debit.is_empty()
    }

    /// As a node is asked for them.
    pub(crate) fn request(&self, without_details: bool) -> v1::GetReceiptsRequest {
        let hold = |&(gateway, journal, number): &(u32, u32, u64)| v1::HoldId {
            gateway,
            journal,
            number,
        };
        let debit = |&(gateway, journal, number): &(u32, u32, u64)| v1::DebitId {
            gateway,
            journal,
            number,
        };
        v1::GetReceiptsRequest {
            indexes: self.index.clone(),
            holds: self.hold.iter().map(hold).collect(),
            debits: self.debit.iter().map(debit).collect(),
            without_details,
        }
    }

    /// Whether a receipt is meant; where none is named, all are.
    pub(crate) fn means(&self, verified: &VerifiedReceipt) -> bool {
        self.is_empty()
            || self.index.contains(&verified.index)
            || self.debit.contains(&debit_of(verified))
            || hold_of(verified).is_some_and(|hold| self.hold.contains(&hold))
    }

    /// That everything that is named is among the receipts that were found.
    pub(crate) fn check(&self, found: &[VerifiedReceipt]) -> anyhow::Result<()> {
        let triple = |(a, b, c): &(u32, u32, u64)| format!("{a}/{b}/{c}");
        let index = |index: &&u64| !found.iter().any(|one| one.index == **index);
        let debit = |debit: &&(u32, u32, u64)| !found.iter().any(|one| debit_of(one) == **debit);
        let hold = |hold: &&(u32, u32, u64)| {
            let is = |one| hold_of(one).is_some_and(|of| of == **hold);
            !found.iter().any(is)
        };
        let why = if let Some(hold) = self.hold.iter().find(hold) {
            let how = "without its detail a receipt does not say its hold: `tally receipt verify \
                       FILE` lists entry and debit of each, for --index and --debit";
            format!("hold {} is not in these files; {how}", triple(hold))
        } else if let Some(debit) = self.debit.iter().find(debit) {
            format!("debit {} is not in these files", triple(debit))
        } else if let Some(index) = self.index.iter().find(index) {
            format!("entry {index} is not in these files")
        } else {
            return Ok(());
        };
        Err(Failure::error(Exit::Usage, why))
    }
}

/// A file of receipts.
#[derive(Debug)]
pub(crate) enum Receipts {
    /// Of one, with its debit.
    One(Box<ReceiptFile>),
    /// Of many under one proof.
    Many(Box<ReceiptsFile>),
}

impl Receipts {
    /// Reads a file's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.starts_with(&RECEIPTS_MAGIC) {
            true => ReceiptsFile::decode(bytes).map(|file| Receipts::Many(Box::new(file))),
            false => ReceiptFile::decode(bytes).map(|file| Receipts::One(Box::new(file))),
        }
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let (kind, bytes) = kind::read(path, &[Kind::Receipt, Kind::Receipts])?;
        Self::decode(&bytes).map_err(|e| kind::misread(path, &bytes, kind, e.why))
    }

    /// The header under which it proves them.
    pub(crate) fn header(&self) -> &Header {
        match self {
            Receipts::One(file) => &file.certified.header,
            Receipts::Many(file) => &file.certified.header,
        }
    }

    /// Verifies all of it; what it shows.
    pub(crate) fn verify(&self, trust: &mut Trust<'_>) -> anyhow::Result<Vec<VerifiedReceipt>> {
        let verified = match self {
            Receipts::One(file) => file.verify_with(trust).map(|one| vec![one]),
            Receipts::Many(file) => file.verify_with(trust),
        };
        verified.map_err(|e| unproven(trust, e))
    }

    /// The price tables of the genesis and of the file, once it is verified.
    pub(crate) fn tables(&self, genesis: &Genesis) -> anyhow::Result<Vec<PriceTable>> {
        let mut tables = vec![genesis.prices.clone()];
        match self {
            Receipts::Many(file) => tables.extend(file.tables()?),
            Receipts::One(file) => {
                let leaf = file.prices.as_ref().map(|proof| proof.verify(genesis));
                let leaf = leaf.transpose()?.flatten();
                let table = leaf.map(|leaf| codec::decode(leaf, leaf.len()));
                tables.extend(table.transpose().context("the price table of the file")?);
            }
        }
        Ok(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_read_as_headers_and_as_people_write_them() {
        for text in ["0/1/17", "0-1-17", "0.1.17"] {
            assert_eq!(parse_triple(text), Ok((0, 1, 17)));
        }
        assert!(parse_triple("0/1").is_err() && parse_triple("a/1/2").is_err());
    }
}
