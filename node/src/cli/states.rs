//! The proven leaves of all classes and gateways at one height, as files: what
//! sums of receipts are compared with.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use tally_ledger::{state_file::StateFile, tree::Table};
use tally_proto::v1;
use tokio::time::{Instant, sleep};

use super::{
    audit::STATE,
    client::{Client, failure},
};

/// Fetches the leaves of all classes and gateways, again until all are of one
/// height; gives that height.
pub(crate) async fn fetch(client: &mut Client, dir: &Path) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut files = Vec::new();
        for table in [Table::Classes, Table::Gateways] {
            for number in 0.. {
                let Some(file) = leaf(client, table, number).await? else {
                    break;
                };
                files.push((format!("{table:?}-{number}.{STATE}").to_lowercase(), file));
            }
        }
        let heights: Vec<u64> = files.iter().map(|(_, (height, _))| *height).collect();
        if let Some(height) = heights
            .first()
            .filter(|first| heights.iter().all(|h| h == *first))
        {
            for (name, (_, bytes)) in &files {
                fs::write(dir.join(name), bytes).with_context(|| format!("writing {name}"))?;
            }
            return Ok(*height);
        }
        if Instant::now() >= deadline {
            bail!("blocks are made faster than the leaves can be read");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A leaf's file and height; `None` past the table's end.
pub(crate) async fn leaf(
    client: &mut Client,
    table: Table,
    number: u32,
) -> anyhow::Result<Option<(u64, Vec<u8>)>> {
    let request = v1::GetLeafRequest {
        table: u32::from(table as u8),
        number,
    };
    let answer = client
        .audit
        .get_leaf(request)
        .await
        .map_err(|e| failure(&e))?
        .into_inner();
    let proof = answer.proof.context("the node's answer lacks the proof")?;
    let file = StateFile::decode(&proof.file)?;
    let present = file.proof.leaf.is_some();
    Ok(present.then(|| (file.certified.header.height.0, proof.file.to_vec())))
}
