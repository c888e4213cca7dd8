//! The genesis: what all owners agree on before block 1. Its canonical
//! bytes' hash is the chain id; it is log entry 0 and control entry 1.

use serde::{Deserialize, Serialize};

use crate::{
    block::{MAX_VALIDATORS, ValidatorSet},
    class::{ClassRules, MAX_CLASSES, MAX_NAME_BYTES},
    codec::{self, DecodeError, List},
    crypto::{ChainId, PublicKey},
    gateway::Caps,
    hash::Context,
    ids::Time,
    parameters::Parameters,
    person::Roles,
    price::PriceTable,
};

/// Version of the genesis layout.
pub const GENESIS_VERSION: u8 = 1;
/// Most bytes of a canonical genesis.
pub const MAX_GENESIS_BYTES: usize = 4 * 1024 * 1024;
/// Most persons in a genesis.
pub const MAX_PERSONS: usize = 1024;
/// Most gateways in a genesis.
pub const MAX_GENESIS_GATEWAYS: usize = 256;

/// A person at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisPerson {
    /// Verifies what they sign.
    pub key: PublicKey,
    /// What they may do.
    pub roles: Roles,
}

/// A gateway at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisGateway {
    /// Verifies what it signs.
    pub key: PublicKey,
    /// Its blast radius.
    pub caps: Caps,
}

/// The start of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// [`GENESIS_VERSION`].
    pub version: u8,
    /// A name for people; does not identify the chain.
    pub name: String,
    /// Time of the genesis; block 1 is later.
    pub time: Time,
    /// Persons, numbered from 0.
    pub persons: List<GenesisPerson, MAX_PERSONS>,
    /// Validators, numbered from 0; their owners are persons.
    pub validators: ValidatorSet,
    /// Classes, numbered from 0.
    pub classes: List<ClassRules, MAX_CLASSES>,
    /// Price table 1, in force from block 1.
    pub prices: PriceTable,
    /// Parameters.
    pub parameters: Parameters,
    /// Gateways, numbered from 0.
    pub gateways: List<GenesisGateway, MAX_GENESIS_GATEWAYS>,
}

/// Why a genesis cannot start a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Another layout.
    #[error("genesis version {0}, this program knows {GENESIS_VERSION}")]
    Version(u8),
    /// 1 to 32 bytes of printable ASCII.
    #[error("the chain's name must be 1 to {MAX_NAME_BYTES} printable ASCII characters")]
    Name,
    /// Issuer and admin, issuer and validator owner, an unknown role or a
    /// repeated key.
    #[error("person {0} has roles that exclude each other, or another person's key")]
    Person(usize),
    /// Admins must reach the threshold, issuers be two, so that maker and
    /// checker exist.
    #[error("{have} {role}s, at least {need} needed")]
    TooFew {
        /// Which role.
        role: &'static str,
        /// How many there are.
        have: usize,
        /// How many are needed.
        need: usize,
    },
    /// Unknown owner, or a key that another validator has.
    #[error("validator {0} has an owner without that role, or another validator's key")]
    Validator(usize),
    /// Malformed rules or a repeated name.
    #[error("class {0} has malformed rules or another class's name")]
    Class(usize),
    /// A repeated key.
    #[error("gateway {0} has another gateway's key")]
    Gateway(usize),
    /// The price table does not hold together.
    #[error("prices: {0}")]
    Prices(#[from] crate::price::TableError),
    /// Not version 1.
    #[error("the first price table must be version 1")]
    PriceVersion,
    /// A parameter is out of range.
    #[error("parameters: {0}")]
    Parameters(#[from] crate::parameters::ParametersError),
}

fn repeats<T: PartialEq>(items: &[T], index: usize) -> bool {
    items[..index].contains(&items[index])
}

impl Genesis {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes; does not validate.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_GENESIS_BYTES)
    }

    /// The chain id.
    pub fn chain(&self) -> ChainId {
        ChainId(Context::Genesis.hash(&self.encode()))
    }

    /// Checks everything that can be checked before a chain starts.
    pub fn validate(&self) -> Result<(), GenesisError> {
        if self.version != GENESIS_VERSION {
            return Err(GenesisError::Version(self.version));
        }
        let printable = self.name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES || !printable {
            return Err(GenesisError::Name);
        }
        self.parameters.validate()?;
        self.validate_persons()?;
        self.validate_validators()?;
        self.validate_classes()?;
        let gateway_keys: Vec<PublicKey> =
            self.gateways.iter().map(|gateway| gateway.key).collect();
        if let Some(i) = (0..gateway_keys.len()).find(|&i| repeats(&gateway_keys, i)) {
            return Err(GenesisError::Gateway(i));
        }
        if self.prices.version.0 != 1 {
            return Err(GenesisError::PriceVersion);
        }
        Ok(self.prices.validate()?)
    }

    fn validate_persons(&self) -> Result<(), GenesisError> {
        let keys: Vec<PublicKey> = self.persons.iter().map(|person| person.key).collect();
        for (i, person) in self.persons.iter().enumerate() {
            if !person.roles.are_lawful() || repeats(&keys, i) {
                return Err(GenesisError::Person(i));
            }
        }
        let needs = [
            ("admin", Roles::ADMIN, self.parameters.threshold as usize),
            ("issuer", Roles::ISSUER, 2),
        ];
        for (role, bit, need) in needs {
            let have = self
                .persons
                .iter()
                .filter(|person| person.roles.has(bit))
                .count();
            if have < need {
                return Err(GenesisError::TooFew { role, have, need });
            }
        }
        Ok(())
    }

    fn validate_validators(&self) -> Result<(), GenesisError> {
        let validators = &self.validators.0;
        if validators.is_empty() || validators.len() > MAX_VALIDATORS {
            return Err(GenesisError::TooFew {
                role: "validator",
                have: 0,
                need: 1,
            });
        }
        for (i, validator) in validators.iter().enumerate() {
            let owner = self.persons.get(validator.owner.0 as usize);
            let owned = owner.is_some_and(|person| person.roles.has(Roles::VALIDATOR));
            let repeated = validators[..i].iter().any(|other| {
                other.consensus_key == validator.consensus_key
                    || other.checkpoint_key == validator.checkpoint_key
                    || other.network_key == validator.network_key
            });
            if !owned || repeated {
                return Err(GenesisError::Validator(i));
            }
        }
        Ok(())
    }

    fn validate_classes(&self) -> Result<(), GenesisError> {
        for (i, rules) in self.classes.iter().enumerate() {
            let repeated = self.classes[..i]
                .iter()
                .any(|other| other.name == rules.name);
            if !rules.are_lawful() || repeated {
                return Err(GenesisError::Class(i));
            }
        }
        Ok(())
    }
}
