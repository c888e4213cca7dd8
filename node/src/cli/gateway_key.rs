//! `tally gateway-key`: gateways as the ledger knows them.

use std::path::PathBuf;

use tally_ledger::{
    action::{Action, RegisterGateway, SetGatewayKey},
    gateway::Caps,
    ids::{Amount, GatewayNumber},
};

use super::{
    args::parse_cap, exit::Exit, genesis_config::read_public, keys::KeyKind, output::Format,
    submit::SubmitArgs,
};

/// Register, change and stop gateways
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GatewayKeyCommand {
    /// Register a gateway; it gets the next number (admins sign)
    #[command(
        after_help = "Example:\n  tally gateway-key register --public gateway-1.pub \\\n    \
        --open 2000 --open-account 500 --hour 20000 --hour-account 5000 \\\n    \
        --genesis genesis.json --key admin-0.key --key admin-1.key"
    )]
    Register(Register),
    /// Replace a gateway's key and caps (admins sign)
    #[command(
        after_help = "Example:\n  tally gateway-key rotate 1 --public gateway-1b.pub \\\n    \
        --open 2000 --open-account 500 --hour 20000 --hour-account 5000 \\\n    \
        --genesis genesis.json --key admin-0.key --key admin-1.key"
    )]
    Rotate(Rotate),
    /// Let a gateway lease nothing more, and recall what it holds (one admin signs)
    #[command(
        after_help = "Example:\n  tally gateway-key suspend 1 --genesis genesis.json \
        --key admin-0.key"
    )]
    Suspend(Suspend),
}

/// What a stolen key could take at most.
#[derive(Debug, clap::Args)]
pub(crate) struct CapArgs {
    /// Most it may hold open, in CT or `unlimited`
    #[arg(long, value_name = "CT", value_parser = parse_cap)]
    open: Amount,
    /// The same of one account
    #[arg(long, value_name = "CT", value_parser = parse_cap)]
    open_account: Amount,
    /// Most it may lease less what it returned, per clock hour
    #[arg(long, value_name = "CT", value_parser = parse_cap)]
    hour: Amount,
    /// The same of one account
    #[arg(long, value_name = "CT", value_parser = parse_cap)]
    hour_account: Amount,
}

impl CapArgs {
    fn caps(&self) -> Caps {
        Caps {
            open: self.open,
            open_account: self.open_account,
            hour: self.hour,
            hour_account: self.hour_account,
        }
    }
}

/// Arguments of `gateway-key register`.
#[derive(Debug, clap::Args)]
pub(crate) struct Register {
    /// Public key file of the gateway
    #[arg(long, value_name = "FILE")]
    public: PathBuf,
    #[command(flatten)]
    caps: CapArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `gateway-key rotate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// Gateway number
    gateway: u32,
    /// Public key file of the new key
    #[arg(long, value_name = "FILE")]
    public: PathBuf,
    #[command(flatten)]
    caps: CapArgs,
    #[command(flatten)]
    submit: SubmitArgs,
}

/// Arguments of `gateway-key suspend`.
#[derive(Debug, clap::Args)]
pub(crate) struct Suspend {
    /// Gateway number
    gateway: u32,
    #[command(flatten)]
    submit: SubmitArgs,
}

impl GatewayKeyCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            GatewayKeyCommand::Register(args) => {
                let key = read_public(&args.public, KeyKind::Gateway)?;
                let caps = args.caps.caps();
                args.submit.run(
                    format,
                    Action::RegisterGateway(RegisterGateway { key, caps }),
                )
            }
            GatewayKeyCommand::Rotate(args) => {
                let gateway = GatewayNumber(args.gateway);
                let key = read_public(&args.public, KeyKind::Gateway)?;
                let caps = args.caps.caps();
                let action = Action::SetGatewayKey(SetGatewayKey { gateway, key, caps });
                args.submit.run(format, action)
            }
            GatewayKeyCommand::Suspend(args) => args
                .submit
                .run(format, Action::SuspendGateway(GatewayNumber(args.gateway))),
        }
    }
}
