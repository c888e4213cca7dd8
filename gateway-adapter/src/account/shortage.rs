//! What to do with a request that no lease covers: the beginning of a lease,
//! or the end of a balance.
//!
//! The order is: ask for a lease while what is available covers the request;
//! have the prompt counted, if there is anything at all to pay with; wait for what is under way or running, here and
//! at other gateways; lower the output; refuse. Rests come together like
//! this:
//!
//! - What other gateways hold is recalled by a Lease that wants more than is
//!   available; each gives back what it does not need at once.
//! - Own idle rests are given back when one lease can hold the sum and that
//!   is what is missing, or when nothing else will come.
//! - Of two gateways that want each other's rest one yields: see
//!   [`crate::view`]. A lease that was granted serves who asked for it even
//!   if it was recalled meanwhile: see [`End`]. So each round of recalls
//!   serves somebody or ends with a refusal.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tally_ledger::ids::{Amount, ClassNumber};

use super::{
    Account, Step,
    inner::{Inner, Pair},
    prospect::lowered,
};
use crate::{
    ask::{Ask, Need},
    job::Job,
    lease::{End, Lease},
    refusal::Refusal,
    usage,
};

/// How old a view of the account may be before a refusal rests on it.
const FRESH: Duration = Duration::from_millis(500);
/// The same while other gateways are waited for.
const FRESH_OF_OTHERS: Duration = Duration::from_millis(100);

impl Account {
    /// No lease covers the request in `class`.
    pub(super) fn short(
        self: &Arc<Self>,
        inner: &mut Inner,
        class: ClassNumber,
        ask: &Ask,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> Step {
        let pair = (class, ask.key.number);
        if inner.requested.contains(&pair) {
            return Step::Wait;
        }
        if inner.leasable(pair) >= ask.cost.0.max(1) {
            inner.dry.remove(&pair);
            jobs.push(self.request(inner, class, ask, now));
            return Step::Wait;
        }
        // Where there is nothing, no count makes it enough.
        if ask.countable && !inner.is_bare(class) {
            return Step::Count;
        }
        // What is on its way back is not asked for piecemeal.
        if inner.is_returning(class) || !self.is_fresh(inner, class, now, jobs) {
            return Step::Wait;
        }
        let others = inner.others(class);
        let refused = inner.dry.get(&pair).and_then(|dry| dry.why);
        if others.pullable && refused.is_none() {
            jobs.push(self.request(inner, class, ask, now));
            return Step::Wait;
        }
        let rest =
            |lease: &Lease| lease.class == class && lease.end == End::Recalled && lease.is_idle();
        if others.held > 0 && self.give_back(inner, rest, jobs) {
            return Step::Wait;
        }
        if inner.running > 0 || self.gather(inner, pair, ask.cost.0, now, jobs) {
            return Step::Wait;
        }
        if let Some(refusal) = refused {
            if inner
                .dry
                .get(&pair)
                .is_some_and(|dry| now.duration_since(dry.at) > FRESH)
            {
                inner.dry.remove(&pair);
            }
            return Step::Refuse(refusal);
        }
        if others.held > 0 {
            return Step::Wait;
        }
        if inner.leasable(pair) > 0 {
            jobs.push(self.request(inner, class, ask, now));
            return Step::Wait;
        }
        self.lower(inner, pair, ask, now, jobs)
    }

    /// Whether the last proof of the account is new enough to decide by; has
    /// it proven again if not.
    pub(super) fn is_fresh(
        self: &Arc<Self>,
        inner: &mut Inner,
        class: ClassNumber,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> bool {
        let most = match inner.others(class).held {
            0 => FRESH,
            _ => FRESH_OF_OTHERS,
        };
        let viewed = inner.viewed.is_some_and(|at| now.duration_since(at) < most);
        if viewed && !inner.refreshing {
            return true;
        }
        if !std::mem::replace(&mut inner.refreshing, true) {
            jobs.push(Job::Refresh {
                account: self.clone(),
            });
        }
        false
    }

    /// Gives back idle leases whose rests, with what is available, are worth
    /// more than the best one alone, so that one lease can hold the sum; not
    /// while that is too little and others hold more. Nothing runs.
    fn gather(
        self: &Arc<Self>,
        inner: &mut Inner,
        pair: Pair,
        need: u64,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> bool {
        let (class, key) = pair;
        let usable =
            |lease: &&Lease| lease.class == class && lease.api_key == key && lease.is_open(now);
        let best = inner.leases.iter().filter(usable).map(|lease| lease.free);
        let best = best.max().unwrap_or(0);
        let idle = |lease: &Lease| lease.class == class && lease.is_idle() && lease.free > 0;
        let rests = inner.leases.iter().filter(|lease| idle(lease));
        let rests: u64 = rests.map(|lease| lease.free).sum();
        let sum = rests.saturating_add(inner.leasable(pair));
        let more_may_come = inner.others(class).held > 0;
        if rests == 0 || sum <= best || (sum < need && more_may_come) {
            return false;
        }
        self.give_back(inner, idle, jobs)
    }

    /// Serves with less output, or refuses. Nothing of the account runs, at
    /// any gateway.
    fn lower(
        self: &Arc<Self>,
        inner: &mut Inner,
        (class, key): Pair,
        ask: &Ask,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> Step {
        let best = (0..inner.leases.len())
            .filter(|i| {
                let lease = &inner.leases[*i];
                (lease.class, lease.api_key) == (class, key)
                    && lease.is_open(now)
                    && lease.table <= ask.prices.version
            })
            .max_by_key(|i| inner.leases[*i].free);
        let Some(best) = best else {
            return Step::Refuse(Refusal::Insufficient);
        };
        let budget = Amount(inner.leases[best].free);
        let (Need::Tokens { input, .. }, Some(output)) = (ask.need, lowered(ask, budget)) else {
            return Step::Refuse(Refusal::Insufficient);
        };
        let (worst, cost) = usage::worst_case(ask.model(), input, output, ask.fee);
        Step::Reserved(self.reserve(inner, best, ask, (worst, cost.0, output), now, jobs))
    }
}
