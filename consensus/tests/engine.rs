//! Four validators in one process, over loopback: agreement, crashes, and
//! who may vote when.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{CHAIN, Node, assert_agreement, keys, network, now_ms};
use malachitebft_app_channel::app::wal::Log;
use tally_consensus::{
    ConsensusError, Guard, Mode, Observing, Spread,
    guard::{Message, Position, Step},
};
use tally_ledger::{hash::Hash, ids::Height};

fn busy(nodes: &[Node]) {
    for node in nodes {
        node.knobs.busy.store(true, Ordering::Relaxed);
        node.wake.wake();
    }
}

async fn start_all(nodes: &mut [Node]) {
    nodes.iter_mut().for_each(Node::start);
    for node in nodes {
        node.wait_height(2).await;
    }
}

async fn stop_all(nodes: &mut [Node]) {
    for node in nodes.iter_mut().filter(|node| node.handle.is_some()) {
        node.stop().await;
    }
    assert_agreement(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_nodes_agree_and_a_restarted_one_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "agree", 4);
    start_all(&mut nodes).await;
    nodes[3].stop().await;
    let height = nodes[3].height();
    busy(&nodes[..3]);
    nodes[0].wait_height(height + 10).await;
    nodes[3].start();
    nodes[3].wait_height(height + 20).await;
    nodes[3]
        .wait("a vote", |s| {
            s.last_vote.is_some_and(|v| v.height.0 > height + 10)
        })
        .await;
    assert!(
        nodes[3].knobs.validated[2].load(Ordering::Relaxed) > 0,
        "nothing came by sync"
    );
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_of_four_cannot_go_on_and_all_four_can_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "two", 4);
    start_all(&mut nodes).await;
    for node in &mut nodes[2..] {
        node.stop().await;
    }
    // What was under way may still be decided, nothing more.
    let stuck = nodes[0].height().max(nodes[1].height()) + 1;
    nodes[0]
        .wait("a round that nobody decides", |s| s.round > 1)
        .await;
    assert!(nodes[..2].iter().all(|node| node.height() <= stuck));
    for node in &mut nodes[2..] {
        node.start();
    }
    for node in &nodes {
        node.wait_height(stuck + 2).await;
    }
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_blocks_travel_in_parts_with_gossipsub_and_with_broadcast() {
    for spread in [Spread::Gossipsub, Spread::Broadcast] {
        let folder = tempfile::tempdir().unwrap();
        let mut nodes = network(folder.path(), &format!("large{spread:?}"), 4);
        for node in &mut nodes {
            node.config.spread = spread;
            node.knobs.bytes.store(2 << 20, Ordering::Relaxed);
        }
        start_all(&mut nodes).await;
        busy(&nodes);
        nodes[0].wait_height(8).await;
        let large = |d: &&tally_consensus::Decision| d.body.len() == 2 << 20;
        assert!(
            nodes[0]
                .chain
                .lock()
                .unwrap()
                .blocks
                .iter()
                .filter(large)
                .count()
                >= 2
        );
        stop_all(&mut nodes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn silence_makes_no_blocks_and_work_at_one_node_wakes_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "silence", 4);
    start_all(&mut nodes).await;
    for node in &mut nodes {
        node.stop().await;
        node.heartbeat = Duration::from_secs(600);
    }
    // A height that was under way when they stopped goes on.
    nodes.iter_mut().for_each(Node::start);
    for node in &nodes {
        node.wait("peers", |s| s.peers == 3).await;
    }
    let height = nodes.iter().map(Node::height).max().unwrap();
    for round in 1..=3 {
        // Whoever proposes: the wake is at a node of its own each time.
        let node = &nodes[round as usize];
        node.knobs.busy.store(true, Ordering::Relaxed);
        node.wake.wake();
        nodes[0].wait_height(height + round).await;
        nodes[round as usize]
            .knobs
            .busy
            .store(false, Ordering::Relaxed);
    }
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_commit_stops_that_node_with_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "fatal", 4);
    start_all(&mut nodes).await;
    nodes[1].knobs.broken.store(true, Ordering::Relaxed);
    nodes[1].wait("bad health", |s| s.unhealthy.is_some()).await;
    let height = nodes[1].height();
    let error = nodes[1].handle.take().unwrap().join().await.unwrap_err();
    assert!(matches!(&error, ConsensusError::Application(_)), "{error}");
    assert!(error.to_string().contains("the disk is full"));
    nodes[0].wait_height(height + 3).await;
    nodes[1].knobs.broken.store(false, Ordering::Relaxed);
    nodes[1].start();
    nodes[1].wait_height(height + 3).await;
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_guard_is_above_its_blocks_observes_up_to_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "above", 4);
    start_all(&mut nodes).await;
    nodes[2].stop().await;
    let signed = Height(nodes[2].height() + 6);
    let key = keys(2).consensus.public();
    Guard::open(&nodes[2].home, CHAIN, key)
        .unwrap()
        .unwrap()
        .raise(signed)
        .unwrap();
    nodes[2].start();
    assert_eq!(
        nodes[2].first_mode().await,
        Mode::Observer(Observing::UpTo(signed))
    );
    nodes[2]
        .wait("voting again", |s| s.mode == Mode::Validator)
        .await;
    assert!(nodes[2].status().committed >= signed && nodes[2].status().last_vote.is_none());
    nodes[2]
        .wait("a vote", |s| s.last_vote.is_some_and(|v| v.height > signed))
        .await;
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_double_signature_is_refused_and_the_node_observes_that_height() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "double", 4);
    start_all(&mut nodes).await;
    nodes[2].stop().await;
    let next = Height(nodes[2].height() + 1);
    // It signed a precommit, and its log has forgotten, without a trace.
    let key = keys(2).consensus.public();
    let mut guard = Guard::open(&nodes[2].home, CHAIN, key).unwrap().unwrap();
    if guard.height() < next {
        let position = Position {
            height: next,
            round: 0,
            step: Step::Precommit,
        };
        let message = Message {
            position,
            block: Some(Hash([9; 32])),
            bytes: &[9; 45],
        };
        guard.admit(&message).unwrap();
    } else {
        guard.raise(next).unwrap();
    }
    drop(guard);
    Log::open(nodes[2].home.join("consensus.wal"))
        .unwrap()
        .reset(next.0)
        .unwrap();
    // The others wait for it at this height, or it would never be asked.
    for other in [0, 1, 3] {
        nodes[other].stop().await;
    }
    let behind = nodes[2].height();
    for node in &mut nodes {
        node.chain.lock().unwrap().blocks.truncate(behind as usize);
        if node.number != 2 {
            std::fs::remove_file(node.home.join("guard")).unwrap();
            Guard::create(&node.home, CHAIN, keys(node.number).consensus.public()).unwrap();
        }
    }
    nodes.iter_mut().for_each(Node::start);
    nodes[2]
        .wait("observing", |s| {
            s.mode == Mode::Observer(Observing::UpTo(next))
        })
        .await;
    nodes[2]
        .wait("voting again", |s| {
            s.mode == Mode::Validator && s.committed >= next
        })
        .await;
    nodes[2]
        .wait("a vote", |s| s.last_vote.is_some_and(|v| v.height > next))
        .await;
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wiped_node_observes_until_the_chain_is_past_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "wiped", 4);
    let epoch = now_ms();
    nodes.iter_mut().for_each(|node| node.epoch = epoch);
    start_all(&mut nodes).await;
    nodes[2].stop().await;
    nodes[2].wipe();
    nodes[2].config.max_clock_error = Duration::from_secs(20);
    nodes[2].start();
    assert_eq!(
        nodes[2].first_mode().await,
        Mode::Observer(Observing::NoGuard)
    );
    busy(&nodes);
    nodes[2].wait_height(15).await;
    assert_eq!(nodes[2].status().mode, Mode::Observer(Observing::NoGuard));
    nodes[2]
        .wait("voting again", |s| s.mode == Mode::Validator)
        .await;
    assert!(nodes[2].status().committed.0 > 20 && nodes[2].status().last_vote.is_none());
    nodes[2].wait("a vote", |s| s.last_vote.is_some()).await;
    let vote = nodes[2].status().last_vote.unwrap();
    assert!(vote.height.0 > 20, "{vote:?}");
    stop_all(&mut nodes).await;
}
