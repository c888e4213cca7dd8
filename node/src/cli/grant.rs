//! `tally grant`: issuing, taking back and listing.

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    account::Account,
    action::{Action, Issue, NewGrant, Revoke},
    codec::List,
    genesis::Genesis,
    ids::{AccountNumber, Amount, GrantNumber, Time},
};

use super::{
    args::{GenesisArg, parse_amount},
    batch::{self, BatchArgs, Row},
    client::NodeArg,
    clock::{parse_date, show_date},
    exit::Exit,
    names,
    output::{self, Format},
    submit::SubmitArgs,
};

const CSV_EXAMPLE: &str = "\
Example:
  tally grant issue --account 3 --class innovation --amount 250 --expires 2026-12-31 \\
      --genesis genesis.json --key issuer.key

  tally grant issue --csv grants.csv --genesis genesis.json --key issuer.key

  grants.csv (running it twice issues nothing twice; empty vests: at once):
    # valid_until: 2026-02-01T00:00:00Z
    # signers: person:2
    ref,account,class,amount,vests,expires
    2026-02/3,3,innovation,250,,2026-03-01";

/// Issue, revoke and list grants
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GrantCommand {
    /// Issue a grant (an issuer signs; above the day limits a second one too)
    #[command(after_help = CSV_EXAMPLE)]
    Issue(IssueArgs),
    /// Take back what a grant still holds (an issuer signs; above the limits a second one too)
    #[command(after_help = "Example:\n  tally grant revoke --account 3 --grant 1 \
        --genesis genesis.json --key issuer.key")]
    Revoke(RevokeArgs),
    /// List an account's live grants, proven by the validators' signatures
    #[command(after_help = "Example:\n  tally grant list --account 3 --genesis genesis.json")]
    List(ListArgs),
}

/// Arguments of `grant issue`.
#[derive(Debug, clap::Args)]
pub(crate) struct IssueArgs {
    /// Account number
    #[arg(long, required_unless_present = "csv")]
    account: Option<u32>,
    /// Class
    #[arg(long, value_name = "NAME", required_unless_present = "csv")]
    class: Option<String>,
    /// How much, in CT
    #[arg(long, value_name = "CT", value_parser = parse_amount, required_unless_present = "csv")]
    amount: Option<Amount>,
    /// UTC date from which it can be spent; absent: at once
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    vests: Option<Time>,
    /// UTC date at which the unspent rest expires, or `never`
    #[arg(long, value_name = "DATE", value_parser = parse_date, required_unless_present = "csv")]
    expires: Option<Time>,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `grant revoke`.
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// Account number
    #[arg(long)]
    account: u32,
    /// Grant number
    #[arg(long)]
    grant: u32,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `grant list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Account number
    #[arg(long)]
    account: u32,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

impl GrantCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            GrantCommand::Issue(issue) => issue.run(format),
            GrantCommand::Revoke(args) => {
                let (account, grant) = (AccountNumber(args.account), GrantNumber(args.grant));
                args.submit
                    .run(format, Action::Revoke(Revoke { account, grant }))
            }
            GrantCommand::List(list) => {
                let genesis = list.genesis.read()?;
                let (_, account) = super::account::read(&genesis, &list.node, list.account)?;
                output::print(format, &rows(&account))?;
                Ok(Exit::Done)
            }
        }
    }
}

/// One grant as an action.
pub(crate) fn issue(grant: NewGrant) -> Action {
    let grants = List::new(vec![grant]).unwrap_or_default();
    Action::Issue(Issue { grants })
}

impl IssueArgs {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        if let Some(csv) = &self.batch.csv {
            let columns = ["account", "class", "amount", "vests", "expires"];
            let (sign, wait) = (&self.submit.sign, &self.submit.wait);
            return batch::run(
                format,
                csv,
                self.batch.dry_run,
                sign,
                wait,
                &columns,
                issue_row,
            );
        }
        let genesis = self.submit.sign.genesis.read()?;
        let grant = NewGrant {
            account: AccountNumber(self.account.context("--account is needed")?),
            class: names::class(&genesis, &self.class.context("--class is needed")?)?,
            amount: self.amount.context("--amount is needed")?,
            vests: self.vests.unwrap_or(Time(0)),
            expires: self.expires.context("--expires is needed")?,
        };
        self.submit.run(format, issue(grant))
    }
}

fn issue_row(genesis: &Genesis, row: &Row<'_>) -> anyhow::Result<Action> {
    let vests = match row.get("vests")? {
        "" => Time(0),
        _ => row.parse("vests", parse_date)?,
    };
    Ok(issue(NewGrant {
        account: AccountNumber(row.parse("account", str::parse)?),
        class: names::class(genesis, row.get("class")?)?,
        amount: row.parse("amount", parse_amount)?,
        vests,
        expires: row.parse("expires", parse_date)?,
    }))
}

/// An account's grants.
pub(crate) fn rows(account: &Account) -> Vec<Value> {
    let state = |revoked: bool, expired: bool, vested: bool| match (revoked, expired, vested) {
        (true, _, _) => "revoked",
        (_, true, _) => "expired",
        (_, _, true) => "available",
        _ => "unvested",
    };
    let row = |grant: &tally_ledger::account::Grant| {
        json!({
            "grant": grant.number,
            "class": grant.class,
            "amount": grant.amount,
            "free": grant.free,
            "leased": grant.leased,
            "vests": show_date(grant.vests),
            "expires": show_date(grant.expires),
            "burn": grant.burn,
            "state": state(grant.revoked, grant.expired, grant.vested),
        })
    };
    account.grants.iter().map(row).collect()
}
