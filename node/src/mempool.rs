//! Transactions that wait for a block: bounded in number and bytes, in all
//! and per author, so that nobody crowds others out.
//!
//! What is here was admitted by the ledger on this node; whether it still
//! fits is seen when a block is built. Candidates come in the order in which
//! they can succeed: persons, holders and API keys as they arrived and first,
//! because a freeze must not wait behind a thousand debits; then gateways in
//! turn, each by journal, and within one: OpenJournal, Leases and Debits by
//! number, and ReturnLease last, when what it spent has been told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tally_ledger::{
    action::Action,
    transaction::{Author, AuthorKind, Body, Transaction, TransactionId},
};

use crate::config::MempoolConfig;

/// What became of a transaction that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It waits from now on.
    New,
    /// It waits already.
    Known,
}

/// There is no room, in all or for this author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many transactions wait")]
pub struct Full;

/// Order of a transaction among its author's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    journal: u32,
    step: u8,
    number: u64,
    id: TransactionId,
}

impl Rank {
    fn of(body: &Body, arrival: u64, id: TransactionId) -> Self {
        let (journal, step, number) = match &body.action {
            Action::OpenJournal(open) => (open.journal.0, 0, 0),
            Action::Lease(lease) => (lease.journal.0, 1, lease.number.0),
            Action::Debits(debits) => (debits.journal.0, 2, debits.first.0),
            Action::ReturnLease(lease) => (u32::MAX, 3, lease.0),
            _ => (0, 0, arrival),
        };
        Rank {
            journal,
            step,
            number,
            id,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Rank, Arc<Transaction>>,
    bytes: usize,
}

/// The pool.
#[derive(Debug)]
pub struct Mempool {
    config: MempoolConfig,
    queues: BTreeMap<Author, Queue>,
    places: HashMap<TransactionId, (Author, Rank)>,
    bytes: usize,
    arrivals: u64,
}

impl Mempool {
    /// An empty pool.
    pub fn new(config: &MempoolConfig) -> Self {
        Self {
            config: *config,
            queues: BTreeMap::new(),
            places: HashMap::new(),
            bytes: 0,
            arrivals: 0,
        }
    }

    /// Takes in a transaction that the ledger admits; `body` is its body.
    pub fn insert(
        &mut self,
        transaction: Arc<Transaction>,
        id: TransactionId,
        body: &Body,
    ) -> Result<Inserted, Full> {
        if self.places.contains_key(&id) {
            return Ok(Inserted::Known);
        }
        let size = transaction.encoded_len();
        let author = body.author;
        let (theirs, their_bytes) = self
            .queues
            .get(&author)
            .map_or((0, 0), |queue| (queue.waiting.len(), queue.bytes));
        let config = &self.config;
        if self.places.len() >= config.max_transactions
            || self.bytes + size > config.max_bytes
            || theirs >= config.max_per_author
            || their_bytes + size > config.max_bytes_per_author
        {
            return Err(Full);
        }
        self.arrivals += 1;
        let rank = Rank::of(body, self.arrivals, id);
        let queue = self.queues.entry(author).or_default();
        queue.waiting.insert(rank, transaction);
        queue.bytes += size;
        self.bytes += size;
        self.places.insert(id, (author, rank));
        Ok(Inserted::New)
    }

    /// Whether it waits here.
    pub fn contains(&self, id: &TransactionId) -> bool {
        self.places.contains_key(id)
    }

    /// A transaction that waits.
    pub fn get(&self, id: &TransactionId) -> Option<&Arc<Transaction>> {
        let (author, rank) = self.places.get(id)?;
        self.queues.get(author)?.waiting.get(rank)
    }

    /// Takes one out; `None` if it does not wait here.
    pub fn remove(&mut self, id: &TransactionId) -> Option<Arc<Transaction>> {
        let (author, rank) = self.places.remove(id)?;
        let queue = self.queues.get_mut(&author)?;
        let transaction = queue.waiting.remove(&rank)?;
        let size = transaction.encoded_len();
        queue.bytes -= size;
        self.bytes -= size;
        if queue.waiting.is_empty() {
            self.queues.remove(&author);
        }
        Some(transaction)
    }

    /// Candidates for a block, in order, up to `max_bytes` in all.
    pub fn candidates(&self, max_bytes: usize) -> Vec<Arc<Transaction>> {
        let mut left = max_bytes;
        let mut chosen = Vec::new();
        let mut choose = |transaction: &Arc<Transaction>| {
            let rest = left.checked_sub(transaction.encoded_len());
            if let Some(rest) = rest {
                left = rest;
                chosen.push(transaction.clone());
            }
            rest.is_some()
        };
        for transaction in self.arrived() {
            if !choose(transaction) {
                return chosen;
            }
        }
        let mut turns: Vec<_> = self
            .gateways()
            .map(|queue| queue.waiting.values())
            .collect();
        while !turns.is_empty() {
            turns.retain_mut(|queue| queue.next().is_some_and(&mut choose));
        }
        chosen
    }

    /// All that wait, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&TransactionId, &Arc<Transaction>)> {
        let queues = self.queues.values();
        queues.flat_map(|queue| queue.waiting.iter().map(|(rank, t)| (&rank.id, t)))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those that are not gateways', as they arrived.
    fn arrived(&self) -> impl Iterator<Item = &Arc<Transaction>> {
        let others = self
            .queues
            .iter()
            .filter(|(author, _)| author.kind != AuthorKind::Gateway);
        let mut all: Vec<_> = others.flat_map(|(_, queue)| &queue.waiting).collect();
        all.sort_unstable_by_key(|(rank, _)| rank.number);
        all.into_iter().map(|(_, transaction)| transaction)
    }

    fn gateways(&self) -> impl Iterator<Item = &Queue> {
        let is_gateway = |author: &Author| author.kind == AuthorKind::Gateway;
        self.queues
            .iter()
            .filter(move |(author, _)| is_gateway(author))
            .map(|(_, queue)| queue)
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{
        action::{Debits, Lease, OpenJournal},
        codec::List,
        hash::Hash,
        ids::{
            AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber,
            JournalNumber, LeaseNumber, Person,
        },
    };

    use super::*;

    fn put(pool: &mut Mempool, author: Author, action: Action, payload: usize) -> TransactionId {
        try_put(pool, author, action, payload).unwrap()
    }

    fn try_put(
        pool: &mut Mempool,
        author: Author,
        action: Action,
        payload: usize,
    ) -> Result<TransactionId, Full> {
        let body = Body::new(author, &[], [0; 16], 0, action);
        let transaction = Transaction {
            body: body.encode(),
            signatures: List::default(),
            payload: vec![0; payload],
        };
        let id = transaction.id();
        pool.insert(Arc::new(transaction), id, &body)?;
        Ok(id)
    }

    fn debits(journal: u32, first: u64) -> Action {
        Action::Debits(Debits {
            journal: JournalNumber(journal),
            first: DebitNumber(first),
            count: 1,
            root: Hash::ZERO,
        })
    }

    fn lease(number: u64) -> Action {
        Action::Lease(Lease {
            journal: JournalNumber(1),
            number: LeaseNumber(number),
            account: AccountNumber(0),
            class: ClassNumber(0),
            api_key: ApiKeyNumber(0),
            wanted: Amount(1),
            worst_case: Amount(1),
            duration_ms: 1,
        })
    }

    fn gateway(number: u32) -> Author {
        GatewayNumber(number).into()
    }

    fn person(number: u32) -> Author {
        Person(number).into()
    }

    fn order(pool: &Mempool) -> Vec<TransactionId> {
        let all = pool.candidates(usize::MAX);
        all.iter().map(|transaction| transaction.id()).collect()
    }

    #[test]
    fn a_gateways_transactions_come_in_the_order_in_which_they_can_succeed() {
        let mut pool = Mempool::new(&MempoolConfig::default());
        let returned = put(
            &mut pool,
            gateway(0),
            Action::ReturnLease(LeaseNumber(1)),
            0,
        );
        let third = put(&mut pool, gateway(0), debits(1, 3), 0);
        let next_journal = OpenJournal {
            journal: JournalNumber(2),
            previous_intact: true,
        };
        let opened = put(&mut pool, gateway(0), Action::OpenJournal(next_journal), 0);
        let first = put(&mut pool, gateway(0), debits(1, 1), 0);
        let leased = put(&mut pool, gateway(0), lease(1), 0);
        assert_eq!(order(&pool), [leased, first, third, opened, returned]);
    }

    #[test]
    fn people_come_first_and_gateways_take_turns() {
        let mut pool = Mempool::new(&MempoolConfig::default());
        let a1 = put(&mut pool, gateway(0), debits(1, 1), 0);
        let a2 = put(&mut pool, gateway(0), debits(1, 2), 0);
        let b1 = put(&mut pool, gateway(1), debits(1, 1), 0);
        let late = put(&mut pool, person(9), Action::Freeze(AccountNumber(0)), 0);
        let later = put(&mut pool, person(1), Action::Freeze(AccountNumber(0)), 0);
        assert_eq!(order(&pool), [late, later, a1, b1, a2]);
    }

    #[test]
    fn bounds_hold_in_all_and_per_author_and_removal_makes_room() {
        let config = MempoolConfig {
            max_transactions: 3,
            max_per_author: 2,
            max_bytes: 3000,
            max_bytes_per_author: 2000,
        };
        let mut pool = Mempool::new(&config);
        let first = put(&mut pool, gateway(0), debits(1, 1), 0);
        put(&mut pool, gateway(0), debits(1, 2), 0);
        assert_eq!(try_put(&mut pool, gateway(0), debits(1, 3), 0), Err(Full));
        assert_eq!(
            try_put(&mut pool, gateway(1), debits(1, 1), 2500),
            Err(Full)
        );
        put(&mut pool, gateway(1), debits(1, 2), 0);
        assert_eq!(try_put(&mut pool, gateway(2), debits(1, 1), 0), Err(Full));
        assert!(pool.remove(&first).is_some());
        assert!(pool.remove(&first).is_none());
        put(&mut pool, gateway(2), debits(1, 1), 0);
        for id in order(&pool) {
            pool.remove(&id);
        }
        assert_eq!((pool.len(), pool.bytes()), (0, 0));
    }

    #[test]
    fn the_same_transaction_waits_once() {
        let mut pool = Mempool::new(&MempoolConfig::default());
        let id = put(&mut pool, gateway(0), debits(1, 1), 0);
        assert_eq!(put(&mut pool, gateway(0), debits(1, 1), 0), id);
        assert_eq!(pool.len(), 1);
        assert_eq!(pool.get(&id).map(|t| t.id()), Some(id));
    }

    #[test]
    fn candidates_stop_at_the_block_that_is_full() {
        let mut pool = Mempool::new(&MempoolConfig::default());
        let first = put(&mut pool, gateway(0), debits(1, 1), 1000);
        put(&mut pool, gateway(0), debits(1, 2), 1000);
        let chosen = pool.candidates(1500);
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].id(), first);
    }
}
