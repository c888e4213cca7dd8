//! A lease as the gateway holds it: an escrow that it spends alone.
//!
//! I3: what is reserved here never exceeds what was granted, because `free`
//! is checked and lowered in one step under the account's lock, and the
//! ledger charges at most a hold's limit.

use std::time::Instant;

use tally_ledger::ids::{
    ApiKeyNumber, ClassNumber, DebitNumber, Height, LeaseNumber, TableVersion,
};

/// Whether a lease has ended, as far as is known here; later ones are worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It has not.
    #[default]
    Open,
    /// Another gateway wanted the balance. It takes no new hold, unless none
    /// was ever made in it: who asked for it is served first, or gateways
    /// could recall each other's leases for ever and serve nobody.
    Recalled,
    /// It takes no new hold.
    Over,
}

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
    /// Whether it has ended.
    pub end: End,
    /// When that was learnt.
    pub ended: Option<Instant>,
    /// A hold was made in it.
    pub used: bool,
    /// It is being given back.
    pub returning: bool,
    /// The last debit that it paid; must be proven before it is returned.
    pub last_debit: DebitNumber,
}

impl Lease {
    /// Whether a new hold may be made in it.
    pub fn is_open(&self, now: Instant) -> bool {
        let ended = match self.end {
            End::Open => false,
            End::Recalled => self.used,
            End::Over => true,
        };
        !ended && !self.returning && now < self.until
    }

    /// It has ended, at least so far.
    pub fn ends(&mut self, end: End, now: Instant) {
        self.end = self.end.max(end);
        if self.end != End::Open {
            self.ended.get_or_insert(now);
        }
    }

    /// When it ended, if it has: by the clock, or when that was learnt.
    pub fn ended_at(&self, now: Instant) -> Option<Instant> {
        let over = (now >= self.until).then_some(self.until);
        match (self.ended, over) {
            (Some(learnt), Some(over)) => Some(learnt.min(over)),
            (learnt, over) => learnt.or(over),
        }
    }

    /// Raises a hold in it; false if there is not that much.
    pub fn raise(&mut self, by: u64) -> bool {
        let Some(rest) = self.free.checked_sub(by) else {
            return false;
        };
        self.free = rest;
        self.held += by;
        true
    }

    /// Lowers a hold in it, which keeps the rest.
    pub fn lower(&mut self, by: u64) {
        assert!(by <= self.held && self.holds > 0);
        self.held -= by;
        self.free += by;
    }

    /// Whether it should be given back: nothing is held in it, and no hold
    /// can come. `waits`: a request does, and may be the one it was asked for.
    pub fn is_over(&self, waits: bool, now: Instant) -> bool {
        let unwanted = self.end == End::Recalled && !waits;
        self.is_idle() && (!self.is_open(now) || self.free == 0 || unwanted)
    }

    /// Reserves `amount`; false if there is not that much.
    pub fn reserve(&mut self, amount: u64) -> bool {
        let Some(rest) = self.free.checked_sub(amount) else {
            return false;
        };
        self.free = rest;
        self.held += amount;
        self.holds += 1;
        self.used = true;
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
