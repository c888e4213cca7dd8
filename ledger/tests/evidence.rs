//! Evidence on the chain: what is misbehaviour and what is not, what the
//! state keeps of it, and that a chain without it has the bytes and roots
//! that it always had.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    action::Action,
    block::{Header, MAX_VALIDATORS, Validator, ValidatorSet, vote_bytes},
    certified::CertifiedHeader,
    codec,
    crypto::{Domain, SecretKey},
    entry::Event,
    evidence::*,
    execute::{Strict, build},
    hash::{Context, Hash},
    ids::*,
    rates::Rates,
    snapshot::SnapshotError,
    state::State,
    transaction::{Author, MAX_BODY_BYTES, Transaction},
    tree::Table,
};
use world::*;

fn tell(world: &mut World, by: impl Into<Author>, evidence: Evidence) -> Transaction {
    world.tx(by, &[], Action::Evidence(Box::new(evidence)))
}

/// The leaf as a light client reads it.
fn proven(state: &State, number: u32) -> (Validator, Marks) {
    let proof = state.prove(Table::Validators, number);
    let leaf = proof.verify(&state.state_root()).unwrap().unwrap();
    read_validator_leaf(leaf).unwrap()
}

fn heights(marks: &Marks) -> Vec<u64> {
    marks.heights.iter().map(|height| height.0).collect()
}

#[test]
fn a_chain_without_evidence_has_the_bytes_that_it_always_had() {
    let mut world = World::ready();
    assert_eq!(world.state.snapshot()[0], 1);
    let rates = world.by_admins(Action::SetRates(Rates::default()));
    world.run(rates);
    // Taken from a build that knew no evidence.
    let state = "d4c91d4983d684b553785ab931ad78b4c136201b58678dcdb5b6aa99b0076608";
    let snapshot = "5f02e9403d942fe6cfd34826a8a9ed697f14dd2b5bcb56cc30b3111566da53b8";
    assert_eq!(world.state.state_root().to_string(), state);
    let bytes = world.state.snapshot();
    assert_eq!(Context::EntryBody.hash(&bytes).to_string(), snapshot);
    assert_eq!(bytes[0], 2);
    for (number, validator) in (0..).zip(world.genesis.validators.0.iter()) {
        let leaf = world.state.prove(Table::Validators, number).leaf.unwrap();
        assert_eq!(leaf.to_vec(), codec::encode(validator));
        assert_eq!(proven(&world.state, number), (*validator, Marks::default()));
    }
}

#[test]
fn evidence_marks_its_validator_and_no_other() {
    let mut world = World::ready();
    let before = world.state.clone();
    let evidence = world.double_vote(place(1, 4));
    let transaction = tell(&mut world, validator(2), evidence.clone());
    let id = transaction.id();
    let entries = world.run(transaction);
    let expected = Event::SignedTwice {
        transaction: id,
        place: place(1, 4),
        signed: Kind::Precommits,
        evidence: evidence.hash(),
    };
    assert_eq!(events(&entries), [expected]);
    assert_eq!(events(&entries)[0].kind(), 27);
    assert_eq!(world.state.counts().controls, before.counts().controls + 1);
    let (validator, marks) = proven(&world.state, 1);
    assert_eq!(validator, world.genesis.validators.0[1]);
    assert_eq!((marks.count, heights(&marks)), (1, vec![4]));
    assert_eq!(&marks, &world.state.marks()[1]);
    for other in [0, 2] {
        assert_eq!(
            world.state.prove(Table::Validators, other).leaf,
            before.prove(Table::Validators, other).leaf
        );
    }
    // Later and earlier heights follow, each in its place.
    for height in [6, 2] {
        let evidence = world.double_vote(place(1, height));
        let transaction = tell(&mut world, OWNER, evidence);
        world.run(transaction);
    }
    let marks = proven(&world.state, 1).1;
    assert_eq!((marks.count, heights(&marks)), (3, vec![2, 4, 6]));
}

#[test]
fn each_pair_of_different_bytes_of_one_place_is_evidence() {
    let mut world = World::ready();
    let at = place(0, 1);
    let block = |byte| Some(Hash([byte; 32]));
    // nil and a block are two votes, and so are two blocks.
    let votes = |world: &World, vote, blocks: [Option<Hash>; 2]| {
        let pair = blocks.map(|block| world.signed_vote(at, vote, block));
        Evidence::of_votes(at, vote, pair).unwrap()
    };
    let proposals = |world: &World, pair: [(u8, i32); 2]| {
        let pair = pair.map(|(block, pol)| world.signed_proposal(at, block, pol));
        Evidence::of_proposals(at, pair).unwrap()
    };
    let all = [
        (
            votes(&world, Vote::Prevote, [block(1), None]),
            Kind::Prevotes,
        ),
        (
            votes(&world, Vote::Precommit, [None, block(1)]),
            Kind::Precommits,
        ),
        (
            votes(&world, Vote::Prevote, [block(2), block(1)]),
            Kind::Prevotes,
        ),
        (proposals(&world, [(2, -1), (1, -1)]), Kind::Proposals),
        // One block with another proof of lock, in either order.
        (proposals(&world, [(1, 0), (1, -1)]), Kind::Proposals),
        (proposals(&world, [(1, -1), (1, 2)]), Kind::Proposals),
    ];
    for (evidence, kind) in all {
        let offences = evidence.verify(world.state.chain(), world.state.validators());
        let place = at;
        assert_eq!(offences, Ok(vec![Offence { place, kind }]));
        let transaction = tell(&mut world, validator(0), evidence);
        let built = build(&world.state, world.time(), 0, [&transaction], &Strict);
        assert_eq!(built.refused, []);
    }
}

#[test]
fn one_message_twice_is_none_whatever_its_signatures() {
    let world = World::ready();
    let (at, block) = (place(0, 1), Some(Hash([1; 32])));
    let vote = world.signed_vote(at, Vote::Prevote, block);
    let mut other = vote;
    other.signature.0[63] ^= 1;
    for pair in [[vote, vote], [vote, other]] {
        let none = Evidence::of_votes(at, Vote::Prevote, pair);
        assert_eq!(none, Err(EvidenceError::Same));
    }
    let proposal = world.signed_proposal(at, 1, -1);
    let none = Evidence::of_proposals(at, [proposal, proposal]);
    assert_eq!(none, Err(EvidenceError::Same));
    let [one, _] = world.fork([0, 0]);
    // Another quorum, or another round, of one block is no fork.
    let later = world.certified_by(one.header, 1, &[0, 1, 2]);
    for other in [one.clone(), later] {
        let none = Evidence::of_certificates(one.clone(), other);
        assert_eq!(none, Err(EvidenceError::Same));
    }
}

#[test]
fn whoever_the_state_knows_may_tell() {
    let mut world = World::ready();
    let authors: [Author; 5] = [
        validator(1),
        OWNER.into(),
        AccountNumber(0).into(),
        G0.into(),
        ApiKeyNumber(0).into(),
    ];
    for (height, author) in (1..).zip(authors) {
        // Its own misdeeds too.
        let evidence = world.double_vote(place(1, height));
        let transaction = tell(&mut world, author, evidence);
        world.run(transaction);
    }
    assert_eq!(world.state.marks()[1].count, 5);
    assert_eq!(world.state.marks()[0].count, 0);
}

#[test]
fn a_fork_marks_all_who_are_in_both_certificates() {
    let mut world = World::ready();
    let height = world.state.height();
    let earlier = world.double_vote(place(1, height.0));
    let pair = world.fork([2, 2]);
    let [one, other] = pair.clone();
    let evidence = Evidence::of_certificates(other, one).unwrap();
    assert!(matches!(&evidence, Evidence::Certificates(sorted)
        if sorted[0].header.id() < sorted[1].header.id()));
    let known = tell(&mut world, validator(0), earlier);
    let fork = tell(&mut world, validator(0), evidence.clone());
    // Whoever is known already is passed over.
    let entries = world.block(&[known, fork]);
    let told: Vec<_> = (events(&entries).iter())
        .filter_map(|event| match event {
            Event::SignedTwice { place, signed, .. } => {
                Some((place.validator, place.round, *signed))
            }
            _ => None,
        })
        .collect();
    let certificates = Kind::Certificates;
    assert_eq!(
        told,
        [
            (1, 3, Kind::Precommits),
            (0, 2, certificates),
            (2, 2, certificates)
        ]
    );
    for number in 0..3 {
        assert_eq!(heights(&proven(&world.state, number).1), [height.0]);
    }
    // Of two rounds it is a fork all the same, but names nobody.
    let [one, other] = world.fork([0, 1]);
    let evidence = Evidence::of_certificates(one, other).unwrap();
    let (chain, validators) = (world.state.chain(), world.state.validators());
    assert_eq!(evidence.verify(chain, validators), Ok(vec![]));
    assert_eq!(evidence.signed_both(), [0, 1, 2]);
}

#[test]
fn snapshots_keep_marks_with_and_without_rates() {
    for with_rates in [false, true] {
        let mut world = World::ready();
        if with_rates {
            let rates = world.by_admins(Action::SetRates(Rates::default()));
            world.run(rates);
        }
        for at in [place(2, 3), place(0, 5), place(2, 1)] {
            let evidence = world.double_vote(at);
            let transaction = tell(&mut world, validator(1), evidence);
            world.run(transaction);
        }
        let bytes = world.state.snapshot();
        assert_eq!(bytes[0], 3);
        let mut read = State::from_snapshot(&world.genesis, &bytes).unwrap();
        assert_eq!(read.snapshot(), bytes);
        assert_eq!(read.marks(), world.state.marks());
        assert_eq!(read.rates().is_some(), with_rates);
        // It goes on as the other one does.
        let evidence = world.double_vote(place(2, 2));
        let transaction = tell(&mut world, validator(1), evidence);
        let now = world.time();
        read.commit(build(&read, now, 0, [&transaction], &Strict).execution);
        world.run(transaction);
        assert_eq!(read.snapshot(), world.state.snapshot());
    }
}

#[test]
fn a_snapshot_with_other_marks_or_none_is_refused() {
    let mut world = World::ready();
    let evidence = world.double_vote(place(2, 3));
    let transaction = tell(&mut world, validator(1), evidence);
    world.run(transaction);
    let bytes = world.state.snapshot();
    let body = &bytes[..bytes.len() - 32];
    let rehashed = |body: &[u8]| [body, &Context::Snapshot.hash(body).0].concat();
    let read = |body: &[u8]| State::from_snapshot(&world.genesis, &rehashed(body)).unwrap_err();
    // No rates 1, one mark: count 8, validator 2, count 4, list 8 + 8; no
    // units: count 8.
    let marks = 1 + 8 + 2 + 4 + 16 + 8;
    for at in body.len() - marks..body.len() {
        let mut changed = body.to_vec();
        changed[at] ^= 1;
        let known = matches!(
            read(&changed),
            SnapshotError::Roots("state root" | "list of marks") | SnapshotError::Decode(_)
        );
        assert!(known, "byte {at}");
    }
    let mut without = body[..body.len() - marks].to_vec();
    without[0] = 1;
    assert_eq!(read(&without), SnapshotError::Roots("state root"));
    without[0] = 3;
    without.extend([0; 17]);
    assert_eq!(read(&without), SnapshotError::Roots("version"));
}

#[test]
fn refused_evidence_leaves_no_trace() {
    let mut world = World::ready();
    let good = [1, 2, 3, 4].map(|height| world.double_vote(place(1, height)));
    let good = good.map(|evidence| tell(&mut world, validator(0), evidence));
    let fifth = world.double_vote(place(2, 5));
    let fifth = tell(&mut world, validator(0), fifth);
    let now = world.time();
    let with = build(&world.state, now, 0, good.iter().chain([&fifth]), &Strict);
    let without = build(&world.state, now, 0, &good, &Strict);
    assert_eq!(with.block, without.block);
    world.block(&good);
    assert_eq!(world.state.marks()[2], Marks::default());
    world.run(fifth);
    assert_eq!(world.state.marks()[2].count, 1);
}

#[test]
fn a_file_verifies_with_the_genesis_alone_and_no_altered_one_does() {
    let world = World::ready();
    let chain = *world.state.chain();
    let [one, other] = world.fork([0, 0]);
    let proposals = [(1, 0), (1, 1)].map(|(block, pol)| {
        let at = place(0, 9);
        world.signed_proposal(at, block, pol)
    });
    let all = [
        (world.double_vote(place(1, 7)), vec![1]),
        (
            Evidence::of_proposals(place(0, 9), proposals).unwrap(),
            vec![0],
        ),
        (
            Evidence::of_certificates(one, other).unwrap(),
            vec![0, 1, 2],
        ),
    ];
    for (evidence, whom) in all {
        let file = EvidenceFile { chain, evidence };
        let bytes = file.encode();
        let read = EvidenceFile::decode(&bytes).unwrap();
        assert_eq!(read, file);
        let offences = read.verify(&world.genesis).unwrap();
        let named: Vec<u16> = offences.iter().map(|o| o.place.validator).collect();
        assert_eq!(named, whom);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let proves = EvidenceFile::decode(&changed)
                .is_ok_and(|file| file.verify(&world.genesis).is_ok());
            assert!(!proves, "byte {at}");
        }
        let mut other = world.genesis.clone();
        other.name = "another".into();
        let error = read.verify(&other).unwrap_err();
        assert!(matches!(error, EvidenceError::OtherChain { .. }));
    }
}

/// Two certificates of as many validators as there may be, all of whom signed
/// both.
#[test]
fn the_largest_evidence_fits_a_body_and_its_bound() {
    let keys: Vec<SecretKey> = (0..MAX_VALIDATORS as u8)
        .map(|n| SecretKey::from_seed(&[n; 32]))
        .collect();
    let mut world = World::ready();
    let validator = |key: &SecretKey| Validator {
        consensus_key: key.public(),
        ..world.genesis.validators.0[0]
    };
    let set = ValidatorSet(list(keys.iter().map(validator).collect()));
    let header = *world.state.header().unwrap();
    let other = Header {
        log_size: 1,
        ..header
    };
    let chain = *world.state.chain();
    let certified = |header: Header| {
        let bytes = vote_bytes(header.height, 0, Some(&header.id()));
        let sign = |(n, key): (u16, &SecretKey)| (n, key.sign(Domain::Precommit, &chain, &bytes));
        let precommits = list((0..).zip(&keys).map(sign).collect());
        CertifiedHeader {
            header,
            certificate: tally_ledger::block::Certificate {
                round: 0,
                precommits,
            },
            set_changes: Default::default(),
        }
    };
    let evidence = Evidence::of_certificates(certified(header), certified(other)).unwrap();
    assert_eq!(evidence.verify(&chain, &set).unwrap().len(), MAX_VALIDATORS);
    let bytes = evidence.encode();
    assert_eq!(bytes.len(), MAX_EVIDENCE_BYTES);
    assert_eq!(Evidence::decode(&bytes), Ok(evidence.clone()));
    let body = tell(&mut world, OWNER, evidence).body.len();
    const { assert!(10_000 < MAX_BODY_BYTES) };
    assert!(body < 10_000, "{body}");
}
