//! What clients see of the proxy besides answers.

use crate::support::{Setup, chain, chat, get, send, send_as};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn refusals_look_like_openais() {
    let mut setup = Setup::new(1_000_000).await;
    setup.config.limits.body_bytes = 4_096;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let good = chat(5, json!({}));
    for (key, code) in [
        ("", "invalid_api_key"),
        ("sk-123", "invalid_api_key"),
        (&chain::api_key_text(55), "invalid_api_key"),
    ] {
        let answer = send_as(to, &good, key).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (401, code)
        );
    }
    let mut other = good.clone();
    other["model"] = "gpt-0".into();
    let answer = send(to, &other).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (404, "model_not_found")
    );
    let mut bad = good.clone();
    bad["max_tokens"] = "many".into();
    let answer = send(to, &bad).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.json()["error"]["param"].as_str()
        ),
        (400, Some("max_tokens"))
    );
    let mut large = good.clone();
    large["user"] = "x".repeat(5_000).into();
    let answer = send(to, &large).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (413, "request_too_large")
    );
    for path in [
        "/v1/responses/resp_1",
        "/v1/files",
        "/",
        "/v1/chat/completions/x",
    ] {
        let answer = get(to, path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (404, "unknown_url"),
            "{path}"
        );
    }
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
    ] {
        assert_eq!(get(to, path).await.status, 405, "{path}");
    }
    assert_eq!(
        setup
            .engine
            .requests
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_health_and_metrics() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let models = get(gateway.http, "/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "m");
    send(gateway.http, &chat(5, json!({}))).await;
    let health = get(gateway.http, "/healthz").await;
    assert_eq!(
        (health.status.as_u16(), health.json()["status"].as_str()),
        (200, Some("ok"))
    );
    let metrics = get(gateway.http, "/metrics").await.body;
    assert!(
        metrics.contains("tally_gateway_debits_total 1"),
        "{metrics}"
    );
    assert!(metrics.contains("tally_gateway_endings_total{ending=\"reported\"} 1"));
    assert!(!metrics.contains("account="));
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_gets_what_the_client_sent_and_never_its_key() {
    let mut setup = Setup::new(1_000_000).await;
    std::fs::write(setup.home.path().join("bearer"), "engine-secret\n").unwrap();
    setup.config.upstreams[0].bearer = Some("bearer".into());
    setup.config.upstreams[0].request_id = true;
    let gateway = setup.gateway().await;
    let mut body = chat(5, json!({"tokens": 1}));
    body["new_field"] = json!({"deep": [1.5, null]});
    send(gateway.http, &body).await;
    let (headers, seen) = setup.engine.last();
    assert_eq!(headers["authorization"], "Bearer engine-secret");
    assert_eq!(headers["accept-encoding"], "identity");
    assert_eq!(seen["new_field"], body["new_field"]);
    assert_eq!(seen["request_id"], "0-1-1");
    assert_eq!(seen["max_tokens"], 5);
    gateway.stop().await.unwrap();
}
