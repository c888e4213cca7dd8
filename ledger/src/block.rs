//! Blocks, headers, votes and commit certificates.
//!
//! A block's id is the hash of its header; the header carries the roots
//! **after** execution, so a vote is a vote on the result (I9). The
//! certificate is kept beside the block and never hashed into anything:
//! nodes hold different quorums for the same block.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, DecodeError, List},
    crypto::{ChainId, Domain, PublicKey, Signature},
    hash::{Context, Hash},
    ids::{Height, Time},
    merkle::{self, Frontier},
    transaction::Transaction,
};

/// Version of the block layout.
pub const BLOCK_VERSION: u8 = 1;
/// Most validators a set may have.
pub const MAX_VALIDATORS: usize = 64;
/// Bytes of an encoded header.
pub const HEADER_BYTES: usize = 1 + 32 + 8 + 8 + 32 + 2 + 32 + 8 + 32 + 32 + 32;

/// What the validators agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`BLOCK_VERSION`].
    pub version: u8,
    /// Hash of the genesis.
    pub chain: ChainId,
    /// 1 for the first block.
    pub height: Height,
    /// max(proposer's clock, parent + 1).
    pub time: Time,
    /// Id of the block before; of block 1: the chain id.
    pub previous: Hash,
    /// Index of the validator that built the block.
    pub proposer: u16,
    /// RFC 9162 root over (id, hash of signatures, hash of payload).
    pub transactions_root: Hash,
    /// Entries in the log after this block.
    pub log_size: u64,
    /// RFC 9162 root of the log after this block.
    pub log_root: Hash,
    /// Root over all state tables after this block.
    pub state_root: Hash,
    /// Hash of the validator set of the next height.
    pub next_validators: Hash,
}

impl Header {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, HEADER_BYTES)
    }

    /// The block's id.
    pub fn id(&self) -> Hash {
        Context::Block.hash(&self.encode())
    }
}

/// A header and its transactions: what a proposer sends and a validator
/// executes. Its canonical encoding is the body that consensus carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// The transactions, in order.
    pub transactions: Vec<Transaction>,
}

impl Block {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes, at most `limit` of them.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Self, DecodeError> {
        codec::decode(bytes, limit)
    }

    /// Whether the transactions are those that the header commits to: then
    /// the block's id names this very body, and no other.
    pub fn is_whole(&self) -> bool {
        let mut root = Frontier::new();
        for transaction in &self.transactions {
            root.append(merkle::leaf_hash(&transaction.leaf()));
        }
        root.root() == self.header.transactions_root
    }
}

/// One validator; all have the same voting power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Validator {
    /// Signs votes, proposals and the peer proof.
    pub consensus_key: PublicKey,
    /// Signs checkpoints of the log.
    pub checkpoint_key: PublicKey,
    /// The transport's ed25519 public key; the peer id follows from it.
    pub network_key: PublicKey,
    /// The person who owns the machine.
    pub owner: crate::ids::Person,
}

/// The validators of a height, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorSet(pub List<Validator, MAX_VALIDATORS>);

impl ValidatorSet {
    /// Hash that headers carry.
    pub fn hash(&self) -> Hash {
        Context::ValidatorSet.hash(&codec::encode(self))
    }

    /// Smallest number of validators that is more than two thirds.
    pub fn quorum(&self) -> usize {
        self.0.len() * 2 / 3 + 1
    }

    /// Index of the validator with this consensus key.
    pub fn index_of(&self, key: &PublicKey) -> Option<u16> {
        self.0
            .iter()
            .position(|v| v.consensus_key == *key)
            .map(|i| i as u16)
    }
}

/// Bytes that a vote's signature covers: height, round, flag, block id.
pub fn vote_bytes(height: Height, round: u32, block: Option<&Hash>) -> [u8; 45] {
    let mut bytes = [0; 45];
    bytes[..8].copy_from_slice(&height.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&round.to_le_bytes());
    if let Some(id) = block {
        bytes[12] = 1;
        bytes[13..].copy_from_slice(&id.0);
    }
    bytes
}

/// Bytes that a proposal's signature covers: those of a vote for the block,
/// then the proof-of-lock round, -1 for none.
pub fn proposal_bytes(height: Height, round: u32, block: &Hash, pol_round: i32) -> [u8; 49] {
    let mut bytes = [0; 49];
    bytes[..45].copy_from_slice(&vote_bytes(height, round, Some(block)));
    bytes[45..].copy_from_slice(&pol_round.to_le_bytes());
    bytes
}

/// A quorum of precommits for one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The round in which the block was decided.
    pub round: u32,
    /// (validator index, signature), ascending and unique by index.
    pub precommits: List<(u16, Signature), MAX_VALIDATORS>,
}

/// Why a certificate does not certify a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Indexes must ascend without repeats.
    #[error("precommits are not in ascending order of validator")]
    Unordered,
    /// There is no such validator.
    #[error("no validator {0} in the set")]
    UnknownValidator(u16),
    /// The signature does not verify.
    #[error("bad precommit signature of validator {0}")]
    BadSignature(u16),
    /// Fewer than a quorum.
    #[error("{have} precommits, {need} needed")]
    NoQuorum {
        /// Valid precommits.
        have: usize,
        /// The quorum.
        need: usize,
    },
}

impl Certificate {
    /// Checks that a quorum of `validators` precommitted block `id`.
    ///
    /// One bad signature rejects the whole: a certificate is evidence and
    /// carries nothing that does not count.
    pub fn verify(
        &self,
        chain: &ChainId,
        height: Height,
        id: &Hash,
        validators: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        let strict = |key: &PublicKey, bytes: &[u8], signature: &Signature| {
            key.verify(Domain::Precommit, chain, bytes, signature)
        };
        self.verify_by(height, id, validators, strict)
    }

    /// The same, with `check` telling whether a key's signature over a
    /// precommit's bytes is good: for who has checked some of them before.
    pub fn verify_by(
        &self,
        height: Height,
        id: &Hash,
        validators: &ValidatorSet,
        check: impl Fn(&PublicKey, &[u8], &Signature) -> bool,
    ) -> Result<(), CertificateError> {
        if !self.precommits.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return Err(CertificateError::Unordered);
        }
        let bytes = vote_bytes(height, self.round, Some(id));
        for (index, signature) in self.precommits.iter() {
            let validator = validators
                .0
                .get(usize::from(*index))
                .ok_or(CertificateError::UnknownValidator(*index))?;
            if !check(&validator.consensus_key, &bytes, signature) {
                return Err(CertificateError::BadSignature(*index));
            }
        }
        let (have, need) = (self.precommits.len(), validators.quorum());
        if have < need {
            return Err(CertificateError::NoQuorum { have, need });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_whole_only_with_the_transactions_of_its_header() {
        let transaction = |byte| Transaction {
            body: vec![byte; 3],
            signatures: List::new(vec![Signature([byte; 64])]).unwrap(),
            payload: vec![byte; 5],
        };
        let transactions = vec![transaction(1), transaction(2)];
        let leaves: Vec<Hash> = (transactions.iter())
            .map(|transaction| merkle::leaf_hash(&transaction.leaf()))
            .collect();
        let header = Header {
            version: BLOCK_VERSION,
            chain: ChainId(Hash::ZERO),
            height: Height(1),
            time: Time(1),
            previous: Hash::ZERO,
            proposer: 0,
            transactions_root: merkle::root_of(&leaves),
            log_size: 1,
            log_root: Hash::ZERO,
            state_root: Hash::ZERO,
            next_validators: Hash::ZERO,
        };
        let block = Block {
            header,
            transactions,
        };
        assert!(block.is_whole());
        let spoils: [fn(&mut Block); 5] = [
            |block| block.transactions[0].body[0] ^= 1,
            |block| block.transactions[1].payload[4] ^= 1,
            |block| block.transactions[1].signatures = List::default(),
            |block| block.transactions.swap(0, 1),
            |block| drop(block.transactions.pop()),
        ];
        for spoil in spoils {
            let mut other = block.clone();
            spoil(&mut other);
            assert!(!other.is_whole());
        }
    }
}
