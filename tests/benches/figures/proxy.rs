//! What the gateway adds to a request, at concurrency 1: the engine asked
//! directly and through the gateway, in turn. To the last byte, a p50 of
//! 0.3 ms at most, plus the fdatasync p50 of the same run, is wanted.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;

use crate::{
    Options,
    driver::Driver,
    figure::{percentile_of, print, summary},
    gateway::Gateway,
    machine::Probe,
};

type Http = Client<HttpConnector, Full<Bytes>>;

/// Added time of JSON answers and of streams.
pub(crate) async fn proxy(gateway: &Gateway, driver: &Driver, options: &Options) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let http: Http = Client::builder(TokioExecutor::new()).build(connector);
    let bearer = driver.bearer(0);
    for stream in [false, true] {
        let probe = Probe::start(&gateway.folder);
        let (mut last, mut first) = (Vec::new(), Vec::new());
        for run in 0..=options.runs {
            let (added_first, added_last) =
                added(&http, gateway, &bearer, stream, options.seconds).await;
            if run > 0 {
                first.push(added_first);
                last.push(added_last);
            }
        }
        let load = json!({"concurrency": 1, "stream": stream, "max_tokens": 20, "think_ms": 0});
        print(
            "proxy_added_first_byte_p50",
            "ms",
            load.clone(),
            summary(&first),
            &probe,
        );
        print(
            "proxy_added_last_byte_p50",
            "ms",
            load,
            summary(&last),
            &probe,
        );
    }
}

/// Median added time to the first and to the last byte, in ms.
async fn added(
    http: &Http,
    gateway: &Gateway,
    bearer: &str,
    stream: bool,
    time: Duration,
) -> (f64, f64) {
    let (mut direct, mut through) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let started = Instant::now();
    while started.elapsed() < time {
        for (address, times) in [(gateway.engine, &mut direct), (gateway.http, &mut through)] {
            let (first, last) = request(http, address, bearer, stream).await;
            times.0.push(first);
            times.1.push(last);
        }
    }
    let p50 = |times: &mut Vec<f64>| percentile_of(times, 0.5);
    (
        p50(&mut through.0) - p50(&mut direct.0),
        p50(&mut through.1) - p50(&mut direct.1),
    )
}

/// Time to the first and to the last byte of one answer, in ms.
async fn request(http: &Http, address: SocketAddr, bearer: &str, stream: bool) -> (f64, f64) {
    let body = json!({
        "model": "tally-base",
        "messages": [{"role": "user", "content": "How long is a piece of string?"}],
        "max_tokens": 20,
        "stream": stream,
    });
    let request = Request::post(format!("http://{address}/v1/chat/completions"))
        .header("content-type", "application/json")
        .header("authorization", bearer)
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let started = Instant::now();
    let answer = http.request(request).await.unwrap();
    let status = answer.status();
    let mut body = answer.into_body();
    let mut first = None;
    while let Some(frame) = body.frame().await {
        frame.unwrap();
        first.get_or_insert_with(|| started.elapsed());
    }
    let last = started.elapsed();
    assert!(status.is_success(), "{status} from {address}");
    (
        first.unwrap_or(last).as_secs_f64() * 1e3,
        last.as_secs_f64() * 1e3,
    )
}
