//! What to do with a request that no lease covers: the end of a balance, or
//! the beginning of a lease.
//!
//! The order is: wait for what is under way or running, lower the output,
//! refuse.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tally_ledger::ids::{Amount, ClassNumber};

use super::{
    Account, Step,
    inner::{Inner, Pair},
};
use crate::{
    ask::{Ask, Need},
    job::Job,
    lease::Lease,
    refusal::Refusal,
    usage,
};

/// How old a view of the account may be before a refusal rests on it.
const FRESH: Duration = Duration::from_millis(500);

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
        // What is on its way back is not asked for piecemeal.
        let returning = inner.is_returning(class);
        if returning && inner.available(class) < ask.cost.0 {
            return Step::Wait;
        }
        let Some(dry) = inner.dry.get(&pair).copied() else {
            jobs.push(self.request(inner, class, ask, now));
            return Step::Wait;
        };
        if inner.available(class) > dry.available {
            inner.dry.remove(&pair);
            jobs.push(self.request(inner, class, ask, now));
            return Step::Wait;
        }
        let viewed = inner
            .viewed
            .is_some_and(|at| now.duration_since(at) < FRESH);
        if inner.refreshing || !viewed {
            if !std::mem::replace(&mut inner.refreshing, true) {
                jobs.push(Job::Refresh {
                    account: self.clone(),
                });
            }
            return Step::Wait;
        }
        if inner.running > 0 || returning || self.gather(inner, pair, now, jobs) {
            return Step::Wait;
        }
        if let Some(refusal) = dry.why {
            if now.duration_since(dry.at) > FRESH {
                inner.dry.remove(&pair);
            }
            return Step::Refuse(refusal);
        }
        if inner.view.others.get(&class).is_some_and(|held| *held > 0) {
            return Step::Wait;
        }
        self.lower(inner, pair, ask, now, jobs)
    }

    /// Gives back idle leases whose rests together are worth more than the
    /// best one alone, so that one lease can hold the sum.
    fn gather(
        self: &Arc<Self>,
        inner: &mut Inner,
        (class, key): Pair,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> bool {
        let usable =
            |lease: &&Lease| lease.class == class && lease.api_key == key && lease.is_open(now);
        let best = inner
            .leases
            .iter()
            .filter(usable)
            .map(|lease| lease.free)
            .max()
            .unwrap_or(0);
        let idle = |lease: &Lease| lease.class == class && lease.is_idle() && lease.free > 0;
        let total: u64 = inner
            .leases
            .iter()
            .filter(|lease| idle(lease))
            .map(|lease| lease.free)
            .sum();
        if total <= best {
            return false;
        }
        for lease in inner.leases.iter_mut().filter(|lease| idle(lease)) {
            lease.returning = true;
            jobs.push(Job::Return {
                account: self.clone(),
                lease: lease.number,
                after: lease.last_debit,
            });
        }
        true
    }

    /// Serves with less output, or refuses. Nothing of the account runs.
    fn lower(
        self: &Arc<Self>,
        inner: &mut Inner,
        (class, key): Pair,
        ask: &Ask,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> Step {
        let Need::Tokens {
            input,
            output,
            lower: true,
        } = ask.need
        else {
            return Step::Refuse(Refusal::Insufficient);
        };
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
        let per_choice = output / ask.choices;
        let payable = |tokens: u32| tokens.saturating_mul(ask.choices);
        let lowered = usage::payable_output(ask.model(), input, output, ask.fee, budget)
            .map(|tokens| (tokens / ask.choices).min(per_choice))
            .filter(|tokens| *tokens > 0);
        let Some(tokens) = lowered else {
            return Step::Refuse(Refusal::Insufficient);
        };
        let output = payable(tokens);
        let (worst, cost) = usage::worst_case(ask.model(), input, output, ask.fee);
        Step::Reserved(self.reserve(inner, best, ask, (worst, cost.0, output), now, jobs))
    }
}
