//! Arguments that many commands share, and how their values are read.

use std::path::PathBuf;

use anyhow::Context;
use tally_ledger::{genesis::Genesis, ids::Amount};

use super::finality::WitnessArgs;

/// The genesis that identifies the chain. Never asked of a node: a signature
/// must name the chain that its signer means.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GenesisArg {
    /// Genesis file of the chain
    #[arg(long, env = "TALLY_GENESIS", value_name = "FILE")]
    pub(crate) genesis: PathBuf,
}

impl GenesisArg {
    /// Reads and validates the file.
    pub(crate) fn read(&self) -> anyhow::Result<Genesis> {
        super::genesis::read(&self.genesis)
    }
}

/// Files that prove something, and the genesis that they are verified with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProofFiles {
    /// Files to read
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) genesis: GenesisArg,
    #[command(flatten)]
    pub(crate) witness: WitnessArgs,
}

/// Parses decimal CT.
pub(crate) fn parse_amount(text: &str) -> Result<Amount, String> {
    Amount::parse(text)
        .ok_or_else(|| format!("`{text}` is no amount of CT, such as 12.5 (at most six decimals)"))
}

/// Parses decimal CT or `unlimited`.
pub(crate) fn parse_cap(text: &str) -> Result<Amount, String> {
    match text {
        "unlimited" => Ok(Amount(u64::MAX)),
        text => parse_amount(text),
    }
}

/// Prints what [`parse_cap`] reads.
pub(crate) fn show_cap(amount: Amount) -> String {
    match amount {
        Amount(u64::MAX) => "unlimited".to_owned(),
        amount => amount.to_string(),
    }
}

/// Parses `name=number`.
pub(crate) fn parse_count(text: &str) -> Result<(String, u32), String> {
    let error = || format!("`{text}` is no count such as input=1200");
    let (name, count) = text.split_once('=').ok_or_else(error)?;
    Ok((name.to_owned(), count.parse().map_err(|_| error())?))
}

/// The runtime of commands that talk to others.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
}
