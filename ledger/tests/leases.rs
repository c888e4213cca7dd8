//! The life of a lease: how much is granted, who recalls it and why, when it
//! ends and closes, and where the remainder goes.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    account::{OpenLease, Recall},
    action::{Action, BindApiKey, Revoke, SetGatewayKey},
    entry::{Event, Shortfall},
    execute::{Strict, build},
    ids::*,
    transaction::Transaction,
};
use world::*;

fn open(world: &World, gateway: GatewayNumber, lease: LeaseNumber) -> Option<&OpenLease> {
    world.state.accounts()[0].lease(gateway, lease)
}

fn recall_of(world: &World, gateway: GatewayNumber, lease: LeaseNumber) -> Recall {
    open(world, gateway, lease).unwrap().recall
}

fn set_caps(world: &mut World, change: impl FnOnce(&mut tally_ledger::gateway::Caps)) {
    let mut caps = caps(u64::MAX);
    change(&mut caps);
    let action = Action::SetGatewayKey(SetGatewayKey {
        gateway: G0,
        key: key(G0).public(),
        caps,
    });
    let transaction = world.by_admins(action);
    world.run(transaction);
}

#[test]
fn the_balance_rule() {
    // available 100 CT: (wanted, worst case) -> granted
    let rows = [
        (10, 1, 10, Shortfall::None),
        (50, 1, 50, Shortfall::None),
        (51, 1, 50, Shortfall::Balance),
        (80, 80, 80, Shortfall::None),
        (90, 80, 80, Shortfall::Balance),
        (100, 100, 100, Shortfall::None),
        (200, 150, 100, Shortfall::Balance),
        (200, 0, 50, Shortfall::Balance),
    ];
    for (wanted, worst, granted, shortfall) in rows {
        let mut world = World::ready();
        let got = world.lease(G0, |lease| {
            lease.wanted = Amount(wanted * CT);
            lease.worst_case = Amount(worst * CT);
        });
        assert_eq!(got, (LeaseNumber(1), granted * CT, shortfall), "{wanted}");
    }
}

#[test]
fn half_of_one_micro_is_nothing() {
    let mut world = World::ready();
    let account = world.open_account();
    world.issue(account, BASE, 1);
    let api_key = world.bind(account);
    let (_, granted, shortfall) = world.lease(G0, |lease| {
        lease.account = AccountNumber(account);
        lease.api_key = api_key;
        lease.worst_case = Amount(0);
    });
    assert_eq!((granted, shortfall), (0, Shortfall::Balance));
    // Recorded, numbered, and without a trace otherwise.
    let gateway = world.state.gateway(G0).unwrap();
    assert_eq!((gateway.last_lease.0, gateway.open_leases), (1, 0));
}

#[test]
fn earliest_expiry_first_and_at_most_eight() {
    let mut world = World::ready();
    let account = world.open_account();
    let api_key = world.bind(account);
    for i in 0..10u64 {
        let expires = Time(START + (20 - i) * DAY_MS);
        let now = world.time();
        world.issue_dated(account, BASE, CT, now, expires);
    }
    let (lease, granted, shortfall) = world.lease(G0, |lease| {
        lease.account = AccountNumber(account);
        lease.api_key = api_key;
        lease.wanted = Amount(10 * CT);
        lease.worst_case = Amount(10 * CT);
    });
    assert_eq!((granted, shortfall), (8 * CT, Shortfall::Balance));
    let state = &world.state.accounts()[account as usize];
    let parts = &state.lease(G0, lease).unwrap().parts;
    let grants: Vec<u32> = parts.iter().map(|part| part.grant.0).collect();
    assert_eq!(grants, [10, 9, 8, 7, 6, 5, 4, 3]);
}

#[test]
fn caps_lower_what_is_granted() {
    type Change = fn(&mut tally_ledger::gateway::Caps);
    let rows: [Change; 4] = [
        |caps| caps.open = Amount(3 * CT),
        |caps| caps.open_account = Amount(3 * CT),
        |caps| caps.hour = Amount(3 * CT),
        |caps| caps.hour_account = Amount(3 * CT),
    ];
    for (row, change) in rows.into_iter().enumerate() {
        let mut world = World::ready();
        set_caps(&mut world, change);
        let (lease, granted, shortfall) = world.lease(G0, |_| ());
        assert_eq!((granted, shortfall), (3 * CT, Shortfall::GatewayCap));
        let (_, granted, shortfall) = world.lease(G0, |_| ());
        assert_eq!((granted, shortfall), (0, Shortfall::GatewayCap));
        // A cap recalls nobody, and the other gateway has its own.
        assert_eq!(recall_of(&world, G0, lease), Recall::No);
        assert_eq!(world.lease(G1, |_| ()).1, 10 * CT);
        // What is returned within the hour can be leased again.
        world.return_lease(G0, lease);
        assert_eq!(world.lease(G0, |_| ()).1, 3 * CT, "row {row}");
    }
}

#[test]
fn hour_counters_follow_the_clock() {
    let mut world = World::ready();
    set_caps(&mut world, |caps| caps.hour = Amount(5 * CT));
    let want = |lease: &mut tally_ledger::action::Lease| {
        lease.wanted = Amount(5 * CT);
        lease.duration_ms = 600_000;
    };
    world.now = START + HOUR_MS - 1;
    let (old, granted, _) = world.lease(G0, want);
    assert_eq!(granted, 5 * CT);
    // The next hour starts at zero; returning last hour's lease does not
    // lower this hour's count.
    world.now = START + HOUR_MS;
    assert_eq!(world.lease(G0, want).1, 5 * CT);
    world.return_lease(G0, old);
    assert_eq!(world.lease(G0, want).2, Shortfall::GatewayCap);
    let gateway = world.state.gateway(G0).unwrap();
    assert_eq!(gateway.hour_leased, Amount(5 * CT));
}

#[test]
fn the_api_key_bounds_amount_and_end() {
    let mut world = World::ready();
    let expires = Time(world.now + 100_000);
    let action = Action::BindApiKey(BindApiKey {
        account: AccountNumber(0),
        key: key(ApiKeyNumber(1)).public(),
        models: Default::default(),
        cap: Amount(2 * CT),
        expires,
    });
    let transaction = world.by_holder(0, action);
    world.run(transaction);
    let with_key = |lease: &mut tally_ledger::action::Lease| {
        lease.api_key = ApiKeyNumber(1);
        lease.duration_ms = u32::MAX;
    };
    let (lease, granted, shortfall) = world.lease(G0, with_key);
    assert_eq!((granted, shortfall), (2 * CT, Shortfall::KeyCap));
    assert_eq!(open(&world, G0, lease).unwrap().end, expires);
    // What it has spent stays spent; the rest is free again.
    let mut spent = debit(lease, CT as u32);
    spent.fixed.api_key = ApiKeyNumber(1);
    world.debit(G0, spent);
    world.return_lease(G0, lease);
    let (lease, granted, _) = world.lease(G0, with_key);
    assert_eq!(granted, CT);
    world.return_lease(G0, lease);
    // At its very end it has ended.
    world.now = expires.0 - 1;
    assert_eq!(world.lease(G0, with_key).2, Shortfall::KeyCap);
    world.now = expires.0;
    assert_eq!(world.lease(G0, with_key).2, Shortfall::KeyEnded);
}

#[test]
fn reasons_for_nothing_have_an_order() {
    let mut world = World::ready();
    for _ in 0..64 {
        world.lease(G0, |lease| lease.wanted = Amount(1));
    }
    assert_eq!(world.lease(G0, |_| ()).2, Shortfall::TooManyLeases);
    assert_eq!(world.state.accounts()[0].leases.len(), 64);
    let transaction = world.by_holder(0, Action::RevokeApiKey(ApiKeyNumber(0)));
    world.run(transaction);
    assert_eq!(world.lease(G0, |_| ()).2, Shortfall::KeyEnded);
    let transaction = world.by_issuer(Action::Freeze(AccountNumber(0)));
    world.run(transaction);
    assert_eq!(world.lease(G0, |_| ()).2, Shortfall::Frozen);
    let transaction = world.tx(ADMIN, &[], Action::SuspendGateway(G0));
    world.run(transaction);
    assert_eq!(world.lease(G0, |_| ()).2, Shortfall::Suspended);
}

#[test]
fn an_unvested_grant_cannot_be_leased_and_an_expired_one_neither() {
    let mut world = World::ready();
    let account = world.open_account();
    let api_key = world.bind(account);
    let (vests, expires) = (START + 100_000, START + 200_000);
    world.issue_dated(account, BASE, 8, Time(vests), Time(expires));
    let want = |world: &mut World, time: u64| {
        world.now = time;
        let (number, granted, _) = world.lease(G0, |lease| {
            lease.account = AccountNumber(account);
            lease.api_key = api_key;
            lease.wanted = Amount(1);
        });
        if granted > 0 {
            world.return_lease(G0, number);
        }
        granted
    };
    assert_eq!(want(&mut world, vests - 1), 0);
    assert_eq!(want(&mut world, vests), 1);
    assert_eq!(want(&mut world, expires - 2), 1);
    assert_eq!(want(&mut world, expires), 0);
}

/// Time of the end step, of the close step.
fn life(world: &mut World, lease: LeaseNumber, step_ms: u64) -> (u64, u64, u64) {
    let (mut ended, mut closed) = (0, 0);
    for _ in 0..10_000 {
        let time = world.now;
        let found = events(&world.block_at(time, &[]));
        for event in found {
            match event {
                Event::LeaseEnded { lease: l, .. } if l == lease => ended = time,
                Event::LeaseClosed { lease: l, .. } if l == lease => closed = time,
                _ => (),
            }
        }
        if closed > 0 {
            break;
        }
        world.now = time + step_ms;
    }
    (ended, closed, world.state.height().0)
}

#[test]
fn grace_needs_time() {
    let mut world = World::ready();
    let opened = world.now;
    let (lease, ..) = world.lease(G0, |_| ());
    let end = opened + 60_000;
    assert_eq!(open(&world, G0, lease).unwrap().end, Time(end));
    world.block_at(end - 1, &[]);
    assert_eq!(open(&world, G0, lease).unwrap().ended, None);
    // Blocks galore, but the hour counts from the end step, which is late.
    let late = end + 500;
    world.now = late;
    let (ended, closed, _) = life(&mut world, lease, 600_000);
    assert_eq!((ended, closed), (late, late + 3_600_000));
    let leased = world.state.accounts()[0].totals_of(BASE).leased;
    assert_eq!(leased, Amount::ZERO);
}

#[test]
fn grace_needs_blocks() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let end = open(&world, G0, lease).unwrap().end.0;
    world.block_at(end, &[]);
    let height = world.state.height().0;
    // An outage of a day: time has passed, three blocks have not. Until they
    // have, the close is nothing that one could hurry for.
    world.now = end + DAY_MS;
    let expires = world.state.accounts()[0].grants[0].expires;
    assert_eq!(world.state.next_due(), Some(expires));
    let (_, closed, at) = life(&mut world, lease, 1);
    assert_eq!((closed, at), (end + DAY_MS + 2, height + 3));
}

#[test]
fn next_due_is_the_earliest_step_that_could_run() {
    let mut world = World::ready();
    let expires = world.state.accounts()[0].grants[0].expires;
    assert_eq!(world.state.next_due(), Some(expires));
    let (lease, ..) = world.lease(G0, |_| ());
    let end = open(&world, G0, lease).unwrap().end;
    assert_eq!(world.state.next_due(), Some(end));
    world.block_at(end.0, &[]);
    assert_eq!(world.state.next_due(), Some(expires), "waits for blocks");
    world.block(&[]);
    world.block(&[]);
    assert_eq!(world.state.next_due(), Some(Time(end.0 + 3_600_000)));
}

#[test]
fn duration_is_bounded_by_the_parameter() {
    let mut world = World::ready();
    let opened = world.now;
    let (lease, ..) = world.lease(G0, |lease| lease.duration_ms = u32::MAX);
    assert_eq!(open(&world, G0, lease).unwrap().end, Time(opened + 600_000));
}

#[test]
fn want_of_balance_recalls_the_other_gateways() {
    let mut world = World::ready();
    let (mine, ..) = world.lease(G0, |lease| lease.wanted = Amount(50 * CT));
    let (own, ..) = world.lease(G1, |lease| lease.wanted = Amount(CT));
    world.issue(0, PRIORITY, 4 * CT);
    let (other_class, ..) = world.lease(G0, |lease| {
        lease.class = PRIORITY;
        lease.wanted = Amount(CT);
    });
    let at = world.now;
    let (_, granted, shortfall) = world.lease(G1, |lease| lease.wanted = Amount(60 * CT));
    assert_eq!((granted, shortfall), (49 * CT / 2, Shortfall::Balance));
    assert_eq!(recall_of(&world, G0, mine), Recall::Wanted);
    assert_eq!(open(&world, G0, mine).unwrap().end, Time(at));
    assert_eq!(recall_of(&world, G1, own), Recall::No);
    assert_eq!(recall_of(&world, G0, other_class), Recall::No);
    // The end step is the next block's.
    assert_eq!(open(&world, G0, mine).unwrap().ended, None);
    let ended = Event::LeaseEnded {
        gateway: G0,
        lease: mine,
        recall: Recall::Wanted,
    };
    assert_eq!(events(&world.block(&[])), [ended]);
}

#[test]
fn every_other_recall_has_its_reason() {
    type Make = fn(&mut World) -> Transaction;
    let rows: [(Recall, Make); 4] = [
        (Recall::Frozen, |world| {
            world.by_issuer(Action::Freeze(AccountNumber(0)))
        }),
        (Recall::Revoked, |world| {
            let (account, grant) = (AccountNumber(0), GrantNumber(1));
            world.by_issuer(Action::Revoke(Revoke { account, grant }))
        }),
        (Recall::KeyRevoked, |world| {
            world.by_issuer(Action::RevokeApiKey(ApiKeyNumber(0)))
        }),
        (Recall::Suspended, |world| {
            world.tx(ADMIN, &[], Action::SuspendGateway(G0))
        }),
    ];
    for (recall, make) in rows {
        let mut world = World::ready();
        let (lease, ..) = world.lease(G0, |_| ());
        let transaction = make(&mut world);
        let at = world.now;
        world.run(transaction);
        let held = open(&world, G0, lease).unwrap();
        assert_eq!((held.recall, held.end), (recall, Time(at)));
        // The first reason stays; a lost journal overrides it.
        world.open_journal(G0, true);
        assert_eq!(recall_of(&world, G0, lease), recall);
        world.open_journal(G0, false);
        assert_eq!(recall_of(&world, G0, lease), Recall::JournalLost);
    }
}

#[test]
fn a_new_journal_recalls_only_its_gateway_and_logs_the_old_one() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let (other, ..) = world.lease(G1, |_| ());
    world.debit(G0, debit(lease, 5));
    let hash = world.state.gateway(G0).unwrap().journal_hash;
    let entries = events(&world.open_journal(G0, true));
    let Event::JournalOpened {
        closed_last,
        closed_hash,
        journal,
        previous_intact,
        ..
    } = entries[0]
    else {
        panic!("{entries:?}");
    };
    assert_eq!((closed_last, closed_hash), (DebitNumber(1), hash));
    assert_eq!((journal, previous_intact), (JournalNumber(2), true));
    assert_eq!(recall_of(&world, G0, lease), Recall::NewJournal);
    assert_eq!(recall_of(&world, G1, other), Recall::No);
    // Holds of the old journal are settled in the new one.
    let receipt = world.debit(G0, debit(lease, 7));
    assert_eq!((receipt.position.number.0, receipt.charged.0), (1, 7));
    let returned = events(&world.return_lease(G0, lease));
    let Event::LeaseClosed {
        returned,
        unreported,
        ..
    } = returned[0]
    else {
        panic!("{returned:?}");
    };
    assert_eq!((returned.0, unreported.0), (10 * CT - 12, 0));
}

#[test]
fn what_a_lost_journal_may_have_spent_is_logged() {
    let mut world = World::ready();
    let (ended, ..) = world.lease(G0, |_| ());
    let end = open(&world, G0, ended).unwrap().end.0;
    world.block_at(end, &[]);
    let (running, ..) = world.lease(G0, |_| ());
    world.debit(G0, debit(running, 100));
    world.open_journal(G0, false);
    // Also a lease that had ended before: it too could have been spent.
    assert_eq!(recall_of(&world, G0, ended), Recall::JournalLost);
    let mut unreported = Vec::new();
    world.now = end + 2 * 3_600_000;
    for _ in 0..8 {
        for event in events(&world.block(&[])) {
            if let Event::LeaseClosed {
                lease,
                unreported: sum,
                returned,
                transaction,
                ..
            } = event
            {
                assert_eq!((sum, transaction), (returned, None));
                unreported.push((lease, sum.0));
            }
        }
        world.now += 3_600_000;
    }
    assert_eq!(unreported, [(ended, 10 * CT), (running, 10 * CT - 100)]);
    // It is only logged: the account has everything back but what was spent.
    let totals = world.state.accounts()[0].totals_of(BASE);
    assert_eq!(totals.available.0, 100 * CT - 100);
}

#[test]
fn the_remainder_returns_to_where_it_belongs() {
    // Live grant: available. Expired meanwhile: expired. Revoked: revoked.
    // Revoked and expired meanwhile: expired.
    let rows = [
        (false, false, [100, 0, 0]),
        (true, false, [0, 100, 0]),
        (false, true, [0, 0, 100]),
        (true, true, [0, 10, 90]),
    ];
    for (expire, revoke, [available, expired, revoked]) in rows {
        let mut world = World::ready();
        let (lease, ..) = world.lease(G0, |_| ());
        let grant = world.state.accounts()[0].grants[0];
        if revoke {
            let action = Action::Revoke(Revoke {
                account: AccountNumber(0),
                grant: grant.number,
            });
            let transaction = world.by_two(action);
            world.run(transaction);
        }
        // Let neither grace nor end step close it first.
        let before = world.state.height();
        if expire {
            world.block_at(grant.expires.0, &[]);
        }
        assert!(open(&world, G0, lease).is_some(), "{before}");
        world.return_lease(G0, lease);
        let totals = world.state.accounts()[0].totals_of(BASE);
        assert_eq!(
            [totals.available.0, totals.expired.0, totals.revoked.0],
            [available * CT, expired * CT, revoked * CT]
        );
        let live = world.state.accounts()[0].grants.len();
        assert_eq!(live, usize::from(available > 0));
    }
}

#[test]
fn a_lease_closes_to_expired_before_the_expiry_step_has_run() {
    // More due steps than a block may run: the lease is returned in a block
    // that has not reached the grant's expiry step.
    let mut world = World::ready();
    let expires = world.state.accounts()[0].grants[0].expires;
    crowd(&mut world, Time(expires.0 - 1));
    let (lease, ..) = world.lease(G0, |_| ());
    world.now = expires.0;
    let transaction = world.tx(G0, &[], Action::ReturnLease(lease));
    world.block(&[transaction]);
    let account = &world.state.accounts()[0];
    assert!(!account.grants[0].expired, "its step was crowded out");
    let totals = account.totals_of(BASE);
    assert_eq!((totals.available.0, totals.expired.0), (90 * CT, 10 * CT));
}

/// More expiry steps at `time` than one block may run.
fn crowd(world: &mut World, time: Time) {
    let first = world.state.accounts().len() as u32;
    for _ in 0..33 {
        world.open_account();
    }
    for account in first..first + 33 {
        let issue = |class| {
            let grant = tally_ledger::action::NewGrant {
                account: AccountNumber(account),
                class,
                amount: Amount(1),
                vests: Time(START),
                expires: time,
            };
            let grants = list(vec![grant; 64]);
            Action::Issue(tally_ledger::action::Issue { grants })
        };
        let transaction = world.by_two(issue(BASE));
        world.run(transaction);
    }
}

#[test]
fn a_transaction_runs_the_steps_that_concern_it_outside_the_limit() {
    let mut world = World::ready();
    let crowded = Time(world.now + 10 * DAY_MS);
    crowd(&mut world, crowded);
    // Two grants of account 0: one vests, one expires, both after the crowd.
    let later = Time(crowded.0 + 5);
    world.issue_dated(0, BASE, 7, later, NEVER);
    let now = world.time();
    world.issue_dated(0, BASE, 9, now, later);
    world.now = later.0;
    let lease = world.next_lease(G0);
    let transaction = world.lease_tx(G0, lease);
    let kinds = |events: Vec<Event>| -> Vec<String> {
        let name = |event: &Event| format!("{event:?}");
        let names = events.iter().map(name);
        names
            .map(|name| name.split(' ').next().unwrap().into())
            .collect()
    };
    // Refused first: then the steps have not happened either.
    let mut wrong = lease;
    wrong.account = AccountNumber(1);
    let refused = world.lease_tx(G0, wrong);
    let built = build(&world.state, later, 0, [&refused], &Strict);
    assert_eq!(built.refused.len(), 1);
    assert_eq!(built.execution.entries().len(), 2048);
    let built = build(&world.state, later, 0, [&transaction], &Strict);
    let made = kinds(events(&built.execution.entries()[2048..]));
    assert_eq!(made, ["GrantVested", "GrantExpired", "LeaseGranted"]);
    world.run(transaction);
    let due = world.state.next_due().unwrap();
    assert_eq!(due, crowded, "the rest of the crowd is due at once");
    let rest = kinds(events(&world.block(&[])));
    assert_eq!(rest.len(), 33 * 64 - 2048);
}

#[test]
fn leases_may_be_sent_ahead() {
    let mut world = World::ready();
    let first = world.next_lease(G0);
    let mut second = first;
    second.number.0 += 1;
    let (first, second) = (world.lease_tx(G0, first), world.lease_tx(G0, second));
    let admitted = tally_ledger::execute::admit(&world.state, world.time(), &second, &Strict);
    assert_eq!(admitted, Ok(second.id()));
    world.refused_in_block(&second, tally_ledger::reason::Reason::LeaseNotNext);
    world.block(&[first, second]);
    assert_eq!(world.state.gateway(G0).unwrap().last_lease.0, 2);
}

#[test]
fn an_expiry_step_finds_its_grant_emptied_by_a_close_that_was_due_before() {
    let mut world = World::ready();
    let account = world.open_account();
    let api_key = world.bind(account);
    let (now, expires) = (world.time(), Time(world.now + DAY_MS));
    world.issue_dated(account, BASE, 10, now, expires);
    let (lease, granted, _) = world.lease(G0, |lease| {
        lease.account = AccountNumber(account);
        lease.api_key = api_key;
        lease.wanted = Amount(10);
        lease.worst_case = Amount(10);
    });
    assert_eq!(granted, 10, "the grant holds nothing but what is leased");
    let held = world.state.accounts()[account as usize].lease(G0, lease);
    let end = held.unwrap().end;
    world.block_at(end.0, &[]);
    for _ in 0..3 {
        world.block(&[]);
    }
    // One block in which both the close and, after it, the expiry are due.
    let steps = events(&world.block_at(expires.0, &[]));
    assert!(
        matches!(steps[..], [Event::LeaseClosed { .. }]),
        "{steps:?}"
    );
    let owner = &world.state.accounts()[account as usize];
    assert_eq!(owner.totals_of(BASE).expired, Amount(10));
    assert!(owner.grants.is_empty());
}
