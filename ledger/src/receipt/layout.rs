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

/// Reads what [`file`] wrote, at most `limit` bytes.
pub(crate) fn read_file<T: DeserializeOwned>(
    magic: [u8; 8],
    version: u8,
    bytes: &[u8],
    limit: usize,
) -> Result<T, DecodeError> {
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
        Some((found, content)) if *found == version => codec::decode(content, limit),
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

/// A debit's detail, if any, as its bytes.
pub(crate) mod detail {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Bytes;
    use crate::debit::Detail;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Detail>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|detail| Bytes(detail.write())).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Detail>, D::Error> {
        let bytes = Option::<Bytes<_>>::deserialize(from)?;
        Ok(bytes.map(|bytes| Detail::read(&bytes.0)))
    }
}
