//! One node with the engine of one, its real services and a real client.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::net::{
    CHECKER, CT, ISSUER, Net, Running, by_debit, by_hold, key, list, real_disk, submit, until,
};
use tally_ledger::{
    account::Account,
    action::{Action, BindApiKey, Correct},
    block::{Certificate, vote_bytes},
    codec,
    crypto::Domain,
    execute::{Strict, build},
    ids::{AccountNumber, Amount, ApiKeyNumber, DAY_MS, HOUR_MS, Height, Time},
    reason::Reason,
    receipt::{PriceCheck, ReceiptFile},
    state::State,
    state_file::StateFile,
    transaction::Transaction,
};
use tally_node::{
    Engine, RunningNode,
    storage::{BlockFiles, RealDisk},
    store,
};
use tally_proto::{Problem, v1};

const SOLO: Engine = Engine::Solo;

/// Account 0 with a grant, a key, a lease, and 30 debits of 1,000 micro-CT.
async fn spend(net: &Net, node: &Running) {
    let opened = node.finalise(net.open_account(0)).await;
    assert_eq!(opened.entries.len(), 1);
    node.finalise(net.issue(0, 100 * CT)).await;
    node.finalise(net.bind(0)).await;
    node.finalise(net.open_journal()).await;
    node.finalise(net.lease(1, 0, 10 * CT)).await;
    // One batch of the first version of debits, one of the second.
    for first in [1, 16] {
        let settled = node.finalise(net.debits(first, 15, 1, 0, 1000)).await;
        assert_eq!(settled.receipts, 15);
    }
}

async fn account(node: &Running) -> v1::GetAccountResponse {
    let request = v1::GetAccountRequest { account: 0 };
    node.audit
        .clone()
        .get_account(request)
        .await
        .unwrap()
        .into_inner()
}

/// The account's proof verifies against the genesis and says what it did.
async fn check_account(net: &Net, node: &Running, spent: u64) {
    let account = account(node).await;
    let proof = account.proof.unwrap();
    let file = StateFile::decode(&proof.file).unwrap();
    let leaf = file.verify(&net.genesis).unwrap().unwrap();
    let proven: Account = codec::decode(leaf, leaf.len()).unwrap();
    assert_eq!(proven.holder, key(AccountNumber(0)).public());
    assert_eq!(proven.totals[0].1.spent, Amount(spent));
    assert_eq!(account.totals[0].spent, spent);
}

/// Every receipt is found by hold, debit and index, and its file verifies.
async fn check_receipts(net: &Net, node: &Running, count: u64) {
    use v1::get_receipt_request::By;
    for number in 1..=count {
        let receipt = async |by| node.receipt(by).await.unwrap();
        let found = receipt(by_hold(number)).await;
        assert_eq!(receipt(by_debit(number)).await, found);
        let index = found.entry.as_ref().unwrap().index;
        assert_eq!(receipt(By::Index(index)).await, found);
        let file = ReceiptFile::decode(&found.file).unwrap();
        let verified = file.verify(&net.genesis).unwrap();
        assert_eq!(verified.receipt.position.number.0, number);
        assert_eq!(verified.receipt.charged, Amount(1000));
        assert_eq!(verified.price, PriceCheck::Exact);
        let detail = found.detail.unwrap();
        assert_eq!(detail.counts[0], 1000);
        let queued = (16..=30).contains(&number);
        assert_eq!(verified.detail.unwrap().queued.is_some(), queued);
        assert_eq!(detail.queue, u32::from(queued));
    }
}

async fn entries(node: &Running, of: v1::list_entries_request::Of) -> Vec<v1::Entry> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let request = v1::ListEntriesRequest {
            of: Some(of),
            from,
            limit: 7,
            ..Default::default()
        };
        let page = node
            .audit
            .clone()
            .list_entries(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.entries.len() <= 7);
        all.extend(page.entries);
        if page.next == 0 {
            return all;
        }
        from = page.next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_final_is_proven_and_survives_a_restart_and_a_lost_index() {
    use v1::list_entries_request::Of;
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    spend(&net, &node).await;
    check_account(&net, &node, 30_000).await;
    check_receipts(&net, &node, 30).await;
    let of_account = entries(&node, Of::Account(0)).await;
    let of_gateway = entries(&node, Of::Gateway(0)).await;
    let control = entries(&node, Of::Control(true)).await;
    assert_eq!(of_gateway.len(), 32, "a journal, a lease, 30 receipts");
    // Opened, granted, bound, leased, 30 receipts.
    assert_eq!(of_account.len(), 34);
    let height = node.height().await;
    node.stop().await;
    let data = net.homes[0].data();
    for lost in ["", "index", "snapshots", "log", "all"] {
        match lost {
            "" => {}
            "all" => store::forget_derived(&data).unwrap(),
            folder => fs::remove_dir_all(data.join(folder)).unwrap(),
        }
        let node = net.start(0, SOLO).await;
        assert!(node.height().await >= height);
        check_account(&net, &node, 30_000).await;
        check_receipts(&net, &node, 30).await;
        assert_eq!(
            entries(&node, Of::Account(0)).await,
            of_account,
            "without {lost}"
        );
        assert_eq!(
            entries(&node, Of::Gateway(0)).await,
            of_gateway,
            "without {lost}"
        );
        assert_eq!(
            entries(&node, Of::Control(true)).await,
            control,
            "without {lost}"
        );
        let again = node.finalise(net.open_account(0)).await;
        assert_eq!(again.entries.len(), 1, "the recorded result");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handing_in_twice_gives_the_recorded_result_and_refusals_have_numbers() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    let first = node.finalise(net.open_account(0)).await;
    assert_eq!(node.finalise(net.open_account(0)).await, first);
    // At once: the first answer may be there before all of the node has
    // noticed that the block is.
    for number in 10..60 {
        let first = node.finalise(net.open_account(number)).await;
        assert_eq!(node.finalise(net.open_account(number)).await, first);
    }
    node.finalise(net.open_journal()).await;
    let journal = node.finalise(net.open_journal()).await;
    assert_eq!(
        journal.entries.len(),
        1,
        "counted transactions are idempotent too"
    );
    let unknown = submit(&node.ledger, net.issue(99, 1)).await.unwrap_err();
    let problem = Problem::of(&unknown).unwrap();
    assert_eq!(problem.reason, Some(Reason::UnknownAccount));
    let mut forged = net.open_account(1);
    forged.signatures = net.open_account(2).signatures;
    let forged = submit(&node.ledger, forged).await.unwrap_err();
    assert_eq!(
        Problem::of(&forged).unwrap().reason,
        Some(Reason::BadSignature)
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debits_that_arrive_before_their_turn_wait_for_it() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    spend(&net, &node).await;
    let (ledger, early) = (node.ledger.clone(), net.debits(41, 10, 1, 0, 1000));
    let waiting = tokio::spawn(async move { submit(&ledger, early).await });
    until("the early batch waits", || async {
        let status = node
            .ledger
            .clone()
            .get_status(v1::GetStatusRequest {})
            .await
            .unwrap();
        status.into_inner().waiting == 1
    })
    .await;
    node.finalise(net.debits(31, 10, 1, 0, 1000)).await;
    let late = waiting.await.unwrap().unwrap();
    assert_eq!(late.outcome(), v1::Outcome::Final);
    check_account(&net, &node, 50_000).await;
    check_receipts(&net, &node, 50).await;
    node.stop().await;
}

/// How many waiting transactions the node has dropped because the ledger
/// refused them.
async fn dropped(node: &Running) -> u64 {
    let page = node.page("/metrics").await;
    let line = page
        .lines()
        .find(|line| line.contains("dropped_total") && !line.starts_with('#'));
    line.unwrap()
        .split_whitespace()
        .last()
        .unwrap()
        .parse()
        .unwrap()
}

/// Transactions that exclude each other are admitted together; all but one
/// are told so when the block is built, long before their deadline.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_while_a_block_is_built_is_answered_at_once() {
    const TOGETHER: u8 = 16;
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    node.finalise(net.open_account(0)).await;
    // A few times, until some were in the mempool at the same moment.
    for round in 1..=20u8 {
        let started = Instant::now();
        let bind = |id: u8| {
            let bind = BindApiKey {
                account: AccountNumber(0),
                key: key(ApiKeyNumber(round.into())).public(),
                models: list(Vec::new()),
                cap: Amount(1),
                expires: Time(u64::MAX),
            };
            let mut full = [id; 16];
            full[0] = round;
            let signers = [AccountNumber(0).into()];
            let until = (crate::net::now() / HOUR_MS) as u32 + 24;
            net.sign_at(full, until, &signers, Action::BindApiKey(bind), Vec::new())
        };
        let tasks: Vec<_> = (0..TOGETHER)
            .map(|id| {
                let (ledger, transaction) = (node.ledger.clone(), bind(id));
                tokio::spawn(async move { submit(&ledger, transaction).await })
            })
            .collect();
        let mut finals = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(answer) => {
                    assert_eq!(answer.outcome(), v1::Outcome::Final);
                    finals += 1;
                }
                Err(status) => {
                    let problem = Problem::of(&status).unwrap();
                    assert_eq!(problem.reason, Some(Reason::KeyBoundBefore));
                }
            }
        }
        assert_eq!(finals, 1);
        // `submit` would have waited for 20 s.
        assert!(started.elapsed() < Duration::from_secs(15));
        if dropped(&node).await > 0 {
            node.stop().await;
            return;
        }
    }
    panic!("never were two in the mempool at the same moment");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_needs_no_proof_from_its_author() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    spend(&net, &node).await;
    let receipts = entries(&node, v1::list_entries_request::Of::Class(0)).await;
    let is_receipt = |e: &&v1::Entry| matches!(e.fact, Some(v1::entry::Fact::Receipt(_)));
    let entry = receipts.iter().find(is_receipt).unwrap().index;
    let correct = Correct {
        entry,
        amount: Amount(400),
        expires: Time(crate::net::now() + DAY_MS),
    };
    let signers = [ISSUER.into(), CHECKER.into()];
    let corrected = node
        .finalise(net.sign(77, &signers, Action::Correct(correct)))
        .await;
    let Some(v1::entry::Fact::Event(event)) = &corrected.entries[0].fact else {
        panic!("a correction is an event");
    };
    assert_eq!((event.corrected, event.amount), (Some(entry), Some(400)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_every_block_once_in_order_from_any_height() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    node.finalise(net.open_account(0)).await;
    let start = node.height().await;
    let request = v1::WatchRequest {
        from_height: 1,
        ..Default::default()
    };
    let mut watch = node
        .audit
        .clone()
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    node.finalise(net.open_account(1)).await;
    let (mut height, mut entries) = (0, 1);
    while height < start + 3 || entries < 3 {
        let block = watch.message().await.unwrap().unwrap();
        let header = block.header.unwrap();
        let (parsed, certificate) = header.parts().unwrap();
        let id = parsed.id();
        certificate
            .verify(&net.chain(), parsed.height, &id, &net.genesis.validators)
            .unwrap();
        assert_eq!(parsed.height.0, height + 1);
        assert_eq!(block.first_entry, entries);
        height += 1;
        entries += block.entries.len() as u64;
        assert_eq!(parsed.log_size, entries);
    }
    drop(watch);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_block_file_stops_the_start_and_says_where() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    spend(&net, &node).await;
    node.stop().await;
    let folder = net.homes[0].data().join("blocks");
    let file = fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[300] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let error = net
        .try_start(&real_disk(), 0, SOLO)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    assert!(error.contains("at byte 56, in block 1"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certified_block_that_executes_to_another_root_stops_the_start_and_says_to_which() {
    let net = Net::new(1);
    let home = &net.homes[0];
    let state = State::genesis(&net.genesis).unwrap();
    let none: [Transaction; 0] = [];
    let mut block = build(&state, Time(crate::net::now()), 0, none, &Strict).block;
    let executed = block.header.state_root;
    block.header.state_root.0[0] ^= 1;
    // Signed by the one validator all the same.
    let id = block.header.id();
    let vote = vote_bytes(Height(1), 0, Some(&id));
    let consensus = home.keys().unwrap().consensus;
    let signature = consensus.sign(Domain::Precommit, &net.chain(), &vote);
    let certificate = Certificate {
        round: 0,
        precommits: crate::net::list(vec![(0, signature)]),
    };
    let (disk, folder) = (Arc::new(RealDisk), home.data().join("blocks"));
    let (mut files, _) = BlockFiles::open(disk, &folder, net.chain(), 1 << 20).unwrap();
    files
        .append(Height(1), &certificate, &block.encode())
        .unwrap();
    drop(files);
    let error = net
        .try_start(&real_disk(), 0, SOLO)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("certified block 1"), "{error}");
    let certified = block.header.state_root;
    let differs = format!("the header's state root is {certified}, execution makes it {executed}");
    assert!(error.contains(&differs), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_runs_once_and_shows_its_health() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    let second = RunningNode::start(&net.homes[0], SOLO)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        second.contains("another node runs on this home"),
        "{second}"
    );
    node.finalise(net.open_account(0)).await;
    let (health, metrics) = (node.page("/healthz").await, node.page("/metrics").await);
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(
        metrics.contains("tally_node_transactions_total 1"),
        "{metrics}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_accounts_one_issue() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    let transactions: Vec<_> = (0..20).map(|i| net.open_account(i)).collect();
    let tasks: Vec<_> = transactions
        .into_iter()
        .map(|transaction| {
            let ledger = node.ledger.clone();
            tokio::spawn(async move { submit(&ledger, transaction).await.unwrap() })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        let finality = task.await.unwrap().finality.unwrap();
        let Some(v1::entry::Fact::Event(event)) = &finality.entries[0].fact else {
            panic!("an account's opening is an event");
        };
        numbers.push(event.account.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    node.stop().await;
}
