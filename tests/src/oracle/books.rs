//! What the oracle reads from its records: every sum is taken over again.

use std::collections::BTreeMap;

use tally_ledger::ids::{DAY_MS, HOUR_MS};

use super::{Charge, Fact, Gateway, Lease, LogEntry, Oracle, Totals};

impl Oracle {
    /// Writes an entry, numbered by counting those before it.
    pub(super) fn record(&mut self, account: Option<u32>, fact: Fact) {
        let entry = match account {
            Some(_) => 1 + self.entries_of(account),
            None => 0,
        };
        let control = match fact.is_control() {
            true => 1 + self.control_entries(),
            false => 0,
        };
        self.log.push(LogEntry {
            height: self.height,
            account,
            entry,
            control,
            fact,
        });
    }

    /// Entries that belong to an account.
    pub fn entries_of(&self, account: Option<u32>) -> u32 {
        (self.log.iter().filter(|e| e.account == account)).count() as u32
    }

    /// Control entries.
    pub fn control_entries(&self) -> u64 {
        (self.log.iter().filter(|e| e.fact.is_control())).count() as u64
    }

    /// What a receipt was charged to.
    pub fn charge(&self, index: u64) -> Option<Charge> {
        (self.charges.iter().find(|c| c.index == index)).copied()
    }

    /// What was given back of a receipt.
    pub fn corrected(&self, index: u64) -> u64 {
        (self.corrections.iter())
            .filter(|(entry, _)| *entry == index)
            .map(|(_, amount)| *amount)
            .sum()
    }

    /// A gateway's lease that is not closed.
    pub fn open_lease(&self, gateway: u32, number: u64) -> Option<&Lease> {
        (self.leases.get(&(gateway, number))).filter(|lease| lease.closed.is_none())
    }

    /// All leases that are not closed, by (gateway, number).
    pub fn open_leases(&self) -> impl Iterator<Item = ((u32, u64), &Lease)> {
        (self.leases.iter())
            .filter(|(_, lease)| lease.closed.is_none())
            .map(|(key, lease)| (*key, lease))
    }

    /// What open leases hold of a grant.
    pub fn leased_of(&self, account: u32, grant: u32) -> u64 {
        self.open_leases()
            .filter(|(_, lease)| lease.account == account)
            .flat_map(|(_, lease)| &lease.parts)
            .filter(|part| part.0 == grant)
            .map(|part| part.1)
            .sum()
    }

    /// Whether a grant still holds something.
    pub fn is_live(&self, account: u32, grant: u32) -> bool {
        (self.grants.get(&(account, grant)))
            .is_some_and(|g| g.free > 0 || self.leased_of(account, grant) > 0)
    }

    /// Numbers of an account's live grants of a class.
    pub fn live_grants(&self, account: u32, class: u16) -> Vec<u32> {
        (self.grants.range((account, 0)..=(account, u32::MAX)))
            .filter(|(_, grant)| grant.class == class)
            .map(|((_, number), _)| *number)
            .filter(|number| self.is_live(account, *number))
            .collect()
    }

    /// Numbers of grants that a lease may take from now, as it takes them:
    /// earliest expiry first, then by number.
    pub fn spendable(&self, account: u32, class: u16) -> Vec<u32> {
        let mut found: Vec<(u64, u32)> = (self.grants.range((account, 0)..=(account, u32::MAX)))
            .filter(|(_, g)| g.class == class && g.free > 0 && !g.is_revoked)
            .filter(|(_, g)| g.vests <= self.time && self.time < g.expires)
            .map(|((_, number), g)| (g.expires, *number))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, number)| number).collect()
    }

    /// What a gateway's open leases hold, of one account or of all.
    pub fn open_total(&self, gateway: u32, account: Option<u32>) -> u64 {
        self.open_leases()
            .filter(|((g, _), lease)| *g == gateway && account.is_none_or(|a| a == lease.account))
            .map(|(_, lease)| lease.remaining())
            .sum()
    }

    /// What a gateway leased less what it returned of that, in this clock
    /// hour, of one account or of all.
    pub fn hour_total(&self, gateway: u32, account: Option<u32>) -> u64 {
        let hour = |time: u64| time / HOUR_MS;
        let now = hour(self.time);
        (self.leases.range((gateway, 0)..=(gateway, u64::MAX)))
            .map(|(_, lease)| lease)
            .filter(|lease| account.is_none_or(|a| a == lease.account))
            .filter(|lease| hour(lease.opened) == now)
            .map(|lease| match lease.closed {
                Some((_, returned)) => lease.granted - returned,
                None => lease.granted,
            })
            .sum()
    }

    /// What an issuer issued or revoked alone today, to one account or all.
    pub fn day_total(&self, issuer: u32, account: Option<u32>) -> u128 {
        (self.alone.iter())
            .filter(|(who, whose, day, _)| {
                *who == issuer && account.is_none_or(|a| a == *whose) && *day == self.time / DAY_MS
            })
            .map(|(.., amount)| u128::from(*amount))
            .sum()
    }

    /// Which issues are of a class's present period.
    pub(super) fn issues_of_period(&self, class: u16) -> Vec<usize> {
        let days = u64::from(self.classes[&class].rules.period_days);
        let now = self.time / DAY_MS / days;
        (self.issues.iter().enumerate())
            .filter(|(_, (c, day, _))| *c == class && day / days == now)
            .map(|(index, _)| index)
            .collect()
    }

    /// What was issued of a class in its present period.
    pub fn period_total(&self, class: u16) -> u128 {
        (self.issues_of_period(class).into_iter())
            .map(|index| u128::from(self.issues[index].2))
            .sum()
    }

    /// What was charged through an API key.
    pub fn key_spent(&self, api_key: u32) -> u64 {
        (self.charges.iter().filter(|c| c.api_key == api_key))
            .map(|c| c.charged)
            .sum()
    }

    /// What an API key's open leases hold.
    pub fn key_leased(&self, api_key: u32) -> u64 {
        self.open_leases()
            .filter(|(_, lease)| lease.api_key == api_key)
            .map(|(_, lease)| lease.remaining())
            .sum()
    }

    /// What a gateway's receipts cost and did not charge.
    pub fn gateway_loss(&self, gateway: u32) -> u128 {
        (self.charges.iter().filter(|c| c.gateway == gateway))
            .map(|c| u128::from(c.cost - c.charged))
            .sum()
    }

    /// Totals of every account and class.
    pub fn totals(&self) -> BTreeMap<(u32, u16), Totals> {
        let mut all: BTreeMap<(u32, u16), Totals> = BTreeMap::new();
        for ((account, _), grant) in &self.grants {
            let of = all.entry((*account, grant.class)).or_default();
            of.issued += u128::from(grant.amount);
            of.spent += u128::from(grant.spent);
            of.expired += u128::from(grant.expired);
            of.revoked += u128::from(grant.revoked);
            of.surrendered += u128::from(grant.surrendered);
            match grant.vest_done {
                true => of.available += u128::from(grant.free),
                false => of.unvested += u128::from(grant.free),
            }
        }
        for (_, lease) in self.open_leases() {
            let of = all.entry((lease.account, lease.class)).or_default();
            of.leased += u128::from(lease.remaining());
        }
        for charge in &self.charges {
            let of = all.entry((charge.account, charge.class)).or_default();
            of.costs += u128::from(charge.cost);
            of.loss += u128::from(charge.cost - charge.charged);
        }
        all
    }

    /// Totals of a class over all accounts.
    pub fn class_totals(&self, class: u16) -> Totals {
        (self.totals().iter())
            .filter(|((_, c), _)| *c == class)
            .fold(Totals::default(), |sum, (_, totals)| sum.plus(totals))
    }

    /// A gateway by number.
    pub(super) fn gateway(&self, number: u32) -> Option<&Gateway> {
        self.gateways.get(&number)
    }
}
