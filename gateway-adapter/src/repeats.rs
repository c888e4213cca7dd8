//! `Idempotency-Key`: the same request sent twice is served and charged once.
//!
//! While the first runs, a second one with the same key is told so; after it,
//! the receipt of the first. A first that was refused, or that served and
//! charged nothing, leaves the key free. From the hold on, the name is in the
//! journal ([`crate::journal::names`]); before, while the request waits for
//! its hold, it is claimed here. Scope: one API key, this gateway, a day of
//! ledger time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_ledger::ids::Time;

use crate::journal::{HoldId, Journal, Name, Standing};

/// Sets of claims, each with its own lock.
const SHARDS: usize = 64;

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// The first one runs.
    Running,
    /// The first one was served.
    Served(HoldId),
    /// Too many keys are remembered.
    Full,
}

impl Repeated {
    /// The error's code; also the metrics label.
    pub fn code(self) -> &'static str {
        match self {
            Repeated::Running => "request_in_progress",
            Repeated::Served(_) => "idempotency_key_used",
            Repeated::Full => "idempotency_keys_exhausted",
        }
    }
}

/// Names of requests that have no hold yet.
#[derive(Debug)]
pub struct Repeats(Vec<Mutex<HashSet<Name>>>);

/// A name that nobody else may use while this lives.
#[derive(Debug)]
pub struct Claim {
    repeats: Arc<Repeats>,
    name: Name,
}

impl Default for Repeats {
    fn default() -> Self {
        Repeats((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Repeats {
    fn shard(&self, name: &Name) -> MutexGuard<'_, HashSet<Name>> {
        let shard = usize::from(name.hash.0[0]) % SHARDS;
        self.0[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a name until its hold is made. `now` is ledger time.
    pub fn claim(
        self: &Arc<Self>,
        journal: &Journal,
        name: Name,
        now: Time,
    ) -> Result<Claim, Repeated> {
        let mut claims = self.shard(&name);
        if claims.contains(&name) {
            return Err(Repeated::Running);
        }
        match journal.standing(&name, now) {
            Standing::Used { running: true, .. } => Err(Repeated::Running),
            Standing::Used { hold, .. } => Err(Repeated::Served(hold)),
            Standing::Full => Err(Repeated::Full),
            Standing::Free => {
                claims.insert(name);
                drop(claims);
                Ok(Claim {
                    repeats: self.clone(),
                    name,
                })
            }
        }
    }
}

impl Claim {
    /// What is claimed.
    pub fn name(&self) -> Name {
        self.name
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.repeats.shard(&self.name).remove(&self.name);
    }
}
