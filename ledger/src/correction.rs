//! Corrections: the payload of a Correct transaction, which proves that the
//! receipt is in the log, and what the state keeps per corrected receipt.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, DecodeError, List},
    hash::Hash,
    ids::Amount,
};

/// Most nodes of an inclusion proof: the log's size is below 2^64.
pub const MAX_PATH: usize = 64;

/// A corrected receipt's leaf (table 10), numbered in the order of first
/// correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// Index of the receipt in the log.
    pub entry: u64,
    /// Sum of its corrections; never more than it charged.
    pub corrected: Amount,
}

/// The receipt's leaf, and its inclusion under the parent block's log root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectionProof {
    /// Bytes of the receipt's leaf.
    pub leaf: List<u8, 128>,
    /// RFC 9162 inclusion proof, from the leaf upwards.
    pub path: List<Hash, MAX_PATH>,
}

impl CorrectionProof {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, 16 + 128 + MAX_PATH * 32)
    }
}
