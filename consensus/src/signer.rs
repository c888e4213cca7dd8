//! Signs for the engine, with the guard file in between.
//!
//! Before a signature exists, two things are on disk: everything the engine
//! logged that led to it, then the guard's note of it. So a node that crashes
//! in between derives and signs the very same message again.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use malachitebft_core_types as types;
use malachitebft_core_types::{NilOrVal, VoteType};
use malachitebft_signing::{Error, Signer};
use tally_ledger::crypto::{ChainId, Domain, SecretKey, Signature};
use tokio::task::spawn_blocking;

use crate::{
    context::{Engine, Proposal, Vote},
    disk::Disk,
    guard::{Guard, Message, Position, Refusal, Step},
    verifier::{proposal_body, vote_body},
};

/// Why the last signature was refused; an error of the engine's signer stops
/// the engine without telling why.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastRefusal(Arc<Mutex<Option<Refusal>>>);

impl LastRefusal {
    fn set(&self, refusal: Refusal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    pub(crate) fn is_set(&self) -> bool {
        let refusal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.is_some()
    }

    pub(crate) fn take(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The guarded key.
#[derive(Debug, Clone)]
pub(crate) struct GuardedKey {
    pub(crate) key: SecretKey,
    pub(crate) chain: ChainId,
    pub(crate) guard: Arc<Mutex<Guard>>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) wal: PathBuf,
    pub(crate) refusal: LastRefusal,
}

impl GuardedKey {
    /// Signs what the guard lets pass.
    pub(crate) fn sign(&self, domain: Domain, message: &Message<'_>) -> Result<Signature, Refusal> {
        match self.disk.open(&self.wal, false) {
            Ok(log) => log.sync()?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.admit(message)?;
        Ok(self.key.sign(domain, &self.chain, message.bytes))
    }

    async fn sign_blocking(
        &self,
        domain: Domain,
        position: Position,
        block: Option<tally_ledger::hash::Hash>,
        bytes: Vec<u8>,
    ) -> Result<Signature, Error> {
        let this = self.clone();
        let sign = move || {
            this.sign(
                domain,
                &Message {
                    position,
                    block,
                    bytes: &bytes,
                },
            )
        };
        let signed = spawn_blocking(sign).await.map_err(Error::from_source)?;
        signed.map_err(|refusal| {
            let text = refusal.to_string();
            self.refusal.set(refusal);
            Error::from_source(text)
        })
    }

    /// Signs the proof that a peer speaks for this validator.
    pub(crate) fn prove(
        &self,
        public_key: Vec<u8>,
        peer: Vec<u8>,
    ) -> types::ValidatorProof<Engine> {
        let bytes = types::ValidatorProof::<Engine>::signing_bytes(&public_key, &peer);
        let signature = self.key.sign(Domain::PeerProof, &self.chain, &bytes);
        types::ValidatorProof::new(public_key, peer, signature)
    }
}

fn no_round() -> Error {
    Error::from_source("a vote or proposal without a round")
}

#[async_trait::async_trait]
impl Signer<Engine> for GuardedKey {
    async fn sign_vote(&self, vote: Vote) -> Result<types::SignedMessage<Engine, Vote>, Error> {
        let bytes = vote_body(&vote).ok_or_else(no_round)?;
        let (domain, step) = match vote.kind {
            VoteType::Prevote => (Domain::Prevote, Step::Prevote),
            VoteType::Precommit => (Domain::Precommit, Step::Precommit),
        };
        let block = match &vote.block {
            NilOrVal::Nil => None,
            NilOrVal::Val(id) => Some(id.0),
        };
        let round = vote.round.as_u32().ok_or_else(no_round)?;
        let position = Position {
            height: vote.height.into(),
            round,
            step,
        };
        let signature = self
            .sign_blocking(domain, position, block, bytes.to_vec())
            .await?;
        Ok(types::SignedMessage::new(vote, signature))
    }

    async fn sign_proposal(
        &self,
        proposal: Proposal,
    ) -> Result<types::SignedMessage<Engine, Proposal>, Error> {
        let bytes = proposal_body(&proposal).ok_or_else(no_round)?;
        let round = proposal.round.as_u32().ok_or_else(no_round)?;
        let position = Position {
            height: proposal.height.into(),
            round,
            step: Step::Proposal,
        };
        let block = Some(proposal.block.0);
        let signature = self
            .sign_blocking(Domain::Proposal, position, block, bytes.to_vec())
            .await?;
        Ok(types::SignedMessage::new(proposal, signature))
    }

    async fn sign_vote_extension(
        &self,
        _: types::VoteExtensionScope<Engine>,
        _: Bytes,
    ) -> Result<types::SignedMessage<Engine, Bytes>, Error> {
        Err(Error::from_source("vote extensions are off"))
    }

    async fn sign_validator_proof(
        &self,
        public_key: Vec<u8>,
        peer: Vec<u8>,
    ) -> Result<types::ValidatorProof<Engine>, Error> {
        Ok(self.prove(public_key, peer))
    }
}
