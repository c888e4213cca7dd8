//! Leases and journals: the escrow between accounts and gateways.

use tally_ledger::{
    action::{Lease as Wanted, OpenJournal},
    reason::Reason,
};

use super::{Fact, Lease, Oracle, Request};

/// Open leases per account.
const MAX_OPEN: usize = 64;
/// Grants that a lease takes from.
const MAX_PARTS: usize = 8;

impl Oracle {
    /// Ends leases now, with a reason: the first one counts, but a lost
    /// journal overrides. The end step follows in the next block; where it
    /// has run already, only a lost journal is still noted.
    pub(super) fn recall(
        &mut self,
        reason: &'static str,
        which: impl Fn((u32, u64), &Lease) -> bool,
    ) {
        let now = self.time;
        for (key, lease) in &mut self.leases {
            if lease.closed.is_some() || !which(*key, lease) {
                continue;
            }
            let running = lease.ended.is_none();
            if running {
                lease.end = lease.end.min(now);
            }
            if (running && lease.recall == "No") || reason == "JournalLost" {
                lease.recall = reason;
            }
        }
    }

    pub(super) fn open_journal_faults(&self, request: &Request, open: &OpenJournal) -> Vec<Reason> {
        let Some(gateway) = self.gateway(request.author.number) else {
            return Vec::new();
        };
        let mut faults = Vec::new();
        if open.journal.0 != gateway.journal + 1 {
            faults.push(Reason::JournalNotNext);
        }
        if open.journal.0 == 1 && !open.previous_intact {
            faults.push(Reason::PreviousJournalIntact);
        }
        faults
    }

    pub(super) fn open_journal(&mut self, number: u32, open: &OpenJournal) {
        let gateway = self.gateways.get_mut(&number).unwrap();
        let closed_last = std::mem::take(&mut gateway.last_debit);
        gateway.journal = open.journal.0;
        let reason = match open.previous_intact {
            true => "NewJournal",
            false => "JournalLost",
        };
        self.recall(reason, |(gateway, _), _| gateway == number);
        let fact = Fact::JournalOpened {
            gateway: number,
            journal: open.journal.0,
            intact: open.previous_intact,
            closed_last,
        };
        self.record(None, fact);
    }

    pub(super) fn journal_fault(&self, gateway: u32, journal: u32) -> Option<Reason> {
        let current = self.gateway(gateway)?.journal;
        match journal {
            0 => Some(Reason::JournalNotCurrent),
            ahead if ahead > current => Some(Reason::JournalAhead),
            fenced if fenced < current => Some(Reason::JournalNotCurrent),
            _ => None,
        }
    }

    pub(super) fn lease_faults(&self, request: &Request, wanted: &Wanted) -> Vec<Reason> {
        let number = request.author.number;
        let mut faults = Vec::new();
        if wanted.wanted.0 == 0 || wanted.duration_ms == 0 {
            faults.push(Reason::LeaseForm);
        }
        let Some(gateway) = self.gateway(number) else {
            return faults;
        };
        faults.extend(self.journal_fault(number, wanted.journal.0));
        if wanted.number.0 != gateway.last_lease + 1 {
            faults.push(Reason::LeaseNotNext);
        }
        if !self.accounts.contains_key(&wanted.account.0) {
            faults.push(Reason::UnknownAccount);
        }
        if !self.classes.contains_key(&wanted.class.0) {
            faults.push(Reason::UnknownClass);
        }
        match self.api_keys.get(&wanted.api_key.0) {
            None => faults.push(Reason::UnknownApiKey),
            Some(key) if key.account != wanted.account.0 => faults.push(Reason::NotYours),
            Some(_) => {}
        }
        faults
    }

    /// How much a lease gets from which grants, and why not more.
    fn lease_amount(&self, gateway: u32, wanted: &Wanted) -> (Vec<(u32, u64)>, &'static str) {
        let account = wanted.account.0;
        let key = &self.api_keys[&wanted.api_key.0];
        let open_of_account = self.open_leases().filter(|(_, l)| l.account == account);
        if self.gateways[&gateway].suspended {
            return (Vec::new(), "Suspended");
        }
        if self.accounts[&account].frozen {
            return (Vec::new(), "Frozen");
        }
        if key.revoked || key.expires <= self.time {
            return (Vec::new(), "KeyEnded");
        }
        if open_of_account.count() >= MAX_OPEN {
            return (Vec::new(), "TooManyLeases");
        }
        let free = |number: &u32| self.grants[&(account, *number)].free;
        let sources = self.spendable(account, wanted.class.0);
        let available: u64 = sources.iter().map(free).sum();
        let reachable: u64 = sources.iter().take(MAX_PARTS).map(free).sum();
        let rule = (available / 2).max(available.min(wanted.worst_case.0));
        let balance = rule.min(reachable);
        let gateway_cap = self.gateway_room(gateway, account);
        let key_used = self.key_spent(wanted.api_key.0) + self.key_leased(wanted.api_key.0);
        let key_cap = key.cap.saturating_sub(key_used);
        let limits = [
            (balance, "Balance"),
            (gateway_cap, "GatewayCap"),
            (key_cap, "KeyCap"),
        ];
        // The first of the smallest.
        let (limit, why) = limits.into_iter().min_by_key(|(limit, _)| *limit).unwrap();
        let (granted, why) = match wanted.wanted.0 <= limit {
            true => (wanted.wanted.0, "None"),
            false => (limit, why),
        };
        let mut rest = granted;
        let mut parts = Vec::new();
        for number in sources.iter().take(MAX_PARTS) {
            let amount = rest.min(free(number));
            rest -= amount;
            if amount > 0 {
                parts.push((*number, amount));
            }
        }
        assert_eq!(rest, 0, "a lease never exceeds what its grants hold");
        (parts, why)
    }

    /// What the gateway's caps leave for this account.
    fn gateway_room(&self, gateway: u32, account: u32) -> u64 {
        let caps = self.gateways[&gateway].caps;
        let room = |cap: u64, used: u64| cap.saturating_sub(used);
        room(caps.open.0, self.open_total(gateway, None))
            .min(room(
                caps.open_account.0,
                self.open_total(gateway, Some(account)),
            ))
            .min(room(caps.hour.0, self.hour_total(gateway, None)))
            .min(room(
                caps.hour_account.0,
                self.hour_total(gateway, Some(account)),
            ))
    }

    pub(super) fn lease(&mut self, gateway: u32, wanted: &Wanted) {
        let (account, class) = (wanted.account.0, wanted.class.0);
        let (parts, why) = self.lease_amount(gateway, wanted);
        let granted: u64 = parts.iter().map(|part| part.1).sum();
        let longest = u64::from(self.parameters.max_lease_ms.min(wanted.duration_ms));
        let end = (self.time + longest).min(self.api_keys[&wanted.api_key.0].expires);
        self.gateways.get_mut(&gateway).unwrap().last_lease = wanted.number.0;
        for (number, amount) in &parts {
            self.grants.get_mut(&(account, *number)).unwrap().free -= amount;
        }
        if why == "Balance" {
            self.recall("Wanted", |(other, _), lease| {
                other != gateway && lease.account == account && lease.class == class
            });
        }
        if granted > 0 {
            let lease = Lease {
                account,
                class,
                api_key: wanted.api_key.0,
                granted,
                parts,
                opened: self.time,
                end,
                table: self.table,
                recall: "No",
                ended: None,
                closed: None,
            };
            self.leases.insert((gateway, wanted.number.0), lease);
        }
        let fact = Fact::LeaseGranted {
            gateway,
            lease: wanted.number.0,
            class,
            api_key: wanted.api_key.0,
            granted,
            shortfall: why.to_string(),
            end,
            table: self.table,
        };
        self.record(Some(account), fact);
    }

    pub(super) fn return_faults(&self, request: &Request, number: u64) -> Vec<Reason> {
        let gateway = request.author.number;
        match (self.open_lease(gateway, number), self.gateway(gateway)) {
            (Some(_), _) | (_, None) => Vec::new(),
            (None, Some(found)) if number > found.last_lease => vec![Reason::LeaseAhead],
            (None, Some(_)) => vec![Reason::LeaseNotOpen],
        }
    }
}
