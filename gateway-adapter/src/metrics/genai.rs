//! Metrics that OpenTelemetry's conventions for generative AI name, under
//! those names as Prometheus writes them (`.` is `_`, seconds are a suffix),
//! with the buckets that the conventions recommend.
//!
//! Labels: the operation, the provider as `gateway.toml` names it, and the
//! model as the price table names it; so there are as many series as are
//! configured, whatever clients send.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Powers of four, up to 67 million.
const TOKENS: u16 = 14;
/// From 10 ms, doubled, up to 82 s.
const DURATIONS: u16 = 14;
/// From a millisecond to ten seconds.
const FIRST_TOKEN: [f64; 16] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// What was asked of whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs)]
pub struct Operation {
    pub gen_ai_operation_name: &'static str,
    pub gen_ai_provider_name: Arc<str>,
    pub gen_ai_request_model: Arc<str>,
}

/// Tokens of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs)]
pub struct Tokens {
    pub gen_ai_operation_name: &'static str,
    pub gen_ai_provider_name: Arc<str>,
    pub gen_ai_request_model: Arc<str>,
    pub gen_ai_token_type: &'static str,
}

/// A request that ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs)]
pub struct Ended {
    pub gen_ai_operation_name: &'static str,
    pub gen_ai_provider_name: Arc<str>,
    pub gen_ai_request_model: Arc<str>,
    /// Empty where it went well.
    pub error_type: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics.
#[derive(Debug, Clone)]
pub struct GenAi {
    /// LLM tokens of a request, as they are charged.
    pub token_usage: Histograms<Tokens>,
    /// Seconds from arrival to the last byte.
    pub request_duration: Histograms<Ended>,
    /// Seconds from arrival to the first token of a stream.
    pub first_token: Histograms<Operation>,
}

fn tokens() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, TOKENS))
}

fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, DURATIONS))
}

fn first_token() -> Histogram {
    Histogram::new(FIRST_TOKEN)
}

impl GenAi {
    /// Registers them.
    pub(super) fn registered(to: &mut Registry) -> Self {
        let all = GenAi {
            token_usage: Family::new_with_constructor(tokens),
            request_duration: Family::new_with_constructor(durations),
            first_token: Family::new_with_constructor(first_token),
        };
        to.register(
            "gen_ai_client_token_usage",
            "Input and output tokens of a request",
            all.token_usage.clone(),
        );
        to.register(
            "gen_ai_server_request_duration_seconds",
            "Arrival of a request to the last byte of its answer",
            all.request_duration.clone(),
        );
        to.register(
            "gen_ai_server_time_to_first_token_seconds",
            "Arrival of a request to the first token of its stream",
            all.first_token.clone(),
        );
        all
    }
}
