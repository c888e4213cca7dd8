//! Transactions as they are sent: signed, judged by the oracle, kept to be
//! sent again.

use std::{cell::RefCell, collections::HashMap};

use tally_ledger::{
    action::Action,
    codec::List,
    crypto::{ChainId, Domain, PublicKey, SecretKey, Signature},
    execute::{SignatureCheck, Strict},
    hash::Hash,
    reason::Reason,
    transaction::{
        Author, AuthorKind, BODY_VERSION, Body, Transaction, signing_domain, transaction_id,
    },
};

use super::{Dice, World, draft::Draft, gateways::debit_leaf};
use crate::oracle::{Payload, Refusal, Request};

type Checked = (PublicKey, &'static str, Vec<u8>, Signature);

/// Remembers what strict verification said about exactly these inputs.
#[derive(Default)]
pub(super) struct Memo(RefCell<HashMap<Checked, bool>>);

impl SignatureCheck for Memo {
    fn verify(
        &self,
        key: &PublicKey,
        domain: Domain,
        chain: &ChainId,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool {
        let asked = (*key, domain.name(), bytes.to_vec(), *signature);
        *(self.0.borrow_mut().entry(asked))
            .or_insert_with(|| Strict.verify(key, domain, chain, bytes, signature))
    }
}

/// A transaction as sent, and what is true of it.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) transaction: Transaction,
    pub(super) request: Request,
    signed_by: Vec<Option<PublicKey>>,
    spoiled: bool,
    proof_log: Option<u64>,
}

/// What the oracle says of a candidate.
pub(super) enum Verdict {
    Accepted,
    Refused(Vec<Reason>),
    /// Broken bytes: refused, for whatever reason is met first.
    Broken,
}

pub(super) type Candidate = (Transaction, Verdict);

impl World {
    /// Something that was sent before, as it is now.
    pub(super) fn again(&self, dice: &mut Dice) -> Option<Sent> {
        let count = self.sent.len() as u64;
        let back = dice.below(count.min(40));
        let mut sent = self.sent.iter().rev().nth(back as usize)?.clone();
        let present: Vec<_> = (sent.request.signers.iter())
            .map(|signer| self.public_of(*signer))
            .collect();
        sent.request.signed = !sent.spoiled && present == sent.signed_by;
        if let (Payload::Proof { genuine, .. }, Some(size)) =
            (&mut sent.request.payload, sent.proof_log)
        {
            *genuine &= size == self.oracle.parent_log;
        }
        Some(sent)
    }

    pub(super) fn judge(&mut self, sent: Sent) -> Candidate {
        let verdict = match self.oracle.apply(&sent.request) {
            Ok(_) => {
                self.follow_journal(&sent.request);
                let name = format!("{:?}", sent.request.action);
                let name = name.split(['(', ' ']).next().unwrap_or_default();
                *self.coverage.accepted.entry(name.into()).or_default() += 1;
                Verdict::Accepted
            }
            Err(Refusal(faults)) => Verdict::Refused(faults),
        };
        (sent.transaction, verdict)
    }

    /// The running hash of a gateway's journal, worked out anew.
    pub(super) fn follow_journal(&mut self, request: &Request) {
        let number = request.author.number;
        match (&request.action, &request.payload) {
            (Action::OpenJournal(_), _) => {
                self.journals.insert(number, Hash::ZERO);
            }
            (Action::Debits(batch), Payload::Debits { debits, .. }) => {
                let hash = self.journals.entry(number).or_default();
                for (i, debit) in debits.iter().enumerate() {
                    let leaf = debit_leaf(number, batch.journal, batch.first.0, i, debit);
                    let mut hasher =
                        blake3::Hasher::new_keyed(&blake3::derive_key("tally v1 journal", &[]));
                    hasher.update(&hash.0).update(&leaf.0);
                    *hash = Hash(hasher.finalize().into());
                }
            }
            _ => {}
        }
    }

    /// A signer's present key.
    pub(super) fn public_of(&self, author: Author) -> Option<PublicKey> {
        let number = author.number;
        match author.kind {
            AuthorKind::Person => self.oracle.persons.get(&number).map(|p| p.key),
            AuthorKind::Gateway => self.oracle.gateways.get(&number).map(|g| g.key),
            AuthorKind::Account => self.oracle.accounts.get(&number).map(|a| a.holder),
            AuthorKind::ApiKey => self.oracle.api_keys.get(&number).map(|k| k.key),
            AuthorKind::Validator => {
                let validator = self.genesis.validators.0.get(number as usize);
                validator.map(|validator| validator.consensus_key)
            }
        }
    }

    pub(super) fn sign(&mut self, draft: Draft) -> Sent {
        let body = Body {
            version: BODY_VERSION,
            author: draft.author,
            signers: List::new(draft.signers.clone()).unwrap(),
            id: draft.id,
            valid_until: draft.valid_until,
            action: draft.action.clone(),
        };
        let bytes = body.encode();
        let signed_by: Vec<Option<PublicKey>> = (draft.signers.iter())
            .map(|signer| self.public_of(*signer))
            .collect();
        let nobody = SecretKey::from_seed(&[1; 32]);
        let mut signatures: Vec<Signature> = (draft.signers.iter().zip(&signed_by))
            .map(|(signer, public)| {
                let secret = public.and_then(|public| self.ring.secrets.get(&public));
                let domain = signing_domain(*signer, &body);
                secret.unwrap_or(&nobody).sign(domain, &self.chain, &bytes)
            })
            .collect();
        let spoiled = draft.spoiled && !signatures.is_empty();
        if spoiled {
            signatures[0].0[3] ^= 4;
        }
        if draft.miscounted && signatures.pop().is_none() {
            signatures.push(Signature([0; 64]));
        }
        let request = Request {
            author: draft.author,
            signers: draft.signers,
            signed: !spoiled,
            counted: !draft.miscounted,
            id: draft.id,
            valid_until: draft.valid_until,
            transaction: transaction_id(&bytes),
            action: draft.action,
            payload: draft.meaning,
        };
        Sent {
            transaction: Transaction {
                body: bytes,
                signatures: List::new(signatures).unwrap(),
                payload: draft.payload,
            },
            request,
            signed_by,
            spoiled,
            proof_log: draft.proof_log,
        }
    }
}

/// Breaks a transaction's bytes.
pub(super) fn broken(dice: &mut Dice, mut transaction: Transaction) -> Transaction {
    let place = dice.word() as usize;
    let bit = 1 << dice.below(8);
    match dice.below(4) {
        0 => transaction.body.push(0),
        1 if !transaction.payload.is_empty() => {
            let at = place % transaction.payload.len();
            transaction.payload[at] ^= bit;
        }
        2 if !transaction.signatures.is_empty() => {
            let mut signatures = transaction.signatures.to_vec();
            signatures[0].0[place % 64] ^= bit;
            transaction.signatures = List::new(signatures).unwrap();
        }
        _ => {
            let at = place % transaction.body.len();
            transaction.body[at] ^= bit;
        }
    }
    transaction
}
