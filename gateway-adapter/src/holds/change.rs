//! Changing a hold while it runs.
//!
//! The rule: a hold's limit is what its last record says, and a lease's
//! limits never add up to more than the lease.
//!
//! - **Less**: the record is appended, then the part is free. Who reserves it
//!   next is recorded behind it, and recovery reads a prefix: so no crash
//!   leaves both the old limit and the new hold.
//! - **More**: the part is reserved, then recorded; output that it pays for is
//!   delivered once the record is durable.
//! - **Another lease**: reserved there, recorded, and only when that is
//!   durable free in the old one. Until then both hold it, so a crash charges
//!   either; the old lease cannot be returned before.

use std::time::{Duration, Instant};

use tally_ledger::{ids::Amount, price::Usage};

use super::Hold;
use crate::{
    account::{More, Topping},
    journal::{Durable, Urgency},
};

impl Hold {
    /// Gives back what cannot be used any more: `worst` and its cost are the
    /// most from now on. Nothing if that is not less.
    pub fn shrink(&mut self, worst: Usage, cost: Amount) {
        let Some(by) = self.record.limit.0.checked_sub(cost.0).filter(|by| *by > 0) else {
            return;
        };
        (self.record.worst, self.record.limit) = (worst, cost);
        let changed = self.holds.journal.change(&self.record, Urgency::Soon);
        if changed.is_some() {
            self.account.lowered(self.record.lease, by);
            self.holds.metrics.shrunk.inc();
        }
    }

    fn topping(&self, least: u64, most: u64) -> Topping<'_> {
        Topping {
            lease: self.record.lease,
            class: self.record.class,
            key: &self.key,
            table: self.record.table,
            limit: self.record.limit.0,
            least,
            most,
        }
    }

    /// Moves it to another lease if its own ends within `early`; asks for one
    /// if there is none. It settles in its old lease's grace otherwise.
    pub fn keep(&mut self, early: Duration) {
        let now = Instant::now();
        if !self.account.should_move(self.record.lease, early, now) {
            return;
        }
        let limit = self.record.limit.0;
        let mut jobs = Vec::new();
        let more = self
            .account
            .renew(&self.topping(limit, limit), now, &mut jobs);
        self.holds.jobs.send_all(jobs);
        if let More::Got(..) = more {
            drop(self.take(more));
        }
    }

    /// Has the account proven again before the next decision.
    pub fn look_again(&self) {
        self.account.stale();
    }

    /// Waits until something about the account changed, or for a while.
    pub async fn changed(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.account.changed.notified()).await;
    }

    /// When its lease ended, if it has: grace counts from then.
    pub fn ended_at(&self) -> Option<Instant> {
        self.account.ended_at(self.record.lease, Instant::now())
    }

    /// Raises it to `most`, at least to `least`. What is gained counts once
    /// the answer is durable. The error says whether something may still come.
    pub fn top_up(&mut self, least: Amount, most: Amount) -> Result<Durable, bool> {
        let mut jobs = Vec::new();
        let topping = self.topping(least.0, most.0);
        let more = self.account.top_up(&topping, Instant::now(), &mut jobs);
        self.holds.jobs.send_all(jobs);
        match more {
            More::Got(..) => {
                self.holds.metrics.topped_up.inc();
                self.take(more).ok_or(false)
            }
            More::Wait => Err(true),
            More::Nothing => Err(false),
        }
    }

    /// Records what was got.
    fn take(&mut self, more: More) -> Option<Durable> {
        let More::Got(lease, limit) = more else {
            return None;
        };
        let (old, before) = (self.record.lease, self.record.limit.0);
        (self.record.lease, self.record.limit) = (lease, Amount(limit));
        let durable = self.holds.journal.change(&self.record, Urgency::Now)?;
        if lease == old {
            return Some(durable);
        }
        self.holds.metrics.moved.inc();
        let (holds, account) = (self.holds.clone(), self.account.clone());
        Some(durable.then(move || {
            account.left(old, before);
            holds.give_back(&account);
        }))
    }
}
