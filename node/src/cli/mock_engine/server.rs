//! The mock engine's HTTP side: `/v1/chat/completions`, streamed and not,
//! `/v1/models`, and `/tokenize`, as vLLM serves them.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::stream::{self, Stream};
use serde_json::{Value, json};

use super::answer::{Answer, ChatRequest, Prompt};

/// How the engine behaves.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    /// Varies lengths and counts.
    pub(crate) seed: u64,
    /// Models that it serves.
    pub(crate) models: Vec<String>,
    /// Longest answer, in tokens.
    pub(crate) max_output: u32,
    /// Time before the first token.
    pub(crate) think: Duration,
    /// Time between two chunks of a stream.
    pub(crate) chunk_delay: Duration,
}

/// The routes.
pub(crate) fn router(engine: Engine) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/tokenize", post(tokenize))
        .route("/health", get(|| async { "ok" }))
        .with_state(Arc::new(engine))
}

async fn models(State(engine): State<Arc<Engine>>) -> Json<Value> {
    let model =
        |id: &String| json!({"id": id, "object": "model", "created": 0, "owned_by": "mock"});
    let data: Vec<Value> = engine.models.iter().map(model).collect();
    Json(json!({"object": "list", "data": data}))
}

/// A prompt's tokens, as vLLM counts them when asked.
async fn tokenize(Json(prompt): Json<Prompt>) -> Json<Value> {
    let tokens: Vec<u32> = (0..prompt.tokens()).collect();
    Json(json!({"count": tokens.len(), "max_model_len": 131_072, "tokens": tokens}))
}

async fn chat(
    State(engine): State<Arc<Engine>>,
    body: Result<Json<ChatRequest>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        Err(e) => {
            return error(
                StatusCode::BAD_REQUEST,
                &e.body_text(),
                "invalid_request_error",
            );
        }
    };
    if !engine.models.contains(&request.model) {
        let message = format!("The model `{}` does not exist.", request.model);
        return error(StatusCode::NOT_FOUND, &message, "model_not_found");
    }
    let answer = match request.plan(engine.seed, engine.max_output) {
        Ok(answer) => answer,
        Err(message) => return error(StatusCode::BAD_REQUEST, message, "invalid_request_error"),
    };
    if request.stream {
        let content = [(header::CONTENT_TYPE, "text/event-stream")];
        (content, Body::from_stream(events(engine, request, answer))).into_response()
    } else {
        tokio::time::sleep(engine.think).await;
        Json(answer.whole()).into_response()
    }
}

fn error(status: StatusCode, message: &str, code: &str) -> Response {
    let error = json!({"message": message, "type": code, "param": null, "code": code});
    (status, Json(json!({"error": error}))).into_response()
}

/// The stream's events in order: role, one per token, end, usage if asked,
/// `[DONE]`. When the client hangs up, the stream is dropped and generation
/// ends with it.
fn events(
    engine: Arc<Engine>,
    request: ChatRequest,
    answer: Answer,
) -> impl Stream<Item = Result<String, std::convert::Infallible>> {
    let last = answer.completion + 3;
    stream::unfold(0, move |step| {
        let event = (step <= last).then(|| event(&request, &answer, step));
        let delay = match step {
            0 => Duration::ZERO,
            1 => engine.think,
            _ => engine.chunk_delay,
        };
        async move {
            let event = event?;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            Some((Ok(event), step + 1))
        }
    })
}

/// Steps: 0 the role, 1..=n the tokens, n+1 the end, n+2 usage, n+3 `[DONE]`.
fn event(request: &ChatRequest, answer: &Answer, step: u32) -> String {
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let n = answer.completion;
    let mut chunk = match step {
        0 => answer.chunk(choice(
            json!({"role": "assistant", "content": ""}),
            Value::Null,
        )),
        step if step <= n => {
            let field = if step <= answer.reasoning {
                "reasoning_content"
            } else {
                "content"
            };
            answer.chunk(choice(json!({field: answer.token(step - 1)}), Value::Null))
        }
        step if step == n + 1 => answer.chunk(choice(json!({}), answer.finish().into())),
        step if step == n + 2 && !request.wants_usage() => return String::new(),
        step if step == n + 2 => answer.chunk(json!([])),
        _ => return "data: [DONE]\n\n".to_owned(),
    };
    if request.wants_usage() {
        let known = step == n + 2 || request.wants_continuous_usage();
        chunk["usage"] = if known {
            answer.usage(step.min(n))
        } else {
            Value::Null
        };
    }
    format!("data: {chunk}\n\n")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    async fn stream_of(extra: Value) -> (Answer, Vec<Value>) {
        let mut body = json!({"model": "m", "stream": true, "max_tokens": 5,
            "messages": [{"role": "user", "content": "hello"}]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        let request: ChatRequest = serde_json::from_value(body).unwrap();
        let engine = Engine {
            seed: 3,
            models: vec!["m".to_owned()],
            max_output: 64,
            think: Duration::ZERO,
            chunk_delay: Duration::ZERO,
        };
        let answer = request.plan(engine.seed, engine.max_output).unwrap();
        let all: Vec<_> = events(Arc::new(engine), request, answer.clone())
            .collect()
            .await;
        let text: String = all.into_iter().map(|event| event.unwrap()).collect();
        assert!(text.ends_with("data: [DONE]\n\n"));
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: {"));
        let chunks = lines.map(|line| serde_json::from_str(&format!("{{{line}")).unwrap());
        (answer, chunks.collect())
    }

    #[tokio::test]
    async fn a_stream_has_a_chunk_per_token_and_usage_only_if_asked() {
        let (answer, chunks) = stream_of(json!({})).await;
        assert_eq!(chunks.len(), answer.completion as usize + 2);
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        let end = &chunks[chunks.len() - 1]["choices"][0]["finish_reason"];
        assert_eq!(end, answer.finish());

        let (answer, chunks) = stream_of(json!({"stream_options": {"include_usage": true}})).await;
        assert_eq!(chunks.len(), answer.completion as usize + 3);
        let last = &chunks[chunks.len() - 1];
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"], answer.usage(answer.completion));
        assert!(
            chunks[..chunks.len() - 1]
                .iter()
                .all(|chunk| chunk["usage"].is_null())
        );
    }

    #[tokio::test]
    async fn continuous_usage_counts_up() {
        let options = json!({"include_usage": true, "continuous_usage_stats": true});
        let (answer, chunks) = stream_of(json!({"stream_options": options})).await;
        for (i, chunk) in chunks.iter().enumerate() {
            let expected = (i as u32).min(answer.completion);
            assert_eq!(chunk["usage"]["completion_tokens"], expected);
        }
    }
}
