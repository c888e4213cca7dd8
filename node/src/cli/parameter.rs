//! `tally parameter`: the governed numbers of the chain.

use anyhow::{Context, bail};
use serde_json::{Map, Value};
use tally_ledger::{
    action::Action,
    codec,
    genesis::Genesis,
    parameters::Parameters,
    rates::{Rates, RatesState},
    tree::Table,
};

use super::{
    args::{GenesisArg, runtime},
    client::NodeArg,
    exit::Exit,
    output::{self, Format},
    rates,
    submit::SubmitArgs,
};

const RATES_EXAMPLE: &str = "\
Example:
  tally parameter set-rates key.requests=600 key.tokens=200000 account.tokens=none \\
      class.priority.requests=6000 fee_unit=0.002 --genesis genesis.json \\
      --key admin-0.key --key admin-1.key

A limit is per minute, over all gateways; `none` is no limit, which `tally tx show`
writes as 4294967295. A second of waiting
in a gateway's queue is worth as much as a priority fee of fee_unit, in CT.
All validators and gateways must run a version that knows rates before the first
change: an older validator takes the block for invalid and falls behind, an older
gateway follows the chain no further.";

/// Governed numbers of the chain
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ParameterCommand {
    /// Print all parameters, proven by the validators' signatures
    #[command(after_help = "Example:\n  tally parameter show --genesis genesis.json")]
    Show(Show),
    /// Change parameters (admins sign); the others stay as they are now
    #[command(
        after_help = "Example:\n  tally parameter set heartbeat_ms=10000 issuer_day_limit=50000 \\\n    \
        --genesis genesis.json --key admin-0.key --key admin-1.key"
    )]
    Set(Set),
    /// Change the fee unit and the limits per minute of all gateways together (admins sign); the
    /// others stay as they are now
    #[command(after_help = RATES_EXAMPLE)]
    SetRates(Set),
}

/// Arguments of `parameter show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `parameter set` and `set-rates`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// NAME=VALUE, as `parameter show` prints them
    #[arg(required = true, value_name = "NAME=VALUE")]
    changes: Vec<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

impl ParameterCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            ParameterCommand::Show(show) => {
                let (genesis, node) = (show.genesis.read()?, &show.node);
                let parameters = serde_json::to_value(parameters(&genesis, node)?)?;
                let mut all: Map<String, Value> = serde_json::from_value(parameters)?;
                all.extend(rates::shown(&rates(&genesis, node)?, &genesis));
                output::print(format, &all)?;
                Ok(Exit::Done)
            }
            ParameterCommand::Set(set) => {
                let genesis = set.submit.sign.genesis.read()?;
                let now = parameters(&genesis, &set.submit.wait.node)?;
                let parameters = changed(&now, &set.changes)?;
                set.submit.run(format, Action::SetParameters(parameters))
            }
            ParameterCommand::SetRates(set) => {
                let genesis = set.submit.sign.genesis.read()?;
                let now = rates(&genesis, &set.submit.wait.node)?;
                let rates = rates::changed(&now, &set.changes, &genesis)?;
                set.submit.run(format, Action::SetRates(rates))
            }
        }
    }
}

fn parameters(genesis: &Genesis, node: &NodeArg) -> anyhow::Result<Parameters> {
    runtime()?.block_on(async {
        let mut client = node.connect_to(genesis).await?;
        let (_, parameters) = client
            .state(genesis, Table::Parameters, 0, "table of parameters")
            .await?;
        Ok(parameters)
    })
}

/// Those that were set, or what holds as long as none were.
fn rates(genesis: &Genesis, node: &NodeArg) -> anyhow::Result<Rates> {
    runtime()?.block_on(async {
        let mut client = node.connect_to(genesis).await?;
        match client.leaf(genesis, Table::Parameters, 1).await? {
            Some((_, leaf)) => Ok(codec::decode::<RatesState>(&leaf, leaf.len())?.rates),
            None => Ok(Rates::default()),
        }
    })
}

fn changed(now: &Parameters, changes: &[String]) -> anyhow::Result<Parameters> {
    let mut all = serde_json::to_value(now)?;
    for change in changes {
        let (name, text) = change.split_once('=').context("write NAME=VALUE")?;
        let Some(value) = all.get_mut(name) else {
            bail!("there is no parameter `{name}`; see `tally parameter show`");
        };
        *value = match value {
            Value::String(_) => text.into(),
            _ => {
                let number: u64 = text
                    .parse()
                    .with_context(|| format!("`{text}` is no number for {name}"))?;
                number.into()
            }
        };
    }
    let parameters: Parameters = serde_json::from_value(all)?;
    parameters.validate()?;
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use tally_ledger::ids::Amount;

    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let now = Parameters::default();
        let set = |text: &str| changed(&now, &[text.to_owned()]);
        let wanted = Parameters {
            heartbeat_ms: 7_000,
            ..now
        };
        assert_eq!(set("heartbeat_ms=7000").unwrap(), wanted);
        let wanted = Parameters {
            issuer_day_limit: Amount(2_500_000),
            ..now
        };
        assert_eq!(set("issuer_day_limit=2.5").unwrap(), wanted);
        for bad in [
            "heartbeat=1",
            "heartbeat_ms",
            "heartbeat_ms=x",
            "heartbeat_ms=1",
            "threshold=0",
        ] {
            assert!(set(bad).is_err(), "{bad}");
        }
    }
}
