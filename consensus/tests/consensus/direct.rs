//! What consensus sends straight to each validator, and what it does when
//! one of them is not reached.

use std::{net::SocketAddr, path::Path, sync::atomic::Ordering, time::Duration};

use crate::common::{Node, assert_agreement, free_addresses, keys, multiaddr, network};
use tally_consensus::gossip::{self, Gossip, GossipConfig};
use tokio::time::{Instant, sleep};

const LONG: Duration = Duration::from_secs(20);

/// Joins a node's streams to those of all others.
fn connect(node: &mut Node, free: &[SocketAddr]) -> Gossip {
    let own = node.number;
    let others = (0..node.count).filter(|n| *n != own);
    let peers = others.map(|n| multiaddr(free[usize::from(n)], Some(keys(n).peer_id())));
    let config = GossipConfig {
        redial: Duration::from_millis(50),
        ..GossipConfig::new(multiaddr(free[usize::from(own)], None), peers.collect())
    };
    let (gossip, _, _) = gossip::start(config, &keys(own).network).unwrap();
    node.config.direct = gossip.direct();
    gossip
}

/// Four nodes with streams among them, with work without end.
async fn four(folder: &Path, name: &str) -> (Vec<Node>, Vec<Gossip>, Vec<SocketAddr>) {
    let mut nodes = network(folder, name, 4);
    let free = free_addresses(4);
    let streams: Vec<_> = nodes.iter_mut().map(|node| connect(node, &free)).collect();
    for node in &mut nodes {
        node.knobs.busy.store(true, Ordering::Relaxed);
        node.start();
    }
    (nodes, streams, free)
}

fn sent(node: &Node) -> u64 {
    node.config.direct.as_ref().unwrap().counts().published
}

async fn sends_more(node: &Node) {
    let (before, end) = (sent(node), Instant::now() + LONG);
    while sent(node) == before {
        assert!(Instant::now() < end, "nothing is sent straight");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn stop_all(nodes: &mut [Node]) {
    for node in nodes.iter_mut() {
        node.stop().await;
    }
    assert_agreement(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn votes_and_large_bodies_go_straight_to_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let (mut nodes, _streams, _) = four(folder.path(), "straight").await;
    for node in &nodes {
        node.knobs.bytes.store(2 << 20, Ordering::Relaxed);
    }
    for node in &nodes {
        node.wait_height(6).await;
    }
    let before: Vec<_> = nodes.iter().map(sent).collect();
    for (node, before) in nodes.iter().zip(before) {
        node.wait_height(26).await;
        // In twenty heights five proposals of 17 parts, and at least two votes
        // in each: 85 parts alone, or 45 votes and proposals, are fewer.
        let more = sent(node) - before;
        assert!(more >= 100, "{more} messages went straight");
        let counts = node.config.direct.as_ref().unwrap().counts();
        assert!(counts.received > 0, "{counts:?}");
    }
    stop_all(&mut nodes).await;
    let large = |d: &&tally_consensus::Decision| d.body.len() == 2 << 20;
    let blocks = nodes[0].chain.lock().unwrap().blocks.clone();
    assert!(blocks.iter().filter(large).count() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_one_is_not_reached_gossipsub_carries_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (mut nodes, streams, free) = four(folder.path(), "lost").await;
    sends_more(&nodes[0]).await;
    // Its streams end; its engine goes on.
    streams[3].stop();
    let end = Instant::now() + LONG;
    while streams[..3].iter().any(|gossip| gossip.counts().peers > 2) {
        assert!(Instant::now() < end, "the streams do not end");
        sleep(Duration::from_millis(10)).await;
    }
    // What was on its way to them is sent with the next block.
    nodes[0].wait_height(nodes[0].height() + 1).await;
    let (before, height) = (sent(&nodes[0]), nodes[0].height());
    for node in &nodes {
        node.wait_height(height + 8).await;
    }
    assert_eq!(sent(&nodes[0]), before, "not all are reached");
    nodes[3].stop().await;
    let _again = connect(&mut nodes[3], &free);
    nodes[3].start();
    sends_more(&nodes[0]).await;
    nodes[3].wait_height(height + 20).await;
    stop_all(&mut nodes).await;
}
