//! What a node has on disk.
//!
//! The block files are the truth. Entries, index and snapshots are derived
//! from them by replay and may be deleted at any time.

pub mod blockfile;
pub mod disk;

pub use blockfile::{BlockFiles, BlockReader, Record};
pub use disk::{Disk, DiskFile, RealDisk};
