//! The engine's messages as bytes, on the wire and in its log.
//!
//! The engine's own types have no encoding, so each has a mirror here, in the
//! ledger's canonical encoding: fixed-width little-endian integers, no
//! trailing bytes. Each kind of message has its own limit, and decoding never
//! allocates more than the bytes that are there.

use bytes::Bytes;
use malachitebft_app_channel::app::{
    consensus::{LivenessMsg, ProposedValue, SignedConsensusMsg},
    streaming::{StreamContent, StreamId, StreamMessage},
    types::{
        PeerId,
        sync::{RawDecidedValue, Request, Response, Status},
    },
};
use malachitebft_codec::{Codec, HasEncodedLen};
use malachitebft_core_types as types;
use malachitebft_core_types::{NilOrVal, Round, RoundCertificateType, Validity, VoteType};
use malachitebft_sync::{ValueRequest, ValueResponse};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tally_ledger::{
    block::MAX_VALIDATORS,
    codec::{self, DecodeError, List},
    crypto::Signature,
};

use crate::context::{Address, BlockId, Engine, Height, Part, Proposal, Vote};

/// Largest piece of a body in one message.
pub const PART_BYTES: usize = 128 << 10;
/// Largest message that is no part and no sync response. Two votes per
/// validator of 110 bytes, and room.
const SMALL: usize = 32 << 10;
/// Largest message with a part.
const PART: usize = PART_BYTES + 256;
/// Largest message of one of these two kinds, and a byte.
pub(crate) const MAX_FRAME: usize = 1 + PART + STREAM_ID_BYTES;
/// Longest name of a stream.
pub(crate) const STREAM_ID_BYTES: usize = 64;

/// The codec. `max_response` bounds sync responses.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Most bytes of a sync response.
    pub max_response: usize,
}

/// A message that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not canonical.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A value has no encoding, or the bytes no meaning.
    #[error("no such message: {0}")]
    Meaningless(&'static str),
}

fn read<T: DeserializeOwned>(bytes: &Bytes, limit: usize) -> Result<T, CodecError> {
    Ok(codec::decode(bytes, limit)?)
}

fn write<T: Serialize>(value: &T) -> Bytes {
    codec::encode(value).into()
}

fn defined(round: Round) -> Result<u32, CodecError> {
    round
        .as_u32()
        .ok_or(CodecError::Meaningless("round is nil"))
}

fn precommit(kind: VoteType) -> bool {
    kind == VoteType::Precommit
}

fn kind(precommit: bool) -> VoteType {
    if precommit {
        VoteType::Precommit
    } else {
        VoteType::Prevote
    }
}

fn block(value: &NilOrVal<BlockId>) -> Option<BlockId> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(id) => Some(*id),
    }
}

fn nil_or(block: Option<BlockId>) -> NilOrVal<BlockId> {
    block.map_or(NilOrVal::Nil, NilOrVal::Val)
}

type Signatures = List<(Address, Signature), MAX_VALIDATORS>;

fn list<T, const MAX: usize>(items: Vec<T>) -> Result<List<T, MAX>, CodecError> {
    List::new(items).map_err(|_| CodecError::Meaningless("too many signatures"))
}

#[derive(Serialize, Deserialize)]
struct WireVote {
    precommit: bool,
    height: Height,
    round: u32,
    block: Option<BlockId>,
    voter: Address,
    signature: Signature,
}

impl WireVote {
    fn new(vote: &types::SignedVote<Engine>) -> Result<Self, CodecError> {
        let message = &vote.message;
        Ok(Self {
            precommit: precommit(message.kind),
            height: message.height,
            round: defined(message.round)?,
            block: block(&message.block),
            voter: message.voter,
            signature: vote.signature,
        })
    }

    fn vote(self) -> types::SignedVote<Engine> {
        let vote = Vote {
            kind: kind(self.precommit),
            height: self.height,
            round: Round::new(self.round),
            block: nil_or(self.block),
            voter: self.voter,
        };
        types::SignedMessage::new(vote, self.signature)
    }
}

#[derive(Serialize, Deserialize)]
struct WireProposal {
    height: Height,
    round: u32,
    block: BlockId,
    pol_round: Option<u32>,
    proposer: Address,
    signature: Signature,
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Vote(WireVote),
    Proposal(WireProposal),
}

impl Codec<SignedConsensusMsg<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, message: &SignedConsensusMsg<Engine>) -> Result<Bytes, CodecError> {
        let message = match message {
            SignedConsensusMsg::Vote(vote) => WireMessage::Vote(WireVote::new(vote)?),
            SignedConsensusMsg::Proposal(signed) => {
                let proposal = &signed.message;
                WireMessage::Proposal(WireProposal {
                    height: proposal.height,
                    round: defined(proposal.round)?,
                    block: proposal.block,
                    pol_round: proposal.pol_round.as_u32(),
                    proposer: proposal.proposer,
                    signature: signed.signature,
                })
            }
        };
        Ok(write(&message))
    }

    fn decode(&self, bytes: Bytes) -> Result<SignedConsensusMsg<Engine>, CodecError> {
        Ok(match read(&bytes, SMALL)? {
            WireMessage::Vote(vote) => SignedConsensusMsg::Vote(vote.vote()),
            WireMessage::Proposal(wire) => {
                let proposal = Proposal {
                    height: wire.height,
                    round: Round::new(wire.round),
                    block: wire.block,
                    pol_round: Round::from(wire.pol_round),
                    proposer: wire.proposer,
                };
                SignedConsensusMsg::Proposal(types::SignedMessage::new(proposal, wire.signature))
            }
        })
    }
}

#[derive(Serialize, Deserialize)]
struct WirePolka {
    height: Height,
    round: u32,
    block: BlockId,
    signatures: Signatures,
}

impl WirePolka {
    fn new(certificate: &types::PolkaCertificate<Engine>) -> Result<Self, CodecError> {
        let signatures = &certificate.polka_signatures;
        Ok(Self {
            height: certificate.height,
            round: defined(certificate.round)?,
            block: certificate.value_id,
            signatures: list(
                signatures
                    .iter()
                    .map(|s| (s.address, s.signature))
                    .collect(),
            )?,
        })
    }

    fn certificate(self) -> types::PolkaCertificate<Engine> {
        let signatures = self.signatures.into_vec().into_iter();
        types::PolkaCertificate {
            height: self.height,
            round: Round::new(self.round),
            value_id: self.block,
            polka_signatures: signatures
                .map(|(a, s)| types::PolkaSignature::new(a, s))
                .collect(),
        }
    }
}

impl Codec<types::PolkaCertificate<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, message: &types::PolkaCertificate<Engine>) -> Result<Bytes, CodecError> {
        Ok(write(&WirePolka::new(message)?))
    }

    fn decode(&self, bytes: Bytes) -> Result<types::PolkaCertificate<Engine>, CodecError> {
        Ok(read::<WirePolka>(&bytes, SMALL)?.certificate())
    }
}

/// Votes of a round certificate: precommit or not, block, voter, signature.
type RoundVotes = List<(bool, Option<BlockId>, Address, Signature), { 2 * MAX_VALIDATORS }>;

#[derive(Serialize, Deserialize)]
struct WireRound {
    height: Height,
    round: u32,
    skip: bool,
    votes: RoundVotes,
}

impl WireRound {
    fn new(certificate: &types::RoundCertificate<Engine>) -> Result<Self, CodecError> {
        let votes = certificate.round_signatures.iter();
        Ok(Self {
            height: certificate.height,
            round: defined(certificate.round)?,
            skip: certificate.cert_type == RoundCertificateType::Skip,
            votes: list(
                votes
                    .map(|s| {
                        (
                            precommit(s.vote_type),
                            block(&s.value_id),
                            s.address,
                            s.signature,
                        )
                    })
                    .collect(),
            )?,
        })
    }

    fn certificate(self) -> types::RoundCertificate<Engine> {
        let votes = self.votes.into_vec().into_iter();
        types::RoundCertificate {
            height: self.height,
            round: Round::new(self.round),
            cert_type: if self.skip {
                RoundCertificateType::Skip
            } else {
                RoundCertificateType::Precommit
            },
            round_signatures: votes
                .map(|(p, b, a, s)| types::RoundSignature::new(kind(p), nil_or(b), a, s))
                .collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum WireLiveness {
    Vote(WireVote),
    Polka(WirePolka),
    Round(WireRound),
}

impl Codec<LivenessMsg<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, message: &LivenessMsg<Engine>) -> Result<Bytes, CodecError> {
        Ok(write(&match message {
            LivenessMsg::Vote(vote) => WireLiveness::Vote(WireVote::new(vote)?),
            LivenessMsg::PolkaCertificate(c) => WireLiveness::Polka(WirePolka::new(c)?),
            LivenessMsg::SkipRoundCertificate(c) => WireLiveness::Round(WireRound::new(c)?),
        }))
    }

    fn decode(&self, bytes: Bytes) -> Result<LivenessMsg<Engine>, CodecError> {
        Ok(match read(&bytes, SMALL)? {
            WireLiveness::Vote(vote) => LivenessMsg::Vote(vote.vote()),
            WireLiveness::Polka(polka) => LivenessMsg::PolkaCertificate(polka.certificate()),
            WireLiveness::Round(round) => LivenessMsg::SkipRoundCertificate(round.certificate()),
        })
    }
}

fn checked(part: Part) -> Result<Part, CodecError> {
    match part.bytes().len() <= PART_BYTES {
        true => Ok(part),
        false => Err(CodecError::Meaningless("part is too large")),
    }
}

impl Codec<Part> for Wire {
    type Error = CodecError;

    fn encode(&self, part: &Part) -> Result<Bytes, CodecError> {
        Ok(write(part))
    }

    fn decode(&self, bytes: Bytes) -> Result<Part, CodecError> {
        checked(read(&bytes, PART)?)
    }
}

#[derive(Serialize, Deserialize)]
struct WireStream {
    stream: Bytes,
    sequence: u64,
    part: Option<Part>,
}

impl Codec<StreamMessage<Part>> for Wire {
    type Error = CodecError;

    fn encode(&self, message: &StreamMessage<Part>) -> Result<Bytes, CodecError> {
        Ok(write(&WireStream {
            stream: message.stream_id.to_bytes(),
            sequence: message.sequence,
            part: message.content.as_data().cloned(),
        }))
    }

    fn decode(&self, bytes: Bytes) -> Result<StreamMessage<Part>, CodecError> {
        let wire: WireStream = read(&bytes, PART)?;
        if wire.stream.len() > STREAM_ID_BYTES {
            return Err(CodecError::Meaningless("stream id is too long"));
        }
        let content = match wire.part {
            Some(part) => StreamContent::Data(checked(part)?),
            None => StreamContent::Fin,
        };
        Ok(StreamMessage::new(
            StreamId::new(wire.stream),
            wire.sequence,
            content,
        ))
    }
}

#[derive(Serialize, Deserialize)]
struct WireProof {
    public_key: List<u8, 64>,
    peer_id: List<u8, 128>,
    signature: Signature,
}

impl Codec<types::ValidatorProof<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, proof: &types::ValidatorProof<Engine>) -> Result<Bytes, CodecError> {
        Ok(write(&WireProof {
            public_key: list(proof.public_key.clone())?,
            peer_id: list(proof.peer_id.clone())?,
            signature: proof.signature,
        }))
    }

    fn decode(&self, bytes: Bytes) -> Result<types::ValidatorProof<Engine>, CodecError> {
        let wire: WireProof = read(&bytes, SMALL)?;
        let (key, peer) = (wire.public_key.into_vec(), wire.peer_id.into_vec());
        Ok(types::ValidatorProof::new(key, peer, wire.signature))
    }
}

#[derive(Serialize, Deserialize)]
struct WireValue {
    height: Height,
    round: Option<u32>,
    valid_round: Option<u32>,
    proposer: Address,
    block: BlockId,
    valid: bool,
}

impl Codec<ProposedValue<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, value: &ProposedValue<Engine>) -> Result<Bytes, CodecError> {
        Ok(write(&WireValue {
            height: value.height,
            round: value.round.as_u32(),
            valid_round: value.valid_round.as_u32(),
            proposer: value.proposer,
            block: value.value,
            valid: value.validity.is_valid(),
        }))
    }

    fn decode(&self, bytes: Bytes) -> Result<ProposedValue<Engine>, CodecError> {
        let wire: WireValue = read(&bytes, SMALL)?;
        Ok(ProposedValue {
            height: wire.height,
            round: Round::from(wire.round),
            valid_round: Round::from(wire.valid_round),
            proposer: wire.proposer,
            value: wire.block,
            validity: Validity::from_bool(wire.valid),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct WireStatus {
    peer: List<u8, 128>,
    tip: Height,
    history_min: Height,
}

impl Codec<Status<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, status: &Status<Engine>) -> Result<Bytes, CodecError> {
        Ok(write(&WireStatus {
            peer: list(status.peer_id.to_bytes())?,
            tip: status.tip_height,
            history_min: status.history_min_height,
        }))
    }

    fn decode(&self, bytes: Bytes) -> Result<Status<Engine>, CodecError> {
        let wire: WireStatus = read(&bytes, SMALL)?;
        Ok(Status {
            peer_id: PeerId::from_bytes(&wire.peer)
                .map_err(|_| CodecError::Meaningless("peer id"))?,
            tip_height: wire.tip,
            history_min_height: wire.history_min,
        })
    }
}

impl Codec<Request<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, request: &Request<Engine>) -> Result<Bytes, CodecError> {
        let Request::ValueRequest(request) = request;
        Ok(write(&(*request.range.start(), *request.range.end())))
    }

    fn decode(&self, bytes: Bytes) -> Result<Request<Engine>, CodecError> {
        let (start, end): (Height, Height) = read(&bytes, SMALL)?;
        Ok(Request::ValueRequest(ValueRequest::new(start..=end)))
    }
}

#[derive(Serialize, Deserialize)]
struct WireDecided {
    body: Bytes,
    height: Height,
    round: u32,
    block: BlockId,
    signatures: Signatures,
}

#[derive(Serialize, Deserialize)]
struct WireResponse {
    start: Height,
    values: Vec<WireDecided>,
}

impl WireResponse {
    fn new(response: &Response<Engine>) -> Result<Self, CodecError> {
        let Response::ValueResponse(response) = response;
        let decided = |value: &RawDecidedValue<Engine>| {
            let certificate = &value.certificate;
            let signatures = certificate.commit_signatures.iter();
            Ok(WireDecided {
                body: value.value_bytes.clone(),
                height: certificate.height,
                round: defined(certificate.round)?,
                block: certificate.value_id,
                signatures: list(signatures.map(|s| (s.address, s.signature)).collect())?,
            })
        };
        let values = response
            .values
            .iter()
            .map(decided)
            .collect::<Result<_, CodecError>>()?;
        Ok(Self {
            start: response.start_height,
            values,
        })
    }
}

impl Codec<Response<Engine>> for Wire {
    type Error = CodecError;

    fn encode(&self, response: &Response<Engine>) -> Result<Bytes, CodecError> {
        Ok(write(&WireResponse::new(response)?))
    }

    fn decode(&self, bytes: Bytes) -> Result<Response<Engine>, CodecError> {
        let wire: WireResponse = read(&bytes, self.max_response)?;
        let values = wire.values.into_iter().map(|value| {
            let signatures = value.signatures.into_vec().into_iter();
            let certificate = types::ExtendedCommitCertificate {
                height: value.height,
                round: Round::new(value.round),
                value_id: value.block,
                commit_signatures: signatures
                    .map(|(a, s)| types::ExtendedCommitSignature::new(a, s, None))
                    .collect(),
            };
            RawDecidedValue::new(value.body, certificate)
        });
        Ok(Response::ValueResponse(ValueResponse::new(
            wire.start,
            values.collect(),
        )))
    }
}

impl HasEncodedLen<Response<Engine>> for Wire {
    fn encoded_len(&self, response: &Response<Engine>) -> Result<usize, CodecError> {
        // Start, count; per value: body and its length, height, round, block,
        // count, signatures.
        let Response::ValueResponse(response) = response;
        let value = |value: &RawDecidedValue<Engine>| {
            let signatures = value.certificate.commit_signatures.len();
            8 + value.value_bytes.len() + 8 + 4 + 32 + 8 + 96 * signatures
        };
        Ok(16 + response.values.iter().map(value).sum::<usize>())
    }
}

#[cfg(test)]
mod tests;
