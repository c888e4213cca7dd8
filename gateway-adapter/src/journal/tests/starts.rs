//! What a start does with what it finds, and with what a journal left behind.

use super::*;

/// A journal with two debits, one open hold and one void, as recovered.
fn settled() -> (Contents, Fake) {
    let fake = Fake::default();
    let journal = started(&fake, Limits::default());
    work(&journal, 5, true);
    journal.close();
    (contents(&fake), fake)
}

#[test]
fn the_table_of_starts() {
    let (found, _) = settled();
    let intact = || Recovered::Intact(found.clone());
    let hashes: Vec<Hash> = found.unproven.iter().map(|debit| debit.hash).collect();
    let opens = |decision: Result<Decision, StartError>| match decision.unwrap() {
        Decision::Open { state, .. } => state,
        Decision::Continue(_) => panic!("continued"),
    };
    let decide = |leaf, recovered| decide(CHAIN, GATEWAY, leaf, recovered);
    // No files.
    let first = opens(decide(head(0, 0, Hash::ZERO), Recovered::Nothing));
    assert_eq!(
        (first.head().journal.0, first.base.previous_intact),
        (1, true)
    );
    let lost = opens(decide(head(4, 9, Hash::ZERO), Recovered::Nothing));
    assert_eq!(
        (lost.head().journal.0, lost.base.previous_intact),
        (5, false)
    );
    // Ours and current, wherever the chain is.
    for last in 0..=2u64 {
        let hash = if last == 0 {
            Hash::ZERO
        } else {
            hashes[last as usize - 1]
        };
        let decision = decide(head(1, last, hash), intact()).unwrap();
        assert_eq!(decision, Decision::Continue(found.clone()));
    }
    // The chain has more, or other debits: what is open may be settled there.
    let behind = opens(decide(head(1, 3, Hash([9; 32])), intact()));
    assert!(!behind.base.previous_intact && behind.holds.is_empty() && behind.carried.is_empty());
    let other = opens(decide(head(1, 1, Hash([9; 32])), intact()));
    assert_eq!(
        (other.holds.len(), other.carried.len()),
        (found.state.holds.len(), 1)
    );
    // Fenced: all debits may be missing there.
    let fenced = opens(decide(head(2, 7, Hash([9; 32])), intact()));
    assert_eq!((fenced.head().journal.0, fenced.carried.len()), (3, 2));
    assert_eq!(fenced.leases, found.state.leases);
    // Damaged.
    let damaged = Recovered::Damaged {
        segment: 1,
        offset: 0,
        readable: Some(found.clone()),
    };
    let open = opens(decide(head(1, 1, hashes[0]), damaged));
    assert_eq!((open.head().journal.0, open.carried.len()), (2, 1));
    assert_eq!(open.holds, found.state.holds);
    // Being opened.
    let mut opening = found.clone();
    opening.state = State::new(base(3, false));
    (opening.unproven, opening.start) = (Vec::new(), head(3, 0, Hash::ZERO));
    for leaf in [head(2, 5, Hash([1; 32])), head(3, 0, Hash::ZERO)] {
        let decision = decide(leaf, Recovered::Intact(opening.clone())).unwrap();
        assert_eq!(decision, Decision::Continue(opening.clone()));
    }
    // What cannot be.
    let behind = decide(head(0, 0, Hash::ZERO), intact());
    assert!(matches!(behind, Err(StartError::ChainBehind { .. })));
    let foreign = super::start::decide(CHAIN, GatewayNumber(9), head(1, 0, Hash::ZERO), intact());
    assert!(matches!(foreign, Err(StartError::Foreign { .. })));
}

#[test]
fn a_new_journal_takes_over_and_the_old_files_are_set_aside() {
    let (found, fake) = settled();
    let Decision::Open { state, .. } = decide(
        CHAIN,
        GATEWAY,
        head(2, 0, Hash::ZERO),
        Recovered::Intact(found),
    )
    .unwrap() else {
        panic!();
    };
    let mut store = fake.clone();
    let contents = begin(&mut store, state.clone()).unwrap();
    let again = super::tests::contents(&fake);
    assert_eq!(again.state, state);
    assert_eq!(fake.disk().aside, 1);
    let journal = Journal::resume(Box::new(store), contents, Limits::default());
    let record = Record::CarriedProven {
        journal: JournalNumber(1),
        last: DebitNumber(1),
    };
    drop(journal.append(&record, Urgency::Now));
    let rest = journal.look(|state| state.carried.values().cloned().collect::<Vec<_>>());
    assert_eq!(rest.len(), 1);
    let (number, durable) = journal.debit(&rest[0].debit.read()).unwrap();
    wait(durable).unwrap();
    assert_eq!(number.0, 1);
    let after = super::tests::contents(&fake.crashed());
    assert!(after.state.carried.is_empty());
    assert_eq!(after.unproven[0].debit, rest[0].debit);
}
