//! Fixed-size parts of the files, and their magic and version.

use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{self, Bytes, DecodeError};

/// magic 8 | version u8 | content.
pub(crate) fn file<T: Serialize>(magic: [u8; 8], version: u8, content: &T) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.push(version);
    bytes.extend(codec::encode(content));
    bytes
}

/// Reads what [`file`] wrote in one of the known versions, at most `limit`
/// bytes; which version it was comes along.
pub(crate) fn read_file<T: DeserializeOwned>(
    magic: [u8; 8],
    known: &[u8],
    bytes: &[u8],
    limit: usize,
) -> Result<(u8, T), DecodeError> {
    let error = |why: String| DecodeError {
        what: std::any::type_name::<T>(),
        why,
    };
    if bytes.len() > limit {
        return Err(error(format!("{} bytes, at most {limit}", bytes.len())));
    }
    let content = bytes.strip_prefix(&magic);
    let content = content.ok_or_else(|| error("the file does not begin as one".into()))?;
    match content.split_first() {
        Some((found, content)) if known.contains(found) => {
            codec::decode(content, limit).map(|content| (*found, content))
        }
        found => Err(error(format!("version {:?}", found.map(|(v, _)| v)))),
    }
}

/// A receipt as its leaf.
pub(crate) mod leaf {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    use super::Bytes;
    use crate::entry::{RECEIPT_LEAF_BYTES, Receipt};

    pub(crate) fn serialize<S: Serializer>(value: &Receipt, to: S) -> Result<S::Ok, S::Error> {
        Bytes(value.leaf()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Receipt, D::Error> {
        let leaf = Bytes::<RECEIPT_LEAF_BYTES>::deserialize(from)?;
        Receipt::from_leaf(&leaf.0).ok_or_else(|| D::Error::custom("no receipt's leaf"))
    }
}

/// The leaf of an entry that is no receipt, as its bytes.
pub(crate) mod event_leaf {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    use super::Bytes;
    use crate::entry::{EVENT_LEAF_BYTES, EventLeaf};

    pub(crate) fn serialize<S: Serializer>(value: &EventLeaf, to: S) -> Result<S::Ok, S::Error> {
        Bytes(value.leaf()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<EventLeaf, D::Error> {
        let leaf = Bytes::<EVENT_LEAF_BYTES>::deserialize(from)?;
        EventLeaf::from_leaf(&leaf.0).ok_or_else(|| D::Error::custom("no event's leaf"))
    }
}

/// A debit's fixed part as its bytes.
pub(crate) mod fixed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Bytes;
    use crate::debit::Fixed;

    pub(crate) fn serialize<S: Serializer>(value: &Fixed, to: S) -> Result<S::Ok, S::Error> {
        Bytes(value.write()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fixed, D::Error> {
        Bytes::deserialize(from).map(|bytes| Fixed::read(&bytes.0))
    }
}

/// A debit's detail as its bytes: 0 none, 1 a detail of version 1, 2 one of
/// version 2.
pub(crate) mod detail {
    use std::fmt;

    use serde::{
        Deserializer, Serialize, Serializer,
        de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
        ser::SerializeTuple,
    };

    use super::Bytes;
    use crate::debit::{DETAIL_BYTES, Detail, FIRST_DETAIL_BYTES};

    const NONE: u8 = 0;
    const FIRST: u8 = 1;
    const SECOND: u8 = 2;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Detail>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let Some(detail) = value else {
            return NONE.serialize(to);
        };
        let bytes = detail.write();
        let mut parts = to.serialize_tuple(1 + bytes.len())?;
        let tag = if detail.queued.is_none() {
            FIRST
        } else {
            SECOND
        };
        parts.serialize_element(&tag)?;
        bytes
            .iter()
            .try_for_each(|byte| parts.serialize_element(byte))?;
        parts.end()
    }

    struct Tagged;

    fn next<'de, T: DeserializeOwned, A: SeqAccess<'de>>(from: &mut A) -> Result<T, A::Error> {
        let next = from.next_element()?;
        next.ok_or_else(|| A::Error::custom("a detail is cut off"))
    }

    impl<'de> Visitor<'de> for Tagged {
        type Value = Option<Detail>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a detail of a known version, or none")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Option<Detail>, A::Error> {
            match next::<u8, A>(&mut from)? {
                NONE => Ok(None),
                FIRST => Ok(Detail::read(
                    &next::<Bytes<FIRST_DETAIL_BYTES>, A>(&mut from)?.0,
                )),
                SECOND => Ok(Detail::read(&next::<Bytes<DETAIL_BYTES>, A>(&mut from)?.0)),
                tag => Err(A::Error::custom(format!("a detail of version {tag}"))),
            }
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Detail>, D::Error> {
        from.deserialize_tuple(2, Tagged)
    }
}
