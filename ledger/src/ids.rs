//! Numbers that name things. Accounts, gateways, persons and the like are
//! numbered consecutively from 0, so absence is `number >= size`. Journals,
//! leases, debits, grants and entries of an account count from 1, and 0
//! stands for "none yet".

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A person who holds a role key.
    Person(u32)
);
number!(
    /// A holder's soulbound account.
    AccountNumber(u32)
);
number!(
    /// A gateway.
    GatewayNumber(u32)
);
number!(
    /// A class of compute token.
    ClassNumber(u16)
);
number!(
    /// An API key.
    ApiKeyNumber(u32)
);
number!(
    /// A grant, numbered from 1 within its account.
    GrantNumber(u32)
);
number!(
    /// A lease, numbered from 1 within its gateway.
    LeaseNumber(u64)
);
number!(
    /// A journal, numbered from 1 within its gateway.
    JournalNumber(u32)
);
number!(
    /// A debit, numbered from 1 within its journal.
    DebitNumber(u64)
);
number!(
    /// A model, as the price table numbers it.
    ModelNumber(u32)
);
number!(
    /// A version of the price table, from 1.
    TableVersion(u32)
);
number!(
    /// A block's height; the genesis is 0, the first block 1.
    Height(u64)
);
number!(
    /// Milliseconds since 1970-01-01 UTC.
    Time(u64)
);
number!(
    /// A sum of costs, in micro-CT. Costs rest on a gateway's word alone and
    /// a debit is never refused for its amount (I5), so this is wide enough
    /// for 2^64 of the largest.
    Sum(u128)
);

impl Sum {
    /// Adds an amount; cannot overflow before 2^64 of the largest.
    pub fn add(&mut self, amount: Amount) {
        self.0 += u128::from(amount.0);
    }
}

impl AccountNumber {
    /// Stands for "no account" in log leaves.
    pub const NONE: AccountNumber = AccountNumber(u32::MAX);
}

/// Milliseconds in a clock hour.
pub const HOUR_MS: u64 = 3_600_000;
/// Milliseconds in a clock day.
pub const DAY_MS: u64 = 86_400_000;

impl Time {
    /// Whole clock hours since 1970.
    pub fn hour(self) -> u32 {
        (self.0 / HOUR_MS) as u32
    }

    /// Whole clock days since 1970.
    pub fn day(self) -> u32 {
        (self.0 / DAY_MS) as u32
    }
}

/// An amount of compute tokens, in micro-CT (6 decimals). Decimal CT in a
/// string in text formats, where a bare number would be ambiguous and lose
/// precision beyond 2^53.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub u64);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(Amount);
        }
        let text = String::deserialize(deserializer)?;
        let error = || D::Error::custom(format!("`{text}` is no amount of CT, such as \"12.5\""));
        Amount::parse(&text).ok_or_else(error)
    }
}

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);
    /// One whole compute token.
    pub const ONE: Amount = Amount(1_000_000);

    /// Sum, or `None` past the range.
    #[must_use]
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        self.0.checked_add(other.0).map(Amount)
    }

    /// Difference, or `None` below zero.
    #[must_use]
    pub fn checked_sub(self, other: Amount) -> Option<Amount> {
        self.0.checked_sub(other.0).map(Amount)
    }

    /// Difference, zero at the least.
    #[must_use]
    pub fn saturating_sub(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }

    /// Parses decimal CT with at most six decimals, such as `12.5`.
    pub fn parse(text: &str) -> Option<Amount> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 6 || !digits(whole) || !digits(fraction) {
            return None;
        }
        if text.ends_with('.') {
            return None;
        }
        let micro: u64 = format!("{fraction:0<6}").parse().ok()?;
        whole
            .parse::<u64>()
            .ok()?
            .checked_mul(1_000_000)?
            .checked_add(micro)
            .map(Amount)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_and_parse() {
        for (text, micro) in [
            ("0", 0),
            ("1.5", 1_500_000),
            ("0.000001", 1),
            ("18446744073709.551615", u64::MAX),
        ] {
            assert_eq!(Amount::parse(text), Some(Amount(micro)));
        }
        for bad in [
            "",
            ".5",
            "1.",
            "1.0000001",
            "-1",
            "1e3",
            "18446744073709.551616",
        ] {
            assert_eq!(Amount::parse(bad), None, "{bad}");
        }
        assert_eq!(Amount(1_500_000).to_string(), "1.500000");
        let text = serde_json::to_string(&Amount(u64::MAX)).unwrap();
        assert_eq!(text, "\"18446744073709.551615\"");
        assert_eq!(
            serde_json::from_str::<Amount>(&text).unwrap(),
            Amount(u64::MAX)
        );
        assert_eq!(crate::codec::encode(&Amount(1)).len(), 8);
    }
}
