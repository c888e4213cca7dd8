//! The block files: every block with its certificate, in order, fsynced
//! before anything follows from it. This is the truth of a node.
//!
//! A folder of segments, `blocks-<first height, 20 digits>`. A segment is a
//! head and records:
//!
//! ```text
//! head, 56:  magic "tallyblk" | version u32 = 1 | chain id 32 |
//!            first height u64 | CRC32C u32 of all before
//! record:    length u32 | CRC32C u32 | bytes
//! bytes:     height u64 | certificate length u32 | certificate | block
//! ```
//!
//! Integers are little-endian; the CRC covers the length and the bytes;
//! certificate and block are canonical encodings; the block may be one of
//! which details were dropped. Heights follow each other without a gap from 1.
//!
//! On opening, a broken end of the last segment is cut off if nothing valid
//! follows it: the write that it belonged to was never acknowledged. Damage
//! anywhere else is an error that says where; nothing is guessed. After a
//! failed write or fsync nothing more is written: what is on the disk is
//! unknown until the file is opened again.

mod rewrite;
mod segment;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use bytes::Bytes;
use tally_ledger::{block::Certificate, crypto::ChainId, ids::Height};

use super::disk::Disk;
pub use rewrite::{Rewriter, Rewritten};
use segment::{Segment, first_of, head};

const MAGIC: &[u8; 8] = b"tallyblk";
const VERSION: u32 = 1;
/// Bytes of a segment's head.
const HEAD_BYTES: u64 = 56;
/// Bytes of a record before its bytes.
const RECORD_HEAD: usize = 8;
/// Bytes before the certificate.
const PREFIX: usize = 12;
/// Most bytes of an encoded certificate.
const MAX_CERTIFICATE: usize = 8 * 1024;
/// Most bytes of a record.
const MAX_RECORD: usize = 64 << 20;

/// A block with its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its height.
    pub height: Height,
    /// A quorum for it.
    pub certificate: Certificate,
    /// Its canonical bytes; or those of what is left of it, if details were
    /// dropped ([`tally_ledger::redacted::StoredBlock`] reads both).
    pub body: Bytes,
}

/// Why the block files cannot be used. Each variant is a thing to do.
#[derive(Debug, thiserror::Error)]
pub enum BlockFileError {
    /// A file cannot be read.
    #[error("{path}: {error}; check the disk and the file's permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// A write failed, most likely for want of room.
    #[error(
        "{path}: writing block {height} failed: {error}; the node stops and the block is not \
         acknowledged. Make room on the disk and start the node again: it cuts what was half \
         written"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Which block.
        height: Height,
        /// What went wrong.
        error: io::Error,
    },
    /// An fsync failed: what is on the disk is unknown.
    #[error(
        "{path}: making block {height} durable failed: {error}; the node stops and the block is \
         not acknowledged. Check the disk's health, then start the node again: it reads what is \
         there"
    )]
    Sync {
        /// The file.
        path: PathBuf,
        /// Which block.
        height: Height,
        /// What went wrong.
        error: io::Error,
    },
    /// A write or fsync failed before.
    #[error("the block files are closed since a write failed; start the node again")]
    Closed,
    /// A file is damaged where no crash can have done it.
    #[error(
        "{path} is damaged at byte {offset}, in block {height}: {why}. Nothing was changed. Check \
         the disk; then move this file and all later ones of its folder away and delete \
         data/snapshots, data/log and data/index: the node takes these blocks again from the \
         other validators"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// In which block.
        height: Height,
        /// What is wrong.
        why: &'static str,
    },
    /// A segment is missing, or one too many is there.
    #[error(
        "{path} begins with block {found}, but block {wanted} should be next; put the missing \
         files back, or move this and all later ones away"
    )]
    Gap {
        /// The file.
        path: PathBuf,
        /// Where it begins.
        found: Height,
        /// Where it should.
        wanted: Height,
    },
    /// A file cannot be written again without what was dropped.
    #[error(
        "{path} cannot be written again without the details that go: {error}; it is as it was. \
         Make room on the disk, as much as the file has, and try again"
    )]
    Rewrite {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// A segment of another chain.
    #[error("{path} belongs to another chain than the genesis; use the home of that chain")]
    OtherChain {
        /// The file.
        path: PathBuf,
    },
}

/// What was cut off, or passed over, on opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub path: PathBuf,
    /// From where.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The block that was being written.
    pub height: Height,
}

/// Reads blocks; cheap to clone, from any thread.
#[derive(Debug, Clone)]
pub struct BlockReader(Arc<RwLock<Vec<Arc<Segment>>>>);

/// The open block files; one owner writes.
#[derive(Debug)]
pub struct BlockFiles {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    chain: ChainId,
    segment_bytes: u64,
    reader: BlockReader,
    last: Height,
    closed: bool,
    /// The next block begins a file.
    full: bool,
}

/// CRC of a record: its length and its bytes.
fn crc(length: u32, parts: &[&[u8]]) -> u32 {
    let start = crc32c::crc32c(&length.to_le_bytes());
    parts
        .iter()
        .fold(start, |crc, part| crc32c::crc32c_append(crc, part))
}

/// What to do with a broken end of the last segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torn {
    /// Cut it off, durably; and remove what is left of files that were being
    /// written again.
    Cut,
    /// Pass over it.
    Leave,
}

/// Opens the segments of a folder; the last height in them, and what was cut
/// off or passed over.
fn open_segments(
    disk: &dyn Disk,
    folder: &Path,
    chain: &ChainId,
    torn: Torn,
) -> Result<(BlockReader, Height, Option<Cut>), BlockFileError> {
    let read = |error| BlockFileError::Read {
        path: folder.into(),
        error,
    };
    let paths = disk.list(folder).map_err(read)?;
    if torn == Torn::Cut {
        rewrite::remove_half_written(disk, &paths).map_err(read)?;
    }
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for (first, path) in paths
        .iter()
        .filter_map(|path| Some((first_of(path)?, path)))
    {
        let segment = Segment::open(disk, path, first, chain)?;
        if let Some(before) = segments.last() {
            before.seal(first);
        }
        segments.push(Arc::new(segment));
    }
    if let Some(first) = segments.first().filter(|segment| segment.first.0 != 1) {
        return Err(BlockFileError::Gap {
            path: first.path.clone(),
            found: first.first,
            wanted: Height(1),
        });
    }
    let (mut last, mut cut) = (Height(0), None);
    if let Some(segment) = segments.last() {
        cut = segment.recover(torn)?;
        last = segment.last()?;
    }
    Ok((BlockReader(Arc::new(RwLock::new(segments))), last, cut))
}

impl BlockFiles {
    /// Opens the files of a folder, which may be empty. Says what was cut
    /// off, if anything.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        chain: ChainId,
        segment_bytes: u64,
    ) -> Result<(Self, Option<Cut>), BlockFileError> {
        let (reader, last, cut) = open_segments(disk.as_ref(), folder, &chain, Torn::Cut)?;
        let files = Self {
            disk,
            folder: folder.into(),
            chain,
            segment_bytes,
            reader,
            last,
            closed: false,
            full: false,
        };
        Ok((files, cut))
    }

    /// Height of the last block; 0: none.
    pub fn last(&self) -> Height {
        self.last
    }

    /// For whoever reads.
    pub fn reader(&self) -> BlockReader {
        self.reader.clone()
    }

    /// The next block begins a new file, whatever the last one's size.
    pub fn begin_file(&mut self) {
        self.full = true;
    }

    /// For whoever writes files again of which details were dropped, beside
    /// this.
    pub fn rewriter(&self) -> Rewriter {
        Rewriter::new(
            self.disk.clone(),
            self.folder.clone(),
            self.chain,
            self.reader.clone(),
        )
    }

    /// Adds the next block. It is durable when this returns.
    ///
    /// # Panics
    /// If `height` is not the next.
    pub fn append(
        &mut self,
        height: Height,
        certificate: &Certificate,
        body: &[u8],
    ) -> Result<(), BlockFileError> {
        assert_eq!(height.0, self.last.0 + 1, "blocks are written in order");
        if self.closed {
            return Err(BlockFileError::Closed);
        }
        self.closed = true;
        let segment = self.segment_for(height)?;
        segment.append(height, certificate, body)?;
        self.last = height;
        self.closed = false;
        Ok(())
    }

    /// The segment to write to: the last, or a new one if that is full.
    fn segment_for(&mut self, height: Height) -> Result<Arc<Segment>, BlockFileError> {
        let last = self.reader.last_segment();
        let most = if self.full {
            HEAD_BYTES + 1
        } else {
            self.segment_bytes
        };
        if let Some(last) = last.filter(|last| last.end() < most) {
            return Ok(last);
        }
        self.full = false;
        let segment = Arc::new(self.create(height)?);
        let mut segments = self
            .reader
            .0
            .write()
            .expect("nobody panics while it is locked");
        if let Some(before) = segments.last() {
            before.seal(height);
        }
        segments.push(segment.clone());
        Ok(segment)
    }

    /// Makes a segment; it appears under its name with its head, or not.
    fn create(&self, first: Height) -> Result<Segment, BlockFileError> {
        let path = self.folder.join(segment::file_name(first));
        let temporary = self.folder.join("new");
        let write = |error| BlockFileError::Write {
            path: path.clone(),
            height: first,
            error,
        };
        let sync = |error| BlockFileError::Sync {
            path: path.clone(),
            height: first,
            error,
        };
        let file = self.disk.open(&temporary, true).map_err(write)?;
        file.set_len(0).map_err(write)?;
        file.write_at(&head(&self.chain, first), 0).map_err(write)?;
        file.sync().map_err(sync)?;
        self.disk.rename(&temporary, &path).map_err(write)?;
        self.disk.sync_folder(&self.folder).map_err(sync)?;
        Ok(Segment::new(path, first, file))
    }
}

impl BlockReader {
    /// Opens the files of a folder to read them only: nothing is changed, and
    /// a node may be writing to them. The last whole block's height, and the
    /// broken end after it that was passed over, if there is one.
    pub fn open(
        disk: &dyn Disk,
        folder: &Path,
        chain: &ChainId,
    ) -> Result<(Self, Height, Option<Cut>), BlockFileError> {
        open_segments(disk, folder, chain, Torn::Leave)
    }

    /// The block of a height; `None` above the last.
    pub fn read(&self, height: Height) -> Result<Option<Record>, BlockFileError> {
        match self.segment_of(height) {
            Some(segment) => segment.read(height),
            None => Ok(None),
        }
    }

    /// Reads every file in full and checks every CRC and height.
    pub fn verify(&self) -> Result<(), BlockFileError> {
        let segments = self
            .0
            .read()
            .expect("nobody panics while it is locked")
            .clone();
        segments
            .iter()
            .try_for_each(|segment| segment.verify().map(drop))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let segments = self.0.read().expect("nobody panics while it is locked");
        segments.iter().map(|segment| segment.bytes()).sum()
    }

    /// (First height, last height) of each file, ascending, up to the one that
    /// is written to, which has no last height yet.
    pub fn files(&self) -> Vec<(Height, Option<Height>)> {
        let segments = self.0.read().expect("nobody panics while it is locked");
        let range = |segment: &Arc<Segment>| (segment.first, segment.sealed_at());
        segments.iter().map(range).collect()
    }

    /// Last height of the file that begins with `first`; the one before it if
    /// it has no block yet.
    pub fn last_of(&self, first: Height) -> Result<Height, BlockFileError> {
        let segment = self.segment_of(first);
        segment.map_or(Ok(Height(first.0 - 1)), |segment| segment.last())
    }

    fn last_segment(&self) -> Option<Arc<Segment>> {
        let segments = self.0.read().expect("nobody panics while it is locked");
        segments.last().cloned()
    }

    fn segment_of(&self, height: Height) -> Option<Arc<Segment>> {
        let segments = self.0.read().expect("nobody panics while it is locked");
        let after = segments.partition_point(|segment| segment.first <= height);
        segments.get(after.checked_sub(1)?).cloned()
    }
}

#[cfg(test)]
mod tests;
