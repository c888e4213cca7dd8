//! `tally parameter`: the governed numbers of the chain.

use anyhow::{Context, bail};
use serde_json::Value;
use tally_ledger::{action::Action, parameters::Parameters, tree::Table};

use super::{
    args::{GenesisArg, runtime},
    client::NodeArg,
    exit::Exit,
    output::{self, Format},
    submit::SubmitArgs,
};

/// Governed numbers of the chain
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ParameterCommand {
    /// Print all parameters, proven by the validators' signatures
    #[command(after_help = "Example:\n  tally parameter show --genesis genesis.json")]
    Show(Show),
    /// Change parameters (admins sign); the others stay as they are now
    #[command(after_help = "Example:\n  tally parameter set heartbeat_ms=10000 \
        issuer_day_limit=50000 --genesis genesis.json --key admin-0.key --key admin-1.key")]
    Set(Set),
}

/// Arguments of `parameter show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `parameter set`.
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
                output::print(format, &current(&show.genesis, &show.node)?)?;
                Ok(Exit::Done)
            }
            ParameterCommand::Set(set) => {
                let now = current(&set.submit.sign.genesis, &set.submit.wait.node)?;
                let parameters = changed(&now, &set.changes)?;
                set.submit.run(format, Action::SetParameters(parameters))
            }
        }
    }
}

fn current(genesis: &GenesisArg, node: &NodeArg) -> anyhow::Result<Parameters> {
    let genesis = genesis.read()?;
    runtime()?.block_on(async {
        let mut client = node.connect().await?;
        let (_, parameters) = client
            .state(&genesis, Table::Parameters, 0, "table of parameters")
            .await?;
        Ok(parameters)
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
