//! Details that are dropped, by prune or because an account was erased: gone
//! from the disk, and nothing else of the chain is missed.

mod durable;
mod erase;
mod prune;

use std::{fs, path::Path};

use tally_ledger::{
    action::Action,
    certified::Trust,
    entry::Entry,
    history::HistoryFile,
    ids::{AccountNumber, Amount},
    receipt::{PriceCheck, ReceiptFile, VerifiedReceipt},
};
use tally_node::{Engine, config::Storage, forget::Hold, home::Home};
use tally_proto::v1;

use crate::net::{CHECKER, CT, ISSUER, Net, Running, by_debit, until};

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

/// A receipt, verified; what the answer says of its detail is what it proves.
async fn receipt(net: &Net, node: &Running, number: u64) -> VerifiedReceipt {
    let answer = node.receipt(by_debit(number)).await.unwrap();
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

fn hold(account: Option<u32>) -> Hold {
    Hold {
        account,
        reason: "case 12".to_owned(),
        since: 1,
    }
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
