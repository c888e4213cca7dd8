//! Where a committed transaction is, and what it led to.

use tally_ledger::{
    action::Action,
    entry::Entry,
    transaction::{Body, Transaction},
};
use tally_proto::v1;

use crate::view::CommittedBlock;

/// The finality of transaction `index` of a block.
///
/// # Panics
/// If the block has no such transaction.
pub(super) fn finality(block: &CommittedBlock, index: u32) -> v1::Finality {
    let header = &block.block.header;
    let id = block.transactions[index as usize];
    let first_receipt = receipts_of(block, &block.block.transactions[index as usize]);
    let (first, receipts) = first_receipt.unwrap_or_default();
    let events = block
        .entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| match entry {
            Entry::Event(_, event) => event.transaction() == Some(&id),
            Entry::Receipt(_) => false,
        });
    v1::Finality {
        height: header.height.0,
        time: header.time.0,
        index,
        entries: events
            .map(|(i, entry)| v1::Entry::new(block.first_entry + i as u64, entry))
            .collect(),
        first_receipt: first,
        receipts,
    }
}

/// Log index of the first receipt of a Debits transaction, and how many.
/// They are contiguous but for the due steps that the transaction itself
/// runs, which come before all of them.
fn receipts_of(block: &CommittedBlock, transaction: &Transaction) -> Option<(u64, u32)> {
    let body = Body::decode(&transaction.body).ok()?;
    let Action::Debits(debits) = body.action else {
        return None;
    };
    let is_first = |entry: &Entry| match entry {
        Entry::Receipt(receipt) => {
            receipt.position.gateway.0 == body.author.number
                && receipt.position.journal == debits.journal
                && receipt.position.number == debits.first
        }
        Entry::Event(..) => false,
    };
    let first = block.entries.iter().position(is_first)?;
    Some((block.first_entry + first as u64, debits.count))
}
