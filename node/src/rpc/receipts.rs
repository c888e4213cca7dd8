//! Receipts with the file that proves them, and many receipts in one file;
//! without the detail, if that was dropped here.

use std::{collections::BTreeSet, sync::Arc};

use tally_ledger::{
    certified::CertifiedHeader,
    codec::List,
    debit::Detail,
    entry::{Entry, Receipt},
    ids::{Height, TableVersion},
    receipt::ReceiptFile,
    receipts::{ReceiptsFile, ShownReceipt},
    state_file::StateFile,
    state_proof::StateProof,
    tree::Table,
};
use tally_proto::{Local, v1};
use tonic::Status;

use super::{
    proofs,
    proven_block::{ProvenBlock, ProvenBlocks},
    unreadable,
};
use crate::view::View;

/// The receipt at a log index.
pub(super) fn receipt<V: View>(
    view: &V,
    blocks: &ProvenBlocks,
    index: u64,
) -> Result<v1::GetReceiptResponse, Status> {
    let none = || no_receipt(index);
    let receipt = &receipt_at(view, index)?;
    let block = block_of(view, blocks, receipt)?;
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
        entry: Some(v1::Entry::new(index, &Entry::Receipt(*receipt))),
        detail: debit.map(|debit| v1::Detail::new(gateway, &debit)),
        file: file.encode().into(),
    })
}

fn no_receipt(index: u64) -> Status {
    Local::NotFound.status(format!("entry {index} of the log is no receipt"))
}

fn receipt_at<V: View>(view: &V, index: u64) -> Result<Receipt, Status> {
    let entries = view
        .entries(index..index.saturating_add(1))
        .map_err(unreadable)?;
    match entries.first() {
        Some(Entry::Receipt(receipt)) => Ok(*receipt),
        _ => Err(no_receipt(index)),
    }
}

fn block_of<V: View>(
    view: &V,
    blocks: &ProvenBlocks,
    receipt: &Receipt,
) -> Result<Arc<ProvenBlock>, Status> {
    let read = || view.block(receipt.height);
    let block = blocks.get(receipt.height, view.rewrites(), read);
    let block = block.map_err(unreadable)?;
    block.ok_or_else(|| Local::NotFound.status("the receipt's block is not kept here"))
}

/// Refuses receipts of more than `most` blocks, before any block is read.
fn of_few_blocks(receipts: &[Receipt], most: usize) -> Result<(), Status> {
    let heights: BTreeSet<Height> = receipts.iter().map(|receipt| receipt.height).collect();
    if heights.len() <= most {
        return Ok(());
    }
    let fits = heights.iter().nth(most.saturating_sub(1));
    let fits = fits.map_or(0, |last| last.0);
    let why = format!(
        "these receipts are of {} blocks, and with details a file takes those of {most}: take \
         them in parts (`tally receipt get --account N --to {fits}`, then `--from {}`), or \
         without details (`--without-details`)",
        heights.len(),
        fits + 1
    );
    Err(Local::BadRequest.status(why))
}

/// The receipts at these log indexes in one file, under the last header; with
/// their details, if they are of at most so many blocks.
pub(super) fn together<V: View>(
    view: &V,
    blocks: &ProvenBlocks,
    indexes: &BTreeSet<u64>,
    details_of_blocks: Option<usize>,
) -> Result<v1::GetReceiptsResponse, Status> {
    let receipts = indexes.iter().map(|index| receipt_at(view, *index));
    let receipts = receipts.collect::<Result<Vec<_>, _>>()?;
    if let Some(most) = details_of_blocks {
        of_few_blocks(&receipts, most)?;
    }
    let mut shown = Vec::with_capacity(indexes.len());
    for (index, receipt) in indexes.iter().copied().zip(receipts) {
        let detail = match details_of_blocks {
            None => None,
            Some(_) => block_of(view, blocks, &receipt)?.detail(&receipt.position),
        };
        shown.push(ShownReceipt {
            index,
            receipt,
            detail,
        });
    }
    let (certified, prices) = under_last(view, &shown)?;
    let indexes: Vec<u64> = indexes.iter().copied().collect();
    let path = view.multi_path(&indexes, certified.header.log_size);
    let path = path.map_err(unreadable)?;
    let path = path.ok_or_else(|| Local::NotFound.status("a receipt is not final yet"))?;
    let file = ReceiptsFile {
        certified,
        receipts: bounded(shown)?,
        path: bounded(path)?,
        prices: bounded(prices)?,
    };
    Ok(v1::GetReceiptsResponse {
        file: file.encode().into(),
    })
}

/// The last header, and under it the price tables that details name.
fn under_last<V: View>(
    view: &V,
    shown: &[ShownReceipt],
) -> Result<(CertifiedHeader, Vec<StateProof>), Status> {
    let details = shown.iter().filter_map(|shown| shown.detail);
    let later = |Detail { table, .. }: Detail| Some(table.0).filter(|version| *version > 1);
    let versions: BTreeSet<u32> = details.filter_map(later).collect();
    view.with_state(|state, certificate| {
        let (header, certificate) = proofs::last_certified(state, certificate)?;
        let proofs = versions
            .iter()
            .map(|version| state.prove(Table::PriceTables, version - 1));
        Ok((proofs::certified(header, certificate), proofs.collect()))
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
