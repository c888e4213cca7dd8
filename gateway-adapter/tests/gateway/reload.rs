//! `gateway.toml` read again while requests run: taken whole, or not at all.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    listener::{certify, trusting},
    support::{Answer, Engine, Running, Setup, call, chain, chat, metric, queued, send, until},
};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tally_gateway_adapter::config::{FreeRoute, Rate};
use tokio::task::JoinHandle;

const PLENTY: u64 = 1_000_000;
const APPLIED: &str = "tally_gateway_config_reloads_total{result=\"applied\"}";
const REFUSED: &str = "tally_gateway_config_reloads_total{result=\"refused\"}";

fn spawn(gateway: &Running, test: Value) -> JoinHandle<Answer> {
    let to = gateway.http;
    tokio::spawn(async move { send(to, &chat(5, test)).await })
}

async fn asked(engine: &Arc<Engine>, count: usize) {
    until("the engine is asked", || engine.asked() == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_exchanged_while_requests_run_and_wait() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.upstreams[0].concurrency = Some(1);
    let gateway = setup.gateway().await;
    let running = spawn(&gateway, json!({"hold": 0}));
    asked(&setup.engine, 1).await;
    let waits: Vec<_> = (0..3)
        .map(|_| spawn(&gateway, json!({"tokens": 1})))
        .collect();
    queued(gateway.http, 3).await;
    let other = Engine::start().await;
    setup.config.upstreams[0].url = format!("http://{}", other.address);
    setup.write();
    gateway.reloader.reload().unwrap();
    // Who waits is served by the new one, who runs ends where it runs.
    for request in waits {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!((setup.engine.asked(), other.asked()), (1, 3));
    setup.engine.release(1);
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    assert_eq!((setup.engine.asked(), other.asked()), (1, 4));
    assert_eq!(metric(gateway.http, APPLIED).await, 1);
    let page = call(gateway.http, "GET", "/metrics", "", String::new()).await;
    assert!(!page.body.contains(&setup.engine.address.to_string()));
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 5);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_stays_keeps_its_queue_and_what_runs_there() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.upstreams[0].concurrency = Some(1);
    let gateway = setup.gateway().await;
    let first = spawn(&gateway, json!({"hold": 0}));
    asked(&setup.engine, 1).await;
    let second = spawn(&gateway, json!({"hold": 0}));
    queued(gateway.http, 1).await;
    // Nothing about it changes: it still has one place, and that is taken.
    setup.config.limits.request_seconds += 1;
    setup.write();
    gateway.reloader.reload().unwrap();
    queued(gateway.http, 1).await;
    assert_eq!(setup.engine.asked(), 1);
    // One place more: who runs there keeps the other.
    setup.config.upstreams[0].concurrency = Some(2);
    setup.write();
    gateway.reloader.reload().unwrap();
    asked(&setup.engine, 2).await;
    let third = spawn(&gateway, json!({"tokens": 1}));
    queued(gateway.http, 1).await;
    setup.engine.release(2);
    for request in [first, second, third] {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!(setup.engine.most_running.load(Ordering::SeqCst), 2);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 3);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_engines_is_refused_and_costs_nobody_anything() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.upstreams[0].concurrency = Some(1);
    let gateway = setup.gateway().await;
    let first = spawn(&gateway, json!({"hold": 0}));
    asked(&setup.engine, 1).await;
    let second = spawn(&gateway, json!({}));
    queued(gateway.http, 1).await;
    let upstreams = std::mem::take(&mut setup.config.upstreams);
    setup.write();
    gateway.reloader.reload().unwrap();
    assert_eq!(second.await.unwrap().code(), "upstream_down");
    let answer = send(gateway.http, &chat(5, json!({}))).await;
    assert_eq!(answer.code(), "model_not_found");
    setup.engine.release(1);
    assert_eq!(first.await.unwrap().status, 200);
    // It comes back under the same name.
    setup.config.upstreams = upstreams;
    setup.write();
    gateway.reloader.reload().unwrap();
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 2);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_work_changes_nothing() {
    let setup = Setup::new(PLENTY).await;
    setup.write();
    let gateway = setup.gateway().await;
    let good = setup.config.clone();
    let file = setup.home.path().join("gateway.toml");
    let mut refused = 0;
    let mut check = async |text: String, named: &str| {
        std::fs::write(&file, text).unwrap();
        let error = gateway.reloader.reload().unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
        refused += 1;
        assert_eq!(metric(gateway.http, REFUSED).await, refused);
        assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    };
    check("surprise = 1".into(), "gateway.toml").await;
    let mut config = good.clone();
    config.upstreams[0].url = "nowhere".into();
    check(config.to_toml(), "upstream.url").await;
    // All of it is refused, with what could have been taken.
    let mut config = good.clone();
    config.upstreams.clear();
    config.listen.http = "127.0.0.1:1".parse().unwrap();
    config.journal = "other".into();
    check(config.to_toml(), "journal, listen.http").await;
    let mut config = good.clone();
    config.upstreams[0].bearer = Some("missing.key".into());
    check(config.to_toml(), "missing.key").await;
    std::fs::remove_file(&file).unwrap();
    assert!(gateway.reloader.reload().is_err());
    assert_eq!(metric(gateway.http, APPLIED).await, 0);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_limits_and_a_new_bearer_are_taken() {
    let mut setup = Setup::new(PLENTY).await;
    setup.chain.issue(0, chain::SPARE, PLENTY);
    let bearer = setup.home.path().join("engine.key");
    std::fs::write(&bearer, "first").unwrap();
    setup.config.upstreams[0].bearer = Some("engine.key".into());
    setup.config.rates.key = Rate {
        requests: Some(3),
        tokens: None,
    };
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let models = || call(to, "GET", "/v1/models", "", String::new());
    assert_eq!(models().await.status, 401);
    assert_eq!(send(to, &chat(5, json!({}))).await.status, 200);
    assert_eq!(setup.engine.last().0["authorization"], "Bearer first");
    std::fs::write(&bearer, "second").unwrap();
    setup.config.routes.free = vec![FreeRoute::Balance];
    // What was used stays used: one is left.
    setup.config.rates.key.requests = Some(2);
    setup.config.upstreams[0].concurrency = Some(4);
    setup.config.priority.service_tier_fee = Some(tally_ledger::ids::Amount(2_000));
    setup.write();
    gateway.reloader.reload().unwrap();
    assert_eq!(models().await.status, 404);
    let mut body = chat(5, json!({"tokens": 1}));
    body["service_tier"] = "priority".into();
    assert_eq!(send(to, &body).await.status, 200);
    assert_eq!(setup.engine.last().0["authorization"], "Bearer second");
    let answer = send(to, &body).await;
    assert_eq!(answer.header("x-ratelimit-limit-requests"), "2");
    assert_eq!(answer.code(), "rate_limit_exceeded");
    gateway.stop().await.unwrap();
    let fees: Vec<_> = setup.chain.debits().iter().map(|d| d.fixed.fee.0).collect();
    assert_eq!(fees, [0, 2_000]);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_to_new_connections() {
    let mut setup = Setup::new(PLENTY).await;
    let old = certify(&mut setup);
    let gateway = setup.gateway().await;
    setup.write();
    let url = format!("https://localhost:{}/healthz", gateway.http.port());
    let client = |certificate| {
        let tls = HttpsConnectorBuilder::new().with_tls_config(trusting(certificate));
        let connector = tls.https_only().enable_http1().build();
        Client::builder(TokioExecutor::new()).build::<_, Full<bytes::Bytes>>(connector)
    };
    let before = client(old.clone());
    let health = || url.parse().unwrap();
    assert_eq!(before.get(health()).await.unwrap().status(), 200);
    let new = certify(&mut setup);
    // A half-written key is not taken.
    let key = setup.home.path().join("tls.key");
    let whole = std::fs::read(&key).unwrap();
    std::fs::write(&key, &whole[..whole.len() / 2]).unwrap();
    assert!(gateway.reloader.reload().is_err());
    assert_eq!(
        client(old.clone()).get(health()).await.unwrap().status(),
        200
    );
    std::fs::write(&key, &whole).unwrap();
    gateway.reloader.reload().unwrap();
    assert_eq!(client(new).get(health()).await.unwrap().status(), 200);
    assert!(client(old).get(health()).await.is_err());
    // Who is connected stays so.
    assert_eq!(before.get(health()).await.unwrap().status(), 200);
    gateway.stop().await.unwrap();
}
