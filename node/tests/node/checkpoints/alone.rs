//! A node that is a log's only validator.

use std::fs;

use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys, sign_note},
    hash::Hash,
};
use tally_node::{Engine, NodeError, checkpoint::CheckpointFault};

use super::*;
use crate::net::{CT, real_disk};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_signs_its_log_and_serves_every_tile() {
    let net = Net::new(1);
    configure(&net, None);
    let log = LogKeys::new(&net.genesis);
    let node = net.start(0, Engine::Solo).await;
    net.prepare(&node, 100 * CT).await;
    // More than one full tile of level 0.
    node.finalise(net.debits(1, 600, 1, 0, 1000)).await;
    let size = log_size(&node).await;
    let signed = served(&node, &log, size, &[]).await;
    assert_eq!(signed.signers, [0]);
    let all = leaves(node.http, &signed.checkpoint).await;
    let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
    assert!(lengths.contains(&58) && lengths.contains(&86));
    for path in [
        "tile/0/003",
        "tile/0/002.p/255",
        "tile/1/000.p/200",
        "tile/3/000.p/1",
        "tile/9/000.p/1",
        "tile/entries/003.p/1",
        "tile/0/0",
        "tile/nothing",
    ] {
        assert_eq!(get(node.http, path).await.0, 404, "{path}");
    }
    assert_eq!(
        get(node.http, "tile/0/000.p/7").await.1,
        get(node.http, "tile/0/000").await.1[..224]
    );
    let head = node.page("/checkpoint").await.to_ascii_lowercase();
    assert!(
        head.contains("content-type: text/plain; charset=utf-8"),
        "{head}"
    );
    let head = node.page("/tile/0/000.p/1").await;
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("application/octet-stream") && head.contains("immutable"),
        "{head}"
    );
    let metrics = node.page("/metrics").await;
    let shown = format!("tally_node_checkpoint_size {}", signed.checkpoint.size);
    assert!(metrics.contains(&shown), "{metrics}");
    node.stop().await;

    // It is there again after a restart, before another block.
    let node = net.start(0, Engine::Solo).await;
    let again = served(&node, &log, size, &[]).await;
    assert!(again.checkpoint.size >= signed.checkpoint.size);
    node.stop().await;

    // Its own signature of another history stops it, and names both.
    let folder = net.homes[0].checkpoints();
    let key = net.homes[0].keys().unwrap().checkpoint;
    let other = Checkpoint::new(&net.chain(), 5, Hash([9; 32]));
    let note = sign_note(&other, log.keys(), [(0, other.sign(&key))]).unwrap();
    fs::write(folder.join("signed"), note.to_string()).unwrap();
    let error = net
        .try_start(&real_disk(), 0, Engine::Solo)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            NodeError::Checkpoint(CheckpointFault::Exchanged { size: 5, signed, .. })
                if *signed == other.root
        ),
        "{error}"
    );
    // So does a file that is not what it wrote.
    for bytes in [&b"noise"[..], &note.to_string().into_bytes()[..100]] {
        fs::write(folder.join("signed"), bytes).unwrap();
        let error = net.try_start(&real_disk(), 0, Engine::Solo).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("signed: is damaged"), "{error}");
        // It is not told to forget what it signed.
        assert!(
            error.contains("keep it") && error.contains("compare"),
            "{error}"
        );
        assert!(!error.contains("move"), "{error}");
    }
}
