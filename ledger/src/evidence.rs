//! Evidence: that a validator signed twice what it may sign once.
//!
//! The rule is the guard's: for one height, round and step (proposal,
//! prevote, precommit) a correct validator never signs two different byte
//! strings, whatever crashes. So it is evidence if two signatures of one
//! validator verify under one domain over two different byte strings of one
//! height and round:
//!
//! - a vote for a block and one for nil are two different votes;
//! - two proposals of one block with another proof-of-lock round are two
//!   different proposals, and whether the signer's turn it was is nothing to
//!   them;
//! - one and the same message twice is none, whatever its signatures are, and
//!   neither are votes of different rounds, steps or heights.
//!
//! Two certified headers of one height and round are evidence against each
//! validator in both certificates. Certificates of different rounds prove a
//! fork, so that more than a third of the validators are faulty, but not
//! which: who had seen a later proof of lock may have signed both.
//!
//! All of it verifies with the chain id and the height's validators alone.
//! The two messages stand in the order of the bytes that are signed (headers:
//! of their ids), so a pair has one encoding.

use serde::{Deserialize, Serialize};

use crate::{
    block::{BLOCK_VERSION, CertificateError, Validator, ValidatorSet, proposal_bytes, vote_bytes},
    certified::{CertifiedHeader, MAX_CERTIFIED_BYTES},
    codec::{self, DecodeError, List},
    crypto::{ChainId, Domain, PublicKey, Signature},
    execute::{SignatureCheck, Strict},
    genesis::Genesis,
    hash::{Context, Hash},
    ids::Height,
    receipt::layout::{file, read_file},
};

/// Most Evidence transactions of a block: it never displaces what a block is
/// for.
pub const MAX_EVIDENCE_PER_BLOCK: u32 = 4;
/// Most heights that a validator's leaf names: the latest.
pub const MAX_MARKS: usize = 16;
/// Most bytes of encoded evidence: two certified headers.
pub const MAX_EVIDENCE_BYTES: usize = 4 + 2 * MAX_CERTIFIED_BYTES;
/// First bytes of an evidence file.
pub const EVIDENCE_MAGIC: [u8; 8] = *b"TALLYEVI";
/// Version of the file's layout.
pub const EVIDENCE_FILE_VERSION: u8 = 1;
/// Most bytes of an evidence file.
pub const MAX_EVIDENCE_FILE_BYTES: usize = 9 + 32 + MAX_EVIDENCE_BYTES;

/// Which of its two votes of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vote {
    /// Tag 0.
    Prevote,
    /// Tag 1.
    Precommit,
}

impl Vote {
    fn domain(self) -> Domain {
        match self {
            Vote::Prevote => Domain::Prevote,
            Vote::Precommit => Domain::Precommit,
        }
    }
}

/// Whose message, and of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The validator's number in the set of that height.
    pub validator: u16,
    /// The height.
    pub height: Height,
    /// The round.
    pub round: u32,
}

/// A vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedVote {
    /// For which block; `None`: nil.
    pub block: Option<Hash>,
    /// Over [`vote_bytes`].
    pub signature: Signature,
}

/// A proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedProposal {
    /// Of which block.
    pub block: Hash,
    /// Its proof-of-lock round, or -1.
    pub pol_round: i32,
    /// Over [`proposal_bytes`].
    pub signature: Signature,
}

/// What a validator signed twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Tag 0.
    Votes(Place, Vote, [SignedVote; 2]),
    /// Tag 1.
    Proposals(Place, [SignedProposal; 2]),
    /// Tag 2. By more than a third of the validators at once.
    Certificates(Box<[CertifiedHeader; 2]>),
}

/// What was signed twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Tag 0.
    Prevotes,
    /// Tag 1.
    Precommits,
    /// Tag 2.
    Proposals,
    /// Tag 3: precommits in the certificates of two blocks.
    Certificates,
}

impl Kind {
    /// A stable name for machines.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prevotes => "prevotes",
            Kind::Precommits => "precommits",
            Kind::Proposals => "proposals",
            Kind::Certificates => "certificates",
        }
    }
}

/// What evidence proves of one validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offence {
    /// Who, and when.
    pub place: Place,
    /// What.
    pub kind: Kind,
}

/// Why evidence proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Nothing was signed twice.
    #[error("both messages are the same")]
    Same,
    /// A pair has one order.
    #[error("the two messages are not in the order of their bytes")]
    Order,
    /// Two of different heights do not contradict each other.
    #[error("the headers are of the heights {0} and {1}")]
    Heights(Height, Height),
    /// Height 0 is the genesis, which nobody votes for.
    #[error("nobody votes at height 0")]
    Genesis,
    /// Another layout.
    #[error("header version {0}, this program knows {BLOCK_VERSION}")]
    Version(u8),
    /// Not of this chain.
    #[error("it is of chain {found}, the genesis of {wanted}")]
    OtherChain {
        /// The genesis's.
        wanted: ChainId,
        /// The evidence's.
        found: ChainId,
    },
    /// No such validator.
    #[error("no validator {0} in the set")]
    UnknownValidator(u16),
    /// A signature is not the validator's.
    #[error("a signature is not validator {0}'s")]
    BadSignature(u16),
    /// There is no quorum behind a header.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
}

impl Evidence {
    /// Of two votes of one place, in either order.
    pub fn of_votes(
        place: Place,
        vote: Vote,
        mut pair: [SignedVote; 2],
    ) -> Result<Self, EvidenceError> {
        pair.sort_by_key(|vote| vote_bytes(place.height, place.round, vote.block.as_ref()));
        let evidence = Evidence::Votes(place, vote, pair);
        evidence.check_form().map(|()| evidence)
    }

    /// Of two proposals of one place, in either order.
    pub fn of_proposals(
        place: Place,
        mut pair: [SignedProposal; 2],
    ) -> Result<Self, EvidenceError> {
        pair.sort_by_key(|proposal| proposal.bytes(&place));
        let evidence = Evidence::Proposals(place, pair);
        evidence.check_form().map(|()| evidence)
    }

    /// Of two certified headers of one height, in either order.
    pub fn of_certificates(
        first: CertifiedHeader,
        second: CertifiedHeader,
    ) -> Result<Self, EvidenceError> {
        let mut pair = Box::new([first, second]);
        pair.sort_by_key(|certified| certified.header.id());
        let evidence = Evidence::Certificates(pair);
        evidence.check_form().map(|()| evidence)
    }

    /// The height at which something was signed twice.
    pub fn height(&self) -> Height {
        match self {
            Evidence::Votes(place, ..) | Evidence::Proposals(place, _) => place.height,
            Evidence::Certificates(pair) => pair[0].header.height,
        }
    }

    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_EVIDENCE_BYTES)
    }

    /// Names it, in the log and for people.
    pub fn hash(&self) -> Hash {
        Context::Evidence.hash(&self.encode())
    }

    /// Whether these are two different messages of one place, in their order.
    pub fn check_form(&self) -> Result<(), EvidenceError> {
        if self.height() == Height(0) {
            return Err(EvidenceError::Genesis);
        }
        let order = match self {
            Evidence::Votes(place, _, [first, second]) => {
                let bytes =
                    |vote: &SignedVote| vote_bytes(place.height, place.round, vote.block.as_ref());
                bytes(first).cmp(&bytes(second))
            }
            Evidence::Proposals(place, [first, second]) => {
                first.bytes(place).cmp(&second.bytes(place))
            }
            Evidence::Certificates(pair) => {
                let [first, second] = &**pair;
                let (from, to) = (first.header.height, second.header.height);
                if from != to {
                    return Err(EvidenceError::Heights(from, to));
                }
                first.header.id().cmp(&second.header.id())
            }
        };
        match order {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => Err(EvidenceError::Same),
            std::cmp::Ordering::Greater => Err(EvidenceError::Order),
        }
    }

    /// What it says of whom, ascending by validator; nothing is checked yet.
    /// None: certificates of different rounds name nobody.
    pub fn offences(&self) -> Vec<Offence> {
        let of = |place: &Place, kind| {
            vec![Offence {
                place: *place,
                kind,
            }]
        };
        match self {
            Evidence::Votes(place, Vote::Prevote, _) => of(place, Kind::Prevotes),
            Evidence::Votes(place, Vote::Precommit, _) => of(place, Kind::Precommits),
            Evidence::Proposals(place, _) => of(place, Kind::Proposals),
            Evidence::Certificates(pair) => {
                let [round, other] = pair.each_ref().map(|c| c.certificate.round);
                let signed = self.signed_both().into_iter();
                let signed = signed.take_while(|_| round == other);
                let height = self.height();
                let offence = |validator| Offence {
                    place: Place {
                        validator,
                        height,
                        round,
                    },
                    kind: Kind::Certificates,
                };
                signed.map(offence).collect()
            }
        }
    }

    /// The validators in both certificates, whatever the rounds.
    pub fn signed_both(&self) -> Vec<u16> {
        let Evidence::Certificates(pair) = self else {
            return Vec::new();
        };
        let [first, second] = &**pair;
        let second = &second.certificate.precommits;
        let first = first.certificate.precommits.iter().map(|(who, _)| *who);
        let both = first.filter(|who| second.binary_search_by_key(who, |(who, _)| *who).is_ok());
        both.collect()
    }

    /// Checks all of it; what it proves of whom.
    pub fn verify(
        &self,
        chain: &ChainId,
        validators: &ValidatorSet,
    ) -> Result<Vec<Offence>, EvidenceError> {
        self.verify_by(chain, validators, &Strict)
    }

    /// The same, for who remembers which signatures were good.
    pub fn verify_by(
        &self,
        chain: &ChainId,
        validators: &ValidatorSet,
        signatures: &dyn SignatureCheck,
    ) -> Result<Vec<Offence>, EvidenceError> {
        self.check_form()?;
        let check = |key: &PublicKey, domain, bytes: &[u8], signature: &Signature| {
            signatures.verify(key, domain, chain, bytes, signature)
        };
        match self {
            Evidence::Votes(place, vote, pair) => {
                let key = key_of(place, validators)?;
                for signed in pair {
                    let bytes = vote_bytes(place.height, place.round, signed.block.as_ref());
                    if !check(&key, vote.domain(), &bytes, &signed.signature) {
                        return Err(EvidenceError::BadSignature(place.validator));
                    }
                }
            }
            Evidence::Proposals(place, pair) => {
                let key = key_of(place, validators)?;
                for signed in pair {
                    let bytes = signed.bytes(place);
                    if !check(&key, Domain::Proposal, &bytes, &signed.signature) {
                        return Err(EvidenceError::BadSignature(place.validator));
                    }
                }
            }
            Evidence::Certificates(pair) => {
                for certified in &**pair {
                    let header = &certified.header;
                    if header.version != BLOCK_VERSION {
                        return Err(EvidenceError::Version(header.version));
                    }
                    if header.chain != *chain {
                        return Err(EvidenceError::OtherChain {
                            wanted: *chain,
                            found: header.chain,
                        });
                    }
                    let precommit = |key: &PublicKey, bytes: &[u8], signature: &Signature| {
                        check(key, Domain::Precommit, bytes, signature)
                    };
                    let (height, id) = (header.height, header.id());
                    (certified.certificate).verify_by(height, &id, validators, precommit)?;
                }
            }
        }
        Ok(self.offences())
    }
}

impl SignedProposal {
    fn bytes(&self, place: &Place) -> [u8; 49] {
        proposal_bytes(place.height, place.round, &self.block, self.pol_round)
    }
}

fn key_of(place: &Place, validators: &ValidatorSet) -> Result<PublicKey, EvidenceError> {
    let validator = validators.0.get(usize::from(place.validator));
    let validator = validator.ok_or(EvidenceError::UnknownValidator(place.validator))?;
    Ok(validator.consensus_key)
}

/// What a validator's leaf (table 11) says behind the validator, once there
/// is evidence against it. Bounded: of the heights only the latest are
/// named, and evidence of a height that would not be named is refused, so
/// each height counts once. The log has all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Heights with evidence that the chain has taken in.
    pub count: u32,
    /// The latest of them, ascending.
    pub heights: List<Height, MAX_MARKS>,
}

impl Marks {
    /// Whether evidence of a height says something new.
    pub fn are_open_for(&self, height: Height) -> bool {
        let full = self.heights.len() == MAX_MARKS;
        let passed = full && self.heights.first().is_some_and(|first| height < *first);
        !passed && !self.heights.contains(&height)
    }

    /// At least one height, all ascending, and all counted.
    pub(crate) fn are_well_formed(&self) -> bool {
        let ascending = self.heights.windows(2).all(|pair| pair[0] < pair[1]);
        ascending && !self.heights.is_empty() && self.count as usize >= self.heights.len()
    }

    pub(crate) fn add(&mut self, height: Height) {
        let mut heights = self.heights.to_vec();
        let at = heights.partition_point(|known| *known < height);
        heights.insert(at, height);
        let from = heights.len().saturating_sub(MAX_MARKS);
        self.heights = List::new(heights.split_off(from)).expect("cut to the bound");
        self.count = self.count.saturating_add(1);
    }
}

/// Bytes of a validator's leaf.
pub(crate) fn validator_leaf(validator: &Validator, marks: &Marks) -> Vec<u8> {
    let mut leaf = codec::encode(validator);
    if marks.count > 0 {
        leaf.extend(codec::encode(marks));
    }
    leaf
}

/// Reads a validator's leaf.
pub fn read_validator_leaf(leaf: &[u8]) -> Result<(Validator, Marks), DecodeError> {
    const ALONE: usize = 3 * 32 + 4;
    if leaf.len() <= ALONE {
        return codec::decode(leaf, ALONE).map(|validator| (validator, Marks::default()));
    }
    let (validator, marks): (_, Marks) = codec::decode(leaf, ALONE + 4 + 8 + 8 * MAX_MARKS)?;
    if marks.are_well_formed() {
        return Ok((validator, marks));
    }
    Err(DecodeError {
        what: "validator's leaf",
        why: "its marks say nothing, or are not ascending".into(),
    })
}

/// A file that shows evidence to somebody who has only the genesis.
///
/// ```text
/// magic "TALLYEVI" | version u8 = 1 | chain id 32 | evidence
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceFile {
    /// The chain that all signatures are of.
    pub chain: ChainId,
    /// The evidence.
    pub evidence: Evidence,
}

impl EvidenceFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        file(EVIDENCE_MAGIC, EVIDENCE_FILE_VERSION, self)
    }

    /// Reads a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let known = [EVIDENCE_FILE_VERSION];
        let read = read_file(EVIDENCE_MAGIC, &known, bytes, MAX_EVIDENCE_FILE_BYTES);
        read.map(|(_, file)| file)
    }

    /// Checks everything in the file with the genesis alone; what it proves
    /// of whom. None: a fork that names nobody.
    pub fn verify(&self, genesis: &Genesis) -> Result<Vec<Offence>, EvidenceError> {
        let wanted = genesis.chain();
        if self.chain != wanted {
            let found = self.chain;
            return Err(EvidenceError::OtherChain { wanted, found });
        }
        self.evidence.verify(&wanted, &genesis.validators)
    }
}
