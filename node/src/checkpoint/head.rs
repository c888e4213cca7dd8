//! A validator's signature of the log's head, as it travels between
//! validators.
//!
//! ```text
//! notice, 107:  version u8 = 1 | validator u16 | size u64 | root 32 | signature 64
//! ```
//!
//! The signature is the one of the checkpoint's note: a notice proves itself,
//! whoever sends it.

use serde::{Deserialize, Serialize};
use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys, sign_note},
    codec::{self, DecodeError},
    crypto::{ChainId, Signature},
    hash::Hash,
    note::Note,
};

/// Version of the layout.
const VERSION: u8 = 1;
const BYTES: usize = 1 + 2 + 8 + 32 + 64;

/// Who signed which head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedHead {
    version: u8,
    pub(crate) validator: u16,
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) signature: Signature,
}

impl SignedHead {
    pub(crate) fn new(validator: u16, checkpoint: &Checkpoint, signature: Signature) -> Self {
        Self {
            version: VERSION,
            validator,
            size: checkpoint.size,
            root: checkpoint.root,
            signature,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let head: Self = codec::decode(bytes, BYTES)?;
        match head.version {
            VERSION => Ok(head),
            other => Err(DecodeError {
                what: "notice",
                why: format!("version {other}"),
            }),
        }
    }

    pub(crate) fn checkpoint(&self, chain: &ChainId) -> Checkpoint {
        Checkpoint::new(chain, self.size, self.root)
    }

    /// The note with this one line; `None` if the validator is unknown or the
    /// signature false.
    pub(crate) fn note(&self, chain: &ChainId, log: &LogKeys) -> Option<Note> {
        let line = (self.validator, self.signature);
        let note = sign_note(&self.checkpoint(chain), log.keys(), [line])?;
        let signers = log.signers(&note).ok()?;
        (signers == [self.validator]).then_some(note)
    }
}
