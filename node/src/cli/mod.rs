//! The command line: nouns, then verbs. Each file is one noun; commands that
//! need no node never open a connection, and bad input changes nothing.

mod account;
mod args;
mod audit;
mod audit_queue;
mod auth;
mod batch;
mod checkpoint;
mod class;
mod client;
mod clock;
mod consistency;
mod demo;
mod entry;
mod evidence;
mod exit;
mod export;
mod finality;
mod gateway;
mod gateway_key;
mod genesis;
mod genesis_config;
mod grant;
mod history;
mod hold;
mod init;
mod key;
mod keypair;
mod keys;
mod kind;
mod log;
mod mock_engine;
mod names;
mod node;
mod output;
mod parameter;
mod price;
mod proven;
mod prune;
mod rates;
mod receipt;
mod receipt_file;
mod receipts;
mod role;
mod states;
mod status;
mod stop;
mod submit;
mod testnet;
mod tiled;
mod tx;
mod tx_file;
mod validator_file;
mod verify;
mod witness;

use std::process::ExitCode;

use clap::Parser;

use exit::{Exit, Failure};
use output::Format;

/// Tally, a permissioned ledger of compute tokens
#[derive(Debug, Parser)]
#[command(version, after_help = exit::TABLE, max_term_width = 100)]
struct Cli {
    /// How to print results
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a validator's home: keys, configuration and a public file
    #[command(
        after_help = "Example:\n  tally init --home v0 --name v0 --address 10.0.0.1 \
        --owner ann.pub\n\nNext: hand HOME/validator.pub to the others, make the genesis, then \
        `tally join`."
    )]
    Init(init::Init),
    /// Try everything on this machine: four validators, a gateway, three accounts
    #[command(after_help = "Example:\n  tally demo\n  tally demo --check\n  \
        tally demo --upstream http://127.0.0.1:8000\n\nIt says how to end one of its \
        validators and start it again: it goes on with three.")]
    Demo(demo::Demo),
    /// Put the genesis and the other validators' addresses into a home
    #[command(
        after_help = "Example:\n  tally join --home v0 --genesis genesis.json \
        --hash HASH \\\n      \
        --validator v1.pub v2.pub v3.pub\n\nHASH is the one that all owners have compared: `tally genesis show` \
        prints that of a file."
    )]
    Join(init::Join),
    /// Make all homes and keys of a chain at once, for trials only
    #[command(after_help = "Example:\n  tally testnet trial --validators 4 --base-port 26650")]
    Testnet(testnet::Testnet),
    /// Run a validator or observer
    #[command(after_help = "Example:\n  tally node --home v0")]
    Node(node::Node),
    /// Rebuild indexes, log files and snapshots from the block files
    #[command(
        after_help = "Example:\n  tally reindex --home v0\n\nThe node must not run. \
        The block files are the truth and are only read."
    )]
    Reindex(node::Reindex),
    /// Drop the details of old debits from a stopped node, for good
    #[command(after_help = prune::EXAMPLE)]
    Prune(prune::Prune),
    #[command(subcommand)]
    Hold(hold::HoldCommand),
    /// Verify a whole history: a node's home, a copy, block files, or a node's blocks
    #[command(after_help = verify::EXAMPLE)]
    Verify(verify::Verify),
    /// Run a metering gateway in front of an inference engine
    #[command(
        after_help = "Example:\n  tally gateway --example > gw/gateway.toml\n  \
        tally gateway --home gw"
    )]
    Gateway(gateway::Gateway),
    /// How each validator is, and what to do
    #[command(after_help = "Example:\n  tally status --node 127.0.0.1:26650 \
        --also 127.0.0.1:26654 --also 127.0.0.1:26658\n\n\
        Exit code 0: healthy, 8: degraded, 9: not final.")]
    Status(status::Status),
    #[command(subcommand)]
    Account(account::AccountCommand),
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    #[command(subcommand)]
    Key(key::KeyCommand),
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    #[command(subcommand)]
    History(history::HistoryCommand),
    #[command(subcommand)]
    Consistency(consistency::ConsistencyCommand),
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    #[command(subcommand)]
    Export(export::ExportCommand),
    /// Cosign a chain's checkpoints, as a party outside of it
    #[command(
        after_help = "Example:\n  tally keypair create w1.key --kind witness\n  tally witness \
        --state w1.state --new --genesis genesis.json --key w1.key \\\n    --name \
        council.example/w1 --listen 127.0.0.1:7380\n\nIt prints its verifier key, for the \
        validators' config.toml and for everybody who verifies.\nFrom the second start on, \
        without --new."
    )]
    Witness(witness::WitnessCommand),
    #[command(subcommand)]
    Entry(entry::EntryCommand),
    #[command(subcommand)]
    Role(role::RoleCommand),
    #[command(subcommand)]
    Class(class::ClassCommand),
    #[command(subcommand)]
    Parameter(parameter::ParameterCommand),
    #[command(subcommand)]
    GatewayKey(gateway_key::GatewayKeyCommand),
    #[command(subcommand)]
    Genesis(genesis::GenesisCommand),
    #[command(subcommand)]
    Auth(auth::AuthCommand),
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
            Command::Init(init) => init.run(format),
            Command::Demo(demo) => demo.run(format),
            Command::Join(join) => join.run(format),
            Command::Testnet(testnet) => testnet.run(format),
            Command::Node(node) => node.run(format),
            Command::Reindex(reindex) => reindex.run(format),
            Command::Prune(prune) => prune.run(format),
            Command::Hold(command) => command.run(format),
            Command::Verify(verify) => verify.run(format),
            Command::Gateway(gateway) => gateway.run(format),
            Command::Status(status) => status.run(format),
            Command::Account(command) => command.run(format),
            Command::Grant(command) => command.run(format),
            Command::Key(command) => command.run(format),
            Command::Receipt(command) => command.run(format),
            Command::History(command) => command.run(format),
            Command::Consistency(command) => command.run(format),
            Command::Evidence(command) => command.run(format),
            Command::Checkpoint(command) => command.run(format),
            Command::Export(command) => command.run(format),
            Command::Witness(command) => command.run(format),
            Command::Entry(command) => command.run(format),
            Command::Role(command) => command.run(format),
            Command::Class(command) => command.run(format),
            Command::Parameter(command) => command.run(format),
            Command::GatewayKey(command) => command.run(format),
            Command::Genesis(command) => command.run(format),
            Command::Auth(command) => command.run(format),
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
        eprintln!("tally: {}", output::plain(&format!("{error:#}"), "\n"));
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
            // Wider lines are wrapped, and a command that is can not be pasted.
            let command = |line: &&str| line.starts_with("  ") && line.len() > 100;
            let wide = help.lines().find(command);
            assert_eq!(wide, None, "`{path}` has a wide example");
            let words = help.split_whitespace();
            for key in words.filter(|word| word.matches('+').count() >= 2) {
                let read = key.parse::<tally_ledger::note::VerifierKey>();
                assert!(read.is_ok(), "`{path}` has a false key");
            }
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
