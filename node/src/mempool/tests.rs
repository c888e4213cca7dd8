//! Tests of the mempool: bounds, order, what leaves it.

use tally_ledger::{
    action::{Debits, Lease, OpenJournal},
    codec::List,
    debit::RECORD_BYTES,
    hash::Hash,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, JournalNumber, LeaseNumber,
        Person,
    },
};

use super::*;

fn waiting(author: Author, action: Action, payload: usize) -> Waiting {
    let body = Body::new(author, &[], [0; 16], 0, action);
    let transaction = Transaction {
        body: body.encode(),
        signatures: List::default(),
        payload: vec![0; payload],
    };
    Waiting::new(transaction.id(), transaction).unwrap()
}

fn put(pool: &Mempool, author: Author, action: Action) -> TransactionId {
    let waiting = waiting(author, action, 0);
    let id = waiting.id;
    assert_eq!(pool.insert(waiting), Ok(true));
    id
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

fn freeze(account: u32) -> Action {
    Action::Freeze(AccountNumber(account))
}

fn gateway(number: u32) -> Author {
    GatewayNumber(number).into()
}

fn person(number: u32) -> Author {
    Person(number).into()
}

fn pool(config: MempoolConfig) -> Mempool {
    Mempool::new(config)
}

fn order(pool: &Mempool) -> Vec<TransactionId> {
    let all = pool.candidates(usize::MAX, usize::MAX);
    all.iter().map(|waiting| waiting.id).collect()
}

#[test]
fn a_gateways_transactions_come_in_the_order_in_which_they_can_succeed() {
    let pool = pool(MempoolConfig::default());
    let returned = put(&pool, gateway(0), Action::ReturnLease(LeaseNumber(1)));
    let third = put(&pool, gateway(0), debits(1, 3));
    let open = OpenJournal {
        journal: JournalNumber(2),
        previous_intact: true,
    };
    let opened = put(&pool, gateway(0), Action::OpenJournal(open));
    let first = put(&pool, gateway(0), debits(1, 1));
    let leased = put(&pool, gateway(0), lease(1));
    assert_eq!(order(&pool), [leased, first, third, opened, returned]);
}

#[test]
fn people_come_first_and_gateways_take_turns() {
    let pool = pool(MempoolConfig::default());
    let a1 = put(&pool, gateway(0), debits(1, 1));
    let a2 = put(&pool, gateway(0), debits(1, 2));
    let b1 = put(&pool, gateway(7), debits(1, 1));
    let late = put(&pool, person(9), freeze(0));
    let later = put(&pool, person(1), freeze(0));
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
    let pool = pool(config);
    let first = put(&pool, person(0), freeze(1));
    assert_eq!(
        pool.insert(waiting(person(0), freeze(1), 0)),
        Ok(false),
        "it waits already"
    );
    put(&pool, person(0), freeze(2));
    assert_eq!(
        pool.insert(waiting(person(0), freeze(3), 0)),
        Err(Full),
        "two per author"
    );
    assert_eq!(
        pool.insert(waiting(person(1), freeze(1), 1990)),
        Err(Full),
        "bytes per author"
    );
    put(&pool, person(1), freeze(1));
    assert_eq!(
        pool.insert(waiting(person(2), freeze(1), 0)),
        Err(Full),
        "three in all"
    );
    pool.remove(&first);
    put(&pool, person(2), freeze(1));
    let (count, bytes) = pool.size();
    assert_eq!(count, 3);
    for id in order(&pool) {
        pool.remove(&id);
    }
    assert!(bytes > 0 && pool.size() == (0, 0) && order(&pool).is_empty());
}

#[test]
fn candidates_stay_within_bytes_and_debits() {
    let pool = pool(MempoolConfig::default());
    for first in 1..=4 {
        pool.insert(waiting(gateway(0), debits(1, first), 2 * RECORD_BYTES))
            .unwrap();
    }
    assert_eq!(pool.candidates(usize::MAX, 5).len(), 2);
    assert_eq!(pool.candidates(usize::MAX, 8).len(), 4);
    let one = pool.candidates(usize::MAX, 2)[0].bytes;
    assert_eq!(pool.candidates(3 * one, usize::MAX).len(), 3);
}

#[test]
fn what_is_larger_than_half_a_block_gets_in_with_half_an_effort() {
    let pool = pool(MempoolConfig::default());
    for first in 1..=2 {
        let waiting = waiting(gateway(0), debits(1, first), 2 * RECORD_BYTES);
        pool.insert(waiting).unwrap();
    }
    let bytes = pool.candidates(usize::MAX, usize::MAX)[0].bytes;
    for (bytes, debits) in [(bytes / 2, 4), (2 * bytes, 1), (0, 0)] {
        assert_eq!(pool.candidates(bytes, debits).len(), 1);
    }
}

#[test]
fn of_two_for_one_turn_the_later_stays() {
    let pool = pool(MempoolConfig::default());
    put(&pool, gateway(0), debits(1, 1));
    let other = Action::Debits(Debits {
        journal: JournalNumber(1),
        first: DebitNumber(1),
        count: 2,
        root: Hash([1; 32]),
    });
    let later = put(&pool, gateway(0), other);
    assert_eq!(order(&pool), [later]);
}

#[test]
fn what_is_early_stays_and_what_is_refused_for_good_goes() {
    let pool = pool(MempoolConfig::default());
    let early = put(&pool, gateway(0), debits(1, 5));
    let frozen = put(&pool, person(0), freeze(0));
    let bad = put(&pool, gateway(1), debits(1, 1));
    let refused = [
        (early, Reason::DebitNotNext),
        (frozen, Reason::Frozen),
        (bad, Reason::DebitRoot),
        (Hash([3; 32]), Reason::Frozen),
    ];
    assert_eq!(pool.refused(&refused), 2);
    assert_eq!(order(&pool), [early]);
}
