//! Authorize + Settle over gRPC. One call each at 2,000 pairs per second,
//! beside the validators: a p99 of 2 ms at most, plus the fdatasync p99 of the
//! same run, is wanted; at 5,000 per second, the validators standing still, a
//! p99 of each call of 1 ms. And as many as one stream carries: 40,000 per
//! second.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tally_proto::v1::{
    AuthorizeRequest, HoldId, MeterCount, MeterRequest, SettleRequest, authorize_request::Key,
    meter_request::Ask, meter_response::Answer, metering_service_client::MeteringServiceClient,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    Options,
    cluster::Cluster,
    driver::{Account, Driver, until},
    figure::{percentile_of, print, summary},
    gateway::{FIXED, Gateway},
    machine::Probe,
};

const RATE: u64 = 2_000;
/// Of `unary`.
const HIGH_RATE: u64 = 5_000;
/// Pairs under way on the stream.
const WINDOW: usize = 1_024;

/// The pair's latency.
pub(crate) async fn metering(gateway: &Gateway, driver: &Driver, options: &Options) {
    let (client, seeds) = (client(gateway).await, seeds(driver));
    let probe = Probe::start(&gateway.folder);
    let (mut p50, mut p99, mut failed) = (Vec::new(), Vec::new(), 0);
    for run in 0..=options.runs {
        let results = paced(&client, &seeds, RATE, options.seconds).await;
        // The first one warms up: it takes the leases.
        if run > 0 {
            failed += results.iter().filter(|times| times.is_none()).count();
            let pairs = results.into_iter().flatten();
            let mut times: Vec<f64> = pairs.map(|times| times.iter().sum()).collect();
            p50.push(percentile_of(&mut times, 0.5));
            p99.push(percentile_of(&mut times, 0.99));
        }
    }
    let load = json!({"pairs per second": RATE, "accounts": seeds.len(), "failed": failed, "seconds": options.seconds.as_secs(), "connections": 1, "validators' nice": options.nice});
    print(
        "authorize_settle_p50",
        "ms",
        load.clone(),
        summary(&p50),
        &probe,
    );
    print("authorize_settle_p99", "ms", load, summary(&p99), &probe);
}

/// Each call's latency, the validators standing still.
pub(crate) async fn unary(
    cluster: &Cluster,
    gateway: &Gateway,
    driver: &Driver,
    options: &Options,
) {
    let (client, seeds) = (client(gateway).await, seeds(driver));
    gateway.stock(driver).await;
    let probe = Probe::start(&gateway.folder);
    let (mut shares, mut failed): ([Vec<f64>; 4], usize) = Default::default();
    for run in 0..=options.runs {
        gateway.settled().await;
        let _stopped = cluster.stop();
        let results = paced(&client, &seeds, HIGH_RATE, options.seconds).await;
        if run > 0 {
            failed += results.iter().filter(|times| times.is_none()).count();
            for call in 0..2 {
                let all = results.iter().flatten();
                let mut times: Vec<f64> = all.map(|times| times[call]).collect();
                shares[2 * call].push(percentile_of(&mut times, 0.5));
                shares[2 * call + 1].push(percentile_of(&mut times, 0.99));
            }
        }
    }
    let load = json!({"pairs per second": HIGH_RATE, "accounts": seeds.len(), "failed": failed, "seconds": options.seconds.as_secs(), "connections": 1, "validators": "stopped"});
    let names = ["authorize_p50", "authorize_p99", "settle_p50", "settle_p99"];
    for (name, values) in names.into_iter().zip(&shares) {
        print(name, "ms", load.clone(), summary(values), &probe);
    }
}

/// Pairs at a pace; for each the times of its calls.
async fn paced(
    client: &MeteringServiceClient<Channel>,
    seeds: &[Bytes],
    rate: u64,
    time: Duration,
) -> Vec<Option<[f64; 2]>> {
    let start = tokio::time::Instant::now();
    let mut calls = JoinSet::new();
    for i in 0..rate * time.as_secs() {
        until(start, Duration::from_micros(i * 1_000_000 / rate)).await;
        let seed = seeds[i as usize % seeds.len()].clone();
        calls.spawn(pair(client.clone(), seed));
    }
    calls.join_all().await
}

pub(crate) fn wish(seed: Bytes) -> AuthorizeRequest {
    AuthorizeRequest {
        key: Some(Key::Seed(seed)),
        model: FIXED.into(),
        input: 100,
        max_output: 200,
        ..Default::default()
    }
}

pub(crate) fn used(hold: Option<HoldId>) -> SettleRequest {
    let count = |meter: &str, count| MeterCount {
        meter: meter.into(),
        count,
    };
    SettleRequest {
        hold,
        usage: vec![count("input", 90), count("output", 150)],
        ..Default::default()
    }
}

/// One pair; the times of its calls in ms, `None` if one failed.
async fn pair(mut client: MeteringServiceClient<Channel>, seed: Bytes) -> Option<[f64; 2]> {
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let started = Instant::now();
    let hold = client.authorize(wish(seed)).await.ok()?.into_inner().hold;
    let (authorized, started) = (ms(started), Instant::now());
    client.settle(used(hold)).await.ok()?;
    Some([authorized, ms(started)])
}

/// Pairs per second on one stream, with a window of them under way.
pub(crate) async fn stream(
    cluster: &Cluster,
    gateway: &Gateway,
    driver: &Driver,
    options: &Options,
) {
    let seeds = seeds(driver);
    gateway.stock(driver).await;
    let (asks, requests) = mpsc::channel(4 * WINDOW);
    let mut client = client(gateway).await;
    let answers = client.meter(ReceiverStream::new(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    let authorize = |id: u64| MeterRequest {
        id,
        ask: Some(Ask::Authorize(wish(
            seeds[id as usize % seeds.len()].clone(),
        ))),
    };
    let mut id = 0;
    let probe = Probe::start(&gateway.folder);
    let (mut rates, mut refused) = (Vec::new(), 0);
    for run in 0..=options.runs {
        gateway.settled().await;
        let _stopped = cluster.stop();
        for _ in 0..WINDOW {
            id += 1;
            asks.send(authorize(id)).await.unwrap();
        }
        let (started, mut pairs, mut under_way) = (Instant::now(), 0, WINDOW);
        while under_way > 0 {
            let answer = answers.message().await.unwrap().unwrap();
            let next = match answer.answer.unwrap() {
                Answer::Authorized(hold) => MeterRequest {
                    id: answer.id,
                    ask: Some(Ask::Settle(used(hold.hold))),
                },
                other => {
                    let settled = matches!(other, Answer::Settled(_));
                    pairs += u64::from(settled);
                    refused += u64::from(!settled);
                    if started.elapsed() >= options.seconds {
                        under_way -= 1;
                        continue;
                    }
                    id += 1;
                    authorize(id)
                }
            };
            asks.send(next).await.unwrap();
        }
        // The first one warms up: it takes the leases.
        if run > 0 {
            rates.push(pairs as f64 / started.elapsed().as_secs_f64());
        }
    }
    let load = json!({"streams": 1, "window": WINDOW, "accounts": seeds.len(), "refused": refused, "seconds": options.seconds.as_secs(), "validators": "stopped"});
    print(
        "authorize_settle_stream",
        "pairs/s",
        load,
        summary(&rates),
        &probe,
    );
}

async fn client(gateway: &Gateway) -> MeteringServiceClient<Channel> {
    let uri = format!("http://{}", gateway.grpc);
    let endpoint = Endpoint::from_shared(uri).unwrap().tcp_nodelay(true);
    MeteringServiceClient::new(endpoint.connect().await.unwrap())
}

pub(crate) fn seeds(driver: &Driver) -> Vec<Bytes> {
    let seed = |a: &Account| Bytes::copy_from_slice(&a.secret.seed());
    driver.accounts.iter().map(seed).collect()
}
