//! Records of the journal: what the adapter must still know after a crash.
//!
//! A record's bytes are the ledger's canonical encoding (bincode, fixed-width
//! little-endian, tag u32 in declaration order). On disk each is framed:
//!
//! ```text
//! length u32 | CRC32C of the bytes u32 | bytes
//! ```
//!
//! A length is never zero and never above [`MAX_RECORD_BYTES`].

use serde::{Deserialize, Serialize};
use tally_ledger::{
    codec,
    crypto::ChainId,
    debit::{Debit, RECORD_BYTES, RawDebit, record_bytes},
    hash::Hash,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber,
        JournalNumber, LeaseNumber, ModelNumber, TableVersion, Time,
    },
    price::Usage,
};

use super::names::Name;

/// Most bytes of a record.
pub const MAX_RECORD_BYTES: usize = 4096;
/// Bytes of a frame's header.
pub const FRAME_BYTES: usize = 8;

/// Names a hold for all time within its gateway: the journal in which it was
/// made and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldId {
    /// The journal.
    pub journal: JournalNumber,
    /// From 1 within it.
    pub number: u64,
}

/// A hold: what is reserved inside a lease for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// Its name.
    pub id: HoldId,
    /// The lease that pays.
    pub lease: LeaseNumber,
    /// Whose.
    pub account: AccountNumber,
    /// Of which class.
    pub class: ClassNumber,
    /// Through which key.
    pub api_key: ApiKeyNumber,
    /// What is bought.
    pub model: ModelNumber,
    /// At which prices.
    pub table: TableVersion,
    /// Most that it may be charged.
    pub limit: Amount,
    /// Priority fee, part of the cost.
    pub fee: Amount,
    /// The usage that `limit` pays for: input bound and largest output.
    pub worst: Usage,
    /// The last known usage. The proxy's holds start with the likely input
    /// and no output; holds made by `Authorize` have none.
    pub mark: Option<Usage>,
    /// When the request arrived, ms since 1970.
    pub arrival: u64,
    /// Opaque project number; 0: none.
    pub project: u32,
    /// Opaque purpose number; 0: none.
    pub purpose: u32,
    /// Keyed hash of the request; zero: none.
    pub request: Hash,
}

/// A lease that was asked for and is not known to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSent {
    /// The number it asks for.
    pub number: LeaseNumber,
    /// Whose tokens.
    pub account: AccountNumber,
    /// Of which class.
    pub class: ClassNumber,
    /// On behalf of which key.
    pub api_key: ApiKeyNumber,
}

/// A debit's bytes: 166, or the 150 of one that an earlier build wrote. They
/// are never rewritten: number and content were fixed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct DebitBytes {
    /// Zero behind the record.
    bytes: [u8; RECORD_BYTES],
    length: usize,
}

impl DebitBytes {
    /// The debit.
    pub fn read(&self) -> Debit {
        self.raw().read().expect("it has the form of its version")
    }

    /// The debit, in place.
    pub fn raw(&self) -> RawDebit<'_> {
        RawDebit::of(self.as_bytes()).expect("it has the form of its version")
    }

    /// The record's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The version of its layout: a batch holds debits of one.
    pub fn version(&self) -> u8 {
        self.bytes[0]
    }

    /// The bytes of a debit.
    pub fn of(debit: &Debit) -> Self {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        debit.write(&mut bytes);
        bytes.try_into().expect("a debit fills its record")
    }
}

impl TryFrom<Vec<u8>> for DebitBytes {
    type Error = String;
    fn try_from(record: Vec<u8>) -> Result<Self, String> {
        let length = record.len();
        let stated = record.first().and_then(|version| record_bytes(*version));
        if stated != Some(length) {
            return Err(format!("no debit has {length} bytes and such a version"));
        }
        let mut bytes = [0; RECORD_BYTES];
        bytes[..length].copy_from_slice(&record);
        Ok(DebitBytes { bytes, length })
    }
}

impl From<DebitBytes> for Vec<u8> {
    fn from(debit: DebitBytes) -> Vec<u8> {
        debit.as_bytes().to_vec()
    }
}

/// Where a journal stands: its number, last debit, and running hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The journal; 0: none.
    pub journal: JournalNumber,
    /// Its last debit.
    pub last: DebitNumber,
    /// h' = keyed(h || batch leaf hash), from zero.
    pub hash: Hash,
}

/// What a segment starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHead {
    /// Which chain.
    pub chain: ChainId,
    /// Whose.
    pub gateway: GatewayNumber,
    /// Where the journal stood.
    pub head: Head,
    /// The last hold's number.
    pub last_hold: u64,
    /// The journal has been opened on the chain.
    pub opened: bool,
    /// Whether the journal before it is intact (see OpenJournal).
    pub previous_intact: bool,
    /// This segment is the journal's first; earlier ones are of others.
    pub first: bool,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Tag 0. Begins each batch of writes: all bytes of this segment before
    /// `offset` were fsynced when it was written.
    Synced {
        /// The offset.
        offset: u64,
    },
    /// Tag 1. Begins each segment. Open leases, holds and carried debits
    /// follow as records up to [`Record::SnapshotEnd`], so earlier segments
    /// are needed only for their debits.
    Segment(SegmentHead),
    /// Tag 2. OpenJournal of this journal is final.
    Opened {
        /// The journal.
        journal: JournalNumber,
    },
    /// Tag 3. Written before a Lease is sent.
    LeaseSent(LeaseSent),
    /// Tag 4. It was granted nothing, or is closed, or is returned.
    LeaseClosed(LeaseNumber),
    /// Tag 5.
    HoldMade(Box<HoldRecord>),
    /// Tag 6. What was used so far.
    Progress {
        /// By which hold.
        hold: HoldId,
        /// How much.
        usage: Usage,
    },
    /// Tag 7. The next debit of this journal; resolves its hold.
    Debit {
        /// Its number.
        number: DebitNumber,
        /// Its content, fixed from here on.
        debit: Box<DebitBytes>,
    },
    /// Tag 8. Resolves a hold: nothing was served.
    Void(HoldId),
    /// Tag 9. A debit of an earlier journal that may not have reached the
    /// chain. Resolves into a debit of this journal or is dropped, once it is
    /// known where the earlier journal was closed.
    Carried {
        /// The earlier journal.
        journal: JournalNumber,
        /// Its number there.
        number: DebitNumber,
        /// Its content.
        debit: Box<DebitBytes>,
    },
    /// Tag 10. The carried debits of `journal` up to `last` are on the chain.
    CarriedProven {
        /// The earlier journal.
        journal: JournalNumber,
        /// Its last debit on the chain.
        last: DebitNumber,
    },
    /// Tag 11. Ends what a segment starts from. A segment without it was
    /// being begun when the machine stopped, and does not count.
    SnapshotEnd,
    /// Tag 12. A running hold from now on: less or more of its lease, or
    /// another lease of the same account, class and key.
    HoldChanged {
        /// Which.
        hold: HoldId,
        /// The lease that pays.
        lease: LeaseNumber,
        /// Most that it may be charged.
        limit: Amount,
        /// The usage that `limit` pays for.
        worst: Usage,
    },
    /// Tag 13. The Idempotency-Key of the request that a hold was made for.
    HoldNamed {
        /// The hold.
        hold: HoldId,
        /// The key.
        name: Name,
        /// When, by the ledger's time.
        at: Time,
    },
}

impl Record {
    /// Appends the framed record.
    pub fn frame(&self, out: &mut Vec<u8>) {
        let bytes = codec::encode(self);
        debug_assert!(bytes.len() <= MAX_RECORD_BYTES);
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    /// Reads the framed record at the start of `bytes` and its length with
    /// frame; `None` if there is no whole, undamaged one.
    pub fn read(bytes: &[u8]) -> Option<(Record, usize)> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let (length, crc) = (word(0)? as usize, word(4)?);
        if length == 0 || length > MAX_RECORD_BYTES {
            return None;
        }
        let body = bytes.get(FRAME_BYTES..FRAME_BYTES + length)?;
        if crc32c::crc32c(body) != crc {
            return None;
        }
        let record = codec::decode(body, MAX_RECORD_BYTES).ok()?;
        Some((record, FRAME_BYTES + length))
    }
}
