//! Whether an account has anything to spend: for admission without a hold.

use std::{sync::Arc, time::Instant};

use super::Account;
use crate::job::Job;

impl Account {
    /// Whether any class of the account has a balance: available, or in a
    /// lease here or elsewhere. `None`: look again when the account changed,
    /// since a no must rest on a fresh proof. `jobs` gets what must be done
    /// for that.
    pub fn is_solvent(self: &Arc<Self>, now: Instant, jobs: &mut Vec<Job>) -> Option<bool> {
        let mut inner = self.inner();
        let balance = |class| {
            inner.available(class) > 0
                || inner.free(class, now) > 0
                || inner.held(class) > 0
                || inner.others(class).held > 0
        };
        let classes = inner.view.classes.clone();
        if classes.iter().any(|class| balance(*class)) {
            return Some(true);
        }
        let Some(class) = classes.first() else {
            return Some(false);
        };
        self.is_fresh(&mut inner, *class, now, jobs)
            .then_some(false)
    }
}
