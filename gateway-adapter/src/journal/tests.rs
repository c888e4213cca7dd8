//! The journal over a disk that loses what was not synced, fails at will, and
//! can be cut at every byte.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use futures::FutureExt;
use tally_ledger::{
    crypto::ChainId,
    debit::{Debit, Flags, Queued},
    hash::Hash,
    ids::*,
    price::Usage,
};

use super::{
    record::SegmentHead,
    recovery::recover,
    start::{Decision, StartError, begin, decide},
    *,
};
use crate::holds;

mod disk;
mod starts;
mod threads;
mod versions;

use disk::Fake;

const CHAIN: ChainId = ChainId(Hash([5; 32]));
const GATEWAY: GatewayNumber = GatewayNumber(3);

fn head(journal: u32, last: u64, hash: Hash) -> Head {
    Head {
        journal: JournalNumber(journal),
        last: DebitNumber(last),
        hash,
    }
}

fn base(journal: u32, opened: bool) -> SegmentHead {
    SegmentHead {
        chain: CHAIN,
        gateway: GATEWAY,
        head: head(journal, 0, Hash::ZERO),
        last_hold: 0,
        opened,
        previous_intact: true,
        first: true,
    }
}

fn hold() -> HoldRecord {
    HoldRecord {
        id: HoldId {
            journal: JournalNumber(0),
            number: 0,
        },
        lease: LeaseNumber(1),
        account: AccountNumber(0),
        class: ClassNumber(0),
        api_key: ApiKeyNumber(0),
        model: ModelNumber(1),
        table: TableVersion(1),
        limit: Amount(100),
        fee: Amount(0),
        worst: Usage([9, 0, 9, 0, 0, 0]),
        mark: None,
        arrival: 1,
        project: 0,
        purpose: 0,
        request: Hash::ZERO,
    }
}

fn debit_of(hold: &HoldRecord, usage: Usage, flags: Flags, duration: u32) -> Debit {
    holds::debit_of(hold, usage, flags, duration, Queued::default())
}

fn started(fake: &Fake, limits: Limits) -> Journal {
    let mut store = fake.clone();
    let contents = begin(&mut store, State::new(base(1, true))).unwrap();
    Journal::resume(Box::new(store), contents, limits)
}

fn wait(durable: Durable) -> Result<(), JournalFailed> {
    futures::executor::block_on(durable.wait())
}

fn contents(fake: &Fake) -> Contents {
    match recover(&mut fake.clone()).unwrap() {
        Recovered::Intact(contents) => contents,
        other => panic!("{other:?}"),
    }
}

fn name(i: u32) -> Name {
    Name {
        api_key: ApiKeyNumber(i % 3),
        hash: Hash([i as u8; 32]),
    }
}

/// A few of every kind of record; each is waited for, or not.
fn work(journal: &Journal, rounds: u32, waiting: bool) -> u64 {
    let mut debits = 0;
    for i in 0..rounds {
        let mut record = hold();
        let named = (i % 2 == 0).then_some((name(i), Time(i.into())));
        let made = journal.hold_named(&mut record, named, Urgency::Now);
        if waiting {
            wait(made).unwrap();
        }
        journal.progress(record.id, Usage([1, 0, i, 0, 0, 0]));
        record.lease = LeaseNumber(u64::from(i) + 2);
        record.limit = Amount(50);
        let changed = journal.change(&record, Urgency::Soon).unwrap();
        if waiting && i % 2 == 0 {
            wait(changed).unwrap();
        }
        match i % 3 {
            0 => drop(journal.void(record.id).unwrap()),
            1 => {
                let debit = debit_of(&record, Usage([1, 0, 2, 0, 0, 0]), Flags::default(), 5);
                let (number, durable) = journal.debit(&debit).unwrap();
                debits += 1;
                assert_eq!(number.0, debits);
                if waiting {
                    wait(durable).unwrap();
                }
            }
            _ => drop(journal.append(
                &Record::LeaseSent(LeaseSent {
                    number: LeaseNumber(i.into()),
                    account: AccountNumber(0),
                    class: ClassNumber(0),
                    api_key: ApiKeyNumber(0),
                }),
                Urgency::Soon,
            )),
        }
    }
    debits
}

#[test]
fn what_was_waited_for_survives_a_power_cut() {
    let fake = Fake::default();
    let journal = started(&fake, Limits::default());
    for round in 1..40 {
        let mut record = hold();
        wait(journal.hold(&mut record, Urgency::Soon)).unwrap();
        let after = contents(&fake.crashed());
        assert!(after.state.holds.contains_key(&record.id), "hold {round}");
        let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
        let (number, durable) = journal.debit(&debit).unwrap();
        wait(durable).unwrap();
        let after = contents(&fake.crashed());
        assert_eq!(after.unproven.last().unwrap().number, number);
        assert!(after.state.holds.is_empty());
    }
}

#[test]
fn a_changed_hold_is_the_old_or_the_new_one_wherever_the_journal_is_cut() {
    let fake = Fake::default();
    let journal = started(&fake, Limits::default());
    let mut before = hold();
    wait(journal.hold(&mut before, Urgency::Now)).unwrap();
    let mut after = before;
    (after.lease, after.limit) = (LeaseNumber(2), Amount(60));
    after.worst = Usage([9, 0, 5, 0, 0, 0]);
    wait(journal.change(&after, Urgency::Now).unwrap()).unwrap();
    // Another hold is made of what the change has freed.
    let mut next = hold();
    wait(journal.hold(&mut next, Urgency::Now)).unwrap();
    journal.close();
    let bytes = fake.disk().segments[&1].0.len();
    let (mut old, mut new) = (0, 0);
    for cut in 0..=bytes {
        let mut disk = fake.with(|disk| disk.segments.get_mut(&1).unwrap().0.truncate(cut));
        let Recovered::Intact(found) = recover(&mut disk).unwrap() else {
            continue;
        };
        match found.state.holds.get(&before.id) {
            Some(hold) if *hold == before => {
                old += 1;
                assert!(!found.state.holds.contains_key(&next.id), "cut {cut}");
            }
            Some(hold) => {
                new += 1;
                assert_eq!(*hold, after, "cut {cut}");
            }
            None => assert!(found.state.holds.is_empty()),
        }
    }
    assert!(old > 0 && new > 0);
    assert_eq!(contents(&fake).state.holds[&before.id], after);
    // A snapshot has the hold as it is.
    let snapshot = journal.look(|state| state.snapshot(true));
    let (record, _) = Record::read(&snapshot[Record::read(&snapshot).unwrap().1..]).unwrap();
    assert!(matches!(record, Record::HoldMade(held) if *held == after || *held == next));
    assert!(
        journal
            .change(
                &HoldRecord {
                    id: HoldId {
                        number: 9,
                        ..after.id
                    },
                    ..after
                },
                Urgency::Now
            )
            .is_none()
    );
}

#[test]
fn a_hold_is_resolved_once() {
    let fake = Fake::default();
    let journal = started(&fake, Limits::default());
    let mut record = hold();
    let _ = journal.hold(&mut record, Urgency::Soon);
    let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
    assert!(journal.debit(&debit).is_some());
    assert!(journal.debit(&debit).is_none());
    assert!(journal.void(record.id).is_none());
}

#[test]
fn a_tail_cut_at_any_byte_is_what_was_whole_before_it() {
    let fake = Fake::default();
    let journal = started(&fake, Limits::default());
    work(&journal, 12, true);
    journal.close();
    let bytes = fake.disk().segments[&1].0.clone();
    let (mut state, mut at, mut begun) = (State::new(base(1, true)), 0, false);
    let mut ends = Vec::new();
    while let Some((record, length)) = Record::read(&bytes[at..]) {
        at += length;
        begun |= record == Record::SnapshotEnd;
        if !matches!(record, Record::Segment(_)) {
            state.apply(&record).unwrap();
        }
        ends.push((at, begun, state.clone()));
    }
    assert_eq!(at, bytes.len());
    for cut in 0..=bytes.len() {
        let mut cut_disk = fake.with(|disk| {
            disk.segments.get_mut(&1).unwrap().0.truncate(cut);
        });
        let whole = ends.iter().rev().find(|(end, ..)| *end <= cut);
        match (recover(&mut cut_disk).unwrap(), whole) {
            (Recovered::Nothing, None | Some((_, false, _))) => {}
            (Recovered::Intact(found), Some((end, true, state))) => {
                assert_eq!(
                    (&found.state, found.length),
                    (state, *end as u64),
                    "cut {cut}"
                );
                // And it goes on from there.
                let journal = Journal::resume(Box::new(cut_disk.clone()), found, Limits::default());
                let mut record = hold();
                wait(journal.hold(&mut record, Urgency::Now)).unwrap();
                journal.close();
                assert!(contents(&cut_disk).state.holds.contains_key(&record.id));
            }
            (found, _) => panic!("cut {cut}: {found:?}"),
        }
    }
}

#[test]
fn damage_of_what_was_durable_is_told_from_a_torn_tail() {
    let fake = Fake::default();
    let journal = started(&fake, Limits::default());
    work(&journal, 6, true);
    journal.close();
    let length = fake.disk().segments[&1].0.len();
    let last_batch = {
        let bytes = &fake.disk().segments[&1].0;
        let (mut at, mut last) = (0, 0);
        while let Some((record, size)) = Record::read(&bytes[at..]) {
            if matches!(record, Record::Synced { .. }) {
                last = at;
            }
            at += size;
        }
        last
    };
    let mut damaged = 0;
    for at in 0..length {
        let mut flipped = fake.with(|disk| disk.segments.get_mut(&1).unwrap().0[at] ^= 0x40);
        match recover(&mut flipped).unwrap() {
            Recovered::Damaged { offset, .. } => {
                assert!(offset <= at as u64);
                damaged += 1;
            }
            Recovered::Intact(found) => {
                assert!(at >= last_batch, "byte {at} of {length}");
                assert!(found.length <= at as u64);
            }
            Recovered::Nothing => panic!("byte {at}"),
        }
    }
    assert_eq!(damaged, last_batch);
}

/// Waits until the condition holds, for a minute at most.
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed().as_secs() < 60, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_record_that_is_not_urgent_wakes_a_writer_that_sleeps() {
    let linger = std::time::Duration::from_millis(1);
    let limits = Limits {
        linger,
        ..Limits::default()
    };
    let journal = started(&Fake::default(), limits);
    for _ in 0..2 {
        soon("the writer sleeps", || journal.shared.inner().asleep);
        let number = journal.number();
        let record = Record::Opened { journal: number };
        let durable = journal.append(&record, Urgency::Soon);
        let mut durable = Box::pin(durable.wait());
        soon("it is durable", || (&mut durable).now_or_never().is_some());
    }
}

#[test]
fn a_failed_fsync_ends_all_promises() {
    for fail in 0..4 {
        let fake = Fake::default();
        let journal = started(&fake, Limits::default());
        fake.disk().fail_sync = Some(fail);
        let mut results = Vec::new();
        for _ in 0..6 {
            let mut record = hold();
            let result = wait(journal.hold(&mut record, Urgency::Now));
            if result.is_ok() {
                assert!(
                    contents(&fake.crashed())
                        .state
                        .holds
                        .contains_key(&record.id)
                );
            }
            results.push(result.is_ok());
        }
        let wanted: Vec<bool> = (0..6).map(|i| i < fail).collect();
        assert_eq!(results, wanted);
        assert!(!journal.works());
    }
}

#[test]
fn segments_go_once_their_debits_are_proven_and_only_then() {
    let fake = Fake::default();
    let limits = Limits {
        segment_bytes: 4_096,
        ..Limits::default()
    };
    let journal = started(&fake, limits);
    let debits = work(&journal, 120, true);
    work_more(&journal);
    assert!(fake.disk().segments.len() > 4);
    let all = contents(&fake.crashed());
    assert_eq!(all.unproven.len() as u64, debits);
    assert_eq!(all.state, journal.look(Clone::clone));
    let half = &all.unproven[all.unproven.len() / 2];
    let wrong = head(1, half.number.0, Hash([1; 32]));
    assert_eq!(journal.proven(wrong), Err(Diverged { chain: wrong }));
    let ahead = head(1, debits + 1, half.hash);
    assert_eq!(journal.proven(ahead), Err(Diverged { chain: ahead }));
    journal.proven(head(1, half.number.0, half.hash)).unwrap();
    work_more(&journal);
    let rest = contents(&fake.crashed());
    assert!(rest.unproven[0].number <= DebitNumber(half.number.0 + 1));
    assert!(rest.unproven.len() < all.unproven.len());
    let first = journal.unproven_after(half.number, 1);
    assert_eq!(first[0].number.0, half.number.0 + 1);
    let last = all.unproven.last().unwrap();
    journal.proven(head(1, last.number.0, last.hash)).unwrap();
    work_more(&journal);
    assert!(fake.disk().segments.len() <= 2);
    assert_eq!(contents(&fake.crashed()).state, journal.look(Clone::clone));
}

/// One more batch, so that the writer looks at what it can remove.
fn work_more(journal: &Journal) {
    let mut record = hold();
    wait(journal.hold(&mut record, Urgency::Now)).unwrap();
    wait(journal.void(record.id).unwrap()).unwrap();
}

#[test]
fn a_new_segment_that_was_not_complete_does_not_count() {
    let fake = Fake::default();
    let limits = Limits {
        segment_bytes: 2_048,
        ..Limits::default()
    };
    let journal = started(&fake, limits);
    // A debit that is not proven keeps the first segment.
    work(&journal, 2, true);
    while fake.disk().segments.len() < 2 {
        let mut record = hold();
        wait(journal.hold(&mut record, Urgency::Now)).unwrap();
    }
    journal.close();
    let whole = contents(&fake.crashed());
    let length = fake.disk().segments[&2].0.len();
    let snapshot = journal.look(|state| state.snapshot(false)).len();
    for cut in 0..snapshot.min(length) {
        let mut begun = fake.with(|disk| disk.segments.get_mut(&2).unwrap().0.truncate(cut));
        let Recovered::Intact(found) = recover(&mut begun).unwrap() else {
            panic!("cut {cut}");
        };
        assert_eq!(found.unproven, whole.unproven[..found.unproven.len()]);
    }
}

#[test]
fn a_state_larger_than_a_segment_does_not_begin_one_with_each_write() {
    let fake = Fake::default();
    let limits = Limits {
        segment_bytes: 4_096,
        ..Limits::default()
    };
    let journal = started(&fake, limits);
    for i in 0..200u32 {
        let mut record = hold();
        let mut hash = Hash::ZERO;
        hash.0[..4].copy_from_slice(&i.to_le_bytes());
        let name = Name {
            api_key: ApiKeyNumber(1),
            hash,
        };
        drop(journal.hold_named(&mut record, Some((name, Time(1))), Urgency::Now));
    }
    wait(journal.barrier()).unwrap();
    let before = *fake.disk().segments.last_key_value().unwrap().0;
    for _ in 0..20 {
        wait(journal.barrier()).unwrap();
    }
    let after = *fake.disk().segments.last_key_value().unwrap().0;
    assert!(after <= before + 1, "{before} {after}");
    journal.close();
    assert_eq!(contents(&fake).state.names.iter().count(), 200);
}
