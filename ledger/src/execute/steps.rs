//! Due steps, as [`crate::state::Due`] orders them.

use std::collections::BTreeSet;

use super::Draft;
use crate::{
    ids::{AccountNumber, ClassNumber, GatewayNumber, GrantNumber, LeaseNumber},
    state::{
        Due, DueKind,
        due::{MAX_DUE_STEPS, of_grant},
    },
};

impl Draft<'_> {
    /// Runs the steps that are due, at most as many as a block may.
    pub(super) fn run_due_steps(&mut self) {
        let (base, now) = (self.base, self.now);
        let mut run = 0;
        for due in base.index.due.iter().take_while(|due| due.at <= now) {
            let waits = due.kind == DueKind::LeaseClose
                && !base.index.close_is_ready(&base.leaves, due, self.height);
            if waits {
                continue;
            }
            if run == MAX_DUE_STEPS {
                self.steps_left = true;
                break;
            }
            self.step(due);
            run += 1;
        }
    }

    /// Runs the due vest and expiry steps of these accounts and classes, if
    /// they exist. Only if the block's own steps left some is there any.
    pub(super) fn run_steps_of(
        &mut self,
        pairs: impl IntoIterator<Item = (AccountNumber, ClassNumber)>,
    ) {
        if !self.steps_left {
            return;
        }
        let mut steps = BTreeSet::new();
        for (number, class) in pairs {
            let Some(account) = self.accounts.get(number.0) else {
                continue;
            };
            let grants = account.grants.iter().filter(|grant| grant.class == class);
            let dues = grants.flat_map(|grant| of_grant(number, grant));
            steps.extend(dues.filter(|due| due.at <= self.now));
        }
        for due in steps {
            self.step(&due);
        }
    }

    fn step(&mut self, due: &Due) {
        let account = AccountNumber(due.owner);
        let grant = GrantNumber(due.number as u32);
        let (gateway, lease) = (GatewayNumber(due.owner), LeaseNumber(due.number));
        match due.kind {
            DueKind::Vest => self.vest(account, grant),
            DueKind::Expire => self.expire(account, grant),
            DueKind::LeaseEnd => self.end_lease(gateway, lease),
            DueKind::LeaseClose => self.close_lease(gateway, lease, None),
        }
    }
}
