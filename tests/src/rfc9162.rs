//! RFC 9162 trees by the book: recursive, over all leaf hashes, sharing only
//! the two hash functions' definition with nobody.

use sha2::{Digest, Sha256};
use tally_ledger::hash::Hash;

fn sha(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    Hash(hasher.finalize().into())
}

/// MTH({d}) = SHA-256(0x00 || d).
pub fn leaf(bytes: &[u8]) -> Hash {
    sha(&[&[0], bytes])
}

/// Largest power of two below `n`.
fn split(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// MTH over leaf hashes (2.1.1).
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha(&[]),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            sha(&[&[1], &root(left).0, &root(right).0])
        }
    }
}

/// PATH(m, D) (2.1.3.1), from the leaf upwards.
pub fn inclusion(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, other) = match index < k {
        true => (inclusion(index, left), root(right)),
        false => (inclusion(index - k, right), root(left)),
    };
    path.push(other);
    path
}

/// PROOF(m, D) (2.1.4.1).
pub fn consistency(old: usize, leaves: &[Hash]) -> Vec<Hash> {
    subproof(old, leaves, true)
}

fn subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return match whole {
            true => Vec::new(),
            false => vec![root(leaves)],
        };
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, other) = match old <= k {
        true => (subproof(old, left, whole), root(right)),
        false => (subproof(old - k, right, false), root(left)),
    };
    path.push(other);
    path
}
