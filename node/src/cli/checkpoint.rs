//! `tally checkpoint`: the signed head of the log. To verify, the file and the
//! genesis are enough; no node is asked unless its address is given.

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys, SignedCheckpoint},
    note::{NoteSignature, VerifierKey},
    witness::{Relation, relate},
};

use super::{
    args::GenesisArg,
    exit::Exit,
    export::check_tiles,
    finality::{CosignerArgs, check_note, note_of, read_note},
    output::{self, Format},
    tiled::TiledLog,
};

/// Checkpoints: the log's head, signed by validators and cosigned by witnesses
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Print the log's name and the keys that sign for it, for any C2SP witness or client
    #[command(after_help = "Example:\n  tally checkpoint keys --genesis genesis.json")]
    Keys(Keys),
    /// Print what a checkpoint says and who seems to have signed it; believes nothing
    #[command(after_help = "Example:\n  tally checkpoint show http://127.0.0.1:26653/checkpoint")]
    Show(Show),
    /// Verify checkpoints with the genesis: signed by a quorum, cosigned by whom
    #[command(
        after_help = "Example:\n  tally checkpoint verify may.checkpoint --genesis genesis.json \\\n    \
        --witness council.example/w1+bca0f392+BGKmEbRy2JsOX8k8BpufcAtMVS1VvA6HtWAI7xe2sr6+ \
        --witnesses 1\n\nWith --log also every tile and entry is read and must lead to the root."
    )]
    Verify(Verify),
    /// Whether two checkpoints are of one history; names both heads if not
    #[command(after_help = "Example:\n  tally checkpoint compare mine.checkpoint \
        http://127.0.0.1:26653/checkpoint \\\n    --log http://127.0.0.1:26653 --genesis \
        genesis.json\n\nCheckpoints of different sizes need the tiles of the larger one's log. \
        Exit code 7: two\nhistories, and who signed both.")]
    Compare(Compare),
}

/// Arguments of `checkpoint keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Keys {
    #[command(flatten)]
    genesis: GenesisArg,
}

/// Arguments of `checkpoint show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// File, folder of a tiled log, or address
    checkpoint: String,
}

/// Arguments of `checkpoint verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Files, folders of tiled logs, or addresses
    #[arg(required = true)]
    checkpoints: Vec<String>,
    #[command(flatten)]
    genesis: GenesisArg,
    /// Tiled log whose tiles must all lead to it: a folder or an address
    #[arg(long, value_name = "PREFIX")]
    log: Option<String>,
    #[command(flatten)]
    witness: CosignerArgs,
}

/// Arguments of `checkpoint compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// File, folder of a tiled log, or address
    first: String,
    /// Another one
    second: String,
    /// Tiled log of the larger one: a folder or an address
    #[arg(long, value_name = "PREFIX")]
    log: Option<String>,
    #[command(flatten)]
    genesis: GenesisArg,
}

impl CheckpointCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            CheckpointCommand::Keys(keys) => keys.run(format),
            CheckpointCommand::Show(show) => show.run(format),
            CheckpointCommand::Verify(verify) => verify.run(format),
            CheckpointCommand::Compare(compare) => compare.run(format),
        }
    }
}

impl Keys {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let log = LogKeys::new(&self.genesis.read()?);
        let keys = log.keys().iter().map(VerifierKey::to_string);
        let value = json!({
            "log": log.origin(),
            "SHA-256 of it": log.origin_hash(),
            "a quorum is": log.quorum(),
            "keys": keys.collect::<Vec<_>>(),
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

impl Show {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let note = note_of(&self.checkpoint, &read_note(&self.checkpoint)?)?;
        let checkpoint = Checkpoint::parse(note.text()).context("the note is no checkpoint")?;
        let line =
            |line: &NoteSignature| json!({"name": line.name(), "key id": line.id().to_string()});
        let lines: Vec<Value> = note.signatures().iter().map(line).collect();
        let value = json!({
            "log": checkpoint.origin,
            "entries": checkpoint.size,
            "root": checkpoint.root,
            "lines, not verified": lines,
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

impl Verify {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let log = LogKeys::new(&self.genesis.read()?);
        let (mut rows, mut exit) = (Vec::new(), Exit::Done);
        for place in &self.checkpoints {
            let mut row = match self.one(place, &log) {
                Ok(row) => row,
                Err(error) => json!({"verified": exit.take(error)}),
            };
            row["checkpoint"] = json!(place);
            rows.push(row);
        }
        output::print(format, &rows)?;
        Ok(exit)
    }

    fn one(&self, place: &str, log: &LogKeys) -> anyhow::Result<Value> {
        let signed = check_note(place, &read_note(place)?, log)?;
        let finality = self.witness.of(&signed.note)?;
        let mut row = head(&signed);
        row["finality"] = json!(finality.to_string());
        if let Some(tiles) = &self.log {
            let tiles = TiledLog::open(tiles)?;
            let count = check_tiles(&tiles, &signed.checkpoint)?;
            row["tiles"] = json!(count);
        }
        Ok(row)
    }
}

/// What was signed and by whom.
fn head(signed: &SignedCheckpoint) -> Value {
    json!({
        "verified": "yes",
        "entries": signed.checkpoint.size,
        "root": signed.checkpoint.root,
        "validators": signed.signers,
    })
}

impl Compare {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let log = LogKeys::new(&self.genesis.read()?);
        let read = |place: &str| -> anyhow::Result<_> {
            let signed = check_note(place, &read_note(place)?, &log)?;
            Ok((place.to_owned(), signed))
        };
        let mut pair = [read(&self.first)?, read(&self.second)?];
        pair.sort_by_key(|(_, signed)| signed.checkpoint.size);
        let [(_, first), (_, second)] = &pair;
        let (small, large) = (&first.checkpoint, &second.checkpoint);
        let beginning = match &self.log {
            Some(tiles) if small.size < large.size => {
                Some(TiledLog::open(tiles)?.beginning(small.size, large)?)
            }
            _ => None,
        };
        let relation = relate(small, large, beginning);
        let both: Vec<u16> = first
            .signers
            .iter()
            .filter(|signer| second.signers.contains(signer))
            .copied()
            .collect();
        let (verdict, exit) = match relation {
            Relation::Same => ("one history: the same log", Exit::Done),
            Relation::Grown => (
                "one history: the larger log begins with the smaller",
                Exit::Done,
            ),
            Relation::Unknown => (
                "unknown: give the tiles of the larger one's log by --log",
                Exit::Usage,
            ),
            Relation::Fork => (
                "TWO HISTORIES: no log has both heads; validators that signed both have signed a \
                 false one",
                Exit::Invalid,
            ),
        };
        let heads: Vec<Value> = pair
            .iter()
            .map(|(place, signed)| {
                let mut row = head(signed);
                row["checkpoint"] = json!(place);
                row
            })
            .collect();
        let mut value = json!({"verdict": verdict, "heads": heads});
        if relation == Relation::Fork {
            value["signed both"] = json!(both);
            if let Some(root) = beginning {
                value["root of the larger log there"] = json!(root);
            }
        }
        output::print(format, &value)?;
        Ok(exit)
    }
}
