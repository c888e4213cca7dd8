//! Grants: vest and expiry at their very millisecond, burning, issuers' day
//! limits, supply caps, corrections.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    action::{Action, Correct, Issue, NewGrant, Revoke, SetClass},
    class::Totals,
    correction::CorrectionProof,
    entry::Event,
    genesis::Genesis,
    ids::*,
    reason::Reason,
    transaction::Transaction,
};
use world::*;

fn totals(world: &World, account: usize) -> Totals {
    world.state.accounts()[account].totals_of(BASE)
}

fn grants(grants: Vec<NewGrant>) -> Action {
    Action::Issue(Issue {
        grants: list(grants),
    })
}

fn grant(account: u32, amount: u64) -> NewGrant {
    NewGrant {
        account: AccountNumber(account),
        class: BASE,
        amount: Amount(amount),
        vests: Time(START),
        expires: NEVER,
    }
}

fn with_parameters(change: impl FnOnce(&mut tally_ledger::parameters::Parameters)) -> Genesis {
    let mut genesis = genesis();
    change(&mut genesis.parameters);
    genesis
}

#[test]
fn vesting_and_expiry_happen_at_their_millisecond() {
    let mut world = World::ready();
    let account = world.open_account() as usize;
    let (vests, expires) = (START + 500_000, START + 900_000);
    world.issue_dated(account as u32, BASE, 7, Time(vests), Time(expires));
    let place = |world: &World| {
        let totals = totals(world, account);
        (totals.unvested.0, totals.available.0, totals.expired.0)
    };
    world.block_at(vests - 1, &[]);
    assert_eq!(place(&world), (7, 0, 0));
    let vested = events(&world.block_at(vests, &[]));
    let (grant, amount) = (GrantNumber(1), Amount(7));
    assert_eq!(vested, [Event::GrantVested { grant, amount }]);
    assert_eq!(place(&world), (0, 7, 0));
    world.block_at(expires - 1, &[]);
    assert_eq!(place(&world), (0, 7, 0));
    let expired = events(&world.block_at(expires, &[]));
    assert_eq!(expired, [Event::GrantExpired { grant, amount }]);
    assert_eq!(place(&world), (0, 0, 7));
    assert!(world.state.accounts()[account].grants.is_empty());
}

#[test]
fn a_grant_vested_by_now_is_available_at_once() {
    let mut world = World::ready();
    let now = world.now;
    for (vests, vested) in [(now - 1, true), (now, true), (now + 1, false)] {
        world.now = now;
        let action = grants(vec![NewGrant {
            vests: Time(vests),
            ..grant(0, 1)
        }]);
        let mut probe = World::ready();
        assert_eq!(probe.now, now);
        let transaction = probe.by_two(action);
        probe.run(transaction);
        let held = *probe.state.accounts()[0].grants.last().unwrap();
        assert_eq!(held.vested, vested);
    }
}

#[test]
fn a_block_that_comes_late_runs_all_steps_in_order() {
    let mut world = World::ready();
    let day = START + DAY_MS;
    world.issue_dated(0, BASE, 1, Time(day + 2), Time(day + 3));
    world.issue_dated(0, BASE, 2, Time(day + 1), Time(day + 3));
    world.issue_dated(0, PRIORITY, 3, Time(day), Time(day + 2));
    let steps: Vec<String> = events(&world.block_at(day + 10, &[]))
        .iter()
        .map(|event| match event {
            Event::GrantVested { grant, .. } => format!("vest {grant}"),
            Event::GrantExpired { grant, .. } => format!("expire {grant}"),
            other => panic!("{other:?}"),
        })
        .collect();
    let order = [
        "vest 4", "vest 3", "vest 2", "expire 4", "expire 2", "expire 3",
    ];
    assert_eq!(steps, order);
}

#[test]
fn burning_moves_only_what_is_free() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let surrender = world.surrender_tx(1, 30 * CT);
    world.run(surrender);
    let revoke = world.by_two(Action::Revoke(Revoke {
        account: AccountNumber(0),
        grant: GrantNumber(1),
    }));
    world.run(revoke);
    let now = totals(&world, 0);
    assert_eq!(now.available.0, 0);
    assert_eq!((now.surrendered.0, now.revoked.0), (30 * CT, 60 * CT));
    // The running lease may still settle; its rest follows the grant.
    world.debit(G0, debit(lease, 4));
    world.return_lease(G0, lease);
    let now = totals(&world, 0);
    assert_eq!((now.spent.0, now.revoked.0), (4, 70 * CT - 4));
}

#[test]
fn an_unvested_grant_can_be_burned() {
    let mut world = World::ready();
    let account = world.open_account();
    let vests = Time(START + DAY_MS);
    let grant = world.issue_dated(account, BASE, 9, vests, NEVER);
    let revoke = world.by_two(Action::Revoke(Revoke {
        account: AccountNumber(account),
        grant,
    }));
    world.run(revoke);
    let now = totals(&world, account as usize);
    assert_eq!((now.unvested.0, now.revoked.0), (0, 9));
    // It is gone; nothing vests.
    assert_eq!(events(&world.block_at(vests.0, &[])).len(), 0);
}

#[test]
fn one_issuer_has_a_limit_per_day_and_account() {
    let mut world = World::ready_of(with_parameters(|parameters| {
        parameters.issuer_day_limit = Amount(10);
        parameters.issuer_day_account_limit = Amount(6);
    }));
    world.open_account();
    let day = START + DAY_MS;
    world.now = day - 10_000;
    let alone = |world: &mut World, account, amount| {
        let transaction = world.by_issuer(grants(vec![grant(account, amount)]));
        match tally_ledger::execute::admit(
            &world.state,
            world.time(),
            &transaction,
            &tally_ledger::execute::Strict,
        ) {
            Ok(_) => {
                world.run(transaction);
                None
            }
            Err(_) => Some(world.refusal(&transaction)),
        }
    };
    let missing = Some(Reason::CheckerMissing);
    assert_eq!(alone(&mut world, 0, 6), None);
    assert_eq!(alone(&mut world, 0, 1), missing, "the account's limit");
    assert_eq!(alone(&mut world, 1, 5), missing, "the day's limit");
    assert_eq!(alone(&mut world, 1, 4), None);
    assert_eq!(alone(&mut world, 1, 1), missing);
    // With a checker nothing is limited, and nothing is counted.
    let two = world.by_two(grants(vec![grant(0, 1000)]));
    world.run(two);
    assert_eq!(world.state.person(ISSUER).unwrap().day_total, Amount(10));
    // Taking counts like giving.
    world.now = day - 1;
    let transaction = world.by_issuer(Action::Revoke(Revoke {
        account: AccountNumber(1),
        grant: GrantNumber(1),
    }));
    assert_eq!(world.refusal(&transaction), Reason::CheckerMissing);
    world.now = day;
    assert_eq!(alone(&mut world, 1, 3), None);
    let transaction = world.by_issuer(Action::Revoke(Revoke {
        account: AccountNumber(1),
        grant: GrantNumber(1),
    }));
    assert_eq!(
        world.refusal(&transaction),
        Reason::CheckerMissing,
        "3 + 4 > 6"
    );
    assert_eq!(alone(&mut world, 0, 6), None);
}

#[test]
fn a_class_has_a_supply_cap_per_period() {
    let mut genesis = genesis();
    let mut classes = genesis.classes.to_vec();
    classes[0].supply_cap = Amount(100 * CT + 10);
    classes[0].period_days = 7;
    genesis.classes = list(classes);
    let mut world = World::ready_of(genesis);
    let two = world.by_two(grants(vec![grant(0, 10)]));
    world.run(two);
    let more = world.by_two(grants(vec![grant(0, 1)]));
    assert_eq!(world.refusal(&more), Reason::SupplyCap);
    // 19,700 is 7 * 2,814 + 2: five days later a period begins.
    world.now = START + 5 * DAY_MS - 1;
    let more = world.by_two(grants(vec![grant(0, 1)]));
    assert_eq!(world.refusal(&more), Reason::SupplyCap);
    world.now = START + 5 * DAY_MS;
    let more = world.by_two(grants(vec![grant(0, 100 * CT + 10)]));
    world.run(more);
    let class = world.state.class(BASE).unwrap();
    assert_eq!(class.period_issued, Amount(100 * CT + 10));
    assert_eq!(class.totals.issued, Amount(200 * CT + 20));
}

/// A world in which the base class may issue 100 CT and 10 micro-CT in so
/// many days, all but 10 of which are issued.
fn capped(period_days: u32) -> World {
    let mut genesis = genesis();
    let mut classes = genesis.classes.to_vec();
    classes[0].supply_cap = Amount(100 * CT + 10);
    classes[0].period_days = period_days;
    genesis.classes = list(classes);
    World::ready_of(genesis)
}

fn set_period(world: &mut World, period_days: u32) {
    let mut rules = world.state.class(BASE).unwrap().rules.clone();
    rules.period_days = period_days;
    let class = BASE;
    let set = world.by_admins(Action::SetClass(SetClass { class, rules }));
    world.run(set);
}

#[test]
fn another_length_of_the_period_does_not_forget_what_was_issued() {
    // 19,700 is 7 * 2,814 + 2 and 30 * 656 + 20.
    for (from, to) in [(7, 30), (30, 7), (7, 1), (1, 30), (7, 7)] {
        let mut world = capped(from);
        set_period(&mut world, to);
        let more = world.by_two(grants(vec![grant(0, 11)]));
        assert_eq!(world.refusal(&more), Reason::SupplyCap, "{from} to {to}");
        let rest = world.by_two(grants(vec![grant(0, 10)]));
        world.run(rest);
        // Back again: still the same period of either length.
        set_period(&mut world, from);
        let more = world.by_two(grants(vec![grant(0, 1)]));
        assert_eq!(world.refusal(&more), Reason::SupplyCap, "{to} to {from}");
    }
}

#[test]
fn the_next_period_of_the_new_length_begins_at_none() {
    let mut world = capped(7);
    set_period(&mut world, 30);
    // The old length's next period is none any more.
    world.now = START + 5 * DAY_MS;
    let more = world.by_two(grants(vec![grant(0, 11)]));
    assert_eq!(world.refusal(&more), Reason::SupplyCap);
    world.now = START + 10 * DAY_MS;
    let all = world.by_two(grants(vec![grant(0, 100 * CT + 10)]));
    world.run(all);
    // What was issued in a period that has ended is not counted on.
    world.now = START + 40 * DAY_MS;
    set_period(&mut world, 7);
    let class = world.state.class(BASE).unwrap();
    assert_eq!(class.issued_by(world.time().day()), Amount::ZERO);
}

#[test]
fn an_issue_is_all_or_nothing() {
    let mut world = World::ready();
    let bad = NewGrant {
        amount: Amount(0),
        ..grant(0, 0)
    };
    let transaction = world.by_two(grants(vec![grant(0, 5), bad]));
    assert_eq!(world.refusal(&transaction), Reason::Amount);
    let transaction = world.by_two(grants(vec![grant(0, 5), grant(0, 6)]));
    let entries = world.run(transaction);
    assert_eq!(entries.len(), 2);
    let numbers: Vec<u32> = world.state.accounts()[0]
        .grants
        .iter()
        .map(|grant| grant.number.0)
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
}

fn correct(world: &mut World, entry: u64, amount: u64) -> Transaction {
    let action = Action::Correct(Correct {
        entry,
        amount: Amount(amount),
        expires: Time(world.now + DAY_MS),
    });
    let body = world.body(ISSUER, &[CHECKER.into()], action);
    let proof = CorrectionProof {
        leaf: list(world.entries[entry as usize].leaf()),
        path: list(world.log.inclusion(entry, world.log.size()).unwrap()),
    };
    world.sign(&body, proof.encode())
}

#[test]
fn corrections_give_back_what_was_charged_and_no_more() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    world.debit(G0, debit(lease, 100));
    let first = world.log.size() - 1;
    world.debit(G0, debit(lease, 50));
    let second = world.log.size() - 1;
    let spent = totals(&world, 0);

    let over = correct(&mut world, first, 101);
    assert_eq!(world.refusal(&over), Reason::OverReceipt);
    let some = correct(&mut world, first, 60);
    let entries = events(&world.run(some));
    let Event::Corrected { entry, grant, .. } = entries[0] else {
        panic!("{entries:?}");
    };
    assert_eq!(entry, first);
    assert!(grant.vested && grant.free == Amount(60));
    // Both sums of one block count; the receipt's leaf is unchanged.
    let rest = correct(&mut world, first, 30);
    let again = correct(&mut world, first, 11);
    let last = correct(&mut world, second, 50);
    let built = tally_ledger::execute::build(
        &world.state,
        world.time(),
        0,
        [&rest, &again, &last],
        &tally_ledger::execute::Strict,
    );
    assert_eq!(built.refused, [(again.id(), Reason::OverReceipt)]);
    world.block(&[rest, last]);
    let sums: Vec<(u64, u64)> = world
        .state
        .corrections()
        .iter()
        .map(|correction| (correction.entry, correction.corrected.0))
        .collect();
    assert_eq!(sums, [(first, 90), (second, 50)]);
    // What was spent stays spent; what is given back is newly issued.
    let now = totals(&world, 0);
    assert_eq!((now.spent, now.costs), (spent.spent, spent.costs));
    assert_eq!(now.issued.0, spent.issued.0 + 140);
    assert_eq!(now.available.0, spent.available.0 + 140);
}

#[test]
fn changing_a_class_changes_nothing_that_was_issued() {
    let mut world = World::ready();
    let mut changed = rules("renamed");
    changed.burn = tally_ledger::class::Burn::Neither;
    let before = world.state.class(BASE).unwrap().clone();
    let transaction = world.by_admins(Action::SetClass(SetClass {
        class: BASE,
        rules: changed.clone(),
    }));
    world.run(transaction);
    let class = world.state.class(BASE).unwrap();
    assert_eq!(class.rules, changed);
    assert_eq!(class.totals, before.totals);
    // Who may burn is decided when a grant is issued.
    let surrender = world.surrender_tx(1, 1);
    world.run(surrender);
    let grant = world.issue(0, BASE, 5);
    let surrender = world.surrender_tx(grant.0, 1);
    assert_eq!(world.refusal(&surrender), Reason::NotBurnable);
}
