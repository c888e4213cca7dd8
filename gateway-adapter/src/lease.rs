//! A lease as the gateway holds it: an escrow that it spends alone.
//!
//! I3: what is reserved here never exceeds what was granted, because `free`
//! is checked and lowered in one step under the account's lock, and the
//! ledger charges at most a hold's limit.

use std::time::Instant;

use tally_ledger::ids::{
    ApiKeyNumber, ClassNumber, DebitNumber, Height, LeaseNumber, TableVersion,
};

/// A granted lease.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its number.
    pub number: LeaseNumber,
    /// Of what.
    pub class: ClassNumber,
    /// On behalf of which key; only its requests may use it.
    pub api_key: ApiKeyNumber,
    /// Price table in force when it was opened; debits name this or later.
    pub table: TableVersion,
    /// As granted.
    pub granted: u64,
    /// Neither held nor charged.
    pub free: u64,
    /// Reserved by running holds.
    pub held: u64,
    /// How many those are.
    pub holds: u32,
    /// At which height it was proven.
    pub height: Height,
    /// No new hold from here on, by the own monotonic clock: the asking time
    /// and the duration, less a margin.
    pub until: Instant,
    /// It was recalled.
    pub ended: bool,
    /// It is being given back.
    pub returning: bool,
    /// The last debit that it paid; must be proven before it is returned.
    pub last_debit: DebitNumber,
}

impl Lease {
    /// Whether a new hold may be made in it.
    pub fn is_open(&self, now: Instant) -> bool {
        !self.ended && !self.returning && now < self.until
    }

    /// Reserves `amount`; false if there is not that much.
    pub fn reserve(&mut self, amount: u64) -> bool {
        let Some(rest) = self.free.checked_sub(amount) else {
            return false;
        };
        self.free = rest;
        self.held += amount;
        self.holds += 1;
        true
    }

    /// Ends a hold of `limit` that was charged `charged` (at most `limit`).
    pub fn release(&mut self, limit: u64, charged: u64) {
        assert!(charged <= limit && limit <= self.held && self.holds > 0);
        self.held -= limit;
        self.free += limit - charged;
        self.holds -= 1;
    }

    /// Whether it can be given back now, but for the proof of its debits.
    pub fn is_idle(&self) -> bool {
        self.holds == 0 && !self.returning
    }
}
