//! Tests of the block files: torn tails, damage, repair.

use std::{collections::BTreeMap, fs, sync::atomic::Ordering};

use tally_ledger::{codec::List, crypto::Signature, hash::Hash};

use super::*;
use crate::storage::disk::{
    ReadOnlyDisk, RealDisk,
    faulty::{Fault, FaultyDisk},
};

const CHAIN: ChainId = ChainId(Hash([7; 32]));

fn certificate(round: u32) -> Certificate {
    let precommits = List::new(vec![(0, Signature([3; 64])), (2, Signature([4; 64]))]).unwrap();
    Certificate { round, precommits }
}

fn body(height: u64) -> Vec<u8> {
    (0..40 + height * 3).map(|i| (i * height) as u8).collect()
}

fn open(folder: &Path, segment_bytes: u64) -> Result<(BlockFiles, Option<Cut>), BlockFileError> {
    BlockFiles::open(Arc::new(RealDisk), folder, CHAIN, segment_bytes)
}

/// Files with blocks 1 to `last`.
fn filled(folder: &Path, last: u64, segment_bytes: u64) {
    let (mut files, _) = open(folder, segment_bytes).unwrap();
    for height in files.last().0 + 1..=last {
        files
            .append(Height(height), &certificate(height as u32), &body(height))
            .unwrap();
    }
}

/// Blocks 1 to `last` are there and no others.
fn check(files: &BlockFiles, last: u64) {
    assert_eq!(files.last(), Height(last));
    let reader = files.reader();
    for height in 1..=last {
        let record = reader.read(Height(height)).unwrap().unwrap();
        assert_eq!(record.height, Height(height));
        assert_eq!(record.body, body(height));
        assert_eq!(record.certificate, certificate(height as u32));
    }
    assert_eq!(reader.read(Height(last + 1)).unwrap(), None);
    assert_eq!(reader.read(Height(0)).unwrap(), None);
    reader.verify().unwrap();
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn blocks_read_back_over_many_files_and_reopenings() {
    let folder = tempfile::tempdir().unwrap();
    for last in [0, 1, 7, 20] {
        filled(folder.path(), last, 600);
        let (files, cut) = open(folder.path(), 600).unwrap();
        assert_eq!(cut, None);
        check(&files, last);
    }
    assert!(segments(folder.path()).len() > 3);
}

#[test]
fn a_file_cut_at_any_byte_of_its_last_records_loses_only_what_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5, 1 << 20);
    let path = segments(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    let (files, _) = open(folder.path(), 1 << 20).unwrap();
    let ends = files.reader().last_segment().unwrap().verify().unwrap();
    drop(files);
    for length in ends[2] as usize..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let kept = ends.iter().filter(|end| **end <= length as u64).count() as u64 - 1;
        let (files, cut) = open(folder.path(), 1 << 20).unwrap();
        check(&files, kept);
        let torn = length as u64 - ends[kept as usize];
        assert_eq!(cut.map_or(0, |cut| cut.bytes), torn);
        drop(files);
        // It goes on where it was cut.
        filled(folder.path(), 6, 1 << 20);
        check(&open(folder.path(), 1 << 20).unwrap().0, 6);
    }
}

#[test]
fn a_torn_end_full_of_zeros_or_garbage_is_cut_too() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3, 1 << 20);
    let path = segments(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for tail in [vec![0; 5000], vec![0xff; 77], body(9)] {
        fs::write(&path, [&whole[..], &tail].concat()).unwrap();
        // Who only reads passes over it.
        let (reader, last, passed) =
            BlockReader::open(&ReadOnlyDisk, folder.path(), &CHAIN).unwrap();
        assert_eq!(
            (last, passed.unwrap().bytes),
            (Height(3), tail.len() as u64)
        );
        assert_eq!(reader.read(last).unwrap().unwrap().body, body(3));
        assert_eq!(reader.read(Height(4)).unwrap(), None);
        assert_eq!(fs::read(&path).unwrap().len(), whole.len() + tail.len());
        let (files, cut) = open(folder.path(), 1 << 20).unwrap();
        assert_eq!(cut.unwrap().bytes, tail.len() as u64);
        check(&files, 3);
    }
}

#[test]
fn a_flipped_bit_in_the_middle_is_named_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 4, 1 << 20);
    let path = segments(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    let (files, _) = open(folder.path(), 1 << 20).unwrap();
    let ends = files.reader().last_segment().unwrap().verify().unwrap();
    for place in 0..ends[3] as usize {
        let mut bad = whole.clone();
        bad[place] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let error = open(folder.path(), 1 << 20).unwrap_err();
        let record = ends.iter().filter(|end| **end <= place as u64).count() as u64;
        match &error {
            BlockFileError::Damaged { offset, height, .. } if record > 0 => {
                assert_eq!(
                    (*height, *offset),
                    (Height(record), ends[record as usize - 1])
                );
            }
            BlockFileError::Damaged { offset: 0, .. } => assert_eq!(record, 0),
            other => panic!("byte {place}: {other}"),
        }
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
}

#[test]
fn damage_in_a_sealed_file_is_found_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 20, 600);
    let first = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&first).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&first, &bytes).unwrap();
    let (files, _) = open(folder.path(), 600).unwrap();
    assert_eq!(files.last(), Height(20));
    let error = files.reader().read(Height(1)).unwrap_err().to_string();
    assert!(
        error.contains(first.to_str().unwrap()) && error.contains("is damaged at byte"),
        "{error}"
    );
    assert!(files.reader().verify().is_err());
    // The same if its last record is gone.
    fs::write(&first, &bytes[..bytes.len() - 60]).unwrap();
    assert!(
        open(folder.path(), 600)
            .unwrap()
            .0
            .reader()
            .verify()
            .is_err()
    );
}

#[test]
fn a_missing_file_and_another_chain_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 20, 600);
    let other = BlockFiles::open(
        Arc::new(RealDisk),
        folder.path(),
        ChainId(Hash([8; 32])),
        600,
    );
    assert!(matches!(other, Err(BlockFileError::OtherChain { .. })));
    fs::remove_file(segments(folder.path()).remove(1)).unwrap();
    let (files, _) = open(folder.path(), 600).unwrap();
    assert!(matches!(
        files.reader().verify(),
        Err(BlockFileError::Damaged { .. })
    ));
    fs::remove_file(segments(folder.path()).remove(0)).unwrap();
    assert!(matches!(
        open(folder.path(), 600),
        Err(BlockFileError::Gap { .. })
    ));
}

#[test]
fn after_a_failed_write_or_fsync_nothing_more_is_written_and_a_restart_goes_on() {
    for fault in [Fault::Write, Fault::Sync] {
        for after in 0..12 {
            let folder = tempfile::tempdir().unwrap();
            let disk = Arc::new(FaultyDisk::new(fault, after));
            let (mut files, _) = BlockFiles::open(disk, folder.path(), CHAIN, 300).unwrap();
            let mut acknowledged = 0;
            let error = (1..).find_map(|height| {
                let result =
                    files.append(Height(height), &certificate(height as u32), &body(height));
                acknowledged = height - u64::from(result.is_err());
                result.err()
            });
            let error = error.unwrap().to_string();
            let advice = if fault == Fault::Write {
                "Make room"
            } else {
                "disk's health"
            };
            assert!(
                error.contains(advice) && error.contains("start the node again"),
                "{error}"
            );
            let next = Height(acknowledged + 1);
            let again = files.append(next, &certificate(0), &[]);
            assert!(matches!(again, Err(BlockFileError::Closed)));
            drop(files);
            let (files, _) = open(folder.path(), 300).unwrap();
            let there = files.last().0;
            assert!(there == acknowledged || there == acknowledged + 1);
            drop(files);
            filled(folder.path(), 15, 300);
            check(&open(folder.path(), 300).unwrap().0, 15);
        }
    }
}

/// What is left of a block after it lost something.
fn short(height: u64) -> Bytes {
    Bytes::from(vec![height as u8; 10])
}

/// Blocks 1 to `last` are there, those that `lost` names short.
fn check_short(files: &BlockFiles, last: u64, lost: impl Fn(u64) -> bool) {
    assert_eq!(files.last(), Height(last));
    let reader = files.reader();
    for height in 1..=last {
        let record = reader.read(Height(height)).unwrap().unwrap();
        let wanted = if lost(height) {
            short(height)
        } else {
            body(height).into()
        };
        assert_eq!(record.body, wanted, "{height}");
        assert_eq!(record.certificate, certificate(height as u32));
    }
    reader.verify().unwrap();
}

/// Every even block loses something.
fn losses(first: Height, last: Height) -> BTreeMap<Height, Bytes> {
    let even = (first.0..=last.0).filter(|height| height % 2 == 0);
    even.map(|height| (Height(height), short(height))).collect()
}

fn rewrite_all(files: &BlockFiles) -> Result<Rewritten, BlockFileError> {
    let (rewriter, reader) = (files.rewriter(), files.reader());
    let mut sizes = Rewritten::default();
    for (first, _) in reader.files() {
        let last = reader.last_of(first)?;
        let one = rewriter.rewrite(first, &losses(first, last))?;
        sizes.before += one.before;
        sizes.after += one.after;
    }
    Ok(sizes)
}

#[test]
fn rewritten_files_are_smaller_and_go_on_and_old_readers_read_on() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 20, 600);
    let (mut files, _) = open(folder.path(), 600).unwrap();
    let bytes = |folder: &Path| -> u64 {
        let files = segments(folder);
        files
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum()
    };
    let before = bytes(folder.path());
    let old = files.reader().segment_of(Height(2)).unwrap();
    let sizes = rewrite_all(&files).unwrap();
    assert_eq!((sizes.before, sizes.after), (before, bytes(folder.path())));
    let lost: u64 = (2..=20)
        .step_by(2)
        .map(|height| body(height).len() as u64 - 10)
        .sum();
    assert_eq!(before - sizes.after, lost);
    assert_eq!(old.read(Height(2)).unwrap().unwrap().body, body(2));
    let even = |height: u64| height <= 20 && height.is_multiple_of(2);
    check_short(&files, 20, even);
    for height in 21..=30 {
        let certificate = certificate(height as u32);
        files
            .append(Height(height), &certificate, &body(height))
            .unwrap();
    }
    check_short(&files, 30, even);
    drop(files);
    check_short(&open(folder.path(), 600).unwrap().0, 30, even);
}

#[test]
fn killed_at_any_step_of_a_rewriting_each_file_is_the_old_or_the_new_one() {
    let mut steps = 0;
    for fault in [Fault::Write, Fault::Sync, Fault::Rename, Fault::SyncFolder] {
        for after in 0.. {
            let folder = tempfile::tempdir().unwrap();
            filled(folder.path(), 20, 600);
            let disk = Arc::new(FaultyDisk::new(fault, after));
            let (files, _) = BlockFiles::open(disk, folder.path(), CHAIN, 600).unwrap();
            let result = rewrite_all(&files);
            let done = result.is_ok();
            if let Err(error) = result {
                let error = error.to_string();
                assert!(
                    error.contains("Make room") && error.contains("try again"),
                    "{error}"
                );
            }
            drop(files);
            // Each file is one or the other, whole.
            let (files, cut) = open(folder.path(), 600).unwrap();
            assert_eq!(cut, None);
            let names = segments(folder.path());
            assert!(
                names.iter().all(|path| first_of(path).is_some()),
                "{names:?}"
            );
            let reader = files.reader();
            for (first, _) in reader.files() {
                let last = reader.last_of(first).unwrap();
                let evens: Vec<_> = losses(first, last).into_keys().collect();
                let short_ones = evens.iter().filter(|height| {
                    reader.read(**height).unwrap().unwrap().body == short(height.0)
                });
                let count = short_ones.count();
                assert!(count == 0 || count == evens.len(), "{fault:?} {after}");
            }
            rewrite_all(&files).unwrap();
            check_short(&files, 20, |height| height.is_multiple_of(2));
            if done {
                break;
            }
            steps += 1;
        }
    }
    assert!(steps > 40, "{steps}");
}

#[test]
fn a_file_can_be_begun_early_but_never_an_empty_one_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (mut files, _) = open(folder.path(), 1 << 20).unwrap();
    for height in 1..=6 {
        if height % 2 == 1 {
            files.begin_file();
            files.begin_file();
        }
        let certificate = certificate(height as u32);
        files
            .append(Height(height), &certificate, &body(height))
            .unwrap();
    }
    let sealed = |first, last: u64| (Height(first), Some(Height(last)));
    let last = (Height(5), None);
    assert_eq!(files.reader().files(), [sealed(1, 2), sealed(3, 4), last]);
    check(&files, 6);
}

#[test]
fn a_rename_that_is_not_durable_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 20, 600);
    let disk = FaultyDisk::new(Fault::SyncFolder, 0);
    let faulty = Arc::new(disk.clone());
    let (files, _) = BlockFiles::open(faulty, folder.path(), CHAIN, 600).unwrap();
    rewrite_all(&files).unwrap_err();
    // To its readers nothing has happened, so whoever looks for what is left
    // to drop finds it again.
    check(&files, 20);
    assert!(files.rewriter().sync().is_err());
    disk.countdown.store(i64::MAX, Ordering::SeqCst);
    rewrite_all(&files).unwrap();
    check_short(&files, 20, |height| height.is_multiple_of(2));
    files.rewriter().sync().unwrap();
}
