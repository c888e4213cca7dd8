//! A block in the making: the committed state and, on top, what the block
//! has changed so far. A refused transaction is rolled back whole, the due
//! steps that it ran itself included.

use std::collections::BTreeMap;

use super::{Call, delta::Delta, overlay::Overlay};
use crate::{
    account::{Account, ApiKey},
    action::{Action, reserved},
    class::Class,
    correction::Correction,
    crypto::PublicKey,
    entry::{Entry, Event, EventLeaf},
    evidence::Marks,
    gateway::Gateway,
    ids::{
        AccountNumber, ApiKeyNumber, ClassNumber, GatewayNumber, Height, LeaseNumber, Person,
        TableVersion, Time,
    },
    parameters::Parameters,
    person::PersonState,
    price::PriceTable,
    rates::RatesState,
    reason::Reason,
    state::{Chain, State, ids::LiveId},
    transaction::{Author, TransactionId},
};

/// Transactions may not add to an account's entries above this; what is left
/// of the range is for due steps, which cannot be refused.
const MAX_ENTRIES: u32 = u32::MAX - (1 << 20);

/// State and changes on top.
pub(crate) struct Draft<'a> {
    pub(crate) base: &'a State,
    pub(crate) height: Height,
    pub(crate) now: Time,
    pub(crate) chain: Chain,
    pub(crate) parameters: Parameters,
    pub(crate) persons: Overlay<'a, PersonState>,
    pub(crate) accounts: Overlay<'a, Account>,
    pub(crate) gateways: Overlay<'a, Gateway>,
    pub(crate) classes: Overlay<'a, Class>,
    pub(crate) api_keys: Overlay<'a, ApiKey>,
    pub(crate) prices: Overlay<'a, PriceTable>,
    pub(crate) corrections: Overlay<'a, Correction>,
    /// None or one.
    pub(crate) rates: Overlay<'a, RatesState>,
    /// Of all validators.
    pub(crate) marks: Overlay<'a, Marks>,
    /// Evidence transactions of this block.
    pub(crate) evidence: u32,
    /// Owners of open leases; `None`: closed.
    pub(crate) leases: Delta<(GatewayNumber, LeaseNumber), Option<AccountNumber>>,
    pub(crate) keys: Delta<PublicKey, ApiKeyNumber>,
    /// Corrections by the receipt's entry.
    pub(crate) corrected: Delta<u64, u32>,
    /// Ids that the block has used; only whole transactions add to these.
    pub(crate) used: BTreeMap<(Author, [u8; 16]), TransactionId>,
    pub(crate) used_counts: BTreeMap<Author, u32>,
    /// With their hours, in order.
    pub(crate) used_list: Vec<(u32, LiveId)>,
    pub(crate) entries: Vec<Entry>,
    /// Due steps were left over when this block's were run, so transactions
    /// have to look for those that concern them.
    pub(crate) steps_left: bool,
    saved: (Chain, Parameters, usize),
}

impl<'a> Draft<'a> {
    pub(crate) fn new(base: &'a State, now: Time) -> Self {
        let leaves = &base.leaves;
        // The last price table is in force from the block after its own.
        let chain = Chain {
            table: TableVersion(base.price_tables().len() as u32),
            ..leaves.chain
        };
        Draft {
            base,
            height: Height(base.height().0 + 1),
            now,
            chain,
            parameters: leaves.parameters,
            persons: Overlay::new(&leaves.persons),
            accounts: Overlay::new(&leaves.accounts),
            gateways: Overlay::new(&leaves.gateways),
            classes: Overlay::new(&leaves.classes),
            api_keys: Overlay::new(&leaves.api_keys),
            prices: Overlay::new(&leaves.prices),
            corrections: Overlay::new(&leaves.corrections),
            rates: Overlay::new(&leaves.rates),
            marks: Overlay::new(&leaves.marks),
            evidence: 0,
            leases: Delta::new(),
            keys: Delta::new(),
            corrected: Delta::new(),
            used: BTreeMap::new(),
            used_counts: BTreeMap::new(),
            used_list: Vec::new(),
            entries: Vec::new(),
            steps_left: false,
            saved: (chain, leaves.parameters, 0),
        }
    }

    /// Applies an examined transaction, or leaves no trace.
    pub(crate) fn transact(&mut self, call: &Call<'_>) -> Result<(), Reason> {
        self.begin();
        let done = self.apply(call);
        match done {
            Ok(()) => self.remember(call),
            Err(_) => self.roll_back(),
        }
        done
    }

    /// What each action does; may leave half of it if it refuses.
    pub(crate) fn apply(&mut self, call: &Call<'_>) -> Result<(), Reason> {
        match &call.body.action {
            Action::OpenAccount(action) => self.open_account(call, action),
            Action::Issue(action) => self.issue(call, action),
            Action::Revoke(action) => self.revoke(call, action),
            Action::Correct(action) => self.correct(call, action),
            Action::Freeze(account) => self.freeze(call, *account),
            Action::Unfreeze(account) => self.unfreeze(call, *account),
            Action::BindApiKey(action) => self.bind_api_key(call, action),
            Action::RevokeApiKey(api_key) => self.revoke_api_key(call, *api_key),
            Action::RotateHolderKey(account, key) => self.rotate_holder_key(call, *account, *key),
            Action::Surrender(action) => self.surrender(call, action),
            Action::OpenJournal(action) => self.open_journal(call, action),
            Action::Lease(action) => self.lease(call, action),
            Action::ReturnLease(lease) => self.return_lease(call, *lease),
            Action::Debits(action) => self.debits(call, action),
            Action::SetRole(action) => self.set_role(call, action),
            Action::SetClass(action) => self.set_class(call, action),
            Action::SetPriceTable(table) => self.set_price_table(call, table),
            Action::SetParameters(parameters) => self.set_parameters(call, parameters),
            Action::RegisterGateway(action) => self.register_gateway(call, action),
            Action::SetGatewayKey(action) => self.set_gateway_key(call, action),
            Action::SuspendGateway(gateway) => self.suspend_gateway(call, *gateway),
            Action::SetRates(rates) => self.set_rates(call, rates),
            Action::Erase(account) => self.erase(call, *account),
            Action::Evidence(evidence) => self.keep_evidence(call, evidence),
            Action::SetUnit(action) => self.set_unit(call, action),
            reserved!(never) => match *never {},
        }
    }

    fn begin(&mut self) {
        self.saved = (self.chain, self.parameters, self.entries.len());
        self.persons.begin();
        self.accounts.begin();
        self.gateways.begin();
        self.classes.begin();
        self.api_keys.begin();
        self.prices.begin();
        self.corrections.begin();
        self.rates.begin();
        self.marks.begin();
        self.leases.begin();
        self.keys.begin();
        self.corrected.begin();
    }

    fn roll_back(&mut self) {
        let (chain, parameters, entries) = self.saved;
        self.chain = chain;
        self.parameters = parameters;
        self.entries.truncate(entries);
        self.persons.roll_back();
        self.accounts.roll_back();
        self.gateways.roll_back();
        self.classes.roll_back();
        self.api_keys.roll_back();
        self.prices.roll_back();
        self.corrections.roll_back();
        self.rates.roll_back();
        self.marks.roll_back();
        self.leases.roll_back();
        self.keys.roll_back();
        self.corrected.roll_back();
    }

    /// Adds a control entry that is no account's.
    pub(crate) fn log(&mut self, event: Event) {
        self.append(AccountNumber::NONE, 0, event);
    }

    /// Adds an entry of an account, with its next number.
    pub(crate) fn log_of(&mut self, number: AccountNumber, event: Event) {
        let account = self.account_mut(number);
        account.entries += 1;
        let entry = account.entries;
        self.append(number, entry, event);
    }

    fn append(&mut self, account: AccountNumber, entry: u32, event: Event) {
        let control = if event.is_control() {
            self.chain.controls += 1;
            self.chain.controls
        } else {
            0
        };
        let leaf = EventLeaf {
            kind: event.kind(),
            height: self.height,
            account,
            entry,
            control,
            event: event.hash(),
        };
        self.entries.push(Entry::Event(leaf, event));
    }

    /// An account that a transaction names.
    pub(crate) fn account(&self, number: AccountNumber) -> Result<&Account, Reason> {
        let account = self.accounts.get(number.0).ok_or(Reason::UnknownAccount)?;
        has_room(account)?;
        Ok(account)
    }

    /// An account that is known to exist.
    pub(crate) fn account_mut(&mut self, number: AccountNumber) -> &mut Account {
        let account = self.accounts.get_mut(number.0);
        account.expect("the account was looked up before")
    }

    pub(crate) fn class(&self, number: ClassNumber) -> Result<&Class, Reason> {
        let class = self.classes.get(u32::from(number.0));
        class.ok_or(Reason::UnknownClass)
    }

    /// A class that is known to exist.
    pub(crate) fn class_mut(&mut self, number: ClassNumber) -> &mut Class {
        let class = self.classes.get_mut(u32::from(number.0));
        class.expect("the class was looked up before")
    }

    pub(crate) fn gateway(&self, number: GatewayNumber) -> Result<&Gateway, Reason> {
        self.gateways.get(number.0).ok_or(Reason::UnknownGateway)
    }

    /// A gateway that is known to exist.
    pub(crate) fn gateway_mut(&mut self, number: GatewayNumber) -> &mut Gateway {
        let gateway = self.gateways.get_mut(number.0);
        gateway.expect("the gateway was looked up before")
    }

    pub(crate) fn api_key(&self, number: ApiKeyNumber) -> Result<&ApiKey, Reason> {
        self.api_keys.get(number.0).ok_or(Reason::UnknownApiKey)
    }

    /// An API key that is known to exist.
    pub(crate) fn api_key_mut(&mut self, number: ApiKeyNumber) -> &mut ApiKey {
        let api_key = self.api_keys.get_mut(number.0);
        api_key.expect("the API key was looked up before")
    }

    pub(crate) fn person(&self, number: Person) -> Option<&PersonState> {
        self.persons.get(number.0)
    }

    /// A person that is known to exist.
    pub(crate) fn person_mut(&mut self, number: Person) -> &mut PersonState {
        let person = self.persons.get_mut(number.0);
        person.expect("the person was looked up before")
    }

    pub(crate) fn price_table(&self, version: TableVersion) -> Option<&PriceTable> {
        self.prices.get(version.0.checked_sub(1)?)
    }

    /// Whose tokens an open lease holds.
    pub(crate) fn lease_owner(
        &self,
        gateway: GatewayNumber,
        lease: LeaseNumber,
    ) -> Option<AccountNumber> {
        match self.leases.get(&(gateway, lease)) {
            Some(changed) => *changed,
            None => self.base.lease_account(gateway, lease),
        }
    }
}

/// Whether transactions may still add to an account's entries.
pub(crate) fn has_room(account: &Account) -> Result<(), Reason> {
    if account.entries < MAX_ENTRIES {
        Ok(())
    } else {
        Err(Reason::TableFull)
    }
}
