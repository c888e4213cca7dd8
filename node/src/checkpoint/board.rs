//! The board on which a node pins what validators and witnesses sign: it
//! decides what this validator may sign, what has a quorum, and what is
//! served.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tally_ledger::{
    block::Header,
    checkpoint::{Checkpoint, CheckpointError, LogKeys, SignedCheckpoint, sign_note},
    crypto::{ChainId, SecretKey, Signature},
    hash::Hash,
    ids::Height,
    note::{Note, NoteSignature, VerifierKey},
};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{
    files::{FileFault, Files, LATEST, SIGNED},
    head::SignedHead,
    shown::{Pinned, Shown},
};
use crate::{chain::Chain, metrics::Metrics, storage::Disk, view::ReadError};

/// Heads that are remembered of each validator.
const REMEMBERED: usize = 8;

/// Why checkpoints cannot go on; stops the node.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFault {
    /// A file.
    #[error("checkpoints: {0}")]
    File(#[from] FileFault),
    /// The log cannot be read.
    #[error("checkpoints: {0}")]
    Log(#[from] ReadError),
    /// The log on this disk is not the one that was signed before.
    #[error(
        "checkpoints: HOME/checkpoints has a signed log of {size} entries with root {signed}, \
         data another one with root {found}. The history on this disk was exchanged: keep both, \
         and find out by whom with `tally checkpoint compare`; nothing was signed"
    )]
    Exchanged {
        /// Entries.
        size: u64,
        /// The root that was signed before.
        signed: Hash,
        /// The root on disk.
        found: Hash,
    },
}

#[derive(Debug, Default)]
struct Pins {
    /// Whether the node stops: nothing is signed or written any more.
    closed: bool,
    /// Period of the last block that was looked at.
    period: Option<u64>,
    /// What this validator signed last.
    own: Option<SignedHead>,
    /// The last heads of each validator, and whether they are of this log.
    heard: BTreeMap<u16, VecDeque<(SignedHead, Option<bool>)>>,
    /// Who signed something that is not of this log.
    conflicts: BTreeSet<u16>,
    shown: Shown,
}

/// The board of a running node.
#[derive(Debug)]
pub struct Board {
    chain: Arc<Chain>,
    id: ChainId,
    log: LogKeys,
    /// This node's number and key, if it is a validator.
    signer: Option<(u16, SecretKey)>,
    period_ms: u64,
    witnesses: Vec<VerifierKey>,
    files: Files,
    metrics: Metrics,
    pins: Mutex<Pins>,
    latest: watch::Sender<Option<Arc<SignedCheckpoint>>>,
}

/// What a board is made of.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) folder: PathBuf,
    pub(crate) key: SecretKey,
    pub(crate) period_ms: u64,
    pub(crate) witnesses: Vec<VerifierKey>,
}

impl Board {
    /// Opens the board of a node's folder.
    pub(crate) fn open(
        chain: Arc<Chain>,
        disk: Arc<dyn Disk>,
        settings: Settings,
        metrics: Metrics,
    ) -> Result<Self, CheckpointFault> {
        let Settings {
            folder,
            key,
            period_ms,
            witnesses,
        } = settings;
        let log = LogKeys::new(&chain.genesis);
        let public = key.public();
        let own = (0u16..)
            .zip(log.keys())
            .find(|(_, known)| known.key() == public);
        let signer = own.map(|(validator, _)| (validator, key));
        let board = Self {
            id: chain.genesis.chain(),
            files: Files::open(disk, folder)?,
            pins: Mutex::default(),
            latest: watch::channel(None).0,
            chain,
            log,
            signer,
            period_ms,
            witnesses,
            metrics,
        };
        board.restore()?;
        Ok(board)
    }

    fn restore(&self) -> Result<(), CheckpointFault> {
        let mut pins = self.pins();
        if let (Some(note), Some((validator, key))) = (self.files.read(SIGNED)?, &self.signer) {
            let damaged = |why: &str| self.files.damaged(SIGNED, why);
            let signers = self.log.signers(&note);
            let checkpoint = Checkpoint::parse(note.text());
            let checkpoint = checkpoint.filter(|_| signers == Ok(vec![*validator]));
            let checkpoint = checkpoint.filter(|read| read.origin == self.log.origin());
            let checkpoint = checkpoint.ok_or_else(|| damaged("not signed by this validator"))?;
            let head = SignedHead::new(*validator, &checkpoint, checkpoint.sign(key));
            self.must_begin_with(head.size, head.root)?;
            pins.own = Some(head);
            remember(&mut pins, head);
        }
        if let Some(note) = self.files.read(LATEST)? {
            let damaged = |error: CheckpointError| self.files.damaged(LATEST, &error.to_string());
            let signed = self.log.check(note).map_err(damaged)?;
            let Checkpoint { size, root, .. } = signed.checkpoint;
            self.must_begin_with(size, root)?;
            self.pin(&mut pins, signed);
        }
        Ok(())
    }

    /// The log on disk must begin with what was signed before, as far as it
    /// is there again.
    fn must_begin_with(&self, size: u64, signed: Hash) -> Result<(), CheckpointFault> {
        if size > self.log_size() {
            return Ok(());
        }
        let found = self.chain.log.root(size).map_err(unreadable)?;
        match found == signed {
            true => Ok(()),
            false => Err(CheckpointFault::Exchanged {
                size,
                signed,
                found,
            }),
        }
    }

    /// Entries that committed blocks made.
    pub(crate) fn log_size(&self) -> u64 {
        self.chain.read(|committed| committed.state.log().size())
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain whose log it is.
    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The newest checkpoint with a quorum, whenever there is another or it
    /// was cosigned.
    pub(crate) fn follow(&self) -> watch::Receiver<Option<Arc<SignedCheckpoint>>> {
        self.latest.subscribe()
    }

    /// Ends all signing and writing; waits for what is being written.
    pub(crate) fn close(&self) {
        self.pins().closed = true;
    }

    /// Whether a block of this time may be the first of its period.
    pub(crate) fn may_be_due(&self, time_ms: u64) -> bool {
        self.pins().period != Some(time_ms / self.period_ms)
    }

    /// Signs the head of the period's first block, unless that was done; the
    /// notice for the others.
    pub(crate) fn sign_due(&self) -> Result<Option<Vec<u8>>, CheckpointFault> {
        let last = self
            .chain
            .read(|committed| committed.state.header().copied());
        let Some(last) = last.filter(|last| self.may_be_due(last.time.0)) else {
            return Ok(None);
        };
        let header = first_of_period(&self.chain, last, self.period_ms)?;
        let mut pins = self.pins();
        pins.period = Some(header.time.0 / self.period_ms);
        let Some((validator, key)) = self.signer.as_ref().filter(|_| !pins.closed) else {
            return Ok(None);
        };
        let next = Checkpoint::new(&self.id, header.log_size, header.log_root);
        if let Some(own) = pins.own {
            if own.size > next.size {
                return Ok(None);
            }
            self.must_begin_with(own.size, own.root)?;
            if own.size == next.size {
                return Ok(None);
            }
        }
        let head = SignedHead::new(*validator, &next, next.sign(key));
        let note = head.note(&self.id, &self.log);
        let note = note.expect("this validator's own signature verifies");
        // Only what is on disk may leave.
        self.files.write(SIGNED, &note)?;
        pins.own = Some(head);
        remember(&mut pins, head);
        self.metrics.checkpoint_signed.set(next.size as i64);
        self.settle(&mut pins)?;
        Ok(Some(head.encode()))
    }

    /// The notice to repeat: a lost one is not missed.
    pub(crate) fn own(&self) -> Option<Vec<u8>> {
        self.pins().own.map(|head| head.encode())
    }

    /// Takes in what another validator sent.
    pub(crate) fn hear(&self, notice: &[u8]) -> Result<(), CheckpointFault> {
        let head = match SignedHead::decode(notice) {
            Ok(head) => head,
            Err(error) => {
                warn!(%error, "a notice was dropped");
                return Ok(());
            }
        };
        let mut pins = self.pins();
        let known = pins.heard.get(&head.validator);
        if known.is_some_and(|heads| heads.iter().any(|(known, _)| *known == head)) {
            return Ok(());
        }
        if head.note(&self.id, &self.log).is_none() {
            warn!(
                validator = head.validator,
                "a head with a false signature was dropped"
            );
            return Ok(());
        }
        remember(&mut pins, head);
        self.settle(&mut pins)
    }

    /// Looks again at what waited for blocks.
    pub(crate) fn review(&self) -> Result<(), CheckpointFault> {
        self.settle(&mut self.pins())
    }

    /// Compares what was heard with the log, and pins the newest head that a
    /// quorum signed.
    fn settle(&self, pins: &mut Pins) -> Result<(), CheckpointFault> {
        if pins.closed {
            return Ok(());
        }
        let size = self.log_size();
        let mut roots = BTreeMap::new();
        let mut signed: BTreeMap<u64, BTreeMap<u16, Signature>> = BTreeMap::new();
        let mut strangers = Vec::new();
        for (head, same) in pins.heard.values_mut().flatten() {
            if head.size > size {
                continue;
            }
            if same.is_none() {
                let root = match roots.get(&head.size) {
                    Some(root) => *root,
                    None => self.chain.log.root(head.size).map_err(unreadable)?,
                };
                roots.insert(head.size, root);
                *same = Some(root == head.root);
                if root != head.root {
                    strangers.push((*head, root));
                }
            }
            if *same == Some(true) {
                let by = signed.entry(head.size).or_default();
                by.insert(head.validator, head.signature);
            }
        }
        for (head, found) in strangers {
            self.accuse(pins, &head, found)?;
        }
        let quorum = self.log.quorum();
        let newest = signed.into_iter().rev().find(|(_, by)| by.len() >= quorum);
        match newest {
            Some((size, by)) => self.publish(pins, size, by),
            None => Ok(()),
        }
    }

    /// Keeps what a validator signed that is not of this node's log.
    fn accuse(
        &self,
        pins: &mut Pins,
        head: &SignedHead,
        found: Hash,
    ) -> Result<(), CheckpointFault> {
        self.metrics.checkpoint_conflicts.inc();
        error!(
            validator = head.validator, size = head.size, theirs = %head.root, ours = %found,
            "a validator signed another history than this node's: see HOME/checkpoints, and \
             `tally checkpoint compare`"
        );
        if !pins.conflicts.insert(head.validator) {
            return Ok(());
        }
        let name = format!("conflict-{}", head.validator);
        if self.files.read(&name)?.is_none() {
            let note = head.note(&self.id, &self.log).expect("it was verified");
            self.files.write(&name, &note)?;
        }
        Ok(())
    }

    /// Pins a head with its signatures, if it says more than the latest.
    fn publish(
        &self,
        pins: &mut Pins,
        size: u64,
        mut by: BTreeMap<u16, Signature>,
    ) -> Result<(), CheckpointFault> {
        let mut cosignatures = Vec::new();
        if let Some(latest) = pins.shown.latest() {
            let known = &latest.signed;
            if size < known.checkpoint.size {
                return Ok(());
            }
            let same = size == known.checkpoint.size;
            if same && by.keys().all(|v| known.signers.contains(v)) {
                return Ok(());
            }
            self.must_begin_with(known.checkpoint.size, known.checkpoint.root)?;
            if same {
                // What a restart has forgotten is still in the note.
                for line in known.note.signatures() {
                    let of = self.log.keys().iter().position(|key| key.is_named_by(line));
                    match of {
                        Some(validator) => {
                            let validator = validator as u16;
                            if let Some(signature) = line.signature() {
                                by.entry(validator).or_insert(signature);
                            }
                        }
                        None => cosignatures.push(line.clone()),
                    }
                }
            }
        }
        let root = self.chain.log.root(size).map_err(unreadable)?;
        let checkpoint = Checkpoint::new(&self.id, size, root);
        let note = sign_note(&checkpoint, self.log.keys(), by);
        let note = note.expect("a quorum's note can be read");
        let add = |note: Note, line| note.with(line).unwrap_or(note);
        let note = cosignatures.into_iter().fold(note, add);
        let signed = self.log.check(note).expect("a quorum signed it");
        self.files.write(LATEST, &signed.note)?;
        self.pin(pins, signed);
        Ok(())
    }

    /// Adds a witness's line to the checkpoint that it cosigned, if that is
    /// still the latest or may still be shown.
    pub(crate) fn add_cosignature(
        &self,
        text: &str,
        line: NoteSignature,
    ) -> Result<(), CheckpointFault> {
        let mut pins = self.pins();
        let known = pins.shown.of_text(text).filter(|_| !pins.closed);
        let note = known.and_then(|known| known.signed.note.with(line));
        let Some(signed) = note.and_then(|note| self.log.check(note).ok()) else {
            return Ok(());
        };
        let latest = pins.shown.latest();
        if latest.is_some_and(|latest| latest.signed.checkpoint == signed.checkpoint) {
            self.files.write(LATEST, &signed.note)?;
            self.pin(&mut pins, signed);
        } else {
            // The newer one stays the one to hand in, and the one on disk.
            pins.shown
                .pin(self.pinned(Arc::new(signed)), Instant::now());
        }
        Ok(())
    }

    fn cosignatures(&self, note: &Note) -> usize {
        let times = note.verify(&self.witnesses).unwrap_or_default();
        times.into_iter().flatten().count()
    }

    fn pinned(&self, signed: Arc<SignedCheckpoint>) -> Pinned {
        let cosignatures = self.cosignatures(&signed.note);
        Pinned {
            signed,
            cosignatures,
        }
    }

    /// Makes a checkpoint the latest one.
    fn pin(&self, pins: &mut Pins, signed: SignedCheckpoint) {
        let size = signed.checkpoint.size;
        let signed = Arc::new(signed);
        let pinned = self.pinned(signed.clone());
        let cosignatures = pinned.cosignatures;
        info!(
            size,
            signers = signed.signers.len(),
            cosignatures,
            "checkpoint"
        );
        self.metrics.checkpoint_size.set(size as i64);
        self.metrics
            .checkpoint_cosignatures
            .set(cosignatures as i64);
        pins.shown.pin(pinned, Instant::now());
        self.latest.send_replace(Some(signed));
    }

    /// What `/checkpoint` shows.
    pub(crate) fn served(&self) -> Option<Arc<SignedCheckpoint>> {
        self.pins().shown.shown(Instant::now())
    }
}

fn unreadable(error: impl std::fmt::Display) -> ReadError {
    ReadError(error.to_string())
}

fn remember(pins: &mut Pins, head: SignedHead) {
    let heads = pins.heard.entry(head.validator).or_default();
    heads.push_back((head, None));
    if heads.len() > REMEMBERED {
        heads.pop_front();
    }
}

/// The first block of the period of `last`, the last block's header: the same
/// on every validator. Block 1 is the first of its period.
fn first_of_period(chain: &Chain, last: Header, period_ms: u64) -> Result<Header, ReadError> {
    let header = |height| match chain.header(Height(height))? {
        Some((header, _)) => Ok(header),
        None => Err(unreadable("a block is missing")),
    };
    let period = last.time.0 / period_ms;
    // Times ascend strictly with heights. Steps that double go back to a block
    // of another period: most periods are short, and their blocks in memory.
    let (mut before, mut first, mut step) = (0, last, 1);
    while first.height.0 > 1 {
        let back = header(first.height.0.saturating_sub(step).max(1))?;
        if back.time.0 / period_ms != period {
            before = back.height.0;
            break;
        }
        (first, step) = (back, step * 2);
    }
    // `before` is of another period, or no block at all; `first` is of this.
    while before + 1 < first.height.0 {
        let middle = header(before + (first.height.0 - before) / 2)?;
        if middle.time.0 / period_ms == period {
            first = middle;
        } else {
            before = middle.height.0;
        }
    }
    Ok(first)
}
