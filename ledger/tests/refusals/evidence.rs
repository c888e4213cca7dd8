//! Refusals 85 to 88: evidence that shows nothing, or nothing new.

use tally_ledger::{
    action::Action,
    block::{Header, vote_bytes},
    crypto::{ChainId, Domain},
    evidence::{Evidence, SignedVote, Vote},
    hash::Hash,
    ids::*,
    reason::Reason,
    transaction::Transaction,
};

use crate::{rows::*, world::*};

fn told(world: &mut World, evidence: Evidence) -> Transaction {
    world.tx(validator(0), &[], Action::Evidence(Box::new(evidence)))
}

/// Precommits for blocks 1 and 2, of validator 1 at height 2, changed.
fn votes(world: &mut World, change: impl FnOnce(&World, &mut [SignedVote; 2])) -> Transaction {
    let at = place(1, 2);
    let Evidence::Votes(_, _, mut pair) = world.double_vote(at) else {
        unreachable!("a double vote")
    };
    change(world, &mut pair);
    told(world, Evidence::Votes(at, Vote::Precommit, pair))
}

pub(crate) const EVIDENCE: &[Row] = &[
    ("one vote twice", Reason::EvidenceForm, |world| {
        votes(world, |_, pair| pair[1] = pair[0])
    }),
    (
        "two votes in the other order",
        Reason::EvidenceForm,
        |world| votes(world, |_, pair| pair.swap(0, 1)),
    ),
    ("one proposal twice", Reason::EvidenceForm, |world| {
        let one = world.signed_proposal(place(1, 2), 1, 0);
        told(world, Evidence::Proposals(place(1, 2), [one, one]))
    }),
    ("one header twice", Reason::EvidenceForm, |world| {
        let one = world.fork([0, 0])[0].clone();
        told(world, Evidence::Certificates(Box::new([one.clone(), one])))
    }),
    ("headers of two heights", Reason::EvidenceForm, |world| {
        let [one, other] = world.fork([0, 0]);
        let height = Height(1);
        let other = Header {
            height,
            ..other.header
        };
        let other = world.certified_by(other, 0, &[0, 1, 2]);
        told(world, Evidence::Certificates(Box::new([one, other])))
    }),
    (
        "certificates of two rounds",
        Reason::EvidenceForm,
        |world| {
            let [one, other] = world.fork([0, 1]);
            let evidence = Evidence::of_certificates(one, other).unwrap();
            told(world, evidence)
        },
    ),
    ("votes for the genesis", Reason::EvidenceForm, |world| {
        let at = place(1, 0);
        let blocks = [None, Some(Hash([1; 32]))];
        let pair = blocks.map(|block| world.signed_vote(at, Vote::Prevote, block));
        told(world, Evidence::Votes(at, Vote::Prevote, pair))
    }),
    (
        "votes for the next block",
        Reason::EvidenceHeight,
        |world| {
            let next = world.state.height().0 + 1;
            let evidence = world.double_vote(place(1, next));
            told(world, evidence)
        },
    ),
    ("a changed signature", Reason::EvidenceUnproven, |world| {
        votes(world, |_, pair| pair[1].signature.0[0] ^= 1)
    }),
    ("a changed block", Reason::EvidenceUnproven, |world| {
        votes(world, |_, pair| pair[1].block = Some(Hash([3; 32])))
    }),
    (
        "a prevote and a precommit",
        Reason::EvidenceUnproven,
        |world| {
            votes(world, |world, pair| {
                pair[1] = world.signed_vote(place(1, 2), Vote::Prevote, pair[1].block);
            })
        },
    ),
    ("votes of two rounds", Reason::EvidenceUnproven, |world| {
        votes(world, |world, pair| {
            let mut other = place(1, 2);
            other.round += 1;
            pair[1] = world.signed_vote(other, Vote::Precommit, pair[1].block);
        })
    }),
    (
        "votes of two validators",
        Reason::EvidenceUnproven,
        |world| {
            votes(world, |world, pair| {
                pair[1] = world.signed_vote(place(2, 2), Vote::Precommit, pair[1].block);
            })
        },
    ),
    (
        "a vote on another chain",
        Reason::EvidenceUnproven,
        |world| {
            votes(world, |_, pair| {
                let bytes = vote_bytes(Height(2), 3, pair[1].block.as_ref());
                let chain = ChainId(Hash([5; 32]));
                pair[1].signature = key(validator(1)).sign(Domain::Precommit, &chain, &bytes);
            })
        },
    ),
    ("a vote as a proposal", Reason::EvidenceUnproven, |world| {
        let mut pair = [1, 2].map(|block| world.signed_proposal(place(1, 2), block, 0));
        let vote = world.signed_vote(place(1, 2), Vote::Prevote, Some(pair[0].block));
        pair[0].signature = vote.signature;
        told(world, Evidence::Proposals(place(1, 2), pair))
    }),
    ("an unknown validator", Reason::EvidenceUnproven, |world| {
        let evidence = world.double_vote(place(3, 2));
        told(world, evidence)
    }),
    ("no quorum", Reason::EvidenceUnproven, |world| {
        let [one, other] = world.fork([0, 0]);
        let other = world.certified_by(other.header, 0, &[0, 2]);
        let evidence = Evidence::of_certificates(one, other).unwrap();
        told(world, evidence)
    }),
    (
        "a header of another chain",
        Reason::EvidenceUnproven,
        |world| {
            let [one, other] = world.fork([0, 0]);
            let chain = ChainId(Hash([5; 32]));
            let other = Header {
                chain,
                ..other.header
            };
            let other = world.certified_by(other, 0, &[0, 1, 2]);
            let evidence = Evidence::of_certificates(one, other).unwrap();
            told(world, evidence)
        },
    ),
    (
        "a header of another version",
        Reason::EvidenceUnproven,
        |world| {
            let [one, other] = world.fork([0, 0]);
            let other = Header {
                version: 2,
                ..other.header
            };
            let other = world.certified_by(other, 0, &[0, 1, 2]);
            let evidence = Evidence::of_certificates(one, other).unwrap();
            told(world, evidence)
        },
    ),
    (
        "other votes of a known height",
        Reason::EvidenceKnown,
        |world| {
            let first = world.double_vote(place(1, 2));
            let first = told(world, first);
            world.run(first);
            let mut at = place(1, 2);
            at.round = 0;
            let second = world.double_vote(at);
            told(world, second)
        },
    ),
];
