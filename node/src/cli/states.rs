//! The proven leaves of all classes and gateways at one height, as files: what
//! sums of receipts are compared with.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use tally_ledger::{genesis::Genesis, ids::Height, tree::Table};
use tokio::time::{Instant, sleep};

use super::{audit::STATE, client::Client};

/// Fetches and verifies the leaves of all classes and gateways, again until
/// all are of one height; gives that height. That there are no more is proven
/// too.
pub(crate) async fn fetch(
    client: &mut Client,
    genesis: &Genesis,
    dir: &Path,
) -> anyhow::Result<Height> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut files = Vec::new();
        for table in [Table::Classes, Table::Gateways] {
            for number in 0.. {
                let Some(leaf) = client.leaf_file(genesis, table, number).await? else {
                    break;
                };
                files.push((format!("{table:?}-{number}.{STATE}").to_lowercase(), leaf));
            }
        }
        let heights: Vec<Height> = files.iter().map(|(_, leaf)| leaf.height).collect();
        if let Some(height) = heights
            .first()
            .filter(|first| heights.iter().all(|h| h == *first))
        {
            for (name, leaf) in &files {
                fs::write(dir.join(name), &leaf.file).with_context(|| format!("writing {name}"))?;
            }
            return Ok(*height);
        }
        if Instant::now() >= deadline {
            bail!("blocks are made faster than the leaves can be read");
        }
        sleep(Duration::from_millis(20)).await;
    }
}
