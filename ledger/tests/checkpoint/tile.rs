//! Tiles: which there are, what they are called, what they hold.

use proptest::prelude::*;
use tally_ledger::{
    merkle::{Levels, inclusion_path, leaf_hash, tree_root},
    tile::{
        TILE_WIDTH, TileKind, TileName, bundle_entries, bundle_hashes, push_entry, subtree,
        tile_hashes,
    },
};

use crate::heads::*;

#[test]
fn tiles_are_those_of_the_specification() {
    let names: Vec<_> = TileName::all(70_000).collect();
    let count = |kind, full| {
        let is = |name: &&TileName| name.kind == kind && name.is_full() == full;
        names.iter().filter(is).count()
    };
    let width = |kind| names.iter().rfind(|name| name.kind == kind).unwrap().width;
    assert_eq!(
        (count(TileKind::Hashes(0), true), width(TileKind::Hashes(0))),
        (273, 112)
    );
    assert_eq!(
        (count(TileKind::Entries, true), width(TileKind::Entries)),
        (273, 112)
    );
    assert_eq!(
        (count(TileKind::Hashes(1), true), width(TileKind::Hashes(1))),
        (1, 17)
    );
    assert_eq!(
        (count(TileKind::Hashes(2), true), width(TileKind::Hashes(2))),
        (0, 1)
    );
    let shown: Vec<_> = TileName::all(256).map(|name| name.to_string()).collect();
    assert_eq!(shown, ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
    let name = TileName {
        kind: TileKind::Hashes(0),
        index: 1_234_067,
        width: 256,
    };
    assert_eq!(name.to_string(), "tile/0/x001/x234/067");
    for (path, good) in [
        ("tile/0/x001/x234/067", true),
        ("tile/63/000", true),
        ("tile/entries/999.p/255", true),
        ("tile/entries/x001/000.p/1", true),
        ("tile/64/000", false),
        ("tile/00/000", false),
        ("tile/+1/000", false),
        ("tile/0/0", false),
        ("tile/0/1000", false),
        ("tile/0/x000/001", false),
        ("tile/0/001/002", false),
        ("tile/0/x001", false),
        ("tile/0/+01", false),
        ("tile/0/000.p/0", false),
        ("tile/0/000.p/256", false),
        ("tile/0/000.p/01", false),
        ("tile/0/000.p/", false),
        ("tile/0/000/", false),
        ("tile/0/x099/x999/x999/x999/x999/x999/999", false),
        ("tile/data/000", false),
        ("tile/0/../000", false),
        ("checkpoint", false),
    ] {
        let read = TileName::parse(path);
        assert_eq!(read.is_some(), good, "{path}");
        assert!(read.is_none_or(|name| name.to_string() == path));
    }
    assert_eq!(TileKind::Hashes(9).width(0, u64::MAX), 0);
    assert_eq!(TileKind::Hashes(0).width(u64::MAX, u64::MAX), 0);
}

#[test]
fn any_proof_can_be_made_from_tiles() {
    const SIZE: u64 = 66_000;
    let tree = log(SIZE);
    let mut read = |name: TileName| {
        let TileKind::Hashes(level) = name.kind else {
            return Err("entries");
        };
        assert!(name.is_in(SIZE));
        let hash = |i| {
            tree.subtree(8 * u32::from(level), name.start() + i)
                .unwrap()
        };
        let hashes: Vec<_> = (0..name.width.into()).map(hash).collect();
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        assert_eq!(tile_hashes(&name, &bytes[1..]), None);
        assert_eq!(tile_hashes(&name, &bytes).as_ref(), Some(&hashes));
        Ok(hashes)
    };
    for size in [0, 1, 255, 256, 257, 65_535, 65_536, 65_999, SIZE] {
        let root = tree_root(size, |level, index| subtree(level, index, SIZE, &mut read));
        assert_eq!(
            root,
            Ok(Levels::of((0..size).map(|i| leaf_hash(&leaf(i)))).root())
        );
    }
    for index in [0, 255, 256, 65_535, 65_536, SIZE - 1] {
        let path = inclusion_path(index, SIZE, |l, i| subtree(l, i, SIZE, &mut read)).unwrap();
        assert_eq!(Some(path), tree.inclusion(index, SIZE));
    }
    let broken = tree_root(SIZE, |l, i| {
        subtree(l, i, SIZE, &mut |_| Err::<Vec<_>, _>("disk"))
    });
    assert_eq!(broken, Err("disk"));
}

#[test]
fn bundles_hold_the_leaves_and_nothing_else() {
    let mut bundle = Vec::new();
    (0..5).for_each(|index| push_entry(&mut bundle, &leaf(index)));
    let leaves: Vec<_> = (0..5).map(leaf).collect();
    assert_eq!(bundle_entries(&bundle, 5).unwrap(), leaves);
    let hashes: Vec<_> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    assert_eq!(bundle_hashes(&bundle, 5).unwrap(), hashes);
    for count in [0, 4, 6] {
        assert!(bundle_entries(&bundle, count).is_err());
    }
    for length in 0..bundle.len() {
        assert!(
            bundle_entries(&bundle[..length], 5).is_err(),
            "cut to {length}"
        );
    }
}

proptest! {
    #[test]
    fn names_of_tiles_read_back(
        level in 0u8..64,
        index in 0u64..u64::MAX / TILE_WIDTH,
        width in 1u16..=256,
        entries: bool,
    ) {
        let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
        let name = TileName { kind, index, width };
        prop_assert_eq!(TileName::parse(&name.to_string()), Some(name));
    }
}
