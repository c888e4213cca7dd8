//! `tally prune`: drops details of old debits from a stopped node's block
//! files, for good.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tally_ledger::ids::{ClassNumber, DAY_MS, Height, Time};
use tally_node::{
    chain::Chain,
    forget::{HoldsFile, Journal, Rule, Sweep, Swept},
    home::Home,
    run::start_logging,
    storage::RealDisk,
    store::{Store, forget_index},
};

use super::{
    clock::{now, parse_date, show_date},
    exit::Exit,
    output::{self, Format},
};

/// Example of the command.
pub(crate) const EXAMPLE: &str = "\
Example:
  tally prune --home v0 --before 2026-01-01 --dry-run
  tally prune --home v0 --before 2026-01-01 --class innovation --class priority
  tally prune --home v0 --before 120000
  tally prune --home v0 --by-retention

The node must not run. Details (salt, model, usage, times, project, hold, queue
place) of receipts in blocks before the date or height go for good; receipts,
totals and proofs stay, and the node replays and serves as before. What a legal
hold keeps stays (`tally hold list`). --by-retention takes the days of each
class from [retention] in config.toml:

  [retention]
  innovation = 400
  priority = 90";

/// What is dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Details of receipts.
    #[default]
    Receipts,
}

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("age").required(true)))]
pub(crate) struct Prune {
    /// The node's home; the node must not run
    #[arg(long, value_name = "DIR", env = "TALLY_HOME")]
    home: PathBuf,
    /// Of blocks before this UTC date, or below this height
    #[arg(long, value_name = "DATE|HEIGHT", group = "age", value_parser = parse_before)]
    before: Option<Before>,
    /// By each class's days in config.toml
    #[arg(long, group = "age", conflicts_with = "classes")]
    by_retention: bool,
    /// What to drop
    #[arg(long, value_enum, default_value_t)]
    kind: Kind,
    /// Only of this class; repeat for each
    #[arg(long = "class", value_name = "NAME")]
    classes: Vec<String>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// A point in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Height(Height),
    Time(Time),
}

fn parse_before(text: &str) -> Result<Before, String> {
    if let Ok(height) = text.parse() {
        return Ok(Before::Height(Height(height)));
    }
    let time = parse_date(text).map_err(|error| format!("{error}, and no height"))?;
    Ok(Before::Time(time))
}

/// The first block that is not before a time.
fn first_at(chain: &Chain, time: Time) -> anyhow::Result<Height> {
    let (mut low, mut high) = (1, chain.last().0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let header = chain.header_at(Height(middle))?;
        let header = header.context("a block up to the last is there")?;
        match header.time < time {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    Ok(Height(low))
}

/// Classes by name, with their numbers.
fn classes_of(chain: &Chain) -> BTreeMap<String, ClassNumber> {
    chain.classes().into_iter().collect()
}

impl Prune {
    /// Below which height the details of each class go.
    fn heights(
        &self,
        chain: &Chain,
        retention: &BTreeMap<String, u32>,
    ) -> anyhow::Result<BTreeMap<ClassNumber, Height>> {
        let classes = classes_of(chain);
        let number = |name: &String| {
            let number = classes.get(name).copied();
            number.with_context(|| format!("there is no class `{name}`"))
        };
        let Some(before) = self.before else {
            ensure!(
                !retention.is_empty(),
                "config.toml has no [retention]; see `tally prune --help`"
            );
            let now = now().0;
            let of_class = |(name, days): (&String, &u32)| {
                let since = Time(now.saturating_sub(u64::from(*days) * DAY_MS));
                anyhow::Ok((number(name)?, first_at(chain, since)?))
            };
            return retention.iter().map(of_class).collect();
        };
        let height = match before {
            Before::Height(height) => height,
            Before::Time(time) => first_at(chain, time)?,
        };
        if self.classes.is_empty() {
            return Ok(classes.into_values().map(|class| (class, height)).collect());
        }
        let of_class = |name| anyhow::Ok((number(name)?, height));
        self.classes.iter().map(of_class).collect()
    }

    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let Kind::Receipts = self.kind;
        let home = Home::new(&self.home);
        let (config, genesis) = (home.config()?, home.genesis()?);
        start_logging(&config.log);
        let _lock = home.lock()?;
        let store = Store::open(Arc::new(RealDisk), &home.data(), genesis, &config.storage)?;
        let chain = store.chain();
        let mut rule = Rule {
            before: self.heights(&chain, &config.retention)?,
            ..Rule::default()
        };
        let classes = describe_classes(&chain, &rule);
        let sweep = store.sweep(HoldsFile::of(home.folder()));
        let mut swept = sweep.all(&mut rule, true)?;
        drop((store, chain));
        if !self.dry_run {
            if swept.dropped > 0 {
                swept = drop_details(&home, &sweep, &mut rule, &swept, &classes)?;
            }
            // Also what a run that was killed before has renamed.
            sweep.rewriter.sync()?;
        }
        output::print(format, &describe(self.dry_run, &swept, &classes))?;
        Ok(Exit::Done)
    }
}

/// Drops what the rule says, and writes down what: what is to go before
/// anything does, each file when it was written again, and the sum.
fn drop_details(
    home: &Home,
    sweep: &Sweep,
    rule: &mut Rule,
    planned: &Swept,
    classes: &[Value],
) -> anyhow::Result<Swept> {
    let journal = Journal::of(home.folder());
    let note = |what, fields| {
        let noted = journal.append(what, fields);
        noted.with_context(|| format!("writing {}", journal.path().display()))
    };
    let begins = json!({ "details": planned.dropped, "classes": classes });
    note("prune begins", begins)?;
    // It finds receipts by their holds, which are of the details. If this is
    // killed, it is gone before the first detail is.
    forget_index(&home.data())?;
    let mut swept = Swept::default();
    for (first, last) in sweep.files(rule)? {
        let one = sweep.file(first, last, rule, false)?;
        if one.files > 0 {
            let fields = json!({
                "file": first,
                "details": one.dropped,
                "bytes": one.before.saturating_sub(one.after),
            });
            note("details of a file pruned", fields)?;
        }
        swept.add(&one);
    }
    note("details pruned", describe(false, &swept, classes))?;
    Ok(swept)
}

fn describe(dry: bool, swept: &Swept, classes: &[Value]) -> Value {
    json!({
        "dry run": if dry { "yes, nothing was changed" } else { "no" },
        "details dropped": swept.dropped,
        "details kept by a legal hold": swept.held,
        "blocks": swept.blocks,
        "files written again": swept.files,
        "bytes before": swept.before,
        "bytes after": swept.after,
        "classes": classes,
    })
}

/// Each class that is pruned, and up to where.
fn describe_classes(chain: &Chain, rule: &Rule) -> Vec<Value> {
    let names: BTreeMap<_, _> = chain.classes().into_iter().map(|(n, c)| (c, n)).collect();
    let class = |(class, height): (&ClassNumber, &Height)| {
        let begins = chain.header_at(*height).ok().flatten();
        json!({
            "class": names.get(class),
            "below height": height,
            "which began": begins.map(|header| show_date(header.time)),
        })
    };
    rule.before.iter().map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_height_and_all_else_a_date() {
        assert_eq!(parse_before("120000"), Ok(Before::Height(Height(120_000))));
        assert_eq!(parse_before("1970-01-02"), Ok(Before::Time(Time(DAY_MS))));
        assert!(parse_before("yesterday").unwrap_err().contains("no height"));
    }
}
