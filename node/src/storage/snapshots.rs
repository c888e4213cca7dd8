//! Snapshots of the state, so that a start does not execute all of history.
//!
//! A file `snapshot-<height, 20 digits>` holds what the ledger's
//! `State::snapshot` gives, which carries its own hash. It is written under
//! another name, fsynced and renamed: it is there in full or not at all. One
//! that cannot be used is passed over; without any, the node starts from the
//! genesis.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tally_ledger::{genesis::Genesis, ids::Height, state::State};
use tracing::warn;

use super::disk::{Disk, replace};

/// The folder of snapshots.
#[derive(Debug, Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    kept: usize,
}

/// A snapshot cannot be written or listed.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}; make room and check the disk, then start the node again")]
pub struct SnapshotFileError {
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    pub error: io::Error,
}

/// The name of a height's file.
pub(crate) fn file_name(height: Height) -> String {
    format!("snapshot-{:020}", height.0)
}

fn height_of(path: &Path) -> Option<Height> {
    let digits = path.file_name()?.to_str()?.strip_prefix("snapshot-")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Height))?
}

impl Snapshots {
    /// The snapshots in a folder, of which the last `kept` stay.
    pub fn new(disk: Arc<dyn Disk>, folder: PathBuf, kept: usize) -> Self {
        Self {
            disk,
            folder,
            kept: kept.max(1),
        }
    }

    fn error(&self, error: io::Error) -> SnapshotFileError {
        SnapshotFileError {
            path: self.folder.clone(),
            error,
        }
    }

    /// Heights of the snapshots, latest first.
    pub fn heights(&self) -> Result<Vec<Height>, SnapshotFileError> {
        let files = self.disk.list(&self.folder).map_err(|e| self.error(e))?;
        let mut heights: Vec<_> = files.iter().filter_map(|path| height_of(path)).collect();
        heights.sort_unstable_by(|a, b| b.cmp(a));
        Ok(heights)
    }

    fn path(&self, height: Height) -> PathBuf {
        self.folder.join(file_name(height))
    }

    /// Reads one; `None` if it cannot be used, which is logged.
    pub fn read(&self, genesis: &Genesis, height: Height) -> Option<State> {
        let path = self.path(height);
        let read = || -> Result<State, Box<dyn std::error::Error>> {
            let file = self.disk.open(&path, false)?;
            let mut bytes = vec![0; usize::try_from(file.len()?)?];
            file.read_at(&mut bytes, 0)?;
            let state = State::from_snapshot(genesis, &bytes)?;
            if state.height() != height {
                return Err("it is of another height than its name".into());
            }
            Ok(state)
        };
        match read() {
            Ok(state) => Some(state),
            Err(error) => {
                warn!(path = %path.display(), %error, "snapshot passed over");
                None
            }
        }
    }

    /// Writes one durably, and removes old ones.
    pub fn write(&self, height: Height, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        let write = || -> io::Result<()> {
            self.disk.list(&self.folder)?;
            let temporary = self.folder.join("new");
            replace(self.disk.as_ref(), &self.path(height), &temporary, bytes)
        };
        write().map_err(|e| self.error(e))?;
        for old in self.heights()?.into_iter().skip(self.kept) {
            self.disk
                .remove(&self.path(old))
                .map_err(|e| self.error(e))?;
        }
        Ok(())
    }
}
