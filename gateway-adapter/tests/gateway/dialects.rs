//! Engines that cannot be run here, in the wire formats that their own sources
//! show: how each of their endings is charged.
//!
//! - TGI, huggingface/text-generation-inference: `router/src/chat.rs` (chunks,
//!   usage), `router/src/infer/mod.rs` and `server.rs` (errors, `[DONE]`).
//! - Triton, triton-inference-server/server: `python/openai/openai_frontend/`
//!   `engine/triton_engine.py` (chunks, usage, what it refuses) and
//!   `frontend/fastapi/routers/chat.py` (errors).

use std::sync::{Arc, Mutex};

use crate::support::{Answer, Setup, chat, send, until};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, response::IntoResponse};
use serde_json::{Value, json};
use tally_ledger::debit::Flags;

const PLENTY: u64 = 1_000_000;
const EVENTS: &str = "text/event-stream";
const JSON: &str = "application/json";

/// What the engine says next, and what it was asked last.
struct Canned {
    next: (u16, &'static str, String),
    asked: Value,
}

type Shared = Arc<Mutex<Canned>>;

async fn say(State(canned): State<Shared>, body: Bytes) -> axum::response::Response {
    let mut canned = canned.lock().unwrap();
    canned.asked = serde_json::from_slice(&body).unwrap();
    let (status, kind, text) = canned.next.clone();
    let status = StatusCode::from_u16(status).unwrap();
    (status, [("content-type", kind)], text).into_response()
}

async fn engine() -> (std::net::SocketAddr, Shared) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let canned = Arc::new(Mutex::new(Canned {
        next: (500, JSON, String::new()),
        asked: Value::Null,
    }));
    let router = Router::new().fallback(say).with_state(canned.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, canned)
}

/// TGI: no space behind `data:`, the role on every chunk, the end's reason on
/// the last token's, `usage` everywhere.
fn tgi(texts: &[&str], ends: &[&str]) -> String {
    let chunk = |(i, text): (usize, &&str)| {
        let finish = (i + 1 == texts.len()).then_some("length");
        let choice = json!({
            "index": 0,
            "delta": {"role": "assistant", "content": text},
            "logprobs": null,
            "finish_reason": finish,
        });
        let chunk = json!({
            "object": "chat.completion.chunk", "id": "", "created": 1, "model": "m",
            "system_fingerprint": "3", "choices": [choice], "usage": null,
        });
        format!("data:{chunk}\n\n")
    };
    let chunks = texts.iter().enumerate().map(chunk);
    let ends = ends.iter().map(|end| format!("data:{end}\n\n"));
    chunks.chain(ends).collect()
}

const TGI_USAGE: &str = r#"{"object":"chat.completion.chunk","id":"","created":1,"model":"m","system_fingerprint":"3","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}"#;
const TGI_ERROR: &str = r#"{"error":"Request failed during generation: Server error: out of memory","error_type":"generation"}"#;

/// Triton: the role alone first, fields that are unset left away, "stop" at
/// the end even where the limit ended it.
fn triton(texts: &[&str], ends: &[&str]) -> String {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"delta": delta, "finish_reason": finish, "index": 0, "logprobs": null});
        let chunk = json!({
            "id": "cmpl-1", "choices": [choice], "created": 1, "model": "m",
            "system_fingerprint": null, "object": "chat.completion.chunk", "usage": null,
        });
        format!("data: {chunk}\n\n")
    };
    let first = json!({"content": "", "function_call": null, "role": "assistant"});
    let mut said = chunk(first, Value::Null);
    for text in texts {
        let delta = json!({"content": text, "function_call": null, "role": null});
        said += &chunk(delta, Value::Null);
    }
    let last = json!({"content": "", "function_call": null, "role": null});
    said += &chunk(last, "stop".into());
    let ends = ends.iter().map(|end| format!("data: {end}\n\n"));
    said + &ends.collect::<String>()
}

const TRITON_USAGE: &str = r#"{"id":"cmpl-1","choices":[],"created":1,"model":"m","system_fingerprint":null,"object":"chat.completion.chunk","usage":{"completion_tokens":3,"prompt_tokens":9,"total_tokens":12}}"#;

fn whole(usage: Value) -> String {
    let message = json!({"role": "assistant", "content": "a b c d e f"});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let mut answer = json!({"id": "x", "object": "chat.completion", "choices": [choice]});
    if !usage.is_null() {
        answer["usage"] = usage;
    }
    answer.to_string()
}

/// A row: what the engine says to a request, streamed or not.
struct Said {
    name: &'static str,
    stream: bool,
    answer: (u16, &'static str, String),
    /// Input and output charged, and how they are known; `None`: nothing.
    charged: Option<(u32, u32, Flags)>,
}

fn rows(likely: u32) -> Vec<Said> {
    let (reported, counted) = (Flags::default(), Flags::COUNTED);
    let events = |text| (200, EVENTS, text);
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12});
    let row = |name, stream, answer, charged| Said {
        name,
        stream,
        answer,
        charged,
    };
    let words = ["a", " b", " c"];
    let done = "[DONE]";
    vec![
        row(
            "TGI, usage asked for",
            true,
            events(tgi(&words, &[TGI_USAGE, done])),
            Some((9, 3, reported)),
        ),
        row(
            "TGI, one that knows no stream_options and no [DONE]",
            true,
            events(tgi(&words, &[])),
            Some((likely, 3, counted)),
        ),
        row(
            "TGI fails after two tokens",
            true,
            events(tgi(&words[..2], &[TGI_ERROR])),
            Some((likely, 2, counted)),
        ),
        row(
            "TGI fails before any",
            true,
            events(tgi(&[], &[TGI_ERROR])),
            None,
        ),
        row(
            "TGI is overloaded",
            true,
            (429, JSON, json!({"error": "Model is overloaded", "error_type": "overloaded"}).to_string()),
            None,
        ),
        row(
            "TGI finds the input too long",
            false,
            (422, JSON, json!({"error": "Input validation error", "error_type": "validation"}).to_string()),
            None,
        ),
        row(
            "TGI, whole",
            false,
            (200, JSON, whole(usage.clone())),
            Some((9, 3, reported)),
        ),
        row(
            "Triton, usage asked for",
            true,
            events(triton(&words, &[TRITON_USAGE, done])),
            Some((9, 3, reported)),
        ),
        row(
            "Triton, a backend that tells no usage",
            true,
            events(triton(&words, &[done])),
            Some((likely, 3, counted)),
        ),
        row(
            "Triton, whole, a backend that tells none",
            false,
            (200, JSON, whole(Value::Null)),
            // One message of eleven bytes: a token for eight, at least.
            Some((likely, 11u32.div_ceil(8), counted)),
        ),
        row(
            "Triton serves one answer only",
            false,
            (400, JSON, json!({"detail": "Received n=2, but only single choice (n=1) is currently supported"}).to_string()),
            None,
        ),
        row(
            "Triton's inference fails",
            false,
            (500, JSON, json!({"detail": "out of memory"}).to_string()),
            None,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_ending_of_tgi_and_triton_is_charged_as_the_table_says() {
    let mut setup = Setup::new(PLENTY).await;
    let (address, canned) = engine().await;
    setup.config.upstreams[0].url = format!("http://{address}");
    let gateway = setup.gateway().await;
    let body = chat(20, Value::Null);
    let likely = body["messages"].to_string().len().div_ceil(3) as u32;
    let mut receipts = 0;
    for said in rows(likely) {
        let (status, _, text) = said.answer.clone();
        canned.lock().unwrap().next = said.answer;
        let mut body = body.clone();
        body["stream"] = said.stream.into();
        let answer: Answer = send(gateway.http, &body).await;
        assert_eq!(answer.status, status, "{}", said.name);
        // The client gets what was said, but usage that it did not ask for.
        let hidden = [TGI_USAGE, TRITON_USAGE]
            .map(|usage| [format!("data:{usage}\n\n"), format!("data: {usage}\n\n")]);
        let shown = hidden
            .iter()
            .flatten()
            .fold(text, |text, usage| text.replace(usage, ""));
        assert_eq!(answer.body, shown, "{}", said.name);
        if let Some((input, output, flags)) = said.charged {
            receipts += 1;
            until(said.name, || setup.chain.receipts().len() == receipts).await;
            let usage = setup.chain.debits().last().unwrap().detail.usage.0;
            assert_eq!((usage[0], usage[2]), (input, output), "{}", said.name);
            let receipt = *setup.chain.receipts().last().unwrap();
            assert_eq!(receipt.flags, flags, "{}", said.name);
            assert_eq!(
                (receipt.cost, receipt.charged),
                (receipt.charged, receipt.cost)
            );
        }
        // Engines that refuse fields which they do not know, or stream_options
        // without a stream, are asked for nothing of the kind.
        let asked = canned.lock().unwrap().asked.clone();
        let mut added: Vec<&str> = asked
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        added.retain(|field| body.get(*field).is_none());
        let expected: &[&str] = if said.stream {
            &["stream_options"]
        } else {
            &[]
        };
        assert_eq!(added, expected, "{}", said.name);
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), receipts);
    setup.chain.check();
}
