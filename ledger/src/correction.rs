//! What a Correct transaction carries as payload: the receipt and the proof
//! that it is in the log.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, DecodeError, List},
    hash::Hash,
};

/// Most nodes of an inclusion proof: the log's size is below 2^64.
pub const MAX_PATH: usize = 64;

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
