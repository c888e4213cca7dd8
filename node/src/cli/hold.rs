//! `tally hold`: legal holds of a node, which keep details from being
//! dropped.

use std::path::PathBuf;

use serde_json::{Value, json};
use tally_ledger::ids::Time;
use tally_node::{
    forget::{Hold, HoldsFile},
    home::Home,
};

use super::{
    clock::{now, show_date},
    exit::Exit,
    output::{self, Format},
};

/// Legal holds of this node: whose details it must keep
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HoldCommand {
    /// Keep details: neither prune nor erase drops them until the hold is removed
    #[command(
        after_help = "Example:\n  tally hold add --home v0 --account 7 --reason 'case 12'\n  \
        tally hold add --home v0 --all --reason 'audit of 2026'\n\n\
        The node may run. When this returns, nothing that the hold keeps is being \
        dropped.\nA hold is of one node: add it on each that must keep the details."
    )]
    Add(Change),
    /// Print the holds
    #[command(after_help = "Example:\n  tally hold list --home v0")]
    List(HomeArg),
    /// End a hold; erased accounts that it kept are erased soon after
    #[command(
        after_help = "Example:\n  tally hold remove --home v0 --account 7 --reason 'case 12 closed'"
    )]
    Remove(Change),
}

/// The node's home.
#[derive(Debug, clap::Args)]
pub(crate) struct HomeArg {
    /// The node's home
    #[arg(long, value_name = "DIR", env = "TALLY_HOME")]
    home: PathBuf,
}

/// Arguments of `hold add` and `hold remove`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("whom").required(true)))]
pub(crate) struct Change {
    #[command(flatten)]
    home: HomeArg,
    /// Whose details
    #[arg(long, group = "whom")]
    account: Option<u32>,
    /// Everybody's details
    #[arg(long, group = "whom")]
    all: bool,
    /// Why; goes into privacy.log, so no names
    #[arg(long)]
    reason: String,
}

impl HomeArg {
    fn holds(&self) -> anyhow::Result<HoldsFile> {
        let home = Home::new(&self.home);
        // It must be one: a hold in another folder would keep nothing.
        home.config()?;
        Ok(HoldsFile::of(home.folder()))
    }
}

fn row(hold: &Hold) -> Value {
    json!({
        "account": hold.account.map_or(json!("all"), |number| json!(number)),
        "reason": hold.reason,
        "since": show_date(Time(hold.since)),
    })
}

impl HoldCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            HoldCommand::Add(args) => {
                let hold = Hold {
                    account: args.account,
                    reason: args.reason,
                    since: now().0,
                };
                let value = row(&hold);
                args.home.holds()?.add(hold)?;
                output::print(format, &value)?;
            }
            HoldCommand::List(home) => {
                let rows: Vec<Value> = home.holds()?.list()?.iter().map(row).collect();
                output::print(format, &rows)?;
            }
            HoldCommand::Remove(args) => {
                let removed = args.home.holds()?.remove(args.account, &args.reason)?;
                output::print(format, &row(&removed))?;
            }
        }
        Ok(Exit::Done)
    }
}
