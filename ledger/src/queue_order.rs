//! Whether a gateway's queue served its requests in the right order, from
//! what their debits say ([`crate::debit::Queued`]).
//!
//! Each queue counts what happens in it. A request takes a number when it
//! joins and a later one when it is let go, so it waited from `joined` to
//! `joined + dispatched`. The counter goes on from the microseconds since 1970
//! when its gateway starts, so numbers are not taken again after a restart
//! (fewer than a million a second, and a clock that is not set back by more
//! than the pause).
//!
//! The rule: whoever is let go has the lowest rank of all who wait at that
//! moment. Ranks are (key, joined), and
//!
//! ```text
//! key = worth(arrival) - fee * 1000        [thousandths of a micro-CT]
//! ```
//!
//! with the fixed part's fee, the detail's arrival, and what waiting until then
//! was worth by the chain's fee unit ([`RatesState::worth_at`]; as long as the
//! unit is one, arrival in ms * unit). In pairs: two requests of one queue
//! waited at the same time if each joined before the other was let go; then
//! the one with the lower rank must have been let go first. The pairs are
//! counted in O(n log n), not one by one.
//!
//! What this cannot show: what a request that has no debit did (it left the
//! queue, or ended void, or a crash charged it without its numbers); whether
//! arrival and numbers are true, which is the gateway's signed word. But a
//! gateway must decide on them with each debit, before it knows what comes
//! later, and each client can compare the arrival in its receipt with its own
//! clock.

use std::collections::BTreeMap;

use crate::{
    debit::Debit,
    ids::{Amount, Time},
    rates::RatesState,
};

/// By what requests are sorted, in thousandths of a micro-CT; lower is
/// earlier. `worth` is that of waiting until the arrival
/// ([`RatesState::worth_at`]).
pub fn key(worth: u128, fee: Amount) -> i128 {
    let worth = i128::try_from(worth).unwrap_or(i128::MAX);
    worth.saturating_sub(i128::from(fee.0) * 1_000)
}

/// A request of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// See [`key`].
    pub key: i128,
    /// The number that it took when it joined.
    pub joined: u64,
    /// The number that it took when it was let go.
    pub dispatched: u64,
}

impl Served {
    /// A debit's queue and what it says of its request, under the rates in
    /// force at its arrival; `None` if it names no queue. Where its numbers
    /// have no sum, the largest one stands for it.
    pub fn of(debit: &Debit, rates: &RatesState) -> Option<(u32, Served)> {
        let queued = debit.detail.queued.filter(|queued| queued.queue > 0)?;
        let served = Served {
            key: key(rates.worth_at(Time(debit.detail.arrival)), debit.fixed.fee),
            joined: queued.joined,
            dispatched: queued.joined.saturating_add(queued.dispatched.into()),
        };
        Some((queued.queue, served))
    }

    fn rank(&self) -> (i128, u64) {
        (self.key, self.joined)
    }
}

/// Somebody was let go before somebody who should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// Who was let go, as an index of what was checked.
    pub served: usize,
    /// Who of those that waited then should have been: the lowest rank.
    pub passed: usize,
    /// How many waited then with a lower rank.
    pub count: u64,
}

/// What the requests of one queue show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Pairs that waited at the same time.
    pub pairs: u64,
    /// Each request that passed another one, in the order in which they were
    /// let go.
    pub violations: Vec<Violation>,
    /// Requests that took a number which an earlier one in the list or they
    /// themselves had taken.
    pub duplicates: Vec<usize>,
    /// Requests that were let go before they joined; they are in no pair.
    pub impossible: Vec<usize>,
}

impl Order {
    /// Whether nothing speaks against the queue.
    pub fn is_kept(&self) -> bool {
        self.violations.is_empty() && self.duplicates.is_empty() && self.impossible.is_empty()
    }

    /// Pairs in the wrong order.
    pub fn passed(&self) -> u64 {
        self.violations.iter().map(|found| found.count).sum()
    }
}

/// A moment in a queue: at equal numbers people go before others come, so
/// that only strictly overlapping waits count, and in the order of their
/// ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Goes { at: u64, place: usize },
    Joins { at: u64, place: usize },
}

impl Moment {
    fn order(&self) -> (u64, Moment) {
        match self {
            Moment::Goes { at, .. } | Moment::Joins { at, .. } => (*at, *self),
        }
    }
}

/// How many of the ranks wait, for any lowest part of them: a Fenwick tree.
struct Waiting {
    sums: Vec<u64>,
    all: u64,
}

impl Waiting {
    fn new(ranks: usize) -> Self {
        Waiting {
            sums: vec![0; ranks + 1],
            all: 0,
        }
    }

    fn add(&mut self, place: usize, by: i64) {
        self.all = self.all.wrapping_add_signed(by);
        let mut at = place + 1;
        while at < self.sums.len() {
            self.sums[at] = self.sums[at].wrapping_add_signed(by);
            at += at & at.wrapping_neg();
        }
    }

    fn below(&self, place: usize) -> u64 {
        let mut at = place;
        let mut sum = 0;
        while at > 0 {
            sum += self.sums[at];
            at -= at & at.wrapping_neg();
        }
        sum
    }
}

/// Checks the requests of one queue, given in any order.
pub fn check(served: &[Served]) -> Order {
    let mut order = Order {
        duplicates: duplicates(served),
        ..Order::default()
    };
    // Places: the requests by their ranks.
    let mut places: Vec<usize> = Vec::with_capacity(served.len());
    for (index, request) in served.iter().enumerate() {
        if request.joined < request.dispatched {
            places.push(index);
        } else {
            order.impossible.push(index);
        }
    }
    places.sort_by_key(|index| served[*index].rank());
    let mut moments = Vec::with_capacity(2 * places.len());
    for (place, index) in places.iter().enumerate() {
        let Served {
            joined, dispatched, ..
        } = served[*index];
        moments.push(Moment::Joins { at: joined, place });
        moments.push(Moment::Goes {
            at: dispatched,
            place,
        });
    }
    moments.sort_unstable_by_key(Moment::order);
    let lowest = lowest_equals(served, &places);
    let mut waiting = Waiting::new(places.len());
    let mut standing = BTreeMap::new();
    for moment in moments {
        match moment {
            Moment::Joins { place, .. } => {
                order.pairs = order.pairs.saturating_add(waiting.all);
                waiting.add(place, 1);
                standing.insert(place, places[place]);
            }
            Moment::Goes { place, .. } => {
                waiting.add(place, -1);
                standing.remove(&place);
                let count = waiting.below(lowest[place]);
                if count > 0
                    && let Some((_, passed)) = standing.first_key_value()
                {
                    order.violations.push(Violation {
                        served: places[place],
                        passed: *passed,
                        count,
                    });
                }
            }
        }
    }
    order
}

/// For each place the first one with an equal rank: equals pass nobody.
fn lowest_equals(served: &[Served], places: &[usize]) -> Vec<usize> {
    let mut lowest: Vec<usize> = Vec::with_capacity(places.len());
    for (place, index) in places.iter().enumerate() {
        let before = place.checked_sub(1);
        let equal = before.filter(|before| served[places[*before]].rank() == served[*index].rank());
        lowest.push(equal.map_or(place, |before| lowest[before]));
    }
    lowest
}

fn duplicates(served: &[Served]) -> Vec<usize> {
    let numbers =
        |(index, request): (usize, &Served)| [(request.joined, index), (request.dispatched, index)];
    let mut numbers: Vec<(u64, usize)> = served.iter().enumerate().flat_map(numbers).collect();
    numbers.sort_unstable();
    let same = numbers.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    let mut found: Vec<usize> = same.map(|pair| pair[1].1).collect();
    found.sort_unstable();
    found.dedup();
    found
}
