//! Every message comes back as it was; damaged ones never panic, and never
//! become two things at once.

use malachitebft_core_types::SignedMessage;
use tally_ledger::{
    crypto::{PublicKey, SecretKey},
    hash::Hash,
};

use super::*;
use crate::context::Init;

const WIRE: Wire = Wire {
    max_response: 1 << 20,
};

fn address(n: u8) -> Address {
    Address(PublicKey([n; 32]))
}

fn id(n: u8) -> BlockId {
    BlockId(Hash([n; 32]))
}

fn vote(kind: VoteType, block: NilOrVal<BlockId>) -> types::SignedVote<Engine> {
    let vote = Vote {
        kind,
        height: Height(7),
        round: Round::new(3),
        block,
        voter: address(1),
    };
    SignedMessage::new(vote, Signature([9; 64]))
}

/// A small generator: xorshift64*. Deterministic, so a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Round trip, then cuts, flips, insertions and noise: decoding either fails
/// or gives a value whose encoding is exactly those bytes.
fn check<T>(values: Vec<T>)
where
    Wire: Codec<T, Error = CodecError>,
    T: PartialEq + std::fmt::Debug,
{
    let mut random = Random(0x7a11_7a11);
    for value in values {
        let good = WIRE.encode(&value).unwrap();
        assert_eq!(WIRE.decode(good.clone()).unwrap(), value);
        let canonical = |bytes: Vec<u8>| {
            let bytes = Bytes::from(bytes);
            let decoded: Result<T, CodecError> = WIRE.decode(bytes.clone());
            if let Ok(value) = decoded {
                assert_eq!(WIRE.encode(&value).unwrap(), bytes);
            }
        };
        for length in 0..good.len() {
            assert!(
                Codec::<T>::decode(&WIRE, good.slice(..length)).is_err(),
                "cut to {length}"
            );
        }
        for place in 0..good.len() {
            let mut bad = good.to_vec();
            bad[place] ^= 1 << random.below(8);
            canonical(bad.clone());
            bad[place] = 0xff;
            canonical(bad.clone());
            bad.insert(place, 0);
            canonical(bad);
        }
        for _ in 0..2000 {
            let noise = (0..random.below(200))
                .map(|_| random.next() as u8)
                .collect();
            canonical(noise);
        }
    }
}

fn certificate() -> types::ExtendedCommitCertificate<Engine> {
    types::ExtendedCommitCertificate {
        height: Height(7),
        round: Round::new(1),
        value_id: id(3),
        commit_signatures: (0..3)
            .map(|n| types::ExtendedCommitSignature::new(address(n), Signature([n; 64]), None))
            .collect(),
    }
}

fn polka() -> types::PolkaCertificate<Engine> {
    types::PolkaCertificate {
        height: Height(7),
        round: Round::new(1),
        value_id: id(3),
        polka_signatures: (0..3)
            .map(|n| types::PolkaSignature::new(address(n), Signature([n; 64])))
            .collect(),
    }
}

#[test]
fn votes_and_proposals() {
    let proposal = |pol_round| {
        let (height, round) = (Height(1), Round::new(2));
        let proposal = Proposal {
            height,
            round,
            block: id(4),
            pol_round,
            proposer: address(5),
        };
        SignedConsensusMsg::Proposal(SignedMessage::new(proposal, Signature([6; 64])))
    };
    check(vec![
        SignedConsensusMsg::Vote(vote(VoteType::Prevote, NilOrVal::Nil)),
        SignedConsensusMsg::Vote(vote(VoteType::Precommit, NilOrVal::Val(id(2)))),
        proposal(Round::Nil),
        proposal(Round::new(1)),
    ]);
}

#[test]
fn certificates_and_liveness_messages() {
    check(vec![polka()]);
    let round = |cert_type| types::RoundCertificate {
        height: Height(7),
        round: Round::new(1),
        cert_type,
        round_signatures: [
            (VoteType::Prevote, NilOrVal::Nil),
            (VoteType::Precommit, nil_or(Some(id(1)))),
        ]
        .map(|(kind, block)| {
            types::RoundSignature::new(kind, block, address(8), Signature([8; 64]))
        })
        .to_vec(),
    };
    check(vec![
        LivenessMsg::Vote(vote(VoteType::Precommit, NilOrVal::Nil)),
        LivenessMsg::PolkaCertificate(polka()),
        LivenessMsg::SkipRoundCertificate(round(RoundCertificateType::Skip)),
        LivenessMsg::SkipRoundCertificate(round(RoundCertificateType::Precommit)),
    ]);
}

#[test]
fn parts_and_streams() {
    let init = |pol_round| {
        let init = Init {
            height: Height(1),
            round: 2,
            pol_round,
            length: 99,
        };
        Part::First(init, Bytes::from_static(b"the beginning"))
    };
    let data = Part::More(Bytes::from_static(b"some of a body"));
    check(vec![init(None), init(Some(1)), data.clone()]);
    let stream = |content| StreamMessage::new(StreamId::new(vec![1; 8].into()), 5, content);
    check(vec![
        stream(StreamContent::Data(init(None))),
        stream(StreamContent::Data(data)),
        stream(StreamContent::Fin),
    ]);
    let large = Part::More(vec![0; PART_BYTES + 1].into());
    assert!(Codec::<Part>::decode(&WIRE, WIRE.encode(&large).unwrap()).is_err());
    let long = StreamId::new(vec![0; STREAM_ID_BYTES + 1].into());
    let long: StreamMessage<Part> = StreamMessage::new(long, 0, StreamContent::Fin);
    let long = WIRE.encode(&long).unwrap();
    assert!(Codec::<StreamMessage<Part>>::decode(&WIRE, long).is_err());
}

#[test]
fn proofs_values_and_the_messages_of_value_sync() {
    check(vec![types::ValidatorProof::<Engine>::new(
        vec![1; 32],
        vec![2; 38],
        Signature([3; 64]),
    )]);
    check(vec![ProposedValue::<Engine> {
        height: Height(1),
        round: Round::new(0),
        valid_round: Round::Nil,
        proposer: address(1),
        value: id(2),
        validity: Validity::Valid,
    }]);
    let range = Height(3)..=Height(9);
    check(vec![Request::<Engine>::ValueRequest(ValueRequest::new(
        range,
    ))]);
    let body = Bytes::from_static(b"a body");
    let values = vec![RawDecidedValue::new(body, certificate())];
    let response = Response::ValueResponse(ValueResponse::new(Height(7), values));
    let length = WIRE.encode(&response).unwrap().len();
    assert_eq!(WIRE.encoded_len(&response).unwrap(), length);
    check(vec![response]);
    let key = crate::config::keypair(&SecretKey::from_seed(&[1; 32]));
    let peer_id = PeerId::from_bytes(&key.public().to_peer_id().to_bytes()).unwrap();
    let (tip_height, history_min_height) = (Height(4), Height(1));
    check(vec![Status::<Engine> {
        peer_id,
        tip_height,
        history_min_height,
    }]);
}

#[test]
fn a_response_larger_than_its_limit_is_not_read() {
    let values = vec![RawDecidedValue::new(vec![0; 2 << 20].into(), certificate())];
    let response = Response::<Engine>::ValueResponse(ValueResponse::new(Height(7), values));
    let bytes = WIRE.encode(&response).unwrap();
    assert!(Codec::<Response<Engine>>::decode(&WIRE, bytes).is_err());
}
