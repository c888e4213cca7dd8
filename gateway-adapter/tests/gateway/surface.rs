//! The routes beside chat completions: the same endings are charged the same,
//! each in its own form.

use std::sync::atomic::Ordering;

use crate::support::{Answer, Setup, chain, post, until};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tally_gateway_adapter::config::Tokenize;
use tally_ledger::debit::Flags;

const PLENTY: u64 = 1_000_000;
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const EMBEDDINGS: &str = "/v1/embeddings";
/// Routes with output.
const GENERATING: [&str; 2] = [COMPLETIONS, RESPONSES];

/// A request of `tokens` output with a prompt of ten tokens.
fn request(path: &str, tokens: u32, test: Value) -> Value {
    let mut body = json!({"model": "m", "test": test});
    let (prompt, limit) = match path {
        COMPLETIONS => ("prompt", Some("max_tokens")),
        RESPONSES => ("input", Some("max_output_tokens")),
        _ => ("input", None),
    };
    body[prompt] = "count".into();
    if let Some(limit) = limit {
        body[limit] = tokens.into();
    }
    body
}

fn streamed(path: &str, tokens: u32, test: Value) -> Value {
    let mut body = request(path, tokens, test);
    body["stream"] = true.into();
    body
}

/// A third of the prompt's bytes, which are `"count"`.
const LIKELY: u32 = 3;

fn words(answer: &Answer) -> usize {
    answer.body.matches("word ").count()
}

/// Usage as the last event or chunk tells it.
fn told(answer: &Answer) -> Option<Value> {
    let events = answer.body.split("\n\n").filter_map(|event| {
        let data = event.lines().find_map(|line| line.strip_prefix("data: "))?;
        serde_json::from_str::<Value>(data).ok()
    });
    let usages = events.filter_map(|event| {
        let usages = [&event["usage"], &event["response"]["usage"]];
        usages.into_iter().find(|usage| usage.is_object()).cloned()
    });
    usages.last()
}

#[tokio::test(flavor = "multi_thread")]
async fn normal_answers_are_charged_what_the_engine_reports() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    for path in [COMPLETIONS, RESPONSES, EMBEDDINGS] {
        let test = json!({"tokens": 7, "cached": 4, "reasoning": 2});
        let mut body = request(path, 20, test);
        body["unknown"] = json!({"deep": [1.5, null]});
        let answer = post(gateway.http, path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let cost = if path == EMBEDDINGS {
            "0.000010"
        } else {
            "0.000036"
        };
        assert_eq!(answer.header("x-tally-cost"), cost, "{path}");
        assert!(answer.header("x-tally-receipt").starts_with("0-1-"));
        assert!(!answer.header("x-tally-remaining").is_empty());
        assert_eq!(
            answer.header("x-request-id"),
            answer.header("x-tally-receipt")
        );
        assert_eq!(setup.engine.last().1["unknown"], body["unknown"]);
    }
    gateway.stop().await.unwrap();
    let debits = setup.chain.debits();
    for debit in &debits[..2] {
        assert_eq!(debit.detail.usage.0, [10, 4, 7, 2, 0, 0]);
        assert_eq!(debit.fixed.flags, Flags::default());
    }
    assert_eq!(debits[2].detail.usage.0, [10, 0, 0, 0, 0, 0]);
    // `"count"`, two messages' worth of template.
    assert_eq!(debits[2].fixed.limit.0, 7 + 64);
    assert_eq!(setup.chain.main().spent.0, 36 + 36 + 10);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_charged_what_the_engine_reports() {
    for path in GENERATING {
        let setup = Setup::new(PLENTY).await;
        let gateway = setup.gateway().await;
        let body = streamed(path, 20, json!({"tokens": 5}));
        let answer = post(gateway.http, path, &body).await;
        assert_eq!(words(&answer), 5, "{}", answer.body);
        assert_eq!(answer.header("content-type"), "text/event-stream");
        assert_eq!(answer.header("x-tally-cost"), "");
        assert!(!answer.header("x-tally-remaining").is_empty());
        if path == COMPLETIONS {
            assert!(answer.body.ends_with("data: [DONE]\n\n"));
            assert_eq!(told(&answer), None, "usage was not asked for");
        } else {
            // Byte for byte as the engine sent it.
            assert!(answer.body.starts_with("event: response.created\ndata: "));
            assert_eq!(told(&answer).unwrap()["output_tokens"], 5);
            assert_eq!(setup.engine.last().1["stream_options"], Value::Null);
        }
        let (receipt, debit) = setup.chain.only_receipt().await;
        assert_eq!((receipt.charged.0, receipt.flags), (30, Flags::default()));
        assert_eq!(debit.detail.usage.0, [10, 0, 5, 0, 0, 0]);
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_missing_is_counted() {
    for path in GENERATING {
        let setup = Setup::new(PLENTY).await;
        let gateway = setup.gateway().await;
        let test = json!({"tokens": 5, "usage": false});
        post(gateway.http, path, &streamed(path, 20, test)).await;
        // Not streamed: 7 words, 34 bytes.
        let test = json!({"tokens": 7, "usage": false});
        post(gateway.http, path, &request(path, 20, test)).await;
        gateway.stop().await.unwrap();
        for debit in setup.chain.debits() {
            assert_eq!(debit.detail.usage.0, [LIKELY, 0, 5, 0, 0, 0], "{path}");
            assert_eq!(debit.fixed.flags, Flags::COUNTED);
        }
        setup.chain.check();
    }
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let body = request(EMBEDDINGS, 0, json!({"usage": false}));
    post(gateway.http, EMBEDDINGS, &body).await;
    gateway.stop().await.unwrap();
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!(debit.detail.usage.0, [LIKELY, 0, 0, 0, 0, 0]);
    assert_eq!(receipt.flags, Flags::ESTIMATED);
}

fn http_request(
    to: std::net::SocketAddr,
    path: &str,
    body: &Value,
) -> http::Request<Full<bytes::Bytes>> {
    http::Request::post(format!("http://{to}{path}"))
        .header(
            "authorization",
            format!("Bearer {}", chain::api_key_text(0)),
        )
        .body(Full::new(body.to_string().into()))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_charged_what_was_generated() {
    for path in GENERATING {
        let setup = Setup::new(PLENTY).await;
        let gateway = setup.gateway().await;
        let body = streamed(path, 20, json!({"hold": 3}));
        let client = crate::support::client();
        let answer = client
            .request(http_request(gateway.http, path, &body))
            .await
            .unwrap();
        let mut body = answer.into_body();
        let mut seen = String::new();
        while seen.matches("word ").count() < 3 {
            let frame = body.frame().await.unwrap().unwrap();
            seen += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
        drop((body, client));
        until("the engine notices", || {
            setup.engine.cancelled.load(Ordering::Relaxed) == 1
        })
        .await;
        let (receipt, debit) = setup.chain.only_receipt().await;
        assert_eq!(receipt.flags, Flags::COUNTED, "{path}");
        assert_eq!(debit.detail.usage.0, [LIKELY, 0, 3, 0, 0, 0]);
        gateway.stop().await.unwrap();
        setup.chain.check();
    }
    for path in [COMPLETIONS, RESPONSES, EMBEDDINGS] {
        let setup = Setup::new(PLENTY).await;
        let gateway = setup.gateway().await;
        let body = request(path, 20, json!({"silent": true}));
        let client = crate::support::client();
        let sent = tokio::spawn(client.request(http_request(gateway.http, path, &body)));
        until("the engine is asked", || {
            setup.engine.requests.load(Ordering::Relaxed) == 1
        })
        .await;
        sent.abort();
        let _ = sent.await;
        drop(client);
        let (receipt, debit) = setup.chain.only_receipt().await;
        assert_eq!(receipt.flags, Flags::ESTIMATED, "{path}");
        assert_eq!(debit.detail.usage.0, [LIKELY, 0, 0, 0, 0, 0]);
        gateway.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_costs_nothing_before_and_what_came_after_output() {
    for path in GENERATING {
        let setup = Setup::new(PLENTY).await;
        let gateway = setup.gateway().await;
        for (test, text) in [
            (json!({"status": 400}), "engine_says_no"),
            (json!({"break": 0}), "upstream_error"),
            (json!({"sse_error": 0}), "oops"),
        ] {
            let answer = post(gateway.http, path, &streamed(path, 20, test)).await;
            assert!(answer.body.contains(text), "{path}: {}", answer.body);
        }
        let answer = post(gateway.http, path, &request(path, 20, json!({"break": 0}))).await;
        assert_eq!(answer.status, 502);
        let answer = post(gateway.http, path, &streamed(path, 20, json!({"break": 3}))).await;
        assert!(answer.body.contains("upstream_error"), "{}", answer.body);
        if path == RESPONSES {
            let last = answer
                .body
                .split("\n\n")
                .filter(|event| !event.is_empty())
                .last();
            let data = last.unwrap().strip_prefix("event: error\ndata: ").unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(
                (&data["type"], &data["sequence_number"]),
                (&json!("error"), &json!(4))
            );
        }
        gateway.stop().await.unwrap();
        let (receipt, debit) = setup.chain.only_receipt().await;
        assert_eq!(receipt.flags, Flags::COUNTED);
        assert_eq!(debit.detail.usage.0, [LIKELY, 0, 3, 0, 0, 0]);
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_lowered_near_the_end_of_the_balance() {
    // The input's bound and 12 tokens of output.
    for (path, bound) in [(COMPLETIONS, 7 + 64), (RESPONSES, 7 + 64)] {
        for stream in [false, true] {
            let setup = Setup::new(bound + 12 * 4).await;
            let gateway = setup.gateway().await;
            let mut body = request(path, 50, json!({}));
            body["stream"] = stream.into();
            let answer = post(gateway.http, path, &body).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            let asked = setup.engine.last().1;
            let limit = if path == COMPLETIONS {
                "max_tokens"
            } else {
                "max_output_tokens"
            };
            assert_eq!(asked[limit], 12, "{path}");
            gateway.stop().await.unwrap();
            let (receipt, _) = setup.chain.only_receipt().await;
            assert_eq!((receipt.charged.0, receipt.flags), (58, Flags::default()));
            setup.chain.check();
        }
    }
    // Embeddings have no output that could be lowered.
    let setup = Setup::new(7 + 64 - 1).await;
    let gateway = setup.gateway().await;
    let answer = post(gateway.http, EMBEDDINGS, &request(EMBEDDINGS, 0, json!({}))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (429, "insufficient_quota")
    );
    setup.chain.issue(0, chain::MAIN, 1);
    // A refusal may rest on what was proven half a second ago.
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    let body = request(EMBEDDINGS, 0, json!({}));
    loop {
        let answer = post(gateway.http, EMBEDDINGS, &body).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.code(), "insufficient_quota", "{}", answer.body);
        assert!(tokio::time::Instant::now() < deadline);
    }
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_completion_stream_with_exact_usage_is_cut_in_its_own_form() {
    // Behind the bound (71) 2 tokens could be paid, behind the input (10) 17.
    let mut setup = Setup::new(71 + 2 * 4).await;
    setup.config.upstreams[0].continuous_usage = true;
    let gateway = setup.gateway().await;
    let answer = post(
        gateway.http,
        COMPLETIONS,
        &streamed(COMPLETIONS, 50, json!({})),
    )
    .await;
    assert_eq!(words(&answer), 17, "{}", answer.body);
    let events = answer.events();
    let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(
        (
            &last["choices"][0]["finish_reason"],
            &last["choices"][0]["text"]
        ),
        (&json!("length"), &json!(""))
    );
    gateway.stop().await.unwrap();
    let (receipt, _) = setup.chain.only_receipt().await;
    assert_eq!(receipt.charged.0, 78);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_and_choices_multiply_and_16_tokens_are_the_default() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    for (prompt, n, answers) in [
        (json!("a"), 1, 1),
        (json!(["a", "b", "c"]), 2, 6),
        (json!([1, 2, 3]), 1, 1),
        (json!([[1, 2], [3]]), 1, 2),
    ] {
        let body = json!({"model": "m", "prompt": prompt, "n": n});
        let answer = post(gateway.http, COMPLETIONS, &body).await;
        assert_eq!(
            answer.json()["usage"]["completion_tokens"],
            16 * answers,
            "{body}: {}",
            answer.body
        );
        assert_eq!(setup.engine.last().1["max_tokens"], 16);
    }
    gateway.stop().await.unwrap();
    let debits = setup.chain.debits();
    assert!(
        debits
            .iter()
            .all(|debit| debit.fixed.flags == Flags::default())
    );
    // Three token numbers, and two messages' worth of template.
    assert_eq!(debits[2].fixed.limit.0, 3 + 64 + 4 * 16);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_is_counted_by_the_engine_when_its_bound_does_not_fit() {
    let mut setup = Setup::new(10 + 20 * 4).await;
    setup.config.upstreams[0].tokenize = Tokenize::Vllm;
    let gateway = setup.gateway().await;
    let answer = post(
        gateway.http,
        COMPLETIONS,
        &request(COMPLETIONS, 20, json!({})),
    )
    .await;
    assert_eq!(
        answer.json()["usage"]["completion_tokens"],
        20,
        "{}",
        answer.body
    );
    assert_eq!(setup.engine.tokenized.load(Ordering::Relaxed), 1);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, 0);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_not_in_the_request_is_refused_and_costs_nothing() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("background", json!(true)),
        ("prompt", json!({"id": "p"})),
        ("tools", json!([{"type": "web_search"}])),
        ("input", json!([{"type": "item_reference", "id": "msg_1"}])),
    ] {
        let mut body = request(RESPONSES, 20, json!({}));
        body[field] = value;
        let answer = post(gateway.http, RESPONSES, &body).await;
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.json()["error"]["param"].as_str()
            ),
            (400, Some(field)),
            "{}",
            answer.body
        );
    }
    let mut body = request(EMBEDDINGS, 0, json!({}));
    body["stream"] = true.into();
    assert_eq!(post(gateway.http, EMBEDDINGS, &body).await.status, 400);
    assert_eq!(setup.engine.requests.load(Ordering::Relaxed), 0);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, PLENTY);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_follow_the_route_that_is_named() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let body = request(EMBEDDINGS, 0, json!({}));
    let quote = post(to, "/v1/tally/quote?route=/v1/embeddings", &body)
        .await
        .json();
    assert_eq!(quote["input_tokens"], json!({"bound": 71, "likely": 3}));
    assert_eq!(quote["output_tokens"], json!({"bound": 0, "payable": 0}));
    let body = json!({"model": "m", "prompt": ["a", "b"]});
    let quote = post(to, "/v1/tally/quote?route=%2Fv1%2Fcompletions", &body)
        .await
        .json();
    assert_eq!(
        (&quote["choices"], &quote["output_tokens"]["bound"]),
        (&json!(2), &json!(32))
    );
    let bad = post(to, "/v1/tally/quote?route=/v1/files", &body).await;
    assert_eq!(bad.status, 400);
    gateway.stop().await.unwrap();
}
