//! The check of a queue's order, against its rule pair by pair.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use support::samples;
use tally_ledger::{
    debit::Queued,
    ids::Amount,
    queue_order::{Order, Served, Violation, check, key},
    rates::RatesState,
};

/// (key, joined, dispatched).
fn served(rows: &[(i128, u64, u64)]) -> Vec<Served> {
    let of = |(key, joined, dispatched): &(i128, u64, u64)| Served {
        key: *key,
        joined: *joined,
        dispatched: *dispatched,
    };
    rows.iter().map(of).collect()
}

/// Pairs that waited at the same time, and of them (served, passed) where the
/// one that was to go first did not.
fn pair_by_pair(served: &[Served]) -> (u64, BTreeSet<(usize, usize)>) {
    let mut pairs = 0;
    let mut wrong = BTreeSet::new();
    for (i, one) in served.iter().enumerate() {
        for (j, other) in served.iter().enumerate() {
            let possible = one.joined < one.dispatched && other.joined < other.dispatched;
            let together = one.joined < other.dispatched && other.joined < one.dispatched;
            if i == j || !possible || !together {
                continue;
            }
            pairs += u64::from(i < j);
            let first = (one.key, one.joined) < (other.key, other.joined);
            if first && other.dispatched < one.dispatched {
                wrong.insert((j, i));
            }
        }
    }
    (pairs, wrong)
}

proptest! {
    #[test]
    fn the_sweep_finds_what_the_pairs_show(
        rows in vec((-4i128..4, 0u64..60, 0u64..20), 0..40),
    ) {
        let rows: Vec<_> = rows.iter().map(|(key, at, wait)| (*key, *at, at + wait)).collect();
        let served = served(&rows);
        let order = check(&served);
        let (pairs, wrong) = pair_by_pair(&served);
        prop_assert_eq!(order.pairs, pairs);
        prop_assert_eq!(order.passed(), wrong.len() as u64);
        let who = |pair: &(usize, usize)| pair.0;
        let passing: BTreeSet<usize> = wrong.iter().map(who).collect();
        let found: BTreeSet<usize> = order.violations.iter().map(|v| v.served).collect();
        prop_assert_eq!(found.len(), order.violations.len());
        prop_assert_eq!(found, passing);
        for Violation { served: one, passed, count } in &order.violations {
            prop_assert!(wrong.contains(&(*one, *passed)));
            let rank = |i: usize| (served[i].key, served[i].joined);
            let all: Vec<_> = wrong.iter().filter(|pair| pair.0 == *one).collect();
            prop_assert!(all.iter().all(|pair| rank(*passed) <= rank(pair.1)));
            prop_assert_eq!(*count, all.len() as u64);
        }
        let impossible = |i: &usize| served[*i].joined >= served[*i].dispatched;
        prop_assert_eq!(order.impossible, (0..served.len()).filter(impossible).collect::<Vec<_>>());
        let mut seen = BTreeSet::new();
        let mut twice = BTreeSet::new();
        for request in &served {
            for number in [request.joined, request.dispatched] {
                if !seen.insert(number) {
                    twice.insert(number);
                }
            }
        }
        prop_assert_eq!(order.duplicates.is_empty(), twice.is_empty());
        let doubled = |i: &usize| {
            [served[*i].joined, served[*i].dispatched].iter().any(|number| twice.contains(number))
        };
        prop_assert!(order.duplicates.iter().all(doubled));
    }

    #[test]
    fn a_queue_that_keeps_the_rule_is_never_blamed(
        steps in vec((any::<bool>(), 0i128..50), 1..200),
    ) {
        let mut waiting: Vec<(i128, u64)> = Vec::new();
        let mut rows = Vec::new();
        for (number, (joins, key)) in (1..).zip(&steps) {
            if *joins || waiting.is_empty() {
                waiting.push((*key, number));
                continue;
            }
            let next = *waiting.iter().min().unwrap();
            waiting.retain(|other| *other != next);
            rows.push((next.0, next.1, number));
        }
        let order = check(&served(&rows));
        prop_assert!(order.is_kept(), "{:?}", order);
    }
}

#[test]
fn who_is_let_go_too_early_is_named_with_whom_it_passed() {
    // The third passes both that wait, and the first should have been let go.
    let order = check(&served(&[(5, 1, 5), (7, 2, 6), (9, 3, 4)]));
    let found = Violation {
        served: 2,
        passed: 0,
        count: 2,
    };
    let expected = Order {
        pairs: 3,
        violations: vec![found],
        ..Order::default()
    };
    assert_eq!((order.passed(), order.is_kept()), (2, false));
    assert_eq!(order, expected);
    // Not at the same time: it was let go before the other joined.
    let order = check(&served(&[(9, 1, 2), (5, 3, 4)]));
    assert_eq!((order.pairs, order.is_kept()), (0, true));
    // Of equal keys the one that joined first.
    assert!(check(&served(&[(5, 1, 3), (5, 2, 4)])).is_kept());
    assert_eq!(check(&served(&[(5, 1, 4), (5, 2, 3)])).passed(), 1);
}

#[test]
fn numbers_that_cannot_be_are_named() {
    let order = check(&served(&[(1, 4, 4), (1, 9, 2), (1, u64::MAX, u64::MAX)]));
    assert_eq!(order.impossible, [0, 1, 2]);
    assert_eq!((order.duplicates.clone(), order.pairs), (vec![0, 2], 0));
    assert!(!order.is_kept());
    let order = check(&served(&[(1, 1, 3), (1, 2, 3), (1, 3, 4)]));
    assert_eq!((order.passed(), order.duplicates), (0, vec![1, 2]));
}

#[test]
fn a_debit_says_where_it_stood() {
    // A second is worth 1,000 micro-CT.
    let rates = RatesState::default();
    let mut debit = samples::queued_debit(1);
    debit.detail.arrival = 1_800_000_000_000;
    debit.fixed.fee = Amount(2_000);
    debit.detail.queued = Some(Queued {
        queue: 3,
        joined: 40,
        dispatched: 2,
    });
    let expected = Served {
        // Two units of fee are two seconds.
        key: 1_799_999_998_000 * 1_000,
        joined: 40,
        dispatched: 42,
    };
    assert_eq!(Served::of(&debit, &rates), Some((3, expected)));
    debit.detail.queued = Some(Queued {
        queue: 1,
        joined: u64::MAX,
        dispatched: 1,
    });
    let (_, served) = Served::of(&debit, &rates).unwrap();
    assert_eq!(check(&[served]).impossible, [0]);
    debit.detail.queued = Some(Queued::default());
    assert_eq!(Served::of(&debit, &rates), None);
    debit.detail.queued = None;
    assert_eq!(Served::of(&debit, &rates), None);
    // No arrival and no fee that anybody may sign makes it fail.
    assert!(key(0, Amount(u64::MAX)) < key(u128::MAX, Amount::ZERO));
}
