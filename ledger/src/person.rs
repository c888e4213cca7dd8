//! Persons: holders of role keys. Names never reach the chain.
//!
//! A person's leaf (table 2) has the fields of [`PersonState`], and behind
//! them the unit, u32, once one is set: who never had one keeps the bytes that
//! such a leaf always had.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, DecodeError},
    crypto::PublicKey,
    ids::Amount,
};

/// Bytes of a unit behind a leaf.
const UNIT_BYTES: usize = 4;
/// Bytes of a leaf without a unit.
const LEAF_BYTES: usize = 32 + 2 + 4 + 8;

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

    /// Names of the roles in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Roles::ISSUER, "issuer"),
            (Roles::ADMIN, "admin"),
            (Roles::VALIDATOR, "validator"),
            (Roles::AUDITOR, "auditor"),
            (Roles::UNIT_MANAGER, "unit-manager"),
        ];
        let has = all.into_iter().filter(move |(role, _)| self.has(*role));
        has.map(|(_, name)| name)
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
    /// The organisational unit whose totals they may read as its manager;
    /// behind the others in the leaf, see [`PersonState::leaf`].
    #[serde(skip)]
    pub unit: Option<u32>,
}

impl PersonState {
    /// The leaf's bytes.
    pub fn leaf(&self) -> Vec<u8> {
        let mut leaf = codec::encode(self);
        leaf.extend(self.unit.iter().flat_map(|unit| unit.to_le_bytes()));
        leaf
    }

    /// Reads [`PersonState::leaf`].
    pub fn from_leaf(leaf: &[u8]) -> Result<Self, DecodeError> {
        let (fields, unit) = match leaf.split_last_chunk::<UNIT_BYTES>() {
            Some((fields, unit)) if fields.len() == LEAF_BYTES => (fields, Some(unit)),
            _ => (leaf, None),
        };
        let person: PersonState = codec::decode(fields, LEAF_BYTES)?;
        let unit = unit.map(|unit| u32::from_le_bytes(*unit));
        Ok(PersonState { unit, ..person })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_behind_the_leaf_or_not_there() {
        let without = PersonState {
            key: PublicKey([3; 32]),
            roles: Roles::UNIT_MANAGER,
            day: 1,
            day_total: Amount(2),
            unit: None,
        };
        let with = PersonState {
            unit: Some(0x0403_0201),
            ..without
        };
        assert_eq!(without.leaf(), codec::encode(&without));
        assert_eq!(without.leaf().len(), LEAF_BYTES);
        assert_eq!(with.leaf(), [&without.leaf()[..], &[1, 2, 3, 4]].concat());
        for person in [with, without] {
            assert_eq!(PersonState::from_leaf(&person.leaf()), Ok(person));
        }
        let long = [&with.leaf()[..], &[0]].concat();
        for bad in [&long[..], &with.leaf()[..49], &without.leaf()[..45], &[]] {
            assert!(PersonState::from_leaf(bad).is_err());
        }
    }
}
