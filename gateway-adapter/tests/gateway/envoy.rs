//! What holds for the proxy holds behind Envoy: the same endings are charged
//! the same, and nothing passes without being metered.

use std::sync::{Arc, atomic::Ordering};

use crate::support::{
    Answer, DEADLINE, Running, Setup, chain, chat,
    envoy::{self, Envoy, Filter},
    get, post, send, send_as, until,
};
use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::{
        auth::v3::{
            AttributeContext, CheckRequest, attribute_context,
            authorization_client::AuthorizationClient, check_response::HttpResponse,
        },
        ext_proc::v3::{
            processing_request::Request as Ask, processing_response::Response as Answered,
        },
    },
};
use http::HeaderMap;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tally_ledger::{action::Action, debit::Flags, ids::AccountNumber};

const PLENTY: u64 = 1_000_000;

/// Gateway and Envoy, both in front of the engine.
async fn doors(setup: &Setup) -> (Running, Arc<Envoy>) {
    let gateway = setup.gateway().await;
    let envoy = Envoy::start(gateway.envoy, setup.engine.address).await;
    (gateway, envoy)
}

fn streamed(max_tokens: u32, test: Value) -> Value {
    let mut body = chat(max_tokens, test);
    body["stream"] = true.into();
    body
}

/// The likely input of the requests here: a third of the messages' bytes.
fn likely(body: &Value) -> u32 {
    body["messages"].to_string().len().div_ceil(3) as u32
}

/// Sends in the background until the engine was asked.
async fn send_off(setup: &Setup, envoy: &Envoy, body: Value) -> tokio::task::JoinHandle<Answer> {
    let to = envoy.address;
    let sent = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 1
    })
    .await;
    sent
}

async fn cancelled(setup: &Setup) {
    until("the engine notices", || {
        setup.engine.cancelled.load(Ordering::Relaxed) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_charged_as_reported_and_says_its_cost() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.upstreams[0].request_id = true;
    let (gateway, envoy) = doors(&setup).await;
    let body = chat(20, json!({"tokens": 7, "cached": 4, "reasoning": 2}));
    let answer = send(envoy.address, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 7);
    for (name, value) in [
        ("x-tally-cost", "0.000036"),
        ("x-tally-receipt", "0-1-1"),
        ("x-request-id", "0-1-1"),
        ("x-engine", "1"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!((receipt.charged.0, receipt.flags), (36, Flags::default()));
    assert_eq!(debit.detail.usage.0, [10, 4, 7, 2, 0, 0]);
    let (headers, seen) = setup.engine.last();
    assert_eq!(seen["request_id"], "0-1-1");
    assert!(!headers.contains_key("authorization"), "the key is for us");
    assert_eq!(headers["x-tally-upstream"], setup.config.upstreams[0].url);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_charged_as_reported_and_its_usage_is_hidden() {
    let setup = Setup::new(PLENTY).await;
    let (gateway, envoy) = doors(&setup).await;
    let answer = send(envoy.address, &streamed(20, json!({"tokens": 5}))).await;
    let events = answer.events();
    assert_eq!(events.len(), 5 + 1 + 1, "{}", answer.body);
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert!(!answer.body.contains("prompt_tokens"));
    assert_eq!(answer.header("x-tally-receipt"), "0-1-1");
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!((receipt.charged.0, receipt.flags), (30, Flags::default()));
    assert_eq!(debit.detail.usage.0, [10, 0, 5, 0, 0, 0]);
    assert_eq!(
        setup.engine.last().1["stream_options"]["include_usage"],
        true
    );
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_success_of_the_engine_passes_as_it_is_streamed_or_not() {
    for (stream, status) in [(true, 201), (true, 206), (false, 201), (false, 206)] {
        let setup = Setup::new(PLENTY).await;
        let (gateway, envoy) = doors(&setup).await;
        let mut body = chat(20, json!({"tokens": 5, "success": status}));
        body["stream"] = stream.into();
        for door in [envoy.address, gateway.http] {
            let answer = tokio::time::timeout(DEADLINE, send(door, &body));
            let answer = answer.await.unwrap();
            assert_eq!(answer.status, status, "{}", answer.body);
            assert_eq!(answer.body.matches("word").count(), 5, "{}", answer.body);
        }
        until("both are charged", || setup.chain.receipts().len() == 2).await;
        for receipt in setup.chain.receipts() {
            assert_eq!((receipt.charged.0, receipt.flags), (30, Flags::default()));
        }
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_gets_its_own_path_and_nothing_that_a_client_wrote_behind_it() {
    for under in ["", "/under"] {
        let mut setup = Setup::new(PLENTY).await;
        setup.config.upstreams[0].url.push_str(under);
        let (gateway, envoy) = doors(&setup).await;
        let path = "/v1/chat/completions?max_tokens=999&x=1";
        for door in [envoy.address, gateway.http] {
            let answer = post(door, path, &chat(5, json!({}))).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        let paths = setup.engine.paths.lock().unwrap().clone();
        assert_eq!(paths, vec![format!("{under}/v1/chat/completions"); 2]);
        gateway.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_never_reaches_the_engine() {
    let mut setup = Setup::new(9).await;
    setup.config.limits.body_bytes = 4_096;
    let (gateway, envoy) = doors(&setup).await;
    let good = chat(5, json!({}));
    let unknown = send_as(envoy.address, &good, &chain::api_key_text(55)).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.code().as_str()),
        (401, "invalid_api_key")
    );
    assert_eq!(unknown.header("content-type"), "application/json");
    let poor = send(envoy.address, &good).await;
    assert_eq!(
        (poor.status.as_u16(), poor.code().as_str()),
        (429, "insufficient_quota")
    );
    assert_eq!(poor.header("x-should-retry"), "false");
    let mut other = good.clone();
    other["model"] = "gpt-0".into();
    assert_eq!(send(envoy.address, &other).await.status, 404);
    let mut large = good.clone();
    large["messages"][0]["content"] = "x".repeat(5_000).into();
    assert_eq!(send(envoy.address, &large).await.status, 413);
    let models = get(envoy.address, "/v1/models").await;
    assert_eq!(
        (models.status.as_u16(), &models.json()["data"][0]["id"]),
        (200, &json!("m"))
    );
    for path in ["/metrics", "/v1/files"] {
        assert_eq!(
            get(envoy.address, path).await.code(),
            "unknown_url",
            "{path}"
        );
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.requests.load(Ordering::Relaxed), 0);
    assert_eq!(setup.chain.receipts(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_charged_what_was_generated() {
    // Before the first byte, streamed or not; mid-stream; after the last
    // token, before the usage.
    for (stream, test, events) in [
        (true, json!({"silent": true}), 0),
        (false, json!({"hold": 0}), 0),
        (true, json!({"tokens": 20, "hold": 3}), 3),
        (true, json!({"tokens": 5, "hold": 5}), 5),
    ] {
        let setup = Setup::new(PLENTY).await;
        let (gateway, envoy) = doors(&setup).await;
        let mut body = chat(20, test);
        body["stream"] = stream.into();
        let (to, asked, key) = (envoy.address, body.clone(), chain::api_key_text(0));
        let sent = tokio::spawn(async move {
            let client = crate::support::client();
            let answer = client.request(crate::support::request(to, &asked, &key));
            let mut answer = answer.await.unwrap().into_body();
            let mut seen = Vec::new();
            while seen.windows(2).filter(|pair| pair == b"\n\n").count() < events {
                let frame = answer.frame().await.unwrap().unwrap();
                seen.extend_from_slice(frame.data_ref().unwrap());
            }
        });
        until("the engine is asked", || {
            setup.engine.requests.load(Ordering::Relaxed) == 1
        })
        .await;
        if events == 0 {
            sent.abort();
        }
        let _ = sent.await;
        let (receipt, debit) = setup.chain.only_receipt().await;
        let known = if events == 0 {
            Flags::ESTIMATED
        } else {
            Flags::COUNTED
        };
        assert_eq!(receipt.flags, known);
        assert_eq!(
            debit.detail.usage.0,
            [likely(&body), 0, events as u32, 0, 0, 0]
        );
        cancelled(&setup).await;
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_refuses_or_cannot_be_reached_costs_nothing() {
    let setup = Setup::new(PLENTY).await;
    let (gateway, envoy) = doors(&setup).await;
    for stream in [false, true] {
        let mut body = chat(20, json!({"status": 400}));
        body["stream"] = stream.into();
        let answer = send(envoy.address, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "engine_says_no")
        );
        assert!(answer.header("x-tally-receipt").starts_with("0-1-"));
    }
    let answer = send(envoy.address, &streamed(20, json!({"sse_error": 0}))).await;
    assert!(answer.body.contains("oops"), "{}", answer.body);
    let (_socket, address) = crate::support::nowhere();
    envoy.route(address).await;
    let answer = send(envoy.address, &chat(20, json!({}))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (503, "envoy")
    );
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts(), []);
    assert_eq!(setup.chain.main().available.0, PLENTY);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_breaks_off_is_charged_like_a_client_that_hangs_up() {
    let setup = Setup::new(PLENTY).await;
    let (gateway, envoy) = doors(&setup).await;
    let body = streamed(20, json!({"break": 3}));
    let answer = send(envoy.address, &body).await;
    assert!(!answer.body.contains("[DONE]"), "{}", answer.body);
    let (_, debit) = setup.chain.only_receipt().await;
    let (input, output) = (debit.detail.usage.0[0], debit.detail.usage.0[2] as usize);
    let delivered = answer.body.matches("word ").count();
    assert_eq!(input, likely(&body));
    assert!((delivered..=3).contains(&output), "{output} of {delivered}");
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_account_ends_a_stream_and_an_answer_that_has_not_begun() {
    for stream in [true, false] {
        let setup = Setup::new(PLENTY).await;
        let (gateway, envoy) = doors(&setup).await;
        let mut body = chat(20, json!({"hold": if stream { 4 } else { 0 }}));
        body["stream"] = stream.into();
        let sent = send_off(&setup, &envoy, body).await;
        setup.chain.by_issuers(Action::Freeze(AccountNumber(0)));
        let answer = sent.await.unwrap();
        assert!(answer.body.contains("account_frozen"), "{}", answer.body);
        assert_eq!(answer.status.as_u16(), if stream { 200 } else { 403 });
        let (receipt, debit) = setup.chain.only_receipt().await;
        let output = if stream { 4 } else { 0 };
        assert_eq!(
            (debit.detail.usage.0[2], receipt.cost),
            (output, receipt.charged)
        );
        cancelled(&setup).await;
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_stream_ends_by_length_and_stops_the_engine() {
    let mut setup = Setup::new(110).await;
    setup.config.upstreams[0].continuous_usage = true;
    let (gateway, envoy) = doors(&setup).await;
    // One more would not be paid; it waits before it ends by itself.
    let answer = send(envoy.address, &streamed(100, json!({"hold": 60}))).await;
    assert_eq!(answer.body.matches("word ").count(), 25, "{}", answer.body);
    assert!(answer.body.contains("\"finish_reason\":\"length\""));
    assert_eq!(answer.events().last().unwrap(), "[DONE]");
    cancelled(&setup).await;
    let (receipt, _) = setup.chain.only_receipt().await;
    assert_eq!((receipt.charged.0, receipt.cost.0), (110, 110));
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_breaks_off_what_outlives_its_drain_and_charges_it() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.limits.drain_seconds = 0;
    let (gateway, envoy) = doors(&setup).await;
    let sent = send_off(&setup, &envoy, streamed(20, json!({"hold": 3}))).await;
    gateway.stop().await.unwrap();
    let answer = sent.await.unwrap();
    assert!(!answer.body.contains("[DONE]"), "{}", answer.body);
    cancelled(&setup).await;
    let (gateway, _) = doors(&setup).await;
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert!(receipt.charged.0 > 0 && debit.detail.usage.0[2] <= 3);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_filters_denial_passes_as_it_is_and_is_not_billed() {
    let setup = Setup::new(PLENTY).await;
    let (gateway, envoy) = doors(&setup).await;
    let mut filter = Filter::open(envoy.client()).await;
    let denied = envoy::head(&[(":status", "403")], &HeaderMap::new(), false);
    filter.tell(Ask::ResponseHeaders(denied)).await;
    let Ok(Answered::ResponseHeaders(head)) = filter.answer().await else {
        panic!("not passed on");
    };
    let mutation = head.response.unwrap().header_mutation.unwrap();
    assert_eq!(
        (mutation.set_headers.len(), mutation.remove_headers.len()),
        (0, 0)
    );
    filter
        .tell(Ask::ResponseBody(envoy::body(b"no", false)))
        .await;
    filter.tell(Ask::ResponseBody(envoy::body(b"", true))).await;
    for _ in 0..2 {
        assert!(matches!(
            filter.answer().await,
            Ok(Answered::ResponseBody(_))
        ));
    }
    drop(filter);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_not_set_up_right_gets_errors_and_nothing_passes() {
    let setup = Setup::new(PLENTY).await;
    let (gateway, envoy) = doors(&setup).await;
    let head = || {
        let pseudo = [(":method", "POST"), (":path", "/v1/chat/completions")];
        envoy::ask(Ask::RequestHeaders(envoy::head(
            &pseudo,
            &HeaderMap::new(),
            false,
        )))
    };
    let mut streamed = head();
    streamed.protocol_config = Some(envoy::protocol(
        BodySendMode::Buffered,
        BodySendMode::Streamed,
    ));
    let mut observing = head();
    observing.observability_mode = true;
    let mut early = head();
    early.request = Some(Ask::ResponseBody(envoy::body(b"x", false)));
    for wrong in [streamed, observing, early] {
        let mut filter = Filter::open(envoy.client()).await;
        filter.asks.send(wrong).await.unwrap();
        // A clean end would let the request pass: `answer` panics then.
        assert_eq!(filter.answer().await.unwrap_err(), 500);
    }
    gateway.stop().await.unwrap();
}

/// What `GET /v1/tally/admit` says to a bearer.
async fn admit(gateway: &Running, bearer: &str) -> (u16, String) {
    let request = http::Request::get(format!("http://{}/v1/tally/admit", gateway.http))
        .header("authorization", format!("Bearer {bearer}"))
        .body(http_body_util::Full::default())
        .unwrap();
    let answer =
        crate::support::read(crate::support::client().request(request).await.unwrap()).await;
    let code = answer.header("x-tally-code").to_owned();
    (answer.status.as_u16(), code)
}

/// What `ext_authz` says to a bearer: 200, or the refusal.
async fn check(gateway: &Running, bearer: &str) -> (u16, String) {
    let address = format!("http://{}", gateway.envoy);
    let mut client = AuthorizationClient::connect(address).await.unwrap();
    let headers = [("authorization".to_owned(), format!("Bearer {bearer}"))];
    let http = attribute_context::HttpRequest {
        headers: headers.into(),
        ..Default::default()
    };
    let request = attribute_context::Request {
        http: Some(http),
        ..Default::default()
    };
    let attributes = AttributeContext {
        request: Some(request),
        ..Default::default()
    };
    let request = CheckRequest {
        attributes: Some(attributes),
    };
    let checked = client.check(request).await.unwrap().into_inner();
    let passes = checked.status.unwrap().code == 0;
    match checked.http_response.unwrap() {
        HttpResponse::OkResponse(_) if passes => (200, String::new()),
        HttpResponse::DeniedResponse(denied) if !passes => {
            let object: Value = serde_json::from_str(&denied.body).unwrap();
            let code = object["error"]["code"].as_str().unwrap().to_owned();
            (denied.status.unwrap().code as u16, code)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_by_key_holds_nothing_and_knows_keys_balances_and_freezes() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let refused = |status, code: &str| (status, code.to_owned());
    let empty = setup.chain.open_account();
    let empty = setup.chain.bind(empty.0);
    let key = chain::api_key_text(0);
    assert_eq!(check(&gateway, &key).await, refused(200, ""));
    assert_eq!(
        check(&gateway, "nonsense").await,
        refused(401, "invalid_api_key")
    );
    assert_eq!(admit(&gateway, &key).await, refused(204, ""));
    assert_eq!(
        admit(&gateway, "nonsense").await,
        refused(401, "invalid_api_key")
    );
    let empty = chain::api_key_text(empty.0);
    let both = (check(&gateway, &empty).await, admit(&gateway, &empty).await);
    let code = "insufficient_quota";
    assert_eq!(both, (refused(429, code), refused(403, code)));
    setup.chain.by_issuers(Action::Freeze(AccountNumber(0)));
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while check(&gateway, &key).await != refused(403, "account_frozen") {
        assert!(tokio::time::Instant::now() < deadline, "never refused");
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, PLENTY);
    assert_eq!(setup.chain.receipts(), []);
}
