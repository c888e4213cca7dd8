//! What the gateway signs. Its transactions are counted (journals, leases,
//! debits), so the same intent always has the same bytes and can be handed
//! in again anywhere.

use tally_ledger::{
    action::{Action, Debits, Lease},
    crypto::{ChainId, SecretKey},
    debit::{DETAIL_BYTES, FIXED_BYTES, Position, RECORD_BYTES, batch_leaf},
    hash::Context,
    ids::{GatewayNumber, JournalNumber},
    merkle::{leaf_hash, root_of},
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

    /// A batch of consecutive debits, at least one.
    pub fn debits(&self, journal: JournalNumber, debits: &[Unproven]) -> Transaction {
        let mut payload = Vec::with_capacity(debits.len() * RECORD_BYTES);
        let mut leaves = Vec::with_capacity(debits.len());
        for debit in debits {
            let bytes = &debit.debit.0;
            payload.extend_from_slice(bytes);
            let fixed: &[u8; FIXED_BYTES] = bytes[..FIXED_BYTES].try_into().expect("38 of 150");
            let detail: &[u8; DETAIL_BYTES] = bytes[FIXED_BYTES..].try_into().expect("the rest");
            let position = Position {
                gateway: self.gateway,
                journal,
                number: debit.number,
            };
            leaves.push(leaf_hash(&batch_leaf(
                &position,
                fixed,
                &Context::Detail.hash(detail),
            )));
        }
        let action = Action::Debits(Debits {
            journal,
            first: debits[0].number,
            count: debits.len() as u32,
            root: root_of(&leaves),
        });
        let body = Body::new(self.gateway.into(), &[], [0; 16], 0, action);
        Transaction::sign(&self.chain, &body, &[&self.key], payload)
    }
}
