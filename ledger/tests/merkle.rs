//! RFC 9162 trees: against the published vectors of Certificate
//! Transparency, against the RFC's recursive definitions, and against every
//! single-bit change.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tally_ledger::{
    hash::Hash,
    merkle::{
        Frontier, Levels, empty_root, leaf_hash, root_of, verify_consistency, verify_inclusion,
        verify_multi,
    },
};

/// The leaves of the reference tests of certificate-transparency.
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

/// Their published roots, for the first 1 to 8 leaves.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// Published inclusion paths: (index, size, path).
const INCLUSION: [(u64, u64, &[&str]); 4] = [
    (
        0,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        3,
        &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    ),
    (
        1,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

/// Published consistency paths: (old, new, path).
const CONSISTENCY: [(u64, u64, &[&str]); 3] = [
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        &[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

fn published() -> Vec<Hash> {
    LEAVES
        .iter()
        .map(|leaf| leaf_hash(&hex::decode(leaf).unwrap()))
        .collect()
}

fn hashes(path: &[&str]) -> Vec<Hash> {
    path.iter().map(|hash| hash.parse().unwrap()).collect()
}

#[test]
fn roots_and_paths_are_the_published_ones() {
    let leaves = published();
    assert_eq!(
        root_of(&[]).to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    for (size, root) in (1..).zip(ROOTS) {
        assert_eq!(root_of(&leaves[..size]).to_string(), root, "size {size}");
    }
    let tree = Levels::of(leaves.iter().copied());
    let root = |size: u64| root_of(&leaves[..size as usize]);
    for (index, size, path) in INCLUSION {
        let path = hashes(path);
        assert_eq!(tree.inclusion(index, size).unwrap(), path);
        let leaf = &leaves[index as usize];
        assert!(verify_inclusion(leaf, index, size, &path, &root(size)));
    }
    for (old, new, path) in CONSISTENCY {
        let path = hashes(path);
        assert_eq!(tree.consistency(old, new).unwrap(), path);
        assert!(verify_consistency(old, new, &root(old), &root(new), &path));
    }
}

fn sha(parts: &[&[u8]]) -> Hash {
    let hasher = parts.iter().fold(Sha256::new(), Sha256::chain_update);
    Hash(hasher.finalize().into())
}

#[test]
fn leaves_of_every_length_are_plain_sha256() {
    let bytes: Vec<u8> = (0..200).map(|i| i as u8).collect();
    for length in 0..bytes.len() {
        let leaf = &bytes[..length];
        assert_eq!(leaf_hash(leaf), sha(&[&[0], leaf]), "{length} bytes");
    }
}

/// MTH of RFC 9162, 2.1.1, word for word.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(largest_power_below(leaves.len()));
            sha(&[&[1], &mth(left).0, &mth(right).0])
        }
    }
}

fn largest_power_below(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// PATH of RFC 9162, 2.1.3.1.
fn naive_path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = largest_power_below(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, other) = if m < k {
        (naive_path(m, left), right)
    } else {
        (naive_path(m - k, right), left)
    };
    path.push(mth(other));
    path
}

/// SUBPROOF of RFC 9162, 2.1.4.1.
fn naive_subproof(m: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if known { vec![] } else { vec![mth(leaves)] };
    }
    let k = largest_power_below(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, other) = if m <= k {
        (naive_subproof(m, left, known), right)
    } else {
        (naive_subproof(m - k, right, false), left)
    };
    path.push(mth(other));
    path
}

fn numbered(size: usize) -> Vec<Hash> {
    (0..size).map(|i| leaf_hash(&i.to_le_bytes())).collect()
}

#[test]
fn every_small_tree_follows_the_definitions() {
    let leaves = numbered(70);
    let tree = Levels::of(leaves.iter().copied());
    for size in 0..=leaves.len() {
        let root = mth(&leaves[..size]);
        assert_eq!(root_of(&leaves[..size]), root);
        for index in 0..size {
            let path = tree.inclusion(index as u64, size as u64).unwrap();
            assert_eq!(path, naive_path(index, &leaves[..size]));
            let leaf = &leaves[index];
            assert!(verify_inclusion(
                leaf,
                index as u64,
                size as u64,
                &path,
                &root
            ));
        }
        for old in 1..=size {
            let path = tree.consistency(old as u64, size as u64).unwrap();
            assert_eq!(path, naive_subproof(old, &leaves[..size], true));
            let before = mth(&leaves[..old]);
            assert!(verify_consistency(
                old as u64,
                size as u64,
                &before,
                &root,
                &path
            ));
        }
        assert!(verify_consistency(
            0,
            size as u64,
            &empty_root(),
            &root,
            &[]
        ));
    }
    assert_eq!(tree.inclusion(3, 3), None);
    assert_eq!(tree.inclusion(3, 71), None);
    assert_eq!(tree.consistency(4, 3), None);
}

fn flipped(hash: &Hash, bit: usize) -> Hash {
    let mut hash = *hash;
    hash.0[bit / 8] ^= 1 << (bit % 8);
    hash
}

/// The path with each bit of each node flipped, each node left out or
/// repeated, and one node more.
fn altered_paths(path: &[Hash]) -> Vec<Vec<Hash>> {
    let mut altered = vec![[path, &[Hash::ZERO]].concat()];
    for at in 0..path.len() {
        for bit in 0..256 {
            let mut other = path.to_vec();
            other[at] = flipped(&path[at], bit);
            altered.push(other);
        }
        altered.push([&path[..at], &path[at + 1..]].concat());
        altered.push([&path[..=at], &path[at..]].concat());
    }
    altered
}

#[test]
fn every_altered_inclusion_is_rejected() {
    let leaves = numbered(21);
    let tree = Levels::of(leaves.iter().copied());
    for (index, size) in [(0, 1), (0, 21), (13, 21), (20, 21), (7, 8), (16, 17)] {
        let (root, leaf) = (root_of(&leaves[..size as usize]), &leaves[index as usize]);
        let path = tree.inclusion(index, size).unwrap();
        for other in altered_paths(&path) {
            assert!(!verify_inclusion(leaf, index, size, &other, &root));
        }
        for bit in 0..256 {
            assert!(!verify_inclusion(
                &flipped(leaf, bit),
                index,
                size,
                &path,
                &root
            ));
            assert!(!verify_inclusion(
                leaf,
                index,
                size,
                &path,
                &flipped(&root, bit)
            ));
        }
        for bit in 0..64 {
            assert!(!verify_inclusion(
                leaf,
                index ^ 1 << bit,
                size,
                &path,
                &root
            ));
        }
        // A path fits every size in which its turns are the same: sizes are
        // believed only from the same certified header as the root.
        assert!(!verify_inclusion(leaf, index, index, &path, &root));
        assert!(!verify_inclusion(leaf, index, size + 64, &path, &root));
        assert!(!verify_inclusion(leaf, index, u64::MAX, &path, &root));
    }
}

#[test]
fn every_altered_consistency_is_rejected() {
    let leaves = numbered(33);
    let tree = Levels::of(leaves.iter().copied());
    let root = |size: u64| root_of(&leaves[..size as usize]);
    for (old, new) in [(1, 2), (1, 33), (6, 8), (8, 21), (20, 33), (32, 33), (5, 5)] {
        let (before, after) = (root(old), root(new));
        let path = tree.consistency(old, new).unwrap();
        for other in altered_paths(&path) {
            assert!(!verify_consistency(old, new, &before, &after, &other));
        }
        for bit in 0..256 {
            assert!(!verify_consistency(
                old,
                new,
                &flipped(&before, bit),
                &after,
                &path
            ));
            assert!(!verify_consistency(
                old,
                new,
                &before,
                &flipped(&after, bit),
                &path
            ));
        }
        for other in (0..40).filter(|other| *other != old) {
            assert!(!verify_consistency(other, new, &before, &after, &path));
        }
        assert!(!verify_consistency(old, new + 64, &before, &after, &path));
        assert!(new == old || !verify_consistency(new, old, &after, &before, &path));
    }
    assert!(!verify_consistency(0, 0, &root(1), &root(1), &[]));
    assert!(!verify_consistency(0, 3, &root(1), &root(3), &[]));
}

proptest! {
    #[test]
    fn appending_in_pieces_is_appending_at_once(cuts in prop::collection::vec(0usize..40, 0..6)) {
        let leaves = numbered(cuts.iter().sum());
        let mut frontier = Frontier::new();
        let mut rest = &leaves[..];
        for cut in cuts {
            let (now, later) = rest.split_at(cut);
            now.iter().for_each(|leaf| frontier.append(*leaf));
            frontier = Frontier::from_parts(frontier.size(), frontier.peaks().to_vec()).unwrap();
            rest = later;
        }
        prop_assert_eq!(frontier.size(), leaves.len() as u64);
        prop_assert_eq!(frontier.root(), mth(&leaves));
        let mut peaks = frontier.peaks().to_vec();
        peaks.push(Hash::ZERO);
        prop_assert!(Frontier::from_parts(frontier.size(), peaks).is_none());
    }

    #[test]
    fn checkers_stand_any_input(
        index: u64, size: u64,
        path in prop::collection::vec(any::<[u8; 32]>().prop_map(Hash), 0..70),
    ) {
        prop_assert!(!verify_inclusion(&Hash::ZERO, index, size, &path, &Hash::ZERO));
        let (old, new) = (index.min(size), index.max(size).max(1));
        prop_assert!(old == new || !verify_consistency(old, new, &Hash::ZERO, &Hash([1; 32]), &path));
    }
}

/// Leaves `0..size` whose bit is set in `mask`.
fn chosen(mask: u64, size: u64) -> Vec<u64> {
    (0..size).filter(|index| mask >> index & 1 == 1).collect()
}

#[test]
fn one_path_shows_any_set_of_leaves_and_needs_each_hash_once() {
    let hashes: Vec<Hash> = (0..40).map(|n: u8| leaf_hash(&[n])).collect();
    for size in 1..=9 {
        let tree = Levels::of(hashes[..size as usize].iter().copied());
        for mask in 0..1u64 << size {
            let indexes = chosen(mask, size);
            let path = tree.multi(&indexes, size).unwrap();
            let leaf = |index: &u64| (*index, hashes[*index as usize]);
            let leaves: Vec<(u64, Hash)> = indexes.iter().map(leaf).collect();
            let root = tree.root();
            assert!(verify_multi(&leaves, size, &path, &root));
            // A single leaf's path has the hashes of its inclusion proof.
            if let [only] = indexes[..] {
                let mut path = path.clone();
                let mut inclusion = tree.inclusion(only, size).unwrap();
                path.sort_unstable();
                inclusion.sort_unstable();
                assert_eq!(path, inclusion);
            }
            for at in 0..path.len() {
                let mut altered = path.clone();
                altered[at].0[0] ^= 1;
                assert!(!verify_multi(&leaves, size, &altered, &root));
                altered.remove(at);
                assert!(!verify_multi(&leaves, size, &altered, &root));
            }
            let longer = [&path[..], &[root]].concat();
            assert!(!verify_multi(&leaves, size, &longer, &root));
            for at in 0..leaves.len() {
                let mut other = leaves.clone();
                other[at].1 = hashes[39];
                assert!(!verify_multi(&other, size, &path, &root));
                other[at] = (size, leaves[at].1);
                assert!(!verify_multi(&other, size, &path, &root));
                other.remove(at);
                let fewer = verify_multi(&other, size, &path, &root);
                assert!(!fewer || (other.is_empty() && path.is_empty()));
            }
        }
    }
}

#[test]
fn leaves_out_of_order_or_twice_are_not_shown() {
    let hashes: Vec<Hash> = (0..5).map(|n: u8| leaf_hash(&[n])).collect();
    let tree = Levels::of(hashes.iter().copied());
    let path = tree.multi(&[1, 3], 5).unwrap();
    let (a, b) = ((1, hashes[1]), (3, hashes[3]));
    assert!(verify_multi(&[a, b], 5, &path, &tree.root()));
    assert!(!verify_multi(&[b, a], 5, &path, &tree.root()));
    assert!(!verify_multi(&[a, a, b], 5, &path, &tree.root()));
    assert!(tree.multi(&[5], 5).is_none() && tree.multi(&[1], 6).is_none());
}
