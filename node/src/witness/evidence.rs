//! What a witness keeps of logs that it did not cosign although a quorum
//! signed them, beside its state file: `FILE.fork-N`, of the size that was
//! cosigned last and with another root, which proves a second history by
//! itself; `FILE.refused-N`, larger and not shown to continue what was
//! cosigned. At most sixteen of each.
//!
//! Anybody may send a request, also one with a bad proof of an honest
//! checkpoint. So a log is kept once, with the validators' lines alone; what
//! is cosigned later makes room again; and whatever is sent, the forks have
//! files of their own, and the log of this program is not flooded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys},
    hash::Hash,
    note::Note,
};
use tracing::{error, warn};

use super::state::beside;
use crate::storage::{Disk, disk::replace};

/// Most files of a kind.
const MOST: usize = 16;
/// How often it is said that one could not be kept.
const QUIET: Duration = Duration::from_secs(60);

/// Size and root of a log.
type Head = (u64, Hash);

#[derive(Debug)]
pub(super) struct Evidence {
    disk: Arc<dyn Disk>,
    state: PathBuf,
    forks: Kind,
    refused: Kind,
}

/// Files of one kind.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    /// By their numbers; `None`: the file can not be read.
    files: BTreeMap<usize, Option<Head>>,
    /// When it was said last that one could not be kept.
    failed: Option<Instant>,
}

impl Kind {
    fn path(&self, state: &Path, number: usize) -> PathBuf {
        beside(state, &format!(".{}-{number}", self.name))
    }

    fn open(name: &'static str, state: &Path) -> Self {
        let mut kind = Self {
            name,
            files: BTreeMap::new(),
            failed: None,
        };
        for number in 1..=MOST {
            let path = kind.path(state, number);
            if path.exists() {
                let note = std::fs::read(&path).ok();
                let note = note.and_then(|bytes| Note::parse(&bytes).ok());
                let checkpoint = note.and_then(|note| Checkpoint::parse(note.text()));
                let head = checkpoint.as_ref().map(head);
                kind.files.insert(number, head);
            }
        }
        kind
    }

    fn number_of(&self, head: &Head) -> Option<usize> {
        let mut files = self.files.iter();
        files.find_map(|(number, known)| (known.as_ref() == Some(head)).then_some(*number))
    }

    /// Whether it is time to say, and to try, again.
    fn may_fail(&mut self) -> bool {
        let may = self.failed.is_none_or(|at| at.elapsed() >= QUIET);
        if may {
            self.failed = Some(Instant::now());
        }
        may
    }
}

fn head(checkpoint: &Checkpoint) -> Head {
    (checkpoint.size, checkpoint.root)
}

impl Evidence {
    /// What is kept beside a state file.
    pub(super) fn open(disk: Arc<dyn Disk>, state: &Path) -> Self {
        Self {
            disk,
            state: state.to_owned(),
            forks: Kind::open("fork", state),
            refused: Kind::open("refused", state),
        }
    }

    /// Keeps a checkpoint with a quorum that was not shown to continue the
    /// one cosigned `last`, if that says anything. That nothing was cosigned
    /// does not rest on it, so a failure is only logged.
    pub(super) fn keep(&mut self, log: &LogKeys, last: Option<&Checkpoint>, note: &Note) {
        let Some((last, seen)) = last.zip(Checkpoint::parse(note.text())) else {
            return; // There is nothing that it could contradict.
        };
        let seen = head(&seen);
        if seen == head(last) {
            return; // The same log: the proof was noise.
        }
        let Some(note) = note.only(log.keys()) else {
            return; // No validator's line: there was no quorum.
        };
        // Two roots of one size are two histories, whatever the proof was.
        let kind = match seen.0 == last.size {
            true => &mut self.forks,
            false => &mut self.refused,
        };
        if kind.number_of(&seen).is_some() {
            return;
        }
        let Some(number) = (1..=MOST).find(|number| !kind.files.contains_key(number)) else {
            if kind.may_fail() {
                error!(
                    checkpoint = %note,
                    "a quorum signed a log that is not shown to continue the one that was \
                     cosigned, and it is not kept: all files {}-1 to {}-{MOST} are there",
                    kind.name, kind.name
                );
            }
            return;
        };
        let path = kind.path(&self.state, number);
        if kind.failed.is_some_and(|at| at.elapsed() < QUIET) {
            return;
        }
        let temporary = beside(&self.state, ".refused-new");
        let bytes = note.to_string();
        match replace(self.disk.as_ref(), &path, &temporary, bytes.as_bytes()) {
            Ok(()) => {
                kind.failed = None;
                kind.files.insert(number, Some(seen));
                error!(
                    path = %path.display(), checkpoint = ?note.text(),
                    "a quorum of validators signed a log that is not shown to continue the one \
                     that was cosigned"
                );
            }
            Err(error) => {
                kind.may_fail();
                warn!(path = %path.display(), %error, "evidence was not kept");
            }
        }
    }

    /// A checkpoint was cosigned: if its proof was bad before, that says
    /// nothing any more.
    pub(super) fn cosigned(&mut self, checkpoint: &Checkpoint) {
        let Some(number) = self.refused.number_of(&head(checkpoint)) else {
            return;
        };
        let path = self.refused.path(&self.state, number);
        match self.disk.remove(&path) {
            Ok(()) => {
                self.refused.files.remove(&number);
            }
            Err(error) => warn!(path = %path.display(), %error, "cannot be removed"),
        }
    }
}
