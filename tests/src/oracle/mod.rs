//! The oracle: a second, naive ledger, written from the design and not from
//! the ledger's code. It keeps every grant, lease and fact for ever and takes
//! every sum over again from them; it shares nothing with the ledger but
//! numbers and the nouns of its input. Slow on purpose, obvious on purpose.
//!
//! It computes no hash and checks no signature: those are facts of the
//! [`Request`] that the test knows.

mod admin;
mod authority;
mod books;
mod debit;
mod due;
mod evidence;
mod fact;
mod invariants;
mod issuer;
mod lease;
mod model;
pub mod price;

use std::collections::BTreeMap;

use tally_ledger::{
    action::{Action, reserved},
    genesis::Genesis,
    hash::Hash,
    ids::HOUR_MS,
    parameters::Parameters,
    price::PriceTable,
    rates::Rates,
    reason::Reason,
    transaction::Author,
};

pub use evidence::{Kept, Shown};
pub use fact::{Charge, Fact, LogEntry};
pub use model::{Account, ApiKey, Class, Gateway, Grant, Lease, Payload, Person, Request, Totals};

/// Due steps that a block runs before its transactions.
pub const STEPS_PER_BLOCK: usize = 2048;

/// Every reason that the oracle finds for refusing; the ledger names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Vec<Reason>);

/// The naive ledger.
#[derive(Debug, Clone)]
pub struct Oracle {
    /// Height of the current block.
    pub height: u64,
    /// Its time.
    pub time: u64,
    /// Entries in the log before it.
    pub parent_log: u64,
    /// Governed numbers.
    pub parameters: Parameters,
    /// Rates in the order in which they were set, each with its time.
    pub rates: Vec<(u64, Rates)>,
    /// What validators signed twice.
    pub evidence: Vec<Kept>,
    /// How many validators there are.
    pub validators: u32,
    /// By number.
    pub persons: BTreeMap<u32, Person>,
    /// Persons who own a validator.
    pub owners: Vec<u32>,
    /// By number.
    pub classes: BTreeMap<u16, Class>,
    /// By number.
    pub accounts: BTreeMap<u32, Account>,
    /// By number.
    pub api_keys: BTreeMap<u32, ApiKey>,
    /// By number.
    pub gateways: BTreeMap<u32, Gateway>,
    /// By (account, number).
    pub grants: BTreeMap<(u32, u32), Grant>,
    /// By (gateway, number).
    pub leases: BTreeMap<(u32, u64), Lease>,
    /// By version; the last one may not be in force yet.
    pub tables: BTreeMap<u32, PriceTable>,
    /// Version in force.
    pub table: u32,
    /// Used ids: when they may be forgotten, and by which transaction.
    pub ids: BTreeMap<(Author, [u8; 16]), (u32, Hash)>,
    /// What issuers issued and revoked alone: (issuer, account, day, amount).
    pub alone: Vec<(u32, u32, u64, u64)>,
    /// What was issued, corrections apart, and the day on which it counts
    /// against the supply cap: (class, day, amount).
    pub issues: Vec<(u16, u64, u64)>,
    /// What was given back: (receipt's index, amount).
    pub corrections: Vec<(u64, u64)>,
    /// What receipts were charged to.
    pub charges: Vec<Charge>,
    /// Everything that happened.
    pub log: Vec<LogEntry>,
}

impl Oracle {
    /// The state at the genesis.
    pub fn new(genesis: &Genesis) -> Self {
        let numbered = |n: usize| n as u32;
        let mut oracle = Oracle {
            height: 0,
            time: genesis.time.0,
            parent_log: 0,
            parameters: genesis.parameters,
            rates: Vec::new(),
            evidence: Vec::new(),
            validators: genesis.validators.0.len() as u32,
            persons: (genesis.persons.iter().enumerate())
                .map(|(n, person)| {
                    let (key, roles) = (person.key, person.roles);
                    (
                        numbered(n),
                        Person {
                            key,
                            roles,
                            unit: None,
                        },
                    )
                })
                .collect(),
            owners: genesis.validators.0.iter().map(|v| v.owner.0).collect(),
            classes: (genesis.classes.iter().enumerate())
                .map(|(n, rules)| {
                    let rules = rules.clone();
                    (n as u16, Class { rules })
                })
                .collect(),
            accounts: BTreeMap::new(),
            api_keys: BTreeMap::new(),
            gateways: BTreeMap::new(),
            grants: BTreeMap::new(),
            leases: BTreeMap::new(),
            tables: BTreeMap::from([(1, genesis.prices.clone())]),
            table: 1,
            ids: BTreeMap::new(),
            alone: Vec::new(),
            issues: Vec::new(),
            corrections: Vec::new(),
            charges: Vec::new(),
            log: Vec::new(),
        };
        for gateway in genesis.gateways.iter() {
            oracle.add_gateway(gateway.key, gateway.caps);
        }
        oracle.record(None, Fact::Genesis);
        oracle
    }

    /// Starts the next block: old ids go, a new price table comes into
    /// force, due steps run.
    pub fn begin_block(&mut self, time: u64) {
        assert!(time > self.time, "block time must grow");
        self.height += 1;
        self.time = time;
        self.parent_log = self.log.len() as u64;
        self.ids
            .retain(|_, (until, _)| u64::from(*until) * HOUR_MS > time);
        self.table = *self.tables.keys().last().unwrap();
        self.run_due_steps();
    }

    /// Ends the block. Nothing waits for it: what the next block changes, it
    /// changes when it begins.
    pub fn end_block(&mut self) {}

    /// Runs a transaction: all of it or nothing.
    pub fn apply(&mut self, request: &Request) -> Result<Vec<LogEntry>, Refusal> {
        let before = self.log.len();
        let log = std::mem::take(&mut self.log);
        let mut backup = self.clone();
        self.log = log;
        let faults = self.run(request);
        if faults.is_empty() {
            return Ok(self.log[before..].to_vec());
        }
        backup.log = std::mem::take(&mut self.log);
        backup.log.truncate(before);
        *self = backup;
        Err(Refusal(faults))
    }

    /// Collects the faults; performs the action if there are none.
    fn run(&mut self, request: &Request) -> Vec<Reason> {
        let mut faults = self.signature_faults(request);
        faults.extend(self.id_faults(request));
        faults.extend(self.authority_faults(request));
        faults.extend(payload_faults(request));
        for (account, class) in self.touched(request) {
            self.catch_up(account, class);
        }
        faults.extend(self.action_faults(request));
        faults.sort_unstable();
        faults.dedup();
        if faults.is_empty() {
            self.remember(request);
            self.perform(request);
        }
        faults
    }

    fn action_faults(&self, request: &Request) -> Vec<Reason> {
        match &request.action {
            Action::OpenAccount(open) => self.open_account_faults(open),
            Action::Issue(issue) => self.issue_faults(request, issue),
            Action::Revoke(revoke) => self.revoke_faults(request, revoke),
            Action::Correct(correct) => self.correct_faults(request, correct),
            Action::Freeze(account) => self.freeze_faults(account.0, false),
            Action::Unfreeze(account) => self.freeze_faults(account.0, true),
            Action::BindApiKey(bind) => self.bind_faults(request, bind),
            Action::RevokeApiKey(key) => self.revoke_key_faults(key.0),
            Action::RotateHolderKey(account, _) => self.rotate_faults(request, account.0),
            Action::Surrender(surrender) => self.surrender_faults(surrender),
            Action::OpenJournal(open) => self.open_journal_faults(request, open),
            Action::Lease(lease) => self.lease_faults(request, lease),
            Action::ReturnLease(number) => self.return_faults(request, number.0),
            Action::Debits(batch) => self.debits_faults(request, batch),
            Action::SetRole(set) => self.set_role_faults(set),
            Action::SetClass(set) => self.set_class_faults(set),
            Action::SetPriceTable(table) => self.set_prices_faults(table),
            Action::SetParameters(parameters) => self.set_parameters_faults(parameters),
            Action::RegisterGateway(new) => self.gateway_key_faults(None, &new.key),
            Action::SetGatewayKey(set) => self.gateway_key_faults(Some(set.gateway.0), &set.key),
            Action::SuspendGateway(gateway) => self.suspend_faults(gateway.0),
            Action::SetRates(rates) => self.set_rates_faults(rates),
            Action::Erase(account) => self.erase_faults(account.0),
            Action::Evidence(_) => self.evidence_faults(request),
            Action::SetUnit(set) => self.set_unit_faults(set),
            reserved!(never) => match *never {},
        }
    }

    fn perform(&mut self, request: &Request) {
        let author = request.author.number;
        match &request.action {
            Action::OpenAccount(open) => self.open_account(open),
            Action::Issue(issue) => self.issue(request, issue),
            Action::Revoke(revoke) => self.revoke(request, revoke),
            Action::Correct(correct) => self.correct(correct),
            Action::Freeze(account) => self.freeze(account.0),
            Action::Unfreeze(account) => self.unfreeze(account.0),
            Action::BindApiKey(bind) => self.bind(bind),
            Action::RevokeApiKey(key) => self.revoke_key(key.0),
            Action::RotateHolderKey(account, key) => self.rotate(account.0, *key),
            Action::Surrender(surrender) => self.surrender(surrender),
            Action::OpenJournal(open) => self.open_journal(author, open),
            Action::Lease(lease) => self.lease(author, lease),
            Action::ReturnLease(number) => self.close(author, number.0, true),
            Action::Debits(batch) => self.debits(author, batch, &request.payload),
            Action::SetRole(set) => self.set_role(set),
            Action::SetClass(set) => self.set_class(set),
            Action::SetPriceTable(table) => self.set_prices(table),
            Action::SetParameters(parameters) => self.set_parameters(*parameters),
            Action::RegisterGateway(new) => {
                let gateway = self.add_gateway(new.key, new.caps);
                self.record(None, Fact::GatewayRegistered { gateway });
            }
            Action::SetGatewayKey(set) => self.set_gateway_key(set),
            Action::SuspendGateway(gateway) => self.suspend(gateway.0),
            Action::SetRates(rates) => self.set_rates(rates),
            Action::Erase(account) => self.erase(account.0),
            Action::Evidence(_) => self.keep_evidence(request),
            Action::SetUnit(set) => self.set_unit(set),
            reserved!(never) => match *never {},
        }
    }

    /// The (account, class) pairs whose due vest and expiry steps a
    /// transaction runs first.
    fn touched(&self, request: &Request) -> Vec<(u32, u16)> {
        let of_grant = |account: u32, number: u32| {
            (self.grants.get(&(account, number))).map(|grant| (account, grant.class))
        };
        let mut pairs: Vec<(u32, u16)> = match (&request.action, &request.payload) {
            (Action::Issue(issue), _) => (issue.grants.iter())
                .map(|grant| (grant.account.0, grant.class.0))
                .collect(),
            (Action::Revoke(r), _) => of_grant(r.account.0, r.grant.0).into_iter().collect(),
            (Action::Surrender(s), _) => of_grant(s.account.0, s.grant.0).into_iter().collect(),
            (Action::Correct(c), _) => (self.charge(c.entry).into_iter())
                .map(|charge| (charge.account, charge.class))
                .collect(),
            (Action::Lease(lease), _) => vec![(lease.account.0, lease.class.0)],
            (Action::Debits(_), Payload::Debits { debits, .. }) => (debits.iter())
                .map(|debit| (debit.fixed.account.0, debit.fixed.class.0))
                .collect(),
            _ => Vec::new(),
        };
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}

/// Only Debits and Correct carry a payload, each its own.
fn payload_faults(request: &Request) -> Vec<Reason> {
    match (&request.action, &request.payload) {
        (Action::Debits(_), Payload::Debits { .. }) => Vec::new(),
        (Action::Debits(_), _) => vec![
            Reason::MalformedPayload,
            Reason::DebitCount,
            Reason::DebitForm,
            Reason::DebitRoot,
        ],
        (Action::Correct(_), Payload::Proof { .. }) => Vec::new(),
        (Action::Correct(_), _) => vec![Reason::MalformedPayload],
        // What it shows is in the body.
        (Action::Evidence(_), Payload::Shown(_)) => Vec::new(),
        (_, Payload::Empty) => Vec::new(),
        (_, _) => vec![Reason::UnexpectedPayload],
    }
}
