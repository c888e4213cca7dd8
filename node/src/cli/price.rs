//! `tally price`: price tables and quotes. A quote is computed here, by the
//! same function as every validator's (I4), and prints the formula with its
//! numbers.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    genesis::Genesis,
    ids::{Amount, TableVersion},
    price::{Model, PriceTable, Usage},
    tree::Table,
};
use tally_proto::v1::GetStatusRequest;

use super::{
    args::{GenesisArg, parse_amount, parse_count, runtime},
    client::{NodeArg, failure},
    exit::Exit,
    genesis_config::{ModelConfig, price_table},
    output::{self, Format},
    submit::SubmitArgs,
};

/// Price tables and quotes
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PriceCommand {
    /// Compute what a request costs, offline, and print the formula
    #[command(
        after_help = "Example:\n  tally price quote --genesis genesis.json \\\n    \
        --model tally-base --count input=1200 --count cached_input=1000 --count output=300"
    )]
    Quote(Quote),
    /// Print the price table in force, proven by the validators' signatures
    #[command(after_help = "Example:\n  tally price show --genesis genesis.json")]
    Show(Show),
    /// Set the next version of the price table (admins sign)
    #[command(after_help = SET_EXAMPLE)]
    Set(Set),
}

const SET_EXAMPLE: &str = "\
Example:
  tally price set --models prices.toml --genesis genesis.json \\
      --key admin-0.key --key admin-1.key

The file holds all models, as [[model]] of `tally genesis example`. The table
is in force from the block after its own.";

/// Arguments of `price show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Version; absent: the one in force
    #[arg(long)]
    version: Option<u32>,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `price set`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// File with all models
    #[arg(long, value_name = "FILE")]
    models: PathBuf,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// A file of models.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelsFile {
    #[serde(rename = "model")]
    models: Vec<ModelConfig>,
}

/// Arguments of `price quote`.
#[derive(Debug, clap::Args)]
pub(crate) struct Quote {
    /// Genesis file: quotes from price table 1
    #[arg(
        long,
        env = "TALLY_GENESIS",
        value_name = "FILE",
        required_unless_present = "table"
    )]
    genesis: Option<PathBuf>,
    /// Price table as JSON, as `price show --format json` prints it
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Name of the model
    #[arg(long)]
    model: String,
    /// How much of a meter, NAME=COUNT; repeat for each
    #[arg(long = "count", value_name = "METER=N", value_parser = parse_count)]
    counts: Vec<(String, u32)>,
    /// Priority fee in CT
    #[arg(long, value_name = "CT", default_value = "0", value_parser = parse_amount)]
    fee: Amount,
}

impl PriceCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            PriceCommand::Quote(quote) => quote.run(format),
            PriceCommand::Show(show) => show.run(format),
            PriceCommand::Set(set) => set.run(format),
        }
    }
}

impl Show {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let table = read_table(&genesis, &self.node, self.version)?;
        match format {
            Format::Table => output::print(format, &rows(&table))?,
            Format::Json => output::print(format, &table)?,
        }
        Ok(Exit::Done)
    }
}

impl Set {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let at = || format!("prices {}", self.models.display());
        let text = std::fs::read_to_string(&self.models).with_context(at)?;
        let file: ModelsFile = toml::from_str(&text).with_context(at)?;
        let genesis = self.submit.sign.genesis.read()?;
        let now = read_table(&genesis, &self.submit.wait.node, None)?;
        let next = TableVersion(now.version.0 + 1);
        let table = price_table(next, &file.models).with_context(at)?;
        self.submit.run(format, Action::SetPriceTable(table))
    }
}

/// A price table of the state, proven; the last version if none is named.
/// Leaf n holds version n + 1.
fn read_table(
    genesis: &Genesis,
    node: &NodeArg,
    version: Option<u32>,
) -> anyhow::Result<PriceTable> {
    runtime()?.block_on(async {
        let mut client = node.connect_to(genesis).await?;
        let version = match version {
            Some(version) => version,
            None => {
                let status = client.ledger.get_status(GetStatusRequest {}).await;
                status.map_err(|e| failure(&e))?.into_inner().table
            }
        };
        let number = version.checked_sub(1).context("versions count from 1")?;
        let (_, table): (_, PriceTable) = client
            .state(genesis, Table::PriceTables, number, "price table at index")
            .await?;
        anyhow::ensure!(
            table.version.0 == version,
            "the node showed another version"
        );
        Ok(table)
    })
}

impl Quote {
    fn run(&self, format: Format) -> anyhow::Result<Exit> {
        let table = self.prices()?;
        let model = table.model_named(&self.model).with_context(|| {
            let names: Vec<&str> = table.models.iter().map(|model| &*model.name).collect();
            format!("no model `{}`; there are: {}", self.model, names.join(", "))
        })?;
        let usage = usage(model, &self.counts)?;
        output::print(format, &explain(model, &usage, self.fee)?)?;
        Ok(Exit::Done)
    }

    fn prices(&self) -> anyhow::Result<PriceTable> {
        let Some(path) = &self.table else {
            let path = self
                .genesis
                .as_ref()
                .context("--genesis or --table is needed")?;
            return Ok(super::genesis::read(path)?.prices);
        };
        let at = || format!("price table {}", path.display());
        let table: PriceTable =
            serde_json::from_str(&std::fs::read_to_string(path).with_context(at)?)
                .with_context(at)?;
        table.validate().with_context(at)?;
        Ok(table)
    }
}

/// Counts by meter, in the model's order.
fn usage(model: &Model, counts: &[(String, u32)]) -> anyhow::Result<Usage> {
    let mut usage = Usage::default();
    for (name, count) in counts {
        let meter = model.meter(name).with_context(|| {
            let names: Vec<&str> = model.meters.iter().map(|meter| &*meter.name).collect();
            format!(
                "{} has no meter `{name}`; it has: {}",
                model.name,
                names.join(", ")
            )
        })?;
        usage.0[meter] = *count;
    }
    Ok(usage)
}

/// The formula with its numbers: one row per term, the sum, one rounding up.
pub(crate) fn explain(model: &Model, usage: &Usage, fee: Amount) -> anyhow::Result<Value> {
    let cost = model.cost(usage, fee)?;
    let own = model.own_counts(usage)?;
    let mut sum = u128::from(model.weight) * u128::from(model.weight_coefficient);
    let mut terms = Vec::new();
    for (i, meter) in model.meters.iter().enumerate() {
        let product = u128::from(own[i]) * u128::from(meter.coefficient);
        sum += product;
        let subsets = usage.0[i] - own[i];
        let count = match subsets {
            0 => own[i].to_string(),
            _ => format!("{} - {subsets} = {}", usage.0[i], own[i]),
        };
        terms.push(json!({
            "term": meter.name,
            "count": count,
            "nano-CT each": meter.coefficient,
            "nano-CT": product.to_string(),
        }));
    }
    terms.push(json!({
        "term": "model weight",
        "count": model.weight.to_string(),
        "nano-CT each": model.weight_coefficient,
        "nano-CT": (u128::from(model.weight) * u128::from(model.weight_coefficient)).to_string(),
    }));
    Ok(json!({
        "model": model.name,
        "terms": terms,
        "sum": format!("{sum} nano-CT"),
        "rounded up": format!("{} micro-CT", sum.div_ceil(1000)),
        "priority fee": fee,
        "cost": cost,
    }))
}

/// One row per meter of each model.
pub(crate) fn rows(table: &PriceTable) -> Vec<Value> {
    let row = |model: &Model, name: &str, coefficient: u64, subset_of: Option<&str>| {
        json!({
            "model": model.number,
            "name": model.name,
            "meter": name,
            "nano-CT each": coefficient,
            "subset of": subset_of,
        })
    };
    let mut rows = Vec::new();
    for model in table.models.iter() {
        for meter in model.meters.iter() {
            let whole = meter
                .subset_of
                .and_then(|whole| model.meters.get(usize::from(whole)));
            let whole = whole.map(|meter| &*meter.name);
            rows.push(row(model, &meter.name, meter.coefficient, whole));
        }
        let weight = format!("weight {}", model.weight);
        rows.push(row(model, &weight, model.weight_coefficient, None));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::genesis_config::{EXAMPLE, GenesisConfig};

    #[test]
    fn a_quote_shows_the_ledgers_own_number() {
        let table = toml::from_str::<GenesisConfig>(EXAMPLE)
            .unwrap()
            .prices()
            .unwrap();
        let model = table.model_named("tally-base").unwrap();
        let counts = [
            ("input", 1200),
            ("cached_input", 1000),
            ("output", 300),
            ("reasoning", 50),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count));
        let usage = usage(model, &counts).unwrap();
        let value = explain(model, &usage, Amount(7)).unwrap();
        // 200*20000 + 1000*5000 + 250*80000 + 50*60000 + 1000 nano-CT
        assert_eq!(value["sum"], "32001000 nano-CT");
        assert_eq!(value["cost"], "0.032008");
        assert_eq!(value["cost"], json!(model.cost(&usage, Amount(7)).unwrap()));
        assert_eq!(value["terms"][0]["count"], "1200 - 1000 = 200");
    }

    #[test]
    fn unknown_meters_and_lawless_counts_are_named() {
        let table = toml::from_str::<GenesisConfig>(EXAMPLE)
            .unwrap()
            .prices()
            .unwrap();
        let model = table.model_named("tally-base").unwrap();
        let error = usage(model, &[("tokens".to_owned(), 1)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("cached_input"), "{error}");
        let lawless = usage(model, &[("cached_input".to_owned(), 1)]).unwrap();
        assert!(explain(model, &lawless, Amount(0)).is_err());
    }
}
