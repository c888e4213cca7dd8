//! Scenes that random scripts reach too rarely, played on the ledger and the
//! oracle side by side: bounds of lists and of blocks, sums at their ends,
//! and each case in which the two once disagreed.

#![allow(clippy::unwrap_used)]

use tally_ledger::{
    action::{Action, NewGrant, Surrender},
    ids::{AccountNumber, Amount, GrantNumber, Time},
    reason::Reason,
    transaction::{Author, AuthorKind},
};
use tally_tests::{
    oracle::{Fact, STEPS_PER_BLOCK},
    world::{Act, Outcome, World},
};

const CLASS: u16 = 1;
const MINUTE: u64 = 60_000;

fn none_refused(outcome: &Outcome) {
    assert!(outcome.faults.iter().all(Vec::is_empty), "{outcome:?}");
}

fn count(outcome: &Outcome, which: impl Fn(&Fact) -> bool) -> usize {
    (outcome.facts.iter())
        .filter(|entry| which(&entry.fact))
        .count()
}

fn vested(fact: &Fact) -> bool {
    matches!(fact, Fact::GrantVested { .. })
}

fn expired(fact: &Fact) -> bool {
    matches!(fact, Fact::GrantExpired { .. })
}

/// 12 accounts with 64 grants of each of four classes, all vesting and
/// expiring at the same two moments.
fn crowd() -> World {
    let mut world = World::quiet(|_| ());
    world.populate(12);
    let now = world.oracle.time;
    for account in 0..12 {
        let grants = (0..256)
            .map(|n| NewGrant {
                vests: Time(now + MINUTE),
                expires: Time(now + 10 * MINUTE),
                ..world.grant(account, n / 64, 100, 0)
            })
            .collect();
        let issue = world.issue(grants);
        none_refused(&world.after(1, vec![issue]));
    }
    world
}

#[test]
fn a_block_runs_so_many_steps_and_a_transaction_its_own() {
    let mut world = crowd();
    // The last account's steps do not fit: the Lease runs those of its class
    // itself, once. Those of a refused one did not happen.
    let mut refused = world.lease(1, 11, 2, 10);
    refused.action = match refused.action {
        Action::Lease(mut lease) => {
            lease.number.0 += 7;
            Action::Lease(lease)
        }
        other => other,
    };
    let acts = vec![refused, world.lease(0, 11, 3, 10)];
    let outcome = world.after(2 * MINUTE, acts);
    assert_eq!(outcome.faults, [vec![Reason::LeaseNotNext], vec![]]);
    assert_eq!(count(&outcome, vested), STEPS_PER_BLOCK + 64);
    let outcome = world.after(1, vec![]);
    assert_eq!(count(&outcome, vested), 12 * 256 - STEPS_PER_BLOCK - 64);

    // The same for expiry: an account that is full may be issued to, since
    // what has expired goes first; nothing of it can be given back.
    let surrender = Action::Surrender(Surrender {
        account: AccountNumber(11),
        grant: GrantNumber(1),
        amount: Amount(1),
    });
    let acts = vec![
        Act::new(AccountNumber(11).into(), surrender),
        world.issue(vec![world.grant(11, 1, 5, 20 * MINUTE)]),
    ];
    let outcome = world.after(10 * MINUTE, acts);
    assert_eq!(outcome.faults[0], [Reason::UnknownGrant]);
    assert!(outcome.faults[1].is_empty());
    assert_eq!(count(&outcome, expired), STEPS_PER_BLOCK + 64);
    world.after(1, vec![]);
    world.replay();
    world.replay_redacted();
}

#[test]
fn an_expiry_step_may_come_too_late() {
    let mut world = World::quiet(|genesis| {
        genesis.parameters.lease_grace_ms = 1_000;
        genesis.parameters.lease_grace_blocks = 1;
        genesis.parameters.max_lease_ms = 1_000;
    });
    world.populate(1);
    let issue = world.issue(vec![world.grant(0, CLASS, 1_000, 3 * MINUTE)]);
    none_refused(&world.after(1, vec![issue]));
    let lease = world.lease(0, 0, CLASS, 1_000);
    none_refused(&world.after(1, vec![lease]));
    none_refused(&world.after(MINUTE, vec![]));
    // Close and expiry are due in the same block, the close first.
    let outcome = world.after(5 * MINUTE, vec![]);
    let closed = |fact: &Fact| {
        matches!(
            fact,
            Fact::LeaseClosed {
                returned: 1_000,
                ..
            }
        )
    };
    assert_eq!(count(&outcome, closed), 1);
    assert_eq!(count(&outcome, expired), 0);
}

#[test]
fn an_account_has_so_many_open_leases() {
    let mut world = World::quiet(|_| ());
    world.populate(1);
    let issue = world.issue(vec![world.grant(0, CLASS, 1_000_000, 60 * MINUTE)]);
    none_refused(&world.after(1, vec![issue]));
    for n in 0..66 {
        let lease = world.lease(n % 2, 0, CLASS, 100);
        none_refused(&world.after(1, vec![lease]));
    }
    assert_eq!(world.oracle.open_leases().count(), 64);
    let outcome = world.after(1, vec![Act::give_back(0, 1)]);
    none_refused(&outcome);
    let lease = world.lease(1, 0, CLASS, 100);
    world.after(1, vec![lease]);
    assert_eq!(world.oracle.open_leases().count(), 64);
}

#[test]
fn a_lost_journal_tells_of_every_lease_also_of_those_in_grace() {
    let mut world = World::quiet(|genesis| genesis.parameters.max_lease_ms = 1_000);
    world.populate(1);
    let issue = world.issue(vec![world.grant(0, CLASS, 1_000_000, 600 * MINUTE)]);
    none_refused(&world.after(1, vec![issue]));
    let lease = world.lease(0, 0, CLASS, 300);
    none_refused(&world.after(1, vec![lease]));
    // The first one is in grace, the second one open.
    let lease = world.lease(0, 0, CLASS, 500);
    none_refused(&world.after(2_000, vec![lease]));
    none_refused(&world.after(1, vec![Act::journal(0, 2, false)]));
    // An intact one afterwards does not undo what was lost.
    none_refused(&world.after(1, vec![Act::journal(0, 3, true)]));
    (0..25).for_each(|_| none_refused(&world.after(1, vec![])));
    let outcome = world.after(61 * MINUTE, vec![]);
    let mut lost: Vec<u64> = (outcome.facts.iter())
        .filter_map(|entry| match entry.fact {
            Fact::LeaseClosed { unreported, .. } => Some(unreported),
            _ => None,
        })
        .collect();
    lost.sort_unstable();
    assert_eq!(lost, [300, 500]);
}

#[test]
fn no_gateway_can_fill_the_sums() {
    let mut world = World::quiet(|_| ());
    world.populate(2);
    let most = u64::MAX;
    let issue = world.issue(vec![world.grant(0, CLASS, most, 600 * MINUTE)]);
    none_refused(&world.after(1, vec![issue]));
    let more = world.issue(vec![world.grant(1, CLASS, 1, 600 * MINUTE)]);
    let outcome = world.after(1, vec![more]);
    assert!(outcome.faults[0].contains(&Reason::Amount));
    let lease = world.lease(0, 0, CLASS, most);
    none_refused(&world.after(1, vec![lease]));
    assert_eq!(world.oracle.open_total(0, None), most);
    let fee = (1 << 62) - 1;
    for _ in 0..3 {
        let debits = vec![world.debit(0, CLASS, 1, u32::MAX, fee); 5];
        let debits = world.debits(0, debits);
        none_refused(&world.after(1, vec![debits]));
    }
    let totals = world.oracle.class_totals(CLASS);
    assert!(
        totals.costs > u128::from(most),
        "sums are wider than amounts"
    );
}

#[test]
fn a_lease_on_every_amount_is_spent_to_the_last_micro() {
    let mut world = World::quiet(|_| ());
    world.populate(1);
    // Nine grants: a lease takes from eight.
    let grants = (0..9).map(|n| world.grant(0, CLASS, 10 + n, (60 + n) * MINUTE));
    let grants = grants.collect();
    let issue = world.issue(grants);
    none_refused(&world.after(1, vec![issue]));
    let lease = world.lease(0, 0, CLASS, 1_000);
    none_refused(&world.after(1, vec![lease]));
    assert_eq!(world.oracle.open_total(0, None), (10..18).sum::<u64>());
    // The ninth is another gateway's, and the first one's lease is recalled.
    let lease = world.lease(1, 0, CLASS, 1_000);
    none_refused(&world.after(1, vec![lease]));
    let debits = vec![world.debit(0, CLASS, 1, 1_000_000, 0); 3];
    let debits = world.debits(0, debits);
    let outcome = world.after(1, vec![debits]);
    none_refused(&outcome);
    assert_eq!(world.oracle.open_total(0, None), 0);
    assert_eq!(world.oracle.class_totals(CLASS).leased, 18);
}

/// A person who owns a validator, and is nobody's issuer.
const OWNER: Author = Author {
    kind: AuthorKind::Person,
    number: 6,
};

#[test]
fn a_block_takes_so_much_evidence() {
    let mut world = World::quiet(|_| ());
    for _ in 0..8 {
        world.after(1, Vec::new());
    }
    let acts = (1..=6).map(|height| world.accuse(OWNER, 1, height));
    let acts: Vec<Act> = acts.collect();
    let again = acts[4..].to_vec();
    let outcome = world.after(1, acts);
    let refused: Vec<usize> = outcome.faults.iter().map(Vec::len).collect();
    assert_eq!(refused, [0, 0, 0, 0, 1, 1]);
    assert_eq!(outcome.faults[5], [Reason::EvidencePerBlock]);
    none_refused(&world.after(1, again));
}

#[test]
fn a_validator_has_so_many_marks_and_the_latest_stay() {
    let mut world = World::quiet(|_| ());
    for _ in 0..30 {
        world.after(1, Vec::new());
    }
    // Out of order, with gaps, until the list is full and beyond.
    for heights in [[20, 10, 12], [3, 5, 4], [30, 29, 28], [6, 8, 7]] {
        let acts = heights.map(|height| world.accuse(OWNER, 2, height));
        none_refused(&world.after(1, acts.to_vec()));
    }
    let acts = [1, 2, 13, 14].map(|height| world.accuse(OWNER, 2, height));
    none_refused(&world.after(1, acts.to_vec()));
    assert_eq!(world.state.marks()[2].heights.len(), 16);
    // 1 makes room for 15, so neither 1 nor what is before 2 counts again.
    let acts = [15, 1, 2].map(|height| world.accuse(OWNER, 2, height));
    let outcome = world.after(1, acts.to_vec());
    let known = vec![Reason::EvidenceKnown];
    assert_eq!(outcome.faults, [vec![], known.clone(), known]);
    assert_eq!(world.state.marks()[2].count, 17);
    assert_eq!(world.state.marks()[1].count, 0);
}
