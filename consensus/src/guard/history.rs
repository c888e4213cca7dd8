//! Everything that was signed at the height of the last signature.
//!
//! After a crash the engine replays its log and derives its own messages
//! again. One that it derived in an earlier replay is not in its log: what is
//! signed during a replay is never logged. So the guard may be asked again
//! for what it signed long before its last message, and must know that it is
//! the same. Nothing but equal bytes is ever allowed by what is found here.
//!
//! Records in the guard file, from 8192 on, written before the slot and made
//! durable with it:
//!
//! ```text
//!   0   8  height
//!   8   4  round
//!  12   1  step
//!  13   1  length of the bytes
//!  14  64  the bytes that were signed, zero-padded
//!  78   4  CRC32C of all before
//! ```
//!
//! A crash may leave a record whose slot was not written, and whose message
//! was never signed. It is above the last signature; it is erased when the
//! file is opened, before anything else is signed.

use std::io;

use tally_ledger::ids::Height;

use super::{MAX_MESSAGE, Reader};
use crate::disk::DiskFile;

const OFFSET: u64 = 8192;
const BYTES: usize = 82;
/// Records kept; what is signed after so many at one height is not recorded.
const MOST: usize = 4096;

/// A height, a round, a step, as numbers.
pub(super) type Place = (Height, u32, u8);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    place: Place,
    bytes: Vec<u8>,
}

/// What was signed at one height, in order.
#[derive(Debug, Default)]
pub(super) struct History(Vec<Record>);

impl History {
    /// Reads what belongs to the last signature, `signed`, and makes the
    /// file's records exactly that.
    pub(super) fn open(file: &dyn DiskFile, signed: Place, bytes: &[u8]) -> io::Result<Self> {
        let mut history = Self::default();
        let all = signed.2 == u8::MAX || signed.0 == Height(0);
        let mut end = 0;
        while let Some(record) = read(file, end)? {
            let last = history.0.last();
            let follows = last.is_none_or(|last| last.place < record.place);
            let was_signed =
                record.place < signed || record.place == signed && record.bytes == bytes;
            if all || record.place.0 != signed.0 || !follows || !was_signed {
                break;
            }
            history.0.push(record);
            end += 1;
        }
        let mut changed = false;
        while let Some(record) = read(file, end)?
            && record.place.0 == signed.0
        {
            file.write_at(&[0; BYTES], at(end))?;
            (changed, end) = (true, end + 1);
        }
        if !all && history.0.last().is_none_or(|last| last.place != signed) {
            history.push(file, signed, bytes)?;
            changed = true;
        }
        if changed {
            file.sync()?;
        }
        Ok(history)
    }

    /// Whether exactly this was signed there.
    pub(super) fn holds(&self, place: Place, bytes: &[u8]) -> bool {
        let found = self.0.binary_search_by_key(&place, |record| record.place);
        found.is_ok_and(|index| self.0[index].bytes == bytes)
    }

    /// Adds what is signed next; the caller syncs. A new height begins anew.
    pub(super) fn push(
        &mut self,
        file: &dyn DiskFile,
        place: Place,
        bytes: &[u8],
    ) -> io::Result<()> {
        if self.0.last().is_some_and(|last| last.place.0 != place.0) {
            self.clear();
        }
        if self.0.len() >= MOST {
            return Ok(());
        }
        let record = Record {
            place,
            bytes: bytes.to_vec(),
        };
        file.write_at(&encode(&record), at(self.0.len()))?;
        self.0.push(record);
        Ok(())
    }

    /// Nothing of it counts any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn at(index: usize) -> u64 {
    OFFSET + (index * BYTES) as u64
}

fn encode(record: &Record) -> [u8; BYTES] {
    let mut out = Vec::with_capacity(BYTES);
    out.extend_from_slice(&record.place.0.0.to_le_bytes());
    out.extend_from_slice(&record.place.1.to_le_bytes());
    out.push(record.place.2);
    out.push(record.bytes.len() as u8);
    out.extend_from_slice(&record.bytes);
    out.resize(14 + MAX_MESSAGE, 0);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.try_into().expect("the fields add up to a record")
}

/// A record; `None` if there is none that is readable.
fn read(file: &dyn DiskFile, index: usize) -> io::Result<Option<Record>> {
    let mut bytes = [0; BYTES];
    match file.read_at(&mut bytes, at(index)) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let (body, crc) = bytes.split_at(BYTES - 4);
    if index >= MOST || crc != crc32c::crc32c(body).to_le_bytes() {
        return Ok(None);
    }
    let mut reader = Reader(body);
    let place = (
        Height(u64::from_le_bytes(reader.take())),
        u32::from_le_bytes(reader.take()),
        u8::from_le_bytes(reader.take()),
    );
    let length = usize::from(u8::from_le_bytes(reader.take()));
    let message: [u8; MAX_MESSAGE] = reader.take();
    let bytes = message.get(..length).map(<[u8]>::to_vec);
    Ok(bytes.map(|bytes| Record { place, bytes }))
}
