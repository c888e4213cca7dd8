//! Leaves of the state, for people; what is proven is their bytes.

use tally_ledger::{
    account::{Account, Grant, OpenLease},
    class::{Class, Totals},
    gateway::Gateway,
    ids::{AccountNumber, ClassNumber, GatewayNumber, Sum},
};

use super::{bytes_of, entry::recall_name, key_bytes};
use crate::v1;

/// A grant.
pub(super) fn grant_to_proto(from: &Grant) -> v1::Grant {
    v1::Grant {
        number: from.number.0,
        class: from.class.0.into(),
        amount: from.amount.0,
        free: from.free.0,
        leased: from.leased.0,
        vests: from.vests.0,
        expires: from.expires.0,
        burn: v1::Burn::from(from.burn).into(),
        vested: from.vested,
        expired: from.expired,
        revoked: from.revoked,
    }
}

fn lease_to_proto(from: &OpenLease) -> v1::OpenLease {
    v1::OpenLease {
        gateway: from.gateway.0,
        number: from.number.0,
        class: from.class.0.into(),
        api_key: from.api_key.0,
        granted: from.granted.0,
        remaining: from.remaining().0,
        opened: from.opened.0,
        end: from.end.0,
        table: from.table.0,
        recall: recall_name(from.recall).into(),
    }
}

impl From<Sum> for v1::Sum {
    fn from(from: Sum) -> Self {
        v1::Sum {
            low: from.0 as u64,
            high: (from.0 >> 64) as u64,
        }
    }
}

impl From<v1::Sum> for Sum {
    fn from(from: v1::Sum) -> Self {
        Sum(u128::from(from.high) << 64 | u128::from(from.low))
    }
}

impl v1::ClassTotals {
    /// The totals of a class.
    pub fn new(class: ClassNumber, from: &Totals) -> Self {
        v1::ClassTotals {
            class: class.0.into(),
            issued: from.issued.0,
            unvested: from.unvested.0,
            available: from.available.0,
            leased: from.leased.0,
            spent: from.spent.0,
            expired: from.expired.0,
            revoked: from.revoked.0,
            surrendered: from.surrendered.0,
            costs: Some(from.costs.into()),
            loss: Some(from.loss.into()),
        }
    }
}

impl v1::GetAccountResponse {
    /// An account, without its proof.
    pub fn new(number: AccountNumber, from: &Account) -> Self {
        v1::GetAccountResponse {
            account: number.0,
            unit: from.unit,
            holder: key_bytes(&from.holder),
            frozen: from.frozen,
            classes: from.classes.iter().map(|class| class.0.into()).collect(),
            entries: from.entries,
            totals: from
                .totals
                .iter()
                .map(|(c, t)| v1::ClassTotals::new(*c, t))
                .collect(),
            grants: from.grants.iter().map(grant_to_proto).collect(),
            leases: from.leases.iter().map(lease_to_proto).collect(),
            api_keys: from.api_keys.iter().map(|key| key.0).collect(),
            proof: None,
        }
    }
}

impl v1::GetGatewayResponse {
    /// A gateway, without its proof.
    pub fn new(number: GatewayNumber, from: &Gateway) -> Self {
        v1::GetGatewayResponse {
            gateway: number.0,
            key: key_bytes(&from.key),
            caps: Some(from.caps.into()),
            suspended: from.suspended,
            journal: from.journal.0,
            last_debit: from.last_debit.0,
            journal_hash: bytes_of(&from.journal_hash),
            last_lease: from.last_lease.0,
            open: from.open.0,
            open_leases: from.open_leases,
            loss: Some(from.loss.into()),
            proof: None,
        }
    }
}

impl v1::ClassInfo {
    /// A class.
    pub fn new(number: ClassNumber, from: &Class) -> Self {
        v1::ClassInfo {
            class: number.0.into(),
            rules: Some((&from.rules).into()),
            totals: Some(v1::ClassTotals::new(number, &from.totals)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_sums_come_back() {
        for sum in [0, 1, u128::from(u64::MAX), 1 << 64, u128::MAX] {
            assert_eq!(Sum::from(v1::Sum::from(Sum(sum))), Sum(sum));
        }
    }
}
