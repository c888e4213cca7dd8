//! Tests of the index: what it finds after every way to be built.

use tally_ledger::{
    action::{Action, Debits},
    block::{BLOCK_VERSION, Block, Certificate, Header},
    codec::List,
    crypto::ChainId,
    debit::{Debit, Detail, Fixed, Flags, Position, Queued},
    entry::{Entry, Event, EventLeaf, Receipt},
    hash::Hash,
    ids::{AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, LeaseNumber, Time},
    transaction::{Body, Transaction},
};

use super::*;

const GATEWAY: GatewayNumber = GatewayNumber(3);
const JOURNAL: JournalNumber = JournalNumber(2);

fn debits(height: u64, count: u64) -> Transaction {
    let action = Action::Debits(Debits {
        journal: JOURNAL,
        first: DebitNumber((height - 1) * count + 1),
        count: count as u32,
        root: Hash([height as u8; 32]),
    });
    let mut payload = Vec::new();
    // Every second batch is of the first version.
    let first = height % 2 == 1;
    for i in 0..count {
        let fixed = Fixed {
            version: if first { 1 } else { 2 },
            kind: 1,
            flags: Flags(0),
            account: AccountNumber(0),
            class: ClassNumber(0),
            api_key: ApiKeyNumber(0),
            lease: LeaseNumber(1),
            limit: Amount(0),
            fee: Amount(0),
        };
        let hold_journal = JournalNumber(1);
        let detail = Detail {
            hold: 10_000 - (height * 100 + i),
            hold_journal,
            queued: (!first).then(Queued::default),
            ..Detail::default()
        };
        Debit { fixed, detail }.write(&mut payload);
    }
    let body = Body::new(GATEWAY.into(), &[], [0; 16], 0, action).encode();
    Transaction {
        body,
        signatures: List::default(),
        payload,
    }
}

/// Block `height`: a control entry, a batch of three, a lease's end.
fn block(height: u64) -> CommittedBlock {
    let transaction = debits(height, 3);
    let account = AccountNumber(height as u32 % 4);
    let event = |event: Event, account, control| {
        let leaf = EventLeaf {
            kind: event.kind(),
            height: Height(height),
            account,
            entry: 0,
            control,
            event: event.hash(),
        };
        Entry::Event(leaf, event)
    };
    let frozen = Event::Frozen {
        transaction: Hash([height as u8; 32]),
    };
    let mut entries = vec![event(frozen, account, height + 1)];
    for i in 1..=3 {
        let number = DebitNumber((height - 1) * 3 + i);
        entries.push(Entry::Receipt(Receipt {
            flags: Flags(0),
            height: Height(height),
            account,
            entry: 1,
            position: Position {
                gateway: GATEWAY,
                journal: JOURNAL,
                number,
            },
            class: ClassNumber(1),
            cost: Amount(1),
            charged: Amount(1),
            detail: Hash::ZERO,
        }));
    }
    let recall = tally_ledger::account::Recall::No;
    let ended = Event::LeaseEnded {
        gateway: GatewayNumber(1),
        lease: LeaseNumber(1),
        recall,
    };
    entries.push(event(ended, account, 0));
    let header = Header {
        version: BLOCK_VERSION,
        chain: ChainId::default(),
        height: Height(height),
        time: Time(height),
        previous: Hash::ZERO,
        proposer: 0,
        transactions_root: Hash::ZERO,
        log_size: 0,
        log_root: Hash::ZERO,
        state_root: Hash::ZERO,
        next_validators: Hash::ZERO,
    };
    CommittedBlock {
        transactions: vec![transaction.id()],
        block: Block {
            header,
            transactions: vec![transaction],
        },
        redacted: Vec::new(),
        id: header.id(),
        certificate: Certificate {
            round: 0,
            precommits: List::default(),
        },
        first_entry: 1 + (height - 1) * 5,
        entries,
    }
}

/// Everything that can be asked about blocks 1 to `last`.
fn check(index: &IndexReader, last: u64) {
    let mut lists = vec![(Listing::Control, vec![0])];
    lists.extend((0..4).map(|n| (Listing::Account(AccountNumber(n)), vec![])));
    lists.push((Listing::Gateway(GATEWAY), vec![]));
    lists.push((Listing::Gateway(GatewayNumber(1)), vec![]));
    lists.push((Listing::Class(ClassNumber(1)), vec![]));
    for height in 1..=last {
        let first = 1 + (height - 1) * 5;
        let place = Place {
            height: Height(height),
            index: 0,
        };
        assert_eq!(
            index.transaction(&debits(height, 3).id()).unwrap(),
            Some(place)
        );
        for i in 0..3 {
            let hold = 10_000 - (height * 100 + i);
            assert_eq!(
                index.hold(GATEWAY, JournalNumber(1), hold).unwrap(),
                Some(first + 1 + i)
            );
            let debit = (height - 1) * 3 + 1 + i;
            assert_eq!(
                index.batch(GATEWAY, JOURNAL, debit).unwrap(),
                Some(first + 1)
            );
        }
        lists[0].1.push(first);
        lists[1 + height as usize % 4].1.extend(first..first + 5);
        lists[5].1.extend(first + 1..first + 4);
        lists[6].1.push(first + 4);
        lists[7].1.extend(first + 1..first + 4);
    }
    for (listing, wanted) in lists {
        assert_eq!(
            index.list(listing, 0, usize::MAX).unwrap(),
            wanted,
            "{listing:?}"
        );
        for from in [1, 7, last * 3, last * 5 + 1] {
            let rest: Vec<_> = wanted
                .iter()
                .copied()
                .filter(|at| *at >= from)
                .take(4)
                .collect();
            assert_eq!(
                index.list(listing, from, 4).unwrap(),
                rest,
                "{listing:?} from {from}"
            );
        }
        for before in 0..last * 5 + 3 {
            assert_eq!(
                index.last_before(listing, before).unwrap(),
                wanted.iter().copied().rfind(|at| *at < before),
                "{listing:?} before {before}"
            );
        }
    }
    assert_eq!(index.transaction(&Hash([1; 32])).unwrap(), None);
    assert_eq!(index.hold(GATEWAY, JournalNumber(1), 1).unwrap(), None);
    assert_eq!(index.hold(GATEWAY, JOURNAL, 10_000 - 100).unwrap(), None);
    assert_eq!(index.batch(GATEWAY, JournalNumber(3), 1).unwrap(), None);
    assert_eq!(index.batch(GATEWAY, JournalNumber(1), 1).unwrap(), None);
}

fn fill(index: &mut Index, last: u64) {
    for height in index.next().0..=last {
        index.add(&block(height)).unwrap();
    }
}

#[test]
fn sealed_and_recent_parts_answer_as_one() {
    let folder = tempfile::tempdir().unwrap();
    for (segment, last) in [(1 << 20, 40), (16, 40), (60, 41)] {
        let folder = folder.path().join(segment.to_string());
        let mut index = Index::open(&folder, Height(0), 1, segment).unwrap();
        fill(&mut index, last);
        check(&index.reader(), last);
        index.finish().unwrap();
        check(&index.reader(), last);
    }
}

#[test]
fn after_a_restart_only_the_tail_is_wanted_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::open(folder.path(), Height(0), 1, 16).unwrap();
    fill(&mut index, 30);
    drop(index);
    let mut index = Index::open(folder.path(), Height(30), 151, 16).unwrap();
    assert!(index.next() > Height(20));
    fill(&mut index, 33);
    check(&index.reader(), 33);
}

#[test]
fn an_index_of_another_history_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::open(folder.path(), Height(0), 1, 16).unwrap();
    fill(&mut index, 30);
    drop(index);
    let mut index = Index::open(folder.path(), Height(12), 61, 16).unwrap();
    assert_eq!(index.next(), Height(1));
    fill(&mut index, 12);
    check(&index.reader(), 12);
}
