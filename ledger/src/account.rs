//! Accounts: everything about one is in one leaf.

use serde::{Deserialize, Serialize};

use crate::{
    action::{MAX_CLASS_ORDER, MAX_KEY_MODELS},
    class::{Burn, Totals},
    codec::List,
    crypto::PublicKey,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, GatewayNumber, GrantNumber, Height,
        LeaseNumber, ModelNumber, Person, TableVersion, Time,
    },
};

/// Most live grants per account and class.
pub const MAX_GRANTS: usize = 64;
/// Most open leases per account.
pub const MAX_LEASES: usize = 64;
/// Most grants that one lease takes from.
pub const MAX_LEASE_PARTS: usize = 8;
/// Most API keys per account that are not revoked.
pub const MAX_API_KEYS: usize = 64;

/// A grant that still holds something. `free` is unvested before `vests`
/// has been stepped, available after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// From 1 within the account.
    pub number: GrantNumber,
    /// Of what.
    pub class: ClassNumber,
    /// As issued.
    pub amount: Amount,
    /// Not leased, not spent, not gone.
    pub free: Amount,
    /// Inside open leases.
    pub leased: Amount,
    /// When it can first be spent.
    pub vests: Time,
    /// When it can no longer be leased.
    pub expires: Time,
    /// Who may burn it.
    pub burn: Burn,
    /// The vest step has run.
    pub vested: bool,
    /// The expiry step has run.
    pub expired: bool,
    /// It was revoked.
    pub revoked: bool,
}

impl Grant {
    /// Whether a lease may take from it at block time `now`, whether or not
    /// its due steps have run.
    pub fn spendable(&self, now: Time) -> bool {
        self.vests <= now && now < self.expires && !self.revoked
    }
}

/// Why a lease ended early. A recall sets `end` to block time if that is
/// earlier; the end step follows in the next block. A lease whose end step
/// has run is past recalling: only `JournalLost` is still noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recall {
    /// Tag 0: it was not.
    No,
    /// Tag 1: another gateway wanted the balance.
    Wanted,
    /// Tag 2: the account was frozen.
    Frozen,
    /// Tag 3: a grant was revoked.
    Revoked,
    /// Tag 4: the API key was revoked.
    KeyRevoked,
    /// Tag 5: the gateway was suspended.
    Suspended,
    /// Tag 6: the gateway opened a new journal; the old one is intact.
    NewJournal,
    /// Tag 7: the gateway lost its journal; the rest closes as unreported.
    JournalLost,
}

/// A part of a lease: what it still holds of one grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasePart {
    /// Which grant.
    pub grant: GrantNumber,
    /// How much is left of it.
    pub amount: Amount,
}

/// An open lease. A closed one leaves no state: each part returns to
/// `expired` if its grant's expiry has come (whether or not the step has
/// run), else to `revoked` if the grant was revoked, else to the grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLease {
    /// Whose.
    pub gateway: GatewayNumber,
    /// Its number there.
    pub number: LeaseNumber,
    /// Of what.
    pub class: ClassNumber,
    /// On behalf of which key.
    pub api_key: ApiKeyNumber,
    /// As granted.
    pub granted: Amount,
    /// What is left, in the order in which it is spent; emptied parts go.
    pub parts: List<LeasePart, MAX_LEASE_PARTS>,
    /// Block time at which it was granted.
    pub opened: Time,
    /// When it ends.
    pub end: Time,
    /// Price table in force when it was granted.
    pub table: TableVersion,
    /// Why it was recalled, the first reason counts; `JournalLost` overrides.
    pub recall: Recall,
    /// Time and height of its end step, once that has run.
    pub ended: Option<(Time, Height)>,
}

impl OpenLease {
    /// What is left in it. Cannot overflow: it is at most what was granted.
    pub fn remaining(&self) -> Amount {
        Amount(self.parts.iter().map(|part| part.amount.0).sum())
    }
}

/// What a gateway leased of this account in a clock hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HourCounter {
    /// Which gateway.
    pub gateway: GatewayNumber,
    /// Which hour.
    pub hour: u32,
    /// Leased less returned.
    pub leased: Amount,
}

/// What an issuer issued to or revoked from this account alone in a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayCounter {
    /// Which issuer.
    pub issuer: Person,
    /// Which day.
    pub day: u32,
    /// The sum.
    pub total: Amount,
}

/// An account's leaf (table 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Opaque organisational number.
    pub unit: u32,
    /// The holder's key.
    pub holder: PublicKey,
    /// No new leases.
    pub frozen: bool,
    /// In which order requests use its classes.
    pub classes: List<ClassNumber, MAX_CLASS_ORDER>,
    /// Entries of the log that are this account's; the last one's number.
    pub entries: u32,
    /// The last grant's number.
    pub last_grant: GrantNumber,
    /// Totals per class, ascending by class.
    pub totals: Vec<(ClassNumber, Totals)>,
    /// Live grants, ascending by number. One that holds nothing is dropped.
    pub grants: Vec<Grant>,
    /// Open leases, ascending by (gateway, number).
    pub leases: Vec<OpenLease>,
    /// API keys that are not revoked, ascending.
    pub api_keys: Vec<ApiKeyNumber>,
    /// Ascending by gateway; those of past hours are dropped when the
    /// account is next leased from.
    pub hours: Vec<HourCounter>,
    /// Ascending by issuer; those of past days are dropped when an issuer
    /// next acts alone on the account.
    pub days: Vec<DayCounter>,
}

impl Account {
    /// Its totals of a class.
    pub fn totals_of(&self, class: ClassNumber) -> Totals {
        match self
            .totals
            .binary_search_by_key(&class, |(class, _)| *class)
        {
            Ok(index) => self.totals[index].1,
            Err(_) => Totals::default(),
        }
    }

    /// Its totals of a class, from now on kept.
    pub(crate) fn totals_mut(&mut self, class: ClassNumber) -> &mut Totals {
        let found = self
            .totals
            .binary_search_by_key(&class, |(class, _)| *class);
        let index = found.unwrap_or_else(|index| {
            self.totals.insert(index, (class, Totals::default()));
            index
        });
        &mut self.totals[index].1
    }

    /// A live grant.
    pub fn grant(&self, number: GrantNumber) -> Option<&Grant> {
        let found = self
            .grants
            .binary_search_by_key(&number, |grant| grant.number);
        found.ok().map(|index| &self.grants[index])
    }

    /// Where a gateway's open lease stands, or would.
    pub(crate) fn lease_index(
        &self,
        gateway: GatewayNumber,
        number: LeaseNumber,
    ) -> Result<usize, usize> {
        self.leases
            .binary_search_by_key(&(gateway, number), |lease| (lease.gateway, lease.number))
    }

    /// A gateway's open lease.
    pub fn lease(&self, gateway: GatewayNumber, number: LeaseNumber) -> Option<&OpenLease> {
        let found = self.lease_index(gateway, number).ok();
        found.map(|index| &self.leases[index])
    }
}

/// An API key's leaf (table 6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Whose.
    pub account: AccountNumber,
    /// Its public half.
    pub key: PublicKey,
    /// Models it may buy, ascending; empty: all.
    pub models: List<ModelNumber, MAX_KEY_MODELS>,
    /// Most that may ever be charged through it.
    pub cap: Amount,
    /// When it ends.
    pub expires: Time,
    /// Ended for good.
    pub revoked: bool,
    /// Charged through it.
    pub spent: Amount,
    /// What its open leases hold.
    pub leased: Amount,
}
