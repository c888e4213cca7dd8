//! Level `replay`: what only execution can tell, also from a snapshot on.

use tally_ledger::{
    block::{Block, Header},
    execute::{Strict, Trusted},
    hash::Hash,
    ids::*,
    redacted::StoredBlock,
    state::State,
    verify::{Beside, Replay},
};

use crate::{history::*, made::*};

/// Executes the next block, with no files beside.
fn take(replay: &mut Replay, block: &Block) {
    let block = StoredBlock::Whole(block.clone());
    replay.block(&block, &Strict, &Beside::default()).unwrap();
}

/// The same of level `replay` with the log beside.
fn replay_names(change: impl FnOnce(&mut History)) -> String {
    let mut history = busy();
    change(&mut history);
    history.replay(&Strict, true).unwrap_err().to_string()
}

#[test]
fn execution_names_what_the_certified_log_has_otherwise() {
    // A quorum signed another cost: nothing but execution can tell.
    let lie = |history: &mut History| {
        history.last()[TWENTY + 17].leaf[38] ^= 64;
        history.forge(|_| ());
    };
    let mut history = busy();
    lie(&mut history);
    history.bytes().unwrap();
    let wrong = history.replay(&Strict, true).unwrap_err();
    let first = history.world.log.size() - 23;
    assert_eq!(wrong.height, history.world.state.height());
    assert_eq!(wrong.entry, Some(first + TWENTY as u64 + 17));
    assert_eq!(wrong.transaction.as_ref().unwrap().0, 3);
    assert_eq!(wrong.field.to_string(), "cost of debit 17 of transaction 3");
    assert_eq!(
        (&wrong.expected[..], &wrong.found[..]),
        ("0.000018", "0.000082")
    );
    // Without the log the root is all that there is to compare.
    let wrong = history.replay(&Strict, false).unwrap_err();
    assert_eq!(
        (wrong.entry, wrong.field.to_string()),
        (None, "log root".into())
    );

    let named = replay_names(|history| {
        history.last().remove(1);
        history.forge(|_| ());
    });
    assert!(named.contains("transaction 1 ("), "{named}");
    assert!(named.contains(": kind of entry "), "{named}");
    let named = replay_names(|history| {
        history.last().pop();
        history.forge(|_| ());
    });
    assert!(
        named.ends_with("kind of debit 19 of transaction 3: expected a receipt, found no entry"),
        "{named}"
    );
    let named = replay_names(|history| {
        let again = history.last()[0].clone();
        history.last().push(again);
        history.forge(|_| ());
    });
    assert!(
        named.contains(": expected no entry, found AccountOpened"),
        "{named}"
    );
    // The roots are right, and the files beside have something else.
    let named = replay_names(|history| history.last()[TWENTY + 2].leaf[12] ^= 1);
    assert!(
        named.ends_with("account of debit 2 of transaction 3: expected 0, found 1"),
        "{named}"
    );
    let named = replay_names(|history| {
        let Some(event) = &mut history.last()[0].event else {
            panic!("the first entry opens an account");
        };
        event.push(0);
    });
    assert!(named.contains("leaf of entry "), "{named}");
}

#[test]
fn execution_names_refusals_and_roots() {
    let named = replay_names(|history| {
        history.forge(|block| block.header.state_root.0[7] ^= 1);
    });
    assert!(named.contains(": state root: expected "), "{named}");
    let named = replay_names(|history| {
        history.forge(|block| block.transactions.swap(0, 1));
    });
    assert!(named.contains(": transactions root: expected "), "{named}");
    let named = replay_names(|history| {
        history.forge(|block| drop(block.transactions.remove(3)));
    });
    assert!(named.contains(": transactions root: expected "), "{named}");
    let named = replay_names(|history| {
        history.forge(|block| block.transactions.push(block.transactions[3].clone()));
    });
    assert!(named.contains("transaction 4 ("), "{named}");
    assert!(
        named.contains("): verdict on the transaction: expected accepted, found refused: "),
        "{named}"
    );
    let named = replay_names(|history| {
        history.forge(|block| {
            let many = block.transactions[3].clone();
            block.transactions.extend(vec![many; 1_100]);
        });
    });
    assert!(named.contains(": verdict on the transaction: "), "{named}");
    // The rules of a block come before what is in it.
    for (field, change) in [
        ("time", (|b| b.header.time = Time(1)) as fn(&mut Block)),
        ("previous block", |b| b.header.previous = Hash::ZERO),
    ] {
        let named = replay_names(|history| history.forge(change));
        assert!(
            named.contains(&format!(": {field}: expected what follows block ")),
            "{named}"
        );
    }
}

#[test]
fn signatures_of_transactions_are_checked_or_trusted() {
    let mut history = busy();
    history.forge(|block| {
        let foreign = block.transactions[3].signatures[0];
        block.transactions[2].signatures[0] = foreign;
        rooted(block);
    });
    let wrong = history.replay(&Strict, true).unwrap_err();
    assert_eq!(wrong.transaction.as_ref().unwrap().0, 2);
    assert!(wrong.found.contains("refused: "), "{wrong}");
    history.replay(&Trusted, true).unwrap();
}

#[test]
fn a_snapshot_is_begun_with_only_if_its_header_is_the_certified_one() {
    let world = everything();
    let half = world.blocks.len() / 2;
    let mut state = State::genesis(&world.genesis).unwrap();
    let mut replay = Replay::new(&world.genesis).unwrap();
    for block in &world.blocks[..half] {
        let execution = tally_ledger::execute::check(&state, block, &Strict).unwrap();
        state.commit(execution);
        take(&mut replay, block);
    }
    let (genesis, snapshot) = (&world.genesis, state.snapshot());
    let header = world.blocks[half - 1].header;
    let mut from = Replay::from_snapshot(genesis, &snapshot, &header).unwrap();
    for block in &world.blocks[half..] {
        take(&mut from, block);
        take(&mut replay, block);
    }
    from.check_balances().unwrap();
    assert_eq!(from.state().state_root(), replay.state().state_root());
    assert_eq!(from.entries() + state.log().size(), replay.entries());

    let field = |snapshot: &[u8], header: &Header| {
        let wrong = Replay::from_snapshot(genesis, snapshot, header).unwrap_err();
        wrong.field.to_string()
    };
    let other = world.blocks[half].header;
    assert_eq!(field(&snapshot, &other), "snapshot's block");
    let mut same_height = header;
    same_height.state_root.0[0] ^= 1;
    assert_eq!(field(&snapshot, &same_height), "snapshot's block");
    let mut damaged = snapshot.clone();
    damaged[300] ^= 1;
    assert_eq!(field(&damaged, &header), "snapshot");
}
