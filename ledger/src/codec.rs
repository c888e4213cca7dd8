//! The one encoding of everything that is signed, hashed or stored.
//!
//! bincode 1.3.3 with fixed-width little-endian integers, a byte limit and no
//! trailing bytes. Sum types carry a `u32` tag in declaration order; options
//! and booleans are one byte, 0 or 1; lists are a `u64` count and the items.
//! There are no map types, and lists that are sets are sorted and checked on
//! decode, so each value has exactly one encoding.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use bincode::Options;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, SeqAccess},
    ser::SerializeTuple,
};

/// Bytes that are not the canonical encoding of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical {what}: {why}")]
pub struct DecodeError {
    /// Name of the wanted type.
    pub what: &'static str,
    /// What the decoder met.
    pub why: String,
}

fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_little_endian()
        .with_limit(limit)
        .reject_trailing_bytes()
}

/// Encodes a value; the length is bounded by the value's own bounded lists.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    options(u64::MAX)
        .serialize(value)
        .expect("serialising plain values into memory cannot fail")
}

/// Decodes exactly one value from all of `bytes`, at most `limit` of them.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    let what = std::any::type_name::<T>();
    if bytes.len() > limit {
        return Err(DecodeError {
            what,
            why: format!("{} bytes, at most {limit}", bytes.len()),
        });
    }
    options(limit as u64)
        .deserialize(bytes)
        .map_err(|e| DecodeError {
            what,
            why: e.to_string(),
        })
}

/// Serde adaptor that moves a byte vector in one piece instead of byte by
/// byte; the encoding is the same (`#[serde(with = "codec::bytes")]`).
pub mod bytes {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    struct Bytes;

    impl de::Visitor<'_> for Bytes {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }
        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    /// Writes count and bytes.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Reads count and bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// A list of at most `MAX` items; decoding a longer one fails.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// Wraps `items`; gives them back if there are more than `MAX`.
    pub fn new(items: Vec<T>) -> Result<Self, Vec<T>> {
        if items.len() > MAX {
            Err(items)
        } else {
            Ok(Self(items))
        }
    }

    /// The items, by value.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }

    /// Drops the items that `keep` does not want.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.0.retain(keep);
    }
}

/// Items can be changed in place, their number cannot.
impl<T, const MAX: usize> DerefMut for List<T, MAX> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for List<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde caps what it allocates ahead by size, and the codec's byte
        // limit bounds the rest, so a lying count costs nothing.
        let items = Vec::<T>::deserialize(deserializer)?;
        Self::new(items).map_err(|items| {
            serde::de::Error::custom(format!("{} items, at most {MAX}", items.len()))
        })
    }
}

/// Exactly `N` bytes, encoded as they are, without a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes<const N: usize>(pub [u8; N]);

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(N)?;
        self.0
            .iter()
            .try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const N: usize>;
        impl<'de, const N: usize> serde::de::Visitor<'de> for Visitor<N> {
            type Value = Bytes<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Bytes<N>, A::Error> {
                let mut out = [0; N];
                for (at, byte) in out.iter_mut().enumerate() {
                    let next = bytes.next_element()?;
                    *byte = next.ok_or_else(|| A::Error::invalid_length(at, &self))?;
                }
                Ok(Bytes(out))
            }
        }
        deserializer.deserialize_tuple(N, Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_and_long_lists_are_rejected() {
        let bytes = encode(&7u32);
        assert_eq!(decode::<u32>(&bytes, 4), Ok(7));
        assert!(decode::<u32>(&[&bytes[..], &[0]].concat(), 16).is_err());
        assert!(decode::<u32>(&bytes, 3).is_err());
        let three = encode(&vec![1u8, 2, 3]);
        assert!(decode::<List<u8, 3>>(&three, 64).is_ok());
        assert!(decode::<List<u8, 2>>(&three, 64).is_err());
    }

    #[test]
    fn a_lying_count_neither_allocates_nor_passes() {
        let bytes = u64::MAX.to_le_bytes();
        assert!(decode::<List<u64, 8>>(&bytes, 64).is_err());
    }

    #[test]
    fn bytes_in_one_piece_are_encoded_as_a_list_of_bytes() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Whole(#[serde(with = "super::bytes")] Vec<u8>);
        let listed = encode(&vec![1u8, 2, 3]);
        assert_eq!(encode(&Whole(vec![1, 2, 3])), listed);
        assert_eq!(decode::<Whole>(&listed, 64), Ok(Whole(vec![1, 2, 3])));
        assert!(decode::<Whole>(&u64::MAX.to_le_bytes(), 64).is_err());
        assert!(decode::<Whole>(&listed[..10], 64).is_err());
    }

    #[test]
    fn fixed_bytes_carry_no_count() {
        let value = Bytes(std::array::from_fn::<u8, 40, _>(|i| i as u8));
        assert_eq!(encode(&value), value.0);
        assert_eq!(decode(&value.0, 40), Ok(value));
        assert!(decode::<Bytes<40>>(&value.0[1..], 40).is_err());
    }

    #[test]
    fn booleans_and_options_have_one_encoding() {
        assert!(decode::<bool>(&[2], 1).is_err());
        assert!(decode::<Option<u8>>(&[2, 0], 2).is_err());
    }
}
