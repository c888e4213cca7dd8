//! What an auditor needs beside the states, fetched into a folder: every
//! receipt file, the complete histories of the accounts, the gateway and of
//! control, and that the log only grew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use tally_ledger::{genesis::Genesis, receipt::ReceiptFile, tree::Table};
use tally_proto::v1::{self, get_history_request::Of, get_receipt_request::By};

use crate::cli::{
    audit::RECEIPT,
    client::Client,
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
pub(crate) async fn histories(
    client: &mut Client,
    genesis: &Genesis,
    dir: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut accounts = 0;
    let table = Table::Accounts;
    while client.leaf(genesis, table, accounts).await?.is_some() {
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
