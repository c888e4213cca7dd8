//! Checkpoints (C2SP tlog-checkpoint) of a chain's log: its size and root as
//! a note that the validators sign with their checkpoint keys, and that
//! witnesses cosign (C2SP tlog-cosignature).
//!
//! ```text
//! tally/<chain id, 64 hex digits>        the origin: one per chain
//! 1205                                   entries of the log
//! l0Ck...=                               RFC 9162 root, base64
//!
//! — tally/<chain id> <base64>            per validator, type 0x01, key: its
//! — tally/<chain id> <base64>            checkpoint key in the genesis
//! — witness.example/w1 <base64>          per witness, type 0x04
//! ```
//!
//! A checkpoint is believed if a quorum of the genesis's validators signed
//! it, as many as certify a block. It is *witnessed by k* if k parties that
//! the reader named have cosigned it: each has never cosigned a log that this
//! one does not begin with.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::{
    crypto::{ChainId, SecretKey, Signature},
    genesis::Genesis,
    hash::Hash,
    note::{KeyType, Note, NoteError, NoteSignature, VerifierKey},
};

/// Most lines behind the root.
const MAX_EXTENSIONS: usize = 16;

/// The head of a log, as a note's text says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Entries of the log.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Lines behind the root, which other logs may have; Tally's has none.
    pub extension: Vec<String>,
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note is malformed, or a signature in it false.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note's text is no checkpoint.
    #[error("the note is no checkpoint")]
    Form,
    /// It is of another log.
    #[error("a checkpoint of {found}, this chain's log is {wanted}")]
    OtherOrigin {
        /// This chain's.
        wanted: String,
        /// The checkpoint's.
        found: String,
    },
    /// The log of a chain has at least its genesis, and no further lines.
    #[error("no checkpoint that a validator of Tally signs: empty, or with extension lines")]
    Foreign,
    /// Fewer than a quorum signed.
    #[error("signed by {have} validators, {need} needed")]
    NoQuorum {
        /// Who did.
        have: usize,
        /// The quorum.
        need: usize,
    },
    /// Fewer witnesses than asked for.
    #[error("witnessed by {have}, {need} needed")]
    NotWitnessed {
        /// Who did.
        have: usize,
        /// Asked for.
        need: usize,
    },
}

/// The name of a chain's log, and of the keys that sign for it.
pub fn origin(chain: &ChainId) -> String {
    format!("tally/{chain}")
}

/// Reads a number as these formats write it: decimal, no leading zeros.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Reads a hash as these formats write it.
pub(crate) fn parse_base64_hash(text: &str) -> Option<Hash> {
    let bytes = STANDARD.decode(text).ok()?;
    bytes.try_into().ok().map(Hash)
}

/// Writes a hash as these formats do.
pub(crate) fn base64_hash(hash: &Hash) -> String {
    STANDARD.encode(hash.0)
}

impl Checkpoint {
    /// The head of a chain's log.
    pub fn new(chain: &ChainId, size: u64, root: Hash) -> Self {
        Self {
            origin: origin(chain),
            size,
            root,
            extension: Vec::new(),
        }
    }

    /// The text that is signed.
    pub fn text(&self) -> String {
        let (origin, size, root) = (&self.origin, self.size, base64_hash(&self.root));
        let mut text = format!("{origin}\n{size}\n{root}\n");
        for line in &self.extension {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Reads a note's text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let checkpoint = Self {
            origin: lines.next()?.to_owned(),
            size: parse_decimal(lines.next()?)?,
            root: parse_base64_hash(lines.next()?)?,
            extension: lines.map(str::to_owned).collect(),
        };
        let lines = &checkpoint.extension;
        let fits = lines.len() <= MAX_EXTENSIONS && !lines.iter().any(String::is_empty);
        (fits && !checkpoint.origin.is_empty()).then_some(checkpoint)
    }

    /// A validator's signature over it.
    pub fn sign(&self, key: &SecretKey) -> Signature {
        key.sign_note(self.text().as_bytes())
    }
}

/// The keys that sign a chain's checkpoints, by validator.
pub fn log_keys(genesis: &Genesis) -> Vec<VerifierKey> {
    let origin = origin(&genesis.chain());
    let validators = genesis.validators.0.iter();
    let key = |key| VerifierKey::new(&origin, KeyType::Ed25519, key);
    validators
        .map(|validator| key(validator.checkpoint_key).expect("an origin is a name"))
        .collect()
}

/// The note of a checkpoint with validators' signatures, by validator.
pub fn sign_note(
    checkpoint: &Checkpoint,
    keys: &[VerifierKey],
    signatures: impl IntoIterator<Item = (u16, Signature)>,
) -> Option<Note> {
    let line = |(validator, signature): (u16, Signature)| {
        let key = keys.get(usize::from(validator))?;
        Some(NoteSignature::of(key, signature))
    };
    let lines: Option<Vec<_>> = signatures.into_iter().map(line).collect();
    Note::new(&checkpoint.text(), lines?)
}

/// A checkpoint that a quorum of validators signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What they signed.
    pub checkpoint: Checkpoint,
    /// Who did, ascending.
    pub signers: Vec<u16>,
    /// The note with all of its lines.
    pub note: Note,
}

/// Knows the log of one chain and who signs for it.
#[derive(Debug, Clone)]
pub struct LogKeys {
    origin: String,
    keys: Vec<VerifierKey>,
    quorum: usize,
}

impl LogKeys {
    /// Of the chain that starts with this genesis, which must be valid.
    pub fn new(genesis: &Genesis) -> Self {
        Self {
            origin: origin(&genesis.chain()),
            keys: log_keys(genesis),
            quorum: genesis.validators.quorum(),
        }
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// SHA-256 of its name in hex, by which witnesses show its checkpoint.
    pub fn origin_hash(&self) -> String {
        Hash(Sha256::digest(&self.origin).into()).to_string()
    }

    /// The validators' keys.
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// How many must sign.
    pub fn quorum(&self) -> usize {
        self.quorum
    }

    /// Who of the validators signed a note.
    pub fn signers(&self, note: &Note) -> Result<Vec<u16>, NoteError> {
        let signed = (0u16..).zip(note.verify(&self.keys)?);
        Ok(signed.filter_map(|(i, time)| time.map(|_| i)).collect())
    }

    /// Reads a note and checks that a quorum signed it as a checkpoint of this
    /// log.
    pub fn read(&self, bytes: &[u8]) -> Result<SignedCheckpoint, CheckpointError> {
        self.check(Note::parse(bytes)?)
    }

    /// The same of a note.
    pub fn check(&self, note: Note) -> Result<SignedCheckpoint, CheckpointError> {
        let checkpoint = Checkpoint::parse(note.text()).ok_or(CheckpointError::Form)?;
        if checkpoint.origin != self.origin {
            return Err(CheckpointError::OtherOrigin {
                wanted: self.origin.clone(),
                found: checkpoint.origin,
            });
        }
        let signers = self.signers(&note)?;
        let (have, need) = (signers.len(), self.quorum);
        if have < need {
            return Err(CheckpointError::NoQuorum { have, need });
        }
        if checkpoint.size == 0 || !checkpoint.extension.is_empty() {
            return Err(CheckpointError::Foreign);
        }
        Ok(SignedCheckpoint {
            checkpoint,
            signers,
            note,
        })
    }
}

/// How sure it is that a history stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finality {
    /// A quorum of validators certified it: all of them together could still
    /// show another one to somebody else.
    Final,
    /// Outside parties have also cosigned a log that it is part of.
    Witnessed(Vec<Cosigner>),
}

/// A witness that cosigned, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigner {
    /// Its key's name.
    pub name: String,
    /// Seconds since 1970.
    pub time: u64,
}

impl fmt::Display for Finality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finality::Final => f.write_str("final"),
            Finality::Witnessed(cosigners) => {
                let names: Vec<&str> = cosigners.iter().map(|c| c.name.as_str()).collect();
                write!(f, "witnessed by {} ({})", names.len(), names.join(", "))
            }
        }
    }
}

/// The witnesses that a reader believes, and how many must agree.
#[derive(Debug, Clone, Default)]
pub struct Witnesses {
    keys: Vec<VerifierKey>,
    need: usize,
}

impl Witnesses {
    /// Of these at least `need`; `None` for keys that do not cosign, that are
    /// the same party twice, or that are fewer.
    pub fn new(keys: Vec<VerifierKey>, need: usize) -> Option<Self> {
        let twice = |i: usize| keys[..i].iter().any(|key| key.key() == keys[i].key());
        let bad = |i: usize| keys[i].kind() != KeyType::Cosignature || twice(i);
        let fits = need <= keys.len() && !(0..keys.len()).any(bad);
        fits.then_some(Self { keys, need })
    }

    /// Their keys.
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// How many of them cosigned a note, if they are enough.
    pub fn check(&self, note: &Note) -> Result<Finality, CheckpointError> {
        let times = note.verify(&self.keys)?;
        let cosigner = |(key, time): (&VerifierKey, Option<u64>)| {
            time.map(|time| Cosigner {
                name: key.name().to_owned(),
                time,
            })
        };
        let cosigners: Vec<_> = self.keys.iter().zip(times).filter_map(cosigner).collect();
        let (have, need) = (cosigners.len(), self.need);
        match have {
            _ if have < need => Err(CheckpointError::NotWitnessed { have, need }),
            0 => Ok(Finality::Final),
            _ => Ok(Finality::Witnessed(cosigners)),
        }
    }
}
