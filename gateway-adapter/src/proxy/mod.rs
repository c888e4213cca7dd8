//! The OpenAI-compatible reverse proxy.
//!
//! | route | |
//! |---|---|
//! | `POST /v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings` | metered ([`endpoint`]) |
//! | `GET /v1/models`, `/v1/tally/...` | free, for the caller's own account ([`free`]) |
//! | `GET /v1/tally/admit` | free; whether the key may spend anything (`admit`) |
//! | `GET /healthz` | 200 while the gateway serves |
//! | anything else | 404: nothing is passed on unmetered |
//!
//! Neither prompts, answers nor keys are ever logged.

mod admit;
pub mod body;
pub mod connections;
mod decoded;
mod dispatch;
pub mod endpoint;
pub mod exchange;
pub mod free;
mod gather;
mod measures;
pub mod object;
mod payment;
pub mod policy;
mod pricing;
pub mod prompt;
pub mod reply;
pub mod request;
pub mod responses;
pub mod sse;
pub mod stream;
pub mod tokenize;
pub mod upstream;

use std::{convert::Infallible, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header::AUTHORIZATION};
use rand::RngCore;
use tokio::sync::Semaphore;

use crate::{
    headers::{RECEIPT, REQUEST_ID},
    key::Key,
    live::Live,
    refusal::Refusal,
    repeats::Repeats,
    routing::Upstreams,
    serving::Serving,
};
use body::{Arriving, Body};
use endpoint::Endpoint;
use policy::Policy;

/// The proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Keys, terms, holds.
    pub serving: Arc<Serving>,
    /// Idempotency keys of requests that have no hold yet.
    pub repeats: Arc<Repeats>,
    /// The engines.
    pub upstreams: Arc<Upstreams>,
    /// What a reload may change.
    pub policy: Live<Policy>,
    /// Most bytes of a request's body.
    pub body_bytes: usize,
    /// `/metrics` is served here too: the listener is on loopback.
    pub metrics: bool,
    /// Turns of free routes at asking nodes and engines.
    pub asking: Semaphore,
}

impl Proxy {
    /// Answers one request.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Arriving>,
    ) -> Result<Response<Body>, Infallible> {
        let id = request.headers().get(REQUEST_ID).cloned();
        let (method, path) = (request.method().clone(), request.uri().path());
        let free = free::route(path).filter(|route| self.policy.look().free.contains(route));
        let mut response = match (&method, path) {
            (&Method::GET, "/v1/tally/admit") => self.admitted(request.headers()).await,
            (&Method::GET, "/healthz") => self.health(),
            (&Method::GET, "/metrics") if self.metrics => reply::text(self.serving.metrics.text()),
            _ => match (Endpoint::of(path), free) {
                (Some(_), _) if method != Method::POST => reply::wrong_method(&method, path),
                (Some(endpoint), _) => exchange::answer(&self, endpoint, request).await,
                (None, Some(route)) => free::answer(&self, route, request).await,
                (None, None) => reply::no_route(&method, path),
            },
        };
        let headers = response.headers_mut();
        if !headers.contains_key(REQUEST_ID) {
            let id = id
                .or_else(|| headers.get(RECEIPT).cloned())
                .or_else(fresh_id);
            headers.extend(id.map(|id| (REQUEST_ID, id)));
        }
        Ok(response)
    }

    /// The key that a request carries.
    pub(crate) async fn key(&self, headers: &HeaderMap) -> Result<Arc<Key>, Refusal> {
        let value = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let bearer = value.and_then(|value| {
            let (scheme, rest) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(rest.trim())
        });
        self.serving.key(bearer.ok_or(Refusal::MissingKey)?).await
    }

    /// Says no, and counts it.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Response<Body> {
        self.serving.metrics.refuse(refusal.code());
        reply::refusal(refusal)
    }

    /// 200 while requests are served.
    pub fn health(&self) -> Response<Body> {
        let serving = &self.serving;
        let stopped = serving
            .holds
            .stopped
            .load(std::sync::atomic::Ordering::Relaxed);
        let journal = serving.holds.journal.works();
        let heartbeat = u64::from(serving.terms.get().parameters.heartbeat_ms);
        let silence = serving
            .light
            .silence()
            .map(|silence| silence.as_millis() as u64);
        let behind = silence.is_none_or(|silence| silence > heartbeat * 3);
        let healthy = journal && !stopped;
        let status = if healthy {
            http::StatusCode::OK
        } else {
            http::StatusCode::SERVICE_UNAVAILABLE
        };
        let page = serde_json::json!({
            "status": if !healthy { "not serving" } else if behind { "degraded" } else { "ok" },
            "journal": journal,
            "stopping": stopped,
            "chain_behind": behind,
            "height": serving.light.last().map(|header| header.height.0),
            "unproven_debits": serving.holds.journal.unproven(),
        });
        reply::json(status, &page)
    }
}

/// A name for a request that got neither one from its client nor a hold.
fn fresh_id() -> Option<HeaderValue> {
    let id = rand::thread_rng().next_u64();
    HeaderValue::from_str(&format!("req-{id:016x}")).ok()
}
