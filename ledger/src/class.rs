//! Classes of compute token and their totals.

use serde::{Deserialize, Serialize};

use crate::{
    codec::List,
    ids::{Amount, ModelNumber, Sum},
};

/// Most bytes of a class's name.
pub const MAX_NAME_BYTES: usize = 32;
/// Most models a class may be limited to.
pub const MAX_CLASS_MODELS: usize = 64;
/// Most classes of a chain.
pub const MAX_CLASSES: usize = 256;

/// Who may burn a grant (EIP-5484's `BurnAuth`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Burn {
    /// Tag 0: the issuer, by Revoke.
    IssuerOnly,
    /// Tag 1: the holder, by Surrender.
    HolderOnly,
    /// Tag 2: either.
    Both,
    /// Tag 3: nobody.
    Neither,
}

impl Burn {
    /// Whether issuers may revoke.
    pub fn by_issuer(self) -> bool {
        matches!(self, Burn::IssuerOnly | Burn::Both)
    }

    /// Whether holders may surrender.
    pub fn by_holder(self) -> bool {
        matches!(self, Burn::HolderOnly | Burn::Both)
    }
}

/// What a class allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassRules {
    /// Lower-case ASCII letters, digits, `-`, `_`; no other class's.
    pub name: String,
    /// Models it may buy, ascending; empty: all.
    pub models: List<ModelNumber, MAX_CLASS_MODELS>,
    /// Largest priority fee it pays; 0: none.
    pub max_fee: Amount,
    /// Who may burn its grants.
    pub burn: Burn,
    /// Most that may be issued per period; `u64::MAX`: no cap.
    pub supply_cap: Amount,
    /// Length of the period in clock days; at least 1. A period starts with
    /// each multiple of it since 1970. When it is changed, what was issued in
    /// the running period counts in the one that runs by the new length.
    pub period_days: u32,
}

impl ClassRules {
    /// Whether the rules are well-formed in themselves.
    pub fn are_lawful(&self) -> bool {
        let name = self.name.as_bytes();
        let known =
            |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-' || *b == b'_';
        !name.is_empty()
            && name.len() <= MAX_NAME_BYTES
            && name.iter().all(known)
            && self.models.windows(2).all(|pair| pair[0] < pair[1])
            && self.max_fee.0 < crate::price::MAX_FEE
            && self.period_days >= 1
    }

    /// Whether this class may buy `model`.
    pub fn buys(&self, model: ModelNumber) -> bool {
        self.models.is_empty() || self.models.binary_search(&model).is_ok()
    }
}

/// Where issued tokens are. I1: `issued` is the sum of the seven buckets
/// below it, and `costs` = `spent` + `loss`, at every height.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Ever issued.
    pub issued: Amount,
    /// Not yet spendable.
    pub unvested: Amount,
    /// Spendable.
    pub available: Amount,
    /// Set aside for gateways.
    pub leased: Amount,
    /// Charged by receipts.
    pub spent: Amount,
    /// Ran out unspent.
    pub expired: Amount,
    /// Taken back by issuers.
    pub revoked: Amount,
    /// Given back by holders.
    pub surrendered: Amount,
    /// Costs of all receipts.
    pub costs: Sum,
    /// Costs that were not charged; the gateways' loss.
    pub loss: Sum,
}

/// A place in which issued tokens can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bucket {
    Unvested,
    Available,
    Leased,
    Spent,
    Expired,
    Revoked,
    Surrendered,
}

impl Totals {
    fn bucket(&mut self, bucket: Bucket) -> &mut Amount {
        match bucket {
            Bucket::Unvested => &mut self.unvested,
            Bucket::Available => &mut self.available,
            Bucket::Leased => &mut self.leased,
            Bucket::Spent => &mut self.spent,
            Bucket::Expired => &mut self.expired,
            Bucket::Revoked => &mut self.revoked,
            Bucket::Surrendered => &mut self.surrendered,
        }
    }

    /// Moves tokens from one place to another; upholds I1.
    ///
    /// # Panics
    /// If there are not as many: the caller has checked (I3).
    pub(crate) fn shift(&mut self, from: Bucket, to: Bucket, amount: Amount) {
        let source = self.bucket(from);
        *source = source
            .checked_sub(amount)
            .expect("I3: nothing is taken that is not there");
        let target = self.bucket(to);
        *target = target
            .checked_add(amount)
            .expect("I1: no bucket holds more than was issued");
    }

    /// Adds newly issued tokens; upholds I1.
    ///
    /// # Panics
    /// If `issued` leaves its range: the caller has checked.
    pub(crate) fn issue(&mut self, to: Bucket, amount: Amount) {
        let sum = |old: Amount| {
            old.checked_add(amount)
                .expect("issued sums are checked first")
        };
        self.issued = sum(self.issued);
        let target = self.bucket(to);
        *target = sum(*target);
    }

    /// Books a receipt; upholds I1 and I4.
    pub(crate) fn charge(&mut self, cost: Amount, charged: Amount) {
        self.shift(Bucket::Leased, Bucket::Spent, charged);
        self.costs.add(cost);
        self.loss.add(Amount(cost.0 - charged.0));
    }

    /// I1 for these totals.
    pub fn are_conserved(&self) -> bool {
        let buckets = [
            self.unvested,
            self.available,
            self.leased,
            self.spent,
            self.expired,
            self.revoked,
            self.surrendered,
        ];
        let held: u128 = buckets.iter().map(|amount| u128::from(amount.0)).sum();
        held == u128::from(self.issued.0) && self.costs.0 == u128::from(self.spent.0) + self.loss.0
    }
}

/// A class's leaf (table 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// What it allows.
    pub rules: ClassRules,
    /// Sums over all accounts.
    pub totals: Totals,
    /// Period of `period_issued`: clock day / `period_days`.
    pub period: u32,
    /// Issued in that period.
    pub period_issued: Amount,
}

impl Class {
    /// Issued in the period that runs on a clock day.
    pub fn issued_by(&self, day: u32) -> Amount {
        if self.period == day / self.rules.period_days {
            self.period_issued
        } else {
            Amount::ZERO
        }
    }

    /// Takes other rules on a clock day. Another length of the period does
    /// not forget what was issued in the running one: else a cap could be
    /// spent once per change.
    pub(crate) fn set_rules(&mut self, rules: ClassRules, day: u32) {
        if rules.period_days != self.rules.period_days {
            self.period_issued = self.issued_by(day);
            self.period = day / rules.period_days;
        }
        self.rules = rules;
    }

    /// Counts an issue on a clock day; `false`: it would exceed the cap, and
    /// nothing has changed.
    pub(crate) fn count_issue(&mut self, amount: Amount, day: u32) -> bool {
        let sum = self.issued_by(day).checked_add(amount);
        let Some(issued) = sum.filter(|sum| *sum <= self.rules.supply_cap) else {
            return false;
        };
        self.period = day / self.rules.period_days;
        self.period_issued = issued;
        true
    }
}
