//! Finalised debits per second in batches, the time from Submit to final,
//! and what a receipt takes on disk. Counted in the log of a validator that
//! the load does not talk to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tally_proto::v1::{Wait, WatchRequest};
use tokio::task::JoinSet;

use crate::{
    Options,
    cluster::Cluster,
    driver::{Driver, submit, until},
    figure::{percentile_of, print, summary},
    machine::{Probe, disk_bytes},
};

/// Debits in a batch.
const BATCH: u32 = 1_000;
/// Debits that may be on their way.
const WINDOW: u64 = 40_000;

/// Follows the size of validator `validator`'s log.
async fn follow_log(cluster: &Cluster, validator: usize) -> Arc<AtomicU64> {
    let size = Arc::new(AtomicU64::new(0));
    let mut audit = cluster.audit(validator).await;
    let request = WatchRequest {
        from_height: 1,
        control_only: false,
        headers_only: true,
    };
    let mut blocks = audit.watch(request).await.unwrap().into_inner();
    let theirs = size.clone();
    tokio::spawn(async move {
        while let Ok(Some(block)) = blocks.message().await {
            let header = block.header.and_then(|certified| certified.header).unwrap();
            theirs.store(header.log_size, Ordering::Relaxed);
        }
    });
    size
}

/// 30,000 finalised debits per second are wanted.
pub(crate) async fn throughput(cluster: &Cluster, driver: &mut Driver, options: &Options) {
    let size = follow_log(cluster, 3).await;
    let probe = Probe::start(cluster.folder());
    let wait = |least: u64| {
        let size = size.clone();
        async move {
            while size.load(Ordering::Relaxed) < least {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    wait(1).await;
    let before = (disk_bytes(&cluster.home(3)), size.load(Ordering::Relaxed));
    let mut sent = before.1;
    let mut rates = Vec::new();
    for run in 0..=options.runs {
        let (started, first) = (Instant::now(), size.load(Ordering::Relaxed));
        while started.elapsed() < options.seconds {
            if sent.saturating_sub(size.load(Ordering::Relaxed)) >= WINDOW {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let batch = driver.batch(BATCH);
            submit(driver.ledger.clone(), batch, Wait::Admitted).await;
            sent += u64::from(BATCH);
        }
        let (seconds, last) = (
            started.elapsed().as_secs_f64(),
            size.load(Ordering::Relaxed),
        );
        // The first one warms up.
        if run > 0 {
            rates.push((last - first) as f64 / seconds);
        }
    }
    wait(sent).await;
    let load = json!({"batch": BATCH, "window": WINDOW, "accounts": driver.accounts.len(), "seconds": options.seconds.as_secs()});
    print(
        "finalised_debits",
        "1/s",
        load.clone(),
        summary(&rates),
        &probe,
    );
    let receipts = size.load(Ordering::Relaxed) - before.1;
    let bytes = disk_bytes(&cluster.home(3)) - before.0;
    let per_receipt = bytes as f64 / receipts as f64;
    let values = json!({"median": per_receipt, "receipts": receipts});
    print(
        "disk_per_receipt",
        "bytes, all files of a validator",
        load,
        values,
        &probe,
    );
}

/// A p50 of 25 ms at most at 1,000 per second is wanted: debits in batches, as
/// gateways send them, and each in a transaction of its own.
pub(crate) async fn latency(cluster: &Cluster, driver: &mut Driver, options: &Options) {
    for batch in [10, 1] {
        submissions(cluster, driver, options, batch).await;
    }
}

async fn submissions(cluster: &Cluster, driver: &mut Driver, options: &Options, batch: u64) {
    let rate = options.rate.div_ceil(batch);
    let probe = Probe::start(cluster.folder());
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for run in 0..=options.runs {
        let start = tokio::time::Instant::now();
        let mut calls = JoinSet::new();
        for i in 0..rate * options.seconds.as_secs() {
            until(start, Duration::from_micros(i * 1_000_000 / rate)).await;
            let (ledger, debits) = (driver.ledger.clone(), driver.batch(batch as u32));
            calls.spawn(async move {
                let started = Instant::now();
                submit(ledger, debits, Wait::Final).await;
                started.elapsed().as_secs_f64() * 1e3
            });
        }
        let mut times = calls.join_all().await;
        if run > 0 {
            p50.push(percentile_of(&mut times, 0.5));
            p99.push(percentile_of(&mut times, 0.99));
        }
    }
    let load = json!({
        "transactions per second": rate, "debits per transaction": batch,
        "seconds": options.seconds.as_secs(), "validators' nice": options.nice,
    });
    let values = summary(&p50);
    print("submit_to_final_p50", "ms", load.clone(), values, &probe);
    print("submit_to_final_p99", "ms", load, summary(&p99), &probe);
}
