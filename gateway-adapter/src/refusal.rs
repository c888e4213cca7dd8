//! Why a request is not served: one list for the proxy and for
//! `MeteringService`, with what a client should do about each.

use http::StatusCode;

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
    #[error("none of the account's classes may buy this model at this fee")]
    ClassRule,
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
            Refusal::ClassUnknown | Refusal::OutOfRange => StatusCode::BAD_REQUEST,
            Refusal::Insufficient | Refusal::Busy => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Suspended
            | Refusal::GatewayCap
            | Refusal::Unreachable
            | Refusal::Unanswered
            | Refusal::NotServing => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// OpenAI's `error.type`.
    pub fn kind(self) -> &'static str {
        match self {
            Refusal::Insufficient => "insufficient_quota",
            Refusal::Busy => "rate_limit_error",
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
            Refusal::Frozen => "account_frozen",
            Refusal::Insufficient => "insufficient_quota",
            Refusal::Busy => "rate_limit_exceeded",
            Refusal::Suspended => "gateway_suspended",
            Refusal::GatewayCap => "gateway_cap",
            Refusal::Unreachable | Refusal::Unanswered => "ledger_unreachable",
            Refusal::NotServing => "gateway_not_serving",
            Refusal::OutOfRange => "invalid_value",
        }
    }

    /// Whether the same request may succeed soon without anybody's doing.
    pub fn retry(self) -> bool {
        matches!(
            self,
            Refusal::Busy
                | Refusal::GatewayCap
                | Refusal::Unreachable
                | Refusal::Unanswered
                | Refusal::NotServing
        )
    }
}
