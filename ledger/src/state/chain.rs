//! The chain's own leaf (table 1, number 0).

use serde::{Deserialize, Serialize};

use crate::ids::TableVersion;

/// Version of the rules in this crate.
pub const PROTOCOL: u32 = 1;

/// Counts that make completeness provable, and what is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Entries in the log.
    pub entries: u64,
    /// Control entries; the last one's number.
    pub controls: u64,
    /// Version of the rules: [`PROTOCOL`].
    pub protocol: u32,
    /// Price table in force in this block. If table 9 is larger, its last
    /// version comes into force in the next block.
    pub table: TableVersion,
}
