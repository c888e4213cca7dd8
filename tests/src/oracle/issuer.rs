//! What issuers and holders do: accounts, grants, freezes, API keys.

use std::collections::BTreeMap;

use tally_ledger::{
    action::{BindApiKey, Correct, Issue, NewGrant, OpenAccount, Revoke, Surrender},
    crypto::PublicKey,
    ids::DAY_MS,
    person::Roles,
    reason::Reason,
    transaction::AuthorKind,
};

use super::{Account, ApiKey, Fact, Grant, Oracle, Payload, Request};

/// Live grants per account and class; API keys per account.
const MOST: usize = 64;

impl Oracle {
    pub(super) fn open_account_faults(&self, open: &OpenAccount) -> Vec<Reason> {
        let mut faults = Vec::new();
        for (i, class) in open.classes.iter().enumerate() {
            if !self.classes.contains_key(&class.0) {
                faults.push(Reason::UnknownClass);
            }
            if open.classes[..i].contains(class) {
                faults.push(Reason::Malformed);
            }
        }
        faults
    }

    pub(super) fn open_account(&mut self, open: &OpenAccount) {
        let number = self.accounts.len() as u32;
        let account = Account {
            unit: open.unit,
            holder: open.holder,
            frozen: false,
        };
        self.accounts.insert(number, account);
        self.record(Some(number), Fact::AccountOpened { unit: open.unit });
    }

    /// Whether amounts against accounts need a second issuer.
    fn day_faults(&self, request: &Request, amounts: &[(u32, u128)]) -> Vec<Reason> {
        let issuer = request.author.number;
        if self.signers_with(request, Roles::ISSUER) >= 2 {
            return Vec::new();
        }
        let mut sums: BTreeMap<u32, u128> = BTreeMap::new();
        for (account, amount) in amounts {
            *sums.entry(*account).or_default() += amount;
        }
        let all: u128 = sums.values().sum();
        let over_all =
            self.day_total(issuer, None) + all > u128::from(self.parameters.issuer_day_limit.0);
        let over_one = sums.iter().any(|(account, sum)| {
            self.day_total(issuer, Some(*account)) + sum
                > u128::from(self.parameters.issuer_day_account_limit.0)
        });
        match over_all || over_one {
            true => vec![Reason::CheckerMissing],
            false => Vec::new(),
        }
    }

    fn count_day(&mut self, request: &Request, account: u32, amount: u64) {
        if self.signers_with(request, Roles::ISSUER) < 2 {
            let day = self.time / DAY_MS;
            self.alone
                .push((request.author.number, account, day, amount));
        }
    }

    fn new_grant_faults(&self, grant: &NewGrant) -> Vec<Reason> {
        let mut faults = Vec::new();
        if grant.amount.0 == 0 {
            faults.push(Reason::Amount);
        }
        if grant.vests >= grant.expires || grant.expires.0 <= self.time {
            faults.push(Reason::Dates);
        }
        if !self.accounts.contains_key(&grant.account.0) {
            faults.push(Reason::UnknownAccount);
        }
        if !self.classes.contains_key(&grant.class.0) {
            faults.push(Reason::UnknownClass);
        }
        faults
    }

    pub(super) fn issue_faults(&self, request: &Request, issue: &Issue) -> Vec<Reason> {
        if issue.grants.is_empty() {
            return vec![Reason::Malformed, Reason::Amount];
        }
        let mut faults: Vec<Reason> = (issue.grants.iter())
            .flat_map(|grant| self.new_grant_faults(grant))
            .collect();
        let mut by_class: BTreeMap<u16, u128> = BTreeMap::new();
        let mut by_pair: BTreeMap<(u32, u16), usize> = BTreeMap::new();
        for grant in issue.grants.iter() {
            *by_class.entry(grant.class.0).or_default() += u128::from(grant.amount.0);
            *by_pair.entry((grant.account.0, grant.class.0)).or_default() += 1;
        }
        // A transaction issues at most what 64 bits can count.
        if by_class.values().sum::<u128>() > u128::from(u64::MAX) {
            faults.push(Reason::Amount);
        }
        for (class, sum) in by_class {
            let Some(found) = self.classes.get(&class) else {
                continue;
            };
            let cap = found.rules.supply_cap.0;
            if cap != u64::MAX && self.period_total(class) + sum > u128::from(cap) {
                faults.push(Reason::SupplyCap);
            }
            if self.class_totals(class).issued + sum > u128::from(u64::MAX) {
                faults.push(Reason::Amount);
            }
        }
        for ((account, class), new) in by_pair {
            if self.live_grants(account, class).len() + new > MOST {
                faults.push(Reason::TooManyGrants);
            }
        }
        let amounts: Vec<(u32, u128)> = (issue.grants.iter())
            .map(|grant| (grant.account.0, u128::from(grant.amount.0)))
            .collect();
        faults.extend(self.day_faults(request, &amounts));
        faults
    }

    pub(super) fn issue(&mut self, request: &Request, issue: &Issue) {
        let day = self.time / DAY_MS;
        for new in issue.grants.iter() {
            self.count_day(request, new.account.0, new.amount.0);
            self.issues.push((new.class.0, day, new.amount.0));
            let number = self.add_grant(new);
            let fact = Fact::GrantIssued {
                grant: number,
                class: new.class.0,
                amount: new.amount.0,
                vests: new.vests.0,
                expires: new.expires.0,
            };
            self.record(Some(new.account.0), fact);
        }
    }

    fn add_grant(&mut self, new: &NewGrant) -> u32 {
        let account = new.account.0;
        let number = 1 + (self.grants.keys()).filter(|k| k.0 == account).count() as u32;
        let grant = Grant {
            class: new.class.0,
            amount: new.amount.0,
            vests: new.vests.0,
            expires: new.expires.0,
            burn: self.classes[&new.class.0].rules.burn,
            free: new.amount.0,
            spent: 0,
            expired: 0,
            revoked: 0,
            surrendered: 0,
            vest_done: new.vests.0 <= self.time,
            expiry_done: false,
            is_revoked: false,
        };
        self.grants.insert((account, number), grant);
        number
    }

    pub(super) fn revoke_faults(&self, request: &Request, revoke: &Revoke) -> Vec<Reason> {
        let (account, number) = (revoke.account.0, revoke.grant.0);
        if !self.accounts.contains_key(&account) {
            return vec![Reason::UnknownAccount];
        }
        if !self.is_live(account, number) {
            return vec![Reason::UnknownGrant];
        }
        let grant = &self.grants[&(account, number)];
        let mut faults = Vec::new();
        if !grant.burn.by_issuer() {
            faults.push(Reason::NotBurnable);
        }
        if grant.is_revoked {
            faults.push(Reason::AlreadyRevoked);
        }
        let held = u128::from(grant.free) + u128::from(self.leased_of(account, number));
        faults.extend(self.day_faults(request, &[(account, held)]));
        faults
    }

    pub(super) fn revoke(&mut self, request: &Request, revoke: &Revoke) {
        let (account, number) = (revoke.account.0, revoke.grant.0);
        let leased = self.leased_of(account, number);
        let grant = self.grants.get_mut(&(account, number)).unwrap();
        let free = std::mem::take(&mut grant.free);
        grant.is_revoked = true;
        grant.revoked += free;
        let class = grant.class;
        self.count_day(request, account, free + leased);
        self.recall("Revoked", |_, lease| {
            lease.account == account && lease.class == class
        });
        let fact = Fact::GrantRevoked {
            grant: number,
            amount: free,
        };
        self.record(Some(account), fact);
    }

    pub(super) fn correct_faults(&self, request: &Request, correct: &Correct) -> Vec<Reason> {
        let mut faults = Vec::new();
        if correct.amount.0 == 0 {
            faults.push(Reason::Amount);
        }
        if correct.expires.0 <= self.time {
            faults.push(Reason::Dates);
        }
        let Payload::Proof {
            is_receipt,
            genuine,
        } = request.payload
        else {
            return faults;
        };
        if !is_receipt {
            faults.push(Reason::UnknownReceipt);
        }
        if !genuine || correct.entry >= self.parent_log {
            faults.push(Reason::BadInclusion);
        }
        let Some(charge) = self.charge(correct.entry).filter(|_| genuine && is_receipt) else {
            return faults;
        };
        let corrected = u128::from(self.corrected(correct.entry));
        if corrected + u128::from(correct.amount.0) > u128::from(charge.charged) {
            faults.push(Reason::OverReceipt);
        }
        if self.live_grants(charge.account, charge.class).len() + 1 > MOST {
            faults.push(Reason::TooManyGrants);
        }
        let issued = self.class_totals(charge.class).issued;
        if issued + u128::from(correct.amount.0) > u128::from(u64::MAX) {
            faults.push(Reason::Amount);
        }
        faults
    }

    pub(super) fn correct(&mut self, correct: &Correct) {
        let charge = self.charge(correct.entry).unwrap();
        self.corrections.push((correct.entry, correct.amount.0));
        let grant = self.add_grant(&NewGrant {
            account: tally_ledger::ids::AccountNumber(charge.account),
            class: tally_ledger::ids::ClassNumber(charge.class),
            amount: correct.amount,
            vests: tally_ledger::ids::Time(self.time),
            expires: correct.expires,
        });
        let fact = Fact::Corrected {
            entry: correct.entry,
            grant,
            amount: correct.amount.0,
            expires: correct.expires.0,
        };
        self.record(Some(charge.account), fact);
    }

    pub(super) fn freeze_faults(&self, account: u32, must_be: bool) -> Vec<Reason> {
        match self.accounts.get(&account) {
            None => vec![Reason::UnknownAccount],
            Some(found) if found.frozen == must_be => Vec::new(),
            Some(_) if must_be => vec![Reason::NotFrozen],
            Some(_) => vec![Reason::Frozen],
        }
    }

    pub(super) fn freeze(&mut self, account: u32) {
        self.accounts.get_mut(&account).unwrap().frozen = true;
        self.recall("Frozen", |_, lease| lease.account == account);
        self.record(Some(account), Fact::Frozen);
    }

    pub(super) fn unfreeze(&mut self, account: u32) {
        self.accounts.get_mut(&account).unwrap().frozen = false;
        self.record(Some(account), Fact::Unfrozen);
    }

    pub(super) fn erase_faults(&self, account: u32) -> Vec<Reason> {
        match self.accounts.contains_key(&account) {
            true => Vec::new(),
            false => vec![Reason::UnknownAccount],
        }
    }

    /// Nothing changes but the log: it says what is to go.
    pub(super) fn erase(&mut self, account: u32) {
        let entries = self.entries_of(Some(account));
        self.record(Some(account), Fact::Erased { entries });
    }

    /// The holder of a frozen account can only revoke API keys.
    fn frozen_holder(&self, request: &Request, account: u32) -> Option<Reason> {
        let by_holder = request.author.kind == AuthorKind::Account;
        let frozen = self.accounts.get(&account).is_some_and(|a| a.frozen);
        (by_holder && frozen).then_some(Reason::Frozen)
    }

    pub(super) fn bind_faults(&self, request: &Request, bind: &BindApiKey) -> Vec<Reason> {
        let mut faults = Vec::new();
        faults.extend(self.frozen_holder(request, bind.account.0));
        if !self.accounts.contains_key(&bind.account.0) {
            faults.push(Reason::UnknownAccount);
        }
        if bind.models.windows(2).any(|pair| pair[0] >= pair[1]) {
            faults.push(Reason::Malformed);
        }
        let prices = &self.tables[&self.table];
        if (bind.models.iter()).any(|model| !super::price::knows(prices, model.0)) {
            faults.push(Reason::UnknownModel);
        }
        if bind.expires.0 <= self.time {
            faults.push(Reason::Dates);
        }
        if self.api_keys.values().any(|key| key.key == bind.key) {
            faults.push(Reason::KeyBoundBefore);
        }
        let held = (self.api_keys.values())
            .filter(|key| key.account == bind.account.0 && !key.revoked)
            .count();
        if held + 1 > MOST {
            faults.push(Reason::TooManyKeys);
        }
        faults
    }

    pub(super) fn bind(&mut self, bind: &BindApiKey) {
        let number = self.api_keys.len() as u32;
        let key = ApiKey {
            account: bind.account.0,
            key: bind.key,
            models: bind.models.iter().map(|model| model.0).collect(),
            cap: bind.cap.0,
            expires: bind.expires.0,
            revoked: false,
        };
        self.api_keys.insert(number, key);
        self.record(Some(bind.account.0), Fact::ApiKeyBound { api_key: number });
    }

    pub(super) fn revoke_key_faults(&self, number: u32) -> Vec<Reason> {
        match self.api_keys.get(&number) {
            None => vec![Reason::UnknownApiKey],
            Some(key) if key.revoked => vec![Reason::AlreadyRevoked],
            Some(_) => Vec::new(),
        }
    }

    pub(super) fn revoke_key(&mut self, number: u32) {
        let key = self.api_keys.get_mut(&number).unwrap();
        key.revoked = true;
        let account = key.account;
        self.recall("KeyRevoked", |_, lease| lease.api_key == number);
        self.record(Some(account), Fact::ApiKeyRevoked { api_key: number });
    }

    pub(super) fn rotate_faults(&self, request: &Request, account: u32) -> Vec<Reason> {
        match self.accounts.contains_key(&account) {
            true => self.frozen_holder(request, account).into_iter().collect(),
            false => vec![Reason::UnknownAccount],
        }
    }

    pub(super) fn rotate(&mut self, account: u32, key: PublicKey) {
        self.accounts.get_mut(&account).unwrap().holder = key;
        self.record(Some(account), Fact::HolderKeyRotated);
    }

    pub(super) fn surrender_faults(&self, surrender: &Surrender) -> Vec<Reason> {
        let (account, number) = (surrender.account.0, surrender.grant.0);
        let mut faults = Vec::new();
        if surrender.amount.0 == 0 {
            faults.push(Reason::Amount);
        }
        if !self.accounts.contains_key(&account) {
            faults.push(Reason::UnknownAccount);
            return faults;
        }
        if self.accounts[&account].frozen {
            faults.push(Reason::Frozen);
        }
        if !self.is_live(account, number) {
            faults.push(Reason::UnknownGrant);
            return faults;
        }
        let grant = &self.grants[&(account, number)];
        if !grant.burn.by_holder() {
            faults.push(Reason::NotBurnable);
        }
        if surrender.amount.0 > grant.free {
            faults.push(Reason::Insufficient);
        }
        faults
    }

    pub(super) fn surrender(&mut self, surrender: &Surrender) {
        let (account, number) = (surrender.account.0, surrender.grant.0);
        let grant = self.grants.get_mut(&(account, number)).unwrap();
        grant.free -= surrender.amount.0;
        grant.surrendered += surrender.amount.0;
        let fact = Fact::Surrendered {
            grant: number,
            amount: surrender.amount.0,
        };
        self.record(Some(account), fact);
    }
}
