//! The end of a block: leaf hashes, log, trees, roots, and the check that
//! no token was made or lost (I1).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Execution, draft::Draft};
use crate::{
    block::Header,
    class::Totals,
    codec,
    evidence::{Marks, validator_leaf},
    hash::Hash,
    ids::{AccountNumber, ClassNumber, GatewayNumber, LeaseNumber},
    merkle::Frontier,
    person::PersonState,
    state::{IdBucket, Leaves, LeavesChange, State},
    tree::{Table, TreeUpdate, state_root, table_leaf_hash},
};

/// What a block changes besides the log's entries.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) leaves: LeavesChange,
    /// Per table, ascending.
    pub(crate) trees: [TreeUpdate; Table::COUNT],
    /// Owners of leases that were opened; `None`: closed.
    pub(crate) leases: BTreeMap<(GatewayNumber, LeaseNumber), Option<AccountNumber>>,
    pub(crate) log: Frontier,
    /// The grace of leases has changed, and with it when each closes.
    pub(crate) regrace: bool,
}

impl Draft<'_> {
    /// Computes all roots; `header` has everything else.
    pub(super) fn finish(mut self, mut header: Header) -> Execution {
        self.assert_conserved();
        let state = self.base;
        let mut log = state.log().clone();
        let leaf_hashes: Vec<Hash> = self.entries.iter().map(|e| e.leaf_hash()).collect();
        leaf_hashes.iter().for_each(|leaf| log.append(*leaf));
        self.chain.entries = log.size();
        let leaves = LeavesChange {
            chain: self.chain,
            parameters: self.parameters,
            persons: self.persons.into_changes(),
            accounts: self.accounts.into_changes(),
            gateways: self.gateways.into_changes(),
            classes: self.classes.into_changes(),
            api_keys: self.api_keys.into_changes(),
            prices: self.prices.into_changes(),
            corrections: self.corrections.into_changes(),
            rates: self.rates.into_changes(),
            marks: self.marks.into_changes(),
            passed: passed_slots(state, self.now.hour()),
            used: self.used_list,
        };
        let trees = update_trees(state, &leaves);
        let heads: Vec<_> = Table::ALL
            .into_iter()
            .zip(&trees)
            .map(|(table, tree)| (table, tree.size(), tree.root()))
            .collect();
        header.log_size = log.size();
        header.log_root = log.root();
        header.state_root = state_root(&heads);
        header.next_validators = state.validators().hash();
        let regrace = self.parameters.lease_grace_ms != state.parameters().lease_grace_ms;
        Execution {
            header,
            entries: self.entries,
            leaf_hashes,
            change: Change {
                leaves,
                trees,
                leases: self.leases.into_map(),
                log,
                regrace,
            },
        }
    }

    /// I1 and I4: every touched total adds up, and what the classes count
    /// changed by what the accounts' counts changed. A violation is a bug of
    /// this program: it stops rather than let a block through.
    fn assert_conserved(&self) {
        let mut moved: BTreeMap<ClassNumber, (Tally, Tally)> = BTreeMap::new();
        for (old, new) in self.accounts.changes() {
            for (class, totals) in old.iter().flat_map(|account| &account.totals) {
                moved.entry(*class).or_default().0.add(totals);
            }
            for (class, totals) in &new.totals {
                assert!(totals.are_conserved(), "I1: an account's totals add up");
                moved.entry(*class).or_default().1.add(totals);
            }
        }
        for (class, (before, after)) in &mut moved {
            let old = self.base.class(*class).map(|class| class.totals);
            before.add(&self.class(*class).expect("held classes exist").totals);
            after.add(&old.unwrap_or_default());
            assert!(before == after, "I1: classes count what accounts hold");
        }
        for (_, class) in self.classes.changes() {
            assert!(class.totals.are_conserved(), "I1: a class's totals add up");
        }
    }
}

/// Sums of totals, in the order of [`Totals`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally([u128; 10]);

impl Tally {
    pub(crate) fn add(&mut self, totals: &Totals) {
        let amounts = [
            totals.issued,
            totals.unvested,
            totals.available,
            totals.leased,
            totals.spent,
            totals.expired,
            totals.revoked,
            totals.surrendered,
        ];
        let amounts = amounts.into_iter().map(|amount| u128::from(amount.0));
        let sums = amounts.chain([totals.costs.0, totals.loss.0]);
        for (sum, amount) in self.0.iter_mut().zip(sums) {
            *sum += amount;
        }
    }
}

/// Slots of table 8 whose hour has passed at clock hour `now`.
fn passed_slots(state: &State, now: u32) -> Vec<u32> {
    if now == state.time().hour() {
        return Vec::new();
    }
    let slots = (0..).zip(&state.leaves.buckets);
    let passed = slots.filter(|(_, bucket)| bucket.hour != 0 && bucket.hour <= now);
    passed.map(|(slot, _)| slot).collect()
}

/// The leaves of table 8 that a block changes.
fn changed_buckets(leaves: &Leaves, change: &LeavesChange) -> Vec<(u32, IdBucket)> {
    let passed = change
        .passed
        .iter()
        .map(|slot| (*slot, IdBucket::default()));
    let mut buckets: BTreeMap<u32, IdBucket> = passed.collect();
    for (hour, used) in &change.used {
        let slot = IdBucket::slot(*hour);
        let old = leaves.buckets[slot as usize].leaf;
        buckets.entry(slot).or_insert(old).add(*hour, used);
    }
    buckets.into_iter().collect()
}

fn hashes<T: Serialize>(table: Table, leaves: &[(u32, T)]) -> Vec<(u32, Hash)> {
    let hash = |(number, leaf): &(u32, T)| {
        let leaf = codec::encode(leaf);
        (*number, table_leaf_hash(table, *number, &leaf))
    };
    leaves.iter().map(hash).collect()
}

fn person_hashes(persons: &[(u32, PersonState)]) -> Vec<(u32, Hash)> {
    let hash = |(number, person): &(u32, PersonState)| {
        let hash = table_leaf_hash(Table::Persons, *number, &person.leaf());
        (*number, hash)
    };
    persons.iter().map(hash).collect()
}

/// The parameters, if they changed, and behind them the rates.
fn parameter_hashes(state: &State, change: &LeavesChange) -> Vec<(u32, Hash)> {
    let table = Table::Parameters;
    let mut changed = Vec::new();
    if change.parameters != *state.parameters() {
        changed = hashes(table, &[(0, change.parameters)]);
    }
    let rates = change.rates.iter().map(|(_, rates)| (1, rates));
    changed.extend(hashes(table, &rates.collect::<Vec<_>>()));
    changed
}

/// The validators that were marked.
fn validator_hashes(state: &State, change: &LeavesChange) -> Vec<(u32, Hash)> {
    let hash = |(number, marks): &(u32, Marks)| {
        let leaf = validator_leaf(&state.validators().0[*number as usize], marks);
        (*number, table_leaf_hash(Table::Validators, *number, &leaf))
    };
    change.marks.iter().map(hash).collect()
}

/// New nodes of every table, each touched path once.
fn update_trees(state: &State, change: &LeavesChange) -> [TreeUpdate; Table::COUNT] {
    let leaf_hashes = |table| match table {
        Table::Chain => hashes(table, &[(0, change.chain)]),
        Table::Persons => person_hashes(&change.persons),
        Table::Accounts => hashes(table, &change.accounts),
        Table::Gateways => hashes(table, &change.gateways),
        Table::Classes => hashes(table, &change.classes),
        Table::ApiKeys => hashes(table, &change.api_keys),
        Table::Parameters => parameter_hashes(state, change),
        Table::IdBuckets => hashes(table, &changed_buckets(&state.leaves, change)),
        Table::PriceTables => hashes(table, &change.prices),
        Table::Corrections => hashes(table, &change.corrections),
        Table::Validators => validator_hashes(state, change),
    };
    let mut trees = state.trees.iter();
    Table::ALL.map(|table| {
        let tree = trees.next().expect("a tree per table");
        tree.update(&leaf_hashes(table))
    })
}
