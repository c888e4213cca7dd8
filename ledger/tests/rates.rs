//! Rates on the chain: a chain that never set them has the bytes and roots
//! that it always had; from the first SetRates on they are a leaf of their
//! own, and everything beside them goes on as before.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    action::{Action, RegisterGateway},
    codec::{self, List},
    entry::Event,
    execute::{Strict, build},
    hash::Context,
    ids::*,
    parameters::Parameters,
    rates::{ClassRate, Rate, Rates, RatesState},
    reason::Reason,
    snapshot::SnapshotError,
    state::State,
    tree::Table,
};
use world::*;

/// A world in which all kinds of things were governed, but no rates.
fn governed() -> World {
    let mut world = World::ready();
    world.open_account();
    world.issue(1, PRIORITY, 5 * CT);
    world.lease(G0, |_| ());
    world.lease(G1, |_| ());
    let mut parameters = *world.state.parameters();
    parameters.heartbeat_ms = 7_000;
    let set = world.by_admins(Action::SetParameters(parameters));
    world.run(set);
    let register = world.by_admins(Action::RegisterGateway(RegisterGateway {
        key: stray_key(9),
        caps: caps(CT),
    }));
    world.run(register);
    let table = world.by_admins(Action::SetPriceTable(prices(2, 2)));
    world.run(table);
    world
}

fn rate(requests: u32, tokens: u32) -> Rate {
    Rate { requests, tokens }
}

fn rates() -> Rates {
    Rates {
        fee_unit: Amount(2_000),
        key: rate(60, 10_000),
        account: Rate::NONE,
        classes: List::new(vec![ClassRate {
            class: PRIORITY,
            rate: rate(600, 1),
        }])
        .unwrap(),
    }
}

fn set(world: &mut World, rates: &Rates) -> Vec<Event> {
    let set = world.by_admins(Action::SetRates(rates.clone()));
    events(&world.run(set))
}

/// The leaf as a light client reads it.
fn proven(state: &State) -> Option<RatesState> {
    let proof = state.prove(Table::Parameters, 1);
    let leaf = proof.verify(&state.state_root()).unwrap();
    leaf.map(|leaf| codec::decode(leaf, leaf.len()).unwrap())
}

#[test]
fn a_chain_without_rates_has_the_bytes_that_it_always_had() {
    let world = governed();
    // Taken from a build that knew no rates.
    let state = "cdd24e91cd4ae10baa81e5d8544cc86e39be0eddb5af0ef8ac82e1969f728b1f";
    let log = "32f97fff0fac274a1f75be8448cfc5e68ccef2bf3eae42e231f9618c72502565";
    let snapshot = "93a816f41f1bc73473a219e1be2222c8b785dd687c1867ea5830bab43ea04ddb";
    assert_eq!(world.state.state_root().to_string(), state);
    assert_eq!(world.state.log().root().to_string(), log);
    let bytes = world.state.snapshot();
    assert_eq!(Context::EntryBody.hash(&bytes).to_string(), snapshot);
    assert_eq!((bytes[0], world.state.size(Table::Parameters)), (1, 1));
    assert_eq!(proven(&world.state), None);
    assert_eq!(world.state.rates(), None);
}

#[test]
fn rates_are_a_leaf_of_their_own_from_the_first_set_rates_on() {
    let mut world = governed();
    let parameters = *world.state.parameters();
    let before = world.state.clone();
    let controls = before.counts().controls;
    let entries = set(&mut world, &rates());
    assert!(matches!(entries[..], [Event::RatesSet { .. }]));
    assert_eq!(world.state.counts().controls, controls + 1);
    let since = world.state.time();
    let first = RatesState {
        rates: rates(),
        since,
        worth: Sum(u128::from(since.0) * 1_000),
    };
    assert_eq!(proven(&world.state).as_ref(), Some(&first));
    assert_eq!(world.state.rates(), Some(&first));
    // The parameters' own leaf is what it was.
    let proof = world.state.prove(Table::Parameters, 0);
    let leaf = proof.verify(&world.state.state_root()).unwrap().unwrap();
    assert_eq!(codec::decode::<Parameters>(leaf, 99), Ok(parameters));
    // All of it is set anew, and waiting keeps its worth.
    world.now += 5_000;
    let again = Rates {
        fee_unit: Amount(1),
        ..Rates::default()
    };
    set(&mut world, &again);
    let state = proven(&world.state).unwrap();
    let waited = u128::from(state.since.0 - since.0) * 2_000;
    assert_eq!(state.worth.0, first.worth.0 + waited);
    assert_eq!((state.rates, waited >= 10_000_000), (again, true));
    // Parameters go on beside them.
    let mut changed = parameters;
    changed.heartbeat_ms = 8_000;
    let change = world.by_admins(Action::SetParameters(changed));
    world.run(change);
    assert_eq!(world.state.parameters(), &changed);
    assert_eq!(proven(&world.state).unwrap().since, state.since);
    assert_eq!(world.state.size(Table::Parameters), 2);
}

#[test]
fn a_snapshot_of_before_and_one_of_after_lead_to_the_same_state() {
    let mut world = governed();
    let mut old = State::from_snapshot(&world.genesis, &world.state.snapshot()).unwrap();
    let transaction = world.by_admins(Action::SetRates(rates()));
    let now = world.time();
    old.commit(build(&old, now, 0, [&transaction], &Strict).execution);
    world.run(transaction);
    assert_eq!(old.state_root(), world.state.state_root());
    let bytes = world.state.snapshot();
    assert_eq!((&old.snapshot(), bytes[0]), (&bytes, 2));
    let mut new = State::from_snapshot(&world.genesis, &bytes).unwrap();
    assert_eq!(new.snapshot(), bytes);
    let mut later = rates();
    later.key = rate(1, 1);
    let transaction = world.by_admins(Action::SetRates(later));
    let now = world.time();
    new.commit(build(&new, now, 0, [&transaction], &Strict).execution);
    world.run(transaction);
    assert_eq!(new.snapshot(), world.state.snapshot());
}

#[test]
fn a_snapshot_with_other_rates_or_none_is_refused() {
    let mut world = governed();
    let without = world.state.snapshot();
    set(&mut world, &rates());
    let good = world.state.snapshot();
    let rehashed = |body: &[u8]| [body, &Context::Snapshot.hash(body).0].concat();
    let read = |body: &[u8]| State::from_snapshot(&world.genesis, &rehashed(body)).unwrap_err();
    let body = &good[..good.len() - 32];
    let leaf = codec::encode(world.state.rates().unwrap()).len();
    for at in body.len() - leaf..body.len() {
        let mut changed = body.to_vec();
        changed[at] ^= 1;
        let error = read(&changed);
        let known = matches!(
            error,
            SnapshotError::Roots("state root") | SnapshotError::Decode(_)
        );
        assert!(known, "byte {at}: {error}");
    }
    // Version 1 with rates, version 2 without, version 1 of a later state.
    for (version, bytes) in [(1, body), (2, &without[..without.len() - 32])] {
        let mut changed = bytes.to_vec();
        changed[0] = version;
        assert!(matches!(read(&changed), SnapshotError::Decode(_)));
    }
    let mut dropped = body[..body.len() - leaf].to_vec();
    dropped[0] = 1;
    assert_eq!(read(&dropped), SnapshotError::Roots("state root"));
}

#[test]
fn refused_rates_leave_those_before_them() {
    let mut world = governed();
    let good = world.by_admins(Action::SetRates(rates()));
    let mut lower = rates();
    lower.account = rate(1, 1);
    let second = world.by_admins(Action::SetRates(lower.clone()));
    lower.fee_unit = Amount(0);
    let bad = world.by_admins(Action::SetRates(lower));
    let now = world.time();
    for first in [vec![], vec![&good], vec![&good, &second]] {
        let with: Vec<_> = first.iter().copied().chain([&bad]).collect();
        let with = build(&world.state, now, 0, with, &Strict);
        let without = build(&world.state, now, 0, first, &Strict);
        assert_eq!(with.refused, [(bad.id(), Reason::UnlawfulRates)]);
        assert_eq!(with.block, without.block);
    }
    // The last of a block holds.
    world.block(&[good, second]);
    assert_eq!(world.state.rates().unwrap().rates.account, rate(1, 1));
}
