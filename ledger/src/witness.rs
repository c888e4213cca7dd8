//! What a witness is asked, and when it may cosign (C2SP tlog-witness).
//!
//! ```text
//! POST add-checkpoint
//! old <decimal>                    the size that the witness cosigned last
//! <base64 of a hash>               RFC 9162 consistency path from there
//! (empty line)
//! the checkpoint
//! ```
//!
//! A witness of Tally cosigns one log: that of the genesis it was given. It
//! asks for a quorum of the validators' signatures, and for proof that the
//! log begins with the one that it cosigned last. So even all validators
//! together cannot show two histories under one witness's cosignature.

use std::fmt;

use crate::{
    checkpoint::{
        Checkpoint, CheckpointError, LogKeys, SignedCheckpoint, base64_hash, parse_base64_hash,
        parse_decimal,
    },
    hash::Hash,
    merkle::verify_consistency,
    note::{MAX_NOTE_BYTES, Note, NoteError},
};

/// Most hashes of a request.
pub const MAX_PROOF_LINES: usize = 63;
/// Most bytes of a request.
pub const MAX_REQUEST_BYTES: usize = MAX_NOTE_BYTES + 64 * (MAX_PROOF_LINES + 1);

/// A request to cosign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the checkpoint that the witness cosigned last, as far as the
    /// sender knows.
    pub old: u64,
    /// That the log then is the beginning of the new one.
    pub proof: Vec<Hash>,
    /// The new checkpoint.
    pub checkpoint: Note,
}

/// Why a witness does not cosign; each has its HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 400: not a request.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// 403: not signed by a quorum, or a signature is false.
    #[error("not signed as it must be: {0}")]
    Signatures(CheckpointError),
    /// 404: another log.
    #[error("this witness knows no log {0}")]
    UnknownLog(String),
    /// 409: another old size. The answer's body is the right one.
    #[error("the last checkpoint cosigned here is of size {0}")]
    OtherSize(u64),
    /// 422: the log is no continuation of the one that was cosigned.
    #[error("the log is not shown to begin with the {old} entries that were cosigned")]
    Inconsistent {
        /// Size of what was cosigned.
        old: u64,
    },
    /// 422: no checkpoint of this kind of log.
    #[error("{0}")]
    Foreign(CheckpointError),
}

impl Refused {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Refused::Malformed(_) => 400,
            Refused::Signatures(_) => 403,
            Refused::UnknownLog(_) => 404,
            Refused::OtherSize(_) => 409,
            Refused::Inconsistent { .. } | Refused::Foreign(_) => 422,
        }
    }
}

impl From<NoteError> for Refused {
    fn from(error: NoteError) -> Self {
        match error {
            NoteError::False { .. } => Refused::Signatures(error.into()),
            _ => Refused::Malformed("the checkpoint is no note"),
        }
    }
}

impl AddCheckpoint {
    /// Reads a request's body.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refused> {
        use Refused::Malformed;
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(Malformed("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("not UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or(Malformed("no empty line"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old.and_then(parse_decimal).ok_or(Malformed("old size"))?;
        let proof: Option<Vec<_>> = lines.map(parse_base64_hash).collect();
        let proof = proof.filter(|proof| proof.len() <= MAX_PROOF_LINES);
        Ok(Self {
            old,
            proof: proof.ok_or(Malformed("proof"))?,
            checkpoint: Note::parse(note.as_bytes())?,
        })
    }

    /// Whether it may be cosigned, after the last checkpoint that was; the
    /// checkpoint. In the order of the specification: form, log, signatures,
    /// old size, consistency.
    pub fn check(
        self,
        log: &LogKeys,
        last: Option<&Checkpoint>,
    ) -> Result<SignedCheckpoint, Refused> {
        let Self {
            old,
            proof,
            checkpoint: note,
        } = self;
        let signed = log.check(note).map_err(|error| match error {
            CheckpointError::Form => Refused::Malformed("the note is no checkpoint"),
            CheckpointError::OtherOrigin { found, .. } => Refused::UnknownLog(found),
            CheckpointError::Foreign => Refused::Foreign(error),
            error => Refused::Signatures(error),
        })?;
        let Checkpoint { size, root, .. } = &signed.checkpoint;
        if old > *size {
            return Err(Refused::Malformed("the old size is above the checkpoint's"));
        }
        let known = last.map_or(0, |last| last.size);
        if old != known {
            return Err(Refused::OtherSize(known));
        }
        let consistent = match last {
            Some(last) => verify_consistency(old, *size, &last.root, root, &proof),
            None => proof.is_empty(),
        };
        match consistent {
            true => Ok(signed),
            false => Err(Refused::Inconsistent { old }),
        }
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        for hash in &self.proof {
            writeln!(f, "{}", base64_hash(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// What two checkpoints of one log say of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same log.
    Same,
    /// The second log begins with the first, as was shown.
    Grown,
    /// Not shown: what would show it is missing.
    Unknown,
    /// Two histories: whoever signed both has signed a false one.
    Fork,
}

/// How two checkpoints of one origin relate, the first being no larger.
/// `beginning` is the root of the second log's first entries, as many as the
/// first has, from hashes that lead to the second's root.
pub fn relate(first: &Checkpoint, second: &Checkpoint, beginning: Option<Hash>) -> Relation {
    if first.size == second.size {
        return match first.root == second.root {
            true => Relation::Same,
            false => Relation::Fork,
        };
    }
    match beginning {
        Some(root) if root == first.root => Relation::Grown,
        Some(_) => Relation::Fork,
        None => Relation::Unknown,
    }
}
