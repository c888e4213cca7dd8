//! What the gateway signs. Its transactions are counted (journals, leases,
//! debits), so the same intent always has the same bytes and can be handed
//! in again anywhere.

use tally_ledger::{
    action::{Action, Debits, Lease},
    crypto::{ChainId, SecretKey},
    debit::{Position, RECORD_BYTES, raw_debits},
    hash::Hash,
    ids::{GatewayNumber, JournalNumber},
    merkle::root_of,
    transaction::{Author, Body, Transaction},
};

use crate::{journal::Unproven, key::Key};

/// The gateway's identity.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The chain.
    pub chain: ChainId,
    /// Its number.
    pub gateway: GatewayNumber,
    /// Its key.
    pub key: SecretKey,
}

impl Signer {
    /// An action that the gateway alone signs.
    pub fn action(&self, action: Action) -> Transaction {
        let body = Body::new(self.gateway.into(), &[], [0; 16], 0, action);
        Transaction::sign(&self.chain, &body, &[&self.key], Vec::new())
    }

    /// A Lease, signed by the API key too.
    pub fn lease(&self, lease: Lease, key: &Key) -> Transaction {
        let body = Body::new(
            self.gateway.into(),
            &[Author::from(lease.api_key)],
            [0; 16],
            0,
            Action::Lease(lease),
        );
        Transaction::sign(&self.chain, &body, &[&self.key, &key.secret], Vec::new())
    }

    /// A batch of consecutive debits of one version, at least one.
    pub fn debits(&self, journal: JournalNumber, debits: &[Unproven]) -> Transaction {
        let mut payload = Vec::with_capacity(debits.len() * RECORD_BYTES);
        for debit in debits {
            payload.extend_from_slice(debit.debit.as_bytes());
        }
        let first = debits[0].number;
        let position = Position {
            gateway: self.gateway,
            journal,
            number: first,
        };
        let action = Action::Debits(Debits {
            journal,
            first,
            count: debits.len() as u32,
            root: batch_root(position, &payload),
        });
        let body = Body::new(self.gateway.into(), &[], [0; 16], 0, action);
        Transaction::sign(&self.chain, &body, &[&self.key], payload)
    }
}

/// What a batch's body commits to: the root over its records, the first of
/// which is at `position`. Bytes behind the last whole record do not count.
pub fn batch_root(mut position: Position, payload: &[u8]) -> Hash {
    let mut leaves = Vec::with_capacity(raw_debits(payload).len());
    for debit in raw_debits(payload) {
        leaves.push(debit.leaf_hash(&position));
        position.number.0 += 1;
    }
    root_of(&leaves)
}
