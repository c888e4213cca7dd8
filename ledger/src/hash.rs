//! Hashes: every blake3 use has its own `derive_key` context, so no two
//! kinds of value can share a preimage. RFC 9162 trees (the log, batches,
//! transactions) use SHA-256 and live in [`crate::merkle`].

use std::{fmt, str::FromStr, sync::LazyLock};

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A 32-byte hash or root. Lower-case hex in text formats, 32 bytes in ours.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// 32 zero bytes; stands for "none" where a layout says so.
    pub const ZERO: Hash = Hash([0; 32]);

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes32(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_bytes32(deserializer).map(Hash)
    }
}

/// Hex for formats that people read (genesis and transaction files), the
/// plain bytes for the canonical encoding.
pub(crate) fn serialize_bytes32<S: Serializer>(
    bytes: &[u8; 32],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.collect_str(&Hex(bytes))
    } else {
        bytes.serialize(serializer)
    }
}

/// Reads what [`serialize_bytes32`] wrote.
pub(crate) fn deserialize_bytes32<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<[u8; 32], D::Error> {
    if deserializer.is_human_readable() {
        parse_hex(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    } else {
        <[u8; 32]>::deserialize(deserializer)
    }
}

/// Displays bytes as lower-case hex.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0)
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..6])
    }
}

/// Text that is not exactly the wanted number of lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {wanted} lower-case hexadecimal digits")]
pub struct HexError {
    /// How many digits were wanted.
    pub wanted: usize,
}

impl FromStr for Hash {
    type Err = HexError;
    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Hash)
    }
}

/// Writes bytes as lower-case hex.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Parses exactly `N` bytes of lower-case hex.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let error = HexError { wanted: 2 * N };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(error);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let (Some(high), Some(low)) = (hex_digit(pair[0]), hex_digit(pair[1])) else {
            return Err(error);
        };
        *byte = high << 4 | low;
    }
    Ok(out)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// What a blake3 hash is of; the names are the `derive_key` contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// The genesis in canonical bytes; its hash is the chain id.
    Genesis,
    /// A transaction's body; its hash is the transaction id.
    Transaction,
    /// A transaction's encoded signatures.
    Signatures,
    /// A transaction's payload.
    Payload,
    /// A block header; its hash is the block id.
    Block,
    /// A debit's detail part.
    Detail,
    /// A body or due step behind a log entry that is not a receipt.
    EntryBody,
    /// A validator set.
    ValidatorSet,
    /// A leaf of a state table.
    StateLeaf,
    /// An inner node of a state table.
    StateNode,
    /// The state root over all tables.
    State,
    /// A journal's running hash.
    Journal,
    /// A snapshot file's content.
    Snapshot,
    /// The running hash of a bucket of live transaction ids.
    IdBucket,
    /// What a validator signed twice.
    Evidence,
}

/// What `derive_key` makes of each context string, computed once: it saves
/// every hash a compression.
static CONTEXT_KEYS: LazyLock<[ContextKey; Context::ALL.len()]> =
    LazyLock::new(|| Context::ALL.map(|context| hash_derive_key_context(context.name())));

impl Context {
    /// All contexts, in the order of their declaration.
    pub const ALL: [Context; 15] = [
        Context::Genesis,
        Context::Transaction,
        Context::Signatures,
        Context::Payload,
        Context::Block,
        Context::Detail,
        Context::EntryBody,
        Context::ValidatorSet,
        Context::StateLeaf,
        Context::StateNode,
        Context::State,
        Context::Journal,
        Context::Snapshot,
        Context::IdBucket,
        Context::Evidence,
    ];

    /// The context string.
    pub const fn name(self) -> &'static str {
        match self {
            Context::Genesis => "tally v1 genesis",
            Context::Transaction => "tally v1 tx",
            Context::Signatures => "tally v1 signatures",
            Context::Payload => "tally v1 payload",
            Context::Block => "tally v1 block",
            Context::Detail => "tally v1 detail",
            Context::EntryBody => "tally v1 entry body",
            Context::ValidatorSet => "tally v1 validator set",
            Context::StateLeaf => "tally v1 state leaf",
            Context::StateNode => "tally v1 state node",
            Context::State => "tally v1 state",
            Context::Journal => "tally v1 journal",
            Context::Snapshot => "tally v1 snapshot",
            Context::IdBucket => "tally v1 id bucket",
            Context::Evidence => "tally v1 evidence",
        }
    }

    /// A fresh hasher in this context.
    pub fn hasher(self) -> blake3::Hasher {
        blake3::Hasher::new_from_context_key(&CONTEXT_KEYS[self as usize])
    }

    /// Hashes `bytes` in this context: blake3 `derive_key(name, bytes)`.
    pub fn hash(self, bytes: &[u8]) -> Hash {
        Hash(self.hasher().update(bytes).finalize().into())
    }

    /// The 32-byte key for the keyed mode: `derive_key(name, "")`.
    ///
    /// Keyed hashing of short inputs costs one compression, `derive_key`
    /// two; the hot paths (state nodes, journals) keep the key around.
    pub fn key(self) -> [u8; 32] {
        blake3::derive_key(self.name(), b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_context_keys_are_those_of_derive_key() {
        for (index, context) in Context::ALL.into_iter().enumerate() {
            assert_eq!(context as usize, index);
            for bytes in [&b""[..], b"x", &[7; 3000]] {
                let derived = blake3::derive_key(context.name(), bytes);
                assert_eq!(context.hash(bytes), Hash(derived));
            }
        }
    }
}
