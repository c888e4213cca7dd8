//! A stored history, read from its files and verified offline by what
//! [`tally_ledger::verify`] says. Files are opened for reading only; no lock
//! is taken, nothing is cut, and a node may be running on them. Blocks may
//! also come from somebody else: nothing of theirs is believed.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tally_ledger::{
    block::Header,
    execute::{SignatureCheck, Strict, Trusted},
    genesis::{Genesis, GenesisError},
    hash::Hash,
    ids::Height,
    state::State,
    verify::{Beside, Bytes, Divergence, Field, Headers, Replay, read_block},
};

use crate::{
    chain::MAX_BODY,
    storage::{
        BlockReader, LogWalk, ReadOnlyDisk, Record,
        blockfile::BlockFileError,
        logfile::{LogFileError, Slots},
        snapshots,
    },
};

/// How much is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Headers and certificates.
    Roots,
    /// Also every stored transaction and every stored entry of the log.
    Bytes,
    /// Also that execution gives these very roots.
    Replay,
}

impl Level {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Roots => "roots",
            Level::Bytes => "bytes",
            Level::Replay => "replay",
        }
    }
}

/// Where a history is stored.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The block files.
    pub blocks: PathBuf,
    /// The log's files, if there are any.
    pub log: Option<PathBuf>,
    /// Snapshots, which may say which leaf of a state differs.
    pub snapshots: Option<PathBuf>,
}

impl Sources {
    /// Those of a node's data folder.
    pub fn of_data(data: &Path) -> Self {
        let there = |name| Some(data.join(name)).filter(|path: &PathBuf| path.is_dir());
        Sources {
            blocks: data.join("blocks"),
            log: there("log"),
            snapshots: there("snapshots"),
        }
    }
}

/// What to verify.
#[derive(Debug, Clone)]
pub struct Task {
    /// How much.
    pub level: Level,
    /// Take signatures of transactions as checked by the quorum.
    pub trust_signatures: bool,
    /// Execute from this state on, not from the genesis.
    pub from_snapshot: Option<PathBuf>,
    /// Blocks that must be on this history, and who says so.
    pub expected: Vec<(Height, Hash, String)>,
}

/// What was verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Height of the last block.
    pub height: Height,
    /// Its id.
    pub id: Hash,
    /// Number of transactions; 0 if bodies were not looked at.
    pub transactions: u64,
    /// Entries in the log after the last block.
    pub entries: u64,
    /// Entries whose leaves were hashed or executed again.
    pub entries_checked: u64,
    /// Signatures of validators that were checked.
    pub precommits: u64,
    /// First block whose body was looked at, if any was.
    pub from: Option<Height>,
    /// The last block at which the stored log was compared, if it was.
    pub log_to: Option<Height>,
    /// Debits whose detail was dropped, and whose cost nobody can compute any
    /// more.
    pub dropped: u64,
    /// What a reader must know, in sentences.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Why a history is not verified.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is not what it should be.
    #[error(transparent)]
    Diverged(#[from] Divergence),
    /// A file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The genesis cannot start a chain.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// The files are of another chain.
    #[error("{0}")]
    OtherChain(String),
    /// There is no block, or no log where one is needed.
    #[error("{0}")]
    Missing(String),
}

impl From<BlockFileError> for Problem {
    fn from(error: BlockFileError) -> Self {
        match error {
            BlockFileError::Damaged {
                path,
                offset,
                height,
                why,
            } => {
                let expected = format!("a whole one at byte {offset} of {}", path.display());
                Divergence::of_block(height, Field::Record, expected, why).into()
            }
            BlockFileError::Gap {
                path,
                wanted,
                found,
            } => {
                let found = format!("block {found}, first in {}", path.display());
                let expected = format!("block {wanted}");
                Divergence::of_block(wanted, Field::Record, expected, found).into()
            }
            BlockFileError::OtherChain { .. } => Problem::OtherChain(error.to_string()),
            other => Problem::Unreadable(other.to_string()),
        }
    }
}

/// Where blocks come from.
pub trait Blocks {
    /// Height of the last one; 0: there is none.
    fn last(&self) -> Height;
    /// The block of a height up to the last; asked for in order, each once.
    fn read(&mut self, height: Height) -> Result<Record, Problem>;
}

/// Blocks from their files.
struct Stored {
    reader: BlockReader,
    last: Height,
}

impl Blocks for Stored {
    fn last(&self) -> Height {
        self.last
    }

    fn read(&mut self, height: Height) -> Result<Record, Problem> {
        let record = self.reader.read(height)?;
        let gone = || Problem::Unreadable(format!("block {height} went away while it was read"));
        record.ok_or_else(gone)
    }
}

/// Verifies a stored history. `progress` is told the height at hand and the
/// last.
pub fn verify(
    genesis: &Genesis,
    sources: &Sources,
    task: &Task,
    progress: &mut dyn FnMut(Height, Height),
) -> Result<Report, Problem> {
    let chain = genesis.chain();
    let (reader, last, torn) = BlockReader::open(&ReadOnlyDisk, &sources.blocks, &chain)?;
    let mut blocks = Stored { reader, last };
    let mut report = verify_blocks(genesis, &mut blocks, sources, task, progress)?;
    if let Some(torn) = torn {
        let note = format!(
            "{} ends in {} bytes at byte {} that are no whole record of block {}: taken as the \
             history's end",
            torn.path.display(),
            torn.bytes,
            torn.offset,
            torn.height
        );
        report.notes.insert(0, note);
    }
    Ok(report)
}

/// Verifies a history whose blocks come from anywhere; `beside` is what else
/// is stored of it.
pub fn verify_blocks(
    genesis: &Genesis,
    blocks: &mut dyn Blocks,
    beside: &Sources,
    task: &Task,
    progress: &mut dyn FnMut(Height, Height),
) -> Result<Report, Problem> {
    let started = Instant::now();
    let mut run = Run::open(genesis, blocks, beside, task)?;
    for height in 1..=run.last.0 {
        progress(Height(height), run.last);
        if !run.block(Height(height))? {
            break;
        }
    }
    let mut report = run.finish()?;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What is beyond the headers.
enum Deep {
    No,
    Bytes(Box<Bytes>),
    Replay(Box<Replay>),
    /// The blocks up to this height are those of a snapshot.
    From(Height, Vec<u8>),
}

struct Run<'a> {
    genesis: &'a Genesis,
    sources: &'a Sources,
    task: &'a Task,
    blocks: &'a mut dyn Blocks,
    last: Height,
    log: Option<LogWalk>,
    headers: Headers,
    deep: Deep,
    report: Report,
}

impl<'a> Run<'a> {
    fn open(
        genesis: &'a Genesis,
        blocks: &'a mut dyn Blocks,
        sources: &'a Sources,
        task: &'a Task,
    ) -> Result<Self, Problem> {
        let headers = Headers::new(genesis)?;
        let last = blocks.last();
        if last.0 == 0 {
            let folder = sources.blocks.display();
            return Err(Problem::Missing(format!(
                "{folder}: no whole block; a node's block files are in HOME/data/blocks"
            )));
        }
        let log = match (&sources.log, task.level) {
            (Some(folder), Level::Bytes | Level::Replay) => {
                let open = LogWalk::open(&ReadOnlyDisk, folder);
                Some(open.map_err(|error| Problem::Unreadable(error.to_string()))?)
            }
            _ => None,
        };
        if log.is_none() && task.level == Level::Bytes {
            return Err(Problem::Missing(
                "level `bytes` compares the log's files with the blocks, and there are none: \
                 name them with --log beside --blocks, or ask for level `replay`, which needs \
                 blocks only"
                    .into(),
            ));
        }
        let run = Run {
            genesis,
            sources,
            task,
            blocks,
            last,
            log,
            headers,
            deep: start(genesis, task)?,
            report: Report {
                height: Height(0),
                id: genesis.chain().0,
                transactions: 0,
                entries: 0,
                entries_checked: 0,
                precommits: 0,
                from: None,
                log_to: None,
                dropped: 0,
                notes: Vec::new(),
                seconds: 0.0,
            },
        };
        if let Deep::From(height, _) = &run.deep
            && *height > last
        {
            return Err(Problem::Missing(format!(
                "the snapshot is of block {height}, the last block is {last}"
            )));
        }
        Ok(run)
    }

    fn note(&mut self, note: String) {
        self.report.notes.push(note);
    }

    /// Verifies the next block; whether to go on.
    fn block(&mut self, height: Height) -> Result<bool, Problem> {
        let record = self.blocks.read(height)?;
        let header = self.headers.next(&record.certificate, &record.body)?;
        let id = self.headers.id();
        for (_, expected, who) in self.task.expected.iter().filter(|(at, ..)| *at == height) {
            if *expected != id {
                let expected = format!("{expected}, as {who} says");
                let field = Field::Header("block id");
                return Err(Divergence::of_block(height, field, expected, id).into());
            }
        }
        let more = self.body(&header, &record.body)?;
        if more {
            self.report.height = height;
            self.report.id = id;
            self.report.entries = header.log_size;
        }
        Ok(more)
    }

    /// What the level asks of a block beyond its header; whether to go on.
    fn body(&mut self, header: &Header, body: &[u8]) -> Result<bool, Problem> {
        let height = header.height;
        match &self.deep {
            Deep::No => return Ok(true),
            Deep::From(at, _) if *at > height => return Ok(true),
            Deep::From(_, snapshot) => {
                let replay = Replay::from_snapshot(self.genesis, snapshot, header)?;
                self.deep = Deep::Replay(Box::new(replay));
                if let Some(log) = &mut self.log {
                    log.skip_to(header.log_size);
                }
                return Ok(true);
            }
            Deep::Bytes(_) | Deep::Replay(_) => {}
        }
        let block = read_block(height, body, MAX_BODY)?;
        let slots = self.slots(height, header.log_size)?;
        let entries = slots.as_ref().map(Slots::entries);
        match (&mut self.deep, &entries) {
            (Deep::Bytes(bytes), Some(entries)) => bytes.block(&block, entries)?,
            (Deep::Bytes(_), None) => return Ok(false),
            (Deep::Replay(replay), entries) => {
                let (genesis, folder) = (self.genesis, self.sources.snapshots.as_deref());
                let kept = || read_kept(genesis, folder?, height);
                let signatures: &dyn SignatureCheck = match self.task.trust_signatures {
                    true => &Trusted,
                    false => &Strict,
                };
                let beside = Beside {
                    entries: entries.as_deref(),
                    state: Some(&kept),
                };
                replay.block(&block, signatures, &beside)?;
            }
            (Deep::No | Deep::From(..), _) => {}
        }
        self.report.from.get_or_insert(height);
        self.report.transactions += block.block().transactions.len() as u64;
        let dropped = block
            .batches()
            .iter()
            .map(|batch| batch.dropped.len() as u64);
        self.report.dropped += dropped.sum::<u64>();
        if slots.is_some() {
            self.report.log_to = Some(height);
        }
        Ok(true)
    }

    /// The stored entries of a block, as long as there are some.
    fn slots(&mut self, height: Height, log_size: u64) -> Result<Option<Slots>, Problem> {
        let Some(log) = &mut self.log else {
            return Ok(None);
        };
        let index = log.next_index();
        match log.read_to(log_size) {
            Ok(Some(slots)) => Ok(Some(slots)),
            Ok(None) => {
                let size = log.size();
                self.log = None;
                if index == 0 {
                    let why = format!("the log's files have {size} entries, block 1 has more");
                    return Err(Problem::Missing(why));
                }
                let what = match self.task.level {
                    Level::Bytes => "taken as the history's end",
                    _ => "entries from there on were not compared with them",
                };
                self.note(format!(
                    "the log's files end within block {height}, the last block is {}: {what}",
                    self.last
                ));
                Ok(None)
            }
            Err(LogFileError::Damaged { path, index }) => {
                let expected = format!("a whole one in {}", path.display());
                let field = Field::Record;
                let wrong = Divergence::of_block(height, field, expected, "a damaged slot");
                Err(wrong.at_entry(index).into())
            }
            Err(error) => Err(Problem::Unreadable(error.to_string())),
        }
    }

    fn finish(mut self) -> Result<Report, Problem> {
        let mut checked = 0;
        match &self.deep {
            Deep::Bytes(bytes) => checked = bytes.log().size(),
            Deep::Replay(replay) => {
                replay.check_balances()?;
                checked = replay.entries();
            }
            Deep::No | Deep::From(..) => {}
        }
        if self.report.dropped > 0 {
            self.note(format!(
                "{} debits have no detail any more: what they cost is what the certified log \
                 says, and was not computed again",
                self.report.dropped
            ));
        }
        if let Some(log) = &self.log
            && log.size() > self.report.entries
        {
            let beyond = log.size() - self.report.entries;
            self.note(format!(
                "{beyond} entries in the log's files are beyond the last block: not looked at"
            ));
        }
        let late: Vec<_> = (self.task.expected.iter())
            .filter(|(height, ..)| *height > self.report.height || height.0 == 0)
            .collect();
        if let Some((height, id, who)) = late.first() {
            let expected = format!("block {id}, as {who} says");
            let found = format!("blocks 1 to {}", self.report.height);
            let field = Field::Header("block id");
            return Err(Divergence::of_block(*height, field, expected, found).into());
        }
        let Run {
            headers, report, ..
        } = self;
        Ok(Report {
            precommits: headers.precommits(),
            entries_checked: checked,
            ..report
        })
    }
}

fn start(genesis: &Genesis, task: &Task) -> Result<Deep, Problem> {
    Ok(match (task.level, &task.from_snapshot) {
        (Level::Roots, _) => Deep::No,
        (Level::Bytes, _) => Deep::Bytes(Box::new(Bytes::new(genesis))),
        (Level::Replay, None) => Deep::Replay(Box::new(Replay::new(genesis)?)),
        (Level::Replay, Some(path)) => {
            let unreadable =
                |why: String| Problem::Unreadable(format!("{}: {why}", path.display()));
            let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
            let state = State::from_snapshot(genesis, &bytes);
            let state = state.map_err(|error| {
                Divergence::of_block(
                    Height(0),
                    Field::Header("snapshot"),
                    "a state of this chain",
                    format!("{}: {error}", path.display()),
                )
            })?;
            match state.height() {
                Height(0) => Deep::Replay(Box::new(Replay::new(genesis)?)),
                height => Deep::From(height, bytes),
            }
        }
    })
}

/// The state after a block, if the node kept it.
fn read_kept(genesis: &Genesis, folder: &Path, height: Height) -> Option<State> {
    let bytes = std::fs::read(folder.join(snapshots::file_name(height))).ok()?;
    State::from_snapshot(genesis, &bytes).ok()
}
