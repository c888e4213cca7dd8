//! What one client can take of a gateway that others need too: memory for
//! bodies, places at an engine, the engine's health, the engine's time.

use std::time::{Duration, Instant};

use crate::support::{
    Setup, chain, chat, metric, post, queued, read, request, send, send_as, until,
};
use http::Request;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tally_gateway_adapter::config::Tokenize;
use tally_ledger::debit::Flags;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

const PLENTY: u64 = 1_000_000;
const BODIES: &str = "tally_gateway_bodies_bytes";

type Frames = mpsc::Sender<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>;

/// A chat request whose body is sent piece by piece.
fn dribbling(
    to: std::net::SocketAddr,
) -> (Frames, Request<UnsyncBoxBody<bytes::Bytes, std::io::Error>>) {
    let (frames, body) = mpsc::channel(1);
    let body = StreamBody::new(ReceiverStream::new(body)).boxed_unsync();
    let request = request(to, &json!({}), &chain::api_key_text(0));
    (frames, request.map(|_| body))
}

fn piece(text: String) -> Result<http_body::Frame<bytes::Bytes>, std::io::Error> {
    Ok(http_body::Frame::data(text.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_in_time_is_refused_and_forgotten() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.limits.body_seconds = 1;
    let gateway = setup.gateway().await;
    let (frames, request) = dribbling(gateway.http);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = tokio::spawn(async move { read(client.request(request).await.unwrap()).await });
    let began = Instant::now();
    while frames.send(piece(" ".into())).await.is_ok() {
        assert!(began.elapsed() < crate::support::DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = answer.await.unwrap();
    let said = (answer.status.as_u16(), answer.code());
    assert_eq!(said, (408, "request_timeout".to_owned()));
    assert_eq!(metric(gateway.http, BODIES).await, 0);
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.asked(), 1);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bodies_together_are_bounded() {
    let mut setup = Setup::new(100 * PLENTY).await;
    setup.config.limits.body_bytes = 8_192;
    setup.config.limits.bodies_bytes = 8_192;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    // One that is not whole yet takes nearly all.
    let (frames, request) = dribbling(to);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let slow = tokio::spawn(async move { read(client.request(request).await.unwrap()).await });
    frames.send(piece(" ".repeat(8_000))).await.unwrap();
    let deadline = Instant::now() + crate::support::DEADLINE;
    while metric(to, BODIES).await != 8_000 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut large = chat(5, json!({"tokens": 1}));
    large["user"] = "x".repeat(300).into();
    let answer = send(to, &large).await;
    let said = (answer.status.as_u16(), answer.code());
    assert_eq!(said, (503, "gateway_overloaded".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");
    // What is refused takes nothing.
    assert_eq!(metric(to, BODIES).await, 8_000);
    let small = chat(5, json!({"tokens": 1}));
    assert_eq!(send(to, &small).await.status, 200);
    // The first one is served as if nothing had been, and gives its room back
    // when the engine answers.
    frames.send(piece(small.to_string())).await.unwrap();
    drop(frames);
    assert_eq!(slow.await.unwrap().status, 200);
    assert_eq!(metric(to, BODIES).await, 0);
    assert_eq!(send(to, &large).await.status, 200);
    // Nor does a quote keep any.
    assert_eq!(post(to, "/v1/tally/quote", &large).await.status, 200);
    assert_eq!(metric(to, BODIES).await, 0);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

/// A client that asks, and leaves in the socket what it is answered.
async fn ask_and_read_nothing(to: std::net::SocketAddr, body: &Value) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\n{body}",
        chain::api_key_text(0),
        body.len(),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// A small request is, in time.
async fn is_served(to: std::net::SocketAddr) {
    let small = chat(5, json!({"tokens": 1}));
    let answer = tokio::time::timeout(crate::support::DEADLINE, send(to, &small));
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_loses_its_place_and_pays_what_was_made() {
    let mut setup = Setup::new(100 * PLENTY).await;
    setup.config.limits.stall_seconds = 1;
    setup.config.upstreams[0].concurrency = Some(1);
    setup.config.upstreams[0].max_output = 1_000_000;
    let gateway = setup.gateway().await;
    let mut body = chat(1_000_000, json!({}));
    body["stream"] = true.into();
    let mut stream = ask_and_read_nothing(gateway.http, &body).await;
    // Another one waits for the place, and gets it.
    until("the engine is asked", || setup.engine.asked() == 1).await;
    let next = send(gateway.http, &chat(5, json!({"tokens": 1}))).await;
    assert_eq!(next.status, 200, "{}", next.body);
    assert_eq!(
        metric(gateway.http, "tally_gateway_stalled_streams_total").await,
        1
    );
    // When it reads after all, it is told that this is not the end.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(crate::support::DEADLINE, stream.read_to_end(&mut rest));
    // A reset is told as well.
    let _ = ended.await.unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.starts_with("HTTP/1.1 200"));
    assert!(!rest.contains("[DONE]") && !rest.ends_with("\r\n0\r\n\r\n"));
    gateway.stop().await.unwrap();
    let debits = setup.chain.debits();
    let stalled = debits
        .iter()
        .find(|debit| debit.detail.usage.0[2] > 1)
        .unwrap();
    assert!(stalled.fixed.flags.has(Flags::COUNTED));
    assert!(stalled.detail.usage.0[2] < 1_000_000);
    assert_eq!(debits.len(), 2);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_loses_its_connection() {
    let mut setup = Setup::new(100 * PLENTY).await;
    setup.config.limits.stall_seconds = 1;
    setup.config.limits.connections = 1;
    setup.config.upstreams[0].max_output = 1_000_000;
    let gateway = setup.gateway().await;
    let body = chat(1_000_000, json!({}));
    let mut stream = ask_and_read_nothing(gateway.http, &body).await;
    until("it is charged", || setup.chain.receipts().len() == 1).await;
    // There is one connection: the next one has it when the first one's is
    // taken.
    is_served(gateway.http).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.starts_with(b"HTTP/1.1 200"));
    // A million words of four letters, and spaces.
    assert!(rest.len() < 5_000_000, "{}", rest.len());
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_no_window_loses_its_connection() {
    let mut setup = Setup::new(100 * PLENTY).await;
    setup.config.limits.stall_seconds = 1;
    setup.config.limits.connections = 1;
    setup.config.upstreams[0].max_output = 1_000_000;
    let gateway = setup.gateway().await;
    for (i, stream) in [false, true].into_iter().enumerate() {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .http2_initial_stream_window_size(0)
            .build_http();
        let mut body = chat(1_000_000, json!({}));
        body["stream"] = stream.into();
        let asked = request(gateway.http, &body, &chain::api_key_text(0));
        let answer = client.request(asked).await.unwrap();
        assert_eq!(answer.status(), 200);
        // HTTP/2 acknowledges whatever is asked; only its window is shut.
        is_served(gateway.http).await;
        until("both are charged", || {
            setup.chain.receipts().len() == 2 * (i + 1)
        })
        .await;
        assert!(answer.into_body().collect().await.is_err());
    }
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_one_account_do_not_take_an_engine_from_others() {
    let setup = Setup::new(PLENTY).await;
    let other = setup.another(PLENTY);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    assert_eq!(send_as(to, &chat(5, json!({})), &other).await.status, 200);
    let fails = chat(5, json!({"status": 500}));
    for _ in 0..6 {
        assert_eq!(send(to, &fails).await.code(), "engine_says_no");
    }
    assert_eq!(metric(to, "tally_gateway_upstream_up").await, 1);
    assert_eq!(send_as(to, &chat(5, json!({})), &other).await.status, 200);
    // Failures of both are the engine's.
    for _ in 0..3 {
        send(to, &fails).await;
        send_as(to, &fails, &other).await;
    }
    assert_eq!(metric(to, "tally_gateway_upstream_up").await, 0);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_account_does_not_fill_a_queue() {
    let mut setup = Setup::new(PLENTY).await;
    let other = setup.another(PLENTY);
    setup.config.upstreams[0].concurrency = Some(1);
    setup.config.upstreams[0].queue = 8;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let first = tokio::spawn(async move { send(to, &chat(5, json!({"hold": 0}))).await });
    until("the engine is asked", || setup.engine.asked() == 1).await;
    let body = chat(5, json!({"tokens": 1}));
    let mut waiting = Vec::new();
    for i in 1..=4 {
        let body = body.clone();
        waiting.push(tokio::spawn(async move { send(to, &body).await }));
        queued(to, i).await;
    }
    let answer = send(to, &body).await;
    let said = (answer.status.as_u16(), answer.code());
    assert_eq!(said, (429, "queue_full".to_owned()));
    // Another one still finds room.
    let theirs = body.clone();
    waiting.push(tokio::spawn(
        async move { send_as(to, &theirs, &other).await },
    ));
    queued(to, 5).await;
    setup.engine.release(1);
    assert_eq!(first.await.unwrap().status, 200);
    for request in waiting {
        assert_eq!(request.await.unwrap().status, 200);
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 6);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_nothing_has_nothing_counted() {
    let mut setup = Setup::new(0).await;
    setup.config.upstreams[0].tokenize = Tokenize::Vllm;
    let gateway = setup.gateway().await;
    let body = chat(5, json!({"tokens": 1}));
    for _ in 0..3 {
        let answer = send(gateway.http, &body).await;
        let said = (answer.status.as_u16(), answer.code());
        assert_eq!(said, (429, "insufficient_quota".to_owned()));
    }
    assert_eq!(
        post(gateway.http, "/v1/tally/quote", &body).await.status,
        200
    );
    let counted = || {
        let engine = &setup.engine;
        engine.tokenized.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!(counted(), 0);
    // With a little it is: that may be enough for what the prompt really has.
    setup.chain.issue(0, chain::MAIN, 10 + 20);
    // The grant is seen once the account is proven again.
    let deadline = Instant::now() + crate::support::DEADLINE;
    while send(gateway.http, &body).await.status != 200 {
        assert!(Instant::now() < deadline, "it is never served");
    }
    assert!(counted() > 0);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_a_provider_and_its_customer_stays_there() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let mut asked = request(gateway.http, &chat(5, json!({})), &chain::api_key_text(0));
    for name in [
        "cookie",
        "openai-organization",
        "x-ratelimit-limit-requests",
    ] {
        asked.headers_mut().insert(name, "theirs".parse().unwrap());
    }
    let answer = read(crate::support::client().request(asked).await.unwrap()).await;
    assert_eq!(answer.header("x-engine"), "1");
    for name in [
        "set-cookie",
        "openai-organization",
        "x-ratelimit-limit-tokens",
    ] {
        assert_eq!(answer.header(name), "", "{name}");
    }
    let (headers, _) = setup.engine.last();
    for name in [
        "cookie",
        "openai-organization",
        "x-ratelimit-limit-requests",
    ] {
        assert_eq!(headers.get(name), None, "{name}");
    }
    gateway.stop().await.unwrap();
    setup.chain.check();
}
