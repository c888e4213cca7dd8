//! What is derived from the leaves so that execution finds things without a
//! search: never hashed, rebuilt from a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Leaves,
    due::{self, Due},
    ids::IdIndex,
};
use crate::{
    crypto::PublicKey,
    execute::Change,
    ids::{AccountNumber, ApiKeyNumber, GatewayNumber, Height, LeaseNumber},
};

/// Finds leaves by what is in them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// Whose tokens an open lease holds.
    pub(crate) leases: BTreeMap<(GatewayNumber, LeaseNumber), AccountNumber>,
    pub(crate) api_keys: BTreeMap<PublicKey, ApiKeyNumber>,
    /// Corrections by the receipt's entry.
    pub(crate) corrections: BTreeMap<u64, u32>,
    pub(crate) due: BTreeSet<Due>,
    pub(crate) ids: IdIndex,
}

impl Index {
    pub(crate) fn of(leaves: &Leaves) -> Index {
        let mut index = Index {
            due: due::of_all(leaves),
            ..Index::default()
        };
        for (number, account) in (0..).zip(&leaves.accounts) {
            for lease in &account.leases {
                let key = (lease.gateway, lease.number);
                index.leases.insert(key, AccountNumber(number));
            }
        }
        for (number, api_key) in (0..).zip(&leaves.api_keys) {
            index.api_keys.insert(api_key.key, ApiKeyNumber(number));
        }
        for (number, correction) in (0..).zip(&leaves.corrections) {
            index.corrections.insert(correction.entry, number);
        }
        for bucket in &leaves.buckets {
            for used in &bucket.ids {
                index.ids.add(bucket.hour, used);
            }
        }
        index
    }

    /// Whether enough blocks have passed at `height` for a due lease close.
    pub(crate) fn close_is_ready(&self, leaves: &Leaves, due: &Due, height: Height) -> bool {
        let key = (GatewayNumber(due.owner), LeaseNumber(due.number));
        let owner = self.leases[&key];
        let leases = &leaves.accounts[owner.0 as usize].leases;
        let found = leases.binary_search_by_key(&key, |lease| (lease.gateway, lease.number));
        let lease = &leases[found.expect("the index is derived from the leaves")];
        let blocks = u64::from(leaves.parameters.lease_grace_blocks);
        lease
            .ended
            .is_some_and(|(_, ended)| height.0 >= ended.0 + blocks)
    }

    /// Follows a change; `old` are the leaves before it.
    pub(crate) fn take_over(&mut self, old: &Leaves, change: &Change) {
        let leaves = &change.leaves;
        if !change.regrace {
            self.follow_due(old, change);
        }
        for (key, owner) in &change.leases {
            match owner {
                Some(owner) => self.leases.insert(*key, *owner),
                None => self.leases.remove(key),
            };
        }
        for (number, api_key) in &leaves.api_keys {
            self.api_keys.insert(api_key.key, ApiKeyNumber(*number));
        }
        for (number, correction) in &leaves.corrections {
            self.corrections.insert(correction.entry, *number);
        }
        for slot in &leaves.passed {
            self.ids.remove(&old.buckets[*slot as usize]);
        }
        for (hour, used) in &leaves.used {
            self.ids.add(*hour, used);
        }
    }

    fn follow_due(&mut self, old: &Leaves, change: &Change) {
        let grace = old.parameters.lease_grace_ms;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (number, account) in &change.leaves.accounts {
            let owner = AccountNumber(*number);
            before.clear();
            after.clear();
            if let Some(account) = old.accounts.get(*number as usize) {
                before.extend(due::of_account(owner, account, grace));
            }
            after.extend(due::of_account(owner, account, grace));
            if before != after {
                for due in &before {
                    self.due.remove(due);
                }
                self.due.extend(&after);
            }
        }
    }
}
