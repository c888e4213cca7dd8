//! Judging bodies: where they may come from, which are new, and what the
//! application says about them.

use std::collections::BTreeSet;

use bytes::Bytes;
use libp2p::PeerId;
use malachitebft_app_channel::app::{
    consensus::ProposedValue, engine::host::SyncedValueOutcome, streaming::StreamMessage,
    types::PeerId as EnginePeer,
};
use malachitebft_core_consensus::HIDDEN_LOCK_ROUND;
use malachitebft_core_types::{Round, Validity};
use tally_ledger::{hash::Hash, ids::Height};
use tracing::{debug, warn};

use super::{Exit, Host};
use crate::{
    application::{Application, Slot, Source, Verdict},
    config::peer_id,
    context::{Address, BlockId, Engine, Part},
    handle::ConsensusError,
    parts::{Assembled, Outcome, Piece},
    relay::sender,
    undecided::Entry,
};

/// New bodies that one publisher may bring per round.
const BODIES_PER_ROUND: u32 = 2;
/// Rounds ahead of the own one whose bodies are executed at once.
const ROUNDS_AHEAD: u32 = 2;
/// Bodies kept for later heights and rounds.
const EARLY: usize = 8;

impl<A: Application> Host<A> {
    /// A part came: the value, if it was the last one of a body.
    pub(super) async fn on_part(
        &mut self,
        from: EnginePeer,
        published_by: Option<EnginePeer>,
        message: StreamMessage<Part>,
    ) -> Result<Option<ProposedValue<Engine>>, Exit> {
        let publisher = published_by.unwrap_or(from);
        let (Some(from), Some(publisher)) = (sender(&from), sender(&publisher)) else {
            return Ok(None);
        };
        let piece = Piece {
            from,
            publisher,
            stream: message.stream_id.to_bytes(),
            sequence: message.sequence,
            part: message.content.into_data(),
        };
        match self.parts.push(piece) {
            Outcome::Incomplete(height) => {
                height.into_iter().for_each(|height| self.peer_at(height));
                Ok(None)
            }
            Outcome::Dropped(why) => {
                debug!(%from, %publisher, why, "a stream of parts was dropped");
                Ok(None)
            }
            Outcome::Complete(assembled) => {
                self.peer_at(assembled.height);
                self.on_assembled(assembled).await
            }
        }
    }

    /// A body is complete: judged now, or kept until its time has come.
    pub(super) async fn on_assembled(
        &mut self,
        assembled: Assembled,
    ) -> Result<Option<ProposedValue<Engine>>, Exit> {
        let next = self.committed.0 + 1;
        if assembled.height.0 < next || !self.may_publish(&assembled) {
            return Ok(None);
        }
        let far = assembled.round > self.height.round.saturating_add(ROUNDS_AHEAD);
        if assembled.height.0 > next || far {
            if self.early.len() >= EARLY {
                self.early.remove(0);
            }
            self.early.push(assembled);
            return Ok(None);
        }
        let Some(id) = self.application.cheap().id(&assembled.body) else {
            debug!(publisher = %assembled.publisher, "a body without a readable header");
            return Ok(None);
        };
        if !self.height.valid.contains(&id) {
            let key = (assembled.publisher, assembled.round);
            let taken = self.height.taken.entry(key).or_default();
            *taken += 1;
            if *taken > BODIES_PER_ROUND {
                debug!(publisher = %assembled.publisher, "too many bodies in one round");
                return Ok(None);
            }
        }
        let source = self.source(assembled.round, &id);
        let valid = self
            .judge(assembled.round, false, id, &assembled.body, source)
            .await?
            .is_valid();
        // Only the proposer can make this node call a block invalid: others
        // could put a good header on a bad body.
        if !valid && !self.is_proposer(&assembled) {
            return Ok(None);
        }
        self.height.told.insert((assembled.round, id));
        Ok(Some(self.value(
            assembled.round,
            assembled.pol_round,
            id,
            valid,
        )))
    }

    fn is_proposer(&self, assembled: &Assembled) -> bool {
        let (index, _) = self.proposer(assembled.round);
        let validator = self.validators.0.get(usize::from(index));
        validator.and_then(|v| peer_id(&v.network_key)) == Some(assembled.publisher)
    }

    /// Bodies come from the round's proposer; in late rounds, to spread what
    /// somebody is locked on, from any validator.
    fn may_publish(&self, assembled: &Assembled) -> bool {
        // Of a later height the validators are not known yet: asked again.
        if assembled.height.0 > self.committed.0 + 1 || self.is_proposer(assembled) {
            return true;
        }
        let late = Round::new(assembled.round) >= HIDDEN_LOCK_ROUND;
        let publisher = Some(assembled.publisher);
        late && self
            .validators
            .0
            .iter()
            .any(|v| peer_id(&v.network_key) == publisher)
    }

    fn source(&mut self, round: u32, id: &Hash) -> Source {
        let first_seen = self.height.seen.insert(*id);
        let quorum = self.validators.quorum();
        if self.witness.quorum(false, id, quorum) || self.witness.quorum(true, id, quorum) {
            return Source::Restreamed;
        }
        Source::Live {
            first_seen,
            pol_round: self.witness.pol_round(round, id),
        }
    }

    /// Validates a body and, meanwhile, makes it durable.
    pub(super) async fn judge(
        &mut self,
        round: u32,
        own: bool,
        id: Hash,
        body: &Bytes,
        source: Source,
    ) -> Result<Verdict, Exit> {
        let height = Height(self.committed.0 + 1);
        let entry = Entry {
            height,
            round,
            own,
            id,
            body: body.clone(),
        };
        if self.height.valid.contains(&id) {
            self.undecided(move |u| u.put(entry)).await??;
            return Ok(Verdict::Valid);
        }
        let slot = Slot {
            height,
            round,
            proposer: self.proposer(round).0,
        };
        let undecided = self.undecided.clone();
        let written = tokio::task::spawn_blocking(move || {
            undecided
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .put(entry)
        });
        let body = body.clone();
        let verdict = self
            .application
            .blocking(move |a| a.validate(slot, &body, source))
            .await;
        written.await??;
        let verdict = verdict?;
        match &verdict {
            Verdict::Valid => {
                self.height.valid.insert(id);
            }
            Verdict::Invalid(why) => {
                warn!(%height, round, %id, ?source, why, "invalid block");
                if !source.clock_test() {
                    self.diverged_if_certified(height, id, why)?;
                }
            }
        }
        Ok(verdict)
    }

    /// Whether a certified block's other form executes to the block's roots.
    ///
    /// Its id does not bind all of it, so one that does not may be its
    /// sender's lie, or this node's fault. A validator that is not faulty
    /// holds true ones only; so when more of them than may be faulty sent one
    /// that fails, it is this node's.
    async fn is_true_form(&mut self, round: u32, id: Hash, body: &Bytes) -> Result<bool, Exit> {
        if self.height.valid.contains(&id) {
            // The block itself is here.
            return Ok(true);
        }
        let height = Height(self.committed.0 + 1);
        let slot = Slot {
            height,
            round,
            proposer: self.proposer(round).0,
        };
        let copy = body.clone();
        let verdict = self
            .application
            .blocking(move |a| a.validate(slot, &copy, Source::Synced))
            .await?;
        if let Verdict::Invalid(why) = &verdict {
            self.form_fails(round, id, body, why)?;
            return Ok(false);
        }
        self.height.valid.insert(id);
        Ok(true)
    }

    /// Counts who sent a form of a certified block that fails here; an error
    /// once these are more than may be faulty.
    fn form_fails(&self, round: u32, id: Hash, body: &Bytes, why: &str) -> Result<(), Exit> {
        let height = Height(self.committed.0 + 1);
        let failed = self.origins.failed(height, body);
        let senders = self.validators_among(&failed);
        warn!(%height, round, %id, senders, why, "a form of a certified block fails here");
        // One sender proves nothing, though none may be faulty.
        let faulty = self.validators.0.len() - self.validators.quorum();
        if senders > faulty.max(1) {
            let why = format!("{why}; {senders} validators sent forms of it, and each fails");
            return Err(ConsensusError::Diverged { height, id, why }.into());
        }
        Ok(())
    }

    /// A body came with a verified certificate and is none to this program.
    /// A validator that is not faulty sends what it has committed, which was
    /// readable to a quorum; so it counts like a form that does not execute.
    fn unusable(&self, round: u32, body: &Bytes, why: &str) -> Result<(), Exit> {
        // It does not name its block; the certificate's precommits do.
        match self.witness.certified(self.validators.quorum()) {
            Some(id) => self.form_fails(round, id, body, why),
            None => {
                warn!(
                    round,
                    why, "a body of no block that is known to be certified"
                );
                Ok(())
            }
        }
    }

    /// How many of some peers are validators.
    fn validators_among(&self, peers: &BTreeSet<PeerId>) -> usize {
        let keys = self.validators.0.iter().map(|v| &v.network_key);
        let validators: BTreeSet<_> = keys.filter_map(peer_id).collect();
        validators.intersection(peers).count()
    }

    /// A quorum has precommitted it: then it is this node that is wrong.
    fn diverged_if_certified(&self, height: Height, id: Hash, why: &str) -> Result<(), Exit> {
        if self.witness.quorum(true, &id, self.validators.quorum()) {
            let why = why.to_owned();
            return Err(ConsensusError::Diverged { height, id, why }.into());
        }
        Ok(())
    }

    pub(super) fn value(
        &self,
        round: u32,
        pol_round: Option<u32>,
        id: Hash,
        valid: bool,
    ) -> ProposedValue<Engine> {
        ProposedValue {
            height: Height(self.committed.0 + 1).into(),
            round: Round::new(round),
            valid_round: Round::from(pol_round),
            proposer: self.proposer(round).1,
            value: BlockId(id),
            validity: Validity::from_bool(valid),
        }
    }

    /// A round begins: the values of it that the engine may not know, because
    /// they came too early or before a restart.
    pub(super) async fn on_started_round(
        &mut self,
        height: Height,
        round: Round,
    ) -> Result<Vec<ProposedValue<Engine>>, Exit> {
        let round = round.as_u32().unwrap_or(0);
        self.height.round = round;
        self.status.send_modify(|status| {
            status.height = height;
            status.round = round;
        });
        let mut values = Vec::new();
        if height.0 != self.committed.0 + 1 {
            return Ok(values);
        }
        let stored: Vec<Entry> =
            self.undecided_now(|u| u.of_round(height, round).cloned().collect());
        for entry in stored {
            if self.height.told.contains(&(round, entry.id)) {
                continue;
            }
            let (id, own) = (entry.id, entry.own);
            if self
                .judge(round, own, id, &entry.body, Source::Replayed)
                .await?
                .is_valid()
            {
                self.height.told.insert((round, id));
                values.push(self.value(round, None, id, true));
            }
        }
        for early in std::mem::take(&mut self.early) {
            values.extend(self.on_assembled(early).await?);
        }
        Ok(values)
    }

    /// A body came by value sync; its certificate is verified, but whether
    /// the body belongs to it the engine sees by the id.
    pub(super) async fn on_synced(
        &mut self,
        height: Height,
        round: Round,
        proposer: Address,
        body: Bytes,
    ) -> Result<SyncedValueOutcome<Engine>, Exit> {
        if height.0 != self.committed.0 + 1 {
            return Ok(SyncedValueOutcome::LocalTransientError);
        }
        let whole = self.application.cheap().id(&body);
        // What is left of a block is larger than the block where little was
        // dropped of many small batches: by an eighth at most.
        let most = match whole {
            Some(_) => self.config.max_block_bytes,
            None => self.config.max_block_bytes / 4 * 5,
        };
        let certified = || self.application.cheap().certified_id(&body);
        let readable = match body.len() {
            bytes if bytes > most => Err(format!("its {bytes} bytes are more than {most}")),
            _ => (whole.or_else(certified)).ok_or("this program cannot read it".to_owned()),
        };
        let number = round.as_u32().unwrap_or(0);
        let id = match readable {
            Ok(id) => id,
            Err(why) => {
                self.unusable(number, &body, &why)?;
                return Ok(SyncedValueOutcome::PeerFault);
            }
        };
        // Without a quorum for this very id the body is not the certified
        // one, and the peer is to blame.
        if !self.witness.quorum(true, &id, self.validators.quorum()) {
            return Ok(SyncedValueOutcome::PeerFault);
        }
        // Its id does not bind all of it: judged before it is kept.
        if whole.is_none() && !self.is_true_form(number, id, &body).await? {
            return Ok(SyncedValueOutcome::PeerFault);
        }
        let verdict = self.judge(number, false, id, &body, Source::Synced).await?;
        self.height.synced = true;
        let valid = verdict.is_valid();
        let value = ProposedValue {
            proposer,
            ..self.value(number, None, id, valid)
        };
        Ok(SyncedValueOutcome::Verdict(value))
    }
}
