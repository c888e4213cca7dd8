//! `tally witness`: cosigns a chain's checkpoints, for somebody outside the
//! company. It needs no node and believes none.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use serde_json::json;
use tally_node::{
    run::abort_on_panic,
    witness::{Witness, serve},
};
use tokio::net::TcpListener;

use super::{
    args::{GenesisArg, runtime},
    exit::Exit,
    keys::{KeyFile, KeyKind},
    log,
    output::{self, Format},
    stop,
};

/// Arguments of `witness`.
#[derive(Debug, clap::Args)]
pub(crate) struct WitnessCommand {
    /// What it remembers; never replace it by an older one
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// First start: makes the state file, which must not exist
    #[arg(long)]
    new: bool,
    #[command(flatten)]
    genesis: GenesisArg,
    /// Secret key file of kind witness
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Name of its key in cosignatures: an address without scheme, such as
    /// council.example/w1
    #[arg(long)]
    name: String,
    /// Where to listen for checkpoints, plain HTTP
    #[arg(long, default_value = "127.0.0.1:7380")]
    listen: SocketAddr,
    /// What is logged, in the syntax of RUST_LOG, which overrides it
    #[arg(long, default_value = "info")]
    filter: String,
}

impl WitnessCommand {
    /// Runs until SIGTERM or Ctrl-C.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let key = KeyFile::read(&self.key)?;
        anyhow::ensure!(
            key.kind == KeyKind::Witness,
            "{} is of kind {}: a witness has a key of its own, made by `tally keypair create \
             FILE --kind witness`",
            self.key.display(),
            key.kind.name()
        );
        log::start(&self.filter, false)?;
        abort_on_panic();
        let secret = key.secret()?;
        runtime()?.block_on(async {
            // Before the state: a busy port must leave none behind.
            let listener = TcpListener::bind(self.listen).await;
            let listener = listener.with_context(|| {
                format!(
                    "listening on {}; choose another address by --listen",
                    self.listen
                )
            })?;
            let witness = Witness::open(&self.state, &genesis, &self.name, secret, self.new)?;
            let witness = Arc::new(witness);
            let (address, task) = serve(listener, witness.clone(), stop::signal())?;
            let value = json!({
                "listen": address,
                "witness": witness.key().to_string(),
                "log": witness.log().origin(),
            });
            output::print(format, &value)?;
            task.await??;
            Ok(Exit::Done)
        })
    }
}
