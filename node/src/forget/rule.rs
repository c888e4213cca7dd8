//! Whose details go.

use std::collections::BTreeMap;

use tally_ledger::{
    entry::Receipt,
    ids::{AccountNumber, ClassNumber, Height},
};

use super::Holds;

/// Whose details go, and whose must not.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Of receipts of a class in blocks below a height.
    pub before: BTreeMap<ClassNumber, Height>,
    /// Of receipts of an account among its first entries.
    pub erased: BTreeMap<AccountNumber, u32>,
    /// Not of these, whatever else is said.
    pub holds: Holds,
}

/// What becomes of a detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nobody wants it to go.
    Stays,
    /// It would go, were it not for a legal hold.
    Held,
    /// It goes.
    Goes,
}

impl Rule {
    /// What becomes of a receipt's detail.
    pub fn fate(&self, receipt: &Receipt) -> Fate {
        let old = self.before.get(&receipt.class);
        let old = old.is_some_and(|height| receipt.height < *height);
        let erased = self.erased.get(&receipt.account);
        let erased = erased.is_some_and(|entries| receipt.entry <= *entries);
        match (old || erased, self.holds.keep(receipt.account)) {
            (false, _) => Fate::Stays,
            (true, true) => Fate::Held,
            (true, false) => Fate::Goes,
        }
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{
        debit::{Flags, Position},
        hash::Hash,
        ids::{Amount, DebitNumber, GatewayNumber, JournalNumber},
    };

    use super::*;

    fn receipt(account: u32, entry: u32, class: u16, height: u64) -> Receipt {
        Receipt {
            flags: Flags(0),
            height: Height(height),
            account: AccountNumber(account),
            entry,
            position: Position {
                gateway: GatewayNumber(0),
                journal: JournalNumber(1),
                number: DebitNumber(1),
            },
            class: ClassNumber(class),
            cost: Amount(1),
            charged: Amount(1),
            detail: Hash::ZERO,
        }
    }

    #[test]
    fn age_counts_by_class_erasure_by_entry_and_a_hold_above_both() {
        let mut rule = Rule {
            before: [(ClassNumber(1), Height(10))].into(),
            erased: [(AccountNumber(7), 5)].into(),
            holds: Holds::default(),
        };
        assert_eq!(rule.fate(&receipt(1, 1, 1, 9)), Fate::Goes);
        assert_eq!(rule.fate(&receipt(1, 1, 1, 10)), Fate::Stays);
        assert_eq!(rule.fate(&receipt(1, 1, 2, 9)), Fate::Stays);
        assert_eq!(rule.fate(&receipt(7, 5, 2, 50)), Fate::Goes);
        assert_eq!(rule.fate(&receipt(7, 6, 2, 50)), Fate::Stays);
        rule.holds = Holds::of(&[Some(7)]);
        assert_eq!(rule.fate(&receipt(7, 5, 1, 9)), Fate::Held);
        assert_eq!(rule.fate(&receipt(7, 6, 2, 50)), Fate::Stays);
        assert_eq!(rule.fate(&receipt(1, 1, 1, 9)), Fate::Goes);
        rule.holds = Holds::of(&[None]);
        assert_eq!(rule.fate(&receipt(1, 1, 1, 9)), Fate::Held);
    }
}
