//! A witness's memory: one file, replaced as a whole and fsynced before any
//! answer that rests on it.
//!
//! ```text
//! tally witness state v1
//! <verifier key of the witness>
//! <origin of the log>
//! (empty line)
//! the checkpoint that was cosigned last, or the line `nothing yet`
//! ```
//!
//! Beside it: `FILE.lock`, held while the witness runs; `FILE.new`, which is
//! what a crash may leave; and evidence ([`super::evidence`]).

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tally_ledger::{
    checkpoint::{LogKeys, SignedCheckpoint},
    note::{MAX_NOTE_BYTES, Note, VerifierKey},
};

use super::evidence::Evidence;
use crate::storage::{Disk, RealDisk, disk::replace};

const FIRST_LINE: &str = "tally witness state v1";
/// Instead of a checkpoint, so that a file that was cut says nothing.
const NOTHING: &str = "nothing yet\n";

/// The state cannot be used, or cannot be written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{path}: {why}")]
pub struct StateFault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub why: String,
}

#[derive(Debug)]
pub(super) struct StateFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    head: String,
    log: LogKeys,
    key: VerifierKey,
    latest: Option<SignedCheckpoint>,
    time: u64,
    /// Set when a write failed: what is on disk is unknown from then on.
    broken: bool,
    evidence: Evidence,
    _lock: File,
}

/// The path with an ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl StateFile {
    pub(super) fn open(
        path: &Path,
        log: &LogKeys,
        key: &VerifierKey,
        new: bool,
    ) -> Result<Self, StateFault> {
        Self::open_on(Arc::new(RealDisk), path, log, key, new)
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        log: &LogKeys,
        key: &VerifierKey,
        new: bool,
    ) -> Result<Self, StateFault> {
        let fault = |why: String| StateFault {
            path: path.to_owned(),
            why,
        };
        let mut state = Self {
            evidence: Evidence::open(disk.clone(), path),
            disk,
            path: path.to_owned(),
            head: format!("{FIRST_LINE}\n{key}\n{}\n", log.origin()),
            log: log.clone(),
            key: key.clone(),
            latest: None,
            time: 0,
            broken: false,
            _lock: lock(&beside(path, ".lock"))?,
        };
        let bytes = match (std::fs::read(path), new) {
            (Ok(_), true) => {
                let why = "is there already: --new is for the first start only";
                return Err(fault(why.into()));
            }
            (Ok(bytes), false) => bytes,
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fault(error.to_string()));
            }
            (Err(_), true) => {
                state.write(&format!("{}\n{NOTHING}", state.head))?;
                return Ok(state);
            }
            (Err(_), false) => {
                return Err(fault(
                    "is not there. A witness that has lost its memory would cosign a second \
                     history: bring the file back; only a witness that has never cosigned starts \
                     with --new"
                        .into(),
                ));
            }
        };
        state.read(&bytes).map_err(fault)?;
        Ok(state)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() > MAX_NOTE_BYTES + 1024 {
            return Err("is too long for a state file".into());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "is no state file".to_owned())?;
        let known = text.strip_prefix(&self.head);
        let Some(note) = known.and_then(|rest| rest.strip_prefix('\n')) else {
            let head = &self.head;
            return Err(format!(
                "is not the state of this witness and log. It should begin with:\n{head}"
            ));
        };
        if note == NOTHING {
            return Ok(());
        }
        let damaged = |why: String| format!("is damaged ({why}): bring back the file as it was");
        let note = Note::parse(note.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        self.take(note).map_err(damaged)
    }

    /// Takes a cosigned checkpoint over, checked as anybody would.
    fn take(&mut self, note: Note) -> Result<(), String> {
        let times = note.verify(std::slice::from_ref(&self.key));
        let time = times.map_err(|error| error.to_string())?[0];
        self.time = time.ok_or("this witness has not cosigned it")?;
        let signed = self.log.check(note).map_err(|error| error.to_string())?;
        self.latest = Some(signed);
        Ok(())
    }

    pub(super) fn latest(&self) -> Option<&SignedCheckpoint> {
        self.latest.as_ref()
    }

    /// When it cosigned last, in seconds since 1970.
    pub(super) fn time(&self) -> u64 {
        self.time
    }

    fn write(&mut self, text: &str) -> Result<(), StateFault> {
        let fault = |why: String| StateFault {
            path: self.path.clone(),
            why,
        };
        if self.broken {
            return Err(fault("could not be written before: start again".into()));
        }
        let temporary = beside(&self.path, ".new");
        let written = replace(self.disk.as_ref(), &self.path, &temporary, text.as_bytes());
        written.map_err(|error| {
            self.broken = true;
            fault(format!(
                "{error}; make room and check the disk, then start again"
            ))
        })
    }

    /// Remembers a cosigned checkpoint, durably.
    pub(super) fn replace(&mut self, note: Note) -> Result<(), StateFault> {
        let text = format!("{}\n{note}", self.head);
        self.write(&text)?;
        self.take(note).expect("what was just signed verifies");
        if let Some(signed) = &self.latest {
            self.evidence.cosigned(&signed.checkpoint);
        }
        Ok(())
    }

    /// Keeps a checkpoint with a quorum that was not shown to continue what
    /// was cosigned.
    pub(super) fn keep_evidence(&mut self, note: &Note) {
        let last = self.latest.as_ref().map(|signed| &signed.checkpoint);
        self.evidence.keep(&self.log, last, note);
    }
}

/// Takes the state for this process, until the file is dropped.
fn lock(path: &Path) -> Result<File, StateFault> {
    let fault = |why: String| StateFault {
        path: path.to_owned(),
        why,
    };
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| fault(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(fault("another witness runs on this state".into())),
        Err(TryLockError::Error(error)) => Err(fault(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tally_ledger::{
        block::{Validator, ValidatorSet},
        checkpoint::{Checkpoint, sign_note},
        codec::List,
        crypto::SecretKey,
        genesis::{GENESIS_VERSION, Genesis},
        hash::Hash,
        ids::{Person, TableVersion, Time},
        merkle::{Levels, leaf_hash},
        note::NoteSignature,
        parameters::Parameters,
        price::PriceTable,
        witness::{AddCheckpoint, Refused},
    };

    use super::*;
    use crate::{
        storage::disk::faulty::{Fault, FaultyDisk},
        witness::{NotCosigned, Witness, verifier_key},
    };

    const NAME: &str = "council.example/w1";

    fn secret() -> SecretKey {
        SecretKey::from_seed(&[42; 32])
    }

    fn checkpoint_key(validator: u8) -> SecretKey {
        SecretKey::from_seed(&[210 + validator; 32])
    }

    /// Four validators whose keys are known, and nothing else.
    fn genesis() -> Genesis {
        let validator = |i: u8| Validator {
            consensus_key: SecretKey::from_seed(&[i; 32]).public(),
            checkpoint_key: checkpoint_key(i).public(),
            network_key: SecretKey::from_seed(&[100 + i; 32]).public(),
            owner: Person(0),
        };
        Genesis {
            version: GENESIS_VERSION,
            name: "here".into(),
            time: Time(0),
            persons: List::default(),
            validators: ValidatorSet(List::new((0..4).map(validator).collect()).unwrap()),
            classes: List::default(),
            prices: PriceTable {
                version: TableVersion(1),
                models: List::default(),
            },
            parameters: Parameters::default(),
            gateways: List::default(),
        }
    }

    fn witness(genesis: &Genesis, path: &Path, disk: Arc<dyn Disk>, new: bool) -> Witness {
        let key = verifier_key(NAME, &secret()).unwrap();
        let log = LogKeys::new(genesis);
        let state = StateFile::open_on(disk, path, &log, &key, new).unwrap();
        Witness {
            log,
            key,
            secret: secret(),
            state: std::sync::Mutex::new(state),
        }
    }

    fn request(genesis: &Genesis, old: u64, size: u64) -> Vec<u8> {
        let tree = Levels::of((0..size).map(|i| leaf_hash(&i.to_le_bytes())));
        let checkpoint = Checkpoint::new(&genesis.chain(), size, tree.root());
        let signatures = (0..3).map(|i| (i.into(), checkpoint.sign(&checkpoint_key(i))));
        let log = LogKeys::new(genesis);
        let request = AddCheckpoint {
            old,
            proof: tree.consistency(old, size).unwrap(),
            checkpoint: sign_note(&checkpoint, log.keys(), signatures).unwrap(),
        };
        request.to_string().into_bytes()
    }

    /// A log of `size` entries that begins with another entry, signed by all,
    /// with a proof that is none.
    fn forged(genesis: &Genesis, old: u64, size: u64) -> AddCheckpoint {
        let leaves = (0..size).map(|i| leaf_hash(&(i + 1000).to_le_bytes()));
        let checkpoint = Checkpoint::new(&genesis.chain(), size, Levels::of(leaves).root());
        let signatures = (0..4).map(|i| (i.into(), checkpoint.sign(&checkpoint_key(i))));
        let log = LogKeys::new(genesis);
        AddCheckpoint {
            old,
            proof: vec![Hash([7; 32])],
            checkpoint: sign_note(&checkpoint, log.keys(), signatures).unwrap(),
        }
    }

    /// An honest checkpoint with a proof that is none and a line of nobody.
    fn noise(genesis: &Genesis, old: u64, size: u64, number: u8) -> Vec<u8> {
        let mut noise = AddCheckpoint::decode(&request(genesis, size, size)).unwrap();
        let nobody = SecretKey::from_seed(&[number; 32]);
        let line = NoteSignature::cosign("nobody.example", &nobody, 1, noise.checkpoint.text());
        noise.checkpoint = noise.checkpoint.with(line.unwrap()).unwrap();
        noise.old = old;
        noise.proof = vec![Hash([number; 32])];
        noise.to_string().into_bytes()
    }

    /// Names of what is beside a state file, without lock.
    fn kept(path: &Path) -> Vec<String> {
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        let name = |file: io::Result<fs::DirEntry>| file.unwrap().file_name();
        let names = files.map(|file| name(file).into_string().unwrap());
        let mut names: Vec<_> = names
            .filter(|name| name != "state" && name != "state.lock")
            .collect();
        names.sort();
        names
    }

    fn inconsistent(witness: &Witness, body: &[u8]) {
        let refused = witness.add(body, 5).unwrap_err();
        assert!(
            matches!(refused, NotCosigned::Refused(Refused::Inconsistent { .. })),
            "{refused}"
        );
    }

    #[test]
    fn a_stranger_does_not_fill_the_room_for_evidence() {
        let genesis = genesis();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = witness(&genesis, &path, Arc::new(RealDisk), true);
        // Nothing is cosigned yet that it could contradict.
        inconsistent(&first, &noise(&genesis, 0, 3, 1));
        first.add(&request(&genesis, 0, 3), 5).unwrap();
        // Its own last checkpoint says nothing against itself.
        for number in 1..40 {
            inconsistent(&first, &noise(&genesis, 3, 3, number));
        }
        assert_eq!(kept(&path), [""; 0]);
        // A larger honest one with a bad proof is kept once, without the
        // strangers' lines, until it is cosigned.
        for number in 1..40 {
            inconsistent(&first, &noise(&genesis, 3, 4, number));
        }
        assert_eq!(kept(&path), ["state.refused-1"]);
        let note = Note::parse(&fs::read(beside(&path, ".refused-1")).unwrap()).unwrap();
        assert_eq!(note.signatures().len(), 3);
        first.add(&request(&genesis, 3, 4), 5).unwrap();
        assert_eq!(kept(&path), [""; 0]);
        // Whatever of this is sent, a fork that proves itself is kept; also
        // by a witness that starts again.
        for size in 5..40 {
            inconsistent(&first, &noise(&genesis, 4, size, 1));
        }
        assert_eq!(kept(&path).len(), 16);
        drop(first);
        let again = witness(&genesis, &path, Arc::new(RealDisk), false);
        let fork = forged(&genesis, 4, 4);
        for _ in 0..3 {
            inconsistent(&again, fork.to_string().as_bytes());
            inconsistent(&again, &noise(&genesis, 4, 50, 1));
        }
        assert_eq!(kept(&path).len(), 17);
        let note = fs::read(beside(&path, ".fork-1")).unwrap();
        assert_eq!(note, fork.checkpoint.to_string().as_bytes());
    }

    #[test]
    fn evidence_that_finds_no_room_costs_nothing_else() {
        let genesis = genesis();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let whole = witness(&genesis, &path, Arc::new(RealDisk), true);
        whole.add(&request(&genesis, 0, 3), 5).unwrap();
        drop(whole);
        let disk = FaultyDisk::new(Fault::Write, 0);
        let full = witness(&genesis, &path, Arc::new(disk.clone()), false);
        let fork = forged(&genesis, 3, 3).to_string();
        inconsistent(&full, fork.as_bytes());
        assert!(!beside(&path, ".fork-1").exists());
        // It is not tried with every request.
        disk.countdown
            .store(100, std::sync::atomic::Ordering::SeqCst);
        inconsistent(&full, fork.as_bytes());
        assert!(!beside(&path, ".fork-1").exists());
        full.add(&request(&genesis, 3, 4), 5).unwrap();
    }

    fn size_of(witness: &Witness) -> u64 {
        let latest = witness.latest();
        latest.map_or(0, |note| Checkpoint::parse(note.text()).unwrap().size)
    }

    #[test]
    fn a_witness_without_its_memory_does_not_start() {
        let genesis = genesis();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let open = |new| Witness::open(&path, &genesis, NAME, secret(), new);
        let error = open(false).unwrap_err().to_string();
        assert!(error.contains("--new"), "{error}");
        let first = open(true).unwrap();
        let error = open(false).unwrap_err().to_string();
        assert!(error.contains("another witness runs"), "{error}");
        drop(first);
        assert!(open(true).is_err(), "--new does not forget");
        open(false)
            .unwrap()
            .add(&request(&genesis, 0, 3), 5)
            .unwrap();
        assert_eq!(size_of(&open(false).unwrap()), 3);
        // Another name, key or chain is another witness.
        let other = |name: &str, genesis: &Genesis, seed: u8| {
            let secret = SecretKey::from_seed(&[seed; 32]);
            let error = Witness::open(&path, genesis, name, secret, false).unwrap_err();
            assert!(
                error.to_string().contains("not the state of this"),
                "{error}"
            );
        };
        other("other.example/w1", &genesis, 42);
        other(NAME, &genesis, 43);
        let mut elsewhere = genesis.clone();
        elsewhere.name = "elsewhere".into();
        other(NAME, &elsewhere, 42);
    }

    #[test]
    fn nothing_is_answered_that_is_not_on_disk() {
        let genesis = genesis();
        for fault in [Fault::Write, Fault::Sync] {
            for after in 0..6 {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("state");
                drop(witness(&genesis, &path, Arc::new(RealDisk), true));
                let disk = Arc::new(FaultyDisk::new(fault, after));
                let broken = witness(&genesis, &path, disk, false);
                let mut answered = 0;
                for size in 1..9 {
                    match broken.add(&request(&genesis, size - 1, size), 5) {
                        Ok(_) => answered = size,
                        Err(NotCosigned::Fault(_)) => {
                            // It says nothing more, whatever comes.
                            let again = broken.add(&request(&genesis, answered, 9), 5);
                            assert!(matches!(again, Err(NotCosigned::Fault(_))));
                            break;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                assert!(answered < 8, "the fault fires");
                drop(broken);
                // After the crash it goes on from what it answered, or from
                // the next one that it had written.
                let back = witness(&genesis, &path, Arc::new(RealDisk), false);
                let size = size_of(&back);
                assert!(
                    size == answered || size == answered + 1,
                    "{size} of {answered}"
                );
                back.add(&request(&genesis, size, size + 2), 5).unwrap();
            }
        }
    }

    #[test]
    fn no_flipped_bit_of_a_state_makes_another_one() {
        let genesis = genesis();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = witness(&genesis, &path, Arc::new(RealDisk), true);
        first.add(&request(&genesis, 0, 3), 5).unwrap();
        drop(first);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            let opened = Witness::open(&path, &genesis, NAME, secret(), false);
            assert!(opened.is_err(), "byte {at}");
        }
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let opened = Witness::open(&path, &genesis, NAME, secret(), false);
            assert!(opened.is_err(), "cut to {length}");
        }
    }

    #[test]
    fn time_is_never_taken_back() {
        let genesis = genesis();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = witness(&genesis, &path, Arc::new(RealDisk), true);
        first.add(&request(&genesis, 0, 3), 500).unwrap();
        first.add(&request(&genesis, 3, 4), 20).unwrap();
        let times = first
            .latest()
            .unwrap()
            .verify(std::slice::from_ref(first.key()));
        assert_eq!(times, Ok(vec![Some(500)]));
    }
}
