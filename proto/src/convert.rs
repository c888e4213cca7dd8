//! Conversions between protobuf and the ledger.

mod action;
mod block;
pub mod entry;
mod rules;
mod state;
mod transaction;

use bytes::Bytes;
use tally_ledger::{codec::List, crypto::PublicKey, hash::Hash};

/// A field of a message that has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct FieldError {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl FieldError {
    /// An error in `field`.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self {
            field,
            why: why.into(),
        }
    }

    fn missing(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }
}

/// Bytes of a field that must have exactly `N`.
pub fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], FieldError> {
    bytes
        .try_into()
        .map_err(|_| FieldError::new(field, format!("has {} bytes, {N} wanted", bytes.len())))
}

/// A hash in a field.
pub fn hash(field: &'static str, bytes: &[u8]) -> Result<Hash, FieldError> {
    fixed(field, bytes).map(Hash)
}

/// A public key in a field.
pub fn key(field: &'static str, bytes: &[u8]) -> Result<PublicKey, FieldError> {
    fixed(field, bytes).map(PublicKey)
}

/// A hash as a field.
pub fn bytes_of(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}

/// A public key as a field.
pub fn key_bytes(key: &PublicKey) -> Bytes {
    Bytes::copy_from_slice(&key.0)
}

fn u16_of(field: &'static str, number: u32) -> Result<u16, FieldError> {
    u16::try_from(number).map_err(|_| FieldError::new(field, "is above 65535"))
}

fn list<T, const MAX: usize>(
    field: &'static str,
    items: Vec<T>,
) -> Result<List<T, MAX>, FieldError> {
    List::new(items).map_err(|items| {
        FieldError::new(field, format!("has {} items, at most {MAX}", items.len()))
    })
}

/// All items, if there are not more than `MAX` and each converts.
fn collect<S, T, const MAX: usize>(
    field: &'static str,
    items: &[S],
    convert: impl FnMut(&S) -> Result<T, FieldError>,
) -> Result<List<T, MAX>, FieldError> {
    if items.len() > MAX {
        let why = format!("has {} items, at most {MAX}", items.len());
        return Err(FieldError::new(field, why));
    }
    list(field, items.iter().map(convert).collect::<Result<_, _>>()?)
}
