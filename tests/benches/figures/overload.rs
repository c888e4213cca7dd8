//! Twice what an engine carries, before which requests queue: how many are
//! told to come later, how long who is admitted waits, how long the queue
//! gets, and what a fee buys. The validators stand still meanwhile.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Options,
    cluster::Cluster,
    driver::{Driver, until},
    engine::OUTPUT,
    figure::{percentile_of, print, summary},
    gateway::{Gateway, NARROW, PLACES, QUEUE},
    machine::Probe,
    wire::{Answer, Wire, chat, get},
};

/// How long the engine works at one request, in ms.
const THINK: u64 = 20;
/// Requests per second: twice what its places carry.
const RATE: u64 = 2 * PLACES as u64 * 1_000 / THINK;
/// One request in so many has a fee.
const PAYS: u64 = 4;
/// Half a second of waiting, in CT.
const FEE: &str = "x-tally-priority-fee: 0.0005\r\n";

/// Connections that are not in use.
type Idle = Arc<Mutex<Vec<Wire>>>;

/// What came of the requests of one run, by whether they had a fee.
#[derive(Default)]
struct Outcome {
    /// Times of those that were served, in ms.
    served: [Vec<f64>; 2],
    /// Refused with 429 and a time to come again.
    later: u64,
    /// Anything else.
    other: u64,
}

/// The figure.
pub(crate) async fn overload(
    cluster: &Cluster,
    gateway: &Gateway,
    driver: &Driver,
    options: &Options,
) {
    let idle = Idle::default();
    let probe = Probe::start(&gateway.folder);
    let mut shares: [Vec<f64>; 6] = Default::default();
    let (mut longest, mut other) = (0, 0);
    gateway.stock(driver).await;
    gateway.fixed.behave(THINK, 0);
    for run in 0..=options.runs {
        gateway.settled().await;
        let _stopped = cluster.stop();
        let (ended, length) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let watching = watch(gateway, ended.clone(), length.clone());
        let (mut outcome, ()) = tokio::join!(
            async {
                let outcome = run_once(gateway, driver, options.seconds, &idle).await;
                ended.store(true, Ordering::Relaxed);
                outcome
            },
            watching
        );
        if run > 0 {
            let seconds = options.seconds.as_secs_f64();
            let served = outcome.served.iter().map(Vec::len).sum::<usize>() as f64;
            shares[0].push(served / seconds);
            shares[1].push(outcome.later as f64 / seconds);
            for (i, times) in outcome.served.iter_mut().enumerate() {
                shares[2 + 2 * i].push(percentile_of(times, 0.5));
                shares[3 + 2 * i].push(percentile_of(times, 0.99));
            }
            longest = longest.max(length.load(Ordering::Relaxed));
            other += outcome.other;
        }
    }
    gateway.fixed.behave(0, 0);
    let load = json!({
        "requests per second": RATE, "places": PLACES, "think_ms": THINK, "queue": QUEUE,
        "longest_queue": longest, "with_fee": format!("1 in {PAYS}"),
        "neither_served_nor_429_with_retry_after": other,
        "seconds": options.seconds.as_secs(), "validators": "stopped",
    });
    let rows = [
        ("overload_served", "1/s"),
        ("overload_429", "1/s"),
        ("overload_served_p50", "ms"),
        ("overload_served_p99", "ms"),
        ("overload_served_with_fee_p50", "ms"),
        ("overload_served_with_fee_p99", "ms"),
    ];
    for ((name, unit), values) in rows.into_iter().zip(&shares) {
        print(name, unit, load.clone(), summary(values), &probe);
    }
}

async fn run_once(gateway: &Gateway, driver: &Driver, time: Duration, idle: &Idle) -> Outcome {
    let start = tokio::time::Instant::now();
    let mut all = JoinSet::new();
    for i in 0..RATE * time.as_secs() {
        until(start, Duration::from_micros(i * 1_000_000 / RATE)).await;
        let pays = i % PAYS == 0;
        let fee = if pays { FEE } else { "" };
        let request = chat(&driver.bearer(i as usize), NARROW, OUTPUT, false, fee);
        let (idle, http) = (idle.clone(), gateway.http);
        all.spawn(async move {
            let wire = idle.lock().unwrap().pop();
            let mut wire = match wire {
                Some(wire) => wire,
                None => Wire::connect(http).await.ok()?,
            };
            let answer = wire.ask(&request).await.ok()?;
            idle.lock().unwrap().push(wire);
            Some((pays, answer))
        });
    }
    let mut outcome = Outcome::default();
    for ended in all.join_all().await {
        match ended {
            Some((
                pays,
                Answer {
                    status: 200, last, ..
                },
            )) => {
                outcome.served[usize::from(pays)].push(last.as_secs_f64() * 1e3);
            }
            Some((_, answer)) if answer.status == 429 && answer.retry_ms.is_some() => {
                outcome.later += 1;
            }
            _ => outcome.other += 1,
        }
    }
    outcome
}

/// Looks at the queue's length until it `ended`.
async fn watch(gateway: &Gateway, ended: Arc<AtomicBool>, longest: Arc<AtomicU64>) {
    let mut wire = Wire::connect(gateway.http).await.unwrap();
    while !ended.load(Ordering::Relaxed) {
        wire.ask(&get("", "/metrics")).await.unwrap();
        let text = String::from_utf8_lossy(wire.body()).into_owned();
        let host = gateway.fixed.address.to_string();
        let lines = text.lines();
        let lines = lines.filter(|line| line.contains("queued_requests{") && line.contains(&host));
        let length = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        longest.fetch_max(length.max().unwrap_or(0), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
