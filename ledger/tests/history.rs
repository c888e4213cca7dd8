//! History files: all entries of somebody between two heights, and nothing
//! that leaves one out, or changes one, verifies.

#![allow(clippy::unwrap_used)]

#[path = "support/vectors.rs"]
mod vectors;
mod world;

use std::collections::BTreeMap;

use serde_json::json;
use tally_ledger::{
    certified::Trust,
    debit::Debit,
    entry::Entry,
    genesis::Genesis,
    history::{HistoryError, HistoryFile, Shown, Subject},
    ids::*,
    tree::Table,
};
use world::*;

/// The subject's entries of these heights, by looking at all entries.
fn all(world: &World, subject: Subject, from: u64, to: u64) -> Vec<(u64, Entry)> {
    let entries = (0..).zip(world.entries.iter().cloned());
    let of =
        |(_, entry): &(u64, Entry)| subject.has(entry) && (from..=to).contains(&entry.height().0);
    entries.filter(of).collect()
}

/// A file of these entries, whatever they are, with a path that fits.
fn file_of(world: &World, subject: Subject, heights: (u64, u64), shown: &[u64]) -> HistoryFile {
    let entry = |index: &u64| (*index, Shown::from(world.entries[*index as usize].clone()));
    let (table, number) = subject.end();
    HistoryFile {
        certified: world.certified(),
        subject,
        from: Height(heights.0),
        to: Height(heights.1),
        entries: list(shown.iter().map(entry).collect()),
        path: list(world.log.multi(shown, world.log.size()).unwrap()),
        end: Some(world.state.prove(table, number)),
    }
}

/// Log indexes of the subject's entries from the neighbour before to the one
/// behind.
fn row(world: &World, subject: Subject, from: u64, to: u64) -> Vec<u64> {
    let indexes = |entries: Vec<(u64, Entry)>| entries.into_iter().map(|(index, _)| index);
    let before = indexes(all(world, subject, 0, from.saturating_sub(1))).next_back();
    let before = before.filter(|_| from > 0);
    let within = indexes(all(world, subject, from, to));
    let behind = indexes(all(world, subject, to + 1, u64::MAX)).next();
    before.into_iter().chain(within).chain(behind).collect()
}

fn file(world: &World, subject: Subject, from: u64, to: u64) -> HistoryFile {
    file_of(world, subject, (from, to), &row(world, subject, from, to))
}

/// Two accounts, two gateways; one gateway opens a second journal.
fn busy() -> World {
    let mut world = World::ready();
    let other = world.open_account();
    world.issue(other, BASE, 5 * CT);
    let batch =
        |lease, count: u32| -> Vec<Debit> { (1..=count).map(|i| debit(lease, i)).collect() };
    let (lease, ..) = world.lease(G0, |_| ());
    let transaction = world.debits_tx(G0, &batch(lease, 3));
    world.run(transaction);
    let (second, ..) = world.lease(G1, |_| ());
    let transaction = world.debits_tx(G1, &batch(second, 2));
    world.run(transaction);
    world.issue(0, BASE, CT);
    let transaction = world.debits_tx(G0, &batch(lease, 1));
    world.run(transaction);
    world.return_lease(G0, lease);
    world.open_journal(G0, true);
    let (third, ..) = world.lease(G0, |_| ());
    let transaction = world.debits_tx(G0, &batch(third, 2));
    world.run(transaction);
    world.block(&[]);
    world
}

const SUBJECTS: [Subject; 7] = [
    Subject::Account(AccountNumber(0)),
    Subject::Account(AccountNumber(1)),
    Subject::Account(AccountNumber(77)),
    Subject::Gateway(G0),
    Subject::Gateway(G1),
    Subject::Gateway(GatewayNumber(9)),
    Subject::Control,
];

fn last(world: &World) -> u64 {
    world.state.height().0
}

#[test]
fn all_entries_between_any_two_heights_are_shown() {
    let world = busy();
    for subject in SUBJECTS {
        for from in 0..=last(&world) {
            for to in from..=last(&world) {
                let file = file(&world, subject, from, to);
                let read = HistoryFile::decode(&file.encode()).unwrap();
                assert_eq!(read, file);
                let verified = read.verify(&world.genesis).unwrap();
                assert_eq!(verified.entries, all(&world, subject, from, to));
            }
        }
    }
    assert_eq!(all(&world, Subject::Gateway(G0), 0, u64::MAX).len(), 8);
}

#[test]
fn a_file_that_leaves_an_entry_out_is_refused() {
    let world = busy();
    let mut refused = 0;
    for subject in SUBJECTS {
        for (from, to) in [
            (0, last(&world)),
            (8, 12),
            (9, 9),
            (last(&world), last(&world)),
        ] {
            let row = row(&world, subject, from, to);
            for left_out in 0..row.len() {
                let mut shown = row.clone();
                let index = shown.remove(left_out);
                let file = file_of(&world, subject, (from, to), &shown);
                let error = file.verify(&world.genesis).unwrap_err();
                let expected = [HistoryError::Missing]
                    .into_iter()
                    .chain(shown.get(left_out).map(|next| HistoryError::Gap(*next)));
                assert!(expected.clone().any(|e| e == error), "{index}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn each_altered_part_is_named() {
    let world = busy();
    let subject = Subject::Account(AccountNumber(0));
    let error = |subject, from, to, change: &dyn Fn(&mut HistoryFile)| {
        let mut file = file(&world, subject, from, to);
        change(&mut file);
        file.verify(&world.genesis).unwrap_err()
    };
    let of = |change: &dyn Fn(&mut HistoryFile)| error(subject, 9, last(&world), change);
    let heights = |from, to| HistoryError::Heights {
        from: Height(from),
        to: Height(to),
        header: world.state.height(),
    };
    let end = last(&world);
    assert_eq!(of(&|file| file.to = Height(end + 1)), heights(9, end + 1));
    assert_eq!(of(&|file| file.to = Height(8)), heights(9, 8));
    assert_eq!(of(&|file| file.path[0].0[3] ^= 1), HistoryError::NotInLog);
    assert_eq!(of(&|file| file.entries.swap(0, 1)), HistoryError::NotInLog);
    assert_eq!(of(&|file| file.end = None), HistoryError::OpenEnd);
    let other = world.state.prove(Table::Accounts, 1);
    assert_eq!(
        of(&|file| file.end = Some(other.clone())),
        HistoryError::OtherLeaf
    );
    assert!(matches!(
        of(&|file| file.end.as_mut().unwrap().tables[0].0 += 1),
        HistoryError::State(_)
    ));
    let (first, _) = file(&world, subject, 9, end).entries[0];
    let another = Subject::Account(AccountNumber(1));
    assert_eq!(
        of(&|file| file.subject = another),
        HistoryError::Other(first)
    );
    let (second, _) = file(&world, subject, 9, end).entries[1];
    assert_eq!(
        of(&|file| file.from = Height(end)),
        HistoryError::Outside(second)
    );
    let control = file(&world, Subject::Control, 0, end);
    let swapped = |file: &mut HistoryFile| {
        let [(_, Shown::Event(_, a)), (_, Shown::Event(_, b)), ..] = &mut file.entries[..] else {
            panic!("control entries are events");
        };
        std::mem::swap(a, b);
    };
    let (index, _) = control.entries[0];
    assert_eq!(
        error(Subject::Control, 0, end, &swapped),
        HistoryError::Event(index)
    );
    let header = |file: &mut HistoryFile| file.certified.header.log_root.0[0] ^= 1;
    assert!(matches!(of(&header), HistoryError::Header(_)));
}

#[test]
fn no_bit_can_be_flipped_without_the_statement_staying_true() {
    let world = busy();
    let mut trust = Trust::new(&world.genesis).unwrap();
    for (subject, from, to) in [
        (Subject::Account(AccountNumber(0)), 9, 11),
        (Subject::Gateway(G0), 7, last(&world)),
        (Subject::Control, 9, 9),
    ] {
        let bytes = file(&world, subject, from, to).encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(read) = HistoryFile::decode(&flipped) else {
                continue;
            };
            if let Ok(verified) = read.verify_with(&mut trust) {
                // Another question about the same row, answered rightly.
                let (from, to) = (verified.from.0, verified.to.0);
                assert_eq!(verified.entries, all(&world, verified.subject, from, to));
            }
        }
    }
}

#[test]
fn a_genesis_of_another_chain_believes_nothing() {
    let world = busy();
    let file = file(&world, Subject::Control, 0, 3);
    let other = Genesis {
        name: "another".into(),
        ..world.genesis.clone()
    };
    assert!(matches!(file.verify(&other), Err(HistoryError::Header(_))));
}

/// Files with paths that fit, each of which proves nothing: for verifiers in
/// other languages.
fn incomplete(world: &World) -> Vec<(&'static str, HistoryFile)> {
    let end = last(world);
    let (account, gateway) = (Subject::Account(AccountNumber(0)), Subject::Gateway(G0));
    let without = |subject, from, to, which: usize| {
        let mut shown = row(world, subject, from, to);
        shown.remove(which);
        file_of(world, subject, (from, to), &shown)
    };
    let opened = row(world, gateway, 0, end);
    let opened = opened
        .iter()
        .rposition(|index| matches!(&world.entries[*index as usize], Entry::Event(..)));
    let closing = opened.unwrap() - 1;
    let mut open = file(world, account, 9, end);
    open.end = None;
    let mut beyond = file(world, account, 9, end);
    beyond.to = Height(end + 1);
    let mut other = file(world, account, 9, end);
    other.end = Some(world.state.prove(Table::Accounts, 1));
    vec![
        ("without its first entry", without(account, 0, end, 0)),
        ("without one between", without(account, 0, end, 4)),
        ("without the neighbour before", without(account, 9, 11, 0)),
        ("without its last entry", {
            let count = row(world, account, 0, end).len();
            without(account, 0, end, count - 1)
        }),
        (
            "without the last debit of a journal",
            without(gateway, 0, end, closing),
        ),
        (
            "without the opening of a journal",
            without(gateway, 0, end, closing + 1),
        ),
        (
            "without a control entry",
            without(Subject::Control, 0, end, 3),
        ),
        ("without an end", open),
        ("with the end of another account", other),
        ("beyond the header", beyond),
    ]
}

#[test]
fn files_have_the_bytes_that_they_always_had() {
    let world = busy();
    let refused = incomplete(&world);
    for (what, file) in &refused {
        assert!(file.verify(&world.genesis).is_err(), "{what}");
    }
    let refused = refused
        .iter()
        .map(|(what, file)| (*what, hex::encode(file.encode())));
    let refused: BTreeMap<&str, String> = refused.collect();
    let bytes = |subject, from, to| hex::encode(file(&world, subject, from, to).encode());
    let end = last(&world);
    vectors::check(
        "history",
        json!({
            "genesis": hex::encode(world.genesis.encode()),
            "account_between_neighbours": bytes(Subject::Account(AccountNumber(0)), 9, 11),
            "account_to_the_end": bytes(Subject::Account(AccountNumber(1)), 0, end),
            "account_that_does_not_exist": bytes(Subject::Account(AccountNumber(77)), 3, 4),
            "gateway": bytes(Subject::Gateway(G0), 0, end),
            "control": bytes(Subject::Control, 2, 4),
            "refused": refused,
        }),
    );
}
