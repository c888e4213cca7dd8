//! Grants: issue, revoke, surrender, correct. Upholds I1 (each token has one
//! place) and I2 (no grant ever changes its account).

use std::collections::BTreeMap;

use super::{Call, Draft};
use crate::{
    account::{Account, DayCounter, Grant, MAX_GRANTS, Recall},
    action::{Correct, Issue, NewGrant, Revoke, Surrender},
    class::{Bucket, Burn},
    correction::Correction,
    entry::{Event, Receipt},
    ids::{AccountNumber, Amount, ClassNumber, GrantNumber, Person, Time},
    merkle,
    reason::Reason,
};

/// A sum that must stay in its range.
fn add(sum: Amount, amount: Amount) -> Result<Amount, Reason> {
    sum.checked_add(amount).ok_or(Reason::Amount)
}

impl Grant {
    /// Where its free part is counted.
    fn bucket(&self) -> Bucket {
        if self.vested {
            Bucket::Available
        } else {
            Bucket::Unvested
        }
    }

    fn is_empty(&self) -> bool {
        self.free == Amount::ZERO && self.leased == Amount::ZERO
    }
}

impl Account {
    /// A live grant to change.
    pub(super) fn grant_mut(&mut self, number: GrantNumber) -> Option<&mut Grant> {
        let found = self
            .grants
            .binary_search_by_key(&number, |grant| grant.number);
        found.ok().map(|index| &mut self.grants[index])
    }

    /// Drops a grant if it holds nothing any more.
    pub(super) fn drop_if_empty(&mut self, number: GrantNumber) {
        let found = self
            .grants
            .binary_search_by_key(&number, |grant| grant.number);
        if let Ok(index) = found
            && self.grants[index].is_empty()
        {
            self.grants.remove(index);
        }
    }

    fn live_grants(&self, class: ClassNumber) -> usize {
        let grants = self.grants.iter();
        grants.filter(|grant| grant.class == class).count()
    }

    fn issued_alone(&self, issuer: Person, day: u32) -> Amount {
        let mut days = self.days.iter();
        let counter = days.find(|counter| counter.issuer == issuer && counter.day == day);
        counter.map_or(Amount::ZERO, |counter| counter.total)
    }
}

/// What an issuer does to accounts in one transaction.
type Sums = BTreeMap<AccountNumber, Amount>;

impl Draft<'_> {
    pub(super) fn issue(&mut self, call: &Call<'_>, action: &Issue) -> Result<(), Reason> {
        let alone = self.issuer(call)?;
        for grant in action.grants.iter() {
            self.account(grant.account)?;
            self.class(grant.class)?;
        }
        let pairs = action
            .grants
            .iter()
            .map(|grant| (grant.account, grant.class));
        self.run_steps_of(pairs);
        let sums = self.issue_guards(&action.grants)?;
        if let Some(issuer) = alone {
            self.count_alone(issuer, &sums)?;
        }
        for new in action.grants.iter() {
            let burn = self.class(new.class)?.rules.burn;
            let grant = self.add_grant(new, burn);
            let event = Event::GrantIssued {
                transaction: call.id,
                grant,
            };
            self.log_of(new.account, event);
        }
        Ok(())
    }

    /// Policy of an Issue; gives the sums per account and counts the classes'
    /// periods.
    fn issue_guards(&mut self, grants: &[NewGrant]) -> Result<Sums, Reason> {
        let mut accounts = Sums::new();
        let mut classes = BTreeMap::new();
        let mut live: BTreeMap<_, usize> = BTreeMap::new();
        for grant in grants {
            if grant.amount == Amount::ZERO {
                return Err(Reason::Amount);
            }
            if grant.expires <= grant.vests.max(self.now) {
                return Err(Reason::Dates);
            }
            let sum = accounts.entry(grant.account).or_default();
            *sum = add(*sum, grant.amount)?;
            let sum = classes.entry(grant.class).or_default();
            *sum = add(*sum, grant.amount)?;
            *live.entry((grant.account, grant.class)).or_default() += 1;
        }
        // The sum over all accounts is what the issuer's limit looks at.
        accounts
            .values()
            .try_fold(Amount::ZERO, |a, b| add(a, *b))?;
        for (class, sum) in &classes {
            add(self.class(*class)?.totals.issued, *sum)?;
        }
        for ((account, class), new) in live {
            if self.account(account)?.live_grants(class) + new > MAX_GRANTS {
                return Err(Reason::TooManyGrants);
            }
        }
        let day = self.now.day();
        for (number, sum) in classes {
            if !self.class_mut(number).count_issue(sum, day) {
                return Err(Reason::SupplyCap);
            }
        }
        Ok(accounts)
    }

    /// Counts what an issuer does alone against the limits of the clock day.
    fn count_alone(&mut self, issuer: Person, sums: &Sums) -> Result<(), Reason> {
        let day = self.now.day();
        let limits = self.parameters;
        let person = self.person_mut(issuer);
        if person.day != day {
            person.day = day;
            person.day_total = Amount::ZERO;
        }
        for sum in sums.values() {
            person.day_total = add(person.day_total, *sum)?;
        }
        if person.day_total > limits.issuer_day_limit {
            return Err(Reason::CheckerMissing);
        }
        for (number, sum) in sums {
            let account = self.account_mut(*number);
            let total = add(account.issued_alone(issuer, day), *sum)?;
            if total > limits.issuer_day_account_limit {
                return Err(Reason::CheckerMissing);
            }
            let days = &mut account.days;
            days.retain(|counter| counter.day == day && counter.issuer != issuer);
            let at = days.partition_point(|counter| counter.issuer < issuer);
            days.insert(at, DayCounter { issuer, day, total });
        }
        Ok(())
    }

    /// Adds a grant to an account and to all totals; all is checked.
    fn add_grant(&mut self, new: &NewGrant, burn: Burn) -> Grant {
        let vested = new.vests <= self.now;
        let account = self.account_mut(new.account);
        account.last_grant.0 += 1;
        let grant = Grant {
            number: account.last_grant,
            class: new.class,
            amount: new.amount,
            free: new.amount,
            leased: Amount::ZERO,
            vests: new.vests,
            expires: new.expires,
            burn,
            vested,
            expired: false,
            revoked: false,
        };
        account.grants.push(grant);
        let bucket = grant.bucket();
        account.totals_mut(new.class).issue(bucket, new.amount);
        self.class_mut(new.class).totals.issue(bucket, new.amount);
        grant
    }

    /// Moves an account's tokens between places, in all totals.
    pub(super) fn shift(
        &mut self,
        account: AccountNumber,
        class: ClassNumber,
        (from, to): (Bucket, Bucket),
        amount: Amount,
    ) {
        let totals = self.account_mut(account).totals_mut(class);
        totals.shift(from, to, amount);
        self.class_mut(class).totals.shift(from, to, amount);
    }

    /// Takes from a grant's free part and drops the grant if that was all.
    pub(super) fn burn(
        &mut self,
        account: AccountNumber,
        grant: &Grant,
        to: Bucket,
        amount: Amount,
    ) {
        self.shift(account, grant.class, (grant.bucket(), to), amount);
        let owner = self.account_mut(account);
        let held = owner.grant_mut(grant.number);
        let held = held.expect("the grant was looked up before");
        held.free.0 -= amount.0;
        owner.drop_if_empty(grant.number);
    }

    /// A live grant, after its account's and class's due steps.
    fn live_grant(&mut self, account: AccountNumber, number: GrantNumber) -> Result<Grant, Reason> {
        let grant = self.account(account)?.grant(number);
        let class = grant.ok_or(Reason::UnknownGrant)?.class;
        self.run_steps_of([(account, class)]);
        let grant = self.account(account)?.grant(number);
        grant.copied().ok_or(Reason::UnknownGrant)
    }

    pub(super) fn revoke(&mut self, call: &Call<'_>, action: &Revoke) -> Result<(), Reason> {
        let alone = self.issuer(call)?;
        let Revoke { account, .. } = *action;
        let grant = self.live_grant(account, action.grant)?;
        if grant.revoked {
            return Err(Reason::AlreadyRevoked);
        }
        if !grant.burn.by_issuer() {
            return Err(Reason::NotBurnable);
        }
        if let Some(issuer) = alone {
            let held = add(grant.free, grant.leased)?;
            self.count_alone(issuer, &Sums::from([(account, held)]))?;
        }
        let held = self.account_mut(account).grant_mut(grant.number);
        held.expect("the grant was looked up before").revoked = true;
        self.burn(account, &grant, Bucket::Revoked, grant.free);
        self.recall(account, Recall::Revoked, |lease| lease.class == grant.class);
        let event = Event::GrantRevoked {
            transaction: call.id,
            grant: grant.number,
            amount: grant.free,
        };
        self.log_of(account, event);
        Ok(())
    }

    pub(super) fn surrender(&mut self, call: &Call<'_>, action: &Surrender) -> Result<(), Reason> {
        let Surrender {
            account, amount, ..
        } = *action;
        self.holder(call, account)?;
        let grant = self.live_grant(account, action.grant)?;
        self.not_frozen(call, account)?;
        if amount == Amount::ZERO {
            return Err(Reason::Amount);
        }
        if !grant.burn.by_holder() {
            return Err(Reason::NotBurnable);
        }
        if amount > grant.free {
            return Err(Reason::Insufficient);
        }
        self.burn(account, &grant, Bucket::Surrendered, amount);
        let event = Event::Surrendered {
            transaction: call.id,
            grant: grant.number,
            amount,
        };
        self.log_of(account, event);
        Ok(())
    }

    pub(super) fn correct(&mut self, call: &Call<'_>, action: &Correct) -> Result<(), Reason> {
        self.two_issuers(call)?;
        let receipt = self.proven_receipt(call, action.entry)?;
        self.account(receipt.account)?;
        self.run_steps_of([(receipt.account, receipt.class)]);
        if action.amount == Amount::ZERO {
            return Err(Reason::Amount);
        }
        if action.expires <= self.now {
            return Err(Reason::Dates);
        }
        let account = self.account(receipt.account)?;
        if account.live_grants(receipt.class) >= MAX_GRANTS {
            return Err(Reason::TooManyGrants);
        }
        let class = self.class(receipt.class)?;
        let burn = class.rules.burn;
        add(class.totals.issued, action.amount)?;
        self.count_correction(action, receipt.charged)?;
        let new = NewGrant {
            account: receipt.account,
            class: receipt.class,
            amount: action.amount,
            vests: self.now,
            expires: action.expires,
        };
        let grant = self.add_grant(&new, burn);
        let event = Event::Corrected {
            transaction: call.id,
            entry: action.entry,
            grant,
        };
        self.log_of(receipt.account, event);
        Ok(())
    }

    /// The receipt that the payload proves, under the parent's log root.
    fn proven_receipt(&self, call: &Call<'_>, entry: u64) -> Result<Receipt, Reason> {
        let proof = call.proof.as_ref().expect("read with the payload");
        let receipt = Receipt::from_leaf(&proof.leaf).ok_or(Reason::UnknownReceipt)?;
        let log = self.base.log();
        let leaf = merkle::leaf_hash(&proof.leaf);
        if !merkle::verify_inclusion(&leaf, entry, log.size(), &proof.path, &log.root()) {
            return Err(Reason::BadInclusion);
        }
        Ok(receipt)
    }

    /// Adds to the corrected sum of a receipt, at most what it charged.
    fn count_correction(&mut self, action: &Correct, charged: Amount) -> Result<(), Reason> {
        let Correct { entry, amount, .. } = *action;
        let known = self.base.index.corrections.get(&entry);
        let known = self.corrected.get(&entry).or(known).copied();
        let before = known.and_then(|number| self.corrections.get(number));
        let corrected = add(before.map_or(Amount::ZERO, |b| b.corrected), amount)?;
        if corrected > charged {
            return Err(Reason::OverReceipt);
        }
        if let Some(number) = known {
            let correction = self.corrections.get_mut(number);
            correction.expect("the index is right").corrected = corrected;
        } else if self.corrections.len() < u32::MAX as usize {
            let number = self.corrections.push(Correction { entry, corrected });
            self.corrected.set(entry, number);
        } else {
            return Err(Reason::TableFull);
        }
        Ok(())
    }

    /// Vest step: the grant can be spent from now on.
    pub(super) fn vest(&mut self, account: AccountNumber, number: GrantNumber) {
        let held = self.account_mut(account).grant_mut(number);
        let grant = held.expect("due steps are of live grants");
        grant.vested = true;
        let Grant { class, free, .. } = *grant;
        let move_ = (Bucket::Unvested, Bucket::Available);
        self.shift(account, class, move_, free);
        let event = Event::GrantVested {
            grant: number,
            amount: free,
        };
        self.log_of(account, event);
    }

    /// Expiry step: what is free is gone; what is leased follows when its
    /// leases close. Nothing is left to do where a close that was due before
    /// has emptied the grant.
    pub(super) fn expire(&mut self, account: AccountNumber, number: GrantNumber) {
        let Some(grant) = self.account_mut(account).grant_mut(number) else {
            return;
        };
        grant.expired = true;
        let grant = *grant;
        self.burn(account, &grant, Bucket::Expired, grant.free);
        let event = Event::GrantExpired {
            grant: number,
            amount: grant.free,
        };
        self.log_of(account, event);
    }

    /// Where a lease's part of a grant returns to at block time `now`.
    pub(super) fn home(grant: &Grant, now: Time) -> Bucket {
        if grant.expired || grant.expires <= now {
            Bucket::Expired
        } else if grant.revoked {
            Bucket::Revoked
        } else {
            Bucket::Available
        }
    }
}
