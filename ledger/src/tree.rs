//! The state's Merkle trees: one dense binary tree per table.
//!
//! A table's leaves stand left-packed by number and are padded with 32 zero
//! bytes to the next power of two (none for an empty table, whose root is 32
//! zero bytes; one leaf is its own root).
//!
//! ```text
//! leaf = blake3 keyed(K leaf, table u8 || number u32 || leaf bytes)
//! node = blake3 keyed(K node, left 32 || right 32)
//! state root = derive_key("tally v1 state",
//!              for tables 1 to 11: id u8 || size u64 || root 32)
//! ```
//!
//! where K leaf = derive_key("tally v1 state leaf", "") and K node likewise.
//! Sizes are under the state root, so "there is no number n" is proven by
//! n >= size. An update is computed without touching the tree and taken over
//! later: a block that is only checked changes nothing. What a block costs is
//! one node per touched path, shared parts once.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::hash::{Context, Hash};

/// Levels above the leaves of the largest table: numbers are `u32`.
pub const MAX_DEPTH: usize = 32;

static LEAF_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| Context::StateLeaf.key());
static NODE_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| Context::StateNode.key());

/// Root of a subtree that is padding only, by its level.
static PADDING: LazyLock<[Hash; MAX_DEPTH + 1]> = LazyLock::new(|| {
    let mut roots = [Hash::ZERO; MAX_DEPTH + 1];
    for level in 0..MAX_DEPTH {
        roots[level + 1] = node_hash(&roots[level], &roots[level]);
    }
    roots
});

/// A table of the state. The number is hashed with each leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[repr(u8)]
pub enum Table {
    /// Counts, protocol, current price table; one leaf.
    Chain = 1,
    /// Persons.
    Persons = 2,
    /// Accounts.
    Accounts = 3,
    /// Gateways.
    Gateways = 4,
    /// Classes with their totals.
    Classes = 5,
    /// API keys.
    ApiKeys = 6,
    /// Parameters, and behind them the rates once they were set.
    Parameters = 7,
    /// Live transaction ids, by the hour in which they run out.
    IdBuckets = 8,
    /// Price tables.
    PriceTables = 9,
    /// Corrected sums per receipt.
    Corrections = 10,
    /// Validators, and behind each the evidence against it once there is
    /// some.
    Validators = 11,
}

impl Table {
    /// How many tables there are.
    pub const COUNT: usize = 11;

    /// All tables, ascending.
    pub const ALL: [Table; Table::COUNT] = [
        Table::Chain,
        Table::Persons,
        Table::Accounts,
        Table::Gateways,
        Table::Classes,
        Table::ApiKeys,
        Table::Parameters,
        Table::IdBuckets,
        Table::PriceTables,
        Table::Corrections,
        Table::Validators,
    ];

    /// Its number.
    pub fn id(self) -> u8 {
        self as u8
    }
}

impl TryFrom<u8> for Table {
    type Error = String;
    fn try_from(id: u8) -> Result<Self, String> {
        let index = usize::from(id).wrapping_sub(1);
        let table = Table::ALL.get(index).copied();
        table.ok_or_else(|| format!("table {id}"))
    }
}

impl From<Table> for u8 {
    fn from(table: Table) -> u8 {
        table.id()
    }
}

/// Hash of a leaf of a table.
pub fn table_leaf_hash(table: Table, number: u32, leaf: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(&LEAF_KEY);
    let mut head = [table.id(); 5];
    head[1..].copy_from_slice(&number.to_le_bytes());
    hasher.update(&head).update(leaf);
    Hash(hasher.finalize().into())
}

/// Hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&left.0);
    both[32..].copy_from_slice(&right.0);
    Hash(blake3::keyed_hash(&NODE_KEY, &both).into())
}

/// Levels above the leaves of a table of `size`.
pub fn depth(size: u32) -> usize {
    match size {
        0 | 1 => 0,
        more => (u32::BITS - (more - 1).leading_zeros()) as usize,
    }
}

/// The root that a leaf's path leads to; `None` unless `number < size` and
/// the path is as long as the tree is deep.
pub fn root_from_path(number: u32, size: u32, leaf: &Hash, path: &[Hash]) -> Option<Hash> {
    if number >= size || path.len() != depth(size) {
        return None;
    }
    let climb = |below: Hash, (level, sibling): (usize, &Hash)| match number >> level & 1 {
        0 => node_hash(&below, sibling),
        _ => node_hash(sibling, &below),
    };
    Some(path.iter().enumerate().fold(*leaf, climb))
}

/// The state root over all tables, given ascending and complete.
///
/// # Panics
/// If a table is missing, repeated or out of order.
pub fn state_root(tables: &[(Table, u32, Hash)]) -> Hash {
    assert!(
        tables.iter().map(|(table, ..)| *table).eq(Table::ALL),
        "the state root is over every table, ascending"
    );
    let mut hasher = Context::State.hasher();
    for (table, size, root) in tables {
        hasher
            .update(&[table.id()])
            .update(&u64::from(*size).to_le_bytes())
            .update(&root.0);
    }
    Hash(hasher.finalize().into())
}

/// The tree of one table, every node in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    table: Table,
    /// Level 0 are the leaf hashes; padding is not stored.
    levels: Vec<Vec<Hash>>,
}

/// New nodes of a [`Tree`], computed and not yet taken over.
#[derive(Debug, Clone)]
pub struct TreeUpdate {
    table: Table,
    base: (u32, Hash),
    size: u32,
    root: Hash,
    /// Per level, ascending by index.
    levels: Vec<Vec<(u32, Hash)>>,
}

impl TreeUpdate {
    /// The table's size afterwards.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The table's root afterwards.
    pub fn root(&self) -> Hash {
        self.root
    }
}

impl Tree {
    /// An empty table.
    pub fn new(table: Table) -> Self {
        Tree {
            table,
            levels: vec![Vec::new()],
        }
    }

    /// The table of these leaf hashes (of [`table_leaf_hash`]), from 0.
    pub fn of(table: Table, leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut tree = Self::new(table);
        let changes: Vec<(u32, Hash)> = (0..).zip(leaves).collect();
        let update = tree.update(&changes);
        tree.apply(update);
        tree
    }

    /// Which table.
    pub fn table(&self) -> Table {
        self.table
    }

    /// Number of leaves.
    pub fn size(&self) -> u32 {
        self.levels[0].len() as u32
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let top = self.levels.last().and_then(|level| level.first());
        top.copied().unwrap_or(Hash::ZERO)
    }

    /// Computes what the tree becomes with these leaf hashes set, without
    /// changing it. Changes ascend by number without repeats; new numbers
    /// follow on the last without a gap.
    ///
    /// # Panics
    /// If they do not.
    pub fn update(&self, changes: &[(u32, Hash)]) -> TreeUpdate {
        let ascending = changes.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(ascending, "changes ascend by number without repeats");
        let old = self.size();
        let new = changes.partition_point(|(number, _)| *number < old);
        let contiguous = changes[new..].iter().map(|(number, _)| *number);
        assert!(
            contiguous.eq((old..).take(changes.len() - new)),
            "new numbers of {:?} follow on {old}",
            self.table
        );
        let size = old + (changes.len() - new) as u32;
        let mut levels = vec![changes.to_vec()];
        for level in 0..depth(size) {
            let parents = self.parents(level, &levels[level]);
            levels.push(parents);
        }
        let root = match levels.last().and_then(|top| top.first()) {
            Some((_, root)) => *root,
            None => self.root(),
        };
        TreeUpdate {
            table: self.table,
            base: (old, self.root()),
            size,
            root,
            levels,
        }
    }

    /// The nodes above the changed nodes of a level.
    fn parents(&self, level: usize, changed: &[(u32, Hash)]) -> Vec<(u32, Hash)> {
        let stored = |index: u32| {
            let nodes = self.levels.get(level);
            nodes.and_then(|nodes| nodes.get(index as usize)).copied()
        };
        let mut parents = Vec::with_capacity(changed.len() / 2 + 1);
        let mut rest = changed.iter().copied().peekable();
        while let Some((index, hash)) = rest.next() {
            let (left, right) = if index & 1 == 1 {
                let left = stored(index - 1).expect("what is left of a node exists: left-packed");
                (left, hash)
            } else if let Some((_, right)) = rest.next_if(|(next, _)| *next == index + 1) {
                (hash, right)
            } else {
                (hash, stored(index + 1).unwrap_or(PADDING[level]))
            };
            parents.push((index >> 1, node_hash(&left, &right)));
        }
        parents
    }

    /// Takes over an update computed from this very tree.
    ///
    /// # Panics
    /// If it was computed from another state of it.
    pub fn apply(&mut self, update: TreeUpdate) {
        assert!(
            update.table == self.table && update.base == (self.size(), self.root()),
            "an update belongs to the tree from which it was computed"
        );
        let depth = update.levels.len();
        self.levels.resize_with(depth, Vec::new);
        for (nodes, changes) in self.levels.iter_mut().zip(update.levels) {
            for (index, hash) in changes {
                match nodes.get_mut(index as usize) {
                    Some(node) => *node = hash,
                    None => nodes.push(hash),
                }
            }
        }
    }

    /// The siblings of a leaf and of the nodes above it, from the leaf
    /// upwards; `None` if there is no such number.
    pub fn path(&self, number: u32) -> Option<Vec<Hash>> {
        let sibling = |level: usize| {
            let index = (number >> level ^ 1) as usize;
            let node = self.levels[level].get(index).copied();
            node.unwrap_or(PADDING[level])
        };
        (number < self.size()).then(|| (0..depth(self.size())).map(sibling).collect())
    }
}
