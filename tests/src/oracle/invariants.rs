//! The invariants of the design, asked of the oracle's own books.

use std::collections::BTreeMap;

use super::{Fact, Oracle};

impl Oracle {
    /// I1, I3, I4, I5 over everything that ever happened. Panics with the
    /// number of the one that does not hold.
    pub fn check_invariants(&self) {
        self.conserved();
        self.never_overspent();
        self.priced();
        self.exactly_once();
        self.numbered();
    }

    /// I1: issued tokens are in exactly one place; costs are spent or lost.
    fn conserved(&self) {
        for ((account, class), t) in self.totals() {
            let places = t.unvested
                + t.available
                + t.leased
                + t.spent
                + t.expired
                + t.revoked
                + t.surrendered;
            assert_eq!(t.issued, places, "I1: account {account}, class {class}");
            assert_eq!(t.costs, t.spent + t.loss, "I1: costs of {account}, {class}");
        }
        for ((account, number), g) in &self.grants {
            let gone = g.spent + g.expired + g.revoked + g.surrendered;
            let held = g.free + self.leased_of(*account, *number);
            assert_eq!(g.amount, held + gone, "I1: grant {number} of {account}");
        }
    }

    /// I3: no lease holds more than it was granted, no key is charged more
    /// than its cap, no expired or revoked grant has anything free.
    fn never_overspent(&self) {
        for (key, lease) in self.open_leases() {
            assert!(lease.remaining() <= lease.granted, "I3: lease {key:?}");
        }
        for (number, key) in &self.api_keys {
            let used = self.key_spent(*number) + self.key_leased(*number);
            assert!(used <= key.cap, "I3: API key {number}");
        }
        for (key, grant) in &self.grants {
            let over = grant.is_revoked || grant.expiry_done;
            assert!(!over || grant.free == 0, "I3: grant {key:?}");
        }
    }

    /// I4: charged never exceeds cost.
    fn priced(&self) {
        for charge in &self.charges {
            assert!(charge.charged <= charge.cost, "I4: receipt {charge:?}");
        }
    }

    /// I5: per gateway and journal, debits are numbered 1, 2, 3, ..., and
    /// journals ascend.
    fn exactly_once(&self) {
        let mut last: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
        for entry in &self.log {
            let Fact::Receipt {
                gateway,
                journal,
                number,
                ..
            } = entry.fact
            else {
                continue;
            };
            let before = last.insert(gateway, (journal, number)).unwrap_or_default();
            let next = match before.0 == journal {
                true => before.1 + 1,
                false => 1,
            };
            assert!(before.0 <= journal, "I5: gateway {gateway}");
            assert_eq!(number, next, "I5: gateway {gateway}, journal {journal}");
        }
    }

    /// Entry numbers per account and control numbers are contiguous.
    fn numbered(&self) {
        let mut accounts: BTreeMap<u32, u32> = BTreeMap::new();
        let mut control = 0;
        for entry in &self.log {
            if let Some(account) = entry.account {
                let last = accounts.entry(account).or_default();
                *last += 1;
                assert_eq!(entry.entry, *last, "entries of account {account}");
            }
            if entry.control != 0 {
                control += 1;
                assert_eq!(entry.control, control, "control entries");
            }
        }
    }
}
