//! Samples of what validators sign twice.

use tally_ledger::{
    block::{Header, proposal_bytes, vote_bytes},
    crypto::Domain,
    evidence::{Evidence, MAX_MARKS, Marks, Place, SignedProposal, SignedVote, Vote},
    hash::Hash,
    ids::Height,
};

use super::{
    super::{Chain, certify, validator_key},
    genesis, hash, list,
};

pub(crate) fn place() -> Place {
    Place {
        validator: 1,
        height: Height(2),
        round: 3,
    }
}

/// Precommits for nil and for a block.
pub(crate) fn votes() -> Evidence {
    let (at, chain) = (place(), genesis().chain());
    let pair = [Some(hash(6)), None].map(|block: Option<Hash>| {
        let bytes = vote_bytes(at.height, at.round, block.as_ref());
        let signature = validator_key(at.validator).sign(Domain::Precommit, &chain, &bytes);
        SignedVote { block, signature }
    });
    Evidence::of_votes(at, Vote::Precommit, pair).unwrap()
}

/// Proposals of one block with and without a proof of lock.
pub(crate) fn proposals() -> Evidence {
    let (at, chain) = (place(), genesis().chain());
    let pair = [-1, 1].map(|pol_round| {
        let block = hash(6);
        let bytes = proposal_bytes(at.height, at.round, &block, pol_round);
        let signature = validator_key(at.validator).sign(Domain::Proposal, &chain, &bytes);
        SignedProposal {
            block,
            pol_round,
            signature,
        }
    });
    Evidence::of_proposals(at, pair).unwrap()
}

/// Two certified headers of one height.
pub(crate) fn certificates() -> Evidence {
    let chain = Chain::with_receipts();
    let one = chain.certified(Height(2)).clone();
    let other = Header {
        state_root: hash(7),
        ..one.header
    };
    Evidence::of_certificates(one, certify(&chain.id, other)).unwrap()
}

pub(crate) fn marks() -> Marks {
    let heights = (0..MAX_MARKS as u64).map(|n| Height(40 + n * n));
    Marks {
        count: 17,
        heights: list(heights.collect()),
    }
}
