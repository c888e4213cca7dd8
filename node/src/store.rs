//! Opens everything on disk and brings it to one point: the last block that
//! is in the block files with its certificate.
//!
//! Order of truth: blocks, then what follows from them. The state comes from
//! the latest snapshot that fits the blocks (or the genesis) and the blocks
//! after it, executed again; the log's files are cut to that snapshot and
//! written again from there; the index takes in what it lacks. A certified
//! block that executes to something else than its header says stops the node.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;
use tally_ledger::{
    block::{Certificate, CertificateError},
    codec::DecodeError,
    execute::{BlockError, Execution, Trusted, check_stored},
    genesis::{Genesis, GenesisError},
    ids::Height,
    merkle::Frontier,
    redacted::StoredBlock,
    state::{State, genesis_entry},
    transaction::TransactionId,
};
use tracing::{info, warn};

use crate::{
    chain::{Chain, Committed, MAX_BODY, assemble, header_of},
    config::Storage,
    forget::{Erasures, HoldsFile, Sweep, erasures::ErasuresError},
    storage::{
        BlockFiles, Disk, Index, LogFiles, Snapshots, blockfile::BlockFileError, index::IndexError,
        logfile::LogFileError, snapshots::SnapshotFileError,
    },
    view::CommittedBlock,
};

/// Why the store cannot be opened, or cannot go on. All stop the node.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The block files.
    #[error(transparent)]
    Blocks(#[from] BlockFileError),
    /// The log's files.
    #[error(transparent)]
    Log(#[from] LogFileError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotFileError),
    /// The list of erased accounts.
    #[error(transparent)]
    Erasures(#[from] ErasuresError),
    /// A folder cannot be made or emptied.
    #[error("{path}: {error}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// The genesis cannot start a chain.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// A stored block is no block.
    #[error("block {height} on disk is no block: {error}; see what `tally reindex` says")]
    Form {
        /// Which.
        height: Height,
        /// Why.
        error: DecodeError,
    },
    /// A stored block is not certified by this chain's validators.
    #[error("block {height} on disk is not certified: {error}; the block files were tampered with")]
    Uncertified {
        /// Which.
        height: Height,
        /// Why.
        error: CertificateError,
    },
    /// A certified block executes here to something else.
    #[error(
        "certified block {height} does not execute to what a quorum signed: {error}. This \
         program, its memory or its snapshot differs from the others': run the version that they \
         run, delete data/snapshots and start again; nothing was voted for"
    )]
    Diverged {
        /// Which.
        height: Height,
        /// The first field that differs.
        error: BlockError,
    },
}

/// Everything on disk, with its one writer.
#[derive(Debug)]
pub struct Store {
    chain: Arc<Chain>,
    blocks: BlockFiles,
    log: LogFiles,
    index: Index,
    snapshots: Snapshots,
    erasures: Arc<Erasures>,
    snapshot_every: u64,
    /// A snapshot that is being written.
    writing: Option<JoinHandle<Result<(), StoreError>>>,
}

/// A state with the log's files cut to it.
struct Start {
    state: State,
    log: LogFiles,
}

impl Store {
    /// Opens the data folder.
    pub fn open(
        disk: Arc<dyn Disk>,
        data: &Path,
        genesis: Genesis,
        config: &Storage,
    ) -> Result<Self, StoreError> {
        let folder = data.join("blocks");
        let (blocks, cut) =
            BlockFiles::open(disk.clone(), &folder, genesis.chain(), config.segment_bytes)?;
        if let Some(cut) = cut {
            warn!(
                path = %cut.path.display(), offset = cut.offset, bytes = cut.bytes,
                height = cut.height.0, "cut a half-written block off; it was never acknowledged"
            );
        }
        let snapshots = Snapshots::new(disk.clone(), data.join("snapshots"), config.snapshots_kept);
        let started = Instant::now();
        let start = find_start(disk.as_ref(), data, &genesis, &blocks, &snapshots)?;
        let from = start.state.height();
        let erasures = Arc::new(Erasures::open(disk, data)?);
        let (start, certificate) = replay(start, &blocks, &erasures)?;
        let Start { state, log } = start;
        let (height, entries) = (state.height(), state.log().size());
        let index = Index::open(
            &data.join("index"),
            height,
            entries,
            config.index_segment_entries,
        )?;
        let since = Instant::now();
        let committed = Committed {
            state,
            certificate,
            since,
        };
        let chain = Chain::new(
            genesis,
            committed,
            blocks.reader(),
            log.reader(),
            index.reader(),
        );
        let mut store = Self {
            chain: Arc::new(chain),
            blocks,
            log,
            index,
            snapshots,
            erasures,
            snapshot_every: config.snapshot_every,
            writing: None,
        };
        store.catch_up_index()?;
        store.free_erased();
        info!(
            height = height.0,
            entries,
            from = from.0,
            ms = started.elapsed().as_millis() as u64,
            "store opened"
        );
        Ok(store)
    }

    /// If the last file has blocks of an account that was erased and is not
    /// done, the next block begins another, so that this one is complete.
    fn free_erased(&mut self) {
        let files = self.blocks.reader().files();
        let Some((first, _)) = files.last() else {
            return;
        };
        if (self.erasures.pending().iter()).any(|erasure| *first <= erasure.height) {
            self.blocks.begin_file();
        }
    }

    /// For whoever reads.
    pub fn chain(&self) -> Arc<Chain> {
        self.chain.clone()
    }

    /// The index takes in the blocks that it lacks.
    fn catch_up_index(&mut self) -> Result<(), StoreError> {
        let next = self.index.next();
        let mut before = 1;
        if next.0 > 1 {
            let record = self.blocks.reader().read(Height(next.0 - 1))?;
            before = record
                .and_then(|r| header_of(&r.body).ok())
                .map_or(1, |h| h.log_size);
        }
        for height in next.0..=self.blocks.last().0 {
            let record = self.blocks.reader().read(Height(height))?;
            let record = record.expect("every height up to the last is there");
            let block = assemble(record, before, &self.log.reader()).map_err(|error| {
                warn!(height, %error, "a block cannot be indexed");
                IndexError::Damaged
            })?;
            before = block.block.header.log_size;
            self.index.add(&block)?;
        }
        Ok(())
    }

    /// The erased accounts.
    pub fn erasures(&self) -> Arc<Erasures> {
        self.erasures.clone()
    }

    /// For whoever drops details, beside this or instead of it.
    pub fn sweep(&self, holds: HoldsFile) -> Sweep {
        Sweep {
            rewriter: self.blocks.rewriter(),
            log: self.log.reader(),
            holds,
        }
    }

    /// Makes a decided block part of the chain. Block and certificate are
    /// durable before anybody sees anything of it.
    pub fn commit(
        &mut self,
        block: StoredBlock,
        ids: Vec<TransactionId>,
        execution: Execution,
        certificate: Certificate,
        body: &Bytes,
    ) -> Result<Arc<CommittedBlock>, StoreError> {
        let (block, redacted) = block.into_parts();
        let height = block.header.height;
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.finish()?;
        }
        self.blocks.append(height, &certificate, body)?;
        let first_entry = self.log.size();
        self.log
            .append(execution.entries(), execution.leaf_hashes())?;
        let entries = {
            let mut committed = write(&self.chain.committed);
            let entries = committed.state.commit(execution);
            committed.certificate = Some(certificate.clone());
            committed.since = Instant::now();
            entries
        };
        let block = Arc::new(CommittedBlock {
            id: block.header.id(),
            transactions: ids,
            block,
            redacted,
            certificate,
            first_entry,
            entries,
        });
        self.index.add(&block)?;
        self.chain.announce(block.clone());
        // Before a snapshot of this height may be written.
        if self.erasures.take(&block.entries, false)? {
            self.blocks.begin_file();
        }
        if height.0.is_multiple_of(self.snapshot_every) {
            self.snapshot()?;
        }
        Ok(block)
    }

    /// Writes a snapshot of the state as it is, beside what comes next.
    fn snapshot(&mut self) -> Result<(), StoreError> {
        self.finish()?;
        let (height, bytes) = self
            .chain
            .read(|committed| (committed.state.height(), committed.state.snapshot()));
        let (log, snapshots) = (self.log.reader(), self.snapshots.clone());
        self.writing = Some(std::thread::spawn(move || {
            // The log's files must be durable up to here before a start may
            // rely on them.
            log.sync()?;
            snapshots.write(height, &bytes)?;
            info!(height = height.0, bytes = bytes.len(), "snapshot written");
            Ok(())
        }));
        Ok(())
    }

    /// Waits until nothing is being written beside.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        match self.writing.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            warn!(%error, "the last snapshot was not written");
        }
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().expect("nobody panics while it is locked")
}

/// The latest snapshot that is of a stored block and has its log on disk;
/// else the genesis.
fn find_start(
    disk: &dyn Disk,
    data: &Path,
    genesis: &Genesis,
    blocks: &BlockFiles,
    snapshots: &Snapshots,
) -> Result<Start, StoreError> {
    let folder = data.join("log");
    for height in snapshots.heights()? {
        if height > blocks.last() {
            warn!(
                height = height.0,
                "snapshot passed over: it is above the blocks"
            );
            continue;
        }
        let Some(state) = snapshots.read(genesis, height) else {
            continue;
        };
        let record = blocks.reader().read(height)?;
        let stored = record.and_then(|record| header_of(&record.body).ok());
        if stored.as_ref() != state.header() {
            warn!(
                height = height.0,
                "snapshot passed over: it is of another block"
            );
            continue;
        }
        match LogFiles::open(disk, &folder, state.log())? {
            Some(log) => return Ok(Start { state, log }),
            None => warn!(
                height = height.0,
                "snapshot passed over: data/log is shorter"
            ),
        }
    }
    let state = State::genesis(genesis)?;
    let log = LogFiles::open(disk, &folder, &Frontier::new())?;
    let mut log = log.expect("files can always be cut to nothing");
    let entry = genesis_entry(*state.chain());
    log.append(std::slice::from_ref(&entry), &[entry.leaf_hash()])?;
    Ok(Start { state, log })
}

/// Executes the blocks after the start.
fn replay(
    mut start: Start,
    blocks: &BlockFiles,
    erasures: &Erasures,
) -> Result<(Start, Option<Certificate>), StoreError> {
    let reader = blocks.reader();
    let mut certificate = match start.state.height() {
        Height(0) => None,
        height => reader.read(height)?.map(|record| record.certificate),
    };
    for height in start.state.height().0 + 1..=blocks.last().0 {
        let height = Height(height);
        let record = reader
            .read(height)?
            .expect("every height up to the last is there");
        let form = |error| StoreError::Form { height, error };
        let block = StoredBlock::decode(&record.body, MAX_BODY).map_err(form)?;
        let id = block.block().header.id();
        record
            .certificate
            .verify(start.state.chain(), height, &id, start.state.validators())
            .map_err(|error| StoreError::Uncertified { height, error })?;
        let execution = check_stored(&start.state, &block, &Trusted)
            .map_err(|error| StoreError::Diverged { height, error })?;
        start
            .log
            .append(execution.entries(), execution.leaf_hashes())?;
        erasures.take(execution.entries(), true)?;
        start.state.commit(execution);
        certificate = Some(record.certificate);
    }
    assert_eq!(
        start.log.root(),
        start.state.log().root(),
        "the log on disk is the state's"
    );
    Ok((start, certificate))
}

/// Removes everything in a data folder that can be made again from the
/// blocks; the next [`Store::open`] makes it.
pub fn forget_derived(data: &Path) -> Result<(), StoreError> {
    let mut names = ["snapshots", "log", "index"].into_iter();
    names.try_for_each(|name| forget_folder(data, name))
}

/// Removes the index of a data folder; the next start makes it again, of what
/// is in the block files then.
pub fn forget_index(data: &Path) -> Result<(), StoreError> {
    forget_folder(data, "index")
}

fn forget_folder(data: &Path, name: &str) -> Result<(), StoreError> {
    let path = data.join(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Folder { path, error })
        }
        _ => Ok(()),
    }
}
