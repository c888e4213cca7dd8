//! Details dropped by prune, and legal holds that keep them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use tally_consensus::{Application, Slot, Source, Verdict};
use tally_ledger::{
    genesis::Genesis,
    ids::{ClassNumber, Height},
    redacted::{REDACTED_VERSION, StoredBlock},
};
use tally_node::{
    application::NodeApplication,
    forget::{HoldsFile, Rule, Swept},
    home::Home,
    mempool::Mempool,
    metrics::Metrics,
    storage::RealDisk,
    store::{self, Store},
};

use super::*;
use crate::net::by_hold;

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
        let unknown = node.receipt(by_hold(7)).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound, "{unknown}");
        node.receipt(by_hold(170)).await.unwrap();
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
