//! The guard file: what this validator has signed last, made durable before
//! a signature leaves. Whatever the engine forgets, no two different messages
//! are ever signed for one step.
//!
//! Two slots of 512 bytes, at 0 and 4096, written in turn and fsynced; the
//! valid one with the higher sequence holds. A slot:
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
//!
//! From 8192 on: everything signed at that height (see `history`), so that
//! the engine's replay may sign again what it signed before.
//!
//! Integers are little-endian. A slot is smaller than a sector, so a crash
//! tears at most the slot being written, whose signature never left. A slot
//! found damaged may nevertheless have been the newer one: [`Guard::open`]
//! says so, and the node observes for a height.

mod history;

use std::{
    io,
    path::{Path, PathBuf},
};

use tally_ledger::{
    crypto::{ChainId, PublicKey},
    hash::Hash,
    ids::Height,
};

use crate::{
    disk::{Disk, DiskFile, RealDisk, sync_parent},
    handle::ConsensusError,
};
use history::History;

/// Name of the file within the folder of consensus.
const FILE: &str = "guard";
const MAGIC: &[u8; 8] = b"tallygrd";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 210;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const FILE_BYTES: u64 = 4096 + 512;
const MAX_MESSAGE: usize = 64;

/// The steps of a round that are signed, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Step {
    /// A proposal.
    Proposal = 1,
    /// A prevote.
    Prevote = 2,
    /// A precommit.
    Precommit = 3,
}

/// A place in the order of everything a validator signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The height.
    pub height: Height,
    /// The round.
    pub round: u32,
    /// The step.
    pub step: Step,
}

/// A message to be signed.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Where it belongs.
    pub position: Position,
    /// What it is for; `None` is nil.
    pub block: Option<Hash>,
    /// The bytes, 64 at most.
    pub bytes: &'a [u8],
}

/// Why the guard does not let a message be signed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Something else was signed there, or above.
    #[error("asked to sign at {asked:?}, but signed up to {signed:?}")]
    NotAbove {
        /// Where the message belongs.
        asked: Position,
        /// Where the last one did.
        signed: Position,
    },
    /// The engine does not remember the lock of this height.
    #[error("asked to vote for another block than the one locked in round {round}")]
    Locked {
        /// The round of the precommit.
        round: u32,
    },
    /// The file cannot be written.
    #[error("the guard file cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// A precommit for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Its height.
    pub height: Height,
    /// Its round.
    pub round: u32,
    /// The block.
    pub block: Hash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    sequence: u64,
    /// Height, round, step: as numbers, for step 0.
    signed: (Height, u32, u8),
    bytes: Vec<u8>,
    lock: Option<Lock>,
}

impl State {
    fn fresh() -> Self {
        Self {
            sequence: 0,
            signed: (Height(0), 0, 0),
            bytes: Vec::new(),
            lock: None,
        }
    }
}

/// The open guard file.
#[derive(Debug)]
pub struct Guard {
    file: Box<dyn DiskFile>,
    chain: ChainId,
    key: PublicKey,
    state: State,
    history: History,
    damaged: bool,
    lock_known: bool,
}

impl Guard {
    /// Writes the file, `guard` in folder `home`, of a validator that has
    /// never signed anything. Only
    /// for a key that was just generated: with any other it would allow what
    /// it is there to prevent.
    pub fn create(home: &Path, chain: ChainId, key: PublicKey) -> io::Result<()> {
        Self::create_on(&RealDisk, home, chain, key)
    }

    /// The same on any disk.
    pub fn create_on(
        disk: &dyn Disk,
        home: &Path,
        chain: ChainId,
        key: PublicKey,
    ) -> io::Result<()> {
        let path = &home.join(FILE);
        match disk.open(path, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Self::write_new(disk, path, chain, key, State::fresh())
            }
            Err(e) => Err(e),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a guard file",
            )),
        }
    }

    /// Writes the file of a validator that may have signed anything up to
    /// `height`, and will sign nothing there any more.
    pub(crate) fn create_above(
        disk: &dyn Disk,
        home: &Path,
        chain: ChainId,
        key: PublicKey,
        height: Height,
    ) -> io::Result<()> {
        let path = &home.join(FILE);
        let state = State {
            signed: (height, u32::MAX, u8::MAX),
            ..State::fresh()
        };
        Self::write_new(disk, path, chain, key, state)
    }

    fn write_new(
        disk: &dyn Disk,
        path: &Path,
        chain: ChainId,
        key: PublicKey,
        state: State,
    ) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let file = disk.open(&temporary, true)?;
        file.set_len(0)?;
        file.set_len(FILE_BYTES)?;
        for (sequence, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            let state = State {
                sequence: sequence as u64,
                ..state.clone()
            };
            file.write_at(&encode(&state, chain, key), offset)?;
        }
        file.sync()?;
        disk.rename(&temporary, path)?;
        sync_parent(disk, path)
    }

    /// Opens the file. `Ok(None)`: there is none, or nothing readable in it.
    pub fn open(
        home: &Path,
        chain: ChainId,
        key: PublicKey,
    ) -> Result<Option<Self>, ConsensusError> {
        Self::open_on(&RealDisk, home, chain, key)
    }

    /// The same on any disk.
    pub fn open_on(
        disk: &dyn Disk,
        home: &Path,
        chain: ChainId,
        key: PublicKey,
    ) -> Result<Option<Self>, ConsensusError> {
        let path = &home.join(FILE);
        let error = |error| ConsensusError::File {
            path: PathBuf::from(path),
            error,
        };
        let file = match disk.open(path, false) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(error(e)),
        };
        let mut slots = Vec::new();
        for offset in SLOT_OFFSETS {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_at(&mut bytes, offset) {
                Ok(()) => slots.extend(decode(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(error(e)),
            }
        }
        let damaged = slots.len() < SLOT_OFFSETS.len();
        let Some((state, owner)) = slots.into_iter().max_by_key(|(state, _)| state.sequence) else {
            return Ok(None);
        };
        if owner != (chain, key) {
            return Err(ConsensusError::Damaged {
                path: PathBuf::from(path),
                why: "it belongs to another chain or key",
            });
        }
        let history = History::open(file.as_ref(), state.signed, &state.bytes).map_err(error)?;
        Ok(Some(Self {
            file,
            chain,
            key,
            state,
            history,
            damaged,
            lock_known: false,
        }))
    }

    /// The height of the last signature.
    pub fn height(&self) -> Height {
        self.state.signed.0
    }

    /// One of the slots is damaged: a later signature, at the next height to
    /// be decided at most, may be unknown.
    pub fn damaged(&self) -> bool {
        self.damaged
    }

    /// The last precommit for a block.
    pub fn lock(&self) -> Option<Lock> {
        self.state.lock
    }

    /// The engine remembers the lock of [`Self::lock`]: found in its log.
    pub fn lock_is_known(&mut self) {
        self.lock_known = true;
    }

    /// Gives up every signature up to and at `height`, and heals both slots.
    pub fn raise(&mut self, height: Height) -> io::Result<()> {
        if height >= self.state.signed.0 {
            self.state.signed = (height, u32::MAX, u8::MAX);
            self.state.bytes.clear();
            self.history.clear();
        }
        self.write()?;
        self.write()?;
        self.damaged = false;
        Ok(())
    }

    /// Allows a message to be signed, or not; after `Ok` its place is taken,
    /// on disk.
    pub fn admit(&mut self, message: &Message<'_>) -> Result<(), Refusal> {
        let Position {
            height,
            round,
            step,
        } = message.position;
        let asked = (height, round, step as u8);
        let same = asked == self.state.signed && message.bytes == self.state.bytes;
        if same || self.history.holds(asked, message.bytes) {
            self.remember_lock(message);
            return Ok(());
        }
        if asked <= self.state.signed {
            let (height, round, step) = self.state.signed;
            let signed = Position {
                height,
                round,
                step: step_of(step),
            };
            return Err(Refusal::NotAbove {
                asked: message.position,
                signed,
            });
        }
        if let Some(round) = self.breaks_lock(message) {
            return Err(Refusal::Locked { round });
        }
        assert!(
            message.bytes.len() <= MAX_MESSAGE,
            "votes and proposals have at most 49 bytes"
        );
        self.history
            .push(self.file.as_ref(), asked, message.bytes)?;
        self.state.signed = asked;
        self.state.bytes = message.bytes.to_vec();
        if let (Step::Precommit, Some(block)) = (step, message.block) {
            self.state.lock = Some(Lock {
                height,
                round,
                block,
            });
        }
        self.remember_lock(message);
        Ok(self.write()?)
    }

    /// The engine knows the lock if it derives it itself.
    fn remember_lock(&mut self, message: &Message<'_>) {
        let Position {
            height,
            round,
            step,
        } = message.position;
        let lock = message.block.map(|block| Lock {
            height,
            round,
            block,
        });
        self.lock_known |= step == Step::Precommit && lock.is_some() && lock == self.state.lock;
    }

    /// A vote against a lock that the engine has forgotten: its log was lost
    /// or cut, so its rules for unlocking are not in force.
    fn breaks_lock(&self, message: &Message<'_>) -> Option<u32> {
        let lock = self.state.lock?;
        let position = message.position;
        let other = message.block.is_some_and(|block| block != lock.block);
        let bound = position.height == lock.height && position.step != Step::Precommit;
        (!self.lock_known && bound && other).then_some(lock.round)
    }

    fn write(&mut self) -> io::Result<()> {
        self.state.sequence += 1;
        let offset = SLOT_OFFSETS[(self.state.sequence % 2) as usize];
        self.file
            .write_at(&encode(&self.state, self.chain, self.key), offset)?;
        self.file.sync()
    }
}

fn step_of(number: u8) -> Step {
    match number {
        1 => Step::Proposal,
        2 => Step::Prevote,
        _ => Step::Precommit,
    }
}

fn encode(state: &State, chain: ChainId, key: PublicKey) -> [u8; SLOT_BYTES] {
    let mut out = Vec::with_capacity(SLOT_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&state.sequence.to_le_bytes());
    out.extend_from_slice(chain.0.as_bytes());
    out.extend_from_slice(&key.0);
    out.extend_from_slice(&state.signed.0.0.to_le_bytes());
    out.extend_from_slice(&state.signed.1.to_le_bytes());
    out.push(state.signed.2);
    out.push(state.bytes.len() as u8);
    out.extend_from_slice(&state.bytes);
    out.resize(98 + MAX_MESSAGE, 0);
    let none = Lock {
        height: Height(0),
        round: 0,
        block: Hash::ZERO,
    };
    let lock = state.lock.unwrap_or(none);
    out.extend_from_slice(&lock.height.0.to_le_bytes());
    out.extend_from_slice(&lock.round.to_le_bytes());
    out.extend_from_slice(lock.block.as_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.try_into().expect("the fields add up to a slot")
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(State, (ChainId, PublicKey))> {
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
        State {
            sequence,
            signed,
            bytes,
            lock,
        },
        owner,
    ))
}

/// Reads fixed-width fields off a slot, whose length is fixed too.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .expect("a slot holds all its fields");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CHAIN: ChainId = ChainId(Hash([1; 32]));
    const KEY: PublicKey = PublicKey([2; 32]);

    fn block(byte: u8) -> Option<Hash> {
        Some(Hash([byte; 32]))
    }

    fn admit(
        guard: &mut Guard,
        height: u64,
        round: u32,
        step: Step,
        block: Option<Hash>,
    ) -> Result<(), Refusal> {
        let bytes = block.map_or([0; 32], |hash| hash.0);
        let position = Position {
            height: Height(height),
            round,
            step,
        };
        guard.admit(&Message {
            position,
            block,
            bytes: &bytes,
        })
    }

    fn new_guard() -> (tempfile::TempDir, PathBuf, Guard) {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_owned();
        Guard::create(&home, CHAIN, KEY).unwrap();
        let guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        (folder, home, guard)
    }

    #[test]
    fn only_what_is_above_or_equal_bytes_is_admitted_also_after_reopening() {
        let (_folder, home, mut guard) = new_guard();
        admit(&mut guard, 1, 0, Step::Prevote, block(1)).unwrap();
        admit(&mut guard, 1, 0, Step::Precommit, block(1)).unwrap();
        for reopen in [false, true] {
            if reopen {
                guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
                guard.lock_is_known();
            }
            admit(&mut guard, 1, 0, Step::Precommit, block(1)).unwrap();
            for (height, round, step, what) in [
                (1, 0, Step::Precommit, block(2)),
                (1, 0, Step::Precommit, None),
                (1, 0, Step::Prevote, block(2)),
                (0, 9, Step::Precommit, block(1)),
            ] {
                let refusal = admit(&mut guard, height, round, step, what).unwrap_err();
                assert!(matches!(refusal, Refusal::NotAbove { .. }), "{refusal}");
            }
        }
        assert_eq!(guard.height(), Height(1));
        admit(&mut guard, 1, 1, Step::Proposal, block(1)).unwrap();
        admit(&mut guard, 2, 0, Step::Prevote, None).unwrap();
    }

    #[test]
    fn what_was_signed_at_this_height_may_be_signed_again_and_nothing_else() {
        let (_folder, home, mut guard) = new_guard();
        let signed = [
            (0, Step::Prevote, block(1)),
            (0, Step::Precommit, None),
            (1, Step::Prevote, block(2)),
        ];
        for (round, step, what) in signed {
            admit(&mut guard, 4, round, step, what).unwrap();
        }
        for _ in 0..2 {
            for (round, step, what) in signed {
                admit(&mut guard, 4, round, step, what).unwrap();
                admit(&mut guard, 4, round, step, block(9)).unwrap_err();
            }
            admit(&mut guard, 4, 0, Step::Proposal, block(1)).unwrap_err();
            guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        }
        admit(&mut guard, 5, 0, Step::Prevote, None).unwrap();
        admit(&mut guard, 4, 0, Step::Prevote, block(1)).unwrap_err();
        guard.raise(Height(5)).unwrap();
        admit(&mut guard, 5, 0, Step::Prevote, None).unwrap_err();
        let mut guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        admit(&mut guard, 5, 0, Step::Prevote, None).unwrap_err();
    }

    #[test]
    fn a_record_whose_slot_was_not_written_allows_nothing() {
        let (_folder, home, mut guard) = new_guard();
        let path = home.join(FILE);
        admit(&mut guard, 4, 0, Step::Prevote, block(1)).unwrap();
        let before = fs::read(&path).unwrap();
        admit(&mut guard, 4, 0, Step::Precommit, block(1)).unwrap();
        // The crash kept the record, and of the slots those before it.
        let mut torn = fs::read(&path).unwrap();
        torn[..FILE_BYTES as usize].copy_from_slice(&before[..FILE_BYTES as usize]);
        fs::write(&path, &torn).unwrap();
        let mut guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        admit(&mut guard, 4, 0, Step::Precommit, None).unwrap();
        admit(&mut guard, 4, 1, Step::Prevote, None).unwrap();
        for _ in 0..2 {
            admit(&mut guard, 4, 0, Step::Precommit, block(1)).unwrap_err();
            admit(&mut guard, 4, 0, Step::Precommit, None).unwrap();
            guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        }
    }

    #[test]
    fn a_forgotten_lock_binds_until_it_is_signed_again_or_found() {
        let (_folder, home, mut guard) = new_guard();
        admit(&mut guard, 7, 0, Step::Precommit, block(1)).unwrap();
        let mut forgetful = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        let refusal = admit(&mut forgetful, 7, 1, Step::Prevote, block(2)).unwrap_err();
        assert!(matches!(refusal, Refusal::Locked { round: 0 }), "{refusal}");
        admit(&mut forgetful, 7, 1, Step::Prevote, None).unwrap();
        admit(&mut forgetful, 7, 2, Step::Prevote, block(1)).unwrap();
        let mut told = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        told.lock_is_known();
        admit(&mut told, 7, 3, Step::Prevote, block(2)).unwrap();
        let mut next = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        admit(&mut next, 8, 0, Step::Prevote, block(3)).unwrap();
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let (_folder, home, mut guard) = new_guard();
        admit(&mut guard, 3, 1, Step::Prevote, block(1)).unwrap();
        admit(&mut guard, 3, 1, Step::Precommit, block(1)).unwrap();
        let path = home.join(FILE);
        let good = fs::read(&path).unwrap();
        let places = (0..SLOT_BYTES).chain(4096..4096 + SLOT_BYTES);
        for place in places {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
            assert!(guard.damaged(), "byte {place}");
            assert_eq!(guard.height(), Height(3));
        }
        for length in (0..SLOT_BYTES + 2).chain(4094..4098 + SLOT_BYTES) {
            fs::write(&path, &good[..length]).unwrap();
            let guard = Guard::open(&home, CHAIN, KEY).unwrap();
            match guard {
                None => assert!(length < SLOT_BYTES),
                Some(guard) => assert_eq!(guard.damaged(), length < 4096 + SLOT_BYTES),
            }
        }
    }

    #[test]
    fn a_raised_guard_signs_nothing_up_to_there() {
        let (_folder, home, mut guard) = new_guard();
        guard.raise(Height(5)).unwrap();
        admit(&mut guard, 5, 1000, Step::Precommit, None).unwrap_err();
        admit(&mut guard, 6, 0, Step::Prevote, None).unwrap();
        fs::remove_file(home.join(FILE)).unwrap();
        Guard::create_above(&RealDisk, &home, CHAIN, KEY, Height(9)).unwrap();
        let mut guard = Guard::open(&home, CHAIN, KEY).unwrap().unwrap();
        admit(&mut guard, 9, 0, Step::Prevote, None).unwrap_err();
        admit(&mut guard, 10, 0, Step::Prevote, None).unwrap();
    }

    #[test]
    fn a_guard_is_created_once_and_for_one_key_and_chain() {
        let (_folder, home, _guard) = new_guard();
        assert!(Guard::create(&home, CHAIN, KEY).is_err());
        assert!(Guard::open(&home, CHAIN, PublicKey([3; 32])).is_err());
        assert!(Guard::open(&home, ChainId(Hash([3; 32])), KEY).is_err());
    }
}
