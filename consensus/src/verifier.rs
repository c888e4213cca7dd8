//! Checks signatures for the engine, each once, and remembers what the valid
//! ones say about the height that is being decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use malachitebft_core_types as types;
use malachitebft_core_types::{NilOrVal, VoteType};
use malachitebft_signing::{Error, VerificationResult, Verifier};
use tally_ledger::{
    block::{proposal_bytes, vote_bytes},
    crypto::{ChainId, Domain, PublicKey, Signature},
    hash::Hash,
    ids::Height,
};

use crate::context::{Address, BlockId, Engine, Key, Proposal, Vote};

/// Most facts remembered; beyond it, none are added.
const FACTS: usize = 1 << 14;

/// What validators have signed about the next height.
#[derive(Debug, Default)]
pub(crate) struct Witness(Mutex<Facts>);

#[derive(Debug, Default)]
struct Facts {
    committed: Height,
    /// (round, block) -> proof-of-lock round.
    proposals: BTreeMap<(u32, BlockId), Option<u32>>,
    /// (precommit, block, round, voter).
    votes: BTreeSet<(bool, BlockId, u32, Address)>,
    /// Hashes of (key, signature, message) that are good.
    good: BTreeSet<[u8; 32]>,
}

impl Witness {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Facts are added one by one, so a panic elsewhere leaves no half.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is decided.
    pub(crate) fn commit(&self, committed: Height) {
        *self.facts() = Facts {
            committed,
            ..Facts::default()
        };
    }

    /// The proof-of-lock round of the signed proposal of a block in a round.
    pub(crate) fn pol_round(&self, round: u32, block: &Hash) -> Option<u32> {
        self.facts()
            .proposals
            .get(&(round, BlockId(*block)))
            .copied()
            .flatten()
    }

    /// Whether a quorum voted for a block in one round.
    pub(crate) fn quorum(&self, precommit: bool, block: &Hash, quorum: usize) -> bool {
        let block = BlockId(*block);
        let mut rounds: BTreeMap<u32, usize> = BTreeMap::new();
        let facts = self.facts();
        let least = Address(PublicKey([0; 32]));
        let votes = facts.votes.range((precommit, block, 0, least)..);
        for (_, _, round, _) in votes.take_while(|v| v.0 == precommit && v.1 == block) {
            *rounds.entry(*round).or_default() += 1;
        }
        rounds.values().any(|count| *count >= quorum)
    }

    /// The block that a quorum precommitted in one round, if there is one.
    pub(crate) fn certified(&self, quorum: usize) -> Option<Hash> {
        let mut counts: BTreeMap<(BlockId, u32), usize> = BTreeMap::new();
        let facts = self.facts();
        for (_, block, round, _) in facts.votes.iter().filter(|vote| vote.0) {
            *counts.entry((*block, *round)).or_default() += 1;
        }
        let certified = |(_, count): &(_, usize)| *count >= quorum;
        let ((block, _), _) = counts.into_iter().find(certified)?;
        Some(block.0)
    }

    /// Whether `signature` is `key`'s over a complete message; `check` is asked
    /// only for what was not good before. A precommit comes as a vote, then in
    /// the engine's certificate, then in the ledger's.
    pub(crate) fn check_once(
        &self,
        key: &PublicKey,
        message: &[u8],
        signature: &Signature,
        check: impl FnOnce() -> bool,
    ) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&key.0).update(&signature.0).update(message);
        let hash = *hasher.finalize().as_bytes();
        if self.facts().good.contains(&hash) {
            return true;
        }
        let good = check();
        let mut facts = self.facts();
        if good && facts.good.len() < FACTS {
            facts.good.insert(hash);
        }
        good
    }

    fn voted(&self, vote: &Vote) {
        let mut facts = self.facts();
        let next = vote.height.0 == facts.committed.0.saturating_add(1);
        let (NilOrVal::Val(block), Some(round)) = (vote.block, vote.round.as_u32()) else {
            return;
        };
        if next && facts.votes.len() < FACTS {
            let precommit = vote.kind == VoteType::Precommit;
            facts.votes.insert((precommit, block, round, vote.voter));
        }
    }

    fn proposed(&self, proposal: &Proposal) {
        let mut facts = self.facts();
        let next = proposal.height.0 == facts.committed.0.saturating_add(1);
        let Some(round) = proposal.round.as_u32() else {
            return;
        };
        if next && facts.proposals.len() < FACTS {
            let pol_round = proposal.pol_round.as_u32();
            // Signed with and without a proof of lock: the stricter one holds.
            let known = facts
                .proposals
                .entry((round, proposal.block))
                .or_insert(pol_round);
            *known = known.and(pol_round);
        }
    }
}

/// The bytes that a vote's signature covers, complete.
pub(crate) fn vote_message(chain: &ChainId, vote: &Vote) -> Option<Vec<u8>> {
    let domain = match vote.kind {
        VoteType::Prevote => Domain::Prevote,
        VoteType::Precommit => Domain::Precommit,
    };
    Some(domain.message(chain, &vote_body(vote)?))
}

/// The part of them that is particular to the vote.
pub(crate) fn vote_body(vote: &Vote) -> Option<[u8; 45]> {
    let block = match &vote.block {
        NilOrVal::Nil => None,
        NilOrVal::Val(id) => Some(&id.0),
    };
    Some(vote_bytes(vote.height.into(), vote.round.as_u32()?, block))
}

/// The part of a proposal's signed bytes that is particular to it.
pub(crate) fn proposal_body(proposal: &Proposal) -> Option<[u8; 49]> {
    let pol_round = match proposal.pol_round.as_u32() {
        Some(round) => i32::try_from(round).ok()?,
        None => -1,
    };
    let round = proposal.round.as_u32()?;
    Some(proposal_bytes(
        proposal.height.into(),
        round,
        &proposal.block.0,
        pol_round,
    ))
}

/// Checks signatures on one chain.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    pub(crate) chain: ChainId,
    pub(crate) witness: Arc<Witness>,
}

fn result(valid: bool) -> Result<VerificationResult, Error> {
    Ok(VerificationResult::from_bool(valid))
}

#[async_trait::async_trait]
impl Verifier<Engine> for Checker {
    async fn verify_signed_vote(
        &self,
        vote: &Vote,
        signature: &Signature,
        key: &Key,
    ) -> Result<VerificationResult, Error> {
        let valid = vote_message(&self.chain, vote).is_some_and(|message| {
            let check = || key.verify(&message, signature);
            self.witness
                .check_once(&key.bytes, &message, signature, check)
        });
        if valid {
            self.witness.voted(vote);
        }
        result(valid)
    }

    async fn verify_signed_proposal(
        &self,
        proposal: &Proposal,
        signature: &Signature,
        key: &Key,
    ) -> Result<VerificationResult, Error> {
        let message = proposal_body(proposal).map(|b| Domain::Proposal.message(&self.chain, &b));
        let valid = message.is_some_and(|message| key.verify(&message, signature));
        if valid {
            self.witness.proposed(proposal);
        }
        result(valid)
    }

    async fn verify_signed_vote_extension(
        &self,
        _: &types::VoteExtensionScope<Engine>,
        _: &Bytes,
        _: &Signature,
        _: &Key,
    ) -> Result<VerificationResult, Error> {
        // Extensions are off: none is valid.
        result(false)
    }

    async fn verify_validator_proof(
        &self,
        proof: &types::ValidatorProof<Engine>,
    ) -> Result<VerificationResult, Error> {
        let message = Domain::PeerProof.message(&self.chain, &proof.preimage());
        let key = proof.decoded_public_key();
        result(key.is_ok_and(|key| key.verify(&message, &proof.signature)))
    }
}

#[cfg(test)]
mod tests {
    use malachitebft_core_types::Round;
    use tally_ledger::crypto::SecretKey;

    use super::*;

    fn vote(height: u64, round: u32, voter: u8, block: u8) -> Vote {
        Vote {
            kind: VoteType::Precommit,
            height: crate::context::Height(height),
            round: Round::new(round),
            block: NilOrVal::Val(BlockId(Hash([block; 32]))),
            voter: Address(SecretKey::from_seed(&[voter; 32]).public()),
        }
    }

    #[test]
    fn a_quorum_is_of_one_block_one_round_and_the_next_height() {
        let witness = Witness::default();
        witness.commit(Height(6));
        let block = Hash([1; 32]);
        for other in [
            vote(7, 1, 3, 1),
            vote(7, 0, 3, 2),
            vote(8, 0, 3, 1),
            vote(7, 0, 2, 1),
        ] {
            witness.voted(&other);
            witness.voted(&vote(7, 0, 1, 1));
            witness.voted(&vote(7, 0, 2, 1));
            assert!(!witness.quorum(true, &block, 3));
            assert_eq!(witness.certified(3), None);
        }
        witness.voted(&vote(7, 0, 4, 1));
        assert!(witness.quorum(true, &block, 3));
        assert_eq!(witness.certified(3), Some(block));
        assert!(!witness.quorum(false, &block, 3));
        witness.commit(Height(7));
        assert!(!witness.quorum(true, &block, 1));
    }

    #[test]
    fn what_was_good_is_checked_once_until_the_commit_and_nothing_else_is_taken_for_it() {
        let witness = Witness::default();
        let key = SecretKey::from_seed(&[1; 32]).public();
        let signature = Signature([2; 64]);
        let once = |key: &PublicKey, message: &[u8], signature: &Signature, good| {
            let mut asked = false;
            let result = witness.check_once(key, message, signature, || {
                asked = true;
                good
            });
            (result, asked)
        };
        assert_eq!(once(&key, b"m", &signature, false), (false, true));
        assert_eq!(once(&key, b"m", &signature, true), (true, true));
        assert_eq!(once(&key, b"m", &signature, false), (true, false));
        let other = SecretKey::from_seed(&[3; 32]).public();
        assert_eq!(once(&other, b"m", &signature, false), (false, true));
        assert_eq!(once(&key, b"n", &signature, false), (false, true));
        assert_eq!(once(&key, b"m", &Signature([4; 64]), false), (false, true));
        witness.commit(Height(1));
        assert_eq!(once(&key, b"m", &signature, false), (false, true));
    }
}
