//! Signed notes (C2SP signed-note): text with signature lines below it, the
//! form of checkpoints and of what witnesses add to them.
//!
//! ```text
//! text, each line ends in U+000A
//! (empty line)
//! U+2014 SPACE key name SPACE base64(key id 4 || signature) U+000A     one or more
//!
//! key id = the first 4 bytes of SHA-256(key name || 0x0A || type || public key)
//! type 0x01: ed25519 over the text
//! type 0x04: time u64 big-endian (s since 1970) || ed25519 over
//!            "cosignature/v1\ntime " || time in decimal || "\n" || text
//! ```
//!
//! A note reads in one way only: what is read writes back to the same bytes.
//! Lines of unknown keys are kept and count for nothing; a line that names a
//! known key and does not verify makes the whole note worthless.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::crypto::{PublicKey, SecretKey, Signature};

/// Most bytes of a note.
pub const MAX_NOTE_BYTES: usize = 128 << 10;
/// Most signature lines of a note.
pub const MAX_NOTE_SIGNATURES: usize = 128;
/// Most bytes of a key's name.
pub const MAX_KEY_NAME_BYTES: usize = 255;
/// What begins a signature line: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// Why bytes are no note, or a text is no verifier key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// More bytes or signatures than are read.
    #[error("longer than {MAX_NOTE_BYTES} bytes or {MAX_NOTE_SIGNATURES} signatures")]
    TooLong,
    /// Not UTF-8, or with control characters.
    #[error("no text, or with control characters")]
    Text,
    /// No empty line, or nothing behind it.
    #[error("no empty line with signatures below it")]
    NoSignatures,
    /// A line below the empty one that is no signature.
    #[error("signature line {0} is malformed")]
    Line(usize),
    /// A line names a known key and does not verify.
    #[error("the signature of {name} (key id {id}) is false")]
    False {
        /// The key's name.
        name: String,
        /// Its id.
        id: KeyId,
    },
    /// Not `name+id+key`, or its parts do not belong together.
    #[error("no verifier key (name+key id+base64 of type and key) of type 0x01 or 0x04")]
    VerifierKey,
    /// A name that no line can carry.
    #[error("a key's name has 1 to {MAX_KEY_NAME_BYTES} bytes without spaces and `+`")]
    KeyName,
}

/// Names a key together with its name; short on purpose, see signed-note.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::write_hex(f, &self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a key's signature lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyType {
    /// A plain ed25519 signature: a log's.
    Ed25519 = 0x01,
    /// A cosignature with its time: a witness's.
    Cosignature = 0x04,
}

impl KeyType {
    fn of(byte: u8) -> Option<Self> {
        [KeyType::Ed25519, KeyType::Cosignature]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A public key with its name and type, written `name+id+base64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyType,
    key: PublicKey,
    id: KeyId,
}

/// Whether a line can carry this name.
fn is_key_name(name: &str) -> bool {
    let bad = |c: char| c == '+' || c.is_whitespace() || c.is_control();
    (1..=MAX_KEY_NAME_BYTES).contains(&name.len()) && !name.contains(bad)
}

impl VerifierKey {
    /// A key of this name.
    pub fn new(name: &str, kind: KeyType, key: PublicKey) -> Result<Self, NoteError> {
        if !is_key_name(name) {
            return Err(NoteError::KeyName);
        }
        let hash = Sha256::new()
            .chain_update(name)
            .chain_update([b'\n', kind as u8])
            .chain_update(key.0)
            .finalize();
        let id = KeyId([hash[0], hash[1], hash[2], hash[3]]);
        let name = name.to_owned();
        Ok(Self {
            name,
            kind,
            key,
            id,
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type.
    pub fn kind(&self) -> KeyType {
        self.kind
    }

    /// The public key.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The id that lines name it by.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether a line names this key.
    pub fn is_named_by(&self, line: &NoteSignature) -> bool {
        self.name == line.name && self.id == line.id
    }

    /// The time of a line of this key over `text`, in seconds since 1970, 0
    /// for a type without; `None`: it does not verify.
    fn check(&self, line: &NoteSignature, text: &str) -> Option<u64> {
        let (time, bytes) = match self.kind {
            KeyType::Ed25519 => (0, &line.bytes[..]),
            KeyType::Cosignature => {
                let (time, rest) = line.bytes.split_first_chunk::<8>()?;
                let time = u64::from_be_bytes(*time);
                // Zero would say nothing of time; above, the format forbids.
                if time == 0 || i64::try_from(time).is_err() {
                    return None;
                }
                (time, rest)
            }
        };
        let signature = Signature(bytes.try_into().ok()?);
        let signed = match self.kind {
            KeyType::Ed25519 => self.key.verify_note(text.as_bytes(), &signature),
            KeyType::Cosignature => {
                let message = cosigned_message(time, text);
                self.key.verify_note(message.as_bytes(), &signature)
            }
        };
        signed.then_some(time)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind as u8][..], &self.key.0].concat();
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        // Only the base64 may hold further plus signs.
        let mut parts = text.splitn(3, '+');
        let mut part = || parts.next().ok_or(NoteError::VerifierKey);
        let (name, _, key) = (part()?, part()?, part()?);
        let key = STANDARD.decode(key).map_err(|_| NoteError::VerifierKey)?;
        let (kind, key) = key.split_first().ok_or(NoteError::VerifierKey)?;
        let kind = KeyType::of(*kind).ok_or(NoteError::VerifierKey)?;
        let key: [u8; 32] = key.try_into().map_err(|_| NoteError::VerifierKey)?;
        let read = Self::new(name, kind, PublicKey(key))?;
        // This also compares the id.
        if read.to_string() == text {
            Ok(read)
        } else {
            Err(NoteError::VerifierKey)
        }
    }
}

/// What a cosignature signs.
fn cosigned_message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// A signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: KeyId,
    bytes: Vec<u8>,
}

impl NoteSignature {
    /// Signs a text as a log does (type 0x01).
    pub fn sign(name: &str, secret: &SecretKey, text: &str) -> Result<Self, NoteError> {
        let key = VerifierKey::new(name, KeyType::Ed25519, secret.public())?;
        Ok(Self::of(&key, secret.sign_note(text.as_bytes())))
    }

    /// The line of a key of type 0x01 for a signature that was made elsewhere.
    pub fn of(key: &VerifierKey, signature: Signature) -> Self {
        Self {
            name: key.name.clone(),
            id: key.id,
            bytes: signature.0.to_vec(),
        }
    }

    /// Cosigns a checkpoint's text (type 0x04); the time is in seconds since
    /// 1970.
    pub fn cosign(
        name: &str,
        secret: &SecretKey,
        time: u64,
        text: &str,
    ) -> Result<Self, NoteError> {
        let key = VerifierKey::new(name, KeyType::Cosignature, secret.public())?;
        let signature = secret.sign_note(cosigned_message(time, text).as_bytes());
        Ok(Self {
            name: key.name,
            id: key.id,
            bytes: [&time.to_be_bytes()[..], &signature.0].concat(),
        })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The signature of a line of type 0x01; `None` for other lengths.
    pub fn signature(&self) -> Option<Signature> {
        self.bytes.as_slice().try_into().ok().map(Signature)
    }

    /// Reads a line without its end.
    fn parse(line: &str) -> Option<Self> {
        let (name, bytes) = line.strip_prefix(DASH)?.split_once(' ')?;
        let bytes = STANDARD.decode(bytes).ok()?;
        let (id, bytes) = bytes.split_first_chunk::<4>()?;
        (is_key_name(name) && !bytes.is_empty()).then(|| Self {
            name: name.to_owned(),
            id: KeyId(*id),
            bytes: bytes.to_vec(),
        })
    }

    /// Reads lines as a witness answers with: each ends in U+000A.
    pub fn parse_lines(bytes: &[u8]) -> Result<Vec<Self>, NoteError> {
        let text = readable(bytes)?;
        let text = text.strip_suffix('\n').ok_or(NoteError::NoSignatures)?;
        let mut lines = Vec::new();
        for line in text.split('\n') {
            if lines.len() == MAX_NOTE_SIGNATURES {
                return Err(NoteError::TooLong);
            }
            let number = lines.len() + 1;
            lines.push(Self::parse(line).ok_or(NoteError::Line(number))?);
        }
        Ok(lines)
    }
}

impl fmt::Display for NoteSignature {
    /// With its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id.0[..], &self.bytes].concat();
        writeln!(f, "{DASH}{} {}", self.name, STANDARD.encode(bytes))
    }
}

/// The text that bytes are, if a note may hold it.
fn readable(bytes: &[u8]) -> Result<&str, NoteError> {
    if bytes.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NoteError::Text)?;
    let control = |b: u8| b < 0x20 && b != b'\n';
    match text.bytes().any(control) {
        true => Err(NoteError::Text),
        false => Ok(text),
    }
}

/// A text with signature lines; which of them hold is asked of
/// [`Note::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// A text with these lines; `None` if nobody could read it again.
    pub fn new(text: &str, signatures: Vec<NoteSignature>) -> Option<Self> {
        let text = text.to_owned();
        let note = Self { text, signatures };
        (Self::parse(note.to_string().as_bytes()).as_ref() == Ok(&note)).then_some(note)
    }

    /// Reads a note's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let note = readable(bytes)?;
        let end = note.rfind("\n\n").ok_or(NoteError::NoSignatures)?;
        let (text, lines) = (&note[..=end], &note[end + 2..]);
        let signatures = match lines.is_empty() {
            true => return Err(NoteError::NoSignatures),
            false => NoteSignature::parse_lines(lines.as_bytes())?,
        };
        let text = text.to_owned();
        Ok(Self { text, signatures })
    }

    /// The text that is signed, with its last line's end.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lines.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// For each key whether it signed: the time in seconds since 1970, 0 for a
    /// type without. Of two keys with one name and id each line counts for
    /// whichever it verifies with.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<Vec<Option<u64>>, NoteError> {
        let mut signed = vec![None; keys.len()];
        for line in &self.signatures {
            let mut named = false;
            let mut verified = false;
            for (key, signed) in keys.iter().zip(&mut signed) {
                if !key.is_named_by(line) {
                    continue;
                }
                named = true;
                if let Some(time) = key.check(line, &self.text) {
                    verified = true;
                    *signed = (*signed).max(Some(time));
                }
            }
            if named && !verified {
                return Err(NoteError::False {
                    name: line.name.clone(),
                    id: line.id,
                });
            }
        }
        Ok(signed)
    }

    /// The same note with this line in place of an earlier one of its key.
    pub fn with(&self, line: NoteSignature) -> Option<Self> {
        let other = |old: &&NoteSignature| (&old.name, old.id) != (&line.name, line.id);
        let mut signatures: Vec<_> = self.signatures.iter().filter(other).cloned().collect();
        signatures.push(line);
        Self::new(&self.text, signatures)
    }

    /// The same note with one line for each key that signed it, its latest, in
    /// the order of the keys; `None` if none did. However many lines a note
    /// repeats, there are no more than keys.
    pub fn only(&self, keys: &[VerifierKey]) -> Option<Self> {
        let mut signatures: Vec<NoteSignature> = Vec::new();
        for key in keys {
            let own = self.signatures.iter().filter(|line| key.is_named_by(line));
            let signed = own.filter_map(|line| Some((key.check(line, &self.text)?, line)));
            if let Some((_, line)) = signed.max_by_key(|(time, _)| *time) {
                signatures.push(line.clone());
            }
        }
        Self::new(&self.text, signatures)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| line.fmt(f))
    }
}
