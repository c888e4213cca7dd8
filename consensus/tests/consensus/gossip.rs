//! The gossip of transactions, over loopback.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::common::{free_addresses, multiaddr};
use bytes::Bytes;
use tally_consensus::{
    PeerId,
    gossip::{self, Gossip, GossipConfig, GossipCounts, Incoming, MAX_NOTICE_BYTES},
    peer_id,
};
use tally_ledger::crypto::SecretKey;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(20);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n + 1; 32])
}

fn id(n: u8) -> PeerId {
    peer_id(&key(n).public()).unwrap()
}

fn config(free: &[SocketAddr], own: u8, peers: &[u8]) -> GossipConfig {
    let listen = multiaddr(free[usize::from(own)], None);
    let peers = peers
        .iter()
        .map(|n| multiaddr(free[usize::from(*n)], Some(id(*n))))
        .collect();
    GossipConfig {
        redial: Duration::from_millis(50),
        ..GossipConfig::new(listen, peers)
    }
}

/// Nodes that all know each other, connected.
async fn mesh(count: u8, change: impl Fn(&mut GossipConfig)) -> Vec<(Gossip, Incoming)> {
    let free = free_addresses(count.into());
    let mut nodes = Vec::new();
    for own in 0..count {
        let others: Vec<u8> = (0..count).filter(|n| *n != own).collect();
        let mut config = config(&free, own, &others);
        change(&mut config);
        let (gossip, incoming, _) = gossip::start(config, &key(own)).unwrap();
        nodes.push((gossip, incoming));
    }
    for (gossip, _) in &nodes {
        counts(gossip, |counts| counts.peers == usize::from(count) - 1).await;
    }
    nodes
}

/// Waits until the counts are as wanted.
async fn counts(gossip: &Gossip, wanted: impl Fn(GossipCounts) -> bool) -> GossipCounts {
    let end = Instant::now() + LONG;
    while !wanted(gossip.counts()) {
        assert!(Instant::now() < end, "{:?}", gossip.counts());
        sleep(Duration::from_millis(5)).await;
    }
    gossip.counts()
}

fn transaction(n: u32, bytes: usize) -> Bytes {
    let mut transaction = n.to_le_bytes().to_vec();
    transaction.resize(bytes.max(4), 1);
    transaction.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_peer_gets_every_transaction_once_and_in_order() {
    let mut nodes = mesh(4, |_| {}).await;
    let sent: Vec<Bytes> = (0..500)
        .map(|n| transaction(n, 20_000 - 30 * n as usize))
        .collect();
    let started = Instant::now();
    let twice = sent.iter().flat_map(|t| [t.clone(), t.clone()]);
    twice.for_each(|transaction| assert!(nodes[0].0.publish(transaction)));
    for (_, incoming) in &mut nodes[1..] {
        for wanted in &sent {
            let (from, transaction) = timeout(LONG, incoming.recv()).await.unwrap().unwrap();
            assert!((from, &transaction) == (id(0), wanted), "out of order");
        }
    }
    let bytes: usize = sent.iter().map(Bytes::len).sum();
    println!("{bytes} bytes to three peers in {:?}", started.elapsed());
    assert_eq!(nodes[0].0.counts().duplicates, 500);
    assert_eq!(nodes[0].0.counts().dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_passes_and_a_larger_one_is_refused() {
    let mut nodes = mesh(2, |_| {}).await;
    assert!(!nodes[0].0.publish(transaction(1, (4 << 20) + 1)));
    assert!(nodes[0].0.publish(transaction(2, 4 << 20)));
    let (_, got) = timeout(LONG, nodes[1].1.recv()).await.unwrap().unwrap();
    assert!(got == transaction(2, 4 << 20), "other bytes");
    assert_eq!(nodes[0].0.counts().dropped, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_peer_does_not_take_is_dropped_and_counted() {
    let mut nodes = mesh(2, |config| config.max_queued = 100_000).await;
    // Nobody takes anything at node 1, whose channel holds 4096.
    let many = 20_000;
    for n in 0..many {
        assert!(nodes[0].0.publish(transaction(n, 1000)));
        tokio::task::yield_now().await;
    }
    let sent = counts(&nodes[0].0, |counts| counts.dropped > 0).await;
    assert_eq!(sent.published, u64::from(many));
    // The mesh still works for whoever comes to take.
    let mut taken = 0;
    while taken + nodes[0].0.counts().dropped < u64::from(many) {
        timeout(LONG, nodes[1].1.recv()).await.unwrap().unwrap();
        taken += 1;
    }
    assert_eq!(taken + nodes[0].0.counts().dropped, u64::from(many));
    assert!(nodes[0].0.publish(transaction(many, 1000)));
    let (_, got) = timeout(LONG, nodes[1].1.recv()).await.unwrap().unwrap();
    assert_eq!(got, transaction(many, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_peer_is_refused_and_a_known_one_may_come_back() {
    let free = free_addresses(3);
    let (one, mut incoming, _) = gossip::start(config(&free, 0, &[1]), &key(0)).unwrap();
    let (two, _in_two, task) = gossip::start(config(&free, 1, &[0]), &key(1)).unwrap();
    let (stranger, _in_three, _) = gossip::start(config(&free, 2, &[0]), &key(2)).unwrap();
    counts(&one, |counts| counts.peers == 1 && counts.refused > 0).await;
    assert!(stranger.publish(transaction(1, 10)));
    counts(&stranger, |counts| counts.dropped == 1).await;
    two.stop();
    task.await.unwrap();
    counts(&one, |counts| counts.peers == 0).await;
    let (two, _in_two, _) = gossip::start(config(&free, 1, &[0]), &key(1)).unwrap();
    counts(&two, |counts| counts.peers == 1).await;
    assert!(two.publish(transaction(2, 10)));
    let (from, got) = timeout(LONG, incoming.recv()).await.unwrap().unwrap();
    assert_eq!((from, got), (id(1), transaction(2, 10)));
    counts(&one, |counts| counts.received == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_reach_every_peer_and_those_too_large_none() {
    let nodes = mesh(3, |_| {}).await;
    let mut incoming: Vec<_> = nodes[1..]
        .iter()
        .map(|(gossip, _)| gossip.notices().receive())
        .collect();
    let notices = nodes[0].0.notices();
    assert!(!notices.send(&vec![1; MAX_NOTICE_BYTES + 1].into()));
    let largest = Bytes::from(vec![2; MAX_NOTICE_BYTES]);
    for incoming in &mut incoming {
        // One sent before the stream is there is lost, and sent again.
        let got = loop {
            assert!(notices.send(&largest));
            if let Ok(got) = timeout(Duration::from_millis(50), incoming.recv()).await {
                break got.unwrap();
            }
        };
        assert!(got == (id(0), largest.clone()), "another notice");
    }
}
