//! The guard file: what this validator has signed last, made durable before
//! a signature leaves. Whatever the engine forgets, no two different messages
//! are ever signed for one step.
//!
//! Two slots, at 0 and 4096 (see `slot`), written in turn and fsynced; of the
//! valid ones the higher sequence holds. From 8192 on: everything signed at
//! that height (see `history`), so that the engine's replay may sign again
//! what it signed before.
//!
//! A slot is smaller than a sector, so a crash tears at most the slot being
//! written, whose signature never left. A slot found damaged may nevertheless
//! have been the newer one: [`Guard::open`] says so, and the node observes for
//! a height.

mod history;
mod slot;

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
use slot::{FILE_BYTES, MAX_MESSAGE, Reader, SLOT_BYTES, SLOT_OFFSETS, Slot};

/// Name of the file within the folder of consensus.
const FILE: &str = "guard";

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

/// The open guard file.
#[derive(Debug)]
pub struct Guard {
    file: Box<dyn DiskFile>,
    chain: ChainId,
    key: PublicKey,
    slot: Slot,
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
                Self::write_new(disk, path, chain, key, Slot::fresh())
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
        let slot = Slot {
            signed: (height, u32::MAX, u8::MAX),
            ..Slot::fresh()
        };
        Self::write_new(disk, path, chain, key, slot)
    }

    fn write_new(
        disk: &dyn Disk,
        path: &Path,
        chain: ChainId,
        key: PublicKey,
        slot: Slot,
    ) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let file = disk.open(&temporary, true)?;
        file.set_len(0)?;
        file.set_len(FILE_BYTES)?;
        for (sequence, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            let slot = Slot {
                sequence: sequence as u64,
                ..slot.clone()
            };
            file.write_at(&slot.encode(chain, key), offset)?;
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
                Ok(()) => slots.extend(Slot::decode(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(error(e)),
            }
        }
        let damaged = slots.len() < SLOT_OFFSETS.len();
        let Some((slot, owner)) = slots.into_iter().max_by_key(|(slot, _)| slot.sequence) else {
            return Ok(None);
        };
        if owner != (chain, key) {
            return Err(ConsensusError::Damaged {
                path: PathBuf::from(path),
                why: "it belongs to another chain or key",
            });
        }
        let history = History::open(file.as_ref(), slot.signed, &slot.bytes).map_err(error)?;
        Ok(Some(Self {
            file,
            chain,
            key,
            slot,
            history,
            damaged,
            lock_known: false,
        }))
    }

    /// The height of the last signature.
    pub fn height(&self) -> Height {
        self.slot.signed.0
    }

    /// One of the slots is damaged: a later signature, at the next height to
    /// be decided at most, may be unknown.
    pub fn damaged(&self) -> bool {
        self.damaged
    }

    /// The last precommit for a block.
    pub fn lock(&self) -> Option<Lock> {
        self.slot.lock
    }

    /// The engine remembers the lock of [`Self::lock`]: found in its log.
    pub fn lock_is_known(&mut self) {
        self.lock_known = true;
    }

    /// Gives up every signature up to and at `height`, and heals both slots.
    pub fn raise(&mut self, height: Height) -> io::Result<()> {
        if height >= self.slot.signed.0 {
            self.slot.signed = (height, u32::MAX, u8::MAX);
            self.slot.bytes.clear();
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
        let same = asked == self.slot.signed && message.bytes == self.slot.bytes;
        if same || self.history.holds(asked, message.bytes) {
            self.remember_lock(message);
            return Ok(());
        }
        if asked <= self.slot.signed {
            let (height, round, step) = self.slot.signed;
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
        self.slot.signed = asked;
        self.slot.bytes = message.bytes.to_vec();
        if let (Step::Precommit, Some(block)) = (step, message.block) {
            self.slot.lock = Some(Lock {
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
        self.lock_known |= step == Step::Precommit && lock.is_some() && lock == self.slot.lock;
    }

    /// A vote against a lock that the engine has forgotten: its log was lost
    /// or cut, so its rules for unlocking are not in force.
    fn breaks_lock(&self, message: &Message<'_>) -> Option<u32> {
        let lock = self.slot.lock?;
        let position = message.position;
        let other = message.block.is_some_and(|block| block != lock.block);
        let bound = position.height == lock.height && position.step != Step::Precommit;
        (!self.lock_known && bound && other).then_some(lock.round)
    }

    fn write(&mut self) -> io::Result<()> {
        self.slot.sequence += 1;
        let offset = SLOT_OFFSETS[(self.slot.sequence % 2) as usize];
        self.file
            .write_at(&self.slot.encode(self.chain, self.key), offset)?;
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

#[cfg(test)]
mod tests;
