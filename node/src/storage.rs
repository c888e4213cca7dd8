//! What a node has on disk.
//!
//! The block files are the truth. Entries, index and snapshots are derived
//! from them by replay and may be deleted at any time.

pub mod blockfile;
pub mod disk;
pub mod index;
pub mod logfile;
pub mod snapshots;

pub use blockfile::{BlockFiles, BlockReader, Record};
pub use disk::{Disk, DiskFile, ReadOnlyDisk, RealDisk};
pub use index::{Index, IndexReader};
pub use logfile::{LogFiles, LogReader, LogWalk};
pub use snapshots::Snapshots;
