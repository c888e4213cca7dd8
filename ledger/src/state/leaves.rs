//! The leaves of every table, and how a change is taken over.

use serde::{Deserialize, Serialize};

use super::{
    Chain, PROTOCOL,
    ids::{BUCKETS, Bucket, IdBucket, LiveId},
};
use crate::{
    account::{Account, ApiKey},
    block::ValidatorSet,
    class::{Class, Totals},
    codec,
    correction::Correction,
    evidence::{Marks, validator_leaf},
    gateway::Gateway,
    genesis::Genesis,
    hash::Hash,
    ids::{Amount, DebitNumber, JournalNumber, LeaseNumber, Sum, TableVersion},
    parameters::Parameters,
    person::PersonState,
    price::PriceTable,
    rates::RatesState,
    tree::{Table, table_leaf_hash},
};

/// What the tables hold, by number. This is what a snapshot stores.
///
/// The fields are a snapshot's layout of version 1; what is skipped comes
/// behind them in later versions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Leaves {
    pub(crate) chain: Chain,
    pub(crate) persons: Vec<PersonState>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) classes: Vec<Class>,
    pub(crate) api_keys: Vec<ApiKey>,
    pub(crate) parameters: Parameters,
    pub(crate) buckets: Vec<Bucket>,
    pub(crate) prices: Vec<PriceTable>,
    pub(crate) corrections: Vec<Correction>,
    pub(crate) validators: ValidatorSet,
    /// None or one, which is number 1 of the parameters' table.
    #[serde(skip)]
    pub(crate) rates: Vec<RatesState>,
    /// One per validator, behind it in its leaf once it says something.
    #[serde(skip)]
    pub(crate) marks: Vec<Marks>,
}

/// Changed and new leaves, ascending by number per table.
#[derive(Debug, Clone)]
pub(crate) struct LeavesChange {
    pub(crate) chain: Chain,
    pub(crate) parameters: Parameters,
    pub(crate) persons: Vec<(u32, PersonState)>,
    pub(crate) accounts: Vec<(u32, Account)>,
    pub(crate) gateways: Vec<(u32, Gateway)>,
    pub(crate) classes: Vec<(u32, Class)>,
    pub(crate) api_keys: Vec<(u32, ApiKey)>,
    pub(crate) prices: Vec<(u32, PriceTable)>,
    pub(crate) corrections: Vec<(u32, Correction)>,
    pub(crate) rates: Vec<(u32, RatesState)>,
    pub(crate) marks: Vec<(u32, Marks)>,
    /// Slots whose hour has passed.
    pub(crate) passed: Vec<u32>,
    /// Used ids with their hours, in the order of the log.
    pub(crate) used: Vec<(u32, LiveId)>,
}

impl Leaves {
    pub(crate) fn genesis(genesis: &Genesis) -> Leaves {
        let persons = genesis.persons.iter().map(|person| PersonState {
            key: person.key,
            roles: person.roles,
            day: 0,
            day_total: Amount::ZERO,
            unit: None,
        });
        let classes = genesis.classes.iter().map(|rules| Class {
            rules: rules.clone(),
            totals: Totals::default(),
            period: 0,
            period_issued: Amount::ZERO,
        });
        let gateways = genesis
            .gateways
            .iter()
            .map(|gateway| new_gateway(gateway.key, gateway.caps));
        Leaves {
            chain: Chain {
                entries: 1,
                controls: 1,
                protocol: PROTOCOL,
                table: TableVersion(1),
            },
            persons: persons.collect(),
            accounts: Vec::new(),
            gateways: gateways.collect(),
            classes: classes.collect(),
            api_keys: Vec::new(),
            parameters: genesis.parameters,
            buckets: vec![Bucket::default(); BUCKETS],
            prices: vec![genesis.prices.clone()],
            corrections: Vec::new(),
            validators: genesis.validators.clone(),
            rates: Vec::new(),
            marks: vec![Marks::default(); genesis.validators.0.len()],
        }
    }

    /// Leaf hashes of a table, from number 0.
    pub(crate) fn hashes(&self, table: Table) -> Vec<Hash> {
        let size = match table {
            Table::Chain => 1,
            Table::Parameters => 1 + self.rates.len(),
            Table::Persons => self.persons.len(),
            Table::Accounts => self.accounts.len(),
            Table::Gateways => self.gateways.len(),
            Table::Classes => self.classes.len(),
            Table::ApiKeys => self.api_keys.len(),
            Table::IdBuckets => self.buckets.len(),
            Table::PriceTables => self.prices.len(),
            Table::Corrections => self.corrections.len(),
            Table::Validators => self.validators.0.len(),
        };
        (0..size as u32)
            .map(|number| table_leaf_hash(table, number, &self.encode(table, number)))
            .collect()
    }

    /// Bytes of a leaf that exists.
    pub(crate) fn encode(&self, table: Table, number: u32) -> Vec<u8> {
        let i = number as usize;
        match table {
            Table::Chain => codec::encode(&self.chain),
            Table::Persons => self.persons[i].leaf(),
            Table::Accounts => codec::encode(&self.accounts[i]),
            Table::Gateways => codec::encode(&self.gateways[i]),
            Table::Classes => codec::encode(&self.classes[i]),
            Table::ApiKeys => codec::encode(&self.api_keys[i]),
            Table::Parameters if number == 0 => codec::encode(&self.parameters),
            Table::Parameters => codec::encode(&self.rates[i - 1]),
            Table::IdBuckets => codec::encode(&self.buckets[i].leaf),
            Table::PriceTables => codec::encode(&self.prices[i]),
            Table::Corrections => codec::encode(&self.corrections[i]),
            Table::Validators => validator_leaf(&self.validators.0[i], &self.marks[i]),
        }
    }

    pub(crate) fn take_over(&mut self, change: LeavesChange) {
        self.chain = change.chain;
        self.parameters = change.parameters;
        put(&mut self.persons, change.persons);
        put(&mut self.accounts, change.accounts);
        put(&mut self.gateways, change.gateways);
        put(&mut self.classes, change.classes);
        put(&mut self.api_keys, change.api_keys);
        put(&mut self.prices, change.prices);
        put(&mut self.corrections, change.corrections);
        put(&mut self.rates, change.rates);
        put(&mut self.marks, change.marks);
        for slot in change.passed {
            self.buckets[slot as usize] = Bucket::default();
        }
        for (hour, used) in change.used {
            self.buckets[IdBucket::slot(hour) as usize].add(hour, used);
        }
    }
}

fn put<T>(leaves: &mut Vec<T>, changes: Vec<(u32, T)>) {
    for (number, leaf) in changes {
        match leaves.get_mut(number as usize) {
            Some(old) => *old = leaf,
            None => leaves.push(leaf),
        }
    }
}

/// A gateway as it is registered.
pub(crate) fn new_gateway(key: crate::crypto::PublicKey, caps: crate::gateway::Caps) -> Gateway {
    Gateway {
        key,
        caps,
        suspended: false,
        journal: JournalNumber(0),
        last_debit: DebitNumber(0),
        journal_hash: Hash::ZERO,
        last_lease: LeaseNumber(0),
        open: Amount::ZERO,
        open_leases: 0,
        hour: 0,
        hour_leased: Amount::ZERO,
        loss: Sum(0),
    }
}
