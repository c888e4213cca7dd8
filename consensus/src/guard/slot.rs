//! A slot of the guard file; integers are little-endian:
//!
//! ```text
//!   0   8  magic "tallygrd"
//!   8   4  version, 1
//!  12   8  sequence, up by one with each write
//!  20  32  chain id
//!  52  32  consensus key
//!  84   8  height      the last signed message
//!  92   4  round
//!  96   1  step: 0 all of the height, 1 proposal, 2 prevote, 3 precommit
//!  97   1  length of the bytes
//!  98  64  the bytes that were signed, zero-padded
//! 162   8  height      the last precommit that was not nil, 0: none
//! 170   4  round
//! 174  32  block
//! 206   4  CRC32C of all before
//! ```

use tally_ledger::{
    crypto::{ChainId, PublicKey},
    hash::Hash,
    ids::Height,
};

use super::Lock;

const MAGIC: &[u8; 8] = b"tallygrd";
const VERSION: u32 = 1;
pub(super) const SLOT_BYTES: usize = 210;
pub(super) const SLOT_OFFSETS: [u64; 2] = [0, 4096];
pub(super) const FILE_BYTES: u64 = 4096 + 512;
pub(super) const MAX_MESSAGE: usize = 64;

/// What a slot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) sequence: u64,
    /// Height, round, step: as numbers, for step 0.
    pub(super) signed: (Height, u32, u8),
    pub(super) bytes: Vec<u8>,
    pub(super) lock: Option<Lock>,
}

impl Slot {
    /// Nothing was ever signed.
    pub(super) fn fresh() -> Self {
        Self {
            sequence: 0,
            signed: (Height(0), 0, 0),
            bytes: Vec::new(),
            lock: None,
        }
    }

    /// The bytes of a slot of this chain and key.
    pub(super) fn encode(&self, chain: ChainId, key: PublicKey) -> [u8; SLOT_BYTES] {
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(chain.0.as_bytes());
        out.extend_from_slice(&key.0);
        out.extend_from_slice(&self.signed.0.0.to_le_bytes());
        out.extend_from_slice(&self.signed.1.to_le_bytes());
        out.push(self.signed.2);
        out.push(self.bytes.len() as u8);
        out.extend_from_slice(&self.bytes);
        out.resize(98 + MAX_MESSAGE, 0);
        let none = Lock {
            height: Height(0),
            round: 0,
            block: Hash::ZERO,
        };
        let lock = self.lock.unwrap_or(none);
        out.extend_from_slice(&lock.height.0.to_le_bytes());
        out.extend_from_slice(&lock.round.to_le_bytes());
        out.extend_from_slice(lock.block.as_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.try_into().expect("the fields add up to a slot")
    }

    /// Reads a slot, and whose it is; `None`: it is damaged.
    pub(super) fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(Self, (ChainId, PublicKey))> {
        let (body, crc) = bytes.split_at(SLOT_BYTES - 4);
        if crc != crc32c::crc32c(body).to_le_bytes() {
            return None;
        }
        let mut reader = Reader(body);
        if reader.take::<8>() != *MAGIC || u32::from_le_bytes(reader.take()) != VERSION {
            return None;
        }
        let sequence = u64::from_le_bytes(reader.take());
        let owner = (ChainId(Hash(reader.take())), PublicKey(reader.take()));
        let signed = (
            Height(u64::from_le_bytes(reader.take())),
            u32::from_le_bytes(reader.take()),
            u8::from_le_bytes(reader.take()),
        );
        let length = usize::from(u8::from_le_bytes(reader.take()));
        let message: [u8; MAX_MESSAGE] = reader.take();
        let lock = Lock {
            height: Height(u64::from_le_bytes(reader.take())),
            round: u32::from_le_bytes(reader.take()),
            block: Hash(reader.take()),
        };
        let bytes = message.get(..length)?.to_vec();
        let lock = (lock.height.0 > 0).then_some(lock);
        Some((
            Slot {
                sequence,
                signed,
                bytes,
                lock,
            },
            owner,
        ))
    }
}

/// Reads fixed-width fields off a slot, whose length is fixed too.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .expect("a slot holds all its fields");
        self.0 = rest;
        *field
    }
}
