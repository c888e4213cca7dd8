//! Debits: gateway-signed statements of served requests.
//!
//! A debit is a fixed part and a detail. One signature covers a batch: the
//! body names gateway, journal, first number, count and an RFC 9162 root;
//! the payload is `count` records of one version, read in place ([`raw_debits`]).
//! Gateway, journal and number are implied there.
//!
//! Record, little-endian:
//!
//! ```text
//! fixed, 38: version u8 | kind u8 | flags u16 | account u32 | class u16 |
//!            API key u32 | lease u64 | limit u64 | fee u64
//! detail, 112 in version 1: salt 16 | model u32 | table u32 | six counts u32 |
//!            hold journal u32 | hold number u64 | project u32 | purpose u32 |
//!            arrival u64 (ms) | duration u32 (ms) | request hash 32
//! detail, 128 in version 2: the same | queue u32 | joined u64 | dispatched u32
//! ```
//!
//! The first byte of a record tells its version, and so its length. Versions
//! 1 and 2 differ in nothing else, and both are accepted.
//!
//! Batch leaf = fixed part as hashed (54 bytes: version, kind, flags,
//! gateway u32, journal u32, number u64, then as above) || H(detail).

use std::sync::LazyLock;

use crate::{
    hash::{Context, Hash},
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber,
        JournalNumber, LeaseNumber, ModelNumber, TableVersion,
    },
    merkle,
    price::Usage,
};

/// The first version of the debit layout: it says nothing of queues.
pub const FIRST_DEBIT_VERSION: u8 = 1;
/// Version of the debit layout that is written.
pub const DEBIT_VERSION: u8 = 2;
/// Kind of a debit for a served request.
pub const KIND_REQUEST: u8 = 1;
/// Bytes of the fixed part on disk and wire.
pub const FIXED_BYTES: usize = 38;
/// Bytes of the fixed part as hashed.
pub const FIXED_HASHED_BYTES: usize = 54;
/// Bytes of the detail in the first version.
pub const FIRST_DETAIL_BYTES: usize = 112;
/// Bytes of the detail, at most.
pub const DETAIL_BYTES: usize = FIRST_DETAIL_BYTES + 16;
/// Bytes of a record, at most.
pub const RECORD_BYTES: usize = FIXED_BYTES + DETAIL_BYTES;
/// Bytes of a batch leaf.
pub const BATCH_LEAF_BYTES: usize = FIXED_HASHED_BYTES + 32;
/// Most debits in a batch.
pub const MAX_BATCH: usize = 10_000;

/// What gateway and ledger remark about a debit. No flag changes an amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// By the gateway: usage is the hold's worst case or its last mark.
    pub const ESTIMATED: Flags = Flags(1);
    /// By the gateway: usage was counted from the stream.
    pub const COUNTED: Flags = Flags(2);
    /// By gateway or ledger: the cost, less a fee that the class does not
    /// pay, was above what could be charged: the limit, or what remains in
    /// the lease (0 if it is closed).
    pub const CAPPED: Flags = Flags(4);
    /// By the ledger: the lease had ended or was closed.
    pub const LATE: Flags = Flags(8);
    /// By the ledger: the lease had been recalled and was not yet closed.
    pub const AFTER_RECALL: Flags = Flags(16);
    /// By the ledger: class or API key may not buy this model.
    pub const CLASS_RULE: Flags = Flags(32);

    /// Those that a gateway may set.
    pub const FROM_GATEWAY: Flags = Flags(1 | 2 | 4);

    /// Whether all of `flags` are set.
    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }

    /// Names of the set flags, in the order of their bits.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            "estimated",
            "counted",
            "capped",
            "late",
            "after_recall",
            "class_rule",
        ];
        all.into_iter()
            .enumerate()
            .filter(|(i, _)| self.0 >> i & 1 == 1)
            .map(|(_, name)| name)
            .collect()
    }
}

/// Where in one of its gateway's queues a request stood. Each queue counts
/// what happens in it: to join takes a number, to be let go takes a later one
/// (see [`crate::queue_order`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queued {
    /// Which queue, from 1; 0: the request passed none, or its gateway died
    /// before it could say so.
    pub queue: u32,
    /// The number that it took when it joined.
    pub joined: u64,
    /// How much later the number is that it took when it was let go.
    pub dispatched: u32,
}

/// The detail part: what can be pruned or erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// Random; hides the rest behind its hash.
    pub salt: [u8; 16],
    /// What was bought.
    pub model: ModelNumber,
    /// At which prices.
    pub table: TableVersion,
    /// How much.
    pub usage: Usage,
    /// Journal in which the hold was made.
    pub hold_journal: JournalNumber,
    /// The hold's number there.
    pub hold: u64,
    /// Opaque project number; 0: none.
    pub project: u32,
    /// Opaque purpose number; 0: none.
    pub purpose: u32,
    /// When the request arrived at the gateway, ms since 1970 by its clock.
    pub arrival: u64,
    /// How long it took, in ms.
    pub duration: u32,
    /// Keyed blake3 over the request; zero: none.
    pub request: Hash,
    /// Where it waited; `None` is version 1, which does not say.
    pub queued: Option<Queued>,
}

/// Zeros, in the version that is written.
impl Default for Detail {
    fn default() -> Self {
        Detail {
            salt: [0; 16],
            model: ModelNumber(0),
            table: TableVersion(0),
            usage: Usage::default(),
            hold_journal: JournalNumber(0),
            hold: 0,
            project: 0,
            purpose: 0,
            arrival: 0,
            duration: 0,
            request: Hash::ZERO,
            queued: Some(Queued::default()),
        }
    }
}

/// The fixed part: what receipts are computed from, besides the price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// [`DEBIT_VERSION`], or an earlier one.
    pub version: u8,
    /// [`KIND_REQUEST`].
    pub kind: u8,
    /// The gateway's remarks.
    pub flags: Flags,
    /// Who pays.
    pub account: AccountNumber,
    /// With what.
    pub class: ClassNumber,
    /// Through which key.
    pub api_key: ApiKeyNumber,
    /// From which of the gateway's leases.
    pub lease: LeaseNumber,
    /// The hold: most that may be charged.
    pub limit: Amount,
    /// Priority fee; part of the cost.
    pub fee: Amount,
}

/// Where a debit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Whose.
    pub gateway: GatewayNumber,
    /// In which journal.
    pub journal: JournalNumber,
    /// Its number there.
    pub number: DebitNumber,
}

/// One debit of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debit {
    /// The fixed part.
    pub fixed: Fixed,
    /// The detail.
    pub detail: Detail,
}

/// Reads fixed-size little-endian fields, one after another.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_at(N);
        self.0 = tail;
        head.try_into().expect("split at N")
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

impl Fixed {
    /// Reads the 38 bytes; form is checked on execution.
    pub fn read(bytes: &[u8; FIXED_BYTES]) -> Self {
        let [version, kind] = [bytes[0], bytes[1]];
        let mut fields = Fields(&bytes[2..]);
        Fixed {
            version,
            kind,
            flags: Flags(fields.u16()),
            account: AccountNumber(fields.u32()),
            class: ClassNumber(fields.u16()),
            api_key: ApiKeyNumber(fields.u32()),
            lease: LeaseNumber(fields.u64()),
            limit: Amount(fields.u64()),
            fee: Amount(fields.u64()),
        }
    }

    /// The 38 bytes.
    pub fn write(&self) -> [u8; FIXED_BYTES] {
        let mut bytes = [0; FIXED_BYTES];
        bytes[0] = self.version;
        bytes[1] = self.kind;
        bytes[2..4].copy_from_slice(&self.flags.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.account.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.class.0.to_le_bytes());
        bytes[10..14].copy_from_slice(&self.api_key.0.to_le_bytes());
        bytes[14..22].copy_from_slice(&self.lease.0.to_le_bytes());
        bytes[22..30].copy_from_slice(&self.limit.0.to_le_bytes());
        bytes[30..38].copy_from_slice(&self.fee.0.to_le_bytes());
        bytes
    }
}

impl Detail {
    /// Reads a detail of a version's length; `None` for any other length.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if !matches!(bytes.len(), FIRST_DETAIL_BYTES | DETAIL_BYTES) {
            return None;
        }
        let mut fields = Fields(bytes);
        Some(Detail {
            salt: fields.take(),
            model: ModelNumber(fields.u32()),
            table: TableVersion(fields.u32()),
            usage: Usage(std::array::from_fn(|_| fields.u32())),
            hold_journal: JournalNumber(fields.u32()),
            hold: fields.u64(),
            project: fields.u32(),
            purpose: fields.u32(),
            arrival: fields.u64(),
            duration: fields.u32(),
            request: Hash(fields.take()),
            queued: (bytes.len() == DETAIL_BYTES).then(|| Queued {
                queue: fields.u32(),
                joined: fields.u64(),
                dispatched: fields.u32(),
            }),
        })
    }

    /// Its bytes: 112 of version 1, else 128.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DETAIL_BYTES);
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.model.0.to_le_bytes());
        bytes.extend_from_slice(&self.table.0.to_le_bytes());
        self.usage
            .0
            .iter()
            .for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
        bytes.extend_from_slice(&self.hold_journal.0.to_le_bytes());
        bytes.extend_from_slice(&self.hold.to_le_bytes());
        bytes.extend_from_slice(&self.project.to_le_bytes());
        bytes.extend_from_slice(&self.purpose.to_le_bytes());
        bytes.extend_from_slice(&self.arrival.to_le_bytes());
        bytes.extend_from_slice(&self.duration.to_le_bytes());
        bytes.extend_from_slice(&self.request.0);
        if let Some(queued) = &self.queued {
            bytes.extend_from_slice(&queued.queue.to_le_bytes());
            bytes.extend_from_slice(&queued.joined.to_le_bytes());
            bytes.extend_from_slice(&queued.dispatched.to_le_bytes());
        }
        bytes
    }

    /// What leaves carry instead of the detail.
    pub fn hash(&self) -> Hash {
        Context::Detail.hash(&self.write())
    }
}

/// Length of a record of a version, if there is such a version.
pub fn record_bytes(version: u8) -> Option<usize> {
    match version {
        FIRST_DEBIT_VERSION => Some(FIXED_BYTES + FIRST_DETAIL_BYTES),
        DEBIT_VERSION => Some(RECORD_BYTES),
        _ => None,
    }
}

/// Length of each record of a payload, by its first byte.
fn size_in(payload: &[u8]) -> usize {
    let first = payload.first().and_then(|version| record_bytes(*version));
    first.unwrap_or(FIXED_BYTES + FIRST_DETAIL_BYTES)
}

/// How many debits a transaction's payload has room for: known before
/// anything is decoded. A payload of another kind counts as a few.
pub fn debit_count(payload: &[u8]) -> usize {
    payload.len() / size_in(payload)
}

/// A record's bytes, read in place. Its version need not fit its length.
#[derive(Debug, Clone, Copy)]
pub struct RawDebit<'a> {
    /// The fixed part.
    pub fixed: &'a [u8; FIXED_BYTES],
    /// The detail.
    pub detail: &'a [u8],
}

impl<'a> RawDebit<'a> {
    /// The parts of a record; `None` if it is too short to have any.
    pub fn of(record: &'a [u8]) -> Option<Self> {
        let (fixed, detail) = record.split_first_chunk()?;
        Some(RawDebit { fixed, detail })
    }

    /// Whether it is as long as its version says, and that is a known one.
    pub fn has_form(&self) -> bool {
        record_bytes(self.fixed[0]) == Some(FIXED_BYTES + self.detail.len())
    }

    /// The debit; `None` if it has not the form of its version.
    pub fn read(&self) -> Option<Debit> {
        let detail = Detail::read(self.detail).filter(|_| self.has_form())?;
        let fixed = Fixed::read(self.fixed);
        Some(Debit { fixed, detail })
    }

    /// What the receipt carries of the detail.
    pub fn detail_hash(&self) -> Hash {
        Context::Detail.hash(self.detail)
    }

    /// Hash of its batch leaf at a position.
    pub fn leaf_hash(&self, position: &Position) -> Hash {
        merkle::leaf_hash(&batch_leaf(position, self.fixed, &self.detail_hash()))
    }
}

/// The records of a batch's payload: all as long as the first one's version
/// says.
pub fn raw_debits(payload: &[u8]) -> impl ExactSizeIterator<Item = RawDebit<'_>> + Clone {
    let records = payload.chunks_exact(size_in(payload));
    records.map(|record| RawDebit::of(record).expect("a record is longer than its fixed part"))
}

impl Debit {
    /// Reads a record; `None` if it has not the form of its version.
    pub fn read(record: &[u8]) -> Option<Self> {
        RawDebit::of(record)?.read()
    }

    /// Appends the record.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.fixed.write());
        out.extend_from_slice(&self.detail.write());
    }
}

/// The batch leaf of a record at a position; hash it with
/// [`crate::merkle::leaf_hash`].
pub fn batch_leaf(
    position: &Position,
    fixed: &[u8; FIXED_BYTES],
    detail_hash: &Hash,
) -> [u8; BATCH_LEAF_BYTES] {
    let mut leaf = [0; BATCH_LEAF_BYTES];
    leaf[..4].copy_from_slice(&fixed[..4]);
    leaf[4..8].copy_from_slice(&position.gateway.0.to_le_bytes());
    leaf[8..12].copy_from_slice(&position.journal.0.to_le_bytes());
    leaf[12..20].copy_from_slice(&position.number.0.to_le_bytes());
    leaf[20..54].copy_from_slice(&fixed[4..]);
    leaf[54..].copy_from_slice(&detail_hash.0);
    leaf
}

static JOURNAL_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| Context::Journal.key());

/// The running hash of a journal after one more debit, from
/// [`Hash::ZERO`]: keyed(before || hash of the batch leaf).
pub fn journal_hash(before: &Hash, batch_leaf_hash: &Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&before.0);
    both[32..].copy_from_slice(&batch_leaf_hash.0);
    Hash(blake3::keyed_hash(&JOURNAL_KEY, &both).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        for (version, size) in [(1, 150), (2, 166)] {
            let mut record: Vec<u8> = (0..size).collect();
            record[0] = version;
            let debit = Debit::read(&record).unwrap();
            assert_eq!(debit.detail.queued.is_some(), version == 2);
            let mut out = Vec::new();
            debit.write(&mut out);
            assert_eq!(out, record);
            // No other length, and no other version of this length.
            assert_eq!(Debit::read(&record[1..]), None);
            assert_eq!(Debit::read(&record[..usize::from(size) - 1]), None);
            record[0] = 3 - version;
            assert_eq!(Debit::read(&record), None);
            record[0] = 3;
            assert_eq!(Debit::read(&record), None);
        }
        assert_eq!(Debit::read(&[]), None);
    }

    #[test]
    fn a_payload_is_split_by_its_first_version() {
        let payload = |version: u8, size: usize| {
            let mut payload = vec![0; 3 * size];
            payload[0] = version;
            payload
        };
        for (version, size) in [(1, 150), (2, 166)] {
            let payload = payload(version, size);
            let raw: Vec<_> = raw_debits(&payload).collect();
            assert_eq!((raw.len(), debit_count(&payload)), (3, 3));
            let forms: Vec<_> = raw.iter().map(RawDebit::has_form).collect();
            // The others say version 0.
            assert_eq!(forms, [true, false, false]);
        }
        assert_eq!(debit_count(&payload(9, 150)), 3);
        assert_eq!(raw_debits(&[]).len(), 0);
    }
}
