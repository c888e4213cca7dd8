//! Details dropped because an account was erased.

use tally_ledger::{action::Action, ids::AccountNumber};
use tally_node::{
    forget::{HoldsFile, Journal},
    store,
};

use super::*;
use crate::net::{ISSUER, submit};

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
