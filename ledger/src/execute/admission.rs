//! What every transaction is checked for before its action is looked at:
//! form and size, list of signers, their existence, their signatures,
//! replay. Nothing here changes anything but the memory of used ids.

use super::{Draft, SignatureCheck, debit_count};
use crate::{
    action::{Action, BindApiKey, Issue, Lease, OpenAccount},
    block::HEADER_BYTES,
    codec::DecodeError,
    correction::CorrectionProof,
    crypto::PublicKey,
    debit::{MAX_BATCH, record_bytes},
    evidence::Offence,
    ids::{ApiKeyNumber, Person},
    reason::Reason,
    redacted::RedactedBatch,
    state::{
        LIVE_IDS_PER_AUTHOR, State,
        ids::{LiveId, MAX_HOURS_AHEAD},
    },
    transaction::{
        Author, AuthorKind, BODY_VERSION, Body, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, Transaction,
        TransactionId, signing_domain,
    },
};

/// A transaction that has been examined.
pub(crate) struct Call<'t> {
    pub(crate) id: TransactionId,
    pub(crate) body: Body,
    pub(crate) payload: &'t [u8],
    /// What is left of the payload, if details were dropped.
    pub(crate) redacted: Option<&'t RedactedBatch>,
    /// The payload of a Correct.
    pub(crate) proof: Option<CorrectionProof>,
    /// What an Evidence proves.
    pub(crate) offences: Vec<Offence>,
}

impl<'t> Call<'t> {
    /// All checks that do not depend on the action's meaning.
    pub(crate) fn examine(
        draft: &Draft<'_>,
        transaction: &'t Transaction,
        signatures: &dyn SignatureCheck,
    ) -> Result<Call<'t>, Reason> {
        Self::read(draft, transaction)?.examined(draft, transaction, signatures)
    }

    /// The same of a transaction that was executed before and lost details
    /// since: bounds and form of its payload were checked then, and its hash
    /// and the batch's root bind them.
    pub(crate) fn examine_redacted(
        draft: &Draft<'_>,
        transaction: &'t Transaction,
        batch: &'t RedactedBatch,
        signatures: &dyn SignatureCheck,
    ) -> Result<Call<'t>, Reason> {
        let (id, body) = read_body(transaction)?;
        let count = match &body.action {
            Action::Debits(debits) => debits.count as usize,
            _ => return Err(Reason::UnexpectedPayload),
        };
        if count != batch.debits.len() {
            return Err(Reason::DebitCount);
        }
        let call = Call {
            id,
            body,
            payload: &[],
            redacted: Some(batch),
            proof: None,
            offences: Vec::new(),
        };
        call.examined(draft, transaction, signatures)
    }

    fn examined(
        mut self,
        draft: &Draft<'_>,
        transaction: &Transaction,
        signatures: &dyn SignatureCheck,
    ) -> Result<Call<'t>, Reason> {
        let keys = self.signers(draft, transaction)?;
        self.verify(draft, transaction, &keys, signatures)?;
        self.replay(draft)?;
        if let Action::Evidence(evidence) = &self.body.action {
            self.offences = draft.proven(evidence, signatures)?;
        }
        Ok(self)
    }

    /// Whether a block that holds nothing else has room for it.
    pub(crate) fn fits_a_block(state: &State, transaction: &Transaction) -> bool {
        let parameters = state.parameters();
        let largest = parameters.max_block_bytes as usize - HEADER_BYTES - 8;
        transaction.encoded_len() <= largest
            && debit_count(transaction) <= u64::from(parameters.max_block_debits)
    }

    /// Form and size.
    fn read(draft: &Draft<'_>, transaction: &'t Transaction) -> Result<Call<'t>, Reason> {
        let payload = &transaction.payload;
        if payload.len() > MAX_PAYLOAD_BYTES || !Self::fits_a_block(draft.base, transaction) {
            return Err(Reason::TooLarge);
        }
        let (id, body) = read_body(transaction)?;
        let proof = read_payload(&body.action, payload)?;
        Ok(Call {
            id,
            body,
            payload,
            redacted: None,
            proof,
            offences: Vec::new(),
        })
    }

    /// The list of signers and their keys.
    fn signers(
        &self,
        draft: &Draft<'_>,
        transaction: &Transaction,
    ) -> Result<Vec<PublicKey>, Reason> {
        let (author, signers) = (self.body.author, &self.body.signers);
        let others = signers.get(1..).unwrap_or_default();
        let ascending = others.windows(2).all(|pair| pair[0] < pair[1]);
        if signers.first() != Some(&author) || !ascending || others.contains(&author) {
            return Err(Reason::SignerList);
        }
        if transaction.signatures.len() != signers.len() {
            return Err(Reason::SignatureCount);
        }
        let keys = signers.iter().map(|signer| key_of(draft, *signer));
        keys.collect::<Option<_>>().ok_or(Reason::UnknownSigner)
    }

    fn verify(
        &self,
        draft: &Draft<'_>,
        transaction: &Transaction,
        keys: &[PublicKey],
        signatures: &dyn SignatureCheck,
    ) -> Result<(), Reason> {
        let chain = draft.base.chain();
        let signed = self.body.signers.iter().zip(keys);
        let mut signed = signed.zip(transaction.signatures.iter());
        let good = signed.all(|((signer, key), signature)| {
            let domain = signing_domain(*signer, &self.body);
            signatures.verify(key, domain, chain, &transaction.body, signature)
        });
        if good {
            Ok(())
        } else {
            Err(Reason::BadSignature)
        }
    }

    /// Id and `valid_until`; gateways' transactions are counted instead.
    fn replay(&self, draft: &Draft<'_>) -> Result<(), Reason> {
        let Body {
            author,
            id,
            valid_until,
            ..
        } = self.body;
        let (no_id, no_hour) = (id == [0; 16], valid_until == 0);
        if author.kind == AuthorKind::Gateway {
            return if no_id && no_hour {
                Ok(())
            } else {
                Err(Reason::IdForbidden)
            };
        }
        if no_id || no_hour {
            return Err(Reason::IdRequired);
        }
        let now = draft.now.hour();
        if valid_until <= now {
            return Err(Reason::Expired);
        }
        if valid_until - now > MAX_HOURS_AHEAD {
            return Err(Reason::TooFarAhead);
        }
        let used = draft.used.get(&(author, id)).copied();
        let ids = &draft.base.index.ids;
        match used.or_else(|| ids.find(author, id, now)) {
            Some(transaction) if transaction == self.id => return Err(Reason::Duplicate),
            Some(_) => return Err(Reason::IdTaken),
            None => (),
        }
        let new = draft.used_counts.get(&author).copied().unwrap_or(0);
        if ids.count(author, now) + new >= LIVE_IDS_PER_AUTHOR {
            return Err(Reason::TooManyIds);
        }
        Ok(())
    }
}

impl Draft<'_> {
    /// Remembers the id of a transaction that has happened.
    pub(super) fn remember(&mut self, call: &Call<'_>) {
        let Body {
            author,
            id,
            valid_until,
            ..
        } = call.body;
        if author.kind != AuthorKind::Gateway {
            self.used.insert((author, id), call.id);
            *self.used_counts.entry(author).or_default() += 1;
            let used = LiveId {
                author,
                id,
                transaction: call.id,
            };
            self.used_list.push((valid_until, used));
        }
    }
}

/// The key that a signer's signature must verify under.
fn key_of(draft: &Draft<'_>, signer: Author) -> Option<PublicKey> {
    let number = signer.number;
    match signer.kind {
        AuthorKind::Person => draft.person(Person(number)).map(|person| person.key),
        AuthorKind::Gateway => draft.gateways.get(number).map(|gateway| gateway.key),
        AuthorKind::Account => draft.accounts.get(number).map(|account| account.holder),
        AuthorKind::ApiKey => {
            let api_key = draft.api_key(ApiKeyNumber(number)).ok();
            api_key.map(|api_key| api_key.key)
        }
        AuthorKind::Validator => {
            let validator = draft.base.validators().0.get(number as usize);
            validator.map(|validator| validator.consensus_key)
        }
    }
}

fn strictly_ascending<T: Ord>(items: &[T]) -> bool {
    items.windows(2).all(|pair| pair[0] < pair[1])
}

/// What can be said of an action without the state, beside its bounds.
fn form(action: &Action) -> Result<(), Reason> {
    let (good, reason) = match action {
        Action::OpenAccount(OpenAccount { classes, .. }) => {
            let repeats = |i: usize| classes[..i].contains(&classes[i]);
            (!(0..classes.len()).any(repeats), Reason::Malformed)
        }
        Action::Issue(Issue { grants }) => (!grants.is_empty(), Reason::Malformed),
        Action::BindApiKey(BindApiKey { models, .. }) => {
            (strictly_ascending(models), Reason::Malformed)
        }
        Action::SetRates(rates) => (rates.are_ordered(), Reason::Malformed),
        Action::Evidence(evidence) => (
            evidence.check_form().is_ok() && !evidence.offences().is_empty(),
            Reason::EvidenceForm,
        ),
        Action::Lease(Lease {
            wanted,
            duration_ms,
            ..
        }) => (wanted.0 > 0 && *duration_ms > 0, Reason::LeaseForm),
        Action::Debits(debits) => {
            let bound = 1..=MAX_BATCH as u32;
            (bound.contains(&debits.count), Reason::DebitCount)
        }
        _ => return Ok(()),
    };
    if good { Ok(()) } else { Err(reason) }
}

fn read_body(transaction: &Transaction) -> Result<(TransactionId, Body), Reason> {
    let body = &transaction.body;
    if body.len() > MAX_BODY_BYTES {
        return Err(Reason::TooLarge);
    }
    match body.first() {
        None => return Err(Reason::Malformed),
        Some(&version) if version != BODY_VERSION => return Err(Reason::UnknownVersion),
        Some(_) => (),
    }
    let id = transaction.id();
    let body = Body::decode(body).map_err(|DecodeError { .. }| Reason::Malformed)?;
    form(&body.action)?;
    Ok((id, body))
}

fn read_payload(action: &Action, payload: &[u8]) -> Result<Option<CorrectionProof>, Reason> {
    match action {
        Action::Debits(debits) => {
            // All records are of the first one's version.
            let version = payload.first().ok_or(Reason::DebitCount)?;
            let size = record_bytes(*version).ok_or(Reason::DebitForm)?;
            if payload.len() == debits.count as usize * size {
                Ok(None)
            } else {
                Err(Reason::DebitCount)
            }
        }
        Action::Correct(_) => match CorrectionProof::decode(payload) {
            Ok(proof) => Ok(Some(proof)),
            Err(_) => Err(Reason::MalformedPayload),
        },
        _ if payload.is_empty() => Ok(None),
        _ => Err(Reason::UnexpectedPayload),
    }
}
