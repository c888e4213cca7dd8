//! What the gateway needs to know of an account, from its proven leaf.
//!
//! All gateways read the same leaf, so what [`Others::pullable`] says breaks
//! the tie between two that want each other's rest: the one with the lower
//! number recalls at once, the other only a lease that was open for
//! [`PULL_AFTER`].

use std::collections::{BTreeMap, BTreeSet};

use tally_ledger::{
    account::{Account as AccountLeaf, MAX_LEASE_PARTS, OpenLease, Recall},
    ids::{ClassNumber, GatewayNumber, Height, LeaseNumber, Time},
};

use crate::lease::End;

/// Block time that a lease of a gateway with a lower number is left alone.
pub const PULL_AFTER: u64 = 1_000;

/// What other gateways hold of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Others {
    /// What is left in their leases, ended or not.
    pub held: u64,
    /// Some of it is in leases that this gateway may recall now.
    pub pullable: bool,
}

/// What a proven account leaf says, as far as the gateway needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// At which height it was proven.
    pub height: Height,
    /// No new leases.
    pub frozen: bool,
    /// In which order requests use its classes.
    pub classes: Vec<ClassNumber>,
    /// What a lease could take now.
    pub available: BTreeMap<ClassNumber, u64>,
    /// Classes whose tokens are in more grants than one lease takes from.
    pub scattered: BTreeSet<ClassNumber>,
    /// What other gateways hold.
    pub others: BTreeMap<ClassNumber, Others>,
    /// This gateway's open leases, and whether each has ended.
    pub own: BTreeMap<LeaseNumber, End>,
}

fn end_of(lease: &OpenLease) -> End {
    match lease.recall {
        Recall::No if lease.ended.is_none() => End::Open,
        Recall::Wanted => End::Recalled,
        _ => End::Over,
    }
}

impl View {
    /// What a leaf says, proven at `height`, whose block has time `now`.
    pub fn of(leaf: &AccountLeaf, gateway: GatewayNumber, height: Height, now: Time) -> View {
        let mut view = View {
            height,
            frozen: leaf.frozen,
            classes: leaf.classes.to_vec(),
            available: BTreeMap::new(),
            scattered: BTreeSet::new(),
            others: BTreeMap::new(),
            own: BTreeMap::new(),
        };
        let mut grants = BTreeMap::new();
        for grant in leaf.grants.iter().filter(|grant| grant.spendable(now)) {
            let available: &mut u64 = view.available.entry(grant.class).or_default();
            *available = available.saturating_add(grant.free.0);
            let grants: &mut usize = grants.entry(grant.class).or_default();
            *grants += usize::from(grant.free.0 > 0);
            if *grants > MAX_LEASE_PARTS {
                view.scattered.insert(grant.class);
            }
        }
        for lease in &leaf.leases {
            if lease.gateway == gateway {
                view.own.insert(lease.number, end_of(lease));
            } else if lease.remaining().0 > 0 {
                let others = view.others.entry(lease.class).or_default();
                others.held = others.held.saturating_add(lease.remaining().0);
                let age = now.0.saturating_sub(lease.opened.0);
                others.pullable |=
                    end_of(lease) == End::Open && (lease.gateway > gateway || age >= PULL_AFTER);
            }
        }
        view
    }
}
