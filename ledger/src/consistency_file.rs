//! Consistency files: that the log of one certified header is the beginning
//! of another's (I7); checked with the genesis alone.
//!
//! ```text
//! magic "TALLYCON" | version u8 = 1 | older certified header |
//! newer certified header | path: list of hashes (RFC 9162, 2.1.4)
//! ```
//!
//! Who keeps the header of a day can have it proven at any later day that
//! nothing before it was edited or left out since.

use serde::{Deserialize, Serialize};

use crate::{
    block::Header,
    certified::{CertifiedHeader, HeaderError, MAX_CERTIFIED_BYTES, Trust},
    codec::{DecodeError, List},
    genesis::{Genesis, GenesisError},
    hash::Hash,
    ids::Height,
    merkle::verify_consistency,
    receipt::layout::{file, read_file},
};

/// First bytes of a consistency file.
pub const CONSISTENCY_MAGIC: [u8; 8] = *b"TALLYCON";
/// Version of the file's layout.
pub const CONSISTENCY_FILE_VERSION: u8 = 1;
/// Most hashes of a path: one per level, and one to begin with.
pub const MAX_CONSISTENCY_PATH: usize = 65;
/// Most bytes of a consistency file.
pub const MAX_CONSISTENCY_FILE_BYTES: usize =
    9 + 2 * MAX_CERTIFIED_BYTES + 8 + 32 * MAX_CONSISTENCY_PATH;

/// Two headers, and that one's log is the beginning of the other's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyFile {
    /// The older one.
    pub old: CertifiedHeader,
    /// The newer one.
    pub new: CertifiedHeader,
    /// The proof.
    pub path: List<Hash, MAX_CONSISTENCY_PATH>,
}

/// Why a consistency file proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsistencyError {
    /// The genesis cannot start a chain.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// A header is not certified.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The headers are not in order.
    #[error("the log of height {old} is not older than that of {new}")]
    Order {
        /// Height of the first.
        old: Height,
        /// Height of the second.
        new: Height,
    },
    /// The older log is not the beginning of the newer one, as far as the path
    /// shows.
    #[error("the log of height {old} is not shown to be the beginning of that of {new}")]
    NotTheBeginning {
        /// Height of the older.
        old: Height,
        /// Height of the newer.
        new: Height,
    },
}

impl ConsistencyFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        file(CONSISTENCY_MAGIC, CONSISTENCY_FILE_VERSION, self)
    }

    /// Reads a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let limit = MAX_CONSISTENCY_FILE_BYTES;
        let read = read_file(CONSISTENCY_MAGIC, &[CONSISTENCY_FILE_VERSION], bytes, limit);
        read.map(|(_, file)| file)
    }

    /// Checks everything in the file, starting from the genesis; the two
    /// headers.
    pub fn verify(&self, genesis: &Genesis) -> Result<(Header, Header), ConsistencyError> {
        self.verify_with(&mut Trust::new(genesis)?)
    }

    /// The same as one of many files.
    pub fn verify_with(&self, trust: &mut Trust<'_>) -> Result<(Header, Header), ConsistencyError> {
        trust.check(&self.old)?;
        trust.check(&self.new)?;
        let (from, to) = (self.old.header, self.new.header);
        let (old, new) = (from.height, to.height);
        if old > new {
            return Err(ConsistencyError::Order { old, new });
        }
        let sizes = (from.log_size, to.log_size);
        if !verify_consistency(sizes.0, sizes.1, &from.log_root, &to.log_root, &self.path) {
            return Err(ConsistencyError::NotTheBeginning { old, new });
        }
        Ok((from, to))
    }
}
