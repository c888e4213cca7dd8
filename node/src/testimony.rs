//! Testimony: what this node saw validators sign twice, until the chain has
//! it.
//!
//! The engine tells once, so each piece is written down first, as a file that
//! anybody can verify with the genesis, and read again at a start. What a
//! crash cuts off between the decision and the file is lost here; the other
//! validators that saw it have theirs. The file goes when the chain has the
//! evidence.
//!
//! All honest validators see about the same, so not all tell: a node tells
//! when the next height's first proposal is its own, up to a block's bound of
//! what the chain still lacks. Its own block carries it then; the gossip is
//! for when that round fails. So there is one reporter per height, and the
//! next one looks at the chain first.
//!
//! ```text
//! HOME/data/evidence/<height, 20 digits>-<validator>.evidence
//! ```

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tally_ledger::{
    action::Action,
    crypto::SecretKey,
    evidence::{Evidence, EvidenceFile, MAX_EVIDENCE_FILE_BYTES, MAX_EVIDENCE_PER_BLOCK, Offence},
    genesis::Genesis,
    ids::{Height, Time},
    state::State,
    transaction::{Author, AuthorKind, Body, Transaction},
};
use tracing::{info, warn};

use crate::storage::Disk;

/// Most pieces that wait; what comes then is logged and dropped.
pub const MAX_WAITING: usize = 64;
/// Ending of the files.
const ENDING: &str = "evidence";

/// A file of evidence cannot be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}; make room and check the disk, then start the node again")]
pub struct TestimonyError {
    /// The file or folder.
    pub path: PathBuf,
    /// What went wrong.
    pub error: io::Error,
}

/// What this node has to tell.
#[derive(Debug)]
pub struct Testimony {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    key: SecretKey,
    waiting: BTreeMap<(Height, u16), Evidence>,
}

/// Whether the state has this, or would not take it any more.
fn is_known(state: &State, offence: &Offence) -> bool {
    let marks = state.marks().get(usize::from(offence.place.validator));
    marks.is_none_or(|marks| !marks.are_open_for(offence.place.height))
}

/// Under which name evidence of one validator waits.
fn name_of(evidence: &Evidence) -> Option<(Height, u16)> {
    let offence = *evidence.offences().first()?;
    Some((offence.place.height, offence.place.validator))
}

impl Testimony {
    /// Reads what waits in a folder. A file that proves nothing is passed
    /// over.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        genesis: &Genesis,
        key: SecretKey,
    ) -> Result<Self, TestimonyError> {
        let mut testimony = Self {
            disk,
            folder,
            key,
            waiting: BTreeMap::new(),
        };
        let files = testimony.disk.list(&testimony.folder);
        let files = files.map_err(|error| testimony.error(error))?;
        for path in files {
            if path.extension().is_none_or(|ending| ending != ENDING) {
                continue;
            }
            match testimony.read(&path, genesis) {
                Ok(evidence) => testimony.take_over(&path, evidence)?,
                Err(why) => {
                    warn!(path = %path.display(), %why, "evidence passed over");
                }
            }
        }
        Ok(testimony)
    }

    /// A file that an operator put there gets the name that it should have.
    fn take_over(&mut self, path: &Path, evidence: Evidence) -> Result<(), TestimonyError> {
        let Some(name) = name_of(&evidence) else {
            return Ok(());
        };
        let named = self.path(name);
        if named != path {
            let renamed = self.disk.rename(path, &named);
            renamed.map_err(|error| self.error(error))?;
        }
        self.waiting.insert(name, evidence);
        Ok(())
    }

    fn read(&self, path: &Path, genesis: &Genesis) -> Result<Evidence, String> {
        let read = || {
            let file = self.disk.open(path, false)?;
            let length = file.len()?.min(MAX_EVIDENCE_FILE_BYTES as u64 + 1);
            let mut bytes = vec![0; length as usize];
            file.read_at(&mut bytes, 0)?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = read().map_err(|error| error.to_string())?;
        let file = EvidenceFile::decode(&bytes).map_err(|error| error.to_string())?;
        file.verify(genesis).map_err(|error| error.to_string())?;
        Ok(file.evidence)
    }

    fn error(&self, error: io::Error) -> TestimonyError {
        TestimonyError {
            path: self.folder.clone(),
            error,
        }
    }

    fn path(&self, (height, validator): (Height, u16)) -> PathBuf {
        let name = format!("{:020}-{validator}.{ENDING}", height.0);
        self.folder.join(name)
    }

    /// How many pieces wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The first height of which something waits.
    pub fn oldest(&self) -> Option<Height> {
        self.waiting.keys().next().map(|(height, _)| *height)
    }

    /// Writes down what the chain does not have: one piece per validator and
    /// height.
    pub fn keep(&mut self, state: &State, seen: Vec<Evidence>) -> Result<(), TestimonyError> {
        for evidence in seen {
            let news = |offence: &Offence| !is_known(state, offence);
            let Some(name) = name_of(&evidence) else {
                continue;
            };
            if self.waiting.contains_key(&name) || !evidence.offences().iter().any(news) {
                continue;
            }
            if self.waiting.len() >= MAX_WAITING {
                let (height, validator) = name;
                warn!(%height, validator, "evidence dropped: too much waits");
                continue;
            }
            self.write(name, state, &evidence)
                .map_err(|error| self.error(error))?;
            self.waiting.insert(name, evidence);
        }
        Ok(())
    }

    fn write(&self, name: (Height, u16), state: &State, evidence: &Evidence) -> io::Result<()> {
        let bytes = EvidenceFile {
            chain: *state.chain(),
            evidence: evidence.clone(),
        };
        let temporary = self.folder.join("new");
        let file = self.disk.open(&temporary, true)?;
        file.set_len(0)?;
        file.write_at(&bytes.encode(), 0)?;
        file.sync()?;
        self.disk.rename(&temporary, &self.path(name))?;
        self.disk.sync_folder(&self.folder)
    }

    /// Drops what the chain has by now.
    pub fn settle(&mut self, state: &State) -> Result<(), TestimonyError> {
        let known = |evidence: &Evidence| {
            let offences = evidence.offences();
            offences.iter().all(|offence| is_known(state, offence))
        };
        let told = self.waiting.iter().filter(|(_, evidence)| known(evidence));
        let told: Vec<(Height, u16)> = told.map(|(name, _)| *name).collect();
        for name in &told {
            self.waiting.remove(name);
            // Found missing: an operator took it away.
            match self.disk.remove(&self.path(*name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.error(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What this node tells now: nothing, unless the first proposal of the
    /// next height is its own.
    pub fn tell(&self, state: &State, now: Time) -> Vec<Transaction> {
        if self.waiting.is_empty() || !self.is_next(state) {
            return Vec::new();
        }
        let most = MAX_EVIDENCE_PER_BLOCK as usize;
        let told = self.waiting.values().take(most);
        told.filter_map(|evidence| self.transaction(state, now, evidence))
            .collect()
    }

    fn own(&self, state: &State) -> Option<u16> {
        state.validators().index_of(&self.key.public())
    }

    fn is_next(&self, state: &State) -> bool {
        let count = state.validators().0.len().max(1) as u64;
        let turn = (state.height().0 + 1) % count;
        self.own(state).is_some_and(|own| u64::from(own) == turn)
    }

    /// Signed with the consensus key, in the domain of transactions: no guard
    /// need remember it.
    fn transaction(&self, state: &State, now: Time, evidence: &Evidence) -> Option<Transaction> {
        let author = Author {
            kind: AuthorKind::Validator,
            number: self.own(state)?.into(),
        };
        let (hash, until) = (evidence.hash(), now.max(state.time()).hour() + 2);
        let id = *hash.0.first_chunk().expect("a hash has 32 bytes");
        let action = Action::Evidence(Box::new(evidence.clone()));
        let body = Body::new(author, &[], id, until, action);
        let (height, evidence) = (evidence.height(), hash);
        info!(%height, %evidence, "tells the chain that a validator signed twice");
        Some(Transaction::sign(
            state.chain(),
            &body,
            &[&self.key],
            Vec::new(),
        ))
    }
}
