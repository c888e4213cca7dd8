//! `tally tx`: transactions that several people sign. A file goes from
//! signer to signer; each sees what it says, decoded here from the bytes that
//! are signed, and adds a signature.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    ids::{HOUR_MS, Time},
    transaction::{Author, Body, transaction_id},
};

use super::{
    clock::{parse_duration, show_date},
    exit::Exit,
    keys::KeyFile,
    output::{self, Format},
    submit::{SignArgs, WaitArgs, fresh_id, valid_until},
    tx_file::{TxFile, show_author},
};

/// Draft, show, sign and submit transactions of several signers
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TxCommand {
    /// Print what a transaction file asks for, decoded on this machine
    #[command(after_help = "Example:\n  tally tx show unfreeze.json")]
    Show(Show),
    /// Make a transaction file from an action in JSON
    #[command(
        after_help = "Example:\n  echo '{\"Unfreeze\": 7}' > action.json\n  tally tx draft \
        unfreeze.json --action action.json \\\n    \
        --genesis genesis.json --key ann.key --signer person:3\n\n\
        Every command that submits also takes --draft FILE."
    )]
    Draft(Draft),
    /// Submit a transaction file that everybody has signed
    #[command(after_help = "Example:\n  tally tx submit unfreeze.json --node 127.0.0.1:26650")]
    Submit(Submit),
    /// Show a transaction file and add a signature to it
    #[command(after_help = "Example:\n  tally tx sign unfreeze.json --key ben.key")]
    Sign(Sign),
}

/// Arguments of `tx show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Transaction file
    file: PathBuf,
}

/// Arguments of `tx sign`.
#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// Transaction file
    file: PathBuf,
    /// Secret key file of a signer; repeat for each
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
}

/// Arguments of `tx draft`.
#[derive(Debug, clap::Args)]
pub(crate) struct Draft {
    /// Transaction file to write
    file: PathBuf,
    /// The action as JSON, as `tx show --format json` prints it
    #[arg(long, value_name = "FILE")]
    action: PathBuf,
    #[command(flatten)]
    sign: SignArgs,
    /// How long the transaction may wait to be accepted, at most 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    valid_for: Duration,
}

/// Arguments of `tx submit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// Transaction file
    file: PathBuf,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Draft {
    fn run(&self) -> anyhow::Result<TxFile> {
        let at = || format!("action file {}", self.action.display());
        let text = std::fs::read_to_string(&self.action).with_context(at)?;
        let action: Action = serde_json::from_str(&text).with_context(at)?;
        let genesis = self.sign.genesis.read()?;
        let signers = self.sign.read(&genesis)?;
        let body = signers.body(fresh_id(), valid_until(self.valid_for)?, action)?;
        let file = signers.sign(&genesis, &body, b"")?;
        file.write_new(&self.file)?;
        Ok(file)
    }
}

impl TxCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            TxCommand::Show(Show { file }) => show(format, &TxFile::read(&file)?)?,
            TxCommand::Draft(draft) => show(format, &draft.run()?)?,
            TxCommand::Submit(Submit { file, wait }) => {
                let submitted = wait.submit_file(&TxFile::read(&file)?)?;
                output::print(format, &submitted.value)?;
                return Ok(submitted.exit);
            }
            TxCommand::Sign(args) => {
                let file = sign(&args.file, &args.keys)?;
                show(format, &file)?;
            }
        }
        Ok(Exit::Done)
    }
}

/// Adds all signatures, or, if one key does not fit, none.
fn sign(path: &Path, keys: &[PathBuf]) -> anyhow::Result<TxFile> {
    let mut file = TxFile::read(path)?;
    for key in keys {
        file.sign(&KeyFile::read(key)?)?;
    }
    file.replace(path)?;
    Ok(file)
}

fn authors(authors: &[Author]) -> Vec<String> {
    authors.iter().copied().map(show_author).collect()
}

/// What a body says, for people.
pub(crate) fn describe(body: &Body) -> anyhow::Result<Value> {
    let valid_until = match body.valid_until {
        0 => "-".to_owned(),
        hours => show_date(Time(u64::from(hours) * HOUR_MS)),
    };
    Ok(json!({
        "id": transaction_id(&body.encode()),
        "author": show_author(body.author),
        "signers": authors(&body.signers),
        "valid until": valid_until,
        "action": serde_json::to_value(&body.action)?,
    }))
}

/// Prints what a file asks for and who has signed.
pub(crate) fn show(format: Format, file: &TxFile) -> anyhow::Result<()> {
    let mut value = describe(&file.body()?)?;
    value["chain"] = json!(file.chain);
    value["signed by"] = json!(file.signed());
    value["missing"] = json!(authors(&file.missing()?));
    output::print(format, &value)
}
