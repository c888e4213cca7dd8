//! `tally node` and `tally reindex`: running a validator or observer, and
//! rebuilding what its block files imply.

use std::{path::PathBuf, sync::Arc};

use serde_json::json;
use tally_node::{
    home::Home,
    run::{Engine, RunningNode, abort_on_panic, start_logging},
    storage::RealDisk,
    store::{Store, forget_derived},
};

use super::{
    args::runtime,
    exit::Exit,
    output::{self, Format},
    stop,
};

/// Arguments of `node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    /// The node's home
    #[arg(long, value_name = "DIR", env = "TALLY_HOME")]
    home: PathBuf,
}

/// Arguments of `reindex`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reindex {
    /// The node's home; the node must not run
    #[arg(long, value_name = "DIR", env = "TALLY_HOME")]
    home: PathBuf,
}

impl Node {
    /// Runs until SIGTERM or Ctrl-C.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let home = Home::new(self.home);
        start_logging(&home.config()?.log);
        abort_on_panic();
        runtime()?.block_on(async {
            let stop = stop::signal();
            tokio::pin!(stop);
            let node = tokio::select! {
                node = RunningNode::start(&home, Engine::Validators) => node?,
                () = &mut stop => return Ok(Exit::Done),
            };
            output::print(format, &json!({"grpc": node.grpc, "metrics": node.http}))?;
            node.run(stop).await?;
            Ok(Exit::Done)
        })
    }
}

impl Reindex {
    /// Removes what can be rebuilt, and rebuilds it from the block files.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let home = Home::new(self.home);
        let (config, genesis) = (home.config()?, home.genesis()?);
        start_logging(&config.log);
        let _lock = home.lock()?;
        forget_derived(&home.data())?;
        let store = Store::open(Arc::new(RealDisk), &home.data(), genesis, &config.storage)?;
        let chain = store.chain();
        let value = json!({
            "home": home.folder(),
            "height": chain.last(),
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}
