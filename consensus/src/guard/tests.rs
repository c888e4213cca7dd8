//! Tests of the guard: what it lets be signed, and which damage it notices.

use std::fs;

use super::*;

const CHAIN: ChainId = ChainId(Hash([1; 32]));
const KEY: PublicKey = PublicKey([2; 32]);

fn block(byte: u8) -> Option<Hash> {
    Some(Hash([byte; 32]))
}

fn admit(
    guard: &mut Guard,
    height: u64,
    round: u32,
    step: Step,
    block: Option<Hash>,
) -> Result<(), Refusal> {
    let bytes = block.map_or([0; 32], |hash| hash.0);
    let position = Position {
        height: Height(height),
        round,
        step,
    };
    guard.admit(&Message {
        position,
        block,
        bytes: &bytes,
    })
}

fn new_guard() -> (tempfile::TempDir, PathBuf, Guard) {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_owned();
    Guard::create(&home, CHAIN, KEY).unwrap();
    let guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    (folder, home, guard)
}

#[test]
fn only_what_is_above_or_equal_bytes_is_admitted_also_after_reopening() {
    let (_folder, home, mut guard) = new_guard();
    admit(&mut guard, 1, 0, Step::Prevote, block(1)).unwrap();
    admit(&mut guard, 1, 0, Step::Precommit, block(1)).unwrap();
    for reopen in [false, true] {
        if reopen {
            guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
            guard.lock_is_known();
        }
        admit(&mut guard, 1, 0, Step::Precommit, block(1)).unwrap();
        for (height, round, step, what) in [
            (1, 0, Step::Precommit, block(2)),
            (1, 0, Step::Precommit, None),
            (1, 0, Step::Prevote, block(2)),
            (0, 9, Step::Precommit, block(1)),
        ] {
            let refusal = admit(&mut guard, height, round, step, what).unwrap_err();
            assert!(matches!(refusal, Refusal::NotAbove { .. }), "{refusal}");
        }
    }
    assert_eq!(guard.height(), Height(1));
    admit(&mut guard, 1, 1, Step::Proposal, block(1)).unwrap();
    admit(&mut guard, 2, 0, Step::Prevote, None).unwrap();
}

#[test]
fn what_was_signed_at_this_height_may_be_signed_again_and_nothing_else() {
    let (_folder, home, mut guard) = new_guard();
    let signed = [
        (0, Step::Prevote, block(1)),
        (0, Step::Precommit, None),
        (1, Step::Prevote, block(2)),
    ];
    for (round, step, what) in signed {
        admit(&mut guard, 4, round, step, what).unwrap();
    }
    for _ in 0..2 {
        for (round, step, what) in signed {
            admit(&mut guard, 4, round, step, what).unwrap();
            admit(&mut guard, 4, round, step, block(9)).unwrap_err();
        }
        admit(&mut guard, 4, 0, Step::Proposal, block(1)).unwrap_err();
        guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    }
    admit(&mut guard, 5, 0, Step::Prevote, None).unwrap();
    admit(&mut guard, 4, 0, Step::Prevote, block(1)).unwrap_err();
    guard.raise(Height(5)).unwrap();
    admit(&mut guard, 5, 0, Step::Prevote, None).unwrap_err();
    let mut guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    admit(&mut guard, 5, 0, Step::Prevote, None).unwrap_err();
}

#[test]
fn a_record_whose_slot_was_not_written_allows_nothing() {
    let (_folder, home, mut guard) = new_guard();
    let path = home.join(FILE);
    admit(&mut guard, 4, 0, Step::Prevote, block(1)).unwrap();
    let before = fs::read(&path).unwrap();
    admit(&mut guard, 4, 0, Step::Precommit, block(1)).unwrap();
    // The crash kept the record, and of the slots those before it.
    let mut torn = fs::read(&path).unwrap();
    torn[..FILE_BYTES as usize].copy_from_slice(&before[..FILE_BYTES as usize]);
    fs::write(&path, &torn).unwrap();
    let mut guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    admit(&mut guard, 4, 0, Step::Precommit, None).unwrap();
    admit(&mut guard, 4, 1, Step::Prevote, None).unwrap();
    for _ in 0..2 {
        admit(&mut guard, 4, 0, Step::Precommit, block(1)).unwrap_err();
        admit(&mut guard, 4, 0, Step::Precommit, None).unwrap();
        guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    }
}

#[test]
fn a_forgotten_lock_binds_until_it_is_signed_again_or_found() {
    let (_folder, home, mut guard) = new_guard();
    admit(&mut guard, 7, 0, Step::Precommit, block(1)).unwrap();
    let mut forgetful = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    let refusal = admit(&mut forgetful, 7, 1, Step::Prevote, block(2)).unwrap_err();
    assert!(matches!(refusal, Refusal::Locked { round: 0 }), "{refusal}");
    admit(&mut forgetful, 7, 1, Step::Prevote, None).unwrap();
    admit(&mut forgetful, 7, 2, Step::Prevote, block(1)).unwrap();
    let mut told = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    told.lock_is_known();
    admit(&mut told, 7, 3, Step::Prevote, block(2)).unwrap();
    let mut next = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    admit(&mut next, 8, 0, Step::Prevote, block(3)).unwrap();
}

#[test]
fn every_cut_and_every_flipped_byte_is_noticed() {
    let (_folder, home, mut guard) = new_guard();
    admit(&mut guard, 3, 1, Step::Prevote, block(1)).unwrap();
    admit(&mut guard, 3, 1, Step::Precommit, block(1)).unwrap();
    let path = home.join(FILE);
    let good = fs::read(&path).unwrap();
    let places = (0..SLOT_BYTES).chain(4096..4096 + SLOT_BYTES);
    for place in places {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        assert!(guard.damaged(), "byte {place}");
        assert_eq!(guard.height(), Height(3));
    }
    for length in (0..SLOT_BYTES + 2).chain(4094..4098 + SLOT_BYTES) {
        fs::write(&path, &good[..length]).unwrap();
        let guard = Guard::open(&home, CHAIN, KEY).unwrap();
        match guard {
            None => assert!(length < SLOT_BYTES),
            Some(guard) => assert_eq!(guard.damaged(), length < 4096 + SLOT_BYTES),
        }
    }
}

#[test]
fn a_raised_guard_signs_nothing_up_to_there() {
    let (_folder, home, mut guard) = new_guard();
    guard.raise(Height(5)).unwrap();
    admit(&mut guard, 5, 1000, Step::Precommit, None).unwrap_err();
    admit(&mut guard, 6, 0, Step::Prevote, None).unwrap();
    fs::remove_file(home.join(FILE)).unwrap();
    Guard::create_above(&RealDisk, &home, CHAIN, KEY, Height(9)).unwrap();
    let mut guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
    admit(&mut guard, 9, 0, Step::Prevote, None).unwrap_err();
    admit(&mut guard, 10, 0, Step::Prevote, None).unwrap();
}

#[test]
fn a_guard_is_created_once_and_for_one_key_and_chain() {
    let (_folder, home, _guard) = new_guard();
    assert!(Guard::create(&home, CHAIN, KEY).is_err());
    assert!(Guard::open(&home, CHAIN, PublicKey([3; 32])).is_err());
    assert!(Guard::open(&home, ChainId(Hash([3; 32])), KEY).is_err());
}
