//! State files: one state proof with the certified header under whose state
//! root it holds; checked with the genesis alone.
//!
//! ```text
//! magic "TALLYSTA" | version u8 = 1 | header 219 | certificate |
//! set changes u64 = 0 | state proof
//! ```

use serde::{Deserialize, Serialize};

use crate::{
    certified::{CertifiedHeader, HeaderError, MAX_CERTIFIED_BYTES, Trust},
    codec::DecodeError,
    genesis::{Genesis, GenesisError},
    receipt::layout::{file, read_file},
    state_proof::{MAX_STATE_PROOF_BYTES, StateProof, StateProofError},
};

/// First bytes of a state file.
pub const STATE_MAGIC: [u8; 8] = *b"TALLYSTA";
/// Version of the file's layout.
pub const STATE_FILE_VERSION: u8 = 1;
/// Most bytes of a state file.
pub const MAX_STATE_FILE_BYTES: usize = 9 + MAX_CERTIFIED_BYTES + MAX_STATE_PROOF_BYTES;

/// What the state says about one number of one table, at one height.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// The header under whose state root the proof holds.
    pub certified: CertifiedHeader,
    /// The proof.
    pub proof: StateProof,
}

/// Why a state file proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateFileError {
    /// The genesis cannot start a chain.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// The header is not certified.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The proof does not hold under the header.
    #[error(transparent)]
    Proof(#[from] StateProofError),
}

impl StateFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        file(STATE_MAGIC, STATE_FILE_VERSION, self)
    }

    /// Reads a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let known = [STATE_FILE_VERSION];
        read_file(STATE_MAGIC, &known, bytes, MAX_STATE_FILE_BYTES).map(|(_, file)| file)
    }

    /// Checks everything in the file, starting from the genesis. The leaf's
    /// bytes, or `None` if the table provably has no such number.
    pub fn verify(&self, genesis: &Genesis) -> Result<Option<&[u8]>, StateFileError> {
        self.verify_with(&mut Trust::new(genesis)?)
    }

    /// The same as one of many files.
    pub fn verify_with(&self, trust: &mut Trust<'_>) -> Result<Option<&[u8]>, StateFileError> {
        trust.check(&self.certified)?;
        Ok(self.proof.verify(&self.certified.header.state_root)?)
    }
}
