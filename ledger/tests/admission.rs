//! Admission sees what the next block would see: the due steps of whom a
//! transaction concerns, without their having run. A row's transaction is
//! judged on a state whose steps are due; dry run and builder must agree.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    action::{Action, Issue, NewGrant},
    debit::Debit,
    execute::{Strict, admit, build},
    ids::*,
    reason::Reason,
    state::MAX_DUE_STEPS,
    transaction::Transaction,
};
use world::*;

type Verdict = Result<(), Reason>;
/// Makes a transaction on a lease whose close is due.
type Make = fn(&mut World, LeaseNumber) -> Transaction;

/// What dry run and builder both say of a transaction now.
fn agreed(world: &World, transaction: &Transaction) -> Verdict {
    let admitted = admit(&world.state, world.time(), transaction, &Strict).map(|_| ());
    let built = build(&world.state, world.time(), 0, [transaction], &Strict);
    let refused = built.refused.first().map(|(_, reason)| *reason);
    let taken = refused.map_or(Ok(()), Err);
    assert_eq!(taken.is_ok(), built.block.transactions.len() == 1);
    assert_eq!(admitted, taken, "what is admitted is what a block takes");
    admitted
}

/// A lease of gateway 0 whose end step has run; its close is due next.
fn close_is_due(world: &mut World) -> LeaseNumber {
    let lease = world.lease(G0, |lease| lease.duration_ms = 1_000).0;
    world.block_at(world.now + 2_000, &[]);
    for _ in 0..4 {
        world.block(&[]);
    }
    world.now += HOUR_MS;
    let account = &world.state.accounts()[0];
    assert!(account.lease(G0, lease).unwrap().ended.is_some());
    lease
}

fn on(lease: LeaseNumber, change: impl FnOnce(&mut Debit)) -> Debit {
    let mut debit = debit(lease, 5);
    change(&mut debit);
    debit
}

fn grants(count: usize, expires: u64) -> Action {
    let grant = NewGrant {
        account: AccountNumber(0),
        class: BASE,
        amount: Amount(CT),
        vests: Time(START),
        expires: Time(expires),
    };
    Action::Issue(Issue {
        grants: list(vec![grant; count]),
    })
}

#[test]
fn a_lease_whose_close_is_due_is_closed_for_all_that_follows() {
    let rows: [(&str, Verdict, Make); 5] = [
        ("returned", Err(Reason::LeaseNotOpen), |world, lease| {
            world.tx(G0, &[], Action::ReturnLease(lease))
        }),
        ("spent", Ok(()), |world, lease| {
            world.debits_tx(G0, &[on(lease, |_| ())])
        }),
        ("of another class", Ok(()), |world, lease| {
            world.debits_tx(G0, &[on(lease, |debit| debit.fixed.class = PRIORITY)])
        }),
        (
            "at another account",
            Err(Reason::UnknownAccount),
            |world, lease| world.debits_tx(G0, &[on(lease, |debit| debit.fixed.account.0 = 1)]),
        ),
        ("leased anew", Ok(()), |world, _| {
            let lease = world.next_lease(G0);
            world.lease_tx(G0, lease)
        }),
    ];
    for (what, expected, make) in rows {
        let mut world = World::ready();
        let lease = close_is_due(&mut world);
        let transaction = make(&mut world, lease);
        assert_eq!(agreed(&world, &transaction), expected, "{what}");
    }
}

#[test]
fn a_suspended_gateways_last_close_may_be_due() {
    let mut world = World::ready();
    let suspend = world.tx(ADMIN, &[], Action::SuspendGateway(G0));
    let lease = close_is_due(&mut world);
    // Written before the grace was over; the hour of its id is not.
    let debits = world.debits_tx(G0, &[on(lease, |_| ())]);
    assert_eq!(agreed(&world, &debits), Ok(()));
    world.now -= HOUR_MS;
    world.run(suspend);
    assert_eq!(agreed(&world, &debits), Ok(()), "the lease is open");
    world.now += HOUR_MS;
    assert_eq!(agreed(&world, &debits), Err(Reason::SuspendedAndClosed));
}

#[test]
fn a_close_that_is_due_makes_room_for_a_grant() {
    let mut world = World::ready();
    let account = world.open_account();
    let expires = world.now + 10_000;
    let times = (world.time(), Time(expires));
    world.issue_dated(account, BASE, 10 * CT, times.0, times.1);
    let api_key = world.bind(account);
    let mut fill = grants(63, world.now + 30 * DAY_MS);
    if let Action::Issue(issue) = &mut fill {
        let owned = issue.grants.iter().map(|grant| NewGrant {
            account: AccountNumber(account),
            ..*grant
        });
        issue.grants = list(owned.collect());
    }
    let fill = world.by_two(fill);
    world.run(fill);
    // All of the grant that expires is in the lease.
    world.lease(G0, |lease| {
        (lease.account, lease.api_key) = (AccountNumber(account), api_key);
        (lease.worst_case, lease.duration_ms) = (Amount(10 * CT), 1_000);
    });
    world.block_at(expires + 1, &[]);
    for _ in 0..4 {
        world.block(&[]);
    }
    let one_more = issue_one(account, BASE, CT, world.time(), NEVER);
    let one_more = world.by_two(one_more);
    assert_eq!(agreed(&world, &one_more), Err(Reason::TooManyGrants));
    world.now += HOUR_MS;
    assert_eq!(agreed(&world, &one_more), Ok(()));
}

#[test]
fn grants_that_vest_or_expire_now_are_seen_so() {
    let mut world = World::ready();
    let (vests, expires) = (world.now + 60_000, world.now + 120_000);
    let grant = world.issue_dated(0, BASE, CT, Time(vests), Time(expires));
    let surrender = world.surrender_tx(grant.0, CT);
    for (now, expected) in [
        (vests - 1, Ok(())),
        (vests, Ok(())),
        (expires - 1, Ok(())),
        (expires, Err(Reason::UnknownGrant)),
    ] {
        world.now = now;
        assert_eq!(agreed(&world, &surrender), expected, "at {now}");
    }
    let fill = world.by_two(grants(62, world.now + DAY_MS));
    world.now = vests;
    world.run(fill);
    let one_more = world.by_two(grants(1, expires + DAY_MS));
    world.now = expires - 1;
    assert_eq!(agreed(&world, &one_more), Err(Reason::TooManyGrants));
    world.now = expires;
    assert_eq!(agreed(&world, &one_more), Ok(()));
}

#[test]
fn a_step_beyond_the_blocks_bound_is_not_seen() {
    let mut world = World::ready();
    let lease = close_is_due(&mut world);
    // As many steps as a block runs are due before the close.
    world.now -= HOUR_MS;
    let due = world.now + 600_000;
    for _ in 0..MAX_DUE_STEPS / 64 {
        let account = world.open_account();
        let mut issue = grants(64, due);
        if let Action::Issue(issue) = &mut issue {
            let owned = issue.grants.iter().map(|grant| NewGrant {
                account: AccountNumber(account),
                ..*grant
            });
            issue.grants = list(owned.collect());
        }
        let issue = world.by_two(issue);
        world.run(issue);
    }
    world.now += HOUR_MS;
    let returned = world.tx(G0, &[], Action::ReturnLease(lease));
    assert_eq!(agreed(&world, &returned), Ok(()));
    // One step less, and the close is in the block.
    let surrender = Action::Surrender(tally_ledger::action::Surrender {
        account: AccountNumber(1),
        grant: GrantNumber(1),
        amount: Amount(CT),
    });
    let surrender = world.by_holder(1, surrender);
    world.now -= HOUR_MS;
    world.run(surrender);
    world.now += HOUR_MS;
    assert_eq!(agreed(&world, &returned), Err(Reason::LeaseNotOpen));
}

#[test]
fn a_time_that_has_passed_is_the_time_just_after_the_last_block() {
    let mut world = World::ready();
    let transaction = world.surrender_tx(1, 1);
    for now in [0, START, world.state.time().0] {
        world.now = now;
        assert_eq!(agreed(&world, &transaction), Ok(()));
    }
}
