//! What an account asks of the chain's side, and what it is answered.

use std::{sync::Arc, time::Instant};

use tally_ledger::ids::{ClassNumber, DebitNumber, Height, LeaseNumber, TableVersion};

use crate::{account::Account, key::Key, refusal::Refusal};

/// What a Lease was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Its number.
    pub number: LeaseNumber,
    /// How much; not zero.
    pub amount: u64,
    /// Price table in force.
    pub table: TableVersion,
    /// At which height it was proven.
    pub height: Height,
    /// Until when it may be used, by the own monotonic clock.
    pub until: Instant,
}

/// Why a Lease was granted nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoGrant {
    /// For good or for now; the request is refused so.
    Refused(Refusal),
    /// There is no balance.
    Dry,
}

/// What the chain's side should do for an account.
#[derive(Debug, Clone)]
pub enum Job {
    /// Ask for a lease.
    Lease {
        /// For whom.
        account: Arc<Account>,
        /// On behalf of which key.
        key: Arc<Key>,
        /// Of what.
        class: ClassNumber,
        /// How much.
        wanted: u64,
        /// Worst case of one request.
        worst: u64,
    },
    /// Prove the account's leaf again.
    Refresh {
        /// Whose.
        account: Arc<Account>,
    },
    /// Give a lease back once its debits are proven.
    Return {
        /// Whose.
        account: Arc<Account>,
        /// Which.
        lease: LeaseNumber,
        /// The debit that must be proven first.
        after: DebitNumber,
    },
}
