//! 10,000 streams at once over 200 HTTP/2 connections: all of them complete,
//! each charged once, and the gateway's memory meanwhile. Under 500 MB is
//! wanted. The validators stand still while they run.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tally_ledger::{ids::Amount, price::Usage};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    cluster::Cluster,
    driver::Driver,
    engine::{INPUT, OUTPUT},
    figure::{print, summary},
    gateway::{FIXED, Gateway},
    machine::Probe,
    wire::{Wire, get},
};

const CONNECTIONS: usize = 200;
const STREAMS: usize = 10_000;
/// Between two chunks of a stream, in ms.
const PACE: u64 = 1_000;

/// The figure.
pub(crate) async fn streams(cluster: &Cluster, gateway: &Gateway, driver: &Driver) {
    gateway.stock(driver).await;
    gateway.settled().await;
    let spent = spent(gateway, driver).await;
    let before = resident_mb(gateway);
    let probe = Probe::start(&gateway.folder);
    let stopped = cluster.stop();
    gateway.fixed.behave(0, PACE);
    let (started, running) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut all = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let stream = TcpStream::connect(gateway.http).await.unwrap();
        let (sender, driving) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(driving);
        for i in 0..STREAMS / CONNECTIONS {
            let bearer = driver.bearer(connection * STREAMS / CONNECTIONS + i);
            all.spawn(stream_of(sender.clone(), bearer, running.clone()));
        }
    }
    let (mut most, mut peak) = (0, 0.0_f64);
    let mut complete = 0;
    while !all.is_empty() {
        let next = tokio::time::timeout(Duration::from_millis(100), all.join_next());
        if let Ok(Some(whole)) = next.await {
            complete += usize::from(whole.unwrap());
            if complete % 100 > 0 {
                continue;
            }
        }
        most = most.max(running.load(Ordering::Relaxed));
        peak = peak.max(resident_mb(gateway));
    }
    gateway.fixed.behave(0, 0);
    let seconds = started.elapsed().as_secs();
    drop(stopped);
    gateway.settled().await;
    let charged = self::spent(gateway, driver).await - spent;
    let load = json!({
        "streams": STREAMS, "http2_connections": CONNECTIONS, "at_once": most,
        "complete": complete, "charged_micro_ct": charged,
        "charged_once_micro_ct": STREAMS as u64 * price(cluster).0, "pace_ms": PACE,
        "took_s": seconds, "resident_before_mb": before, "validators": "stopped",
    });
    let values = summary(&[peak]);
    print("streams_resident_peak", "MB", load, values, &probe);
}

/// One stream to its end; whether all of it came.
async fn stream_of(
    mut sender: http2::SendRequest<Full<Bytes>>,
    bearer: String,
    running: Arc<AtomicUsize>,
) -> bool {
    let body = json!({
        "model": FIXED, "messages": [{"role": "user", "content": "How long is a piece of string?"}],
        "max_tokens": OUTPUT, "stream": true,
    });
    let request = Request::post("http://figures/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", bearer)
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let Ok(answer) = sender.send_request(request).await else {
        return false;
    };
    if !answer.status().is_success() {
        return false;
    }
    running.fetch_add(1, Ordering::Relaxed);
    let mut body = answer.into_body();
    let mut last = Bytes::new();
    let mut chunks = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.into_data().unwrap_or_default();
        // The end may come in a frame of its own.
        if !data.is_empty() {
            (last, chunks) = (data, chunks + 1);
        }
    }
    running.fetch_sub(1, Ordering::Relaxed);
    chunks > OUTPUT && last.ends_with(b"[DONE]\n\n")
}

/// What the gateway's process has in memory now.
fn resident_mb(gateway: &Gateway) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.process()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kb.unwrap_or(f64::NAN) / 1024.0
}

/// What one stream costs.
fn price(cluster: &Cluster) -> Amount {
    let models = &cluster.genesis.prices.models;
    let model = models.iter().find(|model| &*model.name == FIXED).unwrap();
    let usage = Usage([INPUT, OUTPUT, 0, 0, 0, 0]);
    model.cost(&usage, Amount(0)).unwrap()
}

/// What all accounts have spent, as the chain proves it.
async fn spent(gateway: &Gateway, driver: &Driver) -> u64 {
    let mut wire = Wire::connect(gateway.http).await.unwrap();
    let mut sum = 0;
    for i in 0..driver.accounts.len() {
        let request = get(&driver.bearer(i), "/v1/tally/balance");
        let answer = wire.ask(&request).await.unwrap();
        assert_eq!(answer.status, 200, "the balance is told");
        let balance: Value = serde_json::from_slice(wire.body()).unwrap();
        let classes = balance["classes"].as_array().unwrap();
        let of = |class: &Value| class["spent"]["micro_ct"].as_u64().unwrap();
        sum += classes.iter().map(of).sum::<u64>();
    }
    sum
}
