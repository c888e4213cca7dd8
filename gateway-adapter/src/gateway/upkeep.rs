//! What is done twice a second: leases that are over go back, holds that
//! nobody settles are charged, idle accounts are forgotten, gauges are set.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{metering::Metering, serving::Serving};

/// How often idle leases, old holds and gauges are looked at.
const UPKEEP: Duration = Duration::from_millis(500);
/// Accounts are forgotten after this long without use.
const FORGET: Duration = Duration::from_secs(60);

/// Runs until it is cancelled.
pub(super) async fn run(serving: Arc<Serving>, metering: Arc<Metering>) {
    let mut forgotten = Instant::now();
    loop {
        tokio::time::sleep(UPKEEP).await;
        serving.holds.jobs.send_all(serving.pool.returns(false));
        metering.sweep(false);
        if forgotten.elapsed() >= FORGET {
            forgotten = Instant::now();
            serving.pool.forget_idle();
        }
        let sums = serving
            .pool
            .accounts()
            .iter()
            .map(|account| account.sums(None))
            .fold((0u64, 0u64), |(held, free), (more_held, more_free)| {
                (
                    held.saturating_add(more_held),
                    free.saturating_add(more_free),
                )
            });
        serving
            .metrics
            .held
            .set(i64::try_from(sums.0).unwrap_or(i64::MAX));
        serving
            .metrics
            .free
            .set(i64::try_from(sums.1).unwrap_or(i64::MAX));
        serving
            .metrics
            .running
            .set(serving.holds.running.load(Ordering::Relaxed) as i64);
        serving
            .metrics
            .unproven
            .set(serving.holds.journal.unproven() as i64);
    }
}
