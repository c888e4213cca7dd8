//! Following the chain during a trial: every block and receipt, and when it
//! was seen to be final.

use std::collections::BTreeMap;

use tally_ledger::ids::Time;
use tally_proto::v1::{self, entry::Fact};
use tokio::{sync::watch, task::JoinHandle};

use crate::cli::{
    client::{NodeArg, failure},
    clock::now,
    entry::height_of,
};

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    /// Last height.
    pub(crate) height: u64,
    /// Log index of each receipt, and when it was seen here.
    pub(crate) receipts: BTreeMap<u64, Time>,
}

/// A task that follows one node from block 1.
#[derive(Debug)]
pub(crate) struct Follower {
    /// What was seen so far.
    pub(crate) chain: watch::Receiver<Chain>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Follower {
    /// Starts following.
    pub(crate) async fn start(node: &NodeArg) -> anyhow::Result<Self> {
        let mut client = node.connect().await?;
        let request = v1::WatchRequest {
            from_height: 1,
            ..Default::default()
        };
        let mut stream = client
            .audit
            .watch(request)
            .await
            .map_err(|e| failure(&e))?
            .into_inner();
        let (sender, chain) = watch::channel(Chain::default());
        let task = tokio::spawn(async move {
            while let Some(block) = stream.message().await.map_err(|e| failure(&e))? {
                let seen = now();
                sender.send_modify(|chain| chain.add(&block, seen));
            }
            anyhow::Ok(())
        });
        Ok(Follower { chain, task })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Chain {
    fn add(&mut self, block: &v1::WatchResponse, seen: Time) {
        let receipts = block
            .entries
            .iter()
            .filter(|e| matches!(e.fact, Some(Fact::Receipt(_))));
        self.receipts
            .extend(receipts.map(|entry| (entry.index, seen)));
        if !block.more {
            self.height = height_of(block);
        }
    }
}
