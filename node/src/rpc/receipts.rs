//! Receipts with the file that proves them.

use tally_ledger::{
    action::Action,
    codec::List,
    debit::{Debit, Position, RECORD_BYTES, batch_leaf},
    entry::{Entry, Receipt},
    hash::{Context, Hash},
    ids::{DebitNumber, TableVersion},
    merkle::{self, Levels},
    receipt::{DebitProof, ReceiptFile},
    state_file::StateFile,
    transaction::{Body, Transaction},
    tree::Table,
};
use tally_proto::{Local, v1};
use tonic::Status;

use super::{proofs, unreadable};
use crate::view::{CommittedBlock, View};

/// The receipt at a log index.
pub(super) fn receipt<V: View>(view: &V, index: u64) -> Result<v1::GetReceiptResponse, Status> {
    let none = || Local::NotFound.status(format!("entry {index} of the log is no receipt"));
    let entries = view
        .entries(index..index.saturating_add(1))
        .map_err(unreadable)?;
    let Some(Entry::Receipt(receipt)) = entries.first() else {
        return Err(none());
    };
    let block = view
        .block(receipt.height)
        .map_err(unreadable)?
        .ok_or_else(|| Local::NotFound.status("the receipt's block is not kept here"))?;
    let header = block.block.header;
    let path = view
        .inclusion(index, header.log_size)
        .map_err(unreadable)?
        .ok_or_else(none)?;
    let batch = Batch::of(&block, receipt).ok_or_else(none)?;
    let debit = batch.debit();
    let file = ReceiptFile {
        certified: proofs::certified(&header, &block.certificate),
        index,
        receipt: *receipt,
        path: bounded(path)?,
        detail: Some(debit.detail),
        debit: Some(batch.proof(&block)?),
        prices: prices(view, debit.detail.table),
    };
    Ok(v1::GetReceiptResponse {
        entry: Some(v1::Entry::new(index, &entries[0])),
        detail: Some(v1::Detail::new(receipt.position.gateway, &debit)),
        file: file.encode().into(),
    })
}

/// A later price table than the genesis's, proven under the last header.
fn prices<V: View>(view: &V, version: TableVersion) -> Option<StateFile> {
    if version.0 <= 1 {
        return None;
    }
    view.with_state(|state, certificate| {
        let (header, certificate) = proofs::last_certified(state, certificate).ok()?;
        Some(StateFile {
            certified: proofs::certified(header, certificate),
            proof: state.prove(Table::PriceTables, version.0 - 1),
        })
    })
}

fn bounded<T, const MAX: usize>(items: Vec<T>) -> Result<List<T, MAX>, Status> {
    List::new(items).map_err(|_| Local::Unavailable.status("a proof is longer than its bound"))
}

/// The transaction that brought a debit.
struct Batch<'a> {
    transaction: &'a Transaction,
    index: usize,
    position: Position,
    first: DebitNumber,
}

impl<'a> Batch<'a> {
    fn of(block: &'a CommittedBlock, receipt: &Receipt) -> Option<Self> {
        let position = receipt.position;
        let transactions = block.block.transactions.iter().enumerate();
        transactions
            .filter_map(|(index, transaction)| {
                let body = Body::decode(&transaction.body).ok()?;
                let Action::Debits(debits) = body.action else {
                    return None;
                };
                let last = debits.first.0 + u64::from(debits.count);
                let ours = body.author.number == position.gateway.0
                    && debits.journal == position.journal
                    && (debits.first.0..last).contains(&position.number.0);
                ours.then_some(Batch {
                    transaction,
                    index,
                    position,
                    first: debits.first,
                })
            })
            .next()
    }

    fn records(&self) -> impl Iterator<Item = &'a [u8; RECORD_BYTES]> {
        self.transaction
            .payload
            .as_chunks::<RECORD_BYTES>()
            .0
            .iter()
    }

    fn offset(&self) -> u64 {
        self.position.number.0 - self.first.0
    }

    fn debit(&self) -> Debit {
        let mut records = self.records();
        let record = records.nth(self.offset() as usize);
        Debit::read(record.expect("the batch holds its debits"))
    }

    /// Leaf hashes of the batch, in order.
    fn leaves(&self) -> impl Iterator<Item = Hash> {
        let (first, position) = (self.first.0, self.position);
        self.records().enumerate().map(move |(i, record)| {
            let debit = Debit::read(record);
            let number = DebitNumber(first + i as u64);
            let position = Position { number, ..position };
            let leaf = batch_leaf(&position, &debit.fixed.write(), &debit.detail.hash());
            merkle::leaf_hash(&leaf)
        })
    }

    fn proof(&self, block: &CommittedBlock) -> Result<DebitProof, Status> {
        let transactions = &block.block.transactions;
        let batch = Levels::of(self.leaves());
        let tree = Levels::of(transactions.iter().map(|t| merkle::leaf_hash(&t.leaf())));
        let batch_path = batch.inclusion(self.offset(), batch.size());
        let path = tree.inclusion(self.index as u64, tree.size());
        let leaf = self.transaction.leaf();
        let part = |at: usize| Hash(leaf[at..at + 32].try_into().expect("a leaf has 96 bytes"));
        debug_assert_eq!(part(64), Context::Payload.hash(&self.transaction.payload));
        Ok(DebitProof {
            fixed: self.debit().fixed,
            batch_path: bounded(batch_path.unwrap_or_default())?,
            body: bounded(self.transaction.body.clone())?,
            signatures: part(32),
            payload: part(64),
            index: self.index as u32,
            count: transactions.len() as u32,
            path: bounded(path.unwrap_or_default())?,
        })
    }
}
