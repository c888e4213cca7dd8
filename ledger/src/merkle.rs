//! RFC 9162 Merkle trees over SHA-256 (section 2.1): leaf prefix 0x00, node
//! prefix 0x01, the empty tree hashes to SHA-256("").
//!
//! The log, debit batches and a block's transactions are such trees.
//! [`Frontier`] appends and gives roots from the peaks alone, [`Levels`] keeps
//! every complete subtree, [`proof`] makes and checks paths. Path makers read
//! complete subtrees through a closure, so a node can keep them on disk.

pub mod multi;
pub mod proof;

use std::convert::Infallible;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, compress256, digest::generic_array::GenericArray};

use crate::hash::Hash;

pub use multi::{multi_path, verify_multi};
pub use proof::{
    consistency_path, inclusion_path, tree_root, verify_consistency, verify_inclusion,
};

/// Initial state of SHA-256 (FIPS 180-4, 5.3.3).
const SHA256_START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Bytes that fit into two compressions beside the padding: bit 1 and the
/// length in bits.
const TWO_BLOCKS: usize = 128 - 1 - 8;

/// SHA-256 of at most [`TWO_BLOCKS`] bytes and more than 55, already written
/// to the front of a zeroed buffer: a third faster than the general way.
fn two_blocks(mut buffer: [u8; 128], length: usize) -> Hash {
    buffer[length] = 0x80;
    buffer[120..].copy_from_slice(&(length as u64 * 8).to_be_bytes());
    let mut state = SHA256_START;
    let (first, second) = buffer.split_at(64);
    compress256(
        &mut state,
        &[
            *GenericArray::from_slice(first),
            *GenericArray::from_slice(second),
        ],
    );
    let mut out = [0; 32];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    Hash(out)
}

/// Hash of a leaf.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let length = leaf.len() + 1;
    if (56..=TWO_BLOCKS).contains(&length) {
        let mut buffer = [0; 128];
        buffer[1..length].copy_from_slice(leaf);
        return two_blocks(buffer, length);
    }
    Hash(
        Sha256::new()
            .chain_update([0])
            .chain_update(leaf)
            .finalize()
            .into(),
    )
}

/// Hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut buffer = [0; 128];
    buffer[0] = 1;
    buffer[1..33].copy_from_slice(&left.0);
    buffer[33..65].copy_from_slice(&right.0);
    two_blocks(buffer, 65)
}

/// Root of the tree without leaves: SHA-256("").
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// Root of the tree over these leaf hashes.
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    leaves.iter().for_each(|leaf| frontier.append(*leaf));
    frontier.root()
}

/// What appending needs of a tree: its size and the roots of its largest
/// complete subtrees, left to right, one per set bit of the size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

/// A frontier's encoding: size u64, peaks as a counted list.
#[derive(Serialize, Deserialize)]
struct Parts {
    size: u64,
    peaks: Vec<Hash>,
}

impl TryFrom<Parts> for Frontier {
    type Error = &'static str;
    fn try_from(parts: Parts) -> Result<Self, Self::Error> {
        Frontier::from_parts(parts.size, parts.peaks).ok_or("one peak per set bit of the size")
    }
}

impl From<Frontier> for Parts {
    fn from(Frontier { size, peaks }: Frontier) -> Self {
        Parts { size, peaks }
    }
}

impl Frontier {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree of this size with these peaks, left to right; `None` unless
    /// there is one per set bit of the size.
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the largest complete subtrees, left to right.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf hash.
    pub fn append(&mut self, leaf: Hash) {
        self.append_seen(leaf, |_, _, _| ());
    }

    /// Adds a leaf hash and tells `see` every complete subtree that this
    /// finishes, from the leaf upwards, as (level, index, root): the subtree
    /// over leaves `index << level` to `(index + 1) << level`, exclusive.
    pub fn append_seen(&mut self, leaf: Hash, mut see: impl FnMut(u32, u64, &Hash)) {
        let mut root = leaf;
        see(0, self.size, &root);
        for level in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("one peak per set bit of the size");
            root = node_hash(&left, &root);
            see(level + 1, self.size >> (level + 1), &root);
        }
        self.peaks.push(root);
        self.size += 1;
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return empty_root();
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// A tree in memory with every complete subtree: for batches and blocks, and
/// for logs that fit.
#[derive(Debug, Clone, Default)]
pub struct Levels {
    frontier: Frontier,
    levels: Vec<Vec<Hash>>,
}

impl Levels {
    /// The tree over these leaf hashes.
    pub fn of(leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut tree = Self::default();
        leaves.into_iter().for_each(|leaf| tree.append(leaf));
        tree
    }

    /// Adds a leaf hash.
    pub fn append(&mut self, leaf: Hash) {
        let levels = &mut self.levels;
        self.frontier.append_seen(leaf, |level, _, root| {
            let level = level as usize;
            if levels.len() == level {
                levels.push(Vec::new());
            }
            levels[level].push(*root);
        });
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The root of a complete subtree, as [`Frontier::append_seen`] names
    /// them.
    pub fn subtree(&self, level: u32, index: u64) -> Option<Hash> {
        let index = usize::try_from(index).ok()?;
        self.levels.get(level as usize)?.get(index).copied()
    }

    /// Inclusion path of a leaf in the tree of the first `size` leaves;
    /// `None` unless `index < size <= self.size()`.
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        (index < size && size <= self.size())
            .then(|| unfailing(inclusion_path(index, size, |l, i| Ok(self.known(l, i)))))
    }

    /// The hashes that show the leaves at `indexes`, ascending, in the tree of
    /// the first `size` leaves; `None` unless they are below it and it is here.
    pub fn multi(&self, indexes: &[u64], size: u64) -> Option<Vec<Hash>> {
        let fits = size <= self.size() && indexes.iter().all(|index| *index < size);
        fits.then(|| unfailing(multi_path(indexes, size, |l, i| Ok(self.known(l, i)))))
    }

    /// Consistency path between the trees of the first `old` and the first
    /// `new` leaves; `None` unless `old <= new <= self.size()`.
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Hash>> {
        (old <= new && new <= self.size())
            .then(|| unfailing(consistency_path(old, new, |l, i| Ok(self.known(l, i)))))
    }

    fn known(&self, level: u32, index: u64) -> Hash {
        self.subtree(level, index)
            .expect("paths ask for complete subtrees within the size only")
    }
}

fn unfailing<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}
