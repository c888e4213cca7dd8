//! After a decision: the commit, and what may follow it; and the history for
//! peers that catch up.

use std::ops::RangeInclusive;

use malachitebft_app_channel::{
    Reply,
    app::{
        engine::host::Next,
        types::{MisbehaviorEvidence, sync::RawDecidedValue},
    },
};
use malachitebft_core_types::{
    CommitCertificate, ExtendedCommitCertificate, ExtendedCommitSignature, Round,
};
use tally_ledger::{
    block::{Certificate, ValidatorSet},
    codec::List,
    crypto::{Domain, PublicKey, Signature},
    ids::{Height, Time},
};
use tracing::warn;

use super::{Exit, HeightState, Host, evidence};
use crate::{
    application::{Application, Decision, Source, Verdict},
    context::{self, Address, BlockId, Engine},
    handle::{ConsensusError, Observing},
};

/// Most bytes of history in one answer; the engine trims it further.
const HISTORY_BYTES: usize = 16 << 20;

impl<A: Application> Host<A> {
    /// Commits. Returns after block and certificate are durable.
    pub(super) async fn on_decided(
        &mut self,
        certificate: CommitCertificate<Engine>,
    ) -> Result<(), Exit> {
        let height = Height::from(certificate.height);
        if height.0 != self.committed.0 + 1 {
            let why = format!("decided height {height} after {}", self.committed);
            return Err(ConsensusError::Engine(why).into());
        }
        let (id, round) = (
            certificate.value_id.0,
            certificate.round.as_u32().unwrap_or(0),
        );
        let Some(body) = self.undecided_now(|u| u.body(height, &id).cloned()) else {
            // Lost from this disk. Value sync brings it, with a certificate.
            warn!(%height, %id, "the decided body is not here; fetching it");
            return Err(Exit::Observe(height));
        };
        let certificate = self.convert(&certificate)?;
        if !self.height.valid.contains(&id) {
            let replayed = Source::Replayed;
            let verdict = self.judge(round, false, id, &body, replayed).await?;
            if let Verdict::Invalid(why) = verdict {
                return Err(ConsensusError::Diverged { height, id, why }.into());
            }
        }
        let decision = Decision {
            height,
            id,
            body,
            certificate,
        };
        let time = self
            .application
            .blocking(move |a| a.commit(decision))
            .await?;
        self.efforts.decided(height, &id);
        self.advance(height, time)
    }

    /// The block is durable: on to the next height.
    fn advance(&mut self, height: Height, time: Time) -> Result<(), Exit> {
        let synced = self.height.synced;
        self.committed = height;
        self.set_validators();
        self.witness.commit(height);
        self.origins.commit(height);
        self.parts.commit(height);
        self.early.retain(|early| early.height > height);
        let ahead = self
            .early
            .iter()
            .any(|early| early.height.0 == height.0 + 1);
        self.height = HeightState {
            peer_is_there: ahead || synced,
            vote_again: self.may_vote_again(time),
            ..HeightState::default()
        };
        self.undecided
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .commit(height)?;
        self.status.send_modify(|status| {
            status.committed = height;
            status.height = Height(height.0 + 1);
            status.round = 0;
        });
        Ok(())
    }

    fn may_vote_again(&self, time: Time) -> bool {
        self.observing.is_some_and(|until| match until.why {
            Observing::NoGuard => time.0 > until.later_than,
            Observing::UpTo(height) => self.committed >= height,
        })
    }

    /// The ledger's form of a certificate, checked once more.
    fn convert(&self, certificate: &CommitCertificate<Engine>) -> Result<Certificate, Exit> {
        let signatures = certificate.commit_signatures.iter();
        let mut precommits: Vec<_> = signatures
            .filter_map(|s| Some((self.validators.index_of(&s.address.0)?, s.signature)))
            .collect();
        precommits.sort_unstable_by_key(|precommit| precommit.0);
        precommits.dedup_by_key(|precommit| precommit.0);
        let broken = |why: String| ConsensusError::Engine(format!("a bad certificate: {why}"));
        let converted = Certificate {
            round: certificate.round.as_u32().unwrap_or(0),
            precommits: List::new(precommits).map_err(|_| broken("too many".to_owned()))?,
        };
        let (height, id) = (Height::from(certificate.height), certificate.value_id.0);
        let check = |key: &PublicKey, bytes: &[u8], signature: &Signature| {
            let message = Domain::Precommit.message(&self.chain, bytes);
            let check = || key.verify(Domain::Precommit, &self.chain, bytes, signature);
            self.witness.check_once(key, &message, signature, check)
        };
        converted
            .verify_by(height, &id, &self.validators, check)
            .map_err(|error| broken(error.to_string()))?;
        Ok(converted)
    }

    /// The engine is done with the height. The answer begins the next one,
    /// when its time has come.
    pub(super) async fn on_finalized(
        &mut self,
        found: &MisbehaviorEvidence<Engine>,
        reply: Reply<Next<Engine>>,
    ) -> Result<(), Exit> {
        if !found.is_empty() {
            let height = self.committed;
            let validators = self.application.cheap().validators(height);
            let proven = evidence::proven(found, &self.chain, height, &validators);
            self.status
                .send_modify(|status| status.equivocations += proven.len() as u64);
            self.application
                .blocking(move |a| a.evidence(proven))
                .await?;
        }
        if self.height.vote_again {
            return Err(Exit::Vote);
        }
        self.next = Some(reply);
        Ok(())
    }

    /// Committed blocks for a peer.
    pub(super) async fn on_history(
        &mut self,
        range: RangeInclusive<context::Height>,
    ) -> Result<Vec<RawDecidedValue<Engine>>, Exit> {
        let first = Height(
            range
                .start()
                .0
                .max(self.application.cheap().history_min().0)
                .max(1),
        );
        let last = Height(range.end().0.min(self.committed.0));
        if first != Height::from(*range.start()) || first > last {
            return Ok(Vec::new());
        }
        let history = self
            .application
            .blocking(move |a| a.history(first..=last, HISTORY_BYTES));
        let history = history.await?;
        let mut values = Vec::with_capacity(history.len());
        for decision in history {
            let validators = self.application.cheap().validators(decision.height);
            values.push(raw(decision, &validators));
        }
        Ok(values)
    }
}

fn raw(decision: Decision, validators: &ValidatorSet) -> RawDecidedValue<Engine> {
    let precommits = decision.certificate.precommits.iter();
    let signatures = precommits.filter_map(|(index, signature)| {
        let validator = validators.0.get(usize::from(*index))?;
        Some(ExtendedCommitSignature::new(
            Address(validator.consensus_key),
            *signature,
            None,
        ))
    });
    let certificate = ExtendedCommitCertificate {
        height: decision.height.into(),
        round: Round::new(decision.certificate.round),
        value_id: BlockId(decision.id),
        commit_signatures: signatures.collect(),
    };
    RawDecidedValue::new(decision.body, certificate)
}
