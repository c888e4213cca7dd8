//! `tally class`: classes of compute token, their rules and totals.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    action::{Action, SetClass},
    class::Class,
    codec,
    ids::ClassNumber,
    tree::Table,
};

use super::{
    args::{GenesisArg, runtime, show_cap},
    client::NodeArg,
    exit::Exit,
    genesis_config::ClassConfig,
    output::{self, Format},
    states,
    submit::SubmitArgs,
};

const SET_EXAMPLE: &str = "\
Example:
  tally class set --class 2 --rules bio.toml --genesis genesis.json \\
      --key admin-0.key --key admin-1.key

  bio.toml:
    name = \"bio\"
    models = []                # names of the genesis's price table; empty: all
    max_fee = \"0\"
    burn = \"issuer_only\"       # holder_only, both, neither
    supply_cap = \"unlimited\"
    period_days = 30

A new class gets the next number, see `tally class list`.";

/// Classes of compute token
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClassCommand {
    /// List classes, their rules and totals, proven by the validators' signatures
    #[command(after_help = "Example:\n  tally class list --genesis genesis.json\n  \
        tally class list --genesis genesis.json --out receipts")]
    List(List),
    /// Add a class or change its rules (admins sign)
    #[command(after_help = SET_EXAMPLE)]
    Set(Set),
}

/// Arguments of `class list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
    /// Also write the proven state of all classes and gateways at one height into this folder,
    /// for `tally receipt audit`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Arguments of `class set`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// Class number
    #[arg(long)]
    class: u16,
    /// File with the rules
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    #[command(flatten)]
    submit: SubmitArgs,
}

impl ClassCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            ClassCommand::List(list) => list.run(format),
            ClassCommand::Set(set) => {
                let at = || format!("class rules {}", set.rules.display());
                let text = std::fs::read_to_string(&set.rules).with_context(at)?;
                let config: ClassConfig = toml::from_str(&text).with_context(at)?;
                let genesis = set.submit.sign.genesis.read()?;
                let rules = config.rules(&genesis.prices).with_context(at)?;
                anyhow::ensure!(rules.are_lawful(), "{}: the rules are malformed", at());
                let class = ClassNumber(set.class);
                set.submit
                    .run(format, Action::SetClass(SetClass { class, rules }))
            }
        }
    }
}

impl List {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let rows = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            let mut rows = Vec::new();
            for number in 0.. {
                let leaf = client.leaf(&genesis, Table::Classes, number).await?;
                let Some((_, leaf)) = leaf else { break };
                rows.push(row(number, &codec::decode(&leaf, leaf.len())?));
            }
            if let Some(folder) = &self.out {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("making {}", folder.display()))?;
                states::fetch(&mut client, &genesis, folder).await?;
            }
            anyhow::Ok(rows)
        })?;
        output::print(format, &rows)?;
        Ok(Exit::Done)
    }
}

fn row(number: u32, class: &Class) -> Value {
    let Class { rules, totals, .. } = class;
    json!({
        "class": number,
        "name": rules.name,
        "models": if rules.models.is_empty() { json!("all") } else { json!(rules.models) },
        "max fee": rules.max_fee,
        "burn": rules.burn,
        "supply cap": show_cap(rules.supply_cap),
        "issued": totals.issued,
        "unvested": totals.unvested,
        "available": totals.available,
        "leased": totals.leased,
        "spent": totals.spent,
        "expired": totals.expired,
        "revoked": totals.revoked,
        "surrendered": totals.surrendered,
    })
}
