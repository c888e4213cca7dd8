//! `tally gateway`: a metering gateway in front of an inference engine.

use std::path::PathBuf;

use serde_json::json;
use tally_gateway_adapter::{Gateway as Running, GatewayConfig, config::FILE};
use tokio::signal::unix::{SignalKind, signal as unix_signal};

use super::{
    args::runtime,
    exit::{Exit, Failure},
    output::{self, Format},
    stop,
};

/// The commented example of `gateway.toml`.
const EXAMPLE: &str = include_str!("../../contrib/gateway.toml");

/// Arguments of `gateway`.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub(crate) struct Gateway {
    #[command(subcommand)]
    command: Option<GatewayCommand>,
    /// Folder with gateway.toml
    #[arg(long, value_name = "DIR", required_unless_present = "example")]
    home: Option<PathBuf>,
    /// Print a commented example of gateway.toml and end
    #[arg(long)]
    example: bool,
}

/// What else there is to do with gateways.
#[derive(Debug, clap::Subcommand)]
enum GatewayCommand {
    /// Check from the log that queues served their requests in the right order
    #[command(after_help = super::audit_queue::EXAMPLE)]
    AuditQueue(super::audit_queue::AuditQueue),
}

impl Gateway {
    /// Serves until it is told to stop; then settles and returns its leases.
    /// SIGHUP has it read gateway.toml again.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        if let Some(GatewayCommand::AuditQueue(audit)) = self.command {
            if self.home.is_some() || self.example {
                let message = "audit-queue asks a node; --home and --example have no use there";
                return Err(Failure::error(Exit::Usage, message.to_owned()));
            }
            return audit.run(format);
        }
        let Some(home) = self.home.filter(|_| !self.example) else {
            output::write(EXAMPLE)?;
            return Ok(Exit::Done);
        };
        anyhow::ensure!(
            home.join(FILE).exists(),
            "{} has no {FILE}; `tally gateway --example` prints one to fill in",
            home.display()
        );
        let config = GatewayConfig::load(&home)?;
        super::log::start("info", false)?;
        runtime()?.block_on(async {
            // From the beginning: otherwise a SIGHUP would end the process.
            let mut hangup = unix_signal(SignalKind::hangup())?;
            let stop = stop::signal();
            tokio::pin!(stop);
            let gateway = tokio::select! {
                gateway = Running::start(config) => gateway?,
                () = &mut stop => return Ok(Exit::Done),
            };
            let http = gateway.http().map(|address| format!("http://{address}/v1"));
            let value = json!({
                "listening": http,
                "metering": gateway.grpc(),
                "admin": gateway.admin(),
                "envoy": gateway.envoy(),
            });
            output::print(format, &value)?;
            let reloader = gateway.reloader();
            let reloads = tokio::spawn(async move {
                while hangup.recv().await.is_some() {
                    let reloader = reloader.clone();
                    // What became of it is in the log.
                    let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
                }
            });
            let ended = gateway.run(stop).await;
            reloads.abort();
            ended?;
            Ok(Exit::Done)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), EXAMPLE).unwrap();
        GatewayConfig::load(folder.path()).unwrap();
    }
}
