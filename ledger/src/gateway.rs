//! Gateways: what the ledger knows of each.

use serde::{Deserialize, Serialize};

use crate::{
    crypto::PublicKey,
    hash::Hash,
    ids::{Amount, DebitNumber, JournalNumber, LeaseNumber, Sum},
    reason::Reason,
};

/// A gateway's blast radius. Each cap lowers what a Lease grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caps {
    /// Most it may hold open.
    pub open: Amount,
    /// Most it may hold open of one account.
    pub open_account: Amount,
    /// Most it may lease, less what it returned, in a clock hour.
    pub hour: Amount,
    /// The same for one account.
    pub hour_account: Amount,
}

/// A gateway's leaf (table 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Verifies what it signs.
    pub key: PublicKey,
    /// Its caps.
    pub caps: Caps,
    /// No further leases.
    pub suspended: bool,
    /// Current journal; 0: none opened yet.
    pub journal: JournalNumber,
    /// Last debit of the current journal.
    pub last_debit: DebitNumber,
    /// Running hash of the current journal: h' = keyed(h || batch leaf hash)
    /// with the key of `Context::Journal`, from zero.
    pub journal_hash: Hash,
    /// Last lease.
    pub last_lease: LeaseNumber,
    /// What its open leases still hold (I3).
    pub open: Amount,
    /// Number of its open leases.
    pub open_leases: u32,
    /// Clock hour of `hour_leased`.
    pub hour: u32,
    /// Leased less returned in that hour.
    pub hour_leased: Amount,
    /// Costs that its receipts did not charge.
    pub loss: Sum,
}

impl Gateway {
    /// Whether `journal` is the current one. An earlier one is fenced for
    /// good; a later one may be opened yet, also where this node lags behind.
    pub(crate) fn has_open(&self, journal: JournalNumber) -> Result<(), Reason> {
        if journal.0 == 0 || journal < self.journal {
            Err(Reason::JournalNotCurrent)
        } else if journal > self.journal {
            Err(Reason::JournalAhead)
        } else {
            Ok(())
        }
    }
}
