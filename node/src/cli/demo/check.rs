//! `tally demo --check`: a scripted load with a validator killed half way,
//! then everything compared: what the clients saw, what the log says, what a
//! separate process can verify from files and the genesis alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tally_ledger::{ids::Time, receipt::ReceiptFile};
use tally_proto::v1;
use tokio::time::{Instant, sleep};

use super::{
    evidence,
    follow::{Chain, Follower},
    http::counts,
    load::{self, Progress, Seen},
    world::World,
};
use crate::cli::{
    client::failure,
    exit::{Exit, Failure},
    genesis,
    output::{self, Format},
    states, status,
};

/// The validator that is killed; the gateway and the followers use others.
const VICTIM: usize = 3;
/// Requests after which the last account has surely run out.
const RUNS_OUT: usize = 600;
/// How long the ledger may take to catch up with the load, or a validator
/// with the others.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Runs the check; `Err` says what failed.
pub(crate) async fn run(
    world: &mut World,
    requests: usize,
    format: Format,
    say: &impl Fn(&str),
) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let follower = Follower::start(&world.node(0)).await?;
    let progress = Progress::default();
    let seen = load_with_a_crash(world, requests, &progress, say).await?;
    let last = world.holders.last().context("no holder")?.account;
    judge_load(&seen, requests, last)?;
    let chain = settled(&follower, seen.served.len()).await?;
    let height = caught_up(world).await?;
    say("all receipts are final, the killed validator has caught up, all roots are equal");

    let dir = world.net.dir.join("audit");
    let mut client = world.node(1).connect().await?;
    let files = evidence::receipts(&client, chain.receipts.keys().copied(), &dir).await?;
    let chain_file = genesis::read(&world.net.genesis_file())?;
    let at = states::fetch(&mut client, &chain_file, &dir).await?;
    let histories = evidence::histories(&mut client, &chain_file, &dir).await?;
    let grown = evidence::consistency(&mut client, &dir, at.0).await?;
    let indexes: Vec<u64> = chain.receipts.keys().copied().collect();
    let together = evidence::together(&mut client, &indexes, &dir).await?;
    compare(&seen, &files)?;
    say("receipt files fetched; their usage is what the clients were told");
    let genesis = world.net.genesis_file();
    let report = tally(&genesis, &["receipt", "audit"], std::slice::from_ref(&dir)).await?;
    complete(&genesis, &histories, files.len()).await?;
    tally(&genesis, &["consistency", "verify"], &grown).await?;
    tally(&genesis, &["receipt", "verify"], &together).await?;
    let home = world.net.dir.join("v1");
    let verified = tally(&genesis, &["verify", "--home"], &[home]).await?;
    let status = status::ask(&world.node(0)).await?;
    let finality = finality(&chain, &files);
    let receipts = files.len().max(1) as u64;
    let value = json!({
        "requests": requests,
        "served": seen.served.len(),
        "streamed": seen.streamed,
        "refused": seen.refused.values().sum::<usize>(),
        "finality p50 ms": finality.0,
        "finality p99 ms": finality.1,
        "blocks": height,
        "receipts": files.len(),
        "bytes on a validator's disk": status.disk_used,
        "bytes per receipt": status.disk_used / receipts,
        "state proven at height": at,
        "seconds": began.elapsed().as_secs(),
        "audit by a separate process": report,
        "histories that it found complete": histories.len(),
        "proofs that the log only grew": grown.len(),
        "files of many receipts": together.len(),
        "blocks that it executed again": verified["height"],
    });
    output::print(format, &value)?;
    Ok(Exit::Done)
}

/// The load; half way a validator is killed, and started again while the load
/// goes on.
async fn load_with_a_crash(
    world: &mut World,
    requests: usize,
    progress: &Progress,
    say: &impl Fn(&str),
) -> anyhow::Result<Seen> {
    let mut victim = world.take_node(VICTIM)?;
    let (seen, restarted) = {
        let running = &*world;
        let load = load::run(running, requests, Arc::clone(progress));
        let crash = async {
            reached(progress, requests / 2).await;
            victim.kill().await?;
            say("validator 3 killed with SIGKILL half way");
            reached(progress, requests * 5 / 8).await;
            let node = running.start_node(VICTIM)?;
            say("validator 3 started again");
            anyhow::Ok(node)
        };
        tokio::join!(load, crash)
    };
    world.put_node(VICTIM, restarted?);
    world.check()?;
    Ok(seen)
}

async fn reached(progress: &Progress, count: usize) {
    while progress.load(Ordering::Relaxed) < count {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Every request was served or refused for want of balance, and the latter
/// only where the balance ends: of the last account, in a load that is long
/// enough.
fn judge_load(seen: &Seen, requests: usize, last: u32) -> anyhow::Result<()> {
    if let Some(first) = seen.failed.first() {
        bail!(
            "{} of {requests} requests failed; the first: {first}",
            seen.failed.len()
        );
    }
    let refused: usize = seen.refused.values().sum();
    if seen.served.len() + refused != requests {
        bail!(
            "{} served and {refused} refused are not {requests}",
            seen.served.len()
        );
    }
    let others = seen.refused.keys().any(|account| *account != last);
    if others || (refused == 0 && requests >= RUNS_OUT) {
        bail!(
            "account {last} alone was to run out of balance; refused by account: {:?}",
            seen.refused
        );
    }
    Ok(())
}

/// Until the log has as many receipts as requests were served.
async fn settled(follower: &Follower, served: usize) -> anyhow::Result<Chain> {
    let mut chain = follower.chain.clone();
    let enough = chain.wait_for(|chain| chain.receipts.len() >= served);
    let waited = tokio::time::timeout(CATCH_UP, enough).await;
    let waited = waited.map(|chain| chain.map(|chain| chain.clone()));
    let chain = match waited {
        Ok(Ok(chain)) => chain,
        Ok(Err(_)) => bail!("the node ended the watch"),
        Err(_) => {
            let have = follower.chain.borrow().receipts.len();
            bail!("{have} receipts of {served} served requests after {CATCH_UP:?}")
        }
    };
    if chain.receipts.len() != served {
        bail!(
            "{} receipts of {served} served requests",
            chain.receipts.len()
        );
    }
    Ok(chain)
}

/// Until all four have a common height, with the same block there.
async fn caught_up(world: &mut World) -> anyhow::Result<u64> {
    let deadline = Instant::now() + CATCH_UP;
    let target = status::ask(&world.node(0)).await?.height;
    let mut ids = BTreeSet::new();
    for i in 0..world.validators() {
        loop {
            let height = status::ask(&world.node(i))
                .await
                .map_or(0, |status| status.height);
            if height >= target {
                break;
            }
            world.check()?;
            if Instant::now() >= deadline {
                bail!("validator {i} is at height {height} of {target} after {CATCH_UP:?}");
            }
            sleep(Duration::from_millis(50)).await;
        }
        let mut client = world.node(i).connect().await?;
        let request = v1::GetHeaderRequest { height: target };
        let header = client
            .audit
            .get_header(request)
            .await
            .map_err(|e| failure(&e))?;
        let header = header.into_inner().header.context("no header")?;
        ids.insert(header.id.to_vec());
    }
    if ids.len() != 1 {
        bail!(
            "the validators have {} different blocks at height {target}",
            ids.len()
        );
    }
    Ok(target)
}

/// Every served request has its receipt, and that carries the usage and the
/// charge that the client was told.
fn compare(seen: &Seen, files: &[ReceiptFile]) -> anyhow::Result<()> {
    let mut receipts = BTreeMap::new();
    for file in files {
        let detail = file.detail.context("a receipt without its detail")?;
        let gateway = file.receipt.position.gateway;
        let hold = format!("{gateway}-{}-{}", detail.hold_journal, detail.hold);
        let booked = (detail.usage.0, file.receipt.charged);
        if receipts.insert(hold.clone(), booked).is_some() {
            bail!("two receipts settle the hold {hold}");
        }
    }
    for (hold, told) in &seen.served {
        let (usage, charged) = receipts
            .get(hold)
            .with_context(|| format!("no receipt of hold {hold}"))?;
        if let Some(told) = told.usage.as_ref().map(counts)
            && told != [0, 1, 2, 3].map(|i| u64::from(usage[i]))
        {
            bail!("hold {hold}: the client was told {told:?}, the receipt says {usage:?}");
        }
        if let Some(told) = &told.cost
            && *told != charged.to_string()
        {
            bail!("hold {hold}: the client was told {told}, the receipt says {charged}");
        }
    }
    Ok(())
}

/// Milliseconds from the end of a request to when its receipt was seen to be
/// final: median and 99th percentile.
fn finality(chain: &Chain, files: &[ReceiptFile]) -> (u64, u64) {
    let mut times: Vec<u64> = files
        .iter()
        .filter_map(|file| {
            let detail = file.detail?;
            let Time(seen) = *chain.receipts.get(&file.index)?;
            Some(seen.saturating_sub(detail.arrival + u64::from(detail.duration)))
        })
        .collect();
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().max(1) - 1));
    (at(50).copied().unwrap_or(0), at(99).copied().unwrap_or(0))
}

/// Has the histories verified, and their receipts counted: all of them are in
/// the gateway's, and all in the accounts'.
async fn complete(genesis: &Path, histories: &[PathBuf], receipts: usize) -> anyhow::Result<()> {
    let rows = tally(genesis, &["history", "verify"], histories).await?;
    let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows.as_array().into_iter().flatten() {
        let of = row["of"].as_str().unwrap_or_default();
        let kind = of.split(' ').next().unwrap_or_default();
        *counted.entry(kind).or_default() += row["receipts"].as_u64().unwrap_or_default();
    }
    for kind in ["account", "gateway"] {
        let found = counted.get(kind).copied().unwrap_or_default();
        if found != receipts as u64 {
            bail!("{found} receipts in the histories of each {kind}, {receipts} in all");
        }
    }
    Ok(())
}

/// Runs the auditor: a process of its own, with the files and the genesis.
async fn tally(genesis: &Path, verb: &[&str], files: &[PathBuf]) -> anyhow::Result<Value> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = tokio::process::Command::new(program)
        .args(["--format", "json"])
        .args(verb)
        .args(files)
        .arg("--genesis")
        .arg(genesis)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await
        .context("starting the audit")?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        let why = String::from_utf8_lossy(&said).trim().to_owned();
        let message = format!("the audit found: {why}");
        return Err(Failure::error(Exit::Invalid, message));
    }
    serde_json::from_slice(&output.stdout).context("reading the audit's report")
}
