//! What scripts reach: without it, agreement could mean that nothing
//! happened.

use std::collections::BTreeMap;

use tally_ledger::{debit::Flags, reason::Reason};

use crate::oracle::{Fact, LogEntry};

/// How often what happened, to see that scripts reach it.
#[derive(Debug, Default)]
pub struct Coverage {
    /// Accepted, by action.
    pub accepted: BTreeMap<String, usize>,
    /// Refused, by the ledger's reason.
    pub refused: BTreeMap<Reason, usize>,
    /// Kinds of facts, reasons of recalls and shortfalls, flags.
    pub seen: BTreeMap<String, usize>,
}

impl Coverage {
    pub(super) fn see(&mut self, facts: &[LogEntry]) {
        for entry in facts {
            let shown = format!("{:?}", entry.fact);
            let kind = shown.split([' ', '{']).next().unwrap_or_default();
            let more = match &entry.fact {
                Fact::LeaseGranted { shortfall, .. } => vec![format!("{kind} {shortfall}")],
                Fact::LeaseEnded { recall, .. } => vec![format!("{kind} {recall}")],
                Fact::LeaseClosed { unreported, .. } if *unreported > 0 => {
                    vec![kind.into(), format!("{kind} unreported")]
                }
                Fact::Receipt { flags, .. } => (Flags(*flags)
                    .names()
                    .into_iter()
                    .map(|flag| format!("{kind} {flag}")))
                .collect(),
                _ => vec![kind.into()],
            };
            for what in more {
                *self.seen.entry(what).or_default() += 1;
            }
        }
    }

    /// Both together.
    pub fn add(&mut self, other: Coverage) {
        fn merge<K: Ord>(to: &mut BTreeMap<K, usize>, from: BTreeMap<K, usize>) {
            for (key, count) in from {
                *to.entry(key).or_default() += count;
            }
        }
        merge(&mut self.accepted, other.accepted);
        merge(&mut self.refused, other.refused);
        merge(&mut self.seen, other.seen);
    }
}
