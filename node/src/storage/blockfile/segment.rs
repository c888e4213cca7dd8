//! One file of blocks.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use bytes::Bytes;
use tally_ledger::{block::Certificate, codec, crypto::ChainId, ids::Height};

use super::{
    BlockFileError, Cut, HEAD_BYTES, MAGIC, MAX_CERTIFICATE, MAX_RECORD, PREFIX, RECORD_HEAD,
    Record, Torn, VERSION, crc,
};
use crate::storage::disk::{Disk, DiskFile};

/// How far ahead a height may be in a record that follows a broken one.
const HEIGHTS_AHEAD: u64 = 1 << 20;

/// One file of blocks.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: Height,
    file: Box<dyn DiskFile>,
    /// First height of the next segment, once there is one.
    next: OnceLock<Height>,
    /// Where each record begins, and where the last one ends; `None` until
    /// the first use.
    offsets: Mutex<Option<Vec<u64>>>,
}

/// What a look at all of a file finds.
struct Scan {
    offsets: Vec<u64>,
    /// Why there is no further record, if not because the file ends.
    broken: Option<&'static str>,
}

/// The head of a segment.
pub(super) fn head(chain: &ChainId, first: Height) -> [u8; HEAD_BYTES as usize] {
    let mut head = Vec::with_capacity(HEAD_BYTES as usize);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&chain.0.0);
    head.extend_from_slice(&first.0.to_le_bytes());
    head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    head.try_into().expect("the fields fill the head")
}

/// The name of a segment.
pub(super) fn file_name(first: Height) -> String {
    format!("blocks-{:020}", first.0)
}

/// The first height that a segment's name says.
pub(super) fn first_of(path: &Path) -> Option<Height> {
    let digits = path.file_name()?.to_str()?.strip_prefix("blocks-")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Height))?
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().expect("four bytes")))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().expect("eight bytes")))
}

/// The height of the record that begins at `at`, and its end; or why there is
/// none. `most` is the largest height that makes looking further worthwhile.
fn record_at(bytes: &[u8], at: usize, most: u64) -> Result<(u64, usize), &'static str> {
    let length = u32_at(bytes, at).ok_or("the file ends within a record's head")?;
    if !(PREFIX..=MAX_RECORD).contains(&(length as usize)) {
        return Err("a record's length is out of its range");
    }
    let end = at + RECORD_HEAD + length as usize;
    let data = bytes
        .get(at + RECORD_HEAD..end)
        .ok_or("the file ends within a record")?;
    let height = u64_at(data, 0).expect("a record has its prefix");
    if height > most {
        return Err("a height does not follow the one before");
    }
    if u32_at(bytes, at + 4) != Some(crc(length, &[data])) {
        return Err("a record's checksum is wrong");
    }
    Ok((height, end))
}

impl Segment {
    pub(super) fn new(path: PathBuf, first: Height, file: Box<dyn DiskFile>) -> Self {
        Self {
            path,
            first,
            file,
            next: OnceLock::new(),
            offsets: Mutex::new(Some(vec![HEAD_BYTES])),
        }
    }

    /// Opens a file and checks its head.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        first: Height,
        chain: &ChainId,
    ) -> Result<Self, BlockFileError> {
        let read = |error| BlockFileError::Read {
            path: path.into(),
            error,
        };
        let file = disk.open(path, false).map_err(read)?;
        let mut bytes = [0; HEAD_BYTES as usize];
        let whole = file.len().map_err(read)? >= HEAD_BYTES;
        if whole {
            file.read_at(&mut bytes, 0).map_err(read)?;
        }
        if bytes != head(chain, first) {
            let sound = bytes[52..] == crc32c::crc32c(&bytes[..52]).to_le_bytes();
            if whole && sound && bytes[..8] == *MAGIC && bytes[12..44] != chain.0.0 {
                return Err(BlockFileError::OtherChain { path: path.into() });
            }
            return Err(BlockFileError::Damaged {
                path: path.into(),
                offset: 0,
                height: first,
                why: "the file's head is broken",
            });
        }
        let segment = Self::new(path.into(), first, file);
        *segment
            .offsets
            .lock()
            .expect("nobody panics while it is locked") = None;
        Ok(segment)
    }

    /// There is a next segment: this one ends before that one's first block.
    pub(super) fn seal(&self, next: Height) {
        // Set once: segments are never removed while they are open.
        let _ = self.next.set(next);
    }

    /// Its last height, if it is sealed.
    pub(super) fn sealed_at(&self) -> Option<Height> {
        self.next.get().map(|next| Height(next.0 - 1))
    }

    /// The next segment's first height, if there is one.
    pub(super) fn next(&self) -> Option<Height> {
        self.next.get().copied()
    }

    fn read_error(&self, error: io::Error) -> BlockFileError {
        BlockFileError::Read {
            path: self.path.clone(),
            error,
        }
    }

    fn damaged(&self, offset: u64, height: u64, why: &'static str) -> BlockFileError {
        BlockFileError::Damaged {
            path: self.path.clone(),
            offset,
            height: Height(height),
            why,
        }
    }

    fn content(&self) -> Result<Vec<u8>, BlockFileError> {
        let length = self.file.len().map_err(|e| self.read_error(e))?;
        let mut bytes = vec![0; usize::try_from(length).expect("a 64-bit machine")];
        self.file
            .read_at(&mut bytes, 0)
            .map_err(|e| self.read_error(e))?;
        Ok(bytes)
    }

    /// Follows the records from the head on.
    fn scan(&self, bytes: &[u8]) -> Scan {
        let mut offsets = vec![HEAD_BYTES];
        let mut at = HEAD_BYTES as usize;
        while at < bytes.len() {
            let height = self.first.0 + offsets.len() as u64 - 1;
            match record_at(bytes, at, height) {
                Ok((found, end)) if found == height => {
                    offsets.push(end as u64);
                    at = end;
                }
                Ok(_) => {
                    let broken = Some("a height does not follow the one before");
                    return Scan { offsets, broken };
                }
                Err(why) => {
                    let broken = Some(why);
                    return Scan { offsets, broken };
                }
            }
        }
        Scan {
            offsets,
            broken: None,
        }
    }

    /// Reads the last segment; cuts a torn end off, or passes over it.
    pub(super) fn recover(&self, torn: Torn) -> Result<Option<Cut>, BlockFileError> {
        let bytes = self.content()?;
        let Scan { offsets, broken } = self.scan(&bytes);
        let end = *offsets.last().expect("there is one at least");
        let height = self.first.0 + offsets.len() as u64 - 1;
        let mut cut = None;
        if let Some(why) = broken {
            let most = height.saturating_add(HEIGHTS_AHEAD);
            let rest = end as usize..bytes.len();
            let follows =
                |at: usize| matches!(record_at(&bytes, at, most), Ok((h, _)) if h >= height);
            if rest.clone().any(follows) {
                return Err(self.damaged(end, height, why));
            }
            if torn == Torn::Cut {
                self.cut_at(end, Height(height))?;
            }
            cut = Some(Cut {
                path: self.path.clone(),
                offset: end,
                bytes: bytes.len() as u64 - end,
                height: Height(height),
            });
        }
        *self
            .offsets
            .lock()
            .expect("nobody panics while it is locked") = Some(offsets);
        Ok(cut)
    }

    fn cut_at(&self, end: u64, height: Height) -> Result<(), BlockFileError> {
        let cut = self.file.set_len(end).and_then(|()| self.file.sync());
        cut.map_err(|error| BlockFileError::Sync {
            path: self.path.clone(),
            height,
            error,
        })
    }

    /// Reads a sealed segment in full; it must end where the next begins.
    pub(super) fn verify(&self) -> Result<Vec<u64>, BlockFileError> {
        let bytes = self.content()?;
        let Scan { offsets, broken } = self.scan(&bytes);
        let end = *offsets.last().expect("there is one at least");
        let height = self.first.0 + offsets.len() as u64 - 1;
        if let Some(why) = broken {
            return Err(self.damaged(end, height, why));
        }
        match self.next.get() {
            Some(next) if next.0 > height => {
                Err(self.damaged(end, height, "blocks are missing before the next file"))
            }
            Some(next) if next.0 < height => {
                Err(self.damaged(end, height, "the next file begins with a block of this one"))
            }
            _ => Ok(offsets),
        }
    }

    fn with_offsets<R>(
        &self,
        use_them: impl FnOnce(&mut Vec<u64>) -> R,
    ) -> Result<R, BlockFileError> {
        let mut offsets = self
            .offsets
            .lock()
            .expect("nobody panics while it is locked");
        if offsets.is_none() {
            *offsets = Some(self.verify()?);
        }
        Ok(use_them(offsets.as_mut().expect("filled above")))
    }

    /// Height of the last block; that before the first, if it is empty.
    pub(super) fn last(&self) -> Result<Height, BlockFileError> {
        self.with_offsets(|offsets| Height(self.first.0 + offsets.len() as u64 - 2))
    }

    /// Where the next record goes.
    pub(super) fn end(&self) -> u64 {
        let offsets = self
            .offsets
            .lock()
            .expect("nobody panics while it is locked");
        offsets
            .as_ref()
            .and_then(|offsets| offsets.last().copied())
            .unwrap_or(0)
    }

    /// Its length on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    /// Writes a record at the end, durably; on an error the file must not be
    /// written again.
    pub(super) fn append(
        &self,
        height: Height,
        certificate: &Certificate,
        body: &[u8],
    ) -> Result<(), BlockFileError> {
        let write = |error| BlockFileError::Write {
            path: self.path.clone(),
            height,
            error,
        };
        let at = self.end();
        assert!(at >= HEAD_BYTES, "only a recovered file is written to");
        let end = self.write(at, height, certificate, body).map_err(write)?;
        self.file.sync().map_err(|error| BlockFileError::Sync {
            path: self.path.clone(),
            height,
            error,
        })?;
        self.with_offsets(|offsets| offsets.push(end))
    }

    /// Writes a record at an offset, not durably; where it ends.
    fn write(
        &self,
        at: u64,
        height: Height,
        certificate: &Certificate,
        body: &[u8],
    ) -> io::Result<u64> {
        let certificate = codec::encode(certificate);
        let mut prefix = Vec::with_capacity(RECORD_HEAD + PREFIX + certificate.len());
        let length = PREFIX + certificate.len() + body.len();
        assert!(
            certificate.len() <= MAX_CERTIFICATE && length <= MAX_RECORD,
            "blocks and certificates are bounded"
        );
        let length = length as u32;
        prefix.extend_from_slice(&length.to_le_bytes());
        prefix.extend_from_slice(&[0; 4]);
        prefix.extend_from_slice(&height.0.to_le_bytes());
        prefix.extend_from_slice(&(certificate.len() as u32).to_le_bytes());
        prefix.extend_from_slice(&certificate);
        let crc = crc(length, &[&prefix[RECORD_HEAD..], body]);
        prefix[4..8].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(&prefix, at)?;
        self.file.write_at(body, at + prefix.len() as u64)?;
        Ok(at + (prefix.len() + body.len()) as u64)
    }

    /// Adds a record to a file that nobody else sees yet, not durably.
    pub(super) fn add(&self, record: &Record) -> Result<(), BlockFileError> {
        let end = self
            .write(self.end(), record.height, &record.certificate, &record.body)
            .map_err(|error| self.rewrite_error(error))?;
        self.with_offsets(|offsets| offsets.push(end))
    }

    /// Makes what was added durable.
    pub(super) fn sync(&self) -> Result<(), BlockFileError> {
        self.file.sync().map_err(|error| self.rewrite_error(error))
    }

    pub(super) fn rewrite_error(&self, error: io::Error) -> BlockFileError {
        BlockFileError::Rewrite {
            path: self.path.clone(),
            error,
        }
    }

    /// Reads the block of a height; `None` above the last.
    pub(super) fn read(&self, height: Height) -> Result<Option<Record>, BlockFileError> {
        let index = (height.0 - self.first.0) as usize;
        let range =
            self.with_offsets(|offsets| Some((*offsets.get(index)?, *offsets.get(index + 1)?)))?;
        let Some((start, end)) = range else {
            return Ok(None);
        };
        let mut bytes = vec![0; (end - start) as usize];
        self.file
            .read_at(&mut bytes, start)
            .map_err(|e| self.read_error(e))?;
        let damaged = |why| self.damaged(start, height.0, why);
        let (found, _) = record_at(&bytes, 0, height.0).map_err(damaged)?;
        let data = Bytes::from(bytes).slice(RECORD_HEAD..);
        let length = u32_at(&data, 8).expect("a record has its prefix") as usize;
        if found != height.0 || length > MAX_CERTIFICATE || PREFIX + length > data.len() {
            return Err(damaged("a record's prefix is wrong"));
        }
        let certificate = codec::decode(&data[PREFIX..PREFIX + length], MAX_CERTIFICATE)
            .map_err(|_| damaged("a certificate has another form"))?;
        Ok(Some(Record {
            height,
            certificate,
            body: data.slice(PREFIX + length..),
        }))
    }
}
