//! Details that are dropped, by prune or because an account was erased: gone
//! from the disk, and nothing else of the chain is missed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::ThreadId,
};

use crate::net::{CHECKER, CT, GATEWAY, ISSUER, Net, Running, submit, until};
use tally_consensus::{Application, Slot, Source, Verdict};
use tally_ledger::{
    action::Action,
    certified::Trust,
    entry::Entry,
    genesis::Genesis,
    history::HistoryFile,
    ids::{AccountNumber, Amount, ClassNumber, Height},
    receipt::{PriceCheck, ReceiptFile, VerifiedReceipt},
    redacted::{REDACTED_VERSION, StoredBlock},
};
use tally_node::{
    Engine,
    application::NodeApplication,
    config::Storage,
    forget::{Erasures, Hold, HoldsFile, Journal, Rule, Swept},
    home::Home,
    mempool::Mempool,
    metrics::Metrics,
    storage::{Disk, DiskFile, RealDisk},
    store::{self, Store},
};
use tally_proto::v1::{self, get_receipt_request::By};

const SOLO: Engine = Engine::Solo;

fn net(validators: usize) -> Net {
    Net::with(
        validators,
        Storage {
            snapshot_every: 5,
            segment_bytes: 16 << 10,
            ..Storage::default()
        },
    )
}

/// Accounts 0 and 1 with a lease each: lease 1 and lease 2.
async fn prepare(net: &Net, node: &Running) {
    node.finalise(net.open_account(0)).await;
    node.finalise(net.open_account(1)).await;
    node.finalise(net.open_journal()).await;
    for account in [0, 1] {
        node.finalise(net.issue(account, 100 * CT)).await;
        node.finalise(net.bind(account)).await;
        let lease = net.lease(u64::from(account) + 1, account, 10 * CT);
        node.finalise(lease).await;
    }
}

/// A batch of `count` debits of an account.
async fn batch(net: &Net, node: &Running, first: u64, count: u64, account: u32) -> v1::Finality {
    let lease = u64::from(account) + 1;
    let debits = net.debits(first, count, lease, account, 1000);
    let done = node.finalise(debits).await;
    assert_eq!(u64::from(done.receipts), count);
    done
}

/// A batch of 20 debits of an account.
async fn spend(net: &Net, node: &Running, first: u64, account: u32) -> v1::Finality {
    batch(net, node, first, 20, account).await
}

fn by_debit(number: u64) -> By {
    By::Debit(v1::DebitId {
        gateway: GATEWAY.0,
        journal: 1,
        number,
    })
}

fn by_hold(number: u64) -> By {
    By::Hold(v1::HoldId {
        gateway: GATEWAY.0,
        journal: 1,
        number: 1000 + number,
    })
}

async fn ask(node: &Running, by: By) -> Result<v1::GetReceiptResponse, tonic::Status> {
    let request = v1::GetReceiptRequest { by: Some(by) };
    let answer = node.audit.clone().get_receipt(request).await?;
    Ok(answer.into_inner())
}

/// A receipt, verified; what the answer says of its detail is what it proves.
async fn receipt(net: &Net, node: &Running, number: u64) -> VerifiedReceipt {
    let answer = ask(node, by_debit(number)).await.unwrap();
    let file = ReceiptFile::decode(&answer.file).unwrap();
    let verified = file.verify(&net.genesis).unwrap();
    assert_eq!(verified.receipt.position.number.0, number);
    assert_eq!(verified.receipt.charged, Amount(1000));
    // The debit is proven with or without its detail.
    assert_eq!(verified.fixed.unwrap().limit, Amount(2000));
    assert_eq!(verified.detail.is_some(), answer.detail.is_some());
    let price = match verified.detail {
        Some(_) => PriceCheck::Exact,
        None => PriceCheck::NoDetail,
    };
    assert_eq!(verified.price, price);
    verified
}

/// Of these debits some have their details and all others do not.
async fn check_details(net: &Net, node: &Running, all: u64, kept: impl Fn(u64) -> bool) {
    for number in 1..=all {
        let found = receipt(net, node, number).await;
        assert_eq!(found.detail.is_some(), kept(number), "debit {number}");
    }
}

/// The history of both accounts, proven complete; how many receipts.
async fn check_histories(net: &Net, node: &Running) -> usize {
    use v1::get_history_request::Of;
    let mut trust = Trust::new(&net.genesis).unwrap();
    let mut count = 0;
    for account in [0, 1] {
        let request = v1::GetHistoryRequest {
            of: Some(Of::Account(account)),
            from_height: 1,
            to_height: 0,
        };
        let answer = node.audit.clone().get_history(request).await.unwrap();
        let file = HistoryFile::decode(&answer.into_inner().file).unwrap();
        let shown = file.verify_with(&mut trust).unwrap().entries;
        let is_receipt = |(_, entry): &&(u64, Entry)| matches!(entry, Entry::Receipt(_));
        count += shown.iter().filter(is_receipt).count();
    }
    count
}

async fn ids(node: &Running, to: u64) -> Vec<Vec<u8>> {
    let mut ids = Vec::new();
    for height in 1..=to {
        let request = v1::GetHeaderRequest { height };
        let answer = node.audit.clone().get_header(request).await.unwrap();
        ids.push(answer.into_inner().header.unwrap().id.to_vec());
    }
    ids
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Bytes of a folder's files.
fn used(folder: &Path) -> u64 {
    let sizes = files(folder).into_iter();
    sizes.map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// Whether the salt of a debit's detail is anywhere in a home.
fn has_salt(home: &Home, number: u64) -> bool {
    let salt = [number as u8; 16];
    files(home.folder()).into_iter().any(|path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(salt.len()).any(|window| window == salt)
    })
}

/// What `tally prune` does, on a stopped node.
fn prune(net: &Net, below: u64, dry: bool) -> Swept {
    let home = &net.homes[0];
    let _lock = home.lock().unwrap();
    let config = home.config().unwrap().storage;
    let genesis = net.genesis.clone();
    let store = Store::open(Arc::new(RealDisk), &home.data(), genesis, &config).unwrap();
    let sweep = store.sweep(HoldsFile::of(home.folder()));
    drop(store);
    if !dry {
        store::forget_index(&home.data()).unwrap();
    }
    let mut rule = Rule {
        before: BTreeMap::from([(ClassNumber(0), Height(below))]),
        ..Rule::default()
    };
    sweep.all(&mut rule, dry).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_details_leave_the_disk_and_all_else_is_as_it_was() {
    let net = net(1);
    let home = &net.homes[0];
    let node = net.start(0, SOLO).await;
    prepare(&net, &node).await;
    // Of the first version and of the second, in turn.
    let mut lost = 0;
    for number in 0..8 {
        let account = (number % 2) as u32;
        lost = batch(&net, &node, number * 21 + 1, 21, account)
            .await
            .height;
    }
    let below = batch(&net, &node, 169, 12, 0).await.height;
    let (last, receipts) = (node.height().await, check_histories(&net, &node).await);
    assert_eq!(receipts, 180);
    let before = ids(&node, last).await;
    check_details(&net, &node, 180, |_| true).await;
    node.stop().await;
    let blocks = home.data().join("blocks");
    assert!(files(&blocks).len() > 1, "several files");
    assert!(has_salt(home, 7) && has_salt(home, 170));

    let bytes = used(&blocks);
    let dry = prune(&net, below, true);
    assert_eq!((dry.dropped, dry.files), (168, 0));
    assert_eq!(used(&blocks), bytes, "a dry run changes nothing");
    let swept = prune(&net, below, false);
    assert_eq!((swept.dropped, swept.held, swept.blocks), (168, 0, 8));
    let now = used(&blocks);
    assert_eq!(bytes - now, swept.before - swept.after);
    // Half of the details is of 112 bytes, half of 128; 42 stay of each, and
    // 61 of each block.
    assert_eq!(bytes - now, 168 * (120 - 42) - 8 * 61, "{bytes} to {now}");
    assert!(!has_salt(home, 7) && has_salt(home, 170));
    let again = prune(&net, below, false);
    assert_eq!(again, Swept::default());

    // As it is, and when everything is made again from the blocks.
    for derived in [true, false] {
        if !derived {
            store::forget_derived(&home.data()).unwrap();
        }
        let node = net.start(0, SOLO).await;
        assert_eq!(ids(&node, last).await, before);
        assert!(check_histories(&net, &node).await >= receipts);
        check_details(&net, &node, 180, |number| number > 168).await;
        let unknown = ask(&node, by_hold(7)).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound, "{unknown}");
        ask(&node, by_hold(170)).await.unwrap();
        node.stop().await;
    }
    let node = net.start(0, SOLO).await;
    let request = v1::GetBlockRequest { height: lost };
    let answer = node.audit.clone().get_block(request).await.unwrap();
    let answer = answer.into_inner();
    let block = StoredBlock::decode(&answer.block, 1 << 20).unwrap();
    assert!(answer.redacted && !block.batches().is_empty());
    assert!(block.is_whole());
    spend(&net, &node, 181, 1).await;
    check_details(&net, &node, 200, |number| number > 168).await;
    // The check of queues counts what it cannot judge.
    let ask = format!(
        "--format json gateway audit-queue --node {} --genesis {}",
        home.config().unwrap().listen.grpc,
        home.genesis_file().display()
    );
    let folder = net.dir.path().to_owned();
    let asked = tokio::task::spawn_blocking(move || crate::cli_common::run(&folder, &ask).json());
    let audit = asked.await.unwrap();
    assert_eq!(audit["without a kept detail"], 168);
    assert_eq!(audit["requests"], 200);
    node.stop().await;
    take_certified(&net);
}

fn application(home: &Home, genesis: &Genesis, data: &Path) -> NodeApplication {
    let config = home.config().unwrap();
    let disk = Arc::new(RealDisk);
    let store = Store::open(disk, data, genesis.clone(), &config.storage).unwrap();
    let mempool = Arc::new(Mempool::new(config.mempool));
    NodeApplication::new(store, mempool, Arc::default(), Metrics::new())
}

/// A node that has nothing takes all blocks from a pruned one's history: with
/// their certificates, and never as proposals.
fn take_certified(net: &Net) {
    let home = &net.homes[0];
    let mut from = application(home, &net.genesis, &home.data());
    let data = net.dir.path().join("new");
    let mut to = application(home, &net.genesis, &data);
    let mut other_forms = 0;
    for height in (1..=from.committed().0).map(Height) {
        let decision = from.history(height..=height, 1 << 20).unwrap().remove(0);
        let slot = Slot {
            height,
            round: 0,
            proposer: 0,
        };
        let live = Source::Live {
            first_seen: false,
            pol_round: None,
        };
        let body = &decision.body;
        let whole = to.id(body);
        let (ids, proposed) = (
            (whole, to.certified_id(body)),
            to.validate(slot, body, live),
        );
        let id = Some(decision.id);
        if body[0] == REDACTED_VERSION {
            other_forms += 1;
            assert_eq!(ids, (None, id));
            let Verdict::Invalid(why) = proposed.unwrap() else {
                panic!("a proposal without details is no block");
            };
            assert!(why.contains("not certified"), "{why}");
        } else {
            assert_eq!(ids, (id, None));
            assert_eq!(proposed.unwrap(), Verdict::Valid);
        }
        assert_eq!(
            to.validate(slot, body, Source::Synced).unwrap(),
            Verdict::Valid
        );
        to.commit(decision).unwrap();
    }
    assert_eq!(other_forms, 8);
    drop(to);
    // It starts again from these.
    let again = application(home, &net.genesis, &data);
    assert_eq!(again.committed(), from.committed());
}

fn hold(account: Option<u32>) -> Hold {
    Hold {
        account,
        reason: "case 12".to_owned(),
        since: 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legal_hold_keeps_details_from_prune_until_it_is_removed() {
    let net = net(1);
    let home = &net.homes[0];
    let node = net.start(0, SOLO).await;
    prepare(&net, &node).await;
    spend(&net, &node, 1, 0).await;
    let below = spend(&net, &node, 21, 1).await.height + 1;
    node.stop().await;
    let holds = HoldsFile::of(home.folder());
    holds.add(hold(Some(1))).unwrap();
    let swept = prune(&net, below, false);
    assert_eq!((swept.dropped, swept.held), (20, 20));
    assert!(!has_salt(home, 20) && has_salt(home, 21));
    holds.remove(Some(1), "closed").unwrap();
    holds.add(hold(None)).unwrap();
    assert_eq!(
        (prune(&net, below, false).dropped, has_salt(home, 21)),
        (0, true)
    );
    holds.remove(None, "closed").unwrap();
    assert_eq!(
        (prune(&net, below, false).dropped, has_salt(home, 21)),
        (20, false)
    );
    // Holds that cannot be read hold everything.
    fs::write(home.folder().join("holds.json"), "{").unwrap();
    let config = home.config().unwrap().storage;
    let disk = Arc::new(RealDisk);
    let store = Store::open(disk, &home.data(), net.genesis.clone(), &config).unwrap();
    let error = store.sweep(holds).all(&mut Rule::default(), false);
    assert!(error.is_ok(), "there is nothing to look at below height 0");
    let mut rule = Rule {
        before: BTreeMap::from([(ClassNumber(0), Height(below))]),
        ..Rule::default()
    };
    let error = store
        .sweep(HoldsFile::of(home.folder()))
        .all(&mut rule, false);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("nothing is dropped")
    );
}

fn erase(net: &Net, id: u8, account: u32) -> tally_ledger::transaction::Transaction {
    let signers = [ISSUER.into(), CHECKER.into()];
    net.sign(id, &signers, Action::Erase(AccountNumber(account)))
}

/// A number of the metrics page.
async fn metric(node: &Running, name: &str) -> u64 {
    let page = node.page("/metrics").await;
    let line = page.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    line.split_whitespace().last().unwrap().parse().unwrap()
}

async fn erased(node: &Running) {
    until("the details are gone", || async {
        metric(node, "tally_node_erasures_pending").await == 0
            && metric(node, "tally_node_details_dropped").await > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_account_loses_its_details_so_far_and_nobody_else_does() {
    let net = net(1);
    let home = &net.homes[0];
    let node = net.start(0, SOLO).await;
    prepare(&net, &node).await;
    for (first, account) in [(1, 0), (21, 1), (41, 0)] {
        spend(&net, &node, first, account).await;
    }
    // Kept in memory with its details from here on.
    check_details(&net, &node, 60, |_| true).await;
    let alone = net.sign(77, &[ISSUER.into()], Action::Erase(AccountNumber(0)));
    submit(&node.ledger, alone).await.unwrap_err();
    let done = node.finalise(erase(&net, 78, 0)).await;
    let Some(v1::entry::Fact::Event(event)) = &done.entries[0].fact else {
        panic!("an erasure is an event");
    };
    // Opened, granted, bound, leased, 40 receipts.
    assert_eq!((event.name.as_str(), event.erased), ("Erased", Some(44)));
    spend(&net, &node, 61, 0).await;
    erased(&node).await;
    let others = |number: u64| number > 60 || (21..=40).contains(&number);
    check_details(&net, &node, 80, others).await;
    assert_eq!(check_histories(&net, &node).await, 80);
    assert_eq!(metric(&node, "tally_node_details_dropped").await, 40);
    node.stop().await;
    assert!(!has_salt(home, 3) && !has_salt(home, 60));
    assert!(has_salt(home, 21) && has_salt(home, 61));
    let log = fs::read_to_string(Journal::of(home.folder()).path()).unwrap();
    assert!(
        log.contains("details of an erased account dropped"),
        "{log}"
    );

    // Again, about what came after; and from the blocks alone.
    store::forget_derived(&home.data()).unwrap();
    let node = net.start(0, SOLO).await;
    check_details(&net, &node, 80, others).await;
    node.finalise(erase(&net, 79, 0)).await;
    erased(&node).await;
    check_details(&net, &node, 80, |number| (21..=40).contains(&number)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_survives_a_restart_and_waits_for_a_legal_hold() {
    let net = net(1);
    let home = &net.homes[0];
    let holds = HoldsFile::of(home.folder());
    let node = net.start(0, SOLO).await;
    prepare(&net, &node).await;
    spend(&net, &node, 1, 0).await;
    holds.add(hold(Some(0))).unwrap();
    let height = node.finalise(erase(&net, 78, 0)).await.height;
    until("the file is sealed", || async {
        node.height().await > height + 1
    })
    .await;
    assert_eq!(metric(&node, "tally_node_erasures_pending").await, 1);
    check_details(&net, &node, 20, |_| true).await;
    node.stop().await;
    assert!(has_salt(home, 7));

    let node = net.start(0, SOLO).await;
    until("it is known to wait", || async {
        metric(&node, "tally_node_erasures_pending").await == 1
    })
    .await;
    check_details(&net, &node, 20, |_| true).await;
    holds.remove(Some(0), "closed").unwrap();
    erased(&node).await;
    check_details(&net, &node, 20, |_| false).await;
    node.stop().await;
    assert!(!has_salt(home, 7));
}

/// A disk that notes who renames a file onto which and who fsyncs which
/// folder, and can fail the fsync after a file of blocks was written again.
#[derive(Debug, Default)]
struct NotedDisk {
    fails: AtomicBool,
    done: Mutex<Vec<(ThreadId, &'static str, PathBuf)>>,
}

impl NotedDisk {
    fn note(&self, what: &'static str, path: &Path) {
        let thread = std::thread::current().id();
        let mut done = self.done.lock().unwrap();
        done.push((thread, what, path.to_owned()));
    }

    /// What the thread that did the last thing of this kind did until then.
    fn until_last(&self, what: &str, path: &Path) -> Vec<(&'static str, PathBuf)> {
        let done = self.done.lock().unwrap();
        let is = |(_, did, to): &(ThreadId, &'static str, PathBuf)| *did == what && to == path;
        let end = done.iter().rposition(is).unwrap();
        let own = done[..end].iter().filter(|(by, ..)| *by == done[end].0);
        own.map(|(_, what, path)| (*what, path.clone())).collect()
    }
}

impl Disk for NotedDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path, create)
    }
    fn open_alone(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_alone(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(folder)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)?;
        let what = if from.ends_with("redacted") {
            "rewrite"
        } else {
            "rename"
        };
        self.note(what, to);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let thread = std::thread::current().id();
        let done = self.done.lock().unwrap();
        let rewritten = done
            .iter()
            .any(|(by, what, _)| (*by, *what) == (thread, "rewrite"));
        drop(done);
        if rewritten && self.fails.load(Ordering::SeqCst) {
            self.note("failed", folder);
            return Err(io::Error::other("input/output error"));
        }
        RealDisk.sync_folder(folder)?;
        self.note("sync", folder);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_not_done_before_the_renamed_files_are_durable() {
    let net = net(1);
    let home = &net.homes[0];
    let journal = Journal::of(home.folder()).path().to_owned();
    let said = || fs::read_to_string(&journal).unwrap_or_default();
    let disk = Arc::new(NotedDisk::default());
    disk.fails.store(true, Ordering::SeqCst);
    let node = net.start_on(disk.clone(), 0, SOLO).await;
    prepare(&net, &node).await;
    spend(&net, &node, 1, 0).await;
    node.finalise(erase(&net, 78, 0)).await;
    until("the folder cannot be fsynced", || async {
        let done = disk.done.lock().unwrap();
        done.iter().any(|(_, what, _)| *what == "failed")
    })
    .await;
    assert_eq!(metric(&node, "tally_node_erasures_pending").await, 1);
    node.stop().await;
    assert_eq!(said(), "", "nothing is said to be gone");

    // As after a crash, there is nothing to drop any more, and the renames
    // may not be durable yet.
    let disk = Arc::new(NotedDisk::default());
    let node = net.start_on(disk.clone(), 0, SOLO).await;
    until("it is done", || async {
        said().contains("all details of an erased account are gone")
            && Erasures::open(Arc::new(RealDisk), &home.data())
                .is_ok_and(|erasures| erasures.pending().is_empty())
    })
    .await;
    node.stop().await;
    let before = disk.until_last("rename", &home.data().join("erasures"));
    let synced = ("sync", home.data().join("blocks"));
    assert!(before.contains(&synced), "{before:?}");
    assert!(
        !before.iter().any(|(what, _)| *what == "rewrite"),
        "{before:?}"
    );
    assert!(!has_salt(home, 7));
}

/// One that was away, and one that has nothing any more, take the blocks from
/// those that have dropped details.
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_catches_up_from_others_that_have_dropped_details() {
    let net = net(4);
    let mut nodes = Vec::new();
    for i in 0..4 {
        nodes.push(net.start(i, Engine::Validators).await);
    }
    prepare(&net, &nodes[0]).await;
    spend(&net, &nodes[1], 1, 0).await;
    spend(&net, &nodes[2], 21, 1).await;
    let away = nodes.pop().unwrap();
    away.stop().await;
    let height = nodes[0].finalise(erase(&net, 78, 0)).await.height;
    for node in &nodes {
        erased(node).await;
        check_details(&net, node, 40, |number| number > 20).await;
    }
    fs::remove_dir_all(net.homes[3].data()).unwrap();
    let back = net.start(3, Engine::Validators).await;
    until("it catches up", || async { back.height().await >= height }).await;
    check_details(&net, &back, 40, |number| number > 20).await;
    assert_eq!(ids(&back, height).await, ids(&nodes[0], height).await);
    let more = spend(&net, &back, 41, 1).await.height;
    for node in nodes.iter().chain([&back]) {
        until("all have it", || async { node.height().await >= more }).await;
        check_details(&net, node, 60, |number| number > 20).await;
    }
    back.stop().await;
    for node in nodes {
        node.stop().await;
    }
    assert!(!has_salt(&net.homes[3], 7) && has_salt(&net.homes[3], 27));
}
