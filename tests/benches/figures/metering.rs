//! Authorize + Settle over gRPC at 2,000 pairs per second: a p99 of 2 ms at
//! most, plus the fdatasync p99 of the same run, is wanted.

use std::time::{Duration, Instant};

use serde_json::json;
use tally_proto::v1::{
    AuthorizeRequest, MeterCount, SettleRequest, authorize_request::Key,
    metering_service_client::MeteringServiceClient,
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::{
    Options,
    cluster::Gateway,
    driver::{Driver, until},
    figure::{percentile_of, print, summary},
    machine::Probe,
};

const RATE: u64 = 2_000;

/// The pair's latency, and that of its halves.
pub(crate) async fn metering(gateway: &Gateway, driver: &Driver, options: &Options) {
    let uri = format!("http://{}", gateway.grpc);
    let channel = Endpoint::from_shared(uri)
        .unwrap()
        .tcp_nodelay(true)
        .connect()
        .await
        .unwrap();
    let client = MeteringServiceClient::new(channel);
    let seeds: Vec<Vec<u8>> = driver
        .accounts
        .iter()
        .map(|a| a.secret.seed().to_vec())
        .collect();
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

/// One pair; its time in ms, `None` if a call failed.
async fn pair(mut client: MeteringServiceClient<Channel>, seed: Vec<u8>) -> Option<f64> {
    let started = Instant::now();
    let request = AuthorizeRequest {
        key: Some(Key::Seed(seed.into())),
        model: "tally-base".into(),
        input: 100,
        max_output: 200,
        ..Default::default()
    };
    let hold = client.authorize(request).await.ok()?.into_inner().hold;
    let count = |meter: &str, count| MeterCount {
        meter: meter.into(),
        count,
    };
    let request = SettleRequest {
        hold,
        usage: vec![count("input", 90), count("output", 150)],
        ..Default::default()
    };
    client.settle(request).await.ok()?;
    Some(started.elapsed().as_secs_f64() * 1e3)
}
