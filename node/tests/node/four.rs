//! Four validators with the real engine, in one process.

use std::fs;

use crate::net::{Net, Running, until};
use tally_node::Engine;
use tally_proto::v1;

const VALIDATORS: Engine = Engine::Validators;

async fn header(node: &Running, height: u64) -> Option<v1::CertifiedHeader> {
    let request = v1::GetHeaderRequest { height };
    node.audit
        .clone()
        .get_header(request)
        .await
        .ok()?
        .into_inner()
        .header
}

/// All nodes have block `height`, and the same one.
async fn agree(nodes: &[&Running], height: u64) {
    let mut ids = Vec::new();
    for node in nodes {
        until("the block arrives", || async {
            node.height().await >= height
        })
        .await;
        ids.push(header(node, height).await.unwrap().id);
    }
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn four_validators_agree_and_a_wiped_one_comes_back() {
    let net = Net::new(4);
    let mut nodes = Vec::new();
    for i in 0..4 {
        nodes.push(net.start(i, VALIDATORS).await);
    }
    let first = nodes[0].finalise(net.open_account(0)).await;
    agree(&nodes.iter().collect::<Vec<_>>(), first.height).await;
    // Each node takes transactions, whoever proposes.
    for (i, node) in nodes.iter().enumerate() {
        node.finalise(net.open_account(1 + i as u32)).await;
    }
    let last = nodes.pop().unwrap();
    last.stop().await;
    let without = nodes[1].finalise(net.open_account(5)).await;
    fs::remove_dir_all(net.homes[3].data()).unwrap();
    let back = net.start(3, VALIDATORS).await;
    let mut all: Vec<&Running> = nodes.iter().collect();
    all.push(&back);
    agree(&all, without.height).await;
    let again = back.finalise(net.open_account(6)).await;
    agree(&all, again.height).await;
    back.stop().await;
    for node in nodes {
        node.stop().await;
    }
}
