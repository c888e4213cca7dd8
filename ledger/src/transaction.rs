//! Transactions: a signed body, its signatures, and an unsigned payload that
//! the body commits to.
//!
//! The body names its author and lists its signers: author first, then the
//! others in ascending order, no repeats. The signatures are exactly those,
//! in that order. The ledger checks that the list suffices for the action;
//! more signers are allowed.
//!
//! Replay: an author uses an id once until its `valid_until` has passed; the
//! state remembers live ids. Gateways need neither (both are zero): their
//! journals, leases and debits are counted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    action::Action,
    codec::{self, DecodeError, List},
    crypto::{ChainId, Domain, SecretKey, Signature},
    hash::{Context, Hash},
    ids::{AccountNumber, ApiKeyNumber, GatewayNumber, Person},
};

/// Version of the body layout.
pub const BODY_VERSION: u8 = 1;
/// Most bytes of an encoded body.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Most signers of a body.
pub const MAX_SIGNERS: usize = 16;
/// Most bytes of a payload: [`crate::debit::MAX_BATCH`] debits and some room.
pub const MAX_PAYLOAD_BYTES: usize = 3 * 1024 * 1024;
/// Most bytes of an encoded transaction.
pub const MAX_TRANSACTION_BYTES: usize = MAX_BODY_BYTES + MAX_SIGNERS * 64 + MAX_PAYLOAD_BYTES + 64;

/// Kind of author or signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[repr(u8)]
pub enum AuthorKind {
    /// A person with a role.
    Person = 1,
    /// A gateway.
    Gateway = 2,
    /// An account's holder.
    Account = 3,
    /// An API key.
    ApiKey = 4,
    /// A validator, by its consensus key.
    Validator = 5,
}

impl TryFrom<u8> for AuthorKind {
    type Error = String;
    fn try_from(kind: u8) -> Result<Self, String> {
        match kind {
            1 => Ok(AuthorKind::Person),
            2 => Ok(AuthorKind::Gateway),
            3 => Ok(AuthorKind::Account),
            4 => Ok(AuthorKind::ApiKey),
            5 => Ok(AuthorKind::Validator),
            other => Err(format!("author kind {other}")),
        }
    }
}

impl From<AuthorKind> for u8 {
    fn from(kind: AuthorKind) -> u8 {
        kind as u8
    }
}

/// Who wrote or signed a transaction. Ordered by kind, then number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Author {
    /// What it is.
    pub kind: AuthorKind,
    /// Its number among its kind.
    pub number: u32,
}

impl AuthorKind {
    /// As texts name it.
    pub fn name(self) -> &'static str {
        match self {
            AuthorKind::Person => "person",
            AuthorKind::Gateway => "gateway",
            AuthorKind::Account => "account",
            AuthorKind::ApiKey => "api-key",
            AuthorKind::Validator => "validator",
        }
    }
}

/// As texts name it: `person:3`, `gateway:0`, `account:7`, `api-key:2`.
impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.number)
    }
}

/// The text names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no name such as person:3, gateway:0, account:7, api-key:2")]
pub struct NoName;

/// Reads what `Display` writes, and nothing else.
impl FromStr for Author {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let kinds = [1, 2, 3, 4, 5].map(AuthorKind::try_from);
        let (kind, number) = text.split_once(':').ok_or(NoName)?;
        let kind = kinds.into_iter().flatten().find(|it| it.name() == kind);
        let (Some(kind), Ok(number)) = (kind, number.parse()) else {
            return Err(NoName);
        };
        let author = Author { kind, number };
        match author.to_string() == text {
            true => Ok(author),
            false => Err(NoName),
        }
    }
}

impl From<Person> for Author {
    fn from(person: Person) -> Self {
        Author {
            kind: AuthorKind::Person,
            number: person.0,
        }
    }
}

impl From<GatewayNumber> for Author {
    fn from(gateway: GatewayNumber) -> Self {
        Author {
            kind: AuthorKind::Gateway,
            number: gateway.0,
        }
    }
}

impl From<AccountNumber> for Author {
    fn from(account: AccountNumber) -> Self {
        Author {
            kind: AuthorKind::Account,
            number: account.0,
        }
    }
}

impl From<ApiKeyNumber> for Author {
    fn from(api_key: ApiKeyNumber) -> Self {
        Author {
            kind: AuthorKind::ApiKey,
            number: api_key.0,
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// [`BODY_VERSION`].
    pub version: u8,
    /// Who wrote it.
    pub author: Author,
    /// Author first, then ascending, no repeats.
    pub signers: List<Author, MAX_SIGNERS>,
    /// Chosen by the author, once per `valid_until`; zero for gateways.
    pub id: [u8; 16],
    /// Clock hour (since 1970) of block time at which it stops being valid:
    /// valid while time < `valid_until` hours, at most 168 hours ahead of the
    /// current clock hour; zero for gateways.
    pub valid_until: u32,
    /// What to do.
    pub action: Action,
}

/// Hash of a body; names a transaction.
pub type TransactionId = Hash;

impl Body {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_BODY_BYTES)
    }

    /// A body of `author` with `others` as further signers, in order.
    pub fn new(
        author: Author,
        others: &[Author],
        id: [u8; 16],
        valid_until: u32,
        action: Action,
    ) -> Self {
        let mut rest: Vec<Author> = others
            .iter()
            .copied()
            .filter(|other| *other != author)
            .collect();
        rest.sort_unstable();
        rest.dedup();
        rest.truncate(MAX_SIGNERS - 1);
        rest.insert(0, author);
        let signers = List::new(rest).expect("truncated to the bound");
        Body {
            version: BODY_VERSION,
            author,
            signers,
            id,
            valid_until,
            action,
        }
    }
}

/// The id of a body's bytes.
pub fn transaction_id(body: &[u8]) -> TransactionId {
    Context::Transaction.hash(body)
}

/// A body with its signatures and payload, as it travels and is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Canonical bytes of a [`Body`].
    #[serde(with = "codec::bytes")]
    pub body: Vec<u8>,
    /// One per signer, in the body's order.
    pub signatures: List<Signature, MAX_SIGNERS>,
    /// Debits or a proof; empty for every other action.
    #[serde(with = "codec::bytes")]
    pub payload: Vec<u8>,
}

impl Transaction {
    /// Hash of the body.
    pub fn id(&self) -> TransactionId {
        transaction_id(&self.body)
    }

    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_TRANSACTION_BYTES)
    }

    /// Bytes of its canonical encoding.
    pub fn encoded_len(&self) -> usize {
        3 * 8 + self.body.len() + self.signatures.len() * 64 + self.payload.len()
    }

    /// The leaf under the block's transactions root: id, hash of the encoded
    /// signatures, hash of the payload; 96 bytes.
    pub fn leaf(&self) -> [u8; 96] {
        self.leaf_of(&self.id())
    }

    /// The same, with the id already known.
    pub(crate) fn leaf_of(&self, id: &TransactionId) -> [u8; 96] {
        self.leaf_with(id, &Context::Payload.hash(&self.payload))
    }

    /// The same, with the payload's hash known and the payload perhaps gone.
    pub(crate) fn leaf_with(&self, id: &TransactionId, payload: &Hash) -> [u8; 96] {
        let mut leaf = [0; 96];
        leaf[..32].copy_from_slice(&id.0);
        leaf[32..64].copy_from_slice(&Context::Signatures.hash(&codec::encode(&self.signatures)).0);
        leaf[64..].copy_from_slice(&payload.0);
        leaf
    }

    /// Signs `body` with `keys`, given in the order of its signers.
    pub fn sign(chain: &ChainId, body: &Body, keys: &[&SecretKey], payload: Vec<u8>) -> Self {
        let bytes = body.encode();
        let signatures = body
            .signers
            .iter()
            .zip(keys)
            .map(|(signer, key)| key.sign(signing_domain(*signer, body), chain, &bytes))
            .collect();
        let signatures = List::new(signatures).unwrap_or_default();
        Transaction {
            body: bytes,
            signatures,
            payload,
        }
    }
}

/// The domain in which `signer` signs `body`: an API key that consents to a
/// gateway's Lease signs in its own domain, all others as transactions.
pub fn signing_domain(signer: Author, body: &Body) -> Domain {
    match (signer.kind, &body.action) {
        (AuthorKind::ApiKey, Action::Lease(_)) => Domain::ApiKeyLease,
        _ => Domain::Transaction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authors_have_one_name_each() {
        for text in ["person:3", "gateway:0", "account:4294967295", "api-key:2"] {
            assert_eq!(text.parse::<Author>().unwrap().to_string(), text);
        }
        for bad in [
            "person",
            "robot:1",
            "person:",
            "person:03",
            "person:+3",
            " person:3",
            "person:4294967296",
        ] {
            assert_eq!(bad.parse::<Author>(), Err(NoName), "{bad}");
        }
    }
}
