//! The command line: nouns, then verbs. Each file is one noun; commands that
//! need no node never open a connection, and bad input changes nothing.

mod args;
mod clock;
mod exit;
mod genesis;
mod genesis_config;
mod keypair;
mod keys;
mod mock_engine;
mod output;
mod price;
mod stop;
mod tx;
mod tx_file;
mod validator_file;

use std::process::ExitCode;

use clap::Parser;

use exit::{Exit, Failure};
use output::Format;

/// Tally, a permissioned ledger of compute tokens
#[derive(Debug, Parser)]
#[command(version, after_help = exit::TABLE, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// How to print results
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(subcommand)]
    Genesis(genesis::GenesisCommand),
    #[command(subcommand)]
    Keypair(keypair::KeypairCommand),
    #[command(subcommand)]
    Tx(tx::TxCommand),
    #[command(subcommand)]
    Price(price::PriceCommand),
    /// An OpenAI-compatible engine without a model, for trials
    #[command(after_help = "Example:\n  tally mock-engine --port 0 --seed 7 --think-ms 20")]
    MockEngine(mock_engine::MockEngine),
}

impl Command {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            Command::Genesis(command) => command.run(format),
            Command::Keypair(command) => command.run(format),
            Command::Tx(command) => command.run(format),
            Command::Price(command) => command.run(format),
            Command::MockEngine(engine) => engine.run(format),
        }
    }
}

/// Runs the command that the process was started with.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let exit = cli.command.run(cli.format).unwrap_or_else(|error| {
        eprintln!("tally: {error:#}");
        Failure::code(&error)
    });
    exit.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Every verb without further verbs says how it is used.
    fn check(command: &clap::Command, path: &str) {
        let verbs: Vec<_> = command
            .get_subcommands()
            .filter(|verb| verb.get_name() != "help")
            .collect();
        if verbs.is_empty() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains(&format!("tally {path}")),
                "`{path}` has no example"
            );
        }
        for verb in verbs {
            check(verb, format!("{path} {}", verb.get_name()).trim());
        }
    }

    #[test]
    fn every_help_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        check(&command, "");
        assert!(
            command
                .get_after_help()
                .is_some_and(|help| help.to_string().contains("Exit codes"))
        );
    }
}
