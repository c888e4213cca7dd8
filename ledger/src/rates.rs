//! Rates: how much per minute all gateways together let in, and how much a
//! second of waiting is worth beside a priority fee. Admins set them; the
//! gateways keep them, each a share of a limit. No validator counts requests.
//!
//! What waiting is worth grows with block time and never falls, whatever the
//! unit is changed to: the leaf carries what all time up to the last change
//! was worth, so every gateway computes the same, before and after a restart.

use serde::{Deserialize, Serialize};

use crate::{
    class::MAX_CLASSES,
    codec::List,
    ids::{Amount, ClassNumber, Sum, Time},
};

/// The fee unit of a chain on which none was set.
pub const DEFAULT_FEE_UNIT: Amount = Amount(1_000);
/// Largest fee unit: 1,000 CT per second.
pub const MAX_FEE_UNIT: Amount = Amount(1_000_000_000);
/// A limit that limits nothing.
pub const NO_LIMIT: u32 = u32::MAX;

/// A limit per minute; [`NO_LIMIT`]: none. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests.
    pub requests: u32,
    /// LLM tokens, of input and output.
    pub tokens: u32,
}

/// The limit of one class, over all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassRate {
    /// Which.
    pub class: ClassNumber,
    /// How much.
    pub rate: Rate,
}

/// What SetRates sets, all of it anew. Limits are those of all gateways
/// together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// A priority fee of this is worth a second of waiting, in every queue.
    pub fee_unit: Amount,
    /// Of each API key.
    pub key: Rate,
    /// Of each account, over all its keys.
    pub account: Rate,
    /// Of classes, ascending by class; one that is left out has no limit.
    pub classes: List<ClassRate, MAX_CLASSES>,
}

/// The rates' leaf (table 7, number 1); there is none before the first
/// SetRates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatesState {
    /// What was set.
    pub rates: Rates,
    /// Time of the block that set it.
    pub since: Time,
    /// What waiting from the beginning of time until then was worth, in
    /// nano-CT.
    pub worth: Sum,
}

/// Why rates cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RatesError {
    /// Nobody may wait for ever, and the engines' priorities must fit.
    #[error("fee_unit must be between 0.000001 and 1000")]
    FeeUnit,
    /// It would shut out everybody.
    #[error("a limit per minute must be above 0; leave it out for none")]
    Zero,
}

impl Rate {
    /// No limit.
    pub const NONE: Rate = Rate {
        requests: NO_LIMIT,
        tokens: NO_LIMIT,
    };
}

impl Default for Rates {
    /// What holds on a chain on which nothing was set.
    fn default() -> Self {
        Rates {
            fee_unit: DEFAULT_FEE_UNIT,
            key: Rate::NONE,
            account: Rate::NONE,
            classes: List::default(),
        }
    }
}

impl Rates {
    /// Whether the classes are named once each, in their order.
    pub fn are_ordered(&self) -> bool {
        self.classes
            .windows(2)
            .all(|pair| pair[0].class < pair[1].class)
    }

    /// Checks every range.
    pub fn validate(&self) -> Result<(), RatesError> {
        if !(1..=MAX_FEE_UNIT.0).contains(&self.fee_unit.0) {
            return Err(RatesError::FeeUnit);
        }
        let classes = self.classes.iter().map(|class| class.rate);
        let mut all = [self.key, self.account].into_iter().chain(classes);
        if all.any(|rate| rate.requests == 0 || rate.tokens == 0) {
            return Err(RatesError::Zero);
        }
        Ok(())
    }

    /// The limit of a class.
    pub fn class(&self, class: ClassNumber) -> Rate {
        let found = self.classes.binary_search_by_key(&class, |of| of.class);
        found.map_or(Rate::NONE, |at| self.classes[at].rate)
    }
}

impl Default for RatesState {
    /// Of a chain on which nothing was set.
    fn default() -> Self {
        RatesState {
            rates: Rates::default(),
            since: Time(0),
            worth: Sum(0),
        }
    }
}

impl RatesState {
    /// What waiting from the beginning of time until `now` is worth, in
    /// nano-CT. A request is ahead of another by the difference of this at
    /// their arrivals, and of their fees.
    pub fn worth_at(&self, now: Time) -> u128 {
        let since = now.0.saturating_sub(self.since.0);
        // Below 2^64 ms times 2^30: no sum of such leaves the range.
        self.worth.0 + u128::from(since) * u128::from(self.rates.fee_unit.0)
    }

    /// Other rates from `now` on; what waiting was worth stays.
    pub(crate) fn next(&self, rates: Rates, now: Time) -> RatesState {
        RatesState {
            worth: Sum(self.worth_at(now)),
            since: now,
            rates,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(fee_unit: u64) -> Rates {
        Rates {
            fee_unit: Amount(fee_unit),
            ..Rates::default()
        }
    }

    #[test]
    fn waiting_is_worth_what_the_unit_was_at_each_time() {
        let first = RatesState::default();
        assert_eq!(first.worth_at(Time(5_000)), 5_000_000);
        let second = first.next(unit(1), Time(5_000));
        assert_eq!(second.worth_at(Time(7_000)), 5_002_000);
        let third = second.next(unit(1_000_000_000), Time(7_000));
        assert_eq!(third.worth_at(Time(7_001)), 1_005_002_000);
        // A clock behind the chain's takes nothing back.
        assert_eq!(third.worth_at(Time(6_000)), 5_002_000);
        let end = third.next(unit(1_000_000_000), Time(u64::MAX));
        assert!(end.worth_at(Time(u64::MAX)) > third.worth.0);
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!(Rates::default().validate(), Ok(()));
        for bad in [0, MAX_FEE_UNIT.0 + 1] {
            assert_eq!(unit(bad).validate(), Err(RatesError::FeeUnit));
        }
        assert_eq!(unit(MAX_FEE_UNIT.0).validate(), Ok(()));
        let zero = Rate {
            requests: 0,
            ..Rate::NONE
        };
        let class = ClassRate {
            class: ClassNumber(3),
            rate: zero,
        };
        let key = Rates {
            key: zero,
            ..Rates::default()
        };
        let classes = Rates {
            classes: List::new(vec![class]).unwrap(),
            ..Rates::default()
        };
        for bad in [&key, &classes] {
            assert_eq!(bad.validate(), Err(RatesError::Zero));
        }
        assert_eq!(classes.class(ClassNumber(3)), zero);
        assert_eq!(classes.class(ClassNumber(2)), Rate::NONE);
    }
}
