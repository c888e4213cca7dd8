//! A look into the engine's log before the engine starts: at which height it
//! is, and whether it remembers the lock that the guard knows of.
//!
//! The engine clears its log without a word when it starts at another height
//! than the log's. Observing uses a log of its own, so that an empty log of
//! an observer is never taken for a validator's memory.

use std::{
    io::{self, Cursor, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use malachitebft_app_channel::app::{engine::wal::decode_entry, wal::log::Log};
use malachitebft_core_consensus::Input;
use malachitebft_core_types::{NilOrVal, Round, VoteType};
use tally_ledger::{crypto::PublicKey, ids::Height};

use crate::{
    codec::Wire,
    context::{BlockId, Engine, Vote},
    disk::{Disk, LogFile, sync_parent},
    guard::Lock,
    handle::ConsensusError,
};

/// The log of a validator.
pub(crate) fn voting_log(home: &Path) -> PathBuf {
    home.join("consensus.wal")
}

/// The log of an observer; holds nothing.
pub(crate) fn observing_log(home: &Path) -> PathBuf {
    home.join("observer.wal")
}

/// Makes the log if there is none, so that its name is durable before the
/// engine writes to it: the engine syncs the file, not the folder.
pub(crate) fn make(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), ConsensusError> {
    let made = match disk.open(path, false) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Log::<LogFile>::open_with(path, disk.clone()).and_then(|_| sync_parent(&**disk, path))
        }
        opened => opened.map(drop),
    };
    made.map_err(|error| ConsensusError::File {
        path: path.to_owned(),
        error,
    })
}

/// Removes a log, durably.
pub(crate) fn forget(disk: &dyn Disk, path: &Path) -> Result<(), ConsensusError> {
    let removed = match disk.remove(path) {
        Ok(()) => sync_parent(disk, path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    removed.map_err(|error| ConsensusError::File {
        path: path.to_owned(),
        error,
    })
}

/// What the engine's log remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Its height.
    pub(crate) height: Height,
    /// It holds the precommit asked for.
    pub(crate) lock: bool,
}

/// Reads a log; `None` if there is none that is readable. Cuts it at its
/// first damaged entry: the engine would refuse to start. What is lost so is
/// at worst a vote or a lock, and those the guard knows.
pub(crate) fn remember(
    disk: &Arc<dyn Disk>,
    path: &Path,
    own: PublicKey,
    lock: Option<Lock>,
) -> Result<Option<Memory>, ConsensusError> {
    let file_error = |error| ConsensusError::File {
        path: path.to_owned(),
        error,
    };
    match disk.open(path, false) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file_error(e)),
    }
    let mut log = match Log::<LogFile>::open_with(path, disk.clone()) {
        Ok(log) => log,
        Err(e) if [ErrorKind::InvalidData, ErrorKind::UnexpectedEof].contains(&e.kind()) => {
            forget(disk.as_ref(), path)?;
            return Ok(None);
        }
        Err(e) => return Err(file_error(e)),
    };
    let height = Height(log.sequence());
    let (mut found, mut whole) = (false, 0);
    if !log.is_empty() {
        let entries = log.iter().map_err(file_error)?;
        let inputs = entries.map_while(|entry| {
            decode_entry::<Engine, _, _>(&Wire { max_response: 0 }, Cursor::new(entry.ok()?)).ok()
        });
        for input in inputs {
            whole += 1;
            if let (Input::Vote(vote), Some(lock)) = (input, lock) {
                found |= is_lock(&vote.message, own, lock);
            }
        }
        log.truncate(whole).map_err(file_error)?;
    }
    Ok(Some(Memory {
        height,
        lock: found,
    }))
}

fn is_lock(vote: &Vote, own: PublicKey, lock: Lock) -> bool {
    vote.kind == VoteType::Precommit
        && vote.voter.0 == own
        && Height::from(vote.height) == lock.height
        && vote.round == Round::new(lock.round)
        && vote.block == NilOrVal::Val(BlockId(lock.block))
}
