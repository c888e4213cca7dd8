//! Errors on the wire: a gRPC status with a `google.rpc.ErrorInfo`, whose
//! domain is `tally`, whose reason is the name of a [`Reason`] or a
//! [`Local`], and whose metadata carry the number (of a `Reason`) and what to
//! do: `retry` = `never`, `same_bytes`, `later` or `done`.

use std::collections::HashMap;

use tally_ledger::reason::{Reason, Retry};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::FieldError;

/// Domain of every `ErrorInfo`.
pub const DOMAIN: &str = "tally";

/// A refusal that is no statement about a transaction, but about a call or
/// this node at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// A field of the request is missing or out of its range.
    BadRequest,
    /// What was asked for does not exist here (yet).
    NotFound,
    /// Too many transactions wait here, in all or of this author.
    Busy,
    /// The reader was too slow; it continues from the cursor.
    SlowReader,
    /// The node is stopping or cannot answer now.
    Unavailable,
    /// The caller may not ask this.
    NotAllowed,
    /// The caller has to log in, or its login is good for nothing.
    NotLoggedIn,
    /// The login may become good: the caller's clock is ahead, or this node
    /// does not know its key yet.
    NotLoggedInYet,
}

impl Local {
    const ALL: [(Local, &'static str, Code, &'static str); 8] = [
        (
            Local::BadRequest,
            "BadRequest",
            Code::InvalidArgument,
            "never",
        ),
        (Local::NotFound, "NotFound", Code::NotFound, "later"),
        (Local::Busy, "Busy", Code::ResourceExhausted, "same_bytes"),
        (Local::SlowReader, "SlowReader", Code::Aborted, "later"),
        (
            Local::Unavailable,
            "Unavailable",
            Code::Unavailable,
            "later",
        ),
        (
            Local::NotAllowed,
            "NotAllowed",
            Code::PermissionDenied,
            "never",
        ),
        (
            Local::NotLoggedIn,
            "NotLoggedIn",
            Code::Unauthenticated,
            "never",
        ),
        (
            Local::NotLoggedInYet,
            "NotLoggedInYet",
            Code::Unauthenticated,
            "later",
        ),
    ];

    fn row(self) -> (&'static str, Code, &'static str) {
        let (_, name, code, retry) = Self::ALL
            .into_iter()
            .find(|row| row.0 == self)
            .expect("every variant has a row");
        (name, code, retry)
    }

    /// The status, with `message` for people.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.status_with(message, [])
    }

    /// The status, with further metadata.
    pub fn status_with<const N: usize>(
        self,
        message: impl Into<String>,
        metadata: [(&str, String); N],
    ) -> Status {
        let (name, code, retry) = self.row();
        let mut all: HashMap<String, String> = metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        all.insert("retry".into(), retry.into());
        let details = ErrorDetails::with_error_info(name, DOMAIN, all);
        Status::with_error_details(code, message, details)
    }
}

impl From<FieldError> for Status {
    fn from(error: FieldError) -> Status {
        Local::BadRequest.status(error.to_string())
    }
}

/// What to do about a refusal, as text.
fn retry_name(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "never",
        Retry::SameBytes => "same_bytes",
        Retry::Done => "done",
    }
}

/// The status of a refused transaction.
pub fn refusal(reason: Reason) -> Status {
    refusal_of(reason, None)
}

/// The status of a refused transaction, with the id it has or had.
pub fn refusal_of(reason: Reason, id: Option<&tally_ledger::hash::Hash>) -> Status {
    let mut metadata = HashMap::from([
        ("number".to_owned(), reason.number().to_string()),
        ("retry".to_owned(), retry_name(reason.retry()).to_owned()),
    ]);
    if let Some(id) = id {
        metadata.insert("transaction".into(), id.to_string());
    }
    let details = ErrorDetails::with_error_info(reason.name(), DOMAIN, metadata);
    Status::with_error_details(code_of(reason), reason.message(), details)
}

fn code_of(reason: Reason) -> Code {
    match reason.number() {
        1..=9 => Code::InvalidArgument,
        10..=19 => Code::Unauthenticated,
        _ if reason.retry() == Retry::Done => Code::AlreadyExists,
        20..=29 => Code::FailedPrecondition,
        30..=39 => Code::PermissionDenied,
        40..=49 => Code::NotFound,
        _ => Code::FailedPrecondition,
    }
}

/// What a status says, read back by a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Name of the reason.
    pub name: String,
    /// The ledger's reason, if it is one that this program knows.
    pub reason: Option<Reason>,
    /// `never`, `same_bytes`, `later`, `done`, or empty.
    pub retry: String,
    /// All metadata, sorted by key.
    pub metadata: Vec<(String, String)>,
}

impl Problem {
    /// Reads the status of a Tally service; `None` for any other error, such
    /// as a broken connection.
    pub fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        if info.domain != DOMAIN {
            return None;
        }
        let reason = info
            .metadata
            .get("number")
            .and_then(|number| number.parse().ok())
            .and_then(Reason::from_number);
        let retry = info.metadata.get("retry").cloned().unwrap_or_default();
        let mut metadata: Vec<_> = info.metadata.into_iter().collect();
        metadata.sort();
        Some(Self {
            name: info.reason,
            reason,
            retry,
            metadata,
        })
    }

    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let index = self
            .metadata
            .binary_search_by(|(k, _)| k.as_str().cmp(key))
            .ok()?;
        Some(&self.metadata[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_travels_with_number_and_advice() {
        for reason in Reason::ALL {
            let problem = Problem::of(&refusal(*reason)).unwrap();
            assert_eq!(problem.reason, Some(*reason));
            assert_eq!(problem.name, reason.name());
            assert_eq!(problem.get("retry"), Some(retry_name(reason.retry())));
        }
    }

    #[test]
    fn local_problems_have_no_number_and_foreign_errors_are_none() {
        for (local, name, code, _) in Local::ALL {
            let status = local.status_with("x", [("cursor", "7".into())]);
            assert_eq!(status.code(), code);
            let problem = Problem::of(&status).unwrap();
            assert_eq!((problem.name.as_str(), problem.reason), (name, None));
            assert_eq!(problem.get("cursor"), Some("7"));
        }
        assert_eq!(Problem::of(&Status::unavailable("gone")), None);
    }
}
