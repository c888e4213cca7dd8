//! The one door: each call passes it with what it asks, before it is answered,
//! and what is about somebody is noted in the access log, allowed or refused.

use std::sync::Arc;

use tally_ledger::state::State;
use tally_proto::{Local, login::now};
use tonic::{Request, Status};

use super::{
    login::{Caller, Found, Known, key_of},
    rules::{Ask, may},
};
use crate::{
    access_log::{AccessLog, Asked},
    view::View,
};

/// Subjects of one call that its record names.
const MOST_NAMED: usize = 4;

/// Lets calls through, or not.
pub(super) struct Gate<V> {
    view: Arc<V>,
    log: AccessLog,
}

impl<V> Clone for Gate<V> {
    fn clone(&self) -> Self {
        Self {
            view: self.view.clone(),
            log: self.log.clone(),
        }
    }
}

/// Who called which method.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    found: Found,
    method: &'static str,
}

impl Visit {
    /// Of a request; the interceptor has been there.
    pub(super) fn of<T>(request: &Request<T>, method: &'static str) -> Self {
        let found = request.extensions().get::<Found>().cloned();
        let found = found.unwrap_or_else(|| Found {
            caller: Ok(Caller::Nobody),
            from: None,
        });
        Visit { found, method }
    }

    /// Who it is, if it logged in.
    pub(super) fn known(&self) -> Option<Known> {
        match self.found.caller {
            Ok(Caller::Known(known)) => Some(known),
            _ => None,
        }
    }

    /// As whom its open streams are counted, if they are.
    pub(super) fn counted_as(&self) -> Option<String> {
        match self.found.caller {
            Ok(Caller::Known(known)) => Some(known.name.to_string()),
            _ => {
                let from = self.found.from?.to_canonical();
                (!from.is_loopback()).then(|| from.to_string())
            }
        }
    }

    fn name(&self) -> String {
        match &self.found.caller {
            Ok(Caller::Known(known)) => known.name.to_string(),
            Ok(Caller::Trusted) => "trusted".to_owned(),
            Ok(Caller::Nobody) => "nobody".to_owned(),
            Err(_) => "unknown".to_owned(),
        }
    }
}

impl<V: View> Gate<V> {
    /// A gate before `view`.
    pub(super) fn new(view: Arc<V>, log: AccessLog) -> Self {
        Self { view, log }
    }

    /// Whether this may be answered now.
    pub(super) fn pass(&self, visit: &Visit, ask: &Ask) -> Result<(), Status> {
        let answer = self.view.with_state(|state, _| allowed(state, visit, ask));
        if answer.is_err() || ask.is_about_somebody() {
            self.note(visit, ask.to_string(), &answer);
        }
        answer
    }

    /// Whether all of this may be answered now, `count` things in one call;
    /// noted once.
    pub(super) fn pass_all(&self, visit: &Visit, count: usize, asks: &[Ask]) -> Result<(), Status> {
        let answer = self.view.with_state(|state, _| {
            let mut asks = asks.iter();
            asks.try_for_each(|ask| allowed(state, visit, ask))
        });
        let named = asks.iter().take(MOST_NAMED).map(Ask::to_string);
        let named = named.collect::<Vec<_>>().join(", ");
        self.note(visit, format!("{count} of: {named}"), &answer);
        answer
    }

    /// The same for a stream that goes on: only its end is noted.
    pub(super) fn still(&self, visit: &Visit, ask: &Ask) -> Result<(), Status> {
        let answer = self.view.with_state(|state, _| allowed(state, visit, ask));
        if answer.is_err() {
            self.note(visit, ask.to_string(), &answer);
        }
        answer
    }

    fn note(&self, visit: &Visit, subject: String, answer: &Result<(), Status>) {
        let refusal = answer.as_ref().err();
        let reason = refusal.map(|status| {
            let problem = tally_proto::Problem::of(status);
            problem.map_or_else(|| status.code().to_string(), |problem| problem.name)
        });
        self.log.note(Asked {
            caller: visit.name(),
            address: visit.found.from.map(|from| from.to_string()),
            method: visit.method,
            subject,
            refused: reason,
        });
    }
}

/// The caller's key and rights as they are in this state.
fn allowed(state: &State, visit: &Visit, ask: &Ask) -> Result<(), Status> {
    let known = match &visit.found.caller {
        Err(status) => return Err((**status).clone()),
        Ok(Caller::Trusted) => return Ok(()),
        Ok(Caller::Nobody) => {
            return Err(Local::NotLoggedIn.status(
                "log in: `authorization: Bearer` with the JWT that `tally auth jwt` makes, or a \
                 client certificate of a key that is registered on the chain",
            ));
        }
        Ok(Caller::Known(known)) => known,
    };
    if key_of(state, known.name) != Some(known.key) {
        let why = format!(
            "the key of {} was replaced: log in by the new one",
            known.name
        );
        return Err(Local::NotLoggedIn.status(why));
    }
    if now() >= known.until.saturating_add(tally_proto::jwt::SKEW_S) {
        return Err(Local::NotLoggedIn.status("the login has expired: log in again"));
    }
    may(state, known.name, ask).map_err(|who| {
        let (name, kind) = (known.name, ask.kind());
        let why = format!("{name} may not ask for {kind}: it is for {who}");
        Local::NotAllowed.status(why)
    })
}
