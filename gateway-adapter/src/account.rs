//! An account as the gateway sees it: its leases, and who may go next.
//!
//! Each account has its own lock; no request takes another's. A request that
//! is covered by a lease is served at once. Near the end of a balance the
//! order is: wait for what is running, lower the output, refuse; requests
//! that wait do so in the order in which they came.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use tally_ledger::{
    ids::{AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, LeaseNumber},
    price::Usage,
};
use tokio::sync::Notify;

use crate::{
    ask::Ask,
    job::{Granted, Job, NoGrant, Short},
    lease::{End, Lease},
    refusal::Refusal,
    view::View,
};

mod inner;
mod prospect;
mod running;
mod shortage;
#[cfg(test)]
mod simulation;
mod solvent;

use inner::{Inner, Pair, Payer};
pub use prospect::{Prospect, When};
pub use running::{More, Topping};

/// A lease is asked for so that it pays this many worst cases, at least.
const LEAST_REQUESTS: u64 = 4;

/// What was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// In which lease.
    pub lease: LeaseNumber,
    /// Of which class.
    pub class: ClassNumber,
    /// How much.
    pub limit: u64,
    /// The usage that this pays for.
    pub worst: Usage,
    /// The output that this pays for, if the ask counts tokens.
    pub output: u32,
}

/// What to do with a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Serve it.
    Reserved(Reservation),
    /// Something is under way; look again when the account changed.
    Wait,
    /// The input's bound does not fit: have it counted, then ask again.
    Count,
    /// Do not serve it.
    Refuse(Refusal),
}

/// An account.
#[derive(Debug)]
pub struct Account {
    /// Its number.
    pub number: AccountNumber,
    inner: Mutex<Inner>,
    /// Told at each change that may let a waiting request go.
    pub changed: Notify,
    /// Requests that wait, in order.
    pub lane: tokio::sync::Mutex<()>,
    /// How many do.
    pub waiting: AtomicUsize,
    /// It is frozen.
    frozen: AtomicBool,
    /// Bumped by each use; an account without use is forgotten.
    pub uses: AtomicU64,
}

impl Account {
    /// An account with what is proven of it.
    pub fn new(number: AccountNumber, view: View, now: Instant) -> Self {
        Account {
            number,
            frozen: AtomicBool::new(view.frozen),
            inner: Mutex::new(Inner {
                view,
                viewed: Some(now),
                ..Inner::default()
            }),
            changed: Notify::new(),
            lane: tokio::sync::Mutex::new(()),
            waiting: AtomicUsize::new(0),
            uses: AtomicU64::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the input's bound does not fit, so that it should be counted.
    pub fn must_count(&self, ask: &Ask, now: Instant) -> bool {
        if !ask.countable {
            return false;
        }
        let inner = self.inner();
        let need = ask.cost.0;
        inner.candidates(ask).is_ok_and(|classes| {
            let bare = classes.iter().all(|class| inner.is_bare(*class));
            !bare
                && classes.iter().all(|class| {
                    let pair = (*class, ask.key.number);
                    inner.leasable(pair) < need && inner.lease_for(pair, ask, need, now).is_none()
                })
        })
    }

    /// Decides about a request. `jobs` gets what must be done for it.
    pub fn step(self: &Arc<Self>, ask: &Ask, now: Instant, jobs: &mut Vec<Job>) -> Step {
        self.uses.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner();
        if inner.view.frozen {
            return Step::Refuse(Refusal::Frozen);
        }
        let classes = match inner.candidates(ask) {
            Ok(classes) => classes,
            Err(refusal) => return Step::Refuse(refusal),
        };
        match inner.payer(&classes, ask, now) {
            Some(Payer::Lease(i)) => {
                Step::Reserved(self.reserve(&mut inner, i, ask, ask.full(), now, jobs))
            }
            Some(Payer::Class(class)) => self.short(&mut inner, class, ask, now, jobs),
            None => Step::Refuse(Refusal::ClassRule),
        }
    }

    fn reserve(
        self: &Arc<Self>,
        inner: &mut Inner,
        i: usize,
        ask: &Ask,
        (worst, limit, output): (Usage, u64, u32),
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> Reservation {
        let lease = &mut inner.leases[i];
        assert!(lease.reserve(limit), "the caller saw that much free");
        inner.running += 1;
        let reservation = Reservation {
            lease: lease.number,
            class: lease.class,
            limit,
            worst,
            output,
        };
        let class = lease.class;
        if inner.should_renew(class, ask, now) {
            jobs.push(self.request(inner, class, ask, now));
        }
        reservation
    }

    /// Asks for a lease: twice as much as last time if that was used up
    /// early, half if it was not.
    fn request(
        self: &Arc<Self>,
        inner: &mut Inner,
        class: ClassNumber,
        ask: &Ask,
        now: Instant,
    ) -> Job {
        let pair = (class, ask.key.number);
        let need = ask.cost.0.max(1);
        let least = need.saturating_mul(LEAST_REQUESTS);
        let wanted = match inner.wanted.get(&pair) {
            Some((last, at)) if now.duration_since(*at) < ask.lease_time / 2 => {
                last.saturating_mul(2)
            }
            Some((last, _)) => last / 2,
            None => least,
        };
        let wanted = wanted.max(least).min(u64::MAX / 4);
        inner.wanted.insert(pair, (wanted, now));
        inner.requested.push(pair);
        // Not more than the rule grants: a Lease that is granted less than it
        // wanted recalls the other gateways' leases. That is meant only where
        // what is available does not cover the request.
        let available = inner.available(class);
        let wanted = match available >= need {
            true => wanted.min((available / 2).max(need)),
            false => need,
        };
        Job::Lease {
            account: self.clone(),
            key: ask.key.clone(),
            class,
            wanted,
            worst: need,
        }
    }

    /// A Lease was answered. If it is `short`, what a cap kept from it is not
    /// asked for again until more becomes available.
    pub fn granted(&self, pair: Pair, granted: Granted, short: Short, now: Instant) {
        let mut inner = self.inner();
        inner.requested.retain(|asked| *asked != pair);
        inner.leases.push(Lease {
            number: granted.number,
            class: pair.0,
            api_key: pair.1,
            table: granted.table,
            granted: granted.amount,
            free: granted.amount,
            held: 0,
            holds: 0,
            height: granted.height,
            until: granted.until,
            end: End::Open,
            ended: None,
            used: false,
            returning: false,
            last_debit: DebitNumber(0),
        });
        match short {
            Short::No => drop(inner.dry.remove(&pair)),
            Short::Balance => inner.set_dry(pair, false, None, now),
            Short::Cap => inner.set_dry(pair, true, None, now),
        }
        let ended = inner.view.own.get(&granted.number).copied();
        if let (Some(lease), Some(end)) = (inner.leases.last_mut(), ended) {
            lease.ends(end, now);
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// A Lease was granted nothing, or could not be asked for.
    pub fn not_granted(&self, pair: Pair, why: NoGrant, now: Instant) {
        let mut inner = self.inner();
        inner.requested.retain(|asked| *asked != pair);
        let why = match why {
            NoGrant::Dry => None,
            NoGrant::Refused(refusal) => Some(refusal),
        };
        inner.set_dry(pair, why.is_some(), why, now);
        drop(inner);
        self.changed.notify_waiters();
    }

    /// The account's leaf was proven again; leases that the chain has ended
    /// or closed take no new holds. A leaf older than the last one only ends
    /// the wait for it.
    pub fn viewed(&self, view: View, now: Instant) {
        let mut inner = self.inner();
        if view.height >= inner.view.height {
            for lease in &mut inner.leases {
                match view.own.get(&lease.number) {
                    Some(end) => lease.ends(*end, now),
                    None if lease.height <= view.height => lease.ends(End::Over, now),
                    None => {}
                }
            }
            self.frozen.store(view.frozen, Ordering::Relaxed);
            inner.view = view;
        }
        inner.viewed = Some(now);
        inner.refreshing = false;
        drop(inner);
        self.changed.notify_waiters();
    }

    /// The account's leaf could not be proven.
    pub fn not_viewed(&self, now: Instant) {
        let mut inner = self.inner();
        inner.refreshing = false;
        // What is known is the best there is; requests are decided by it.
        inner.viewed = Some(now);
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Something on the chain concerns the account: look again before the
    /// next refusal.
    pub fn stale(&self) {
        self.inner().viewed = None;
        self.changed.notify_waiters();
    }

    /// No new hold in any of its leases; for a frozen account or a revoked
    /// key (`Some`).
    pub fn end_leases(&self, key: Option<ApiKeyNumber>) {
        let (mut inner, now) = (self.inner(), Instant::now());
        for lease in &mut inner.leases {
            if key.is_none_or(|key| key == lease.api_key) {
                lease.ends(End::Over, now);
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// A lease is closed on the chain.
    pub fn closed(&self, number: LeaseNumber) {
        let mut inner = self.inner();
        let class = inner
            .leases
            .iter()
            .find(|lease| lease.number == number)
            .map(|lease| lease.class);
        inner.leases.retain(|lease| lease.number != number);
        if let Some(class) = class {
            inner.dry.retain(|(dry, _), _| *dry != class);
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// A return could not be sent; it will be tried again.
    pub fn not_closed(&self, number: LeaseNumber) {
        let (mut inner, now) = (self.inner(), Instant::now());
        if let Some(lease) = inner.leases.iter_mut().find(|lease| lease.number == number) {
            lease.returning = false;
            lease.ends(End::Over, now);
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// A hold was resolved: `charged` of its `limit`, by `debit` if any.
    pub fn released(
        &self,
        lease: LeaseNumber,
        limit: u64,
        charged: u64,
        debit: Option<DebitNumber>,
    ) {
        let mut inner = self.inner();
        inner.running -= 1;
        if let Some(lease) = inner.leases.iter_mut().find(|held| held.number == lease) {
            lease.release(limit, charged);
            if let Some(debit) = debit {
                lease.last_debit = lease.last_debit.max(debit);
            }
        }
        drop(inner);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// Leases to give back now: idle, and ended, past their time, or empty
    /// (`all`: idle is enough).
    pub fn returns(self: &Arc<Self>, now: Instant, all: bool, jobs: &mut Vec<Job>) {
        let waits = self.waiting.load(Ordering::Relaxed) > 0;
        let over = |lease: &Lease| lease.is_over(waits, now) || (all && lease.is_idle());
        self.give_back(&mut self.inner(), over, jobs);
    }

    /// Gives back the leases that `which` names; whether there were any.
    fn give_back(
        self: &Arc<Self>,
        inner: &mut Inner,
        which: impl Fn(&Lease) -> bool,
        jobs: &mut Vec<Job>,
    ) -> bool {
        let mut any = false;
        for lease in inner.leases.iter_mut().filter(|lease| which(lease)) {
            any = true;
            lease.returning = true;
            jobs.push(Job::Return {
                account: self.clone(),
                lease: lease.number,
                after: lease.last_debit,
            });
        }
        any
    }

    /// What the account can still spend of a class, as far as is known here.
    pub fn remaining(&self, class: ClassNumber) -> Amount {
        let inner = self.inner();
        let leased: u64 = inner
            .leases
            .iter()
            .filter(|lease| lease.class == class)
            .map(|lease| lease.free)
            .sum();
        Amount(leased.saturating_add(inner.available(class)))
    }

    /// Whether it is frozen, as far as is known here.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// It was frozen: no new request, running ones are cut.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
        self.inner().view.frozen = true;
        self.end_leases(None);
    }

    /// Whether nothing is leased, asked for or running.
    pub fn is_idle(&self) -> bool {
        let inner = self.inner();
        inner.leases.is_empty() && inner.requested.is_empty() && inner.running == 0
    }

    /// Leases that are not closed.
    pub fn open_leases(&self) -> usize {
        self.inner().leases.len()
    }

    /// (held, free) in all leases; in those of one class (`Some`).
    pub fn sums(&self, class: Option<ClassNumber>) -> (u64, u64) {
        let inner = self.inner();
        let counts = |lease: &&Lease| class.is_none_or(|class| class == lease.class);
        let leases = inner.leases.iter().filter(counts);
        leases.fold((0, 0), |(held, free), lease| {
            (held + lease.held, free + lease.free)
        })
    }
}
