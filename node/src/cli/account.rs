//! `tally account`: holders' soulbound accounts.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    account::Account,
    action::{Action, OpenAccount, Surrender},
    checkpoint::Finality,
    crypto::PublicKey,
    genesis::Genesis,
    ids::{AccountNumber, Amount, GrantNumber, Height},
    tree::Table,
};
use tally_proto::v1;

use super::{
    args::{GenesisArg, parse_amount, runtime},
    batch::{self, BatchArgs, Row},
    client::{NodeArg, failure},
    clock::show_date,
    exit::Exit,
    genesis_config::read_public,
    keys::{KeyFile, KeyKind},
    names,
    output::{self, Format},
    submit::SubmitArgs,
};

const CSV_EXAMPLE: &str = "\
Example:
  tally account open --unit 12 --holder ann.pub --class innovation --class priority \\
      --genesis genesis.json --key issuer.key

  tally account open --csv accounts.csv --genesis genesis.json --key issuer.key

  accounts.csv (running it twice opens nothing twice):
    # valid_until: 2026-02-01T00:00:00Z
    # signers: person:2
    ref,unit,holder,classes
    2026-0017,12,6f1d...64 hex digits of the public key,innovation+priority";

/// Open, read and stop accounts
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AccountCommand {
    /// Open an account for a holder's key (an issuer signs)
    #[command(after_help = CSV_EXAMPLE)]
    Open(Open),
    /// Print an account, proven by the validators' signatures
    #[command(after_help = "Example:\n  tally account show 3 --genesis genesis.json")]
    Show(Show),
    /// Print what all accounts of a unit hold together (its manager or an auditor logs in)
    #[command(
        after_help = "Example:\n  tally account totals --unit 12 --genesis genesis.json \
        --login eva.key\n\nThe sums are that node's word: ask several. A unit of one account \
        shows that account."
    )]
    Totals(Totals),
    /// Stop all spending of an account (one issuer signs)
    #[command(
        after_help = "Example:\n  tally account freeze 3 --genesis genesis.json --key issuer.key"
    )]
    Freeze(Stop),
    /// End a freeze (two issuers sign)
    #[command(
        after_help = "Example:\n  tally account unfreeze 3 --genesis genesis.json \
        --key maker.key --key checker.key"
    )]
    Unfreeze(Stop),
    /// Make all nodes drop the details of an account's receipts so far (two issuers sign,
    /// or the holder and an issuer)
    #[command(
        after_help = "Example:\n  tally account erase 3 --genesis genesis.json \
        --key maker.key --key checker.key\n\n  \
        tally account erase 3 --genesis genesis.json --key ann.key --signer person:2 \\\n      \
        --draft erase.tx\n\n\
        Each node drops them from its block files soon after, unless a legal hold forbids it \
        (`tally hold list`);\n/metrics shows what is pending. It cannot be undone. Totals, receipts \
        and their proofs stay: see\n\"Personal data\" in the README."
    )]
    Erase(Stop),
    /// Give back a part of a grant, for good (the holder signs)
    #[command(
        after_help = "Example:\n  tally account surrender 3 --grant 1 --amount 12.5 \
        --genesis genesis.json --key ann.key"
    )]
    Surrender(SurrenderArgs),
    /// Replace the holder's key (the holder signs, or two issuers)
    #[command(after_help = "Example:\n  tally account rotate-key 3 --new ann-2.pub \
        --genesis genesis.json --key ann.key")]
    RotateKey(RotateKey),
}

/// Arguments of `account open`.
#[derive(Debug, clap::Args)]
pub(crate) struct Open {
    /// Opaque organisational number, for reports
    #[arg(long, required_unless_present = "csv")]
    unit: Option<u32>,
    /// Holder's key file; a secret one gets the account's number written into it
    #[arg(long, value_name = "FILE", required_unless_present = "csv")]
    holder: Option<PathBuf>,
    /// Class, in the order in which requests use them; repeat for each
    #[arg(long = "class", value_name = "NAME")]
    classes: Vec<String>,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `account show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Account number
    account: u32,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `account totals`.
#[derive(Debug, clap::Args)]
pub(crate) struct Totals {
    /// Organisational number
    #[arg(long)]
    unit: u32,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `account freeze` and `unfreeze`.
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// Account number
    account: u32,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `account surrender`.
#[derive(Debug, clap::Args)]
pub(crate) struct SurrenderArgs {
    /// Account number
    account: u32,
    /// Grant number
    #[arg(long)]
    grant: u32,
    /// How much, in CT
    #[arg(long, value_name = "CT", value_parser = parse_amount)]
    amount: Amount,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `account rotate-key`.
#[derive(Debug, clap::Args)]
pub(crate) struct RotateKey {
    /// Account number
    account: u32,
    /// Key file of the new key; a secret one gets the account's number written into it
    #[arg(long, value_name = "FILE")]
    new: PathBuf,
    #[command(flatten)]
    submit: SubmitArgs,
}

impl AccountCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            AccountCommand::Open(open) => open.run(format),
            AccountCommand::Show(show) => show.run(format),
            AccountCommand::Totals(totals) => totals.run(format),
            AccountCommand::Freeze(Stop { account, submit }) => {
                submit.run(format, Action::Freeze(AccountNumber(account)))
            }
            AccountCommand::Unfreeze(Stop { account, submit }) => {
                submit.run(format, Action::Unfreeze(AccountNumber(account)))
            }
            AccountCommand::Erase(Stop { account, submit }) => {
                submit.run(format, Action::Erase(AccountNumber(account)))
            }
            AccountCommand::Surrender(args) => {
                let (account, grant) = (AccountNumber(args.account), GrantNumber(args.grant));
                let action = Action::Surrender(Surrender {
                    account,
                    grant,
                    amount: args.amount,
                });
                args.submit.run(format, action)
            }
            AccountCommand::RotateKey(args) => {
                let key = read_public(&args.new, KeyKind::Account)?;
                let action = Action::RotateHolderKey(AccountNumber(args.account), key);
                args.submit
                    .run_then(format, action, |_| note_number(&args.new, args.account))
            }
        }
    }
}

/// Writes a number into a key file, if that is the secret one.
pub(crate) fn note_number(path: &std::path::Path, number: u32) -> anyhow::Result<()> {
    match KeyFile::read(path)?.secret() {
        Ok(_) => KeyFile::set_number(path, number),
        Err(_) => Ok(()),
    }
}

impl Open {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        if let Some(csv) = &self.batch.csv {
            let columns = ["unit", "holder", "classes"];
            let (sign, wait) = (&self.submit.sign, &self.submit.wait);
            return batch::run(
                format,
                csv,
                self.batch.dry_run,
                sign,
                wait,
                &columns,
                open_row,
            );
        }
        let genesis = self.submit.sign.genesis.read()?;
        let path = self.holder.context("--holder is needed")?;
        let action = Action::OpenAccount(OpenAccount {
            unit: self.unit.context("--unit is needed")?,
            holder: read_public(&path, KeyKind::Account)?,
            classes: names::classes(&genesis, &self.classes)?,
        });
        self.submit.run_then(format, action, |finality| {
            let opened = finality.entries.iter().find_map(account_of);
            opened.map_or(Ok(()), |number| note_number(&path, number))
        })
    }
}

/// The account of an entry.
pub(crate) fn account_of(entry: &tally_proto::v1::Entry) -> Option<u32> {
    match &entry.fact {
        Some(tally_proto::v1::entry::Fact::Event(event)) => event.account,
        _ => None,
    }
}

fn open_row(genesis: &Genesis, row: &Row<'_>) -> anyhow::Result<Action> {
    let classes: Vec<String> = row
        .get("classes")?
        .split('+')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(Action::OpenAccount(OpenAccount {
        unit: row.parse("unit", str::parse)?,
        holder: row.parse("holder", str::parse::<PublicKey>)?,
        classes: names::classes(genesis, &classes)?,
    }))
}

impl Show {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let (height, account) = read(&genesis, &self.node, self.account)?;
        output::print(format, &describe(self.account, height, &account))?;
        Ok(Exit::Done)
    }
}

impl Totals {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let answer = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            let request = v1::GetUnitTotalsRequest { unit: self.unit };
            let answer = client.audit.get_unit_totals(request).await;
            answer.map_err(|e| failure(&e))
        })?;
        let answer = answer.into_inner();
        let header = answer.header.and_then(|certified| certified.header);
        let totals = answer.totals.iter().map(|totals| {
            json!({
                "class": totals.class,
                "issued": Amount(totals.issued),
                "unvested": Amount(totals.unvested),
                "available": Amount(totals.available),
                "leased": Amount(totals.leased),
                "spent": Amount(totals.spent),
                "expired": Amount(totals.expired),
                "revoked": Amount(totals.revoked),
                "surrendered": Amount(totals.surrendered),
            })
        });
        let value = json!({
            "unit": answer.unit,
            "height": header.map_or(0, |header| header.height),
            "accounts": answer.accounts,
            "totals": totals.collect::<Vec<_>>(),
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

/// An account, proven.
pub(crate) fn read(
    genesis: &Genesis,
    node: &NodeArg,
    number: u32,
) -> anyhow::Result<(Height, Account)> {
    runtime()?.block_on(async {
        let mut client = node.connect_to(genesis).await?;
        client
            .state(genesis, Table::Accounts, number, "account")
            .await
    })
}

fn describe(number: u32, height: Height, account: &Account) -> Value {
    let totals = account.totals.iter().map(|(class, totals)| {
        json!({
            "class": class,
            "issued": totals.issued,
            "unvested": totals.unvested,
            "available": totals.available,
            "leased": totals.leased,
            "spent": totals.spent,
            "expired": totals.expired,
            "revoked": totals.revoked,
            "surrendered": totals.surrendered,
        })
    });
    let leases = account.leases.iter().map(|lease| {
        json!({
            "gateway": lease.gateway,
            "lease": lease.number,
            "class": lease.class,
            "api key": lease.api_key,
            "granted": lease.granted,
            "remaining": lease.remaining(),
            "end": show_date(lease.end),
        })
    });
    json!({
        "account": number,
        "proven at height": height,
        // Witnesses see the log, not the state.
        "finality": Finality::Final.to_string(),
        "unit": account.unit,
        "holder": account.holder,
        "frozen": account.frozen,
        "classes": account.classes,
        "entries": account.entries,
        "totals": totals.collect::<Vec<_>>(),
        "grants": super::grant::rows(account),
        "leases": leases.collect::<Vec<_>>(),
        "api keys": account.api_keys,
    })
}
