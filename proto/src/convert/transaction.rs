//! Transactions, authors and bodies.

use bytes::Bytes;
use tally_ledger::{
    codec::List,
    crypto::Signature,
    transaction::{
        Author, AuthorKind, Body, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, MAX_SIGNERS, Transaction,
    },
};

use super::{FieldError, action, collect, fixed};
use crate::v1;

impl TryFrom<v1::Transaction> for Transaction {
    type Error = FieldError;

    fn try_from(from: v1::Transaction) -> Result<Self, FieldError> {
        let bounds = [
            ("body", from.body.len(), MAX_BODY_BYTES),
            ("payload", from.payload.len(), MAX_PAYLOAD_BYTES),
        ];
        for (field, have, most) in bounds {
            if have > most {
                return Err(FieldError::new(
                    field,
                    format!("has {have} bytes, at most {most}"),
                ));
            }
        }
        let signatures: List<Signature, MAX_SIGNERS> =
            collect("signatures", &from.signatures, |s| {
                fixed("signatures", s).map(Signature)
            })?;
        Ok(Transaction {
            body: from.body.into(),
            signatures,
            payload: from.payload.into(),
        })
    }
}

impl From<Transaction> for v1::Transaction {
    fn from(from: Transaction) -> Self {
        let signatures = from
            .signatures
            .iter()
            .map(|s| Bytes::copy_from_slice(&s.0))
            .collect();
        v1::Transaction {
            body: from.body.into(),
            signatures,
            payload: from.payload.into(),
        }
    }
}

impl From<Author> for v1::Author {
    fn from(from: Author) -> Self {
        let kind = match from.kind {
            AuthorKind::Person => v1::AuthorKind::Person,
            AuthorKind::Gateway => v1::AuthorKind::Gateway,
            AuthorKind::Account => v1::AuthorKind::Account,
            AuthorKind::ApiKey => v1::AuthorKind::ApiKey,
            AuthorKind::Validator => v1::AuthorKind::Validator,
        };
        v1::Author {
            kind: kind.into(),
            number: from.number,
        }
    }
}

impl TryFrom<&v1::Author> for Author {
    type Error = FieldError;

    fn try_from(from: &v1::Author) -> Result<Self, FieldError> {
        let kind = match from.kind() {
            v1::AuthorKind::Unspecified => return Err(FieldError::missing("author.kind")),
            v1::AuthorKind::Person => AuthorKind::Person,
            v1::AuthorKind::Gateway => AuthorKind::Gateway,
            v1::AuthorKind::Account => AuthorKind::Account,
            v1::AuthorKind::ApiKey => AuthorKind::ApiKey,
            v1::AuthorKind::Validator => AuthorKind::Validator,
        };
        Ok(Author {
            kind,
            number: from.number,
        })
    }
}

impl TryFrom<v1::Body> for Body {
    type Error = FieldError;

    fn try_from(from: v1::Body) -> Result<Self, FieldError> {
        let author = from.author.as_ref().ok_or(FieldError::missing("author"))?;
        let others: List<Author, { MAX_SIGNERS - 1 }> =
            collect("others", &from.others, |other| other.try_into())?;
        let id = if from.id.is_empty() {
            [0; 16]
        } else {
            fixed("id", &from.id)?
        };
        let action = from.action.ok_or(FieldError::missing("action"))?;
        let action = action::from_proto(action)?;
        Ok(Body::new(
            author.try_into()?,
            &others,
            id,
            from.valid_until,
            action,
        ))
    }
}

impl From<&Body> for v1::Body {
    fn from(from: &Body) -> Self {
        let gateway = from.id == [0; 16];
        v1::Body {
            author: Some(from.author.into()),
            others: from.signers.iter().skip(1).map(|s| (*s).into()).collect(),
            id: if gateway {
                Bytes::new()
            } else {
                Bytes::copy_from_slice(&from.id)
            },
            valid_until: from.valid_until,
            action: Some(action::to_proto(&from.action)),
        }
    }
}
