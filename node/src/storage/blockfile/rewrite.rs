//! Writing a file of blocks again with other bodies for some of its blocks:
//! what is left of them once details were dropped.
//!
//! The new file is written under another name, fsynced, read back, and
//! renamed onto the old one; then the folder is fsynced. So at every moment
//! there is one whole file under the name, the old or the new one, and a
//! crash costs nothing but what was half written, which the next start
//! removes. Whoever reads the old file meanwhile reads on in it; so do all
//! until the folder is fsynced, so that after an error the same is done again.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tally_ledger::{crypto::ChainId, ids::Height};

use super::{
    BlockFileError, BlockReader,
    segment::{Segment, head},
};
use crate::storage::disk::Disk;

/// Name of a file that is being written.
const TEMPORARY: &str = "redacted";

/// Writes files of blocks again, beside the one who appends.
#[derive(Debug, Clone)]
pub struct Rewriter {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    chain: ChainId,
    reader: BlockReader,
}

/// A file before and after, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// Removes what a crash left half written.
pub(super) fn remove_half_written(disk: &dyn Disk, paths: &[PathBuf]) -> io::Result<()> {
    let mut half = paths
        .iter()
        .filter(|path| path.file_name().is_some_and(|name| name == TEMPORARY));
    half.try_for_each(|path| disk.remove(path))
}

impl Rewriter {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        chain: ChainId,
        reader: BlockReader,
    ) -> Self {
        Self {
            disk,
            folder,
            chain,
            reader,
        }
    }

    /// For whoever plans what to write.
    pub fn reader(&self) -> &BlockReader {
        &self.reader
    }

    /// Writes the file that begins with `first` again, with these bodies
    /// instead of those of the same heights. The last file, which is written
    /// to, must not be appended to meanwhile.
    pub fn rewrite(
        &self,
        first: Height,
        bodies: &BTreeMap<Height, Bytes>,
    ) -> Result<Rewritten, BlockFileError> {
        let old = self.reader.segment_of(first);
        let old = old.filter(|segment| segment.first == first);
        let old = old.expect("a file that the reader names");
        let last = old.last()?;
        let new = self.write(&old, last, bodies)?;
        let failed = |error| old.rewrite_error(error);
        self.disk
            .rename(&self.temporary(), &old.path)
            .map_err(failed)?;
        let sizes = Rewritten {
            before: old.bytes(),
            after: new.bytes(),
        };
        self.disk.sync_folder(&self.folder).map_err(failed)?;
        self.reader.replace(Arc::new(new));
        Ok(sizes)
    }

    /// Makes every rename durable, also one before a crash, after which there
    /// is nothing to write again: before it is said that details are gone.
    pub fn sync(&self) -> Result<(), BlockFileError> {
        let synced = self.disk.sync_folder(&self.folder);
        synced.map_err(|error| BlockFileError::Rewrite {
            path: self.folder.clone(),
            error,
        })
    }

    fn temporary(&self) -> PathBuf {
        self.folder.join(TEMPORARY)
    }

    /// The new file under its temporary name, durable and read back.
    fn write(
        &self,
        old: &Segment,
        last: Height,
        bodies: &BTreeMap<Height, Bytes>,
    ) -> Result<Segment, BlockFileError> {
        let create = |path: &Path| -> io::Result<_> {
            let file = self.disk.open(path, true)?;
            file.set_len(0)?;
            file.write_at(&head(&self.chain, old.first), 0)?;
            Ok(file)
        };
        let file = create(&self.temporary()).map_err(|error| old.rewrite_error(error))?;
        let new = Segment::new(old.path.clone(), old.first, file);
        if let Some(next) = old.next() {
            new.seal(next);
        }
        for height in old.first.0..=last.0 {
            let mut record = old.read(Height(height))?.expect("up to the last");
            if let Some(body) = bodies.get(&Height(height)) {
                record.body = body.clone();
            }
            new.add(&record)?;
        }
        new.sync()?;
        let offsets = new.verify()?;
        assert_eq!(offsets.len() as u64, last.0 - old.first.0 + 2, "all blocks");
        Ok(new)
    }
}

impl BlockReader {
    /// Readers find this file from now on instead of the one of its height.
    fn replace(&self, new: Arc<Segment>) {
        let mut segments = self.0.write().expect("nobody panics while it is locked");
        let at = segments.partition_point(|segment| segment.first < new.first);
        // It may have been sealed since it was copied.
        if let Some(next) = segments[at].next() {
            new.seal(next);
        }
        segments[at] = new;
    }
}
