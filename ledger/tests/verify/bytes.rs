//! Level `bytes`: each stored byte of transactions and entries.

use tally_ledger::{
    block::HEADER_BYTES,
    entry::{Entry, Event},
    execute::Strict,
    hash::Hash,
};

use crate::{history::*, made::*};

/// What level `bytes` names of a history whose last block was forged.
fn bytes_names(change: impl FnOnce(&mut History)) -> String {
    let mut history = busy();
    change(&mut history);
    history.roots().expect("the validators signed all of it");
    history.bytes().unwrap_err().to_string()
}

#[test]
fn bytes_that_do_not_fit_are_named() {
    let named = bytes_names(|history| {
        let last = history.blocks.len() - 1;
        history.blocks[last].1[HEADER_BYTES + 30] ^= 1;
    });
    assert!(named.contains(": transactions root: expected "), "{named}");

    let named = bytes_names(|history| {
        history.forge(|block| {
            block.transactions[3].payload[170] ^= 1;
            rooted(block);
        });
    });
    assert!(named.contains("transaction 3 ("), "{named}");
    assert!(named.contains("): root of the batch: expected "), "{named}");
    let named = bytes_names(|history| {
        history.forge(|block| {
            block.transactions[3].payload.truncate(166 * 19);
            rooted(block);
        });
    });
    assert!(
        named.contains(": number of debits: expected 20, found 3154 bytes"),
        "{named}"
    );
    let named = bytes_names(|history| {
        history.forge(|block| {
            block.transactions[0].body.push(0);
            rooted(block);
        });
    });
    assert!(
        named.contains("body of the transaction: expected a body"),
        "{named}"
    );

    // A receipt's leaf is made of the block's debit, whatever the log says.
    for (at, what) in [
        (2, "flags"),
        (4, "height"),
        (12, "account"),
        (16, "account's entry number"),
        (20, "gateway"),
        (24, "journal"),
        (28, "number"),
        (36, "class"),
        (54, "detail's hash"),
    ] {
        let named = bytes_names(|history| {
            history.last()[TWENTY + 17].leaf[at] ^= 1;
            history.forge(|_| ());
        });
        let wanted = format!("{what} of debit 17 of transaction 3: expected ");
        assert!(named.contains(&wanted), "{named}");
    }
    // What only execution knows is bound by the root, and by its bounds.
    let named = bytes_names(|history| {
        let signed = history.blocks.last().unwrap().clone();
        history.last()[TWENTY + 17].leaf[38] ^= 64;
        *history.blocks.last_mut().unwrap() = signed;
    });
    assert!(named.contains(": log root: expected "), "{named}");
    let named = bytes_names(|history| {
        history.last()[TWENTY + 17].leaf[46] ^= 64;
        history.forge(|_| ());
    });
    let wanted =
        "charged amount of debit 17 of transaction 3: expected at most 0.000018, found 0.000082";
    assert!(named.ends_with(wanted), "{named}");
}

#[test]
fn entries_that_are_missing_too_many_or_others_are_named() {
    let named = bytes_names(|history| {
        history.last().pop();
        history.forge(|_| ());
    });
    let wanted = "receipt of debit 19 of transaction 3: expected one, found none";
    assert!(named.ends_with(wanted), "{named}");
    let named = bytes_names(|history| {
        let again = history.last()[TWENTY].clone();
        history.last().push(again);
        history.forge(|_| ());
    });
    assert!(
        named.ends_with(": expected no further receipt, found a receipt"),
        "{named}"
    );
    // Fewer than the header says, each of them right.
    let named = bytes_names(|history| {
        history.forge(|block| block.header.log_size += 1);
    });
    assert!(named.contains(": log size: expected "), "{named}");
    // The event behind a leaf.
    let named = bytes_names(|history| {
        history.last()[0].event.as_mut().unwrap()[40] ^= 1;
    });
    assert!(named.contains("leaf of entry "), "{named}");
    let changed = |change: &dyn Fn(&mut Event)| {
        bytes_names(|history| {
            let first = history.world.log.size() as usize - 23;
            let Entry::Event(mut leaf, mut event) = history.world.entries[first].clone() else {
                panic!("the first entry opens an account");
            };
            change(&mut event);
            leaf.event = event.hash();
            history.last()[0] = Stored::of(&Entry::Event(leaf, event));
            history.forge(|_| ());
        })
    };
    let named = changed(&|event| {
        let Event::AccountOpened { transaction, .. } = event else {
            panic!("{event:?}");
        };
        *transaction = Hash([1; 32]);
    });
    assert!(named.contains(": transaction of entry "), "{named}");
    for (at, what) in [
        (2, "height"),
        (10, "account"),
        (14, "account's entry number"),
        (18, "control number"),
    ] {
        let named = bytes_names(|history| {
            history.last()[0].leaf[at] ^= 64;
            history.forge(|_| ());
        });
        assert!(named.contains(&format!(": {what} of entry ")), "{named}");
    }
    let mut other = busy();
    other.entries[0][0] = other.entries[0][1].clone();
    let wrong = other.bytes().unwrap_err();
    assert_eq!(
        (wrong.entry, wrong.field.to_string()),
        (Some(0), "event of entry 0".into())
    );
    let wrong = other.replay(&Strict, true).unwrap_err();
    assert_eq!(
        (wrong.entry, wrong.field.to_string()),
        (Some(0), "event of entry 0".into())
    );
}
