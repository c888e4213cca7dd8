//! Inclusion and consistency proofs (RFC 9162, 2.1.3 and 2.1.4).
//!
//! Makers take `subtree(level, index)`, the root over the leaves
//! `index << level` to `(index + 1) << level`, exclusive; they ask only for
//! subtrees that lie wholly inside the tree, about log2(size) of them. Its
//! error (a disk's) is passed on. Checkers never panic, whatever they are
//! given, and accept exactly one path per statement.

use super::{empty_root, node_hash};
use crate::hash::Hash;

/// Largest power of two below `size`, which is at least 2.
pub(super) fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// Root over the leaves from `start` to `end`, exclusive, where that range is
/// a subtree that a path can meet: `start` is a multiple of the smallest
/// power of two that is not below its length.
pub(super) fn range_root<E>(
    start: u64,
    end: u64,
    subtree: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Hash, E> {
    let size = end - start;
    if size.is_power_of_two() {
        let level = size.trailing_zeros();
        return subtree(level, start >> level);
    }
    let middle = start + split(size);
    let left = range_root(start, middle, subtree)?;
    let right = range_root(middle, end, subtree)?;
    Ok(node_hash(&left, &right))
}

/// Root of the tree of the first `size` leaves.
pub fn tree_root<E>(
    size: u64,
    mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Hash, E> {
    match size {
        0 => Ok(empty_root()),
        size => range_root(0, size, &mut subtree),
    }
}

/// PATH(index, D_size), from the leaf upwards.
///
/// # Panics
/// Unless `index < size`.
pub fn inclusion_path<E>(
    index: u64,
    size: u64,
    mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    assert!(index < size, "leaf {index} of a tree of {size}");
    let mut path = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(middle, end, &mut subtree)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, &mut subtree)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// PROOF(old, D_new). From the empty tree, and from a tree to itself, the
/// path is empty.
///
/// # Panics
/// Unless `old <= new`.
pub fn consistency_path<E>(
    old: u64,
    new: u64,
    mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    assert!(old <= new, "from {old} leaves back to {new}");
    let mut path = Vec::new();
    if old == 0 || old == new {
        return Ok(path);
    }
    // SUBPROOF descends along the old tree's right edge until the range ends
    // with it. `start > 0` is the RFC's flag b = false: there the verifier
    // does not know the old subtree's root and needs it first.
    let (mut start, mut end) = (0, new);
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(range_root(middle, end, &mut subtree)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, &mut subtree)?);
            start = middle;
        }
    }
    if start > 0 {
        path.push(range_root(start, end, &mut subtree)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether `leaf` is the hash of leaf `index` of the tree of `size` leaves
/// with this root (RFC 9162, 2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    root_from_path(leaf, index, size, path).is_some_and(|computed| computed == *root)
}

/// The root that a path leads to; `None` if its length is not the tree's.
pub fn root_from_path(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut root = *leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            root = node_hash(sibling, &root);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            root = node_hash(&root, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// Whether the tree of `old` leaves with `old_root` is the beginning of the
/// tree of `new` leaves with `new_root` (RFC 9162, 2.1.4.2). The empty tree
/// is the beginning of every tree.
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Hash,
    new_root: &Hash,
    path: &[Hash],
) -> bool {
    if old == new {
        return path.is_empty() && old_root == new_root && (old > 0 || *old_root == empty_root());
    }
    if old == 0 {
        return path.is_empty() && *old_root == empty_root();
    }
    if old > new {
        return false;
    }
    // A complete old tree is itself the first node of the path.
    let (seed, path) = match path.split_first() {
        _ if old.is_power_of_two() => (old_root, path),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut from_old, mut from_new) = (*seed, *seed);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}
