//! Transactions that wait for a block. Bounded in all and per author; each
//! was admitted by the ledger against the committed state; kept once by id.
//!
//! Candidates come in the order in which they can succeed: persons, holders
//! and API keys first, as they arrived, because a freeze must not wait behind
//! a thousand debits; then gateways in turn, each by journal, and within one
//! OpenJournal, Leases and Debits by number, and ReturnLease last, when what
//! it spent has been told. What a gateway counts may arrive ahead of its
//! turn: it waits, and is no reason to make a block before.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tally_ledger::{
    action::Action,
    debit::debit_count,
    ids::{GatewayNumber, JournalNumber},
    reason::Reason,
    state::State,
    transaction::{Author, AuthorKind, Body, Transaction, TransactionId},
};

use crate::{config::MempoolConfig, refusals::Refusals};

/// How long something waits for its turn before it is dropped.
const PATIENCE: Duration = Duration::from_secs(60);
/// After this, a waiting transaction is admitted again or dropped.
const STALE: Duration = Duration::from_millis(500);
/// How many are admitted again per block.
const REVIEWS: usize = 64;

/// What a gateway counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    Journal,
    Lease,
    Debits,
    Return,
}

/// A gateway's turn. The order is the one in which a block takes them: what
/// a debit names (its journal, its lease) comes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    journal: u32,
    counted: Counted,
    number: u64,
}

impl Turn {
    const FIRST: Turn = Turn {
        journal: 0,
        counted: Counted::Journal,
        number: 0,
    };
    const LAST: Turn = Turn {
        journal: u32::MAX,
        counted: Counted::Return,
        number: u64::MAX,
    };

    fn of(action: &Action) -> Option<Self> {
        let (journal, counted, number) = match action {
            Action::OpenJournal(open) => (open.journal, Counted::Journal, 0),
            Action::Lease(lease) => (lease.journal, Counted::Lease, lease.number.0),
            Action::Debits(debits) => (debits.journal, Counted::Debits, debits.first.0),
            Action::ReturnLease(lease) => (JournalNumber(u32::MAX), Counted::Return, lease.0),
            _ => return None,
        };
        Some(Turn {
            journal: journal.0,
            counted,
            number,
        })
    }

    /// Less: it is past; Equal: now; Greater: not yet.
    fn against(self, state: &State, gateway: GatewayNumber) -> Ordering {
        let Some(gateway) = state.gateway(gateway) else {
            return Ordering::Greater;
        };
        let journal = self.journal.cmp(&gateway.journal.0);
        match self.counted {
            Counted::Return => Ordering::Equal,
            Counted::Journal => self.journal.cmp(&gateway.journal.0.saturating_add(1)),
            Counted::Lease => {
                journal.then(self.number.cmp(&gateway.last_lease.0.saturating_add(1)))
            }
            Counted::Debits => {
                journal.then(self.number.cmp(&gateway.last_debit.0.saturating_add(1)))
            }
        }
    }
}

fn corrected_by(action: &Action) -> Option<u64> {
    match action {
        Action::Correct(correct) => Some(correct.entry),
        _ => None,
    }
}

/// The receipt that a body corrects, if it does.
pub(crate) fn corrects(body: &[u8]) -> Option<u64> {
    corrected_by(&Body::decode(body).ok()?.action)
}

/// A transaction that waits.
#[derive(Debug)]
pub struct Waiting {
    /// Its id.
    pub id: TransactionId,
    /// The transaction.
    pub transaction: Transaction,
    /// The receipt that it corrects: its proof must be of the log just before
    /// the block, and is made anew for each.
    pub corrects: Option<u64>,
    author: Author,
    turn: Option<Turn>,
    bytes: usize,
    since: Instant,
}

impl Waiting {
    /// `None`: the body does not decode, which admission has seen before.
    pub fn new(id: TransactionId, transaction: Transaction) -> Option<Self> {
        let body = Body::decode(&transaction.body).ok()?;
        let corrects = corrected_by(&body.action);
        let by_gateway = body.author.kind == AuthorKind::Gateway;
        Some(Self {
            id,
            corrects,
            author: body.author,
            turn: Turn::of(&body.action).filter(|_| by_gateway),
            bytes: transaction.encoded_len(),
            since: Instant::now(),
            transaction,
        })
    }

    fn debits(&self) -> usize {
        debit_count(&self.transaction.payload)
    }
}

/// What a block may be built from.
#[derive(Debug)]
pub enum Pick {
    /// As it waits.
    Shared(Arc<Waiting>),
    /// With a payload that was made for this block.
    Own(Transaction),
}

impl Borrow<Transaction> for Pick {
    fn borrow(&self) -> &Transaction {
        match self {
            Pick::Shared(waiting) => &waiting.transaction,
            Pick::Own(transaction) => transaction,
        }
    }
}

/// Why something does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<TransactionId, u64>,
    /// By arrival.
    waiting: BTreeMap<u64, Arc<Waiting>>,
    turns: BTreeMap<(u32, Turn), u64>,
    authors: HashMap<Author, (usize, usize)>,
    next: u64,
    bytes: usize,
}

/// The waiting transactions of a node.
#[derive(Debug)]
pub struct Mempool {
    inner: Mutex<Inner>,
    config: MempoolConfig,
    /// What was dropped because the ledger refuses it.
    pub(crate) refusals: Refusals,
}

impl Inner {
    fn remove(&mut self, arrival: u64) {
        let Some(gone) = self.waiting.remove(&arrival) else {
            return;
        };
        self.by_id.remove(&gone.id);
        self.bytes -= gone.bytes;
        if let Some(turn) = gone.turn {
            let key = (gone.author.number, turn);
            if self.turns.get(&key) == Some(&arrival) {
                self.turns.remove(&key);
            }
        }
        if let Some((count, bytes)) = self.authors.get_mut(&gone.author) {
            *count -= 1;
            *bytes -= gone.bytes;
            if *count == 0 {
                self.authors.remove(&gone.author);
            }
        }
    }

    /// In the order in which a block should take them.
    fn in_order(&self) -> impl Iterator<Item = &Arc<Waiting>> {
        let people = self
            .waiting
            .values()
            .filter(|waiting| waiting.turn.is_none());
        let mut gateways: VecDeque<_> = VecDeque::new();
        let mut next = self.turns.keys().next();
        while let Some((gateway, _)) = next {
            let (first, last) = ((*gateway, Turn::FIRST), (*gateway, Turn::LAST));
            gateways.push_back(self.turns.range(first..=last));
            next = self
                .turns
                .range((Excluded(last), Unbounded))
                .next()
                .map(|(key, _)| key);
        }
        let in_turn = std::iter::from_fn(move || {
            loop {
                let mut turns = gateways.pop_front()?;
                if let Some((_, arrival)) = turns.next() {
                    gateways.push_back(turns);
                    return self.waiting.get(arrival);
                }
            }
        });
        people.chain(in_turn)
    }
}

impl Mempool {
    /// An empty one.
    pub fn new(config: MempoolConfig) -> Self {
        Self {
            inner: Mutex::default(),
            config,
            refusals: Refusals::default(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while it is locked")
    }

    /// A transaction that waits.
    pub fn get(&self, id: &TransactionId) -> Option<Arc<Waiting>> {
        let inner = self.locked();
        inner.waiting.get(inner.by_id.get(id)?).cloned()
    }

    /// Number and bytes of those that wait.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.locked();
        (inner.waiting.len(), inner.bytes)
    }

    /// Takes in an admitted transaction; `false`: it waits already. Of two
    /// with the same turn, the later one replaces the other.
    pub fn insert(&self, waiting: Waiting) -> Result<bool, Full> {
        let mut inner = self.locked();
        if inner.by_id.contains_key(&waiting.id) {
            return Ok(false);
        }
        let turn = waiting.turn.map(|turn| (waiting.author.number, turn));
        if let Some(rival) = turn.and_then(|key| inner.turns.get(&key).copied()) {
            inner.remove(rival);
        }
        let (count, bytes) = inner
            .authors
            .get(&waiting.author)
            .copied()
            .unwrap_or_default();
        let config = &self.config;
        if inner.waiting.len() >= config.max_transactions
            || inner.bytes + waiting.bytes > config.max_bytes
            || count >= config.max_per_author
            || bytes + waiting.bytes > config.max_bytes_per_author
        {
            return Err(Full);
        }
        let arrival = inner.next;
        inner.next += 1;
        inner.bytes += waiting.bytes;
        inner.by_id.insert(waiting.id, arrival);
        inner
            .authors
            .insert(waiting.author, (count + 1, bytes + waiting.bytes));
        if let Some(key) = turn {
            inner.turns.insert(key, arrival);
        }
        self.refusals.forget(&waiting.id);
        inner.waiting.insert(arrival, Arc::new(waiting));
        Ok(true)
    }

    /// Whether something could go into the next block.
    pub fn has_work(&self, state: &State) -> bool {
        let inner = self.locked();
        if inner.waiting.len() > inner.turns.len() {
            return true;
        }
        inner
            .turns
            .keys()
            .any(|(gateway, turn)| turn.against(state, GatewayNumber(*gateway)) == Ordering::Equal)
    }

    /// What to build a block from, in order, as long as it stays within
    /// `max_bytes` and `max_debits`. The first one is always among them: it
    /// may be larger than half a block, and must get in with half an effort.
    pub fn candidates(&self, max_bytes: usize, max_debits: usize) -> Vec<Arc<Waiting>> {
        let (mut bytes, mut debits) = (0, 0);
        let fits = |waiting: &&Arc<Waiting>| {
            let first = bytes == 0;
            bytes += waiting.bytes;
            debits += waiting.debits();
            first || (bytes <= max_bytes && debits <= max_debits)
        };
        self.locked().in_order().take_while(fits).cloned().collect()
    }

    /// Drops what was refused while a block was built, but for what has only
    /// come before its turn. How many were dropped.
    pub fn refused(&self, refused: &[(TransactionId, Reason)]) -> usize {
        let mut inner = self.locked();
        let before = inner.waiting.len();
        for (id, reason) in refused {
            let early = matches!(
                reason,
                Reason::DebitNotNext | Reason::LeaseNotNext | Reason::JournalNotNext
            );
            let Some(arrival) = inner.by_id.get(id).copied() else {
                continue;
            };
            let counted = inner
                .waiting
                .get(&arrival)
                .is_some_and(|w| w.turn.is_some());
            if !(early && counted) {
                inner.remove(arrival);
                self.refusals.add(*id, *reason);
            }
        }
        before - inner.waiting.len()
    }

    /// After a block: drops what it brought, what has missed its turn, and
    /// what has waited for it too long; gives back some of those that a block
    /// should have taken by now, to be admitted again.
    pub fn committed(&self, ids: &[TransactionId], state: &State) -> Vec<Arc<Waiting>> {
        let mut inner = self.locked();
        for id in ids {
            if let Some(arrival) = inner.by_id.get(id).copied() {
                inner.remove(arrival);
            }
        }
        let mut gone = Vec::new();
        for ((gateway, turn), arrival) in &inner.turns {
            let order = turn.against(state, GatewayNumber(*gateway));
            let waited = inner
                .waiting
                .get(arrival)
                .map_or(Duration::ZERO, |w| w.since.elapsed());
            if order.is_lt() || (order.is_gt() && waited > PATIENCE) {
                gone.push(*arrival);
            }
        }
        gone.into_iter().for_each(|arrival| inner.remove(arrival));
        let stale = inner.waiting.values().filter(|w| w.turn.is_none());
        stale
            .take_while(|w| w.since.elapsed() > STALE)
            .take(REVIEWS)
            .cloned()
            .collect()
    }

    /// Drops one that the ledger refuses by now.
    pub fn refuse(&self, id: &TransactionId, reason: Reason) {
        self.remove(id);
        self.refusals.add(*id, reason);
    }

    /// Drops one.
    pub fn remove(&self, id: &TransactionId) {
        let mut inner = self.locked();
        if let Some(arrival) = inner.by_id.get(id).copied() {
            inner.remove(arrival);
        }
    }
}

#[cfg(test)]
mod tests;
