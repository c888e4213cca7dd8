//! Asking the engine how many tokens a prompt has.
//!
//! Done only near the end of a balance, when the bound from the prompt's
//! bytes does not fit: never on the way of a request that is covered. Bounded
//! in time and in bytes; whatever goes wrong, the bound is used instead. An
//! engine that later reports more than it counted is charged the hold
//! (`capped`).

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;

use super::{request::Call, upstream::Upstream};
use crate::routing::Route;

/// Where vLLM and its kin count.
const PATH: &str = "/tokenize";
/// Longest that counting may take.
const TIME: Duration = Duration::from_secs(2);
/// Bytes of an answer beside its list of tokens.
const ANSWER_BYTES: usize = 64 * 1024;
/// Bytes of a token in that list; a prompt has no more tokens than bytes.
const TOKEN_BYTES: usize = 10;

#[derive(Deserialize)]
struct Counted {
    count: u32,
}

/// Whether one of the engines can count this prompt.
pub fn counts(route: &Route, call: &Call<'_>) -> bool {
    route.counting().is_some() && call.is_countable()
}

/// The prompt's tokens, as the engine counts them; `None` if it does not say.
pub async fn count(route: &Route, call: &Call<'_>) -> Option<u32> {
    let upstream = route.counting()?;
    let asked = call.to_tokenize(&upstream)?;
    match tokio::time::timeout(TIME, ask(&upstream, asked)).await {
        Ok(Some(count)) => Some(count),
        Ok(None) | Err(_) => {
            tracing::debug!("the engine did not count a prompt: its bound is used");
            None
        }
    }
}

async fn ask(upstream: &Upstream, asked: String) -> Option<u32> {
    let most = asked
        .len()
        .saturating_mul(TOKEN_BYTES)
        .saturating_add(ANSWER_BYTES);
    let headers = HeaderMap::new();
    let call = upstream.post(PATH, &headers, Bytes::from(asked));
    let answer = call.await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let body = Limited::new(answer.into_body(), most).collect().await;
    let counted: Counted = serde_json::from_slice(&body.ok()?.to_bytes()).ok()?;
    Some(counted.count).filter(|count| *count > 0)
}
