//! What running holds still want of their account: to give back what they
//! cannot use any more, to move out of a lease that ends, and to be raised if
//! they were made for less than was asked.
//!
//! I3 as everywhere: a part is reserved under the lock before it counts.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tally_ledger::ids::{ClassNumber, LeaseNumber, TableVersion};

use super::{Account, inner::Inner};
use crate::{
    job::Job,
    key::Key,
    lease::{End, Lease},
};

/// A hold that wants more, or another lease.
#[derive(Debug)]
pub struct Topping<'a> {
    /// Where it is.
    pub lease: LeaseNumber,
    /// Its class.
    pub class: ClassNumber,
    /// Its key.
    pub key: &'a Arc<Key>,
    /// Its prices; the ledger wants a lease that is not younger.
    pub table: TableVersion,
    /// What it has.
    pub limit: u64,
    /// The least that helps, all in all.
    pub least: u64,
    /// The most that it can use, all in all.
    pub most: u64,
}

/// What a hold got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// Its limit is this now, in this lease. If that is another one, the part
    /// in the old one is still held: see [`Account::left`].
    Got(LeaseNumber, u64),
    /// Not yet.
    Wait,
    /// Nothing, and nothing is on its way.
    Nothing,
}

impl Topping<'_> {
    fn fits(&self, lease: &Lease, least: u64, now: Instant) -> bool {
        (lease.class, lease.api_key) == (self.class, self.key.number)
            && lease.number != self.lease
            && lease.end == End::Open
            && lease.is_open(now)
            && lease.table <= self.table
            && lease.free >= least
    }
}

impl Account {
    /// A hold gives back a part; its record says so already.
    pub fn lowered(&self, lease: LeaseNumber, by: u64) {
        let mut inner = self.inner();
        if let Some(lease) = inner.leases.iter_mut().find(|held| held.number == lease) {
            lease.lower(by);
        }
        drop(inner);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// A hold of `limit` has left this lease for another, durably.
    pub fn left(&self, lease: LeaseNumber, limit: u64) {
        let mut inner = self.inner();
        if let Some(lease) = inner.leases.iter_mut().find(|held| held.number == lease) {
            lease.release(limit, 0);
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// When the lease ended, if it has.
    pub fn ended_at(&self, lease: LeaseNumber, now: Instant) -> Option<Instant> {
        let inner = self.inner();
        let lease = inner.leases.iter().find(|held| held.number == lease);
        lease.and_then(|lease| lease.ended_at(now))
    }

    /// Whether a hold in this lease should move: it ends within `early`.
    pub fn should_move(&self, lease: LeaseNumber, early: Duration, now: Instant) -> bool {
        self.ended_at(lease, now + early).is_some()
    }

    /// Raises a hold in its own lease, else moves it to one that has room for
    /// all of it; else asks for such a lease. A lease that was recalled
    /// raises nothing: its rest is for who asked.
    pub fn top_up(self: &Arc<Self>, hold: &Topping<'_>, now: Instant, jobs: &mut Vec<Job>) -> More {
        let mut inner = self.inner();
        let own = inner.leases.iter_mut().find(|lease| {
            lease.number == hold.lease && lease.end == End::Open && lease.is_open(now)
        });
        if let Some(own) = own {
            let by = own.free.min(hold.most.saturating_sub(hold.limit));
            if by > 0 && hold.limit + by >= hold.least && own.raise(by) {
                return More::Got(hold.lease, hold.limit + by);
            }
        }
        self.move_hold(&mut inner, hold, now, jobs)
    }

    /// Moves a hold to a lease that does not end soon; else asks for one.
    pub fn renew(self: &Arc<Self>, hold: &Topping<'_>, now: Instant, jobs: &mut Vec<Job>) -> More {
        self.move_hold(&mut self.inner(), hold, now, jobs)
    }

    fn move_hold(
        self: &Arc<Self>,
        inner: &mut Inner,
        hold: &Topping<'_>,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> More {
        let fits = |lease: &&mut Lease| hold.fits(lease, hold.least, now);
        let target = inner.leases.iter_mut().filter(fits);
        if let Some(target) = target.max_by_key(|lease| lease.until) {
            let limit = target.free.min(hold.most);
            if target.reserve(limit) {
                return More::Got(target.number, limit);
            }
        }
        let pair = (hold.class, hold.key.number);
        let recalled = |lease: &Lease| lease.number == hold.lease && lease.end != End::Open;
        let gains = hold.least > hold.limit;
        // Where others want the balance a hold stays, in its lease's grace.
        if inner.view.frozen || (!gains && inner.leases.iter().any(recalled)) {
            return More::Nothing;
        }
        if inner.requested.contains(&pair) || inner.refreshing {
            return More::Wait;
        }
        if inner.viewed.is_none() {
            inner.refreshing = true;
            jobs.push(Job::Refresh {
                account: self.clone(),
            });
            return More::Wait;
        }
        if inner.leasable(pair) < hold.least {
            return More::Nothing;
        }
        inner.requested.push(pair);
        jobs.push(Job::Lease {
            account: self.clone(),
            key: hold.key.clone(),
            class: hold.class,
            wanted: inner.leasable(pair).min(hold.most),
            worst: hold.least.max(1),
        });
        More::Wait
    }
}
