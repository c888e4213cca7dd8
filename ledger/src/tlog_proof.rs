//! Proofs of one entry (C2SP tlog-proof): its index, its path and the
//! checkpoint under which it stands, as text in one file.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <base64>                      or no such line; nothing signs it
//! index <decimal>
//! <base64 of a hash>                  the path, from the leaf upwards
//! (empty line)
//! the checkpoint
//! ```

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    checkpoint::{
        CheckpointError, LogKeys, SignedCheckpoint, base64_hash, parse_base64_hash, parse_decimal,
    },
    hash::Hash,
    merkle::verify_inclusion,
    note::{MAX_NOTE_BYTES, Note, NoteError},
};

/// First line of a proof.
pub const TLOG_PROOF: &str = "c2sp.org/tlog-proof@v1";
/// Most hashes of a path.
pub const MAX_TLOG_PATH: usize = 63;
/// Most bytes of the line that nothing signs.
const MAX_EXTRA_BYTES: usize = 64 << 10;
/// Most bytes of a proof.
pub const MAX_TLOG_PROOF_BYTES: usize = MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES + 64 * 64;

/// That an entry is in the log of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// What the application adds; nothing signs it.
    pub extra: Option<Vec<u8>>,
    /// The entry's index.
    pub index: u64,
    /// From its leaf upwards.
    pub path: Vec<Hash>,
    /// The checkpoint.
    pub checkpoint: Note,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// Not in this form.
    #[error("no tlog-proof: {0}")]
    Form(&'static str),
    /// The checkpoint is not believed.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The entry is not where the proof says.
    #[error("the entry is not number {index} of the checkpoint's log")]
    NotInLog {
        /// The claimed index.
        index: u64,
    },
}

impl From<NoteError> for TlogProofError {
    fn from(error: NoteError) -> Self {
        TlogProofError::Checkpoint(error.into())
    }
}

impl TlogProof {
    /// Reads a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, TlogProofError> {
        use TlogProofError::Form;
        if bytes.len() > MAX_TLOG_PROOF_BYTES {
            return Err(Form("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Form("not UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or(Form("no empty line"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(TLOG_PROOF) {
            return Err(Form("its first line is another"));
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            Some(extra) if extra.len() <= 2 * MAX_EXTRA_BYTES => {
                lines.next();
                Some(STANDARD.decode(extra).map_err(|_| Form("extra"))?)
            }
            Some(_) => return Err(Form("too long")),
            None => None,
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(parse_decimal).ok_or(Form("index"))?;
        let path: Option<Vec<_>> = lines.map(parse_base64_hash).collect();
        let path = path.filter(|path| path.len() <= MAX_TLOG_PATH);
        Ok(Self {
            extra,
            index,
            path: path.ok_or(Form("path"))?,
            checkpoint: Note::parse(note.as_bytes())?,
        })
    }

    /// Checks that a quorum of validators signed a log with this leaf at the
    /// index; the checkpoint.
    pub fn verify(&self, leaf: &Hash, log: &LogKeys) -> Result<SignedCheckpoint, TlogProofError> {
        let signed = log.check(self.checkpoint.clone())?;
        let (size, root) = (signed.checkpoint.size, &signed.checkpoint.root);
        match verify_inclusion(leaf, self.index, size, &self.path, root) {
            true => Ok(signed),
            false => Err(TlogProofError::NotInLog { index: self.index }),
        }
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TLOG_PROOF}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", base64_hash(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}
