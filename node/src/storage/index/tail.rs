//! The latest part of the index, in memory.

use std::collections::{BTreeMap, HashMap};

use tally_ledger::{
    action::Action,
    debit::{Detail, raw_debits},
    entry::{Entry, Event},
    ids::{ClassNumber, GatewayNumber, Height},
    redacted::batch_of,
    transaction::{Body, Transaction, TransactionId},
};

use super::key16;
use crate::view::{CommittedBlock, Listing, Place};

/// Lists of entries by a small number, relative to the tail's start.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<Vec<u32>>);

impl Lists {
    fn push(&mut self, number: u32, entry: u32) {
        let number = number as usize;
        if self.0.len() <= number {
            self.0.resize_with(number + 1, Vec::new);
        }
        self.0[number].push(entry);
    }

    /// (number, list) of those that are not empty, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let lists = (0..).zip(self.0.iter().map(Vec::as_slice));
        lists.filter(|(_, list)| !list.is_empty())
    }

    fn get(&self, number: u32) -> &[u32] {
        self.0.get(number as usize).map_or(&[], Vec::as_slice)
    }
}

/// Blocks after the last sealed segment.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Log index of the first entry.
    pub(super) start: u64,
    count: u64,
    before: Height,
    /// The last block.
    pub(super) height: Height,
    pub(super) accounts: Lists,
    pub(super) gateways: Lists,
    pub(super) classes: Lists,
    pub(super) control: Vec<u32>,
    pub(super) transactions: HashMap<TransactionId, Place>,
    pub(super) holds: HashMap<[u8; 16], u32>,
    pub(super) batches: BTreeMap<[u8; 16], u32>,
}

/// The gateway that an entry is listed under.
fn gateway_of(entry: &Entry) -> Option<GatewayNumber> {
    match entry {
        Entry::Receipt(receipt) => Some(receipt.position.gateway),
        Entry::Event(_, event) => match event {
            Event::LeaseGranted { gateway, .. }
            | Event::LeaseEnded { gateway, .. }
            | Event::LeaseClosed { gateway, .. }
            | Event::JournalOpened { gateway, .. }
            | Event::GatewayRegistered { gateway, .. }
            | Event::GatewayKeySet { gateway, .. }
            | Event::GatewaySuspended { gateway, .. } => Some(*gateway),
            _ => None,
        },
    }
}

/// The class that an entry is listed under.
fn class_of(entry: &Entry) -> Option<ClassNumber> {
    match entry {
        Entry::Receipt(receipt) => Some(receipt.class),
        Entry::Event(_, event) => match event {
            Event::LeaseGranted { class, .. } | Event::ClassSet { class, .. } => Some(*class),
            Event::GrantIssued { grant, .. } | Event::Corrected { grant, .. } => Some(grant.class),
            _ => None,
        },
    }
}

fn is_debits(transaction: &Transaction) -> bool {
    !transaction.payload.is_empty()
        && Body::decode(&transaction.body)
            .is_ok_and(|body| matches!(body.action, Action::Debits(_)))
}

/// Each debit of a block, in order: whether it is its batch's first, and its
/// detail, if it is kept.
fn details(block: &CommittedBlock) -> impl Iterator<Item = (bool, Option<Detail>)> {
    let transactions = block.block.transactions.iter().enumerate();
    transactions.flat_map(|(index, transaction)| {
        let redacted = batch_of(&block.redacted, index);
        let some = redacted.into_iter();
        let some = some.flat_map(|batch| batch.debits.iter().map(|debit| debit.detail));
        let whole = redacted.is_none() && is_debits(transaction);
        let payload: &[u8] = if whole { &transaction.payload } else { &[] };
        let all = raw_debits(payload).map(|raw| {
            let debit = raw.read().expect("the ledger took its form");
            Some(debit.detail)
        });
        let details = some.chain(all).enumerate();
        details.map(|(i, detail)| (i == 0, detail))
    })
}

impl Tail {
    /// An empty tail after these.
    pub(super) fn new(start: u64, height: Height) -> Self {
        Self {
            start,
            before: height,
            height,
            ..Self::default()
        }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.height.0 - self.before.0
    }

    /// Log index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.start + self.count
    }

    /// Takes in the next block.
    ///
    /// # Panics
    /// If it is not the next, or its first entry is not.
    pub(super) fn add(&mut self, block: &CommittedBlock) {
        let height = block.block.header.height;
        assert_eq!(height.0, self.height.0 + 1, "blocks are indexed in order");
        // The genesis's own entry comes with block 1.
        let genesis = u64::from(height.0 == 1);
        assert_eq!(
            block.first_entry,
            self.end() + genesis,
            "entries are indexed in order"
        );
        if genesis == 1 {
            self.control.push(0);
            self.count += 1;
        }
        for (index, id) in (0..).zip(&block.transactions) {
            self.transactions.insert(*id, Place { height, index });
        }
        let mut details = details(block);
        for (entry, index) in block.entries.iter().zip((self.count as u32)..) {
            self.add_entry(entry, index);
            if let Entry::Receipt(receipt) = entry {
                let (first, detail) = details.next().expect("receipts are of debits, in order");
                let position = receipt.position;
                // Without its detail, a receipt is found by its debit only.
                if let Some(detail) = detail {
                    let hold = key16(position.gateway, detail.hold_journal, detail.hold);
                    self.holds.entry(hold).or_insert(index);
                }
                if first {
                    let batch = key16(position.gateway, position.journal, position.number.0);
                    self.batches.insert(batch, index);
                }
            }
        }
        self.count += block.entries.len() as u64;
        self.height = height;
    }

    fn add_entry(&mut self, entry: &Entry, index: u32) {
        if let Some(account) = entry.account() {
            self.accounts.push(account.0, index);
        }
        if let Some(gateway) = gateway_of(entry) {
            self.gateways.push(gateway.0, index);
        }
        if let Some(class) = class_of(entry) {
            self.classes.push(class.0.into(), index);
        }
        if matches!(entry, Entry::Event(leaf, _) if leaf.control > 0) {
            self.control.push(index);
        }
    }

    pub(super) fn transaction(&self, id: &TransactionId) -> Option<Place> {
        self.transactions.get(id).copied()
    }

    pub(super) fn hold(&self, key: &[u8; 16]) -> Option<u64> {
        self.holds
            .get(key)
            .map(|entry| self.start + u64::from(*entry))
    }

    /// The last batch of the same journal that begins at or before the key.
    pub(super) fn batch(&self, key: &[u8; 16]) -> Option<u64> {
        let (found, entry) = self.batches.range(..=*key).next_back()?;
        (found[..8] == key[..8]).then(|| self.start + u64::from(*entry))
    }

    fn listed(&self, listing: Listing) -> &[u32] {
        match listing {
            Listing::Account(number) => self.accounts.get(number.0),
            Listing::Gateway(number) => self.gateways.get(number.0),
            Listing::Class(number) => self.classes.get(number.0.into()),
            Listing::Control => &self.control,
            Listing::All => &[],
        }
    }

    /// The last entry of a listing before an index, if it is in the tail.
    pub(super) fn last_before(&self, listing: Listing, index: u64) -> Option<u64> {
        let list = self.listed(listing);
        let at = |entry: &u32| self.start + u64::from(*entry);
        let after = list.partition_point(|entry| at(entry) < index);
        after.checked_sub(1).map(|last| at(&list[last]))
    }

    /// Appends at most `limit` entries of a listing, from `from` on.
    pub(super) fn list(&self, listing: Listing, from: u64, limit: usize, out: &mut Vec<u64>) {
        let list = self.listed(listing);
        let index = |entry: &u32| self.start + u64::from(*entry);
        let skip = list.partition_point(|entry| index(entry) < from);
        out.extend(list[skip..].iter().take(limit).map(index));
    }
}
