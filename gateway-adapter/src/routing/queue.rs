//! The order of requests before one engine. A synchronous state machine: time
//! comes in as milliseconds, and nothing here waits.
//!
//! - At most `places` requests are at the engine, at most `most` wait.
//! - Next is the one with the highest effective fee: its fee and one fee unit
//!   for each second that it has waited; of equals, the one that came first.
//! - So nobody is starved: no fee passes a request that has waited for as
//!   many seconds longer as the fee has units.
//! - Another fee unit counts for the time from then on. It never changes the
//!   order of those that wait.
//! - Neither requests with a fee nor those without fill more than three
//!   quarters of the waiting places, so that under overload a fee can still be
//!   paid, and nobody must pay one.
//! - The last quarter of the waiting places, and of those that requests of
//!   one of the two kinds may fill, is for accounts that do not have a quarter
//!   of all already: one account does not keep all others out. Who waits is
//!   never displaced.
//!
//! Effective fees grow at one speed, so their order never changes: it is kept
//! sorted by what waiting was worth at the arrival, less the fee, lowest first
//! ([`Rank`]).
//!
//! What happens here is counted: to join takes a number, to be let go a later
//! one. The debits say both, so that anybody can check the order (the
//! ledger's `queue_order`).

use std::collections::{BTreeMap, HashMap, VecDeque};

use tally_ledger::{
    ids::{AccountNumber, Amount},
    queue_order::key,
};

/// Ends of requests from which the queue's speed is told.
const RECENT: usize = 32;
/// Shortest and longest advice to come again, in ms.
const ADVICE_MS: (u64, u64) = (1_000, 60_000);
/// The share of waiting places that requests with a fee leave to those
/// without, and the other way round; and that accounts which have as much
/// already leave to others.
const KEPT_PART: usize = 4;

/// What a request offers: its fee, and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Priority fee.
    pub fee: Amount,
    /// What waiting from the beginning of time until the request came, as its
    /// debit says, was worth, in thousandths of a micro-CT
    /// ([`tally_ledger::rates::RatesState::worth_at`]).
    pub worth: u128,
    /// Whose it is.
    pub account: AccountNumber,
}

/// A request's position: lower goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Arrival and fee in thousandths of a micro-CT.
    key: i128,
    /// The number that it took when it joined.
    joined: u64,
    /// Whether it has a fee.
    pays: bool,
    account: AccountNumber,
}

impl Rank {
    /// Whose request it is.
    pub fn account(&self) -> AccountNumber {
        self.account
    }
}

impl Offer {
    /// Thousandths of a micro-CT by which requests are sorted; lower is
    /// earlier.
    pub fn key(&self) -> i128 {
        key(self.worth, self.fee)
    }
}

/// The numbers that a request took in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// When it joined.
    pub joined: u64,
    /// When it was let go.
    pub dispatched: u64,
}

/// A request whose turn it is.
#[derive(Debug)]
pub struct Called<T> {
    /// Where it stood.
    pub rank: Rank,
    /// Its numbers.
    pub numbers: Numbers,
    /// Itself.
    pub request: T,
}

/// Nothing may wait any more; come again after so many ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full(pub u32);

/// Requests at an engine and before it. `T` is handed back when it is a
/// request's turn.
#[derive(Debug)]
pub struct Queue<T> {
    places: usize,
    most: usize,
    running: usize,
    /// The last number that was taken.
    last: u64,
    waiting: BTreeMap<Rank, T>,
    /// Those of them that have a fee.
    paying: usize,
    /// How many wait of each account.
    accounts: HashMap<AccountNumber, usize>,
    /// When the last requests ended, and at first when this began.
    ends: VecDeque<u64>,
}

impl<T> Queue<T> {
    /// An empty queue, whose numbers follow `last`.
    pub fn new(places: usize, most: usize, last: u64) -> Self {
        Queue {
            places,
            most,
            running: 0,
            last,
            waiting: BTreeMap::new(),
            paying: 0,
            accounts: HashMap::new(),
            ends: VecDeque::with_capacity(RECENT + 1),
        }
    }

    /// Requests at the engine.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a request that comes now goes straight to the engine.
    pub fn is_free(&self) -> bool {
        self.waiting.is_empty() && self.running < self.places
    }

    /// Who waits, in thousandths of the places: how long a newcomer's wait is
    /// beside that at another engine.
    pub fn pressure(&self) -> u64 {
        let waiting = (self.waiting.len() as u64).saturating_add(1);
        waiting.saturating_mul(1_000) / (self.places as u64).max(1)
    }

    /// Whether a request with this offer may wait, were it to come now.
    pub fn room(&self, offer: Offer, now: u64) -> Result<(), Full> {
        let alike = if offer.fee == Amount::ZERO {
            self.waiting.len() - self.paying
        } else {
            self.paying
        };
        let kept = self.most / KEPT_PART;
        let left = self.most.saturating_sub(self.waiting.len());
        let left = left.min((self.most - kept).saturating_sub(alike));
        let own = self.accounts.get(&offer.account).copied().unwrap_or(0);
        if left > kept || (left > 0 && own < kept.max(1)) {
            return Ok(());
        }
        Err(Full(self.advice(now)))
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Takes a place at once, if one is free.
    pub fn take(&mut self) -> Option<Numbers> {
        if !self.is_free() {
            return None;
        }
        self.running += 1;
        Some(Numbers {
            joined: self.number(),
            dispatched: self.number(),
        })
    }

    /// Waits.
    pub fn wait(&mut self, offer: Offer, now: u64, request: T) -> Result<Rank, Full> {
        self.room(offer, now)?;
        let rank = Rank {
            key: offer.key(),
            joined: self.number(),
            pays: offer.fee > Amount::ZERO,
            account: offer.account,
        };
        self.paying += usize::from(rank.pays);
        *self.accounts.entry(rank.account).or_default() += 1;
        self.waiting.insert(rank, request);
        Ok(rank)
    }

    /// Whose turn it is, if there is a place.
    pub fn call(&mut self) -> Option<Called<T>> {
        if self.running >= self.places {
            return None;
        }
        let (rank, request) = self.waiting.pop_first()?;
        self.went(rank);
        self.running += 1;
        let numbers = Numbers {
            joined: rank.joined,
            dispatched: self.number(),
        };
        Some(Called {
            rank,
            numbers,
            request,
        })
    }

    /// A request that waits goes away; false if it does not wait.
    pub fn leave(&mut self, rank: Rank) -> bool {
        let waited = self.waiting.remove(&rank).is_some();
        if waited {
            self.went(rank);
        }
        waited
    }

    /// One that waited does not any more.
    fn went(&mut self, rank: Rank) {
        self.paying -= usize::from(rank.pays);
        if let Some(waiting) = self.accounts.get_mut(&rank.account) {
            *waiting -= 1;
            if *waiting == 0 {
                self.accounts.remove(&rank.account);
            }
        }
    }

    /// So many places and waiting places from now on; all that wait go away.
    pub fn change(&mut self, places: usize, most: usize) -> BTreeMap<Rank, T> {
        (self.places, self.most) = (places, most);
        self.empty()
    }

    /// All that wait go away.
    pub fn empty(&mut self) -> BTreeMap<Rank, T> {
        self.paying = 0;
        self.accounts.clear();
        std::mem::take(&mut self.waiting)
    }

    /// A request at the engine has ended.
    pub fn done(&mut self, now: u64) {
        self.running -= 1;
        self.ends.push_back(now);
        if self.ends.len() > RECENT {
            self.ends.pop_front();
        }
    }

    /// In how many ms who waits now will be served, at the speed of the last
    /// ends: after that it makes sense to come again.
    fn advice(&self, now: u64) -> u32 {
        let (least, most) = ADVICE_MS;
        let each = match self.ends.front() {
            Some(first) => now.saturating_sub(*first) / self.ends.len() as u64,
            None => 0,
        };
        let wait = each.saturating_mul(self.waiting.len() as u64);
        u32::try_from(wait.clamp(least, most)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
