//! `tally keypair`: the keys with which people, gateways and holders sign.

use std::path::PathBuf;

use serde_json::json;

use super::{
    exit::Exit,
    keys::{KeyFile, KeyKind, public_path},
    output::{self, Format},
};

/// Keys of persons, gateways and account holders
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeypairCommand {
    /// Make a secret key file (0600) and its public file
    #[command(
        after_help = "Example:\n  tally keypair create ann.key --kind person\n\n\
        Writes ann.key, which stays with its owner, and ann.pub, to hand to others."
    )]
    Create(Create),
    /// Print what a key file says, without the secret
    #[command(after_help = "Example:\n  tally keypair show ann.key")]
    Show(Show),
    /// Write down the number that the ledger gave to a key's owner
    #[command(after_help = "Example:\n  tally keypair number ann.key 3")]
    Number(Number),
}

/// Arguments of `keypair create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Secret key file to write; the public one gets the ending .pub
    file: PathBuf,
    /// Who signs with it
    #[arg(long, value_enum)]
    kind: KeyKind,
}

/// Arguments of `keypair show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Key file, secret or public
    file: PathBuf,
}

/// Arguments of `keypair number`.
#[derive(Debug, clap::Args)]
pub(crate) struct Number {
    /// Secret key file
    file: PathBuf,
    /// The person's, gateway's, account's or API key's number
    number: u32,
}

impl KeypairCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let (key, path) = match self {
            KeypairCommand::Create(Create { file, kind }) => (create(&file, kind)?, file),
            KeypairCommand::Show(Show { file }) => (KeyFile::read(&file)?, file),
            KeypairCommand::Number(Number { file, number }) => {
                KeyFile::set_number(&file, number)?;
                (KeyFile::read(&file)?, file)
            }
        };
        let value = json!({
            "file": path,
            "kind": key.kind.name(),
            "number": key.number,
            "public": key.public,
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

/// Generates a key and writes both files.
pub(crate) fn create(path: &std::path::Path, kind: KeyKind) -> anyhow::Result<KeyFile> {
    let public = public_path(path);
    anyhow::ensure!(
        public != path,
        "{}: .pub is for public files; choose .key",
        path.display()
    );
    anyhow::ensure!(!public.exists(), "{} exists already", public.display());
    let key = KeyFile::generate(kind);
    key.write_new(path)?;
    key.public_part().write_new(&public)?;
    Ok(key)
}
