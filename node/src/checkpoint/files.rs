//! What a node keeps of checkpoints, in `HOME/checkpoints`: notes that anybody
//! can read. Each is replaced as a whole, fsynced before the change counts.
//!
//! ```text
//! signed                    the head that this validator signed last
//! latest                    the newest checkpoint with a quorum, cosigned
//! conflict-<validator>      a head that is not of this node's log, with that
//!                           validator's signature: evidence, kept for good
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tally_ledger::note::{MAX_NOTE_BYTES, Note};

use crate::storage::{Disk, disk::replace};

/// The head that this validator signed last.
pub(crate) const SIGNED: &str = "signed";
/// The newest checkpoint with a quorum.
pub(crate) const LATEST: &str = "latest";

/// The folder.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
}

/// One of its files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct FileFault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub why: String,
}

impl Files {
    /// Opens the folder, made if it is missing.
    pub(crate) fn open(disk: Arc<dyn Disk>, folder: PathBuf) -> Result<Self, FileFault> {
        let files = Self { disk, folder };
        let listed = files.disk.list(&files.folder).map(|_| ());
        files.checked(&files.folder, listed)?;
        Ok(files)
    }

    fn checked<T>(&self, path: &Path, result: io::Result<T>) -> Result<T, FileFault> {
        result.map_err(|error| FileFault {
            path: path.to_owned(),
            why: format!("{error}; make room and check the disk, then start the node again"),
        })
    }

    /// Reads a note; `None`: there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Note>, FileFault> {
        let path = self.folder.join(name);
        let known = self.checked(&self.folder, self.disk.list(&self.folder))?;
        if !known.contains(&path) {
            return Ok(None);
        }
        let read = || {
            let file = self.disk.open(&path, false)?;
            let length = file.len()?.min(MAX_NOTE_BYTES as u64 + 1);
            let mut bytes = vec![0; length as usize];
            file.read_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes = self.checked(&path, read())?;
        let note = Note::parse(&bytes).map_err(|error| self.damaged(name, &error.to_string()))?;
        Ok(Some(note))
    }

    /// A file's content is not what this node wrote.
    pub(crate) fn damaged(&self, name: &str, why: &str) -> FileFault {
        let todo = match name {
            SIGNED => {
                "keep it, it is all that keeps this validator from signing two roots of one \
                 size. Bring back the whole file; else compare this node's log with the newest \
                 head that the others have of this validator (`tally checkpoint compare`), and \
                 set the file aside only if it is one history"
            }
            LATEST => "move it away; it is made again from the blocks and what the others sign",
            _ => "it is evidence: keep it elsewhere, and what is left of it",
        };
        FileFault {
            path: self.folder.join(name),
            why: format!("is damaged ({why}): check the disk; {todo}"),
        }
    }

    /// Writes a note durably.
    pub(crate) fn write(&self, name: &str, note: &Note) -> Result<(), FileFault> {
        let path = self.folder.join(name);
        let bytes = note.to_string();
        let temporary = self.folder.join("new");
        let written = replace(self.disk.as_ref(), &path, &temporary, bytes.as_bytes());
        self.checked(&path, written)
    }
}
