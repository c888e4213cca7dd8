//! Leases: grant, recall, end, close. Upholds I3: a lease takes only what
//! grants have free, and a gateway spends only what it leased.

use super::{Call, Draft};
use crate::{
    account::{
        Account, Grant, HourCounter, LeasePart, MAX_LEASE_PARTS, MAX_LEASES, OpenLease, Recall,
    },
    action::Lease,
    class::Bucket,
    codec::List,
    entry::{Event, Shortfall},
    ids::{AccountNumber, Amount, GatewayNumber, LeaseNumber, Time},
    reason::Reason,
    transaction::TransactionId,
};

/// What a Lease gets.
struct Quote {
    granted: Amount,
    shortfall: Shortfall,
}

impl OpenLease {
    /// End := now, and why; see [`Recall`].
    fn recall(&mut self, now: Time, reason: Recall) {
        let lost = reason == Recall::JournalLost;
        if self.ended.is_some() && !lost {
            return;
        }
        if self.recall == Recall::No || lost {
            self.recall = reason;
        }
        self.end = self.end.min(now);
    }
}

impl Account {
    /// Grants of a class that a lease can take from, earliest expiry first.
    fn spendable(&self, lease: &Lease, now: Time) -> Vec<Grant> {
        let takes = |grant: &&Grant| {
            grant.class == lease.class && grant.spendable(now) && grant.free > Amount::ZERO
        };
        let mut grants: Vec<Grant> = self.grants.iter().filter(takes).copied().collect();
        grants.sort_unstable_by_key(|grant| (grant.expires, grant.number));
        grants
    }

    /// What a gateway holds open of this account.
    fn open_for(&self, gateway: GatewayNumber) -> u64 {
        let leases = self.leases.iter();
        let own = leases.filter(|lease| lease.gateway == gateway);
        own.map(|lease| lease.remaining().0).sum()
    }

    /// What a gateway leased less returned in a clock hour.
    fn hour_for(&self, gateway: GatewayNumber, hour: u32) -> Amount {
        let mut hours = self.hours.iter();
        let counter = hours.find(|counter| counter.gateway == gateway && counter.hour == hour);
        counter.map_or(Amount::ZERO, |counter| counter.leased)
    }

    fn count_hour(&mut self, gateway: GatewayNumber, hour: u32, granted: Amount) {
        let leased = Amount(self.hour_for(gateway, hour).0.saturating_add(granted.0));
        let hours = &mut self.hours;
        hours.retain(|counter| counter.hour == hour && counter.gateway != gateway);
        let at = hours.partition_point(|counter| counter.gateway < gateway);
        let counter = HourCounter {
            gateway,
            hour,
            leased,
        };
        hours.insert(at, counter);
    }
}

fn sum(grants: &[Grant]) -> u64 {
    grants.iter().map(|grant| grant.free.0).sum()
}

/// Whether the API key that a Lease names has signed it.
pub(super) fn has_consent(call: &Call<'_>, action: &Lease) -> Result<(), Reason> {
    match call.body.signers.contains(&action.api_key.into()) {
        true => Ok(()),
        false => Err(Reason::NotYours),
    }
}

impl Draft<'_> {
    pub(super) fn lease(&mut self, call: &Call<'_>, action: &Lease) -> Result<(), Reason> {
        let number = self.author_gateway(call)?;
        has_consent(call, action)?;
        let gateway = self.gateway(number)?;
        gateway.has_open(action.journal)?;
        if Some(action.number.0) != gateway.last_lease.0.checked_add(1) {
            return Err(Reason::LeaseNotNext);
        }
        self.account(action.account)?;
        self.class(action.class)?;
        if self.api_key(action.api_key)?.account != action.account {
            return Err(Reason::NotYours);
        }
        self.run_steps_of([(action.account, action.class)]);
        let Quote { granted, shortfall } = self.quote(number, action)?;
        let end = self.lease_end(action)?;
        self.gateway_mut(number).last_lease = action.number;
        if granted > Amount::ZERO {
            self.set_aside(number, action, granted, end);
        }
        if shortfall == Shortfall::Balance {
            let others = |lease: &OpenLease| lease.class == action.class && lease.gateway != number;
            self.recall(action.account, Recall::Wanted, others);
        }
        let event = Event::LeaseGranted {
            transaction: call.id,
            gateway: number,
            lease: action.number,
            class: action.class,
            api_key: action.api_key,
            granted,
            shortfall,
            end,
            table: self.chain.table,
        };
        self.log_of(action.account, event);
        Ok(())
    }

    fn lease_end(&self, action: &Lease) -> Result<Time, Reason> {
        let duration = action.duration_ms.min(self.parameters.max_lease_ms);
        let end = self.now.0.saturating_add(u64::from(duration));
        Ok(Time(end).min(self.api_key(action.api_key)?.expires))
    }

    /// How much is granted and why not more; the rule is in [`Lease`].
    fn quote(&self, number: GatewayNumber, action: &Lease) -> Result<Quote, Reason> {
        let account = self.account(action.account)?;
        let gateway = self.gateway(number)?;
        let api_key = self.api_key(action.api_key)?;
        let none = [
            (gateway.suspended, Shortfall::Suspended),
            (account.frozen, Shortfall::Frozen),
            (
                api_key.revoked || api_key.expires <= self.now,
                Shortfall::KeyEnded,
            ),
            (account.leases.len() >= MAX_LEASES, Shortfall::TooManyLeases),
        ];
        if let Some((_, shortfall)) = none.into_iter().find(|(applies, _)| *applies) {
            return Ok(Quote {
                granted: Amount::ZERO,
                shortfall,
            });
        }
        let grants = account.spendable(action, self.now);
        let available = sum(&grants);
        let fair = (available / 2).max(available.min(action.worst_case.0));
        let eight = sum(&grants[..grants.len().min(MAX_LEASE_PARTS)]);
        let hour = self.now.hour();
        let hour_leased = if gateway.hour == hour {
            gateway.hour_leased
        } else {
            Amount::ZERO
        };
        let caps = gateway.caps;
        let room = [
            caps.open.saturating_sub(gateway.open),
            caps.open_account
                .saturating_sub(Amount(account.open_for(number))),
            caps.hour.saturating_sub(hour_leased),
            caps.hour_account
                .saturating_sub(account.hour_for(number, hour)),
        ];
        let key_holds = Amount(api_key.spent.0.saturating_add(api_key.leased.0));
        let limits = [
            (Amount(fair.min(eight)), Shortfall::Balance),
            (
                room.into_iter().min().expect("four caps"),
                Shortfall::GatewayCap,
            ),
            (api_key.cap.saturating_sub(key_holds), Shortfall::KeyCap),
        ];
        // The first of equal limits is the reason: `min_by_key` keeps it.
        let (limit, bound) = limits
            .into_iter()
            .min_by_key(|(limit, _)| *limit)
            .expect("three limits");
        Ok(if action.wanted <= limit {
            Quote {
                granted: action.wanted,
                shortfall: Shortfall::None,
            }
        } else {
            Quote {
                granted: limit,
                shortfall: bound,
            }
        })
    }

    /// Moves `granted` into a new open lease.
    fn set_aside(&mut self, number: GatewayNumber, action: &Lease, granted: Amount, end: Time) {
        let (now, table) = (self.now, self.chain.table);
        let account = self.account_mut(action.account);
        let mut parts = Vec::new();
        let mut rest = granted.0;
        for grant in account.spendable(action, now) {
            let amount = Amount(rest.min(grant.free.0));
            if rest == 0 {
                break;
            }
            let held = account.grant_mut(grant.number);
            let held = held.expect("spendable grants are live");
            held.free.0 -= amount.0;
            held.leased.0 += amount.0;
            parts.push(LeasePart {
                grant: grant.number,
                amount,
            });
            rest -= amount.0;
        }
        assert!(rest == 0, "I3: no more is granted than eight grants have");
        let lease = OpenLease {
            gateway: number,
            number: action.number,
            class: action.class,
            api_key: action.api_key,
            granted,
            parts: List::new(parts).expect("at most eight parts"),
            opened: now,
            end,
            table,
            recall: Recall::No,
            ended: None,
        };
        let at = account.lease_index(number, action.number);
        account
            .leases
            .insert(at.expect_err("lease numbers are never reused"), lease);
        account.count_hour(number, now.hour(), granted);
        let buckets = (Bucket::Available, Bucket::Leased);
        self.shift(action.account, action.class, buckets, granted);
        self.api_key_mut(action.api_key).leased.0 += granted.0;
        let gateway = self.gateway_mut(number);
        if gateway.hour != now.hour() {
            gateway.hour = now.hour();
            gateway.hour_leased = Amount::ZERO;
        }
        gateway.hour_leased.0 = gateway.hour_leased.0.saturating_add(granted.0);
        gateway.open.0 += granted.0;
        gateway.open_leases += 1;
        self.leases
            .set((number, action.number), Some(action.account));
    }

    /// Recalls an account's open leases that `which` names.
    pub(super) fn recall(
        &mut self,
        account: AccountNumber,
        reason: Recall,
        which: impl Fn(&OpenLease) -> bool,
    ) {
        let now = self.now;
        let leases = &mut self.account_mut(account).leases;
        for lease in leases.iter_mut().filter(|lease| which(lease)) {
            lease.recall(now, reason);
        }
    }

    /// Recalls all of a gateway's open leases.
    pub(super) fn recall_gateway(&mut self, gateway: GatewayNumber, reason: Recall) {
        let all = (gateway, LeaseNumber(0))..=(gateway, LeaseNumber(u64::MAX));
        let known = self.base.index.leases.range(all.clone());
        let known = known.map(|(key, _)| *key);
        let changed = self.leases.range(all).map(|(key, _)| *key);
        let mut leases: Vec<_> = known.chain(changed).collect();
        leases.sort_unstable();
        leases.dedup();
        let now = self.now;
        for (gateway, number) in leases {
            if let Some(owner) = self.lease_owner(gateway, number) {
                self.open_lease(owner, gateway, number).recall(now, reason);
            }
        }
    }

    fn open_lease(
        &mut self,
        owner: AccountNumber,
        gateway: GatewayNumber,
        number: LeaseNumber,
    ) -> &mut OpenLease {
        let account = self.account_mut(owner);
        let index = account.lease_index(gateway, number);
        &mut account.leases[index.expect("the owner has the lease")]
    }

    /// End step: no more is started on it; grace begins.
    pub(super) fn end_lease(&mut self, gateway: GatewayNumber, number: LeaseNumber) {
        let owner = self.lease_owner(gateway, number);
        let owner = owner.expect("due steps are of open leases");
        let ended = (self.now, self.height);
        let lease = self.open_lease(owner, gateway, number);
        lease.ended = Some(ended);
        let event = Event::LeaseEnded {
            gateway,
            lease: number,
            recall: lease.recall,
        };
        self.log_of(owner, event);
    }

    pub(super) fn return_lease(
        &mut self,
        call: &Call<'_>,
        number: LeaseNumber,
    ) -> Result<(), Reason> {
        let gateway = self.author_gateway(call)?;
        if number > self.gateway(gateway)?.last_lease {
            return Err(Reason::LeaseAhead);
        }
        let owner = self.lease_owner(gateway, number);
        self.account(owner.ok_or(Reason::LeaseNotOpen)?)?;
        self.close_lease(gateway, number, Some(call.id));
        Ok(())
    }

    /// Close: what remains returns to where it came from.
    pub(super) fn close_lease(
        &mut self,
        gateway: GatewayNumber,
        number: LeaseNumber,
        transaction: Option<TransactionId>,
    ) {
        let now = self.now;
        let owner = self.lease_owner(gateway, number);
        let owner = owner.expect("only open leases are closed");
        let account = self.account_mut(owner);
        let index = account.lease_index(gateway, number);
        let lease = account
            .leases
            .remove(index.expect("the owner has the lease"));
        let returned = lease.remaining();
        let same_hour = lease.opened.hour() == now.hour();
        if same_hour {
            let mut hours = account.hours.iter_mut();
            let counter = hours.find(|counter| counter.gateway == gateway);
            let counter = counter.expect("the hour's counter is kept through the hour");
            counter.leased = counter.leased.saturating_sub(returned);
        }
        for part in lease.parts.iter() {
            self.give_back(owner, part, &lease);
        }
        self.api_key_mut(lease.api_key).leased.0 -= returned.0;
        let holder = self.gateway_mut(gateway);
        holder.open.0 -= returned.0;
        holder.open_leases -= 1;
        if same_hour {
            holder.hour_leased = holder.hour_leased.saturating_sub(returned);
        }
        self.leases.set((gateway, number), None);
        let lost = lease.recall == Recall::JournalLost;
        let event = Event::LeaseClosed {
            gateway,
            lease: number,
            transaction,
            returned,
            unreported: if lost { returned } else { Amount::ZERO },
        };
        self.log_of(owner, event);
    }

    fn give_back(&mut self, owner: AccountNumber, part: &LeasePart, lease: &OpenLease) {
        let now = self.now;
        let account = self.account_mut(owner);
        let grant = account.grant_mut(part.grant);
        let grant = grant.expect("I3: a grant lives as long as a lease holds some of it");
        let home = Self::home(grant, now);
        grant.leased.0 -= part.amount.0;
        if home == Bucket::Available {
            grant.free.0 += part.amount.0;
        }
        account.drop_if_empty(part.grant);
        self.shift(owner, lease.class, (Bucket::Leased, home), part.amount);
    }
}
