//! Due steps, as [`crate::state::Due`] orders them.

use std::collections::BTreeSet;

use super::{Call, Draft, debits::fixed_parts};
use crate::{
    action::Action,
    entry::Receipt,
    ids::{AccountNumber, ClassNumber, GatewayNumber, GrantNumber, LeaseNumber},
    state::{
        Due, DueKind,
        due::{MAX_DUE_STEPS, of_grant},
    },
    transaction::AuthorKind,
};

/// Whose due steps can change what becomes of a transaction.
struct Concern {
    accounts: BTreeSet<AccountNumber>,
    /// All leases of the author, if it is a gateway: what it may do depends
    /// on those that are open.
    gateway: Option<GatewayNumber>,
}

impl Concern {
    fn of(draft: &Draft<'_>, call: &Call<'_>) -> Concern {
        let author = call.body.author;
        let by_gateway = author.kind == AuthorKind::Gateway;
        Concern {
            accounts: accounts_of(draft, call),
            gateway: by_gateway.then_some(GatewayNumber(author.number)),
        }
    }

    fn holds(&self, draft: &Draft<'_>, due: &Due) -> bool {
        match due.kind {
            DueKind::Vest | DueKind::Expire => self.accounts.contains(&AccountNumber(due.owner)),
            DueKind::LeaseEnd | DueKind::LeaseClose => {
                let (gateway, lease) = (GatewayNumber(due.owner), LeaseNumber(due.number));
                let owner = draft.base.lease_account(gateway, lease);
                self.gateway == Some(gateway)
                    || owner.is_some_and(|owner| self.accounts.contains(&owner))
            }
        }
    }
}

/// The accounts that a transaction names, or whose key or lease it names.
fn accounts_of(draft: &Draft<'_>, call: &Call<'_>) -> BTreeSet<AccountNumber> {
    let one = |account: AccountNumber| BTreeSet::from([account]);
    match &call.body.action {
        Action::Issue(issue) => issue.grants.iter().map(|grant| grant.account).collect(),
        Action::Revoke(revoke) => one(revoke.account),
        Action::Surrender(surrender) => one(surrender.account),
        Action::Freeze(account) | Action::Unfreeze(account) | Action::Erase(account) => {
            one(*account)
        }
        Action::RotateHolderKey(account, _) => one(*account),
        Action::BindApiKey(bind) => one(bind.account),
        Action::RevokeApiKey(number) => {
            let api_key = draft.api_key(*number).ok();
            api_key.map(|key| key.account).into_iter().collect()
        }
        Action::Lease(lease) => one(lease.account),
        Action::ReturnLease(number) => {
            let gateway = GatewayNumber(call.body.author.number);
            draft.lease_owner(gateway, *number).into_iter().collect()
        }
        Action::Correct(_) => {
            let proof = call.proof.as_ref();
            let receipt = proof.and_then(|proof| Receipt::from_leaf(&proof.leaf));
            receipt.map(|receipt| receipt.account).into_iter().collect()
        }
        Action::Debits(_) => fixed_parts(call.payload)
            .map(|fixed| fixed.account)
            .collect(),
        _ => BTreeSet::new(),
    }
}

impl Draft<'_> {
    /// Runs the steps that are due, at most as many as a block may.
    pub(super) fn run_due_steps(&mut self) {
        self.run_due(None);
    }

    /// Of the steps that the block would run, runs those that can change what
    /// becomes of a transaction: for a dry run of it.
    pub(super) fn run_due_steps_for(&mut self, call: &Call<'_>) {
        let concern = Concern::of(self, call);
        self.run_due(Some(&concern));
    }

    fn run_due(&mut self, concern: Option<&Concern>) {
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
            if concern.is_none_or(|concern| concern.holds(self, due)) {
                self.step(due);
            }
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
