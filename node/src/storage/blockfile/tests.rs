//! Tests of the block files: torn tails, damage, repair.

use std::fs;

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
