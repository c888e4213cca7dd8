//! The engine's log cannot be written: the node signs nothing more, says so,
//! and can be started again. Alone in its process, because the largest size
//! of a file, by which the writes are made to fail, is the process's.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{assert_agreement, network};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tally_consensus::{ConsensusError, Mode};
use tokio::signal::unix::{SignalKind, signal};

/// Sent to who writes beyond the limit; kills, unless it is caught.
const SIGXFSZ: i32 = 25;
/// The head of the engine's log fits, its first entry does not.
const HEAD: u64 = 16;

/// No file of this process grows beyond so many bytes.
fn limit(bytes: Option<u64>) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    let limit = Rlimit {
        current: bytes.or(maximum),
        maximum,
    };
    setrlimit(Resource::Fsize, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_that_cannot_be_written_ends_consensus_and_a_start_is_safe() {
    let _caught = signal(SignalKind::from_raw(SIGXFSZ)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "full", 4);
    limit(Some(HEAD));
    // Alone it waits for a proposal; that it has waited too long is the
    // first entry.
    nodes[0].start();
    let error = nodes[0].fault().await;
    limit(None);
    assert!(matches!(error, ConsensusError::LogFailed), "{error}");
    // What is not in the log was not signed.
    let log = std::fs::metadata(nodes[0].home.join("consensus.wal")).unwrap();
    assert!(log.len() <= HEAD);
    for node in &mut nodes {
        node.start();
    }
    for node in &nodes {
        node.wait_height(3).await;
        assert_eq!(node.status().mode, Mode::Validator);
        assert_eq!(node.status().equivocations, 0);
    }
    nodes[0].wait("a vote", |s| s.last_vote.is_some()).await;
    for node in &mut nodes {
        node.stop().await;
    }
    assert_agreement(&nodes);
}
