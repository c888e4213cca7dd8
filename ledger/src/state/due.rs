//! Due steps: what time alone brings about.
//!
//! | kind | due at | owner, number |
//! |---|---|---|
//! | vest | the grant's `vests` | account, grant |
//! | expire | the grant's `expires` | account, grant |
//! | lease end | the lease's `end` | gateway, lease |
//! | lease close | its end step's time + `lease_grace_ms` | gateway, lease |
//!
//! A block first runs the steps whose time is not after its own, ordered by
//! (due time, kind, owner, number), at most [`MAX_DUE_STEPS`]. A close also
//! needs `lease_grace_blocks` more blocks since the end step; until then it
//! is passed over and does not count. A revoked grant has no steps. The
//! queue is derived from the leaves and the parameters, and not hashed.

use std::collections::BTreeSet;

use super::Leaves;
use crate::{
    account::{Account, Grant, OpenLease},
    ids::{AccountNumber, Time},
};

/// Most due steps of a block, not counting those that transactions run.
pub const MAX_DUE_STEPS: usize = 2048;

/// Kind of a due step, in the order in which equally due ones run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DueKind {
    /// A grant can be spent.
    Vest,
    /// A grant expires.
    Expire,
    /// A lease ends.
    LeaseEnd,
    /// A lease closes.
    LeaseClose,
}

/// A due step. The order of the fields is the order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// When.
    pub at: Time,
    /// What.
    pub kind: DueKind,
    /// The account, or the lease's gateway.
    pub owner: u32,
    /// The grant or lease.
    pub number: u64,
}

/// The steps that a grant still has before it.
pub(crate) fn of_grant(account: AccountNumber, grant: &Grant) -> impl Iterator<Item = Due> {
    let due = |at, kind| Due {
        at,
        kind,
        owner: account.0,
        number: u64::from(grant.number.0),
    };
    let vest = (!grant.vested && !grant.revoked).then(|| due(grant.vests, DueKind::Vest));
    let expire = (!grant.expired && !grant.revoked).then(|| due(grant.expires, DueKind::Expire));
    vest.into_iter().chain(expire)
}

fn of_lease(lease: &OpenLease, grace_ms: u32) -> Due {
    let (at, kind) = match lease.ended {
        None => (lease.end, DueKind::LeaseEnd),
        Some((ended, _)) => (
            Time(ended.0.saturating_add(u64::from(grace_ms))),
            DueKind::LeaseClose,
        ),
    };
    Due {
        at,
        kind,
        owner: lease.gateway.0,
        number: lease.number.0,
    }
}

/// All steps that an account still has before it.
pub(crate) fn of_account(
    number: AccountNumber,
    account: &Account,
    grace_ms: u32,
) -> impl Iterator<Item = Due> {
    let grants = account
        .grants
        .iter()
        .flat_map(move |grant| of_grant(number, grant));
    let leases = account
        .leases
        .iter()
        .map(move |lease| of_lease(lease, grace_ms));
    grants.chain(leases)
}

/// The queue of a whole state.
pub(crate) fn of_all(leaves: &Leaves) -> BTreeSet<Due> {
    let grace = leaves.parameters.lease_grace_ms;
    (0..)
        .map(AccountNumber)
        .zip(&leaves.accounts)
        .flat_map(|(number, account)| of_account(number, account, grace))
        .collect()
}
