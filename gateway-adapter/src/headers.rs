//! Names of headers that are not in HTTP's own list, each once: what clients
//! are told, what they may say, and what concerns only one leg.
//!
//! A name that is known as such is neither parsed nor copied for each request.

use http::HeaderName;

/// Of a request, or of nothing that its client named.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What makes a repeated request known.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The fee that a request offers, in decimal CT.
pub const PRIORITY_FEE: HeaderName = HeaderName::from_static("x-tally-priority-fee");
/// The class that a request is to be paid from.
pub const CLASS: HeaderName = HeaderName::from_static("x-tally-class");
/// The client's project, a number.
pub const PROJECT: HeaderName = HeaderName::from_static("x-tally-project");
/// The request's purpose, a number.
pub const PURPOSE: HeaderName = HeaderName::from_static("x-tally-purpose");
/// The receipt of a request.
pub const RECEIPT: HeaderName = HeaderName::from_static("x-tally-receipt");
/// What the account has left, in CT.
pub const REMAINING: HeaderName = HeaderName::from_static("x-tally-remaining");
/// What the request cost, in CT.
pub const COST: HeaderName = HeaderName::from_static("x-tally-cost");
/// Why a door that asks by HTTP is told no.
pub const CODE: HeaderName = HeaderName::from_static("x-tally-code");
/// The engine that Envoy is to ask.
pub const UPSTREAM: HeaderName = HeaderName::from_static("x-tally-upstream");
/// Whether it helps to come again by oneself.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// When it makes sense to come again, in ms.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Limit, rest, and time until all is there again, of a rate.
pub type RateNames = [HeaderName; 3];
/// Of requests per minute.
pub const REQUESTS: RateNames = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
/// Of LLM tokens per minute.
pub const TOKENS: RateNames = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
