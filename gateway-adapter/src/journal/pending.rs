//! What the journal knows of one hold that is not proven on the chain yet.

use tally_ledger::ids::{AccountNumber, DebitNumber};

use super::{HoldId, Journal, state::hold_of};

/// Debits looked at before the lock is given to others again.
const AT_ONCE: usize = 4_096;

/// How far a hold is, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// It is not resolved.
    Running(AccountNumber),
    /// Its debit is in the journal and not known to be on the chain.
    Settled(AccountNumber),
}

impl Journal {
    /// A hold that is not known to be on the chain; `None`: it is, or it
    /// ended void, or was never made here.
    pub fn pending(&self, hold: HoldId) -> Option<Pending> {
        // A hold moves from one of these places to the next: they are looked
        // at in that order, so that none is missed.
        {
            let inner = self.shared.inner();
            let state = &inner.state;
            if let Some(record) = state.holds.get(&hold) {
                return Some(Pending::Running(record.account));
            }
            let written = inner.debits.iter().map(|unproven| &unproven.debit);
            let carried = state.carried.get(&hold).map(|carried| &carried.debit);
            let mut debits = written.chain(carried);
            if let Some(debit) = debits.find(|debit| hold_of(debit) == hold) {
                return Some(Pending::Settled(debit.read().fixed.account));
            }
        }
        let mut after = DebitNumber(0);
        loop {
            let unproven = self.shared.unproven();
            let first = unproven.front()?.number.0;
            let skip = (after.0 + 1).saturating_sub(first) as usize;
            let mut last = None;
            for debit in unproven.iter().skip(skip).take(AT_ONCE) {
                if hold_of(&debit.debit) == hold {
                    return Some(Pending::Settled(debit.debit.read().fixed.account));
                }
                last = Some(debit.number);
            }
            after = last?;
        }
    }
}
