//! Units of persons: who has none has the leaf that it always had, and a chain
//! on which nobody has one its snapshots; with one, leaf, log and snapshot
//! carry it, and everything beside it goes on as before.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    action::{Action, SetRole, SetUnit},
    codec,
    entry::Event,
    execute::{Strict, build},
    hash::Context,
    ids::*,
    person::{PersonState, Roles},
    rates::Rates,
    reason::Reason,
    snapshot::SnapshotError,
    state::State,
    transaction::{Body, Transaction},
    tree::Table,
};
use world::*;

fn set(world: &mut World, person: Person, unit: Option<u32>) -> Transaction {
    world.by_admins(Action::SetUnit(SetUnit { person, unit }))
}

/// The leaf as a light client reads it.
fn proven(state: &State, person: Person) -> Vec<u8> {
    let proof = state.prove(Table::Persons, person.0);
    proof.verify(&state.state_root()).unwrap().unwrap().to_vec()
}

#[test]
fn a_unit_is_behind_the_leaf_as_long_as_there_is_one() {
    let mut world = World::ready();
    let before = proven(&world.state, ISSUER);
    let person = *world.state.person(ISSUER).unwrap();
    assert_eq!(before, codec::encode(&person));
    let controls = world.state.counts().controls;
    let given = set(&mut world, ISSUER, Some(7));
    let entries = events(&world.run(given));
    assert!(matches!(
        entries[..],
        [Event::UnitSet {
            person: ISSUER,
            unit: Some(7),
            ..
        }]
    ));
    assert_eq!(
        (entries[0].kind(), world.state.counts().controls),
        (29, controls + 1)
    );
    let leaf = proven(&world.state, ISSUER);
    assert_eq!(leaf, [&before[..], &7u32.to_le_bytes()].concat());
    let with = PersonState {
        unit: Some(7),
        ..person
    };
    assert_eq!(PersonState::from_leaf(&leaf), Ok(with));
    // Another role and key keep it.
    let role = Action::SetRole(SetRole {
        person: ISSUER,
        key: stray_key(5),
        roles: Roles::UNIT_MANAGER,
    });
    let role = world.by_admins(role);
    world.run(role);
    assert_eq!(world.state.person(ISSUER).unwrap().unit, Some(7));
    // Taken away, the leaf is as of before but for what else has changed.
    let taken = set(&mut world, ISSUER, None);
    world.run(taken);
    let leaf = proven(&world.state, ISSUER);
    assert_eq!(leaf.len(), before.len());
    assert_eq!(leaf, codec::encode(world.state.person(ISSUER).unwrap()));
    assert_consistent(&world.state);
}

#[test]
fn a_refused_unit_leaves_the_one_before() {
    let mut world = World::ready();
    let first = set(&mut world, ADMIN, Some(1));
    world.run(first);
    let nobody = Person(world.state.persons().len() as u32);
    let bad = set(&mut world, nobody, Some(2));
    let again = set(&mut world, ADMIN, Some(3));
    let now = world.time();
    let built = build(&world.state, now, 0, [&bad, &again], &Strict);
    assert_eq!(built.refused, [(bad.id(), Reason::UnknownPerson)]);
    world.block(&[again]);
    assert_eq!(world.state.person(ADMIN).unwrap().unit, Some(3));
}

#[test]
fn snapshots_have_the_lowest_version_that_holds_the_state() {
    let mut world = World::ready();
    let version = |world: &World| {
        let bytes = world.state.snapshot();
        let read = State::from_snapshot(&world.genesis, &bytes).unwrap();
        assert_eq!(read.snapshot(), bytes);
        assert_eq!(read.state_root(), world.state.state_root());
        assert_eq!(read.persons(), world.state.persons());
        bytes[0]
    };
    assert_eq!(version(&world), 1);
    let given = set(&mut world, ADMIN, Some(9));
    world.run(given);
    assert_eq!(version(&world), 3);
    let rates = world.by_admins(Action::SetRates(Rates::default()));
    world.run(rates);
    assert_eq!(version(&world), 3);
    let taken = set(&mut world, ADMIN, None);
    world.run(taken);
    assert_eq!(version(&world), 2);
    // A state that was read goes on like the one that was not.
    let given = set(&mut world, CHECKER, Some(0));
    let now = world.time();
    let mut read = State::from_snapshot(&world.genesis, &world.state.snapshot()).unwrap();
    read.commit(build(&read, now, 0, [&given], &Strict).execution);
    world.run(given);
    assert_eq!(read.snapshot(), world.state.snapshot());
}

#[test]
fn a_snapshot_with_other_units_is_refused() {
    let mut world = World::ready();
    for person in [ADMIN, CHECKER] {
        let given = set(&mut world, person, Some(9));
        world.run(given);
    }
    let good = world.state.snapshot();
    let body = &good[..good.len() - 32];
    let rehashed = |body: &[u8]| [body, &Context::Snapshot.hash(body).0].concat();
    let read = |body: &[u8]| State::from_snapshot(&world.genesis, &rehashed(body));
    // Rates or not, a reserved list, a list of two pairs.
    let behind = body.len() - (1 + 8 + 8 + 16);
    for at in behind..body.len() {
        let mut changed = body.to_vec();
        changed[at] ^= 1;
        assert!(read(&changed).is_err(), "byte {at}");
    }
    let mut swapped = body.to_vec();
    swapped[behind + 17..].rotate_left(8);
    assert_eq!(
        read(&swapped).unwrap_err(),
        SnapshotError::Roots("list of units")
    );
    // Nobody in the list, and still version 3.
    let without = World::ready().state.snapshot();
    let mut empty = without[..without.len() - 32].to_vec();
    empty[0] = 3;
    empty.extend([0; 17]);
    assert_eq!(read(&empty).unwrap_err(), SnapshotError::Roots("version"));
    assert_eq!(
        read(&[&[4], &body[1..]].concat()).unwrap_err(),
        SnapshotError::Version(4)
    );
}

#[test]
fn reserved_tags_decode_to_nothing() {
    let mut world = World::ready();
    let body = Body::decode(&set(&mut world, ADMIN, None).body).unwrap();
    let bytes = body.encode();
    let at = bytes.len() - (4 + 4 + 1);
    assert_eq!(bytes[at..at + 4], 33u32.to_le_bytes());
    for tag in [22u32, 23].into_iter().chain(26..=32) {
        let mut changed = bytes.clone();
        changed[at..at + 4].copy_from_slice(&tag.to_le_bytes());
        assert!(Body::decode(&changed).is_err(), "{tag}");
        assert!(Body::decode(&changed[..at + 4]).is_err(), "{tag}");
    }
}
