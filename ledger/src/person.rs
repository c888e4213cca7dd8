//! Persons: holders of role keys. Names never reach the chain.

use serde::{Deserialize, Serialize};

use crate::{crypto::PublicKey, ids::Amount};

/// A set of roles, as bits.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Roles(pub u16);

impl Roles {
    /// No role: a retired person.
    pub const NONE: Roles = Roles(0);
    /// Opens accounts, issues, revokes, corrects, freezes.
    pub const ISSUER: Roles = Roles(1);
    /// Governs, with others.
    pub const ADMIN: Roles = Roles(2);
    /// Owns a validator.
    pub const VALIDATOR: Roles = Roles(4);
    /// Reads everything.
    pub const AUDITOR: Roles = Roles(8);
    /// Reads its unit's totals.
    pub const UNIT_MANAGER: Roles = Roles(16);

    const ALL: u16 = 31;

    /// Whether all of `roles` are in this set.
    pub fn has(self, roles: Roles) -> bool {
        self.0 & roles.0 == roles.0
    }

    /// Both sets together.
    #[must_use]
    pub fn with(self, roles: Roles) -> Roles {
        Roles(self.0 | roles.0)
    }

    /// Known bits only, and duties kept apart: nobody is issuer and admin,
    /// or issuer and validator owner.
    pub fn are_lawful(self) -> bool {
        let issuer_and = |role| self.has(Roles::ISSUER) && self.has(role);
        self.0 & !Self::ALL == 0 && !issuer_and(Roles::ADMIN) && !issuer_and(Roles::VALIDATOR)
    }
}

/// A person's leaf (table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonState {
    /// Verifies what they sign.
    pub key: PublicKey,
    /// What they may do.
    pub roles: Roles,
    /// Clock day of `day_total`.
    pub day: u32,
    /// What they issued or revoked alone on that day.
    pub day_total: Amount,
}
