//! Validators of a world who sign twice, and who tells of it.

use tally_ledger::{
    action::Action,
    block::{Certificate, Header, proposal_bytes, vote_bytes},
    certified::CertifiedHeader,
    codec::List,
    crypto::{Domain, SecretKey, Signature},
    evidence::{Evidence, Place, SignedProposal, SignedVote, Vote},
    hash::Hash,
    ids::Height,
    transaction::Author,
};

use super::{
    Act, Dice, World,
    draft::{Draft, holder, person, validator},
};
use crate::oracle::{Payload, Shown};

impl World {
    fn validator_key(&self, number: u16) -> Option<&SecretKey> {
        let validator = self.genesis.validators.0.get(usize::from(number))?;
        self.ring.secrets.get(&validator.consensus_key)
    }

    /// A validator's signature; of one that does not exist, anybody's.
    fn by_validator(&self, number: u16, domain: Domain, bytes: &[u8]) -> Signature {
        let nobody = SecretKey::from_seed(&[1; 32]);
        let key = self.validator_key(number).unwrap_or(&nobody);
        key.sign(domain, &self.chain, bytes)
    }

    fn signed_vote(&self, place: &Place, vote: Vote, block: Option<Hash>) -> SignedVote {
        let domain = match vote {
            Vote::Prevote => Domain::Prevote,
            Vote::Precommit => Domain::Precommit,
        };
        let bytes = vote_bytes(place.height, place.round, block.as_ref());
        let signature = self.by_validator(place.validator, domain, &bytes);
        SignedVote { block, signature }
    }

    fn signed_proposal(&self, place: &Place, block: Hash, pol_round: i32) -> SignedProposal {
        let bytes = proposal_bytes(place.height, place.round, &block, pol_round);
        SignedProposal {
            block,
            pol_round,
            signature: self.by_validator(place.validator, Domain::Proposal, &bytes),
        }
    }

    /// A header with the precommits of these validators.
    fn certified(&self, header: Header, round: u32, by: &[u16]) -> CertifiedHeader {
        let bytes = vote_bytes(header.height, round, Some(&header.id()));
        let precommit = |who: &u16| (*who, self.by_validator(*who, Domain::Precommit, &bytes));
        CertifiedHeader {
            header,
            certificate: Certificate {
                round,
                precommits: List::new(by.iter().map(precommit).collect()).unwrap(),
            },
            set_changes: List::default(),
        }
    }

    /// A place at which somebody may have signed twice; often one of few.
    fn a_place(&self, dice: &mut Dice) -> Place {
        let last = self.blocks.len() as u64;
        let height = match dice.below(2) {
            0 => 1 + dice.below(last.min(3)),
            _ => 1 + dice.below(last),
        };
        let height = match dice.wild(4) {
            true => dice.pick(&[last + 1, last + 2, u64::MAX]),
            false => height,
        };
        Place {
            validator: match dice.wild(8) {
                true => 9,
                false => dice.below(4) as u16,
            },
            height: Height(height),
            round: dice.below(3) as u32,
        }
    }

    fn double_vote(&self, dice: &mut Dice, place: Place) -> (Evidence, &'static str) {
        let (vote, signed) = match dice.below(2) {
            0 => (Vote::Prevote, "prevotes"),
            _ => (Vote::Precommit, "precommits"),
        };
        let blocks = [None, Some(Hash([1; 32])), Some(Hash([2; 32]))];
        let from = dice.below(2) as usize;
        let pair = [from, from + 1].map(|at| self.signed_vote(&place, vote, blocks[at]));
        (Evidence::Votes(place, vote, pair), signed)
    }

    fn double_proposal(&self, dice: &mut Dice, place: Place) -> (Evidence, &'static str) {
        let block = Hash([3; 32]);
        let second = dice.pick(&[(Hash([4; 32]), -1), (block, 1)]);
        let pair = [(block, 0), second].map(|(id, pol)| self.signed_proposal(&place, id, pol));
        (Evidence::Proposals(place, pair), "proposals")
    }

    /// The header of a height as it is, or the like, and another one.
    fn fork(&self, dice: &mut Dice, place: &Place) -> (Evidence, Vec<u16>) {
        let last = self.blocks.last().expect("worlds begin with blocks").header;
        let known = self.blocks.get(place.height.0.wrapping_sub(1) as usize);
        let mut first = known.map_or(last, |block| block.header);
        first.height = place.height;
        let mut second = first;
        second.state_root = Hash([dice.below(3) as u8; 32]);
        let (one, other) = dice.pick(&[
            (&[0u16, 1, 2][..], &[1u16, 2, 3][..]),
            (&[0, 1, 2, 3], &[0, 1, 3]),
            (&[0, 2, 3], &[0, 2, 3]),
        ]);
        let round = match dice.wild(4) {
            true => place.round + 1,
            false => place.round,
        };
        let pair = [
            self.certified(first, place.round, one),
            self.certified(second, round, other),
        ];
        let both = one.iter().copied().filter(|who| other.contains(who));
        let both = both.filter(|_| round == place.round).collect();
        (
            Evidence::of_certificates(pair[0].clone(), pair[1].clone()).unwrap(),
            both,
        )
    }

    pub(super) fn write_evidence(&mut self, dice: &mut Dice) -> Draft {
        let place = self.a_place(dice);
        let (mut evidence, mut shown) = self.shown(dice, place);
        if dice.wild(3) {
            spoil(&mut evidence, &mut shown, dice);
        }
        let author = match dice.below(3) {
            0 => validator(dice.below(4) as u32),
            1 => person(dice.below(10) as u32),
            _ => holder(self.an_account(dice)),
        };
        let mut draft = self.envelope(dice, author, &[], Action::Evidence(Box::new(evidence)));
        draft.meaning = Payload::Shown(shown);
        draft
    }

    fn shown(&self, dice: &mut Dice, place: Place) -> (Evidence, Shown) {
        let (evidence, signed, validators) = match dice.below(3) {
            0 => {
                let (evidence, signed) = self.double_vote(dice, place);
                (evidence, signed, vec![place.validator])
            }
            1 => {
                let (evidence, signed) = self.double_proposal(dice, place);
                (evidence, signed, vec![place.validator])
            }
            _ => {
                let (evidence, both) = self.fork(dice, &place);
                (evidence, "certificates", both)
            }
        };
        let named = matches!(evidence, Evidence::Certificates(_));
        let shown = Shown {
            formed: !validators.is_empty(),
            proven: named || place.validator < 4,
            height: place.height.0,
            round: place.round,
            validators,
            signed,
        };
        (evidence, shown)
    }

    /// An act of a scene: a validator that voted for two blocks.
    pub fn accuse(&self, by: Author, who: u16, height: u64) -> Act {
        let place = Place {
            validator: who,
            height: Height(height),
            round: 0,
        };
        let blocks = [Some(Hash([1; 32])), Some(Hash([2; 32]))];
        let pair = blocks.map(|block| self.signed_vote(&place, Vote::Precommit, block));
        let evidence = Evidence::of_votes(place, Vote::Precommit, pair).unwrap();
        let shown = Shown {
            formed: true,
            proven: true,
            height,
            round: 0,
            validators: vec![who],
            signed: "precommits",
        };
        let mut act = Act::new(by, Action::Evidence(Box::new(evidence)));
        act.shown = Some(shown);
        act
    }
}

/// Makes it prove nothing.
fn spoil(evidence: &mut Evidence, shown: &mut Shown, dice: &mut Dice) {
    let how = dice.below(3);
    let break_one = |signature: &mut Signature| signature.0[5] ^= 1;
    match (evidence, how) {
        (Evidence::Votes(_, _, pair), 0) => break_one(&mut pair[1].signature),
        (Evidence::Votes(_, _, pair), 1) => pair.swap(0, 1),
        (Evidence::Votes(_, _, pair), _) => pair[0] = pair[1],
        (Evidence::Proposals(_, pair), 0) => break_one(&mut pair[0].signature),
        (Evidence::Proposals(_, pair), 1) => pair.swap(0, 1),
        (Evidence::Proposals(_, pair), _) => pair[1] = pair[0],
        (Evidence::Certificates(pair), 0) => break_one(&mut pair[1].certificate.precommits[0].1),
        (Evidence::Certificates(pair), _) => pair.swap(0, 1),
    }
    match how {
        0 => shown.proven = false,
        _ => shown.formed = false,
    }
}
