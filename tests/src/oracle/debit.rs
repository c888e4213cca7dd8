//! Debits: refused only for facts that cannot change; everything else is an
//! outcome (I4, I5).

use tally_ledger::{
    action::Debits,
    debit::{Debit, Flags},
    reason::Reason,
};

use super::{Charge, Fact, Oracle, Payload, Request, price};

/// Debits in a batch.
const MAX_BATCH: usize = 10_000;

impl Oracle {
    pub(super) fn debits_faults(&self, request: &Request, batch: &Debits) -> Vec<Reason> {
        let Payload::Debits { debits, root_fits } = &request.payload else {
            return Vec::new();
        };
        let mut faults = Vec::new();
        let count = batch.count as usize;
        let other_length = has_other_length(debits);
        if count == 0 || count > MAX_BATCH || count != debits.len() || other_length {
            faults.push(Reason::DebitCount);
        } else if !root_fits {
            faults.push(Reason::DebitRoot);
        }
        if !debits.iter().all(is_well_formed) {
            faults.push(Reason::DebitForm);
        }
        let number = request.author.number;
        let Some(gateway) = self.gateway(number) else {
            return faults;
        };
        faults.extend(self.journal_fault(number, batch.journal.0));
        if batch.first.0 != gateway.last_debit + 1 {
            faults.push(Reason::DebitNotNext);
        }
        if gateway.suspended && !self.open_leases().any(|((g, _), _)| g == number) {
            faults.push(Reason::SuspendedAndClosed);
        }
        for debit in debits {
            faults.extend(self.debit_faults(number, debit));
        }
        faults
    }

    fn debit_faults(&self, gateway: u32, debit: &Debit) -> Vec<Reason> {
        let fixed = &debit.fixed;
        let mut faults = Vec::new();
        if fixed.lease.0 > self.gateways[&gateway].last_lease {
            faults.push(Reason::LeaseAhead);
        }
        let oldest = match self.open_lease(gateway, fixed.lease.0) {
            Some(lease) => {
                let same = lease.account == fixed.account.0
                    && lease.class == fixed.class.0
                    && lease.api_key == fixed.api_key.0;
                if !same {
                    faults.push(Reason::LeaseMismatch);
                }
                lease.table
            }
            None => 1,
        };
        if !self.accounts.contains_key(&fixed.account.0) {
            faults.push(Reason::UnknownAccount);
        }
        if !self.classes.contains_key(&fixed.class.0) {
            faults.push(Reason::UnknownClass);
        }
        if !self.api_keys.contains_key(&fixed.api_key.0) {
            faults.push(Reason::UnknownApiKey);
        }
        let (table, model) = (debit.detail.table.0, debit.detail.model.0);
        let Some(prices) = self.tables.get(&table).filter(|_| table <= self.table) else {
            faults.push(Reason::UnknownTable);
            return faults;
        };
        if table < oldest {
            faults.push(Reason::UnknownTable);
        }
        if !price::knows(prices, model) {
            faults.push(Reason::UnknownModel);
        } else if self.cost(debit).is_none() {
            faults.push(Reason::UsageForm);
        }
        faults
    }

    fn cost(&self, debit: &Debit) -> Option<u64> {
        let prices = self.tables.get(&debit.detail.table.0)?;
        let (model, usage) = (debit.detail.model.0, &debit.detail.usage);
        price::price(prices, model, usage, debit.fixed.fee.0)
    }

    pub(super) fn debits(&mut self, gateway: u32, batch: &Debits, payload: &Payload) {
        let Payload::Debits { debits, .. } = payload else {
            unreachable!("checked as a fault");
        };
        for (i, debit) in debits.iter().enumerate() {
            let number = batch.first.0 + i as u64;
            self.debit(gateway, batch.journal.0, number, debit);
            self.gateways.get_mut(&gateway).unwrap().last_debit = number;
        }
    }

    fn debit(&mut self, gateway: u32, journal: u32, number: u64, debit: &Debit) {
        let fixed = &debit.fixed;
        let cost = self.cost(debit).unwrap();
        let rules = &self.classes[&fixed.class.0].rules;
        let excess_fee = fixed.fee.0.saturating_sub(rules.max_fee.0);
        let key_models = &self.api_keys[&fixed.api_key.0].models;
        let model = debit.detail.model;
        let may_buy = (rules.models.is_empty() || rules.models.contains(&model))
            && (key_models.is_empty() || key_models.contains(&model.0));

        let lease = self.open_lease(gateway, fixed.lease.0);
        let remaining = lease.map_or(0, |lease| lease.remaining());
        let late = lease.is_none_or(|lease| lease.ended.is_some());
        let recalled = lease.is_some_and(|lease| lease.recall != "No");
        let payable = cost - excess_fee;
        let charged = payable.min(fixed.limit.0).min(remaining);

        let mut flags = fixed.flags;
        for (applies, flag) in [
            (charged < payable, Flags::CAPPED),
            (late, Flags::LATE),
            (recalled, Flags::AFTER_RECALL),
            (!may_buy, Flags::CLASS_RULE),
        ] {
            if applies {
                flags = flags.with(flag);
            }
        }
        self.spend(gateway, fixed.lease.0, charged);
        self.charges.push(Charge {
            index: self.log.len() as u64,
            account: fixed.account.0,
            api_key: fixed.api_key.0,
            gateway,
            class: fixed.class.0,
            cost,
            charged,
        });
        let fact = Fact::Receipt {
            flags: flags.0,
            gateway,
            journal,
            number,
            class: fixed.class.0,
            cost,
            charged,
        };
        self.record(Some(fixed.account.0), fact);
    }

    /// Takes an amount from a lease's parts, in their order.
    fn spend(&mut self, gateway: u32, number: u64, amount: u64) {
        let mut rest = amount;
        while rest > 0 {
            let lease = self.leases.get_mut(&(gateway, number)).unwrap();
            let part = lease.parts.iter_mut().find(|part| part.1 > 0).unwrap();
            let taken = rest.min(part.1);
            part.1 -= taken;
            rest -= taken;
            let grant = (lease.account, part.0);
            self.grants.get_mut(&grant).unwrap().spent += taken;
        }
    }
}

/// Version 1 without, version 2 with a place in the queue; a known kind, no
/// flag but the gateway's three.
fn is_well_formed(debit: &Debit) -> bool {
    let fixed = &debit.fixed;
    let version = if debit.detail.queued.is_some() { 2 } else { 1 };
    fixed.version == version && fixed.kind == 1 && fixed.flags.0 & !7 == 0
}

/// Whether the records are not as long as the first one's version says.
fn has_other_length(debits: &[Debit]) -> bool {
    let length = |debit: &Debit| 150 + 16 * usize::from(debit.detail.queued.is_some());
    let stated = match debits.first().map(|debit| debit.fixed.version) {
        Some(1) => 150,
        Some(2) => 166,
        _ => return false,
    };
    debits.iter().map(length).sum::<usize>() != stated * debits.len()
}
