//! Several engines for a model: which one is chosen, what happens when one
//! fails, and that a request is paid for once.

use std::sync::{Arc, atomic::Ordering};

use crate::support::{Engine, Setup, chat, metric, nowhere, send};
use serde_json::json;

const PLENTY: u64 = 1_000_000;

/// A second engine for the same model.
async fn two() -> (Setup, Arc<Engine>) {
    let mut setup = Setup::new(PLENTY).await;
    let other = Engine::start().await;
    let mut upstream = setup.config.upstreams[0].clone();
    upstream.url = format!("http://{}", other.address);
    setup.config.upstreams.push(upstream);
    (setup, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_engine_with_the_fewest() {
    let (setup, other) = two().await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let mut running = Vec::new();
    for i in 1..=6 {
        let body = chat(5, json!({"hold": 0}));
        running.push(tokio::spawn(async move { send(to, &body).await }));
        crate::support::until("an engine is asked", || {
            setup.engine.asked() + other.asked() == i
        })
        .await;
    }
    assert_eq!((setup.engine.asked(), other.asked()), (3, 3));
    // The first one gets free: it is the next one's.
    setup.engine.release(3);
    crate::support::until("they end", || {
        setup.engine.running.load(Ordering::SeqCst) == 0
    })
    .await;
    crate::support::until("the gateway knows", || {
        running.iter().filter(|r| r.is_finished()).count() == 3
    })
    .await;
    for _ in 0..3 {
        send(to, &chat(5, json!({}))).await;
    }
    assert_eq!((setup.engine.asked(), other.asked()), (6, 3));
    other.release(3);
    for request in running {
        assert_eq!(request.await.unwrap().status, 200);
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 9);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_gone_costs_nobody_anything_and_comes_back() {
    let (mut setup, other) = two().await;
    let (socket, address) = nowhere();
    setup.config.upstreams[0].url = format!("http://{address}");
    let gateway = setup.gateway().await;
    for _ in 0..4 {
        let answer = send(gateway.http, &chat(5, json!({"tokens": 1}))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    assert_eq!(other.asked(), 4);
    // Not each of them has tried the one that is gone.
    let retries = metric(gateway.http, "tally_gateway_upstream_retries_total").await;
    assert!((1..=3).contains(&retries), "{retries}");
    let engine = Engine::start_on(socket.listen(1_024).unwrap());
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while engine.asked() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "it never came back");
        assert_eq!(
            send(gateway.http, &chat(5, json!({"tokens": 1})))
                .await
                .status,
            200
        );
    }
    gateway.stop().await.unwrap();
    let receipts = setup.chain.receipts();
    assert_eq!(receipts.len(), engine.asked() + other.asked());
    assert!(receipts.iter().all(|receipt| receipt.charged.0 == 14));
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_where_nothing_was_generated_another_engine_is_asked() {
    for (status, retried) in [
        (502, true),
        (503, true),
        (504, false),
        (500, false),
        (429, false),
    ] {
        let (setup, other) = two().await;
        setup.engine.status.store(status, Ordering::Relaxed);
        let gateway = setup.gateway().await;
        let mut statuses = Vec::new();
        for stream in [true, false] {
            let mut body = chat(5, json!({"tokens": 1}));
            body["stream"] = stream.into();
            statuses.push(send(gateway.http, &body).await.status.as_u16());
        }
        gateway.stop().await.unwrap();
        // On a slow machine its pause may be over.
        let most = if retried { 2 } else { 1 };
        assert!((1..=most).contains(&setup.engine.asked()), "{status}");
        let served = if retried { 2 } else { 1 };
        assert_eq!(other.asked(), served, "{status}");
        assert_eq!(statuses.iter().filter(|s| **s == 200).count(), served);
        assert_eq!(statuses.contains(&status), !retried);
        assert_eq!(setup.chain.receipts().len(), served);
        setup.chain.check();
    }
    // Broken off after its first byte.
    let (setup, other) = two().await;
    let gateway = setup.gateway().await;
    let mut body = chat(5, json!({"break": 2}));
    body["stream"] = true.into();
    let answer = send(gateway.http, &body).await;
    assert!(answer.body.contains("upstream_error"), "{}", answer.body);
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.asked() + other.asked(), 1);
    assert_eq!(setup.chain.receipts().len(), 1);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_an_engine_that_fails_is_served_by_another() {
    let (mut setup, other) = two().await;
    for upstream in &mut setup.config.upstreams {
        upstream.concurrency = Some(1);
    }
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let mut running = Vec::new();
    for i in 0..6 {
        let test = if i < 2 {
            json!({"hold": 0})
        } else {
            json!({"tokens": 1})
        };
        running.push(tokio::spawn(async move { send(to, &chat(5, test)).await }));
        if i < 2 {
            crate::support::until("an engine is asked", || {
                setup.engine.asked() + other.asked() == i + 1
            })
            .await;
        }
    }
    // Two before each of them.
    queued_in_all(to, 4).await;
    setup.engine.status.store(503, Ordering::Relaxed);
    setup.engine.release(1);
    crate::support::until("one has failed", || setup.engine.asked() == 2).await;
    queued_in_all(to, 4).await;
    other.release(1);
    for request in running {
        let answer = request.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 6);
    setup.chain.check();
}

/// Waits until that many requests wait before all engines.
async fn queued_in_all(to: std::net::SocketAddr, count: i64) {
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let page = crate::support::get(to, "/metrics").await.body;
        let lines = page.lines();
        let each = lines.filter_map(|line| line.strip_prefix("tally_gateway_queued_requests{"));
        let sum: i64 = each
            .map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap())
            .sum();
        if sum == count {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {count} wait");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_engine_is_left_a_request_is_refused_before_anything_is_reserved() {
    let mut setup = Setup::new(PLENTY).await;
    let (socket, address) = nowhere();
    setup.config.upstreams[0].url = format!("http://{address}");
    setup.config.upstreams[0].concurrency = Some(4);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let answer = send(to, &chat(5, json!({}))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (502, "upstream_error".into())
    );
    // The next one waits for the pause's end, and finds out. So does who comes
    // after the pause on a slow machine; each makes the next pause longer.
    let (mut found_out, mut voids) = (0, 0);
    let answer = loop {
        let answer = send(to, &chat(5, json!({}))).await;
        if answer.status != 502 {
            break answer;
        }
        assert_eq!(answer.code(), "upstream_error");
        found_out += 1;
        voids = metric(to, "tally_gateway_voids_total").await;
    };
    assert!((1..=3).contains(&found_out), "{found_out}");
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (503, "upstream_down".into())
    );
    let after: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&after), "{after}");
    assert_eq!(answer.header("x-tally-receipt"), "");
    assert_eq!(metric(to, "tally_gateway_voids_total").await, voids);
    assert_eq!(metric(to, "tally_gateway_upstream_up").await, 0);
    let _engine = Engine::start_on(socket.listen(1_024).unwrap());
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while send(to, &chat(5, json!({}))).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "it never came back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(metric(to, "tally_gateway_upstream_up").await, 1);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 1);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_says_it_is_not_well_gets_no_requests() {
    let (mut setup, other) = two().await;
    for upstream in &mut setup.config.upstreams {
        upstream.health = Some("/health".into());
    }
    setup.engine.sick.store(true, Ordering::Relaxed);
    let gateway = setup.gateway().await;
    let label = format!(
        "tally_gateway_upstream_up{{upstream=\"{}\"}}",
        setup.engine.address
    );
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while metric(gateway.http, &label).await != 0 {
        assert!(tokio::time::Instant::now() < deadline, "never down");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for _ in 0..4 {
        assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    }
    // Nor one to find out, when the pause after a failure is over.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    for _ in 0..2 {
        assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    }
    assert_eq!((setup.engine.asked(), other.asked()), (0, 6));
    setup.engine.sick.store(false, Ordering::Relaxed);
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while setup.engine.asked() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "it never came back");
        assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    }
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_has_its_own_bearer_and_names() {
    let (mut setup, provider) = two().await;
    std::fs::write(setup.home.path().join("provider.key"), "their-secret\n").unwrap();
    let upstream = &mut setup.config.upstreams[1];
    upstream.bearer = Some("provider.key".into());
    upstream.model_names = [("m".to_owned(), "provider-\"m\"".to_owned())].into();
    setup.engine.status.store(503, Ordering::Relaxed);
    let gateway = setup.gateway().await;
    for _ in 0..2 {
        assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    }
    gateway.stop().await.unwrap();
    let (headers, body) = provider.last();
    assert_eq!(headers["authorization"], "Bearer their-secret");
    assert_eq!(body["model"], "provider-\"m\"");
    // The engine of the house got the client's own words before.
    let (headers, body) = setup.engine.last();
    assert_eq!(headers.get("authorization"), None);
    assert_eq!(body["model"], "m");
    setup.chain.check();
}
