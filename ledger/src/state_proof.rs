//! Proofs that the state holds a leaf, or that a table has no such number.
//!
//! The proof carries every table's size and root, hence checks against the
//! state root alone. Presence: `number < size`, the leaf's bytes and its
//! path. Absence: `number >= size` and neither.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, DecodeError, List},
    hash::Hash,
    tree::{MAX_DEPTH, Table, root_from_path, state_root, table_leaf_hash},
};

/// Most bytes of a leaf in a proof.
pub const MAX_LEAF_BYTES: usize = 2 * 1024 * 1024;
/// Most bytes of an encoded proof.
pub const MAX_STATE_PROOF_BYTES: usize =
    1 + 4 + 9 + MAX_LEAF_BYTES + 8 + MAX_DEPTH * 32 + Table::COUNT * 36;

/// What the state says about one number of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateProof {
    /// Which table.
    pub table: Table,
    /// Which number.
    pub number: u32,
    /// The leaf's bytes; `None`: there is no such number.
    pub leaf: Option<List<u8, MAX_LEAF_BYTES>>,
    /// Siblings from the leaf upwards; empty for absence.
    pub path: List<Hash, MAX_DEPTH>,
    /// (size, root) of every table, ascending by table.
    pub tables: [(u32, Hash); Table::COUNT],
}

/// Why a state proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateProofError {
    /// The tables' sizes and roots are not those under the state root.
    #[error("the tables are not those of the state root")]
    StateRoot,
    /// Leaf or path are there without the number, or missing with it.
    #[error("{table:?} has {size} leaves: the proof about number {number} has another form")]
    Form {
        /// Which table.
        table: Table,
        /// Which number.
        number: u32,
        /// The table's size.
        size: u32,
    },
    /// The path leads to another root.
    #[error("leaf {number} of {table:?} is not under the table's root")]
    Leaf {
        /// Which table.
        table: Table,
        /// Which number.
        number: u32,
    },
}

impl StateProof {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_STATE_PROOF_BYTES)
    }

    /// Size of a table; proven once [`Self::verify`] has passed.
    pub fn size(&self, table: Table) -> u32 {
        self.tables[usize::from(table.id()) - 1].0
    }

    /// Checks the proof against a state root. The leaf's bytes, or `None` if
    /// the table provably has no such number.
    pub fn verify(&self, root: &Hash) -> Result<Option<&[u8]>, StateProofError> {
        let StateProof { table, number, .. } = *self;
        let listed: Vec<(Table, u32, Hash)> = Table::ALL
            .into_iter()
            .zip(&self.tables)
            .map(|(table, (size, root))| (table, *size, *root))
            .collect();
        if state_root(&listed) != *root {
            return Err(StateProofError::StateRoot);
        }
        let (size, table_root) = self.tables[usize::from(table.id()) - 1];
        let form = StateProofError::Form {
            table,
            number,
            size,
        };
        match &self.leaf {
            None if number >= size && self.path.is_empty() => Ok(None),
            None => Err(form),
            Some(leaf) => {
                let hash = table_leaf_hash(table, number, leaf);
                let computed = root_from_path(number, size, &hash, &self.path).ok_or(form)?;
                if computed != table_root {
                    return Err(StateProofError::Leaf { table, number });
                }
                Ok(Some(leaf))
            }
        }
    }
}
