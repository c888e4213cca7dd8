//! `tally key`: API keys. A key is the seed of an ed25519 key; the chain
//! knows its public half only, and nobody but its holder has the seed.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use tally_ledger::{
    action::{Action, BindApiKey},
    ids::{AccountNumber, Amount, ApiKeyNumber, Time},
};
use tally_proto::v1::entry::Fact;

use super::{
    args::parse_cap,
    clock::parse_date,
    exit::Exit,
    keys::{KeyFile, KeyKind, random_seed, write_new_file},
    names,
    output::Format,
    submit::SubmitArgs,
};

/// API keys of an account
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Make an API key and bind it to an account (the holder signs, or two issuers)
    #[command(
        after_help = "Example:\n  tally key create --account 3 --out laptop.apikey \\\n    \
        --cap 100 --model tally-base --genesis genesis.json --key ann.key\n  \
        export OPENAI_API_KEY=$(cat laptop.apikey)"
    )]
    Create(Create),
    /// End an API key for good (the holder signs, or one issuer)
    #[command(after_help = "Example:\n  tally key revoke 5 --genesis genesis.json --key ann.key")]
    Revoke(Revoke),
}

/// Arguments of `key create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Account number
    #[arg(long)]
    account: u32,
    /// Where to write the secret (0600)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Most that may ever be charged through it, in CT
    #[arg(long, value_name = "CT", default_value = "unlimited", value_parser = parse_cap)]
    cap: Amount,
    /// UTC date on which it ends
    #[arg(long, value_name = "DATE", default_value = "never", value_parser = parse_date)]
    expires: Time,
    /// Model that it may buy; repeat for each, at most eight; absent: all
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `key revoke`.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// API key number
    api_key: u32,
    #[command(flatten)]
    submit: SubmitArgs,
}

impl KeyCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            KeyCommand::Create(create) => create.run(format),
            KeyCommand::Revoke(Revoke { api_key, submit }) => {
                submit.run(format, Action::RevokeApiKey(ApiKeyNumber(api_key)))
            }
        }
    }
}

impl Create {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        ensure!(!self.out.exists(), "{} exists already", self.out.display());
        let genesis = self.submit.sign.genesis.read()?;
        let models = names::models(&genesis, &self.models)?;
        let seed = random_seed();
        let key = KeyFile::from_seed(KeyKind::ApiKey, &seed).public;
        // The secret is on disk before the chain knows its public half: a
        // key can be bound once, and one without its secret is lost.
        write_secret(&self.out, &seed)?;
        let action = Action::BindApiKey(BindApiKey {
            account: AccountNumber(self.account),
            key,
            models,
            cap: self.cap,
            expires: self.expires,
        });
        let out = self.out.display().to_string();
        let result = self.submit.run_then(format, action, |_| Ok(()));
        match &result {
            Ok(_) => eprintln!("The key is in {out}; it is nowhere else."),
            Err(_) => eprintln!("tally: {out} holds a key that is not bound"),
        }
        result
    }
}

/// An API key as clients send it.
pub(crate) fn secret_text(seed: &[u8; 32]) -> zeroize::Zeroizing<String> {
    tally_gateway_adapter::key::format(seed)
}

/// Writes an API key to a new private file.
pub(crate) fn write_secret(path: &Path, seed: &[u8; 32]) -> anyhow::Result<()> {
    write_new_file(path, secret_text(seed).as_bytes(), 0o600)
}

/// The API key of an entry.
pub(crate) fn api_key_of(entry: &tally_proto::v1::Entry) -> Option<u32> {
    match &entry.fact {
        Some(Fact::Event(event)) => event.api_key,
        _ => None,
    }
}
