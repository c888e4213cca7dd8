//! What a start does with the journal that it finds, given the gateway's
//! proven leaf.
//!
//! | files | chain | then |
//! |---|---|---|
//! | none | no journal yet | open journal 1 |
//! | none | journal n | lost: open n + 1, previous lost |
//! | intact, journal n | journal n, its last debit is ours, same hash | go on with n |
//! | intact, journal n | journal n, more debits or another hash | lost: open n + 1, previous lost |
//! | intact, journal n | a later journal m | fenced: open m + 1, previous lost |
//! | intact, n was being opened | journal n - 1 | send the same OpenJournal again |
//! | intact, n was being opened | journal n, no debits | it was opened; go on with n |
//! | damaged | journal n | lost: open n + 1, previous lost |
//! | of another chain or gateway | any | stop |
//! | intact or damaged | an earlier journal, or fewer debits than were proven | stop |
//!
//! A journal that is intact and current is continued, so a restart opens no
//! new one; in both cases what was held before the start is settled at its
//! last mark, no new hold is made on a lease from before the start, and those
//! leases are returned once their debits are proven.
//!
//! When a new journal is opened, what is readable moves into it: leases,
//! open holds (under their old id), and debits above the chain's last. Where
//! the chain closed the old journal is known only after OpenJournal is
//! final, so those debits travel as `Carried` until then; the ones that the
//! chain has are dropped, the rest become debits of the new journal. If the
//! chain has more debits of the old journal than the files, an open hold may
//! have been settled by one that is lost: its holds are dropped, and the
//! leases' `unreported` bounds them.

use std::io;

use tally_ledger::{
    crypto::ChainId,
    ids::{DebitNumber, GatewayNumber, JournalNumber},
};

use super::{
    Contents, Head, Recovered, Store,
    record::SegmentHead,
    state::{Carried, State, hold_of},
};

/// Why the gateway cannot start with this journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Wrong directory or wrong key.
    #[error("the journal is of gateway {gateway} on chain {chain}; use its own home and genesis")]
    Foreign {
        /// Whose it is.
        gateway: GatewayNumber,
        /// Where.
        chain: ChainId,
    },
    /// The chain lacks what it has proven before.
    #[error(
        "the chain is behind what this journal has seen proven ({chain:?}); wrong nodes or genesis?"
    )]
    ChainBehind {
        /// What the chain has.
        chain: Head,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on; if not marked opened, OpenJournal may have to be sent again.
    Continue(Contents),
    /// Begin this state as a new journal, then open it on the chain.
    Open {
        /// What it starts with.
        state: State,
        /// For the log.
        why: &'static str,
    },
}

/// Decides; see the table above.
pub fn decide(
    chain: ChainId,
    gateway: GatewayNumber,
    leaf: Head,
    recovered: Recovered,
) -> Result<Decision, StartError> {
    let fresh = |why, previous_intact, old: Option<&Contents>| {
        let mut state = State::new(SegmentHead {
            chain,
            gateway,
            head: Head {
                journal: JournalNumber(leaf.journal.0 + 1),
                ..Head::default()
            },
            last_hold: 0,
            opened: false,
            previous_intact,
            first: true,
        });
        if let Some(old) = old {
            carry(old, leaf, &mut state);
        }
        Ok(Decision::Open { state, why })
    };
    let (contents, damaged) = match recovered {
        Recovered::Nothing if leaf.journal.0 == 0 => {
            return fresh("this gateway has no journal yet", true, None);
        }
        Recovered::Nothing => return fresh("the journal is missing", false, None),
        Recovered::Damaged { readable: None, .. } => {
            return fresh("the journal is unreadable", leaf.journal.0 == 0, None);
        }
        Recovered::Damaged {
            readable: Some(contents),
            ..
        } => (contents, true),
        Recovered::Intact(contents) => (contents, false),
    };
    let base = contents.state.base;
    if base.chain != chain || base.gateway != gateway {
        return Err(StartError::Foreign {
            gateway: base.gateway,
            chain: base.chain,
        });
    }
    let ours = base.head.journal;
    let expected = if base.opened { ours.0 } else { ours.0 - 1 };
    if leaf.journal.0 < expected || (leaf.journal == ours && leaf.last < contents.start.last) {
        return Err(StartError::ChainBehind { chain: leaf });
    }
    if damaged {
        return fresh(
            "the journal is damaged",
            leaf.journal.0 == 0,
            Some(&contents),
        );
    }
    if leaf.journal > ours {
        return fresh(
            "another journal was opened for this gateway",
            false,
            Some(&contents),
        );
    }
    if leaf.journal < ours || contents.hash_at(leaf.last) == Some(leaf.hash) {
        return Ok(Decision::Continue(contents));
    }
    fresh(
        "the chain has debits that the journal lacks",
        false,
        Some(&contents),
    )
}

/// Moves what is not settled on the chain into the new journal's state.
fn carry(old: &Contents, leaf: Head, state: &mut State) {
    let journal = old.state.head().journal;
    let same = journal == leaf.journal;
    let known = if same { leaf.last } else { DebitNumber(0) };
    state.leases.clone_from(&old.state.leases);
    state.carried.clone_from(&old.state.carried);
    state.names.clone_from(&old.state.names);
    for debit in old.unproven.iter().filter(|debit| debit.number > known) {
        let carried = Carried {
            journal,
            number: debit.number,
            debit: debit.debit.clone(),
        };
        state.carried.insert(hold_of(&debit.debit), carried);
    }
    if !same || leaf.last <= old.state.head().last {
        state.holds.clone_from(&old.state.holds);
    }
}

/// Begins `state` durably as the first segment of its journal. Earlier
/// segments are not read again.
pub fn begin(store: &mut dyn Store, state: State) -> io::Result<Contents> {
    let number = store.segments()?.last().map_or(1, |last| last + 1);
    let snapshot = state.snapshot(true);
    store.create(number)?;
    store.append(&snapshot)?;
    store.sync()?;
    Ok(Contents {
        start: state.head(),
        unproven: Vec::new(),
        segments: vec![(number, DebitNumber(0))],
        length: snapshot.len() as u64,
        state,
    })
}
