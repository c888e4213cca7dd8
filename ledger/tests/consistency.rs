//! Consistency files: between any two headers, and nothing that is altered.

#![allow(clippy::unwrap_used)]

#[path = "support/vectors.rs"]
mod vectors;
mod world;

use serde_json::json;
use tally_ledger::{
    certified::{CertifiedHeader, Trust},
    consistency_file::{ConsistencyError, ConsistencyFile},
    ids::*,
};
use world::*;

/// A chain, and the certified header of each block.
fn grown() -> (World, Vec<CertifiedHeader>) {
    let mut world = World::of(genesis());
    let mut headers = Vec::new();
    for account in 0..9 {
        world.open_account();
        headers.push(world.certified());
        if account % 3 == 0 {
            world.issue(account, BASE, CT);
            headers.push(world.certified());
        }
    }
    world.block(&[]);
    headers.push(world.certified());
    (world, headers)
}

fn file(world: &World, old: &CertifiedHeader, new: &CertifiedHeader) -> ConsistencyFile {
    let sizes = (old.header.log_size, new.header.log_size);
    ConsistencyFile {
        old: old.clone(),
        new: new.clone(),
        path: list(world.log.consistency(sizes.0, sizes.1).unwrap()),
    }
}

#[test]
fn the_log_only_grew_between_any_two_heights() {
    let (world, headers) = grown();
    for (i, new) in headers.iter().enumerate() {
        for old in &headers[..=i] {
            let file = file(&world, old, new);
            let read = ConsistencyFile::decode(&file.encode()).unwrap();
            assert_eq!(read, file);
            let proven = read.verify(&world.genesis).unwrap();
            assert_eq!(proven, (old.header, new.header));
        }
    }
}

#[test]
fn headers_in_disorder_and_paths_of_another_log_are_refused() {
    let (world, headers) = grown();
    let (old, new) = (&headers[2], &headers[7]);
    let good = file(&world, old, new);
    let heights = (old.header.height, new.header.height);
    let swapped = ConsistencyFile {
        old: new.clone(),
        new: old.clone(),
        ..good.clone()
    };
    let order = ConsistencyError::Order {
        old: heights.1,
        new: heights.0,
    };
    assert_eq!(swapped.verify(&world.genesis), Err(order));
    let not = |old: Height, new: Height| Err(ConsistencyError::NotTheBeginning { old, new });
    let mut altered = good.clone();
    altered.path[0].0[0] ^= 1;
    assert_eq!(altered.verify(&world.genesis), not(heights.0, heights.1));
    let of_another = ConsistencyFile {
        path: file(&world, &headers[3], new).path,
        ..good.clone()
    };
    assert_eq!(of_another.verify(&world.genesis), not(heights.0, heights.1));
    let mut forged = good;
    forged.old.header.log_root.0[1] ^= 1;
    let forged = forged.verify(&world.genesis);
    assert!(matches!(forged, Err(ConsistencyError::Header(_))));
}

#[test]
fn no_bit_can_be_flipped() {
    let (world, headers) = grown();
    let mut trust = Trust::new(&world.genesis).unwrap();
    let bytes = file(&world, &headers[4], &headers[9]).encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(read) = ConsistencyFile::decode(&flipped) else {
            continue;
        };
        assert!(read.verify_with(&mut trust).is_err(), "bit {bit}");
    }
}

#[test]
fn files_have_the_bytes_that_they_always_had() {
    let (world, headers) = grown();
    let bytes =
        |old: usize, new: usize| hex::encode(file(&world, &headers[old], &headers[new]).encode());
    vectors::check(
        "consistency",
        json!({
            "genesis": hex::encode(world.genesis.encode()),
            "grown": bytes(2, 10),
            "the_same": bytes(5, 5),
        }),
    );
}
