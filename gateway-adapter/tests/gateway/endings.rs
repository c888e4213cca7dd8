//! Every ending is charged right: one test for each row of the table in the
//! README.

use crate::support::{Setup, chat, send};
use serde_json::json;
use tally_ledger::debit::Flags;

const PLENTY: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_normal_answer_is_charged_what_the_engine_reports() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let body = chat(20, json!({"tokens": 7, "cached": 4, "reasoning": 2}));
    let answer = send(gateway.http, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 7);
    // 6 input, 4 cached at half price, 7 output.
    assert_eq!(answer.header("x-tally-cost"), "0.000036");
    assert_eq!(answer.header("x-tally-receipt"), "0-1-1");
    assert_eq!(answer.header("x-request-id"), "0-1-1");
    assert_eq!(answer.header("x-engine"), "1");
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!((receipt.cost.0, receipt.charged.0), (36, 36));
    assert_eq!(receipt.flags, Flags::default());
    assert_eq!(debit.detail.usage.0, [10, 4, 7, 2, 0, 0]);
    assert_eq!((debit.detail.hold_journal.0, debit.detail.hold), (1, 1));
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, PLENTY - 36);
    assert_eq!(setup.chain.main().leased.0, 0);
    setup.chain.check();
}

/// Waits until the engine notices that it is asked no more.
async fn cancelled(setup: &Setup) {
    let cancelled = &setup.engine.cancelled;
    let once = || cancelled.load(std::sync::atomic::Ordering::Relaxed) == 1;
    crate::support::until("the engine notices", once).await;
}

/// What is charged, once, is this, counted from the answer.
async fn counted(setup: &Setup, usage: [u32; 6]) {
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!(receipt.flags, Flags::COUNTED);
    assert_eq!(debit.detail.usage.0, usage);
}

/// Sends a stream request, reads `events` events, then hangs up.
async fn hang_up(setup: &Setup, to: std::net::SocketAddr, body: &serde_json::Value, events: usize) {
    use http_body_util::BodyExt;
    let key = crate::support::chain::api_key_text(0);
    let client = crate::support::client();
    let answer = client
        .request(crate::support::request(to, body, &key))
        .await
        .unwrap();
    let mut body = answer.into_body();
    let mut seen = Vec::new();
    while seen.windows(2).filter(|pair| pair == b"\n\n").count() < events {
        let frame = body.frame().await.unwrap().unwrap();
        seen.extend_from_slice(frame.data_ref().unwrap());
    }
    drop((body, client));
    cancelled(setup).await;
}

fn streamed(max_tokens: u32, test: serde_json::Value) -> serde_json::Value {
    let mut body = chat(max_tokens, test);
    body["stream"] = true.into();
    body
}

/// The likely input of the requests here: a third of the messages' bytes.
fn likely(body: &serde_json::Value) -> u32 {
    body["messages"].to_string().len().div_ceil(3) as u32
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_charged_what_the_engine_reports_and_its_usage_is_hidden() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let body = streamed(20, json!({"tokens": 5}));
    let answer = send(gateway.http, &body).await;
    let events = answer.events();
    assert_eq!(events.len(), 5 + 1 + 1, "{}", answer.body);
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert!(!answer.body.contains("prompt_tokens"));
    assert_eq!(answer.header("x-tally-receipt"), "0-1-1");
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!(
        (receipt.charged.0, receipt.flags),
        (10 + 20, Flags::default())
    );
    assert_eq!(debit.detail.usage.0, [10, 0, 5, 0, 0, 0]);
    let mut asking = body.clone();
    asking["stream_options"] = json!({"include_usage": true});
    let answer = send(gateway.http, &asking).await;
    assert_eq!(answer.events().len(), 5 + 1 + 1 + 1);
    assert!(answer.events()[6].contains("prompt_tokens"));
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().spent.0, 60);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_missing_is_counted() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let body = streamed(20, json!({"tokens": 5, "usage": false}));
    send(gateway.http, &body).await;
    counted(&setup, [likely(&body), 0, 5, 0, 0, 0]).await;
    // Not streamed: 7 words, 34 bytes.
    let body = chat(20, json!({"tokens": 7, "usage": false}));
    send(gateway.http, &body).await;
    gateway.stop().await.unwrap();
    let debits = setup.chain.debits();
    assert_eq!(debits[1].detail.usage.0, [likely(&body), 0, 5, 0, 0, 0]);
    assert_eq!(debits[1].fixed.flags, Flags::COUNTED);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gone_before_the_first_byte_is_charged_its_input() {
    for (stream, test) in [(true, json!({"silent": true})), (false, json!({"hold": 0}))] {
        let setup = Setup::new(PLENTY).await;
        let gateway = setup.gateway().await;
        let mut body = chat(20, test);
        body["stream"] = stream.into();
        let client = crate::support::client();
        let key = crate::support::chain::api_key_text(0);
        let sent = tokio::spawn(client.request(crate::support::request(gateway.http, &body, &key)));
        crate::support::until("the engine is asked", || {
            setup
                .engine
                .requests
                .load(std::sync::atomic::Ordering::Relaxed)
                == 1
        })
        .await;
        sent.abort();
        let _ = sent.await;
        drop(client);
        let (receipt, debit) = setup.chain.only_receipt().await;
        assert_eq!(receipt.flags, Flags::ESTIMATED);
        assert_eq!(debit.detail.usage.0, [likely(&body), 0, 0, 0, 0, 0]);
        cancelled(&setup).await;
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gone_mid_stream_is_charged_what_was_generated() {
    // (tokens, waits after, continuous usage): mid-stream, after the last.
    for (tokens, hold, continuous) in [(20, 3, false), (5, 5, false), (20, 3, true)] {
        let mut setup = Setup::new(PLENTY).await;
        setup.config.upstreams[0].continuous_usage = continuous;
        let gateway = setup.gateway().await;
        let body = streamed(20, json!({"tokens": tokens, "hold": hold}));
        hang_up(&setup, gateway.http, &body, hold as usize).await;
        let input = if continuous { 10 } else { likely(&body) };
        counted(&setup, [input, 0, hold, 0, 0, 0]).await;
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_before_any_output_costs_nothing() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    for stream in [false, true] {
        let mut body = chat(20, json!({"status": 400}));
        body["stream"] = stream.into();
        let answer = send(gateway.http, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "engine_says_no")
        );
    }
    let answer = send(gateway.http, &chat(20, json!({"break": 0}))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (502, "upstream_error")
    );
    let answer = send(gateway.http, &streamed(20, json!({"break": 0}))).await;
    assert!(answer.body.contains("upstream_error"), "{}", answer.body);
    let answer = send(gateway.http, &streamed(20, json!({"sse_error": 0}))).await;
    assert!(answer.body.contains("oops"));
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts(), []);
    assert_eq!(setup.chain.main().available.0, PLENTY);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_be_reached_costs_nothing() {
    let mut setup = Setup::new(PLENTY).await;
    let (_socket, address) = crate::support::nowhere();
    setup.config.upstreams[0].url = format!("http://{address}");
    let gateway = setup.gateway().await;
    let answer = send(gateway.http, &chat(20, json!({}))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (502, "upstream_error")
    );
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, PLENTY);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_after_output_is_charged_what_came() {
    for (test, text) in [
        (json!({"break": 3}), "upstream_error"),
        (json!({"sse_error": 3}), "oops"),
    ] {
        let setup = Setup::new(PLENTY).await;
        let gateway = setup.gateway().await;
        let body = streamed(20, test);
        let answer = send(gateway.http, &body).await;
        assert!(answer.body.contains(text), "{}", answer.body);
        assert_eq!(answer.body.matches("word ").count(), 3, "{}", answer.body);
        counted(&setup, [likely(&body), 0, 3, 0, 0, 0]).await;
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_usage_is_lowered_or_capped_and_said() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    send(gateway.http, &chat(20, json!({"tokens": 5, "cached": 99}))).await;
    send(gateway.http, &chat(20, json!({"more": 1_000}))).await;
    gateway.stop().await.unwrap();
    let (receipts, debits) = (setup.chain.receipts(), setup.chain.debits());
    assert_eq!(debits[0].detail.usage.0, [10, 10, 5, 0, 0, 0]);
    assert_eq!(
        (receipts[0].flags, receipts[0].charged.0),
        (Flags::ESTIMATED, 5 + 20)
    );
    // Recorded as known, charged the hold.
    assert_eq!(debits[1].detail.usage.0, [10, 0, 1_020, 0, 0, 0]);
    assert_eq!(receipts[1].flags, Flags::CAPPED);
    assert_eq!(
        (receipts[1].cost.0, receipts[1].charged),
        (10 + 4_080, debits[1].fixed.limit)
    );
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_bounded_whatever_is_asked() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    for (limit, choices, tokens) in [
        (json!(null), 1, 100),
        (json!(999_999_999u64), 1, 100),
        (json!(7), 8, 56),
    ] {
        let mut body = chat(1, json!({}));
        body["max_tokens"] = limit;
        body["n"] = choices.into();
        let answer = send(gateway.http, &body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["usage"]["completion_tokens"], tokens);
    }
    gateway.stop().await.unwrap();
    assert!(
        setup
            .chain
            .debits()
            .iter()
            .all(|debit| debit.fixed.flags == Flags::default())
    );
    assert_eq!(setup.chain.main().spent.0, 3 * 10 + 4 * (100 + 100 + 56));
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_running_stream() {
    use tally_ledger::{action::Action, ids::ApiKeyNumber};
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let body = streamed(20, json!({"hold": 4}));
    let sent = tokio::spawn(async move { send(gateway.http, &body).await });
    crate::support::until("the engine is asked", || {
        setup
            .engine
            .requests
            .load(std::sync::atomic::Ordering::Relaxed)
            == 1
    })
    .await;
    setup
        .chain
        .by_issuers(Action::RevokeApiKey(ApiKeyNumber(0)));
    let answer = sent.await.unwrap();
    assert!(answer.body.contains("invalid_api_key"), "{}", answer.body);
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert!(receipt.flags.has(Flags::COUNTED));
    assert_eq!(
        (debit.detail.usage.0[2], receipt.cost),
        (4, receipt.charged)
    );
    assert_eq!(
        send(gateway.http, &chat(1, json!({}))).await.code(),
        "invalid_api_key"
    );
}
