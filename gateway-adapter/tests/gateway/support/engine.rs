//! The engine: every word of its answer is one token; a prompt counts ten
//! tokens per message, prompt or item. A request's `test` field says what goes wrong:
//!
//! | field | |
//! |---|---|
//! | `tokens` | length of the answer it would give (default: as long as it may) |
//! | `usage` | false: never reported |
//! | `cached`, `reasoning` | reported so |
//! | `more` | output reported above what was made |
//! | `status` | answers with this status |
//! | `success` | the status of a good answer, if not 200 |
//! | `hold` | waits for [`Engine::release`] after this many tokens |
//! | `break` | breaks the connection off after this many tokens |
//! | `sse_error` | sends an error event after this many tokens |
//! | `silent` | never answers |
//! | `ms` | takes so long before it answers |
//! | `asked` | the client's limit, to tell whether the gateway lowered it |
//! | `encoding` | compresses the answer, whatever was accepted |

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    coded,
    shape::{Shape, Used},
};

pub struct Engine {
    pub address: SocketAddr,
    /// Requests as they arrived.
    pub seen: Mutex<Vec<(axum::http::HeaderMap, Value)>>,
    /// Their paths, with what came behind them.
    pub paths: Mutex<Vec<String>>,
    /// Requests that arrived.
    pub requests: AtomicUsize,
    /// Requests that were lowered, and those of them that were not alone.
    pub lowered: AtomicUsize,
    pub lowered_beside_others: AtomicUsize,
    /// `/tokenize` answers with an error.
    pub cannot_count: AtomicBool,
    /// Prompts that were counted.
    pub tokenized: AtomicUsize,
    /// Streams whose client went away before their end.
    pub cancelled: AtomicUsize,
    /// Requests being answered, and the most at once.
    pub running: AtomicUsize,
    pub most_running: AtomicUsize,
    /// Answers everything with this status, if it is not 0.
    pub status: AtomicU16,
    /// `/health` says that it is not well.
    pub sick: AtomicBool,
    released: Semaphore,
}

impl Engine {
    pub async fn start() -> Arc<Engine> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        Self::start_on(listener.unwrap())
    }

    pub fn start_on(listener: tokio::net::TcpListener) -> Arc<Engine> {
        let engine = Arc::new(Engine {
            address: listener.local_addr().unwrap(),
            seen: Mutex::new(Vec::new()),
            paths: Mutex::new(Vec::new()),
            requests: AtomicUsize::new(0),
            lowered: AtomicUsize::new(0),
            lowered_beside_others: AtomicUsize::new(0),
            cannot_count: AtomicBool::new(false),
            tokenized: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            status: AtomicU16::new(0),
            sick: AtomicBool::new(false),
            released: Semaphore::new(0),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .route("/under/v1/chat/completions", post(answer))
            .route("/v1/completions", post(answer))
            .route("/v1/responses", post(answer))
            .route("/v1/embeddings", post(answer))
            .route("/tokenize", post(tokenize))
            .route("/health", get(health))
            .with_state(engine.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        engine
    }

    /// Lets that many waiting answers go on.
    pub fn release(&self, answers: usize) {
        self.released.add_permits(answers);
    }

    /// How many requests came.
    pub fn asked(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn last(&self) -> (axum::http::HeaderMap, Value) {
        self.seen.lock().unwrap().last().unwrap().clone()
    }
}

struct Cancelled(Arc<Engine>, bool);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn number(test: &Value, name: &str) -> Option<u64> {
    test[name].as_u64()
}

async fn health(State(engine): State<Arc<Engine>>) -> StatusCode {
    match engine.sick.load(Ordering::Relaxed) {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    }
}

/// As vLLM answers.
async fn tokenize(State(engine): State<Arc<Engine>>, body: Bytes) -> Response {
    if engine.cannot_count.load(Ordering::Relaxed) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    engine.tokenized.fetch_add(1, Ordering::Relaxed);
    let shape = match request["messages"].is_array() {
        true => Shape::Chat,
        false => Shape::Text,
    };
    let tokens: Vec<u64> = (0..shape.prompt(&request)).collect();
    let counted = json!({"count": tokens.len(), "max_model_len": 4096, "tokens": tokens});
    ([("content-type", "application/json")], counted.to_string()).into_response()
}

async fn answer(
    State(engine): State<Arc<Engine>>,
    uri: axum::http::Uri,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path();
    let shape = Shape::of(path.strip_prefix("/under").unwrap_or(path));
    engine.paths.lock().unwrap().push(uri.to_string());
    let request: Value = serde_json::from_slice(&body).unwrap();
    engine.seen.lock().unwrap().push((headers, request.clone()));
    engine.requests.fetch_add(1, Ordering::Relaxed);
    let beside = engine.running.fetch_add(1, Ordering::SeqCst);
    engine.most_running.fetch_max(beside + 1, Ordering::SeqCst);
    let mut alive = Cancelled(engine.clone(), false);
    let test = request["test"].clone();
    if test["silent"] == true {
        std::future::pending::<()>().await;
    }
    if let Some(ms) = number(&test, "ms") {
        tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
    }
    let all = Some(u64::from(engine.status.load(Ordering::Relaxed))).filter(|status| *status > 0);
    if let Some(status) = number(&test, "status").or(all) {
        alive.1 = true;
        let error = json!({"error": {"message": "no", "type": "x", "param": null, "code": "engine_says_no"}});
        return (
            StatusCode::from_u16(status as u16).unwrap(),
            error.to_string(),
        )
            .into_response();
    }
    let may = shape.limit(&request);
    if number(&test, "asked").is_some_and(|asked| may < asked) {
        engine.lowered.fetch_add(1, Ordering::Relaxed);
        let others = usize::from(beside > 0);
        engine
            .lowered_beside_others
            .fetch_add(others, Ordering::Relaxed);
    }
    let tokens = number(&test, "tokens").unwrap_or(may).min(may);
    let choices = shape.choices(&request);
    let used = Used {
        input: shape.prompt(&request),
        cached: number(&test, "cached").unwrap_or(0),
        output: tokens * choices + number(&test, "more").unwrap_or(0),
        reasoning: number(&test, "reasoning").unwrap_or(0),
    };
    let usage = shape.usage((test["usage"] != false).then_some(used));
    let finish = if tokens == may { "length" } else { "stop" };
    let success = number(&test, "success").unwrap_or(200) as u16;
    if request["stream"] == true {
        let (events, streamed) = mpsc::channel(1);
        tokio::spawn(stream(
            engine, shape, alive, request, tokens, usage, finish, events,
        ));
        let encoding = test["encoding"].as_str().unwrap_or("identity");
        let body = coded::coded(encoding, ReceiverStream::new(streamed));
        return Response::builder()
            .status(success)
            .header("content-type", "text/event-stream")
            .header("content-encoding", encoding)
            .header("x-engine", "1")
            .body(body)
            .unwrap();
    }
    if number(&test, "hold").is_some() {
        engine.released.acquire().await.unwrap().forget();
    }
    alive.1 = true;
    drop(alive);
    let words = vec!["word"; tokens as usize].join(" ");
    let body = shape.whole(&words, choices, finish, &usage);
    if number(&test, "break").is_some() {
        let half: Vec<Result<Bytes, std::io::Error>> = vec![
            Ok(Bytes::from("{\"id\":")),
            Err(std::io::ErrorKind::BrokenPipe.into()),
        ];
        return Body::from_stream(tokio_stream::iter(half)).into_response();
    }
    let encoding = test["encoding"].as_str().unwrap_or("identity");
    let whole = tokio_stream::once(Ok(body.to_string()));
    Response::builder()
        .status(success)
        .header("content-type", "application/json")
        .header("content-encoding", encoding)
        .header("x-engine", "1")
        // As providers answer their own customers.
        .header("set-cookie", "theirs")
        .header("openai-organization", "theirs")
        .header("x-ratelimit-limit-tokens", "1")
        .body(coded::coded(encoding, whole))
        .unwrap()
}

#[allow(clippy::too_many_arguments)]
async fn stream(
    engine: Arc<Engine>,
    shape: Shape,
    mut alive: Cancelled,
    request: Value,
    tokens: u64,
    usage: Value,
    finish: &'static str,
    events: mpsc::Sender<Result<String, std::io::Error>>,
) {
    let test = &request["test"];
    let options = &request["stream_options"];
    if let Some(first) = shape.first() {
        let _ = events.send(Ok(shape.event(&first))).await;
    }
    // All words at once, if so asked.
    let mut together = (test["together"] == true).then(String::new);
    for i in 0..=tokens {
        if number(test, "hold") == Some(i) {
            tokio::select! {
                permit = engine.released.acquire() => permit.unwrap().forget(),
                () = events.closed() => return,
            }
        }
        if number(test, "break") == Some(i) {
            alive.1 = true;
            // A server whose body fails throws away what it has not written.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let _ = events
                .send(Err(std::io::ErrorKind::BrokenPipe.into()))
                .await;
            return;
        }
        if number(test, "sse_error") == Some(i) {
            alive.1 = true;
            let error = json!({"error": {"message": "oops", "code": 500}});
            let _ = events.send(Ok(shape.event(&error))).await;
            let _ = events.send(Ok("data: [DONE]\n\n".into())).await;
            return;
        }
        if i == tokens {
            break;
        }
        let mut chunk = shape.word(i);
        if options["continuous_usage_stats"] == true {
            chunk["usage"] = json!({"prompt_tokens": 10, "completion_tokens": i + 1});
        }
        let event = shape.event(&chunk);
        if let Some(together) = &mut together {
            together.push_str(&event);
        } else if events.send(Ok(event)).await.is_err() {
            return;
        }
    }
    if let Some(together) = together {
        let _ = events.send(Ok(together)).await;
    }
    let mut ends = shape.ends(finish, &usage, options["include_usage"] == true, tokens);
    let last = ends.pop().unwrap();
    for end in ends {
        let _ = events.send(Ok(end)).await;
    }
    alive.1 = true;
    // It has ended before anybody is told so.
    drop(alive);
    let _ = events.send(Ok(last)).await;
}
