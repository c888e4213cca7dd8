//! What an auditor needs, fetched into a folder: every receipt file, the
//! proven leaves of all classes and of the gateway at one height, and the
//! complete histories of the accounts, the gateway and of control, and that the
//! log only grew.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use tally_ledger::{receipt::ReceiptFile, state_file::StateFile, tree::Table};
use tally_proto::v1::{self, get_history_request::Of, get_receipt_request::By};
use tokio::time::{Instant, sleep};

use crate::cli::{
    audit::{RECEIPT, STATE},
    client::{Client, failure},
    consistency,
    history::{self, HISTORY},
    receipt::fetch,
    receipts,
};

/// Receipts that are fetched at the same time.
const IN_FLIGHT: usize = 16;
/// Receipts of a file of many.
const IN_A_FILE: usize = 1_000;

/// Fetches the receipts at these log indexes, writes their files and gives
/// them back, decoded but not verified: that is the auditor's part.
pub(crate) async fn receipts(
    client: &Client,
    indexes: impl Iterator<Item = u64>,
    dir: &Path,
) -> anyhow::Result<Vec<ReceiptFile>> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let one = |index: u64| {
        let mut client = client.clone();
        async move {
            let bytes = fetch(&mut client, By::Index(index)).await?;
            let path = dir.join(format!("{index:08}.{RECEIPT}"));
            fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
            anyhow::Ok(ReceiptFile::decode(&bytes)?)
        }
    };
    futures::stream::iter(indexes)
        .map(one)
        .buffered(IN_FLIGHT)
        .try_collect()
        .await
}

/// Fetches the same receipts in files of many, and writes those.
pub(crate) async fn together(
    client: &mut Client,
    indexes: &[u64],
    dir: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for indexes in indexes.chunks(IN_A_FILE) {
        let request = v1::GetReceiptsRequest {
            indexes: indexes.to_vec(),
            ..Default::default()
        };
        let bytes = receipts::fetch(client, request).await?;
        let path = dir.join(format!("{:08}.receipts", indexes[0]));
        fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Fetches the complete histories of all accounts, of gateway 0 and of
/// control, and writes their files.
pub(crate) async fn histories(client: &mut Client, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut accounts = 0;
    while leaf(client, Table::Accounts, accounts).await?.is_some() {
        accounts += 1;
    }
    let subjects = (0..accounts).map(Of::Account);
    let subjects = subjects.chain([Of::Gateway(0), Of::Control(true)]);
    let mut paths = Vec::new();
    for of in subjects {
        let mut from = 0;
        loop {
            let (bytes, next) = history::fetch(client, of, from, 0).await?;
            let path = dir.join(format!("{:04}.{HISTORY}", paths.len()));
            fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
            paths.push(path);
            if next == 0 {
                break;
            }
            from = next;
        }
    }
    Ok(paths)
}

/// Fetches proofs that the log only grew: to half of the last height, and from
/// there to it.
pub(crate) async fn consistency(
    client: &mut Client,
    dir: &Path,
    last: u64,
) -> anyhow::Result<Vec<PathBuf>> {
    let half = last / 2;
    let mut paths = Vec::new();
    for (old, new) in [(1, half), (half, last)] {
        let bytes = consistency::fetch(client, old, new).await?;
        let path = dir.join(format!("{old:06}-{new:06}.consistency"));
        fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Fetches the leaves of all classes and gateways, again until all are of one
/// height; gives that height.
pub(crate) async fn states(client: &mut Client, dir: &Path) -> anyhow::Result<u64> {
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
async fn leaf(
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
