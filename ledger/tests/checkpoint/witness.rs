//! What a witness is asked, and what it refuses to cosign.

use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys},
    genesis::Genesis,
    merkle::{Levels, empty_root, leaf_hash},
    note::NoteSignature,
    witness::{AddCheckpoint, MAX_REQUEST_BYTES, Refused},
};

use crate::{heads::*, published::*};

/// A request from one size of an honest log to another.
fn request(genesis: &Genesis, tree: &Levels, old: u64, size: u64) -> AddCheckpoint {
    let root = Levels::of((0..size).map(|i| tree.subtree(0, i).unwrap())).root();
    let checkpoint = Checkpoint::new(&genesis.chain(), size, root);
    AddCheckpoint {
        old,
        proof: tree.consistency(old, size).unwrap(),
        checkpoint: signed(genesis, &checkpoint, &[0, 1, 2, 3]),
    }
}

#[test]
fn requests_to_a_witness_read_and_write_as_published() {
    let bytes = format!("{EXAMPLE_REQUEST}{EXAMPLE_COSIGNED}");
    let request = AddCheckpoint::decode(bytes.as_bytes()).unwrap();
    assert_eq!((request.old, request.proof.len()), (20_852_014, 4));
    assert_eq!(request.to_string(), bytes);
    let log_keys = LogKeys::new(&four());
    let unknown = Refused::UnknownLog("example.com/behind-the-sofa".into());
    assert_eq!(request.check(&log_keys, None), Err(unknown));
    let note = EXAMPLE_COSIGNED;
    let line = "A".repeat(43) + "=\n";
    for body in [
        String::new(),
        note.to_owned(),
        format!("old 1\n{note}"),
        format!("old 01\n\n{note}"),
        format!("old -1\n\n{note}"),
        format!("old  1\n\n{note}"),
        format!("new 1\n\n{note}"),
        format!("old 1\nAA==\n\n{note}"),
        format!("old 1\n{}\n{note}", line.repeat(64)),
        "old 1\n\nno note\n".to_owned(),
        format!("old 1\n\n{}", "a".repeat(MAX_REQUEST_BYTES)),
    ] {
        let refused = AddCheckpoint::decode(body.as_bytes()).unwrap_err();
        assert_eq!(refused.status(), 400, "{body:.60}");
    }
    assert!(
        AddCheckpoint::decode(format!("old 1\n{}\n{note}", line.repeat(63)).as_bytes()).is_ok()
    );
}

#[test]
fn a_witness_follows_one_history_and_says_why_not() {
    let genesis = four();
    let (log_keys, tree) = (LogKeys::new(&genesis), log(40));
    let check = |request: AddCheckpoint, last: Option<&Checkpoint>| {
        let bytes = request.to_string();
        let read = AddCheckpoint::decode(bytes.as_bytes()).unwrap();
        assert_eq!(read, request);
        read.check(&log_keys, last).map(|signed| signed.checkpoint)
    };
    let code = |request, last| check(request, last).unwrap_err().status();
    // What it cosigns: a first one, any later one, the same one again.
    let first = check(request(&genesis, &tree, 0, 7), None).unwrap();
    let later = check(request(&genesis, &tree, 7, 33), Some(&first)).unwrap();
    assert_eq!(
        check(request(&genesis, &tree, 33, 33), Some(&later)),
        Ok(later.clone())
    );
    // 409 names the size to begin with.
    let other = Err(Refused::OtherSize(33));
    assert_eq!(check(request(&genesis, &tree, 7, 40), Some(&later)), other);
    assert_eq!(check(request(&genesis, &tree, 0, 33), Some(&later)), other);
    assert_eq!(check(request(&genesis, &tree, 7, 7), Some(&later)), other);
    assert_eq!(code(request(&genesis, &tree, 7, 40), None), 409);
    // 400: backwards.
    let mut back = request(&genesis, &tree, 7, 7);
    back.old = 33;
    assert_eq!(code(back, Some(&later)), 400);
    // 404 and 403.
    let mut stranger = request(&genesis, &tree, 33, 40);
    let mut elsewhere = Checkpoint::new(&genesis.chain(), 40, tree.root());
    elsewhere.origin = "tally/elsewhere".into();
    stranger.checkpoint = signed(&genesis, &elsewhere, &[0, 1, 2]);
    assert_eq!(code(stranger, Some(&later)), 404);
    let mut few = request(&genesis, &tree, 33, 40);
    few.checkpoint = few.checkpoint.only(&log_keys.keys()[1..3]).unwrap();
    assert_eq!(code(few.clone(), Some(&later)), 403);
    let line = NoteSignature::of(&log_keys.keys()[0], first.sign(&checkpoint_key(0)));
    few.checkpoint = request(&genesis, &tree, 33, 40)
        .checkpoint
        .with(line)
        .unwrap();
    assert_eq!(code(few, Some(&later)), 403);
    // 422: all validators together, on another history.
    let forged = Levels::of((0..50).map(|i| leaf_hash(&leaf(i + u64::from(i == 5)))));
    let paths = [
        vec![],
        tree.consistency(33, 40).unwrap(),
        forged.consistency(33, 40).unwrap(),
    ];
    for size in [33, 34, 40, 50] {
        for path in paths.iter().cloned().chain(forged.consistency(33, size)) {
            let mut fork = request(&genesis, &forged, 0, size);
            (fork.old, fork.proof) = (33, path);
            let refused = Err(Refused::Inconsistent { old: 33 });
            assert_eq!(check(fork, Some(&later)), refused);
        }
    }
    // A first one has no path, an empty log no place, and lines no meaning.
    let mut with_path = request(&genesis, &tree, 0, 7);
    with_path.proof = tree.consistency(7, 33).unwrap();
    assert_eq!(code(with_path, None), 422);
    let mut empty = request(&genesis, &tree, 0, 7);
    for root in [empty_root(), tree.root()] {
        let zero = Checkpoint::new(&genesis.chain(), 0, root);
        empty.checkpoint = signed(&genesis, &zero, &[0, 1, 2]);
        assert_eq!(code(empty.clone(), None), 422);
    }
    let mut extended = first.clone();
    extended.extension.push("and more".into());
    empty.checkpoint = signed(&genesis, &extended, &[0, 1, 2]);
    assert_eq!(code(empty, None), 422);
}

#[test]
fn no_flipped_bit_makes_a_witness_cosign_another_head() {
    let genesis = four();
    let (log_keys, tree) = (LogKeys::new(&genesis), log(12));
    let first = request(&genesis, &tree, 0, 7)
        .check(&log_keys, None)
        .unwrap();
    let bytes = request(&genesis, &tree, 7, 12).to_string().into_bytes();
    for (bit, altered) in one_bit_off(&bytes) {
        let Ok(read) = AddCheckpoint::decode(&altered) else {
            continue;
        };
        if let Ok(signed) = read.check(&log_keys, Some(&first.checkpoint)) {
            let (size, root) = (signed.checkpoint.size, signed.checkpoint.root);
            assert_eq!((size, root), (12, tree.root()), "bit {bit}");
        }
    }
}
