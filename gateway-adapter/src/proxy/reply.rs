//! Answers that the gateway itself gives, in OpenAI's form.

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Value, json};
use tally_ledger::ids::GatewayNumber;

use super::body::{Body, whole};
use crate::{
    headers::{RECEIPT, RETRY_AFTER_MS, SHOULD_RETRY},
    holds::receipt_id,
    refusal::Refusal,
    repeats::Repeated,
};

/// A JSON answer.
pub fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(whole(value.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A plain text.
pub fn text(text: String) -> Response<Body> {
    let mut response = Response::new(whole(text));
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// OpenAI's error object.
pub fn error_object(message: &str, kind: &str, param: Option<&str>, code: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// A refusal. Clients' libraries retry 429 and 5xx on their own; the header
/// says whether that helps.
pub fn refusal(refusal: Refusal) -> Response<Body> {
    let message = refusal.to_string();
    let object = error_object(&message, refusal.kind(), None, refusal.code());
    let mut response = json(refusal.status(), &object);
    let headers = response.headers_mut();
    let retry = if refusal.retry() { "true" } else { "false" };
    headers.insert(SHOULD_RETRY, HeaderValue::from_static(retry));
    if let Some(ms) = refusal.retry_ms() {
        headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(ms));
    }
    response
}

/// A request whose Idempotency-Key was used before: it is not served again.
/// Clients' libraries retry 409 by themselves; that helps only while the
/// first one runs.
pub fn repeated(gateway: GatewayNumber, repeated: Repeated) -> Response<Body> {
    let (status, message, retry) = match repeated {
        Repeated::Running => (
            StatusCode::CONFLICT,
            "a request with this Idempotency-Key is still running",
            true,
        ),
        Repeated::Served(_) => (
            StatusCode::CONFLICT,
            "a request with this Idempotency-Key was served before; its receipt is in x-tally-receipt",
            false,
        ),
        Repeated::Full => (
            StatusCode::TOO_MANY_REQUESTS,
            "too many Idempotency-Keys were used within a day",
            false,
        ),
    };
    let kind = "invalid_request_error";
    let mut response = json(status, &error_object(message, kind, None, repeated.code()));
    let headers = response.headers_mut();
    let retry = if retry { "true" } else { "false" };
    headers.insert(SHOULD_RETRY, HeaderValue::from_static(retry));
    if let Repeated::Served(hold) = repeated
        && let Ok(receipt) = HeaderValue::from_str(&receipt_id(gateway, hold))
    {
        headers.insert(RECEIPT, receipt);
    }
    response
}

/// A request that cannot be understood.
pub fn bad_request(message: &str, param: Option<&str>) -> Response<Body> {
    let object = error_object(message, "invalid_request_error", param, "invalid_value");
    json(StatusCode::BAD_REQUEST, &object)
}

/// A body over the limit.
pub fn too_large(most: usize) -> Response<Body> {
    let message = format!("the request's body has more than {most} bytes");
    let object = error_object(&message, "invalid_request_error", None, "request_too_large");
    json(StatusCode::PAYLOAD_TOO_LARGE, &object)
}

/// The engine failed before anything was delivered: nothing is charged.
pub fn upstream_failed(message: &str) -> Response<Body> {
    let object = error_object(message, "server_error", None, "upstream_error");
    json(StatusCode::BAD_GATEWAY, &object)
}

/// There is no such route: nothing is passed on unmetered.
pub fn no_route(method: &Method, path: &str) -> Response<Body> {
    let message = format!("Invalid URL ({method} {path})");
    let object = error_object(&message, "invalid_request_error", None, "unknown_url");
    json(StatusCode::NOT_FOUND, &object)
}

/// The route has another method.
pub fn wrong_method(method: &Method, path: &str) -> Response<Body> {
    let message = format!("{path} does not take {method}");
    let object = error_object(
        &message,
        "invalid_request_error",
        None,
        "method_not_allowed",
    );
    json(StatusCode::METHOD_NOT_ALLOWED, &object)
}
