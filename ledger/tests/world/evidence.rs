//! What validators sign twice.

use tally_ledger::{
    block::{Certificate, Header, proposal_bytes, vote_bytes},
    certified::CertifiedHeader,
    crypto::Domain,
    evidence::{Evidence, Place, SignedProposal, SignedVote, Vote},
    hash::Hash,
    ids::Height,
    transaction::{Author, AuthorKind},
};

use super::{World, key, list};

pub fn validator(number: u32) -> Author {
    Author {
        kind: AuthorKind::Validator,
        number,
    }
}

pub fn place(validator: u16, height: u64) -> Place {
    Place {
        validator,
        height: Height(height),
        round: 3,
    }
}

impl World {
    pub fn signed_vote(&self, place: Place, vote: Vote, block: Option<Hash>) -> SignedVote {
        let domain = match vote {
            Vote::Prevote => Domain::Prevote,
            Vote::Precommit => Domain::Precommit,
        };
        let bytes = vote_bytes(place.height, place.round, block.as_ref());
        let key = key(validator(place.validator.into()));
        SignedVote {
            block,
            signature: key.sign(domain, self.state.chain(), &bytes),
        }
    }

    /// Precommits for two blocks.
    pub fn double_vote(&self, place: Place) -> Evidence {
        let blocks = [Some(Hash([1; 32])), Some(Hash([2; 32]))];
        let pair = blocks.map(|block| self.signed_vote(place, Vote::Precommit, block));
        Evidence::of_votes(place, Vote::Precommit, pair).unwrap()
    }

    pub fn signed_proposal(&self, place: Place, block: u8, pol_round: i32) -> SignedProposal {
        let block = Hash([block; 32]);
        let bytes = proposal_bytes(place.height, place.round, &block, pol_round);
        let key = key(validator(place.validator.into()));
        SignedProposal {
            block,
            pol_round,
            signature: key.sign(Domain::Proposal, self.state.chain(), &bytes),
        }
    }

    /// A header with the precommits of these validators.
    pub fn certified_by(&self, header: Header, round: u32, by: &[u16]) -> CertifiedHeader {
        let bytes = vote_bytes(header.height, round, Some(&header.id()));
        let precommit = |who: &u16| {
            let key = key(validator((*who).into()));
            let signature = key.sign(Domain::Precommit, self.state.chain(), &bytes);
            (*who, signature)
        };
        CertifiedHeader {
            header,
            certificate: Certificate {
                round,
                precommits: list(by.iter().map(precommit).collect()),
            },
            set_changes: Default::default(),
        }
    }

    /// The last header and another one of its height, by all three.
    pub fn fork(&self, rounds: [u32; 2]) -> [CertifiedHeader; 2] {
        let header = *self.state.header().unwrap();
        let other = Header {
            state_root: Hash([9; 32]),
            ..header
        };
        [
            self.certified_by(header, rounds[0], &[0, 1, 2]),
            self.certified_by(other, rounds[1], &[0, 1, 2]),
        ]
    }
}
