//! Several leaves of one RFC 9162 tree shown together: the hashes that all
//! their inclusion paths need, each once.
//!
//! The path follows the definition of the tree's hash (RFC 9162, 2.1.1): the
//! range of all leaves is split at the largest power of two below its size,
//! left part first, again and again. A range without a shown leaf gives one
//! hash, its root; a shown leaf gives none. So the path has exactly one form
//! per statement, and one leaf's path holds the hashes of its inclusion
//! proof, in another order.

use super::{node_hash, proof};
use crate::hash::Hash;

/// The hashes that show the leaves at `indexes`, which ascend, in the tree of
/// `size` leaves. `subtree` is as in [`proof`]; no index shown needs no hash.
///
/// # Panics
/// Unless every index is below `size`.
pub fn multi_path<E>(
    indexes: &[u64],
    size: u64,
    mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut path = Vec::new();
    if let Some(last) = indexes.last() {
        assert!(*last < size, "leaf {last} of a tree of {size}");
        gather(indexes, 0, size, &mut subtree, &mut path)?;
    }
    Ok(path)
}

fn gather<E>(
    indexes: &[u64],
    start: u64,
    end: u64,
    subtree: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
    path: &mut Vec<Hash>,
) -> Result<(), E> {
    if indexes.is_empty() {
        path.push(proof::range_root(start, end, subtree)?);
        return Ok(());
    }
    if end - start == 1 {
        return Ok(());
    }
    let middle = start + proof::split(end - start);
    let (left, right) = indexes.split_at(indexes.partition_point(|index| *index < middle));
    gather(left, start, middle, subtree, path)?;
    gather(right, middle, end, subtree, path)
}

/// Whether these are leaves, by index and hash, of the tree of `size` leaves
/// with this root. Indexes must ascend. No leaves and no path say nothing and
/// are accepted.
pub fn verify_multi(leaves: &[(u64, Hash)], size: u64, path: &[Hash], root: &Hash) -> bool {
    let Some((last, _)) = leaves.last() else {
        return path.is_empty();
    };
    if *last >= size || !leaves.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return false;
    }
    let mut rest = path;
    fold(leaves, 0, size, &mut rest).is_some_and(|found| found == *root) && rest.is_empty()
}

/// The root over a range; takes from the path what it needs.
fn fold(leaves: &[(u64, Hash)], start: u64, end: u64, path: &mut &[Hash]) -> Option<Hash> {
    if leaves.is_empty() {
        let (first, rest) = path.split_first()?;
        *path = rest;
        return Some(*first);
    }
    if end - start == 1 {
        return Some(leaves[0].1);
    }
    let middle = start + proof::split(end - start);
    let (left, right) = leaves.split_at(leaves.partition_point(|(index, _)| *index < middle));
    let left = fold(left, start, middle, path)?;
    let right = fold(right, middle, end, path)?;
    Some(node_hash(&left, &right))
}
