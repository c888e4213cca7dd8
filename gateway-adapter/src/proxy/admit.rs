//! Admission by key alone: the key is live, its account is not frozen and has
//! something to spend. Nothing is held and nothing charged: what passes on
//! this word alone is not metered.
//!
//! `GET /v1/tally/admit` says it to doors like nginx's `auth_request`, which
//! knows three answers: 2xx lets pass, 401 and 403 do not, anything else is a
//! fault. So an empty balance is a 403 there; `x-tally-code` tells which.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{
    Proxy,
    body::{Body, whole},
};
use crate::{account::Account, headers::CODE, refusal::Refusal};

/// Longest wait for a fresh proof of an empty account.
const WAIT: Duration = Duration::from_secs(5);
/// How often it is looked at without being told.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Proxy {
    /// Whether the bearer of these headers may spend anything at all.
    pub(crate) async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let holds = &self.serving.holds;
        if holds.stopped.load(Ordering::Relaxed) || !holds.journal.works() {
            return Err(Refusal::NotServing);
        }
        let key = self.key(headers).await?;
        if key.account.is_frozen() {
            return Err(Refusal::Frozen);
        }
        if self.is_solvent(&key.account).await? {
            Ok(())
        } else {
            Err(Refusal::Insufficient)
        }
    }

    /// The answer to a door that asks by HTTP.
    pub(super) async fn admitted(&self, headers: &HeaderMap) -> Response<Body> {
        let refusal = match self.admit(headers).await {
            Ok(()) => {
                let mut response = Response::new(whole(""));
                *response.status_mut() = StatusCode::NO_CONTENT;
                return response;
            }
            Err(refusal) => refusal,
        };
        let mut response = self.refuse(refusal);
        if refusal.status() == StatusCode::TOO_MANY_REQUESTS {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        let code = HeaderValue::from_static(refusal.code());
        response.headers_mut().insert(CODE, code);
        response
    }

    async fn is_solvent(&self, account: &Arc<Account>) -> Result<bool, Refusal> {
        account.uses.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline {
            let changed = account.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let mut jobs = Vec::new();
            let known = account.is_solvent(Instant::now(), &mut jobs);
            self.serving.holds.jobs.send_all(jobs);
            if let Some(solvent) = known {
                return Ok(solvent);
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
        Err(Refusal::Unreachable)
    }
}
