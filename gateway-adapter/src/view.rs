//! What the gateway needs to know of an account, from its proven leaf.

use std::collections::BTreeMap;

use tally_ledger::{
    account::{Account as AccountLeaf, Recall},
    block::Header,
    ids::{ClassNumber, GatewayNumber, Height, LeaseNumber},
};

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
    /// What other gateways hold open.
    pub others: BTreeMap<ClassNumber, u64>,
    /// This gateway's open leases, and whether each has ended.
    pub own: BTreeMap<LeaseNumber, bool>,
}

impl View {
    /// What a leaf says, proven under `header`.
    pub fn of(leaf: &AccountLeaf, gateway: GatewayNumber, header: &Header) -> View {
        let mut view = View {
            height: header.height,
            frozen: leaf.frozen,
            classes: leaf.classes.to_vec(),
            available: BTreeMap::new(),
            others: BTreeMap::new(),
            own: BTreeMap::new(),
        };
        for grant in leaf
            .grants
            .iter()
            .filter(|grant| grant.spendable(header.time))
        {
            let available: &mut u64 = view.available.entry(grant.class).or_default();
            *available = available.saturating_add(grant.free.0);
        }
        for lease in &leaf.leases {
            if lease.gateway == gateway {
                let ended = lease.ended.is_some() || lease.recall != Recall::No;
                view.own.insert(lease.number, ended);
            } else {
                let others: &mut u64 = view.others.entry(lease.class).or_default();
                *others = others.saturating_add(lease.remaining().0);
            }
        }
        view
    }
}
