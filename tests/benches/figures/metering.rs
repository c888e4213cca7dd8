//! Authorize + Settle over gRPC. One call each at 2,000 pairs per second: a
//! p99 of 2 ms at most, plus the fdatasync p99 of the same run, is wanted. And
//! as many as one stream carries.

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
    cluster::Gateway,
    driver::{Account, Driver, until},
    figure::{percentile_of, print, summary},
    machine::Probe,
};

const RATE: u64 = 2_000;
/// Pairs under way on the stream.
const WINDOW: usize = 1_024;

/// The pair's latency, and that of its halves.
pub(crate) async fn metering(gateway: &Gateway, driver: &Driver, options: &Options) {
    let (client, seeds) = (client(gateway).await, seeds(driver));
    let probe = Probe::start(&gateway.folder);
    let (mut p50, mut p99, mut failed) = (Vec::new(), Vec::new(), 0);
    for run in 0..=options.runs {
        let start = tokio::time::Instant::now();
        let mut calls = JoinSet::new();
        for i in 0..RATE * options.seconds.as_secs() {
            until(start, Duration::from_micros(i * 1_000_000 / RATE)).await;
            let seed = seeds[i as usize % seeds.len()].clone();
            calls.spawn(pair(client.clone(), seed));
        }
        let results = calls.join_all().await;
        // The first one warms up: it takes the leases.
        if run > 0 {
            failed += results.iter().filter(|time| time.is_none()).count();
            let mut times: Vec<f64> = results.into_iter().flatten().collect();
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

fn wish(seed: Bytes) -> AuthorizeRequest {
    AuthorizeRequest {
        key: Some(Key::Seed(seed)),
        model: "tally-base".into(),
        input: 100,
        max_output: 200,
        ..Default::default()
    }
}

fn used(hold: Option<HoldId>) -> SettleRequest {
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

/// One pair; its time in ms, `None` if a call failed.
async fn pair(mut client: MeteringServiceClient<Channel>, seed: Bytes) -> Option<f64> {
    let started = Instant::now();
    let hold = client.authorize(wish(seed)).await.ok()?.into_inner().hold;
    client.settle(used(hold)).await.ok()?;
    Some(started.elapsed().as_secs_f64() * 1e3)
}

/// Pairs per second on one stream, with a window of them under way.
pub(crate) async fn stream(gateway: &Gateway, driver: &Driver, options: &Options) {
    let seeds = seeds(driver);
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
    for _ in 0..WINDOW {
        asks.send(authorize(id)).await.unwrap();
        id += 1;
    }
    let probe = Probe::start(&gateway.folder);
    let (mut rates, mut refused) = (Vec::new(), 0);
    for run in 0..=options.runs {
        let (started, mut pairs) = (Instant::now(), 0);
        while started.elapsed() < options.seconds {
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
    let load = json!({"streams": 1, "window": WINDOW, "accounts": seeds.len(), "refused": refused, "seconds": options.seconds.as_secs(), "validators' nice": options.nice});
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

fn seeds(driver: &Driver) -> Vec<Bytes> {
    let seed = |a: &Account| Bytes::copy_from_slice(&a.secret.seed());
    driver.accounts.iter().map(seed).collect()
}
