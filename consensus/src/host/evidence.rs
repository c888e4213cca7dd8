//! What the engine saw validators sign twice, in the ledger's form. The
//! engine keeps three pairs per validator and kind at most.

use malachitebft_app_channel::app::types::MisbehaviorEvidence;
use malachitebft_core_types::{NilOrVal, SignedProposal, SignedVote, VoteType};
use tally_ledger::{
    block::ValidatorSet,
    crypto::ChainId,
    evidence::{self, Evidence, EvidenceError, Place},
    ids::Height,
};
use tracing::{error, warn};

use crate::context::{self, Address, Engine};

/// Pairs of a height that its validators' signatures prove; the rest is a
/// fault of the engine, and nobody is told.
pub(super) fn proven(
    found: &MisbehaviorEvidence<Engine>,
    chain: &ChainId,
    height: Height,
    validators: &ValidatorSet,
) -> Vec<Evidence> {
    let index = |address: &Address| validators.index_of(&address.0);
    let votes = found.votes.iter().flat_map(|(_, pairs)| pairs);
    let votes = votes.map(|pair| of_votes(pair, index(&pair.0.message.voter)));
    let proposals = found.proposals.iter().flat_map(|(_, pairs)| pairs);
    let proposals = proposals.map(|pair| of_proposals(pair, index(&pair.0.message.proposer)));
    let checked = |evidence: Option<Result<Evidence, EvidenceError>>| {
        let checked = evidence?.and_then(|evidence| {
            evidence.verify(chain, validators)?;
            Ok(evidence)
        });
        match checked {
            Ok(evidence) if evidence.height() == height => Some(evidence),
            Ok(other) => {
                error!(%height, of = %other.height(), "evidence of another height");
                None
            }
            Err(why) => {
                error!(%height, %why, "the engine's evidence proves nothing");
                None
            }
        }
    };
    let all = votes.chain(proposals).filter_map(checked);
    all.inspect(|evidence| {
        for offence in evidence.offences() {
            let (validator, round) = (offence.place.validator, offence.place.round);
            let signed = offence.kind.name();
            warn!(%height, round, validator, signed, "a validator signed twice");
        }
    })
    .collect()
}

fn place(height: context::Height, round: Option<u32>, validator: Option<u16>) -> Option<Place> {
    Some(Place {
        validator: validator?,
        height: height.into(),
        round: round?,
    })
}

fn of_votes(
    (one, other): &(SignedVote<Engine>, SignedVote<Engine>),
    validator: Option<u16>,
) -> Option<Result<Evidence, EvidenceError>> {
    let vote = &one.message;
    let place = place(vote.height, vote.round.as_u32(), validator)?;
    let kind = match vote.kind {
        VoteType::Prevote => evidence::Vote::Prevote,
        VoteType::Precommit => evidence::Vote::Precommit,
    };
    let pair = [one, other].map(|signed| evidence::SignedVote {
        block: match &signed.message.block {
            NilOrVal::Nil => None,
            NilOrVal::Val(id) => Some(id.0),
        },
        signature: signed.signature,
    });
    Some(Evidence::of_votes(place, kind, pair))
}

fn of_proposals(
    (one, other): &(SignedProposal<Engine>, SignedProposal<Engine>),
    validator: Option<u16>,
) -> Option<Result<Evidence, EvidenceError>> {
    let proposal = &one.message;
    let place = place(proposal.height, proposal.round.as_u32(), validator)?;
    let pair = [one, other].map(|signed| evidence::SignedProposal {
        block: signed.message.block.0,
        pol_round: signed.message.pol_round.as_i64() as i32,
        signature: signed.signature,
    });
    Some(Evidence::of_proposals(place, pair))
}

#[cfg(test)]
mod tests {
    use malachitebft_core_types::{Round, SignedMessage};
    use tally_ledger::{
        block::{Validator, proposal_bytes, vote_bytes},
        codec::List,
        crypto::{Domain, SecretKey},
        evidence::Kind,
        hash::Hash,
        ids::Person,
    };

    use super::*;
    use crate::context::{BlockId, Proposal, Vote};

    const HEIGHT: u64 = 7;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn chain() -> ChainId {
        ChainId(Hash([5; 32]))
    }

    fn validators() -> ValidatorSet {
        let of = |n: u8| Validator {
            consensus_key: key(n).public(),
            checkpoint_key: key(n).public(),
            network_key: key(n).public(),
            owner: Person(0),
        };
        ValidatorSet(List::new([1, 2, 3].map(of).to_vec()).unwrap())
    }

    fn vote(n: u8, block: Option<u8>) -> SignedVote<Engine> {
        let block = block.map(|byte| Hash([byte; 32]));
        let bytes = vote_bytes(Height(HEIGHT), 2, block.as_ref());
        let vote = Vote {
            kind: VoteType::Precommit,
            height: context::Height(HEIGHT),
            round: Round::new(2),
            block: block.map_or(NilOrVal::Nil, |id| NilOrVal::Val(BlockId(id))),
            voter: Address(key(n).public()),
        };
        SignedMessage::new(vote, key(n).sign(Domain::Precommit, &chain(), &bytes))
    }

    fn proposal(n: u8, pol_round: Round) -> SignedProposal<Engine> {
        let block = Hash([1; 32]);
        let pol = pol_round.as_i64() as i32;
        let bytes = proposal_bytes(Height(HEIGHT), 2, &block, pol);
        let proposal = Proposal {
            height: context::Height(HEIGHT),
            round: Round::new(2),
            block: BlockId(block),
            pol_round,
            proposer: Address(key(n).public()),
        };
        SignedMessage::new(proposal, key(n).sign(Domain::Proposal, &chain(), &bytes))
    }

    fn found() -> MisbehaviorEvidence<Engine> {
        MisbehaviorEvidence {
            proposals: Default::default(),
            votes: Default::default(),
        }
    }

    fn named(found: &MisbehaviorEvidence<Engine>, height: u64) -> Vec<(u16, Kind)> {
        let all = proven(found, &chain(), Height(height), &validators());
        let offences = all.iter().flat_map(Evidence::offences);
        offences.map(|o| (o.place.validator, o.kind)).collect()
    }

    #[test]
    fn pairs_of_the_engine_become_evidence() {
        let mut found = found();
        found.votes.add(vote(2, Some(9)), vote(2, None));
        let pair = (proposal(3, Round::new(1)), proposal(3, Round::Nil));
        found.proposals.add(pair.0, pair.1);
        let expected = [(1, Kind::Precommits), (2, Kind::Proposals)];
        assert_eq!(named(&found, HEIGHT), expected);
        assert_eq!(named(&found, HEIGHT + 1), []);
    }

    #[test]
    fn what_proves_nothing_is_not_told() {
        // A stranger, a forged signature.
        let mut forged = vote(1, None);
        forged.signature = vote(2, None).signature;
        let pairs = [
            (vote(4, Some(1)), vote(4, Some(2))),
            (vote(1, Some(1)), forged),
        ];
        for (one, other) in pairs {
            let mut found = found();
            found.votes.add(one, other);
            assert_eq!(named(&found, HEIGHT), []);
        }
    }
}
