//! Why a request is not served: one list for the proxy and for
//! `MeteringService`, with what a client should do about each.

use http::StatusCode;
use tally_ledger::ids::Amount;

/// A refusal. Nothing was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No bearer, or not in the form of an API key.
    #[error("send your Tally API key as `Authorization: Bearer tally-...`")]
    MissingKey,
    /// Two nodes know no such key.
    #[error("this API key is unknown, has ended or was revoked")]
    InvalidKey,
    /// The key is limited to other models.
    #[error("this API key may not use this model")]
    KeyModel,
    /// Not in the price table, or no upstream serves it.
    #[error("this model does not exist here")]
    ModelNotFound,
    /// `x-tally-class` names no class of the account.
    #[error("the account has no such class of compute token")]
    ClassUnknown,
    /// No class of the account may buy it.
    #[error("none of the account's classes may buy this model")]
    ClassRule,
    /// The priority fee cannot be read.
    #[error("x-tally-priority-fee must be an amount of CT such as 0.5, with at most six decimals")]
    FeeForm,
    /// A class of the account may buy it, but pays no such fee.
    #[error("the account's classes for this model pay a priority fee of {0} CT at most")]
    FeeTooHigh(Amount),
    /// No engine of the model has a queue or a priority.
    #[error("a priority fee buys nothing for this model: none of its engines has a queue")]
    FeeUseless,
    /// Too many requests wait for the model's engines.
    #[error("too many requests wait for this model")]
    QueueFull {
        /// When to come again, in ms.
        retry_ms: u32,
    },
    /// A limit per minute is used up.
    #[error("too many {} per minute", if *tokens { "tokens" } else { "requests" })]
    RateLimited {
        /// When to come again, in ms.
        retry_ms: u32,
        /// Which limit: of tokens, or of requests.
        tokens: bool,
    },
    /// No engine of the model can be reached.
    #[error("no engine of this model can be reached")]
    UpstreamDown {
        /// When to come again, in ms.
        retry_ms: u32,
    },
    /// By an issuer.
    #[error("the account is frozen")]
    Frozen,
    /// The balance does not pay even one token of output.
    #[error("the balance does not cover this request")]
    Insufficient,
    /// Running requests reserve the balance, for longer than one may wait.
    #[error("the balance is reserved by requests that are still running")]
    Busy,
    /// By an admin.
    #[error("this gateway is suspended")]
    Suspended,
    /// A cap of the gateway is used up.
    #[error("this gateway has leased as much as it may for now")]
    GatewayCap,
    /// No validator answers and the leases held here are used up.
    #[error("the ledger cannot be reached and the leases held here are used up")]
    Unreachable,
    /// A question about the account could not be answered.
    #[error("the ledger cannot be asked now")]
    Unanswered,
    /// The journal's disk failed, or the gateway was fenced or is stopping.
    #[error("this gateway is not serving")]
    NotServing,
    /// The request's body took too long to arrive.
    #[error("the request's body did not arrive in time")]
    BodySlow,
    /// The bodies of all requests together take all the memory they may.
    #[error("this gateway has as many requests in memory as it may")]
    BodiesFull,
    /// A count or amount is out of its range.
    #[error("a number in the request is out of its range")]
    OutOfRange,
}

impl Refusal {
    /// HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::MissingKey | Refusal::InvalidKey => StatusCode::UNAUTHORIZED,
            Refusal::KeyModel | Refusal::ClassRule | Refusal::Frozen => StatusCode::FORBIDDEN,
            Refusal::ModelNotFound => StatusCode::NOT_FOUND,
            Refusal::ClassUnknown
            | Refusal::OutOfRange
            | Refusal::FeeForm
            | Refusal::FeeTooHigh(_)
            | Refusal::FeeUseless => StatusCode::BAD_REQUEST,
            Refusal::Insufficient
            | Refusal::Busy
            | Refusal::RateLimited { .. }
            | Refusal::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::UpstreamDown { .. }
            | Refusal::Suspended
            | Refusal::GatewayCap
            | Refusal::Unreachable
            | Refusal::Unanswered
            | Refusal::BodiesFull
            | Refusal::NotServing => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::BodySlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// OpenAI's `error.type`.
    pub fn kind(self) -> &'static str {
        match self {
            Refusal::Insufficient => "insufficient_quota",
            Refusal::Busy => "rate_limit_error",
            Refusal::QueueFull { .. } => "rate_limit_exceeded",
            Refusal::RateLimited { tokens: true, .. } => "tokens",
            Refusal::RateLimited { tokens: false, .. } => "requests",
            Refusal::KeyModel | Refusal::ClassRule | Refusal::Frozen => "permission_error",
            other if other.status().is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// OpenAI's `error.code`; also the metrics label.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::MissingKey | Refusal::InvalidKey => "invalid_api_key",
            Refusal::KeyModel => "model_not_allowed",
            Refusal::ModelNotFound => "model_not_found",
            Refusal::ClassUnknown => "class_not_found",
            Refusal::ClassRule => "class_not_allowed",
            Refusal::FeeTooHigh(_) => "priority_fee_too_high",
            Refusal::FeeUseless => "priority_not_available",
            Refusal::QueueFull { .. } => "queue_full",
            Refusal::UpstreamDown { .. } => "upstream_down",
            Refusal::Frozen => "account_frozen",
            Refusal::Insufficient => "insufficient_quota",
            Refusal::Busy | Refusal::RateLimited { .. } => "rate_limit_exceeded",
            Refusal::Suspended => "gateway_suspended",
            Refusal::GatewayCap => "gateway_cap",
            Refusal::Unreachable | Refusal::Unanswered => "ledger_unreachable",
            Refusal::NotServing => "gateway_not_serving",
            Refusal::BodySlow => "request_timeout",
            Refusal::BodiesFull => "gateway_overloaded",
            Refusal::FeeForm | Refusal::OutOfRange => "invalid_value",
        }
    }

    /// In how many ms the same request may succeed without anybody's doing;
    /// `None` if it will not soon.
    pub fn retry_ms(self) -> Option<u32> {
        match self {
            Refusal::QueueFull { retry_ms }
            | Refusal::RateLimited { retry_ms, .. }
            | Refusal::UpstreamDown { retry_ms } => Some(retry_ms),
            Refusal::Busy
            | Refusal::GatewayCap
            | Refusal::Unreachable
            | Refusal::Unanswered
            | Refusal::BodiesFull
            | Refusal::NotServing => Some(1_000),
            _ => None,
        }
    }

    /// Whether the same request may succeed soon without anybody's doing.
    pub fn retry(self) -> bool {
        self.retry_ms().is_some()
    }
}
