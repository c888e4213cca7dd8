//! `tally tx`: transactions that several people sign. A file goes from
//! signer to signer; each sees what it says, decoded here from the bytes that
//! are signed, and adds a signature.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tally_ledger::{
    ids::{HOUR_MS, Time},
    transaction::{Author, Body, transaction_id},
};

use super::{
    clock::show_date,
    exit::Exit,
    keys::KeyFile,
    output::{self, Format},
    tx_file::{TxFile, show_author},
};

/// Draft, show, sign and submit transactions of several signers
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TxCommand {
    /// Print what a transaction file asks for, decoded on this machine
    #[command(after_help = "Example:\n  tally tx show unfreeze.json")]
    Show(Show),
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

impl TxCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            TxCommand::Show(Show { file }) => show(format, &TxFile::read(&file)?)?,
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

fn show(format: Format, file: &TxFile) -> anyhow::Result<()> {
    let mut value = describe(&file.body()?)?;
    value["chain"] = json!(file.chain);
    value["signed by"] = json!(file.signed());
    value["missing"] = json!(authors(&file.missing()?));
    output::print(format, &value)
}
