//! The queue under virtual time, against the rule as the page says it.

use proptest::prelude::*;
use tally_ledger::{
    ids::{Sum, Time},
    queue_order::{self, Served},
    rates::{MAX_FEE_UNIT, RatesState},
};

use super::*;

const UNIT: Amount = Amount(1_000);

/// A request in the model.
#[derive(Debug, Clone, Copy)]
struct Request {
    number: usize,
    arrived: u64,
    offer: Offer,
}

/// The unit changes every three seconds, and the last one stays.
const CHANGE: u64 = 3_000;

/// The rule, naively: the fee and a unit per second, times a thousand; each
/// millisecond with the unit that there was in it.
fn effective(units: &[u64], request: &Request, now: u64) -> u128 {
    let mut sum = u128::from(request.offer.fee.0) * 1_000;
    for (i, unit) in units.iter().enumerate() {
        let from = i as u64 * CHANGE;
        let until = if i + 1 < units.len() {
            from + CHANGE
        } else {
            u64::MAX
        };
        let waited = until.min(now).saturating_sub(from.max(request.arrived));
        sum += u128::from(waited) * u128::from(*unit);
    }
    sum
}

/// The chain's rates as a gateway knows them at a time.
fn rates_at(units: &[u64], ms: u64) -> RatesState {
    let mut state = RatesState::default();
    for (i, unit) in units.iter().enumerate() {
        let since = Time(i as u64 * CHANGE);
        if since.0 > ms {
            break;
        }
        state.worth = Sum(state.worth_at(since));
        (state.since, state.rates.fee_unit) = (since, Amount(*unit));
    }
    state
}

#[derive(Debug, Default)]
struct Outcome {
    /// Number, when it came, when it went, its fee.
    served: Vec<(usize, u64, u64, u64)>,
    /// As their debits would say.
    numbers: Vec<Served>,
    refused: usize,
    left: usize,
    longest: usize,
}

fn numbered(request: &Request, numbers: Numbers) -> Served {
    Served {
        key: request.offer.key(),
        joined: numbers.joined,
        dispatched: numbers.dispatched,
    }
}

/// Requests (gap in ms, fee, service in ms, patience in ms) through a queue.
fn simulate(places: usize, most: usize, requests: &[(u64, u64, u64, u64)]) -> Outcome {
    simulate_with(&[UNIT.0], places, most, requests)
}

fn simulate_with(
    units: &[u64],
    places: usize,
    most: usize,
    requests: &[(u64, u64, u64, u64)],
) -> Outcome {
    let mut queue: Queue<Request> = Queue::new(places, most, 1_000);
    let mut waiting: Vec<(Request, Rank)> = Vec::new();
    let mut running: Vec<u64> = Vec::new();
    let mut outcome = Outcome::default();
    let mut arrivals = Vec::new();
    let mut now = 0;
    for (number, (gap, fee, ..)) in requests.iter().enumerate() {
        now += gap;
        let fee = Amount(*fee);
        let worth = rates_at(units, now).worth_at(Time(now));
        let account = AccountNumber(number as u32);
        arrivals.push(Request {
            number,
            arrived: now,
            offer: Offer {
                fee,
                worth,
                account,
            },
        });
    }
    let mut arrivals = arrivals.into_iter().peekable();
    let mut now = 0;
    while arrivals.peek().is_some() || !waiting.is_empty() || !running.is_empty() {
        while let Some(i) = running.iter().position(|end| *end <= now) {
            running.swap_remove(i);
            queue.done(now);
        }
        let patience = |request: &Request| requests[request.number].3;
        waiting.retain(|(request, rank)| {
            let gone = request.arrived + patience(request) <= now;
            if gone {
                assert!(queue.leave(*rank));
                assert!(!queue.leave(*rank));
                outcome.left += 1;
            }
            !gone
        });
        while let Some(request) = arrivals.next_if(|request| request.arrived <= now) {
            if let Some(numbers) = queue.take() {
                outcome.numbers.push(numbered(&request, numbers));
                running.push(now + requests[request.number].2);
                outcome
                    .served
                    .push((request.number, now, now, request.offer.fee.0));
            } else if let Ok(rank) = queue.wait(request.offer, now, request) {
                waiting.push((request, rank));
            } else {
                outcome.refused += 1;
            }
        }
        outcome.longest = outcome.longest.max(waiting.len());
        while let Some(called) = queue.call() {
            let Called { rank, request, .. } = called;
            outcome.numbers.push(numbered(&request, called.numbers));
            // In the order of the page: highest effective fee, then arrival.
            let best = waiting
                .iter()
                .max_by_key(|(other, _)| {
                    (
                        effective(units, other, now),
                        std::cmp::Reverse(other.number),
                    )
                })
                .unwrap();
            assert_eq!((best.0.number, best.1), (request.number, rank));
            waiting.retain(|(other, _)| other.number != request.number);
            running.push(now + requests[request.number].2);
            let offer = request.offer;
            outcome
                .served
                .push((request.number, request.arrived, now, offer.fee.0));
        }
        assert_eq!(queue.running(), running.len());
        assert_eq!(queue.waiting(), waiting.len());
        assert!(running.len() <= places && waiting.len() <= most);
        assert!(waiting.is_empty() || running.len() == places);
        now += 1;
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_highest_effective_fee_goes_first_and_nobody_is_starved(
        places in 1usize..4,
        most in 0usize..40,
        requests in prop::collection::vec(
            (0u64..30, prop_oneof![Just(0), 0u64..6_000], 1u64..200, 50u64..20_000), 1..120),
    ) {
        let outcome = simulate(places, most, &requests);
        let ended = outcome.served.len() + outcome.refused + outcome.left;
        prop_assert_eq!(ended, requests.len());
        // Whoever reads the numbers finds the same.
        let order = queue_order::check(&outcome.numbers);
        prop_assert!(order.is_kept(), "{:?}", order);
        prop_assert!(order.pairs == 0 || outcome.longest >= 2, "{:?}", order);
        for (number, arrived, went, fee) in &outcome.served {
            for (other, later, before, more) in &outcome.served {
                // Who went first although it came later paid for it: one unit
                // for each second between them.
                let passed = later > arrived && before < went;
                let paid = more.saturating_sub(*fee) * 1_000 >= (later - arrived.min(later)) * UNIT.0;
                prop_assert!(!passed || paid, "{other} passed {number}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The order is checked at each call, against the rule.
    #[test]
    fn another_unit_counts_from_then_on_and_changes_no_order(
        units in prop::collection::vec(prop_oneof![Just(1), Just(1_000), 1u64..50_000], 1..5),
        requests in prop::collection::vec(
            (0u64..200, prop_oneof![Just(0), 0u64..60_000], 100u64..900, 50u64..20_000), 1..60),
    ) {
        let outcome = simulate_with(&units, 1, 40, &requests);
        let ended = outcome.served.len() + outcome.refused + outcome.left;
        prop_assert_eq!(ended, requests.len());
    }
}

#[test]
fn zero_is_served_beside_a_flood_of_fees() {
    // One place, 100 ms each: ten a second can be served. Twenty with a fee
    // of three units come each second, and one without in all.
    let mut requests = vec![(50, 3 * UNIT.0, 100, u64::MAX / 2); 1_000];
    requests.insert(100, (0, 0, 100, u64::MAX / 2));
    let outcome = simulate(1, 20, &requests);
    let zero = outcome.served.iter().find(|served| served.0 == 100);
    let (_, arrived, went, _) = zero.unwrap();
    // Three seconds make it equal to the newest, whatever is before it then.
    assert!(went - arrived <= 3_000 + 20 * 100, "{}", went - arrived);
    assert!(outcome.longest <= 20);
}

#[test]
fn twice_the_capacity_is_refused_and_not_queued_without_bound() {
    // Four places, 100 ms each: forty a second. Eighty come for a minute.
    let mut requests = Vec::new();
    for i in 0..4_800u64 {
        let fee = if i % 5 == 0 { UNIT.0 } else { 0 };
        requests.push((i % 2 * 25, fee, 100, u64::MAX / 2));
    }
    let outcome = simulate(4, 32, &requests);
    // Those without a fee fill their three quarters.
    assert!((24..=32).contains(&outcome.longest), "{}", outcome.longest);
    let mut waits: Vec<u64> = outcome
        .served
        .iter()
        .map(|served| served.2 - served.1)
        .collect();
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    // 32 places at 40 a second, and a second in which fees may pass.
    assert!(p99 <= 800 + 1_000, "{p99}");
    assert!(
        (2_300..=2_400).contains(&outcome.refused),
        "{}",
        outcome.refused
    );
    // With a fee nearly all of them came in.
    let paid = outcome.served.iter().filter(|served| served.3 > 0).count();
    assert!(paid >= 950, "{paid}");
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let mut queue: Queue<()> = Queue::new(1, 8, 0);
    let mut accounts = 0;
    let mut offer = |fee| {
        accounts += 1;
        Offer {
            fee: Amount(fee),
            worth: 0,
            account: AccountNumber(accounts),
        }
    };
    let numbers = Numbers {
        joined: 1,
        dispatched: 2,
    };
    assert_eq!(queue.take(), Some(numbers));
    assert_eq!(queue.take(), None);
    for _ in 0..6 {
        queue.wait(offer(0), 0, ()).unwrap();
    }
    // A quarter is left to those who pay; nothing has ended yet.
    assert_eq!(queue.wait(offer(0), 0, ()), Err(Full(1_000)));
    queue.wait(offer(1), 0, ()).unwrap();
    queue.wait(offer(1), 0, ()).unwrap();
    assert_eq!(queue.wait(offer(1), 0, ()), Err(Full(1_000)));
    // One end each 500 ms, then a silence.
    for end in 1..=4 {
        queue.done(end * 500);
        queue.call().unwrap();
        queue.wait(offer(1), end * 500, ()).unwrap();
    }
    // (2,500 - 500) / 4 for each of eight.
    assert_eq!(queue.room(offer(1), 2_500), Err(Full(4_000)));
    assert_eq!(queue.room(offer(1), u64::MAX), Err(Full(60_000)));
}

#[test]
fn one_account_leaves_the_last_quarter_to_others() {
    let mut queue: Queue<()> = Queue::new(1, 16, 0);
    let offer = |account, fee| Offer {
        fee: Amount(fee),
        worth: 0,
        account: AccountNumber(account),
    };
    assert!(queue.take().is_some());
    // Of those without a fee it has half of all places at most.
    for _ in 0..8 {
        queue.wait(offer(0, 0), 0, ()).unwrap();
    }
    assert!(queue.wait(offer(0, 0), 0, ()).is_err());
    assert!(queue.room(offer(1, 0), 0).is_ok());
    assert_eq!(queue.empty().len(), 8);
    let mut ranks = Vec::new();
    for i in 0..12 {
        ranks.push(queue.wait(offer(0, i % 2), 0, ()).unwrap());
    }
    // Whatever it pays.
    assert!(queue.wait(offer(0, 0), 0, ()).is_err());
    assert!(queue.wait(offer(0, 1), 0, ()).is_err());
    // Others fill it, but none of them with more than a quarter.
    queue.wait(offer(1, 0), 0, ()).unwrap();
    for _ in 0..3 {
        queue.wait(offer(2, 1), 0, ()).unwrap();
    }
    assert!(queue.wait(offer(3, 1), 0, ()).is_err());
    // Where one of the crowd leaves another of it may not follow.
    assert!(queue.leave(ranks.pop().unwrap()));
    assert!(queue.wait(offer(0, 0), 0, ()).is_err());
    queue.wait(offer(3, 0), 0, ()).unwrap();
    // When there is room again, it may.
    for rank in ranks.drain(..4) {
        assert!(queue.leave(rank));
    }
    assert!(queue.room(offer(2, 0), 0).is_ok());
    assert!(queue.room(offer(0, 0), 0).is_err());
    for rank in ranks.drain(..4) {
        assert!(queue.leave(rank));
    }
    queue.wait(offer(0, 0), 0, ()).unwrap();
}

#[test]
fn keys_fit_any_fee_and_time() {
    let most = Offer {
        fee: Amount((1 << 62) - 1),
        worth: 0,
        account: AccountNumber(0),
    };
    let mut rates = RatesState::default();
    rates.rates.fee_unit = MAX_FEE_UNIT;
    let late = Offer {
        fee: Amount::ZERO,
        worth: rates.worth_at(Time(u64::MAX)),
        account: AccountNumber(0),
    };
    assert!(most.key() < late.key());
}
