//! The engine's types, filled with ours: the nouns of `ledger` behind the
//! traits that the engine asks for. Only this crate and its simulation use
//! them.
//!
//! The value that is voted on is the block's id; the body travels beside it
//! in parts. Vote extensions are off: a vote cannot even carry one.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use malachitebft_core_types as types;
use malachitebft_core_types::{NilOrVal, Round, SignedExtension, VoteType};
use serde::{Deserialize, Serialize};
use tally_ledger::{
    block,
    crypto::{PublicKey, SecretKey, Signature},
    hash::Hash,
    ids,
};

/// A validator's name within the engine: its consensus key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub PublicKey);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl types::Address for Address {}

/// A height.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Height(pub u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl types::Height for Height {
    const ZERO: Self = Height(0);
    const INITIAL: Self = Height(1);

    fn increment_by(&self, n: u64) -> Self {
        Height(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Height)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl From<ids::Height> for Height {
    fn from(height: ids::Height) -> Self {
        Height(height.0)
    }
}

impl From<Height> for ids::Height {
    fn from(height: Height) -> Self {
        ids::Height(height.0)
    }
}

/// What is voted on: the id of a block. Value and its id in one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockId(pub Hash);

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl types::Value for BlockId {
    type Id = BlockId;

    fn id(&self) -> BlockId {
        *self
    }
}

/// ed25519, checked strictly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ed25519;

/// A public key, decompressed once. `None`: no valid point, so nothing
/// verifies under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The bytes.
    pub bytes: PublicKey,
    /// The point.
    pub point: Option<VerifyingKey>,
}

impl Key {
    /// Decompresses the key.
    pub fn new(bytes: PublicKey) -> Self {
        Self {
            bytes,
            point: bytes.verifier(),
        }
    }

    /// Checks a signature over a complete message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.point
            .is_some_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

/// Bytes of a wrong length.
#[derive(Debug, thiserror::Error)]
#[error("wrong length")]
pub struct WrongLength;

impl types::SigningScheme for Ed25519 {
    type DecodingError = WrongLength;
    type Signature = Signature;
    type PublicKey = Key;
    type PrivateKey = SecretKey;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, WrongLength> {
        bytes.try_into().map(Signature).map_err(|_| WrongLength)
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<Key, WrongLength> {
        bytes
            .try_into()
            .map(|bytes| Key::new(PublicKey(bytes)))
            .map_err(|_| WrongLength)
    }

    fn encode_public_key(key: &Key) -> Vec<u8> {
        key.bytes.0.to_vec()
    }
}

/// A validator; all weigh the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    address: Address,
    key: Key,
}

impl types::Validator<Engine> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &Key {
        &self.key
    }

    fn voting_power(&self) -> u64 {
        1
    }
}

/// The validators of a height, in the ledger's order. A key that appears
/// twice counts once, at its first place: the engine counts by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators(Arc<Vec<Validator>>);

impl Validators {
    /// The engine's form of a set.
    pub fn new(set: &block::ValidatorSet) -> Self {
        let mut validators: Vec<Validator> = Vec::with_capacity(set.0.len());
        for validator in set.0.iter() {
            let address = Address(validator.consensus_key);
            if validators.iter().all(|v| v.address != address) {
                validators.push(Validator {
                    address,
                    key: Key::new(validator.consensus_key),
                });
            }
        }
        Self(Arc::new(validators))
    }

    /// Whose turn it is. Total: any height, any round, any non-empty set.
    pub fn proposer(&self, height: Height, round: u32) -> &Validator {
        let turn = u128::from(height.0) + u128::from(round);
        let count = self.0.len().max(1) as u128;
        &self.0[(turn % count) as usize]
    }
}

impl types::ValidatorSet<Engine> for Validators {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.0.len() as u64
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.0.iter().find(|v| v.address == *address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.0.get(index)
    }
}

/// A proposal: without the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its height.
    pub height: Height,
    /// Its round.
    pub round: Round,
    /// The block.
    pub block: BlockId,
    /// The round of the polka that the proposer has seen for it, or nil.
    pub pol_round: Round,
    /// The proposer.
    pub proposer: Address,
}

impl types::Proposal<Engine> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &BlockId {
        &self.block
    }

    fn take_value(self) -> BlockId {
        self.block
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Prevote or precommit.
    pub kind: VoteType,
    /// Its height.
    pub height: Height,
    /// Its round.
    pub round: Round,
    /// The block, or nil.
    pub block: NilOrVal<BlockId>,
    /// The voter.
    pub voter: Address,
}

impl types::Vote<Engine> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<BlockId> {
        &self.block
    }

    fn take_value(self) -> NilOrVal<BlockId> {
        self.block
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.voter
    }

    fn extension(&self) -> Option<&SignedExtension<Engine>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Engine>> {
        None
    }

    fn extend(self, _: SignedExtension<Engine>) -> Self {
        self
    }
}

/// What a stream of parts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Its height.
    pub height: Height,
    /// The round in which it is proposed.
    pub round: u32,
    /// The round of an earlier polka, if it is proposed again.
    pub pol_round: Option<u32>,
    /// Bytes of the body.
    pub length: u32,
}

/// One piece of a streamed body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The first: what the stream is, and the body's first bytes.
    First(Init, Bytes),
    /// More bytes of the body.
    More(Bytes),
}

impl Part {
    /// The bytes of the body that it carries.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Part::First(_, bytes) | Part::More(bytes) => bytes,
        }
    }
}

impl types::ProposalPart<Engine> for Part {
    fn is_first(&self) -> bool {
        matches!(self, Part::First(..))
    }

    fn is_last(&self) -> bool {
        false
    }
}

/// Ties the types together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Engine;

impl types::Context for Engine {
    type Address = Address;
    type Height = Height;
    type ProposalPart = Part;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = types::LinearTimeouts;
    type Value = BlockId;
    type Vote = Vote;
    type Extension = Bytes;
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(
        &self,
        validators: &'a Validators,
        height: Height,
        round: Round,
    ) -> &'a Validator {
        validators.proposer(height, round.as_u32().unwrap_or(0))
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        block: BlockId,
        pol_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal {
            height,
            round,
            block,
            pol_round,
            proposer,
        }
    }

    fn new_prevote(
        &self,
        height: Height,
        round: Round,
        block: NilOrVal<BlockId>,
        voter: Address,
    ) -> Vote {
        Vote {
            kind: VoteType::Prevote,
            height,
            round,
            block,
            voter,
        }
    }

    fn new_precommit(
        &self,
        height: Height,
        round: Round,
        block: NilOrVal<BlockId>,
        voter: Address,
    ) -> Vote {
        Vote {
            kind: VoteType::Precommit,
            height,
            round,
            block,
            voter,
        }
    }
}
