//! What is done twice a second: leases that are over go back, holds that
//! nobody settles are charged, idle accounts and engines' connections are
//! forgotten, gauges are set.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tally_ledger::ids::DebitNumber;

use crate::{metering::Metering, routing::Upstreams, serving::Serving};

/// How often idle leases, old holds and gauges are looked at.
const UPKEEP: Duration = Duration::from_millis(500);
/// Accounts are forgotten after this long without use.
const FORGET: Duration = Duration::from_secs(60);
/// Rounds of which is remembered which debits they made.
const ROUNDS: usize = 100_000;

/// Runs until it is cancelled.
pub(super) async fn run(serving: Arc<Serving>, metering: Arc<Metering>, upstreams: Arc<Upstreams>) {
    let mut forgotten = Instant::now();
    let mut ages = Ages::default();
    loop {
        tokio::time::sleep(UPKEEP).await;
        serving.holds.jobs.send_all(serving.pool.returns(false));
        metering.sweep(false);
        for station in upstreams.stations() {
            station.upstream().sweep();
        }
        if forgotten.elapsed() >= FORGET {
            forgotten = Instant::now();
            serving.pool.forget_idle();
            serving.holds.rates.sweep();
        }
        gauges(&serving, &mut ages);
    }
}

fn gauges(serving: &Serving, ages: &mut Ages) {
    let (mut held, mut free, mut open) = (0u64, 0u64, 0usize);
    for account in serving.pool.accounts() {
        let (more_held, more_free) = account.sums(None);
        held = held.saturating_add(more_held);
        free = free.saturating_add(more_free);
        open = open.saturating_add(account.open_leases());
    }
    let (metrics, journal) = (&serving.metrics, &serving.holds.journal);
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.held.set(gauge(held));
    metrics.free.set(gauge(free));
    metrics.open_leases.set(gauge(open as u64));
    let running = serving.holds.running.load(Ordering::Relaxed);
    metrics.running.set(gauge(running as u64));
    metrics.unproven.set(gauge(journal.unproven() as u64));
    let oldest = ages.oldest(journal.head().last, journal.proven_last(), Instant::now());
    metrics.unproven_age.set(gauge(oldest.as_secs()));
}

/// The last debit of each round that made some, and when that was.
#[derive(Default)]
struct Ages(VecDeque<(DebitNumber, Instant)>);

impl Ages {
    /// How old the oldest debit is that is not proven.
    fn oldest(&mut self, last: DebitNumber, proven: DebitNumber, now: Instant) -> Duration {
        let known = self.0.back().map_or(proven, |(known, _)| *known);
        if last > known && self.0.len() < ROUNDS {
            self.0.push_back((last, now));
        }
        while self.0.front().is_some_and(|(number, _)| *number <= proven) {
            self.0.pop_front();
        }
        let front = self.0.front();
        front.map_or(Duration::ZERO, |(_, made)| now.duration_since(*made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_debit_that_is_not_proven_tells_the_lag() {
        let start = Instant::now();
        let mut ages = Ages::default();
        let mut oldest = |last, proven, second| {
            let now = start + Duration::from_secs(second);
            ages.oldest(DebitNumber(last), DebitNumber(proven), now)
                .as_secs()
        };
        assert_eq!(oldest(0, 0, 0), 0);
        assert_eq!(oldest(5, 0, 1), 0);
        assert_eq!(oldest(5, 4, 3), 2);
        assert_eq!(oldest(9, 4, 4), 3);
        // Those of the second round are next.
        assert_eq!(oldest(9, 5, 10), 6);
        assert_eq!(oldest(9, 9, 11), 0);
        assert_eq!(oldest(9, 9, 60), 0);
        assert_eq!(oldest(10, 9, 61), 0);
    }
}
