//! Four validators in one process, over loopback.

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{assert_agreement, network};
use tally_consensus::{Mode, Observing};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_nodes_agree_and_a_restarted_one_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "agree", 4);
    nodes.iter_mut().for_each(|node| node.start());
    for node in &nodes {
        node.wait_height(3).await;
    }
    nodes[3].stop().await;
    let height = nodes[3].height();
    for node in &nodes[..3] {
        node.knobs.busy.store(true, Ordering::Relaxed);
        node.wake.wake();
    }
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
    assert_agreement(&nodes);
    for node in &mut nodes {
        node.stop().await;
    }
}
