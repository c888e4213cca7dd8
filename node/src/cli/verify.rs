//! `tally verify`: a whole history, offline: nothing is opened for writing, and
//! no node is asked unless the blocks are to come from one.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use tally_ledger::{genesis::Genesis, hash::Hash, ids::Height};
use tally_node::{
    home::Home,
    storage::Record,
    verify::{self, Blocks, Level, Problem, Report, Sources, Task},
};
use tally_proto::v1;

use super::{
    args::runtime,
    client::{Client, NodeArg, failure},
    exit::{Exit, Failure},
    kind,
    output::{self, Format},
};

pub(super) const EXAMPLE: &str = "\
Levels:
  roots   headers are one chain from the genesis, a quorum signed each
  bytes   also: stored transactions and log are those that the headers commit to
  replay  also: executed again, every block gives the log and state that were signed

Example:
  tally verify --home v0
  tally verify --genesis genesis.json --blocks copy/blocks --level roots
  tally verify --home copy --genesis genesis.json --proof 17.receipt --format json
  tally verify --genesis genesis.json --node 127.0.0.1:26650

A node may be running on the home, and a copy needs only genesis.json and data/blocks \
(for `bytes` also data/log). Exit code 7: the history is not what it should be; the output \
says in which block and field it first is not.";

/// How much to verify, from the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LevelArg {
    /// Headers and certificates
    Roots,
    /// Also every stored transaction and entry
    Bytes,
    /// Also execute everything again
    Replay,
}

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true)))]
pub(crate) struct Verify {
    /// A node's home, or a copy of it
    #[arg(long, group = "source", value_name = "DIR")]
    home: Option<PathBuf>,
    /// A folder of block files, with --genesis
    #[arg(long, group = "source", value_name = "DIR", requires = "genesis")]
    blocks: Option<PathBuf>,
    /// Take the blocks from a node, one after the other, with --genesis
    #[arg(long, group = "source", value_name = "ADDR", requires = "genesis")]
    node: Option<String>,
    /// Certificate that the node's TLS must lead to; needed beyond loopback
    #[arg(long, env = "TALLY_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Secret key file of an auditor to log in with; needed beyond loopback
    #[arg(long, env = "TALLY_LOGIN", value_name = "FILE")]
    login: Option<PathBuf>,
    /// The folder of the log's files that belong to --blocks
    #[arg(long, value_name = "DIR", requires = "blocks")]
    log: Option<PathBuf>,
    /// Genesis file of the chain; without it the home's, whose hash to compare
    #[arg(long, env = "TALLY_GENESIS", value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// How much
    #[arg(long, value_enum, default_value = "replay")]
    level: LevelArg,
    /// Do not check signatures of transactions again when executing: a quorum did
    #[arg(long)]
    trust_signatures: bool,
    /// Execute from a snapshot on, whose state must be the certified one; up to
    /// it, only headers are verified
    #[arg(long, value_name = "FILE")]
    from_snapshot: Option<PathBuf>,
    /// A block that must be on this history
    #[arg(long, value_name = "HEIGHT:BLOCKID", value_parser = parse_expected)]
    expect: Vec<(Height, Hash)>,
    /// A receipt(s), state, history or consistency file whose header must be on
    /// this history
    #[arg(long, value_name = "FILE", num_args = 1..)]
    proof: Vec<PathBuf>,
}

fn parse_expected(text: &str) -> Result<(Height, Hash), String> {
    let error = || format!("`{text}` is no HEIGHT:BLOCKID, the id being 64 hex digits");
    let (height, id) = text.split_once(':').ok_or_else(error)?;
    let height = height.parse().map_err(|_| error())?;
    Ok((Height(height), id.parse().map_err(|_| error())?))
}

impl Verify {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let (sources, genesis) = self.sources()?;
        let task = Task {
            level: match self.level {
                LevelArg::Roots => Level::Roots,
                LevelArg::Bytes => Level::Bytes,
                LevelArg::Replay => Level::Replay,
            },
            trust_signatures: self.trust_signatures,
            from_snapshot: self.from_snapshot.clone(),
            expected: self.expected()?,
        };
        if self.node.is_some() && task.level == Level::Bytes {
            let why = "level `bytes` compares the files of the log, and a node's are not asked for: \
                       take --level roots or replay";
            return Err(Failure::error(Exit::Usage, why));
        }
        if task.level < Level::Replay && (task.from_snapshot.is_some() || task.trust_signatures) {
            let why = "--from-snapshot and --trust-signatures are of level `replay`";
            return Err(Failure::error(Exit::Usage, why));
        }
        let mut bar = Bar::new();
        let mut unreachable = None;
        let mut progress = |at, last| bar.show(at, last);
        let verified = match self.node.clone() {
            None => verify::verify(&genesis, &sources, &task, &mut progress),
            Some(node) => {
                let node = NodeArg {
                    node,
                    ca: self.ca.clone(),
                    login: self.login.clone(),
                    login_genesis: None,
                };
                let mut blocks = NodeBlocks::of(&node, &genesis)?;
                let blocks: &mut NodeBlocks = &mut blocks;
                let verified =
                    verify::verify_blocks(&genesis, blocks, &sources, &task, &mut progress);
                unreachable = blocks.failure.take();
                verified
            }
        };
        bar.clear();
        if let Some(error) = unreachable {
            return Err(error);
        }
        let mut value = json!({
            "verified": "yes",
            "level": task.level.name(),
            "chain": genesis.chain().0,
        });
        let exit = match verified {
            Ok(report) => {
                add_report(&mut value, &task, &report);
                Exit::Done
            }
            Err(Problem::Diverged(wrong)) => {
                value["verified"] = json!(format!("NO: {wrong}"));
                value["height"] = json!(wrong.height);
                let transaction = wrong.transaction.as_deref();
                value["transaction"] = json!(transaction.map(|(index, _)| index));
                value["transaction id"] = json!(transaction.map(|(_, id)| id));
                value["entry"] = json!(wrong.entry);
                value["field"] = json!(wrong.field.to_string());
                value["expected"] = json!(wrong.expected);
                value["found"] = json!(wrong.found);
                Exit::Invalid
            }
            Err(Problem::OtherChain(why)) => return Err(Failure::error(Exit::Invalid, why)),
            Err(error) => return Err(error.into()),
        };
        output::print(format, &value)?;
        Ok(exit)
    }

    fn sources(&self) -> anyhow::Result<(Sources, Genesis)> {
        let home = self.home.as_ref().map(|folder| Home::new(folder.clone()));
        let genesis = match (&self.genesis, &home) {
            (Some(file), _) => super::genesis::read(file)?,
            (None, Some(home)) => home.genesis()?,
            (None, None) => anyhow::bail!("--blocks and --node need --genesis"),
        };
        let sources = match (home, &self.blocks) {
            (Some(home), _) => Sources::of_data(&home.data()),
            (None, blocks) => Sources {
                blocks: blocks.clone().unwrap_or_default(),
                log: self.log.clone(),
                snapshots: None,
            },
        };
        if self.node.is_none() && !sources.blocks.is_dir() {
            anyhow::bail!(
                "there is no folder {}: --home takes a node's home or a copy that has data/blocks, \
                 --blocks the folder of block files itself",
                sources.blocks.display()
            );
        }
        Ok((sources, genesis))
    }

    /// What must be on the history, and who says so.
    fn expected(&self) -> anyhow::Result<Vec<(Height, Hash, String)>> {
        let given = self.expect.iter().map(|(height, id)| (*height, *id));
        let mut all: Vec<_> = given
            .map(|(height, id)| (height, id, "--expect".to_owned()))
            .collect();
        for path in &self.proof {
            let headers = kind::headers(path)?;
            let named = headers.iter().map(|header| {
                let who = path.display().to_string();
                (header.height, header.id(), who)
            });
            all.extend(named);
        }
        Ok(all)
    }
}

fn add_report(value: &mut Value, task: &Task, report: &Report) {
    let replayed = task.level == Level::Replay;
    value["height"] = json!(report.height);
    value["block"] = json!(report.id);
    value["entries"] = json!(report.entries);
    value["validators' signatures"] = json!(report.precommits);
    if task.level > Level::Roots {
        value["bodies from block"] = json!(report.from);
        value["transactions"] = json!(report.transactions);
        value["entries checked"] = json!(report.entries_checked);
        value["debits without detail"] = json!(report.dropped);
        value["stored log compared to block"] = json!(report.log_to);
    }
    value["transactions' signatures"] = json!(match (replayed, task.trust_signatures) {
        (true, false) => "checked",
        (true, true) => "trusted: the quorum checked them",
        (false, _) => "not checked at this level",
    });
    value["expected blocks found"] = json!(task.expected.len());
    value["notes"] = json!(report.notes);
    value["seconds"] = json!((report.seconds * 1000.0).round() / 1000.0);
}

type Answers = Pin<Box<dyn Stream<Item = anyhow::Result<Record>>>>;

/// Blocks from a node, some of them asked for ahead.
struct NodeBlocks {
    runtime: tokio::runtime::Runtime,
    last: Height,
    answers: Answers,
    /// Why there is no further block.
    failure: Option<anyhow::Error>,
}

impl NodeBlocks {
    const AHEAD: usize = 8;

    fn of(node: &NodeArg, genesis: &Genesis) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let mut client = runtime.block_on(node.connect_to(genesis))?;
        let (last, _) = runtime.block_on(async {
            let request = v1::GetHeaderRequest { height: 0 };
            let answer = client.audit.get_header(request).await;
            let header = answer.map_err(|e| failure(&e))?.into_inner().header;
            Ok::<_, anyhow::Error>(
                header
                    .context("the node's answer lacks the header")?
                    .parts()?,
            )
        })?;
        let answers = futures::stream::iter(1..=last.height.0)
            .map(move |height| one_block(client.clone(), height))
            .buffered(Self::AHEAD);
        Ok(NodeBlocks {
            runtime,
            last: last.height,
            answers: Box::pin(answers),
            failure: None,
        })
    }
}

async fn one_block(mut client: Client, height: u64) -> anyhow::Result<Record> {
    let answer = client.audit.get_block(v1::GetBlockRequest { height }).await;
    let answer = answer.map_err(|e| failure(&e))?.into_inner();
    let header = answer
        .header
        .context("the node's answer lacks the header")?;
    let (_, certificate) = header.parts()?;
    Ok(Record {
        height: Height(height),
        certificate,
        body: answer.block,
    })
}

impl Blocks for NodeBlocks {
    fn last(&self) -> Height {
        self.last
    }

    fn read(&mut self, height: Height) -> Result<Record, Problem> {
        let next = self.runtime.block_on(self.answers.next());
        let next = next.unwrap_or_else(|| Err(anyhow::anyhow!("the node has no block {height}")));
        next.map_err(|error| {
            let why = error.to_string();
            self.failure = Some(error);
            Problem::Unreadable(why)
        })
    }
}

/// How far it is, on stderr if somebody watches.
struct Bar {
    terminal: bool,
    shown: Option<Instant>,
}

impl Bar {
    const EVERY: Duration = Duration::from_millis(200);

    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Bar {
            terminal,
            shown: None,
        }
    }

    fn show(&mut self, at: Height, last: Height) {
        let due = self
            .shown
            .is_none_or(|shown| shown.elapsed() >= Self::EVERY);
        if self.terminal && due {
            self.shown = Some(Instant::now());
            let percent = at.0 * 100 / last.0.max(1);
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\rblock {at} of {last}, {percent} % ");
            let _ = err.flush();
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
