//! Routes that cost nothing: each answers about the caller's own account
//! only, and needs its API key.
//!
//! | route | |
//! |---|---|
//! | `GET /v1/models` | what the key may buy and an engine serves |
//! | `GET /v1/tally/balance` | the account, by class (`balance`) |
//! | `POST /v1/tally/quote` | what a request would cost (`quote`) |
//! | `GET /v1/tally/receipts/{id}` | a receipt with its proof (`receipt`) |
//! | `DELETE /v1/tally/key` | revokes the key (`revoke`) |
//!
//! Which of them are served is policy (`routes.free`). They ask the nodes or
//! the engine at most [`ASKING`] times at once, so that nobody can use them
//! up; more wait.

mod balance;
mod models;
mod quote;
mod receipt;
mod revoke;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tally_ledger::ids::Amount;

use super::{
    Proxy,
    body::{Arriving, Body},
    reply,
};
use crate::config::FreeRoute;

/// Questions to nodes and engines at once.
pub const ASKING: usize = 64;

/// The free route that a path names.
pub(super) fn route(path: &str) -> Option<FreeRoute> {
    match path {
        "/v1/models" => Some(FreeRoute::Models),
        "/v1/tally/balance" => Some(FreeRoute::Balance),
        "/v1/tally/quote" => Some(FreeRoute::Quote),
        "/v1/tally/key" => Some(FreeRoute::Key),
        _ => receipt::id(path).map(|_| FreeRoute::Receipts),
    }
}

fn method(route: FreeRoute) -> Method {
    match route {
        FreeRoute::Models | FreeRoute::Balance | FreeRoute::Receipts => Method::GET,
        FreeRoute::Quote => Method::POST,
        FreeRoute::Key => Method::DELETE,
    }
}

/// Answers a request to a free route.
pub(super) async fn answer(
    proxy: &Arc<Proxy>,
    route: FreeRoute,
    request: Request<Arriving>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if parts.method != method(route) {
        return reply::wrong_method(&parts.method, parts.uri.path());
    }
    let key = match proxy.key(&parts.headers).await {
        Ok(key) => key,
        Err(refusal) => return proxy.refuse(refusal),
    };
    let answer = match route {
        FreeRoute::Models => Ok(models::answer(proxy, &key)),
        FreeRoute::Balance => balance::answer(proxy, &key).await,
        FreeRoute::Quote => quote::answer(proxy, key, &parts, body).await,
        FreeRoute::Receipts => receipt::answer(proxy, &key, &parts).await,
        FreeRoute::Key => revoke::answer(proxy, &key).await,
    };
    answer.unwrap_or_else(|refused| *refused)
}

/// An amount, for people and for programs.
fn amount(amount: Amount) -> Value {
    json!({"ct": amount.to_string(), "micro_ct": amount.0})
}

fn found(value: &Value) -> Response<Body> {
    reply::json(StatusCode::OK, value)
}

/// The chain could not be asked.
fn unreachable(proxy: &Proxy, error: &crate::chain::ChainError) -> Box<Response<Body>> {
    tracing::warn!(%error, "a free route could not ask the chain");
    Box::new(proxy.refuse(crate::refusal::Refusal::Unanswered))
}
