//! The oracle's nouns: plain records that keep what happened, so that every
//! sum can be taken over again from the beginning. Nothing is dropped: spent
//! grants and closed leases stay.

use super::Shown;
use tally_ledger::{
    action::Action, class::Burn, class::ClassRules, crypto::PublicKey, debit::Debit, gateway::Caps,
    hash::Hash, person::Roles, transaction::Author,
};

/// A person.
#[derive(Debug, Clone)]
pub struct Person {
    /// Their key.
    pub key: PublicKey,
    /// Their roles.
    pub roles: Roles,
    /// The unit that they manage.
    pub unit: Option<u32>,
}

/// An account; its grants and leases are kept apart.
#[derive(Debug, Clone)]
pub struct Account {
    /// Unit, for reports.
    pub unit: u32,
    /// The holder's key.
    pub holder: PublicKey,
    /// No new leases.
    pub frozen: bool,
}

/// A class.
#[derive(Debug, Clone)]
pub struct Class {
    /// Its rules.
    pub rules: ClassRules,
}

/// An API key.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Whose.
    pub account: u32,
    /// Its public half.
    pub key: PublicKey,
    /// Models it may buy; empty: all.
    pub models: Vec<u32>,
    /// Most that may be charged through it.
    pub cap: u64,
    /// When it ends.
    pub expires: u64,
    /// Ended for good.
    pub revoked: bool,
}

/// A gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its key.
    pub key: PublicKey,
    /// Its caps.
    pub caps: Caps,
    /// No further leases.
    pub suspended: bool,
    /// Current journal, 0: none.
    pub journal: u32,
    /// Last debit of that journal.
    pub last_debit: u64,
    /// Last lease.
    pub last_lease: u64,
}

/// A grant with its own books:
/// amount = free + leased + spent + expired + revoked + surrendered.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Of what.
    pub class: u16,
    /// As issued.
    pub amount: u64,
    /// The cliff.
    pub vests: u64,
    /// The end.
    pub expires: u64,
    /// Who may burn it.
    pub burn: Burn,
    /// Neither leased nor gone.
    pub free: u64,
    /// Charged from it.
    pub spent: u64,
    /// Ran out.
    pub expired: u64,
    /// Taken back.
    pub revoked: u64,
    /// Given back.
    pub surrendered: u64,
    /// Its vest step has run.
    pub vest_done: bool,
    /// Its expiry step has run.
    pub expiry_done: bool,
    /// It was revoked.
    pub is_revoked: bool,
}

/// A lease that was granted more than nothing, open or closed.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Whose tokens.
    pub account: u32,
    /// Of what.
    pub class: u16,
    /// On behalf of which key.
    pub api_key: u32,
    /// As granted.
    pub granted: u64,
    /// (grant, what is left of it), in the order of spending.
    pub parts: Vec<(u32, u64)>,
    /// Block time of the grant.
    pub opened: u64,
    /// When it ends.
    pub end: u64,
    /// Price table at its opening.
    pub table: u32,
    /// Name of the reason for its recall; `No`: none.
    pub recall: &'static str,
    /// (time, height) of its end step.
    pub ended: Option<(u64, u64)>,
    /// (time, remainder) of its close.
    pub closed: Option<(u64, u64)>,
}

impl Lease {
    /// What is left in it.
    pub fn remaining(&self) -> u64 {
        self.parts.iter().map(|part| part.1).sum()
    }
}

/// Where the tokens of an account and class are, and what receipts cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Totals {
    pub issued: u128,
    pub unvested: u128,
    pub available: u128,
    pub leased: u128,
    pub spent: u128,
    pub expired: u128,
    pub revoked: u128,
    pub surrendered: u128,
    pub costs: u128,
    pub loss: u128,
}

impl Totals {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Totals) -> Totals {
        Totals {
            issued: self.issued + other.issued,
            unvested: self.unvested + other.unvested,
            available: self.available + other.available,
            leased: self.leased + other.leased,
            spent: self.spent + other.spent,
            expired: self.expired + other.expired,
            revoked: self.revoked + other.revoked,
            surrendered: self.surrendered + other.surrendered,
            costs: self.costs + other.costs,
            loss: self.loss + other.loss,
        }
    }
}

/// What travels beside a body.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Nothing.
    Empty,
    /// Debits, and whether they hash to the body's root.
    Debits {
        /// The records.
        debits: Vec<Debit>,
        /// Whether the body's root is theirs.
        root_fits: bool,
    },
    /// A proof of inclusion, and whether it is genuine: the leaf at the
    /// body's index, under the parent's log root.
    Proof {
        /// Whether the leaf is a receipt's.
        is_receipt: bool,
        /// Whether leaf, index and path belong together.
        genuine: bool,
    },
    /// Nothing; what an Evidence in the body shows.
    Shown(Shown),
    /// Bytes that the action cannot carry.
    Garbage,
}

/// A transaction as the oracle sees it: signatures and hashes are facts that
/// the test knows, not things to compute.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who wrote it.
    pub author: Author,
    /// Who signed it, as listed.
    pub signers: Vec<Author>,
    /// Whether each signature verifies under the signer's present key.
    pub signed: bool,
    /// Whether there is one signature per signer.
    pub counted: bool,
    /// The author's id.
    pub id: [u8; 16],
    /// First clock hour at which it is no longer valid.
    pub valid_until: u32,
    /// Hash of the body.
    pub transaction: Hash,
    /// What to do.
    pub action: Action,
    /// What travels beside it.
    pub payload: Payload,
}
