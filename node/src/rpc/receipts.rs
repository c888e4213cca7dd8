//! Receipts with the file that proves them; without the detail, if that was
//! dropped here.

use tally_ledger::{
    codec::List, entry::Entry, ids::TableVersion, receipt::ReceiptFile, state_file::StateFile,
    tree::Table,
};
use tally_proto::{Local, v1};
use tonic::Status;

use super::{proofs, proven_block::ProvenBlocks, unreadable};
use crate::view::View;

/// The receipt at a log index.
pub(super) fn receipt<V: View>(
    view: &V,
    blocks: &ProvenBlocks,
    index: u64,
) -> Result<v1::GetReceiptResponse, Status> {
    let none = || Local::NotFound.status(format!("entry {index} of the log is no receipt"));
    let entries = view
        .entries(index..index.saturating_add(1))
        .map_err(unreadable)?;
    let Some(Entry::Receipt(receipt)) = entries.first() else {
        return Err(none());
    };
    let block = blocks
        .get(receipt.height, view.rewrites(), || {
            view.block(receipt.height)
        })
        .map_err(unreadable)?
        .ok_or_else(|| Local::NotFound.status("the receipt's block is not kept here"))?;
    let header = block.header();
    let path = view
        .inclusion(index, header.log_size)
        .map_err(unreadable)?
        .ok_or_else(none)?;
    let (debit, proof) = block.debit(&receipt.position).ok_or_else(none)?;
    let debit = debit.ok();
    let file = ReceiptFile {
        certified: proofs::certified(header, block.certificate()),
        index,
        receipt: *receipt,
        path: bounded(path)?,
        detail: debit.map(|debit| debit.detail),
        debit: Some(proof),
        prices: debit.and_then(|debit| prices(view, debit.detail.table)),
    };
    let gateway = receipt.position.gateway;
    Ok(v1::GetReceiptResponse {
        entry: Some(v1::Entry::new(index, &entries[0])),
        detail: debit.map(|debit| v1::Detail::new(gateway, &debit)),
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
