//! What admins govern: roles, units, classes, prices, parameters, rates, gateways.

use std::collections::BTreeSet;

use tally_ledger::{
    action::{SetClass, SetGatewayKey, SetRole, SetUnit},
    crypto::PublicKey,
    gateway::Caps,
    ids::DAY_MS,
    parameters::Parameters,
    person::Roles,
    price::PriceTable,
    rates::{Rate, Rates},
    reason::Reason,
};

use super::{Class, Fact, Gateway, Oracle, Person};

impl Oracle {
    pub(super) fn set_role_faults(&self, set: &SetRole) -> Vec<Reason> {
        let mut faults = Vec::new();
        let number = set.person.0;
        if number as usize > self.persons.len() {
            faults.push(Reason::UnknownPerson);
        }
        let others = || self.persons.iter().filter(|(n, _)| **n != number);
        if others().any(|(_, person)| person.key == set.key) {
            faults.push(Reason::KeyTaken);
        }
        let owner_issues = self.owners.contains(&number) && set.roles.has(Roles::ISSUER);
        if !set.roles.are_lawful() || owner_issues {
            faults.push(Reason::UnlawfulRoles);
        }
        if self.owners.contains(&number) && !set.roles.has(Roles::VALIDATOR) {
            faults.push(Reason::OwnsValidator);
        }
        let admins = others().filter(|(_, p)| p.roles.has(Roles::ADMIN)).count()
            + usize::from(set.roles.has(Roles::ADMIN));
        if admins < self.parameters.threshold as usize {
            faults.push(Reason::TooFewAdmins);
        }
        faults
    }

    pub(super) fn set_role(&mut self, set: &SetRole) {
        let (key, roles) = (set.key, set.roles);
        let unit = self.persons.get(&set.person.0).and_then(|old| old.unit);
        self.persons
            .insert(set.person.0, Person { key, roles, unit });
        let person = set.person.0;
        self.record(None, Fact::RoleSet { person });
    }

    pub(super) fn set_unit_faults(&self, set: &SetUnit) -> Vec<Reason> {
        match self.persons.contains_key(&set.person.0) {
            true => Vec::new(),
            false => vec![Reason::UnknownPerson],
        }
    }

    pub(super) fn set_unit(&mut self, set: &SetUnit) {
        let (person, unit) = (set.person.0, set.unit);
        self.persons.get_mut(&person).unwrap().unit = unit;
        self.record(None, Fact::UnitSet { person, unit });
    }

    pub(super) fn set_class_faults(&self, set: &SetClass) -> Vec<Reason> {
        let mut faults = Vec::new();
        if usize::from(set.class.0) > self.classes.len() {
            faults.push(Reason::UnknownClass);
        }
        let rules = &set.rules;
        let name_taken = (self.classes.iter())
            .any(|(number, class)| *number != set.class.0 && class.rules.name == rules.name);
        if !rules.are_lawful() {
            faults.push(Reason::UnlawfulRules);
        }
        if name_taken {
            faults.push(Reason::NameTaken);
        }
        faults
    }

    /// What the running period has issued by the old length goes on counting
    /// by the new one.
    pub(super) fn set_class(&mut self, set: &SetClass) {
        let (class, rules) = (set.class.0, set.rules.clone());
        let before = self.classes.get(&class).map(|old| old.rules.period_days);
        if before.is_some_and(|days| days != rules.period_days) {
            let (running, day) = (self.issues_of_period(class), self.time / DAY_MS);
            for index in running {
                self.issues[index].1 = day;
            }
            // What was issued before and is not running never counts again.
            (self.issues).retain(|(of, counts, _)| *of != class || *counts == day);
        }
        self.classes.insert(class, Class { rules });
        self.record(None, Fact::ClassSet { class });
    }

    pub(super) fn set_prices_faults(&self, table: &PriceTable) -> Vec<Reason> {
        let mut faults = Vec::new();
        let newest = *self.tables.keys().last().unwrap();
        if newest != self.table {
            faults.push(Reason::OnePriceTablePerBlock);
            if table.version.0 != self.table + 1 {
                faults.push(Reason::TableVersion);
            }
        } else if table.version.0 != newest + 1 {
            faults.push(Reason::TableVersion);
        }
        // A model's number keeps its name for all time.
        let renamed = table.models.iter().any(|new| {
            (self.tables.values().flat_map(|old| old.models.iter()))
                .any(|old| old.number == new.number && old.name != new.name)
        });
        if table.validate().is_err() || renamed {
            faults.push(Reason::UnlawfulPrices);
        }
        faults
    }

    pub(super) fn set_prices(&mut self, table: &PriceTable) {
        let version = table.version.0;
        self.tables.insert(version, table.clone());
        self.record(None, Fact::PriceTableSet { version });
    }

    pub(super) fn set_parameters_faults(&self, parameters: &Parameters) -> Vec<Reason> {
        let mut faults = Vec::new();
        if parameters.validate().is_err() {
            faults.push(Reason::UnlawfulParameters);
        }
        let admins = (self.persons.values())
            .filter(|p| p.roles.has(Roles::ADMIN))
            .count();
        if admins < parameters.threshold as usize {
            faults.push(Reason::TooFewAdmins);
        }
        faults
    }

    pub(super) fn set_parameters(&mut self, parameters: Parameters) {
        self.parameters = parameters;
        self.record(None, Fact::ParametersSet);
    }

    pub(super) fn set_rates_faults(&self, rates: &Rates) -> Vec<Reason> {
        let mut faults = Vec::new();
        let mut named = BTreeSet::new();
        for of in rates.classes.iter() {
            if named.last().is_some_and(|last| of.class <= *last) {
                faults.push(Reason::Malformed);
            }
            named.insert(of.class);
            if !self.classes.contains_key(&of.class.0) {
                faults.push(Reason::UnknownClass);
            }
        }
        let zero = |rate: &Rate| rate.requests == 0 || rate.tokens == 0;
        let some_class = rates.classes.iter().any(|of| zero(&of.rate));
        let unit_is_lawful = rates.fee_unit.0 >= 1 && rates.fee_unit.0 <= 1_000 * 1_000_000;
        if !unit_is_lawful || zero(&rates.key) || zero(&rates.account) || some_class {
            faults.push(Reason::UnlawfulRates);
        }
        faults
    }

    pub(super) fn set_rates(&mut self, rates: &Rates) {
        self.rates.push((self.time, rates.clone()));
        self.record(None, Fact::RatesSet);
    }

    /// What waiting from the beginning of time until now is worth: each
    /// millisecond a thousandth of the unit that was in force in it, at first
    /// 0.001 CT; in nano-CT.
    pub fn waiting_worth(&self) -> u128 {
        let (mut worth, mut from, mut unit) = (0, 0, 1_000);
        for (at, rates) in &self.rates {
            worth += u128::from(at - from) * unit;
            (from, unit) = (*at, rates.fee_unit.0.into());
        }
        worth + u128::from(self.time - from) * unit
    }

    /// For a new gateway (`None`) or a registered one.
    pub(super) fn gateway_key_faults(&self, number: Option<u32>, key: &PublicKey) -> Vec<Reason> {
        let mut faults = Vec::new();
        if number.is_some_and(|n| !self.gateways.contains_key(&n)) {
            faults.push(Reason::UnknownGateway);
        }
        if (self.gateways.iter()).any(|(n, g)| Some(*n) != number && g.key == *key) {
            faults.push(Reason::KeyTaken);
        }
        faults
    }

    pub(super) fn add_gateway(&mut self, key: PublicKey, caps: Caps) -> u32 {
        let number = self.gateways.len() as u32;
        let gateway = Gateway {
            key,
            caps,
            suspended: false,
            journal: 0,
            last_debit: 0,
            last_lease: 0,
        };
        self.gateways.insert(number, gateway);
        number
    }

    pub(super) fn set_gateway_key(&mut self, set: &SetGatewayKey) {
        let gateway = self.gateways.get_mut(&set.gateway.0).unwrap();
        gateway.key = set.key;
        gateway.caps = set.caps;
        let gateway = set.gateway.0;
        self.record(None, Fact::GatewayKeySet { gateway });
    }

    pub(super) fn suspend_faults(&self, number: u32) -> Vec<Reason> {
        match self.gateways.get(&number) {
            None => vec![Reason::UnknownGateway],
            Some(gateway) if gateway.suspended => vec![Reason::AlreadySuspended],
            Some(_) => Vec::new(),
        }
    }

    pub(super) fn suspend(&mut self, number: u32) {
        self.gateways.get_mut(&number).unwrap().suspended = true;
        self.recall("Suspended", |(gateway, _), _| gateway == number);
        self.record(None, Fact::GatewaySuspended { gateway: number });
    }
}
