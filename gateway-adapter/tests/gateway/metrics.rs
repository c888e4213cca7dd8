//! What the page of metrics tells of a request, and what it never tells.

use std::time::Duration;

use crate::support::{Setup, chain, chat, get, metric, send};
use serde_json::json;

const PLENTY: u64 = 1_000_000;

/// The value of the line that begins so.
fn value(page: &str, line: &str) -> f64 {
    let found = page.lines().find_map(|known| known.strip_prefix(line));
    let found = found.unwrap_or_else(|| panic!("no {line} in\n{page}"));
    found.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_moves_them_under_opentelemetrys_names() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.upstreams[0].provider = "openai".into();
    let gateway = setup.gateway().await;
    let to = gateway.http;
    // 300 ms of the engine's are not the gateway's.
    let slow = chat(20, json!({"tokens": 7, "ms": 300}));
    assert_eq!(send(to, &slow).await.status, 200);
    let mut stream = chat(20, json!({"tokens": 5}));
    stream["stream"] = true.into();
    assert_eq!(send(to, &stream).await.status, 200);
    assert_eq!(send(to, &chat(5, json!({"status": 400}))).await.status, 400);
    let labels =
        "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai\",gen_ai_request_model=\"m\"";
    let page = get(to, "/metrics").await.body;
    let usage = |kind: &str, what: &str| {
        let line =
            format!("gen_ai_client_token_usage_{what}{{{labels},gen_ai_token_type=\"{kind}\"}}");
        value(&page, &line)
    };
    assert_eq!(
        (usage("input", "count"), usage("input", "sum")),
        (2.0, 20.0)
    );
    assert_eq!(
        (usage("output", "count"), usage("output", "sum")),
        (2.0, 12.0)
    );
    let duration = |error: &str| {
        let name = "gen_ai_server_request_duration_seconds_count";
        value(&page, &format!("{name}{{{labels},error_type=\"{error}\"}}"))
    };
    assert_eq!((duration(""), duration("4xx")), (2.0, 1.0));
    let first = "gen_ai_server_time_to_first_token_seconds_count";
    assert_eq!(value(&page, &format!("{first}{{{labels}}}")), 1.0);
    for name in ["first_byte", "added_first_byte", "added_last_byte"] {
        let count = format!("tally_gateway_{name}_seconds_count");
        assert_eq!(value(&page, &count), 2.0, "{name}");
    }
    let sum = |name: &str| value(&page, &format!("tally_gateway_{name}_seconds_sum"));
    let all = sum("first_byte");
    assert!(all >= 0.3);
    // The first request has waited for its lease: that is the gateway's.
    assert!(sum("added_first_byte") <= all - 0.299);
    assert!(sum("added_last_byte") >= sum("added_first_byte"));
    assert!(value(&page, "tally_gateway_journal_fsync_seconds_count") >= 2.0);
    // Nothing has ended in the engine's first bucket of the conventions that
    // is below it, and each bucket is there.
    assert!(page.contains("gen_ai_server_request_duration_seconds_bucket{le=\"0.01\""));
    assert!(page.contains("le=\"81.92\""));
    assert!(page.contains("gen_ai_client_token_usage_bucket{le=\"67108864.0\""));
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_label_holds_an_account_a_key_or_a_hold() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let mut odd = chat(5, json!({}));
    odd["model"] = "odd-model".into();
    assert_eq!(send(to, &odd).await.status, 404);
    let answer = send(to, &chat(5, json!({}))).await;
    let receipt = answer.header("x-tally-receipt").to_owned();
    let page = get(to, "/metrics").await.body;
    let known = [
        "code",
        "ending",
        "upstream",
        "result",
        "le",
        "gen_ai_operation_name",
        "gen_ai_provider_name",
        "gen_ai_request_model",
        "gen_ai_token_type",
        "error_type",
    ];
    let key = chain::api_key_text(0);
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.rsplit_once(' ').unwrap();
        let labels = name.split_once('{').map_or("", |(_, labels)| labels);
        for label in labels
            .trim_end_matches('}')
            .split("\",")
            .filter(|l| !l.is_empty())
        {
            let (label, value) = label.split_once('=').unwrap();
            assert!(known.contains(&label), "{line}");
            assert!(!value.contains(&receipt) && !value.contains(&key), "{line}");
        }
    }
    // What clients name and nobody has configured makes no series.
    assert!(!page.contains("odd-model"));
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journals_lag_is_told_while_the_chain_is_silent() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    assert_eq!(send(to, &chat(5, json!({}))).await.status, 200);
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while get(to, "/healthz").await.json()["unproven_debits"] != 0 {
        assert!(tokio::time::Instant::now() < deadline, "it is never proven");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    setup.chain.set_down(true);
    assert_eq!(send(to, &chat(5, json!({}))).await.status, 200);
    while metric(to, "tally_gateway_unproven_age_seconds").await < 1 {
        assert!(tokio::time::Instant::now() < deadline, "it never grows");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(metric(to, "tally_gateway_unproven_debits").await, 1);
    assert_eq!(metric(to, "tally_gateway_open_leases").await, 1);
    setup.chain.set_down(false);
    while metric(to, "tally_gateway_unproven_age_seconds").await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "it never ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(metric(to, "tally_gateway_unproven_debits").await, 0);
    gateway.stop().await.unwrap();
    setup.chain.check();
}
