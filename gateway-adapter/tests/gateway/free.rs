//! Routes that cost nothing, each about the caller's own account only.

use std::sync::atomic::Ordering;

use crate::support::{Setup, call, chain, chat, get, post, read, send, send_as, until};
use base64::Engine as _;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tally_gateway_adapter::config::{FreeRoute, Tokenize};
use tally_ledger::{
    action::Action,
    ids::AccountNumber,
    receipt::{PriceCheck, ReceiptFile},
};

const BALANCE: &str = "/v1/tally/balance";
const QUOTE: &str = "/v1/tally/quote";
const KEY: &str = "/v1/tally/key";

fn amount(micro: u64) -> Value {
    json!({"ct": tally_ledger::ids::Amount(micro).to_string(), "micro_ct": micro})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balance_says_what_is_available_leased_and_held() {
    let setup = Setup::new(1_000_000).await;
    let other = setup.another(77);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let fresh = get(to, BALANCE).await.json();
    assert_eq!(
        (&fresh["account"], &fresh["frozen"]),
        (&json!(0), &json!(false))
    );
    assert_eq!(fresh["key"]["models"], Value::Null);
    let main = &fresh["classes"][0];
    assert_eq!(
        (&main["class"], &main["number"]),
        (&json!("main"), &json!(0))
    );
    assert_eq!(main["available"], amount(1_000_000));
    assert_eq!(main["remaining"], amount(1_000_000));
    assert_eq!(main["here"]["leased"], amount(0));
    assert_eq!(main["grants"][0]["free"], amount(1_000_000));
    assert!(main["grants"][0]["expires_ms"].as_u64().unwrap() > 0);
    assert_eq!(fresh["classes"][1]["available"], amount(0));

    // A running request of at most 20 tokens holds its worst case.
    let body = chat(20, json!({"hold": 0}));
    let sent = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 1
    })
    .await;
    let main = &get(to, BALANCE).await.json()["classes"][0];
    let micro = |value: &Value| value["micro_ct"].as_u64().unwrap();
    assert_eq!(micro(&main["here"]["held"]), 99 + 80);
    assert_eq!(
        micro(&main["here"]["leased"]),
        micro(&main["here"]["held"]) + micro(&main["here"]["free"])
    );
    assert_eq!(
        micro(&main["available"]) + micro(&main["leased"]),
        1_000_000
    );
    assert_eq!(
        micro(&main["remaining"]),
        1_000_000 - micro(&main["here"]["held"])
    );
    setup.engine.release(1);
    sent.await.unwrap();

    // Each key sees its own account.
    let theirs = call(to, "GET", BALANCE, &other, String::new()).await.json();
    assert_eq!(theirs["account"], 1);
    assert_eq!(theirs["classes"][0]["available"], amount(77));
    let nobody = call(to, "GET", BALANCE, "tally-00", String::new()).await;
    assert_eq!(
        (nobody.status.as_u16(), nobody.code().as_str()),
        (401, "invalid_api_key")
    );
    setup.chain.set_down(true);
    let unknown = get(to, BALANCE).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.code().as_str()),
        (503, "ledger_unreachable")
    );
    setup.chain.set_down(false);
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_reserves_nothing_and_says_what_would_happen() {
    let mut setup = Setup::new(1_000).await;
    setup.config.upstreams[0].tokenize = Tokenize::Vllm;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let quote = post(to, QUOTE, &chat(20, json!({}))).await.json();
    assert_eq!(quote["input_tokens"], json!({"bound": 99, "likely": 12}));
    assert_eq!(quote["output_tokens"], json!({"bound": 20, "payable": 20}));
    assert_eq!(quote["worst_case"], amount(99 + 80));
    assert_eq!(quote["likely_input"], amount(12));
    assert_eq!(
        (&quote["class"], &quote["admitted"], &quote["when"]),
        (&json!("main"), &json!(true), &json!("after_lease"))
    );
    assert_eq!(setup.chain.main().leased.0, 0, "nothing is leased");
    // 1,000 do not pay 300 tokens; the engine counts the prompt: 10.
    let mut long = chat(1, json!({}));
    long["n"] = json!(3);
    long["max_tokens"] = json!(100);
    let quote = post(to, QUOTE, &long).await.json();
    assert_eq!(quote["input_tokens"]["likely"], 10);
    assert_eq!(
        quote["output_tokens"],
        json!({"bound": 300, "payable": 246})
    );
    assert_eq!(quote["choices"], 3);
    // A lease that is held covers it at once.
    send(to, &chat(20, json!({}))).await;
    let quote = post(to, QUOTE, &chat(5, json!({}))).await.json();
    assert_eq!(quote["when"], "now");
    // A grant that has just come is seen.
    setup.chain.issue(0, chain::MAIN, 10_000);
    let quote = post(to, QUOTE, &long).await.json();
    assert_eq!(quote["output_tokens"]["payable"], 300);

    let poor = setup.chain.open_account();
    let poor = chain::api_key_text(setup.chain.bind(poor.0).0);
    let body = chat(20, json!({})).to_string();
    let quote = call(to, "POST", QUOTE, &poor, body).await.json();
    assert_eq!(quote["admitted"], false);
    assert_eq!(quote["refusal"]["code"], "insufficient_quota");
    setup.chain.by_issuers(Action::Freeze(AccountNumber(0)));
    let body = chat(2_000, json!({}));
    until_frozen(to, &body).await;
    let bad = post(to, QUOTE, &json!({"model": "m"})).await;
    assert_eq!(
        (bad.status.as_u16(), bad.json()["error"]["param"].as_str()),
        (400, Some("messages"))
    );
    assert_eq!(setup.engine.requests.load(Ordering::Relaxed), 1);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 1);
    setup.chain.check();
}

async fn until_frozen(to: std::net::SocketAddr, body: &Value) {
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let quote = post(to, QUOTE, body).await.json();
        if quote["refusal"]["code"] == "account_frozen" {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{quote}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_behind_a_running_request_says_that_it_would_wait() {
    let setup = Setup::new(250).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let body = chat(20, json!({"hold": 0}));
    let sent = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 1
    })
    .await;
    let quote = post(to, QUOTE, &chat(20, json!({}))).await.json();
    assert_eq!(
        (&quote["admitted"], &quote["when"]),
        (&json!(true), &json!("after_others")),
        "{quote}"
    );
    setup.engine.release(1);
    sent.await.unwrap();
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_pending_then_proven_and_only_its_accounts() {
    let setup = Setup::new(1_000_000).await;
    let other = setup.another(1_000_000);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let path = "/v1/tally/receipts/0-1-1";
    let body = chat(20, json!({"hold": 0, "tokens": 7}));
    let sent = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 1
    })
    .await;
    let running = get(to, path).await;
    assert_eq!(
        (running.status.as_u16(), running.json()["status"].as_str()),
        (202, Some("running"))
    );
    let theirs = call(to, "GET", path, &other, String::new()).await;
    assert_eq!(theirs.status, 404, "another account's hold");
    // No debit goes through for now.
    setup.chain.set_down(true);
    setup.engine.release(1);
    assert_eq!(sent.await.unwrap().header("x-tally-receipt"), "0-1-1");
    let pending = get(to, path).await;
    assert_eq!(
        (pending.status.as_u16(), pending.json()["status"].as_str()),
        (202, Some("pending"))
    );
    assert_eq!(pending.header("retry-after"), "1");
    let theirs = call(to, "GET", path, &other, String::new()).await;
    assert_eq!(theirs.status, 404, "another account's debit");
    setup.chain.set_down(false);
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    let receipt = loop {
        let answer = get(to, path).await;
        if answer.status == 200 {
            break answer.json();
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", answer.body);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(
        (&receipt["status"], &receipt["id"]),
        (&json!("final"), &json!("0-1-1"))
    );
    assert_eq!(
        (&receipt["charged"], &receipt["loss"]),
        (&amount(38), &amount(0))
    );
    assert_eq!(
        (&receipt["model"], &receipt["class"]),
        (&json!("m"), &json!("main"))
    );
    assert_eq!(
        receipt["usage"],
        json!({"input": 10, "cached_input": 0, "output": 7, "reasoning": 0})
    );
    // Nobody was before it in the first upstream's queue.
    let number = |name: &str| receipt[name].as_u64().unwrap();
    assert_eq!(number("queue"), 1);
    assert_eq!(number("dispatched"), number("joined") + 1);
    let theirs = call(to, "GET", path, &other, String::new()).await;
    assert_eq!(
        (theirs.status.as_u16(), theirs.code().as_str()),
        (404, "receipt_not_found")
    );
    // The proof is the file that is verified with the genesis alone.
    let file = base64::engine::general_purpose::STANDARD
        .decode(receipt["proof"].as_str().unwrap())
        .unwrap();
    let verified = ReceiptFile::decode(&file).unwrap();
    let verified = verified.verify(&setup.chain.genesis).unwrap();
    assert_eq!(verified.receipt.charged.0, 38);
    assert_ne!(verified.price, PriceCheck::NoDetail);
    let request = http::Request::get(format!("http://{to}{path}"))
        .header(
            "authorization",
            format!("Bearer {}", chain::api_key_text(0)),
        )
        .header("accept", "application/octet-stream")
        .body(http_body_util::Full::default())
        .unwrap();
    let answer = crate::support::client().request(request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(
        ReceiptFile::decode(&bytes)
            .unwrap()
            .verify(&setup.chain.genesis)
            .is_ok()
    );

    // Void, never made, of no gateway, no id.
    send(to, &chat(20, json!({"status": 400}))).await;
    for (id, status) in [("0-1-2", 404), ("0-1-99", 404), ("2-1-1", 404), ("x", 400)] {
        let answer = get(to, &format!("/v1/tally/receipts/{id}")).await;
        assert_eq!(answer.status.as_u16(), status, "{id}: {}", answer.body);
    }
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revokes_itself_and_its_running_stream_is_cut() {
    let setup = Setup::new(1_000_000).await;
    // A second key of the same account stays.
    setup.chain.bind(0);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let mut body = chat(20, json!({"hold": 3}));
    body["stream"] = true.into();
    let sent = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 1
    })
    .await;
    let key = chain::api_key_text(0);
    let gone = call(to, "DELETE", KEY, &key, String::new()).await;
    assert_eq!(gone.status, 200, "{}", gone.body);
    assert_eq!(
        (&gone.json()["number"], &gone.json()["deleted"]),
        (&json!(0), &json!(true))
    );
    assert!(sent.await.unwrap().body.contains("invalid_api_key"));
    let revoked = |key: usize| {
        let inner = setup.chain.inner.lock().unwrap();
        inner.state.api_keys()[key].revoked
    };
    assert_eq!((revoked(0), revoked(1)), (true, false));
    for _ in 0..2 {
        let again = call(to, "DELETE", KEY, &key, String::new()).await;
        assert_eq!(again.code(), "invalid_api_key");
    }
    let second = send_as(to, &chat(1, json!({})), &chain::api_key_text(1)).await;
    assert_eq!(second.status, 200);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_revoked_while_the_ledger_is_away() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    send(gateway.http, &chat(1, json!({}))).await;
    setup.chain.set_down(true);
    let key = chain::api_key_text(0);
    let answer = call(gateway.http, "DELETE", KEY, &key, String::new()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "ledger_unreachable")
    );
    setup.chain.set_down(false);
    assert_eq!(send(gateway.http, &chat(1, json!({}))).await.status, 200);
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn which_routes_are_free_is_policy() {
    let mut setup = Setup::new(1_000_000).await;
    setup.config.routes.free = vec![FreeRoute::Models];
    let gateway = setup.gateway().await;
    let to = gateway.http;
    assert_eq!(get(to, "/v1/models").await.status, 200);
    let key = chain::api_key_text(0);
    for (method, path) in [
        ("GET", BALANCE),
        ("POST", QUOTE),
        ("GET", "/v1/tally/receipts/0-1-1"),
        ("DELETE", KEY),
    ] {
        let answer = call(to, method, path, &key, String::new()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (404, "unknown_url"),
            "{path}"
        );
        assert!(answer.header("x-request-id").starts_with("req-"));
    }
    gateway.stop().await.unwrap();
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let answer = call(gateway.http, "GET", KEY, &key, String::new()).await;
    assert_eq!(answer.status, 405);
    let request = http::Request::get(format!("http://{}/v1/models", gateway.http))
        .body(http_body_util::Full::default())
        .unwrap();
    let answer = read(crate::support::client().request(request).await.unwrap()).await;
    assert_eq!(answer.status, 401, "a free route needs a key too");
    gateway.stop().await.unwrap();
}
