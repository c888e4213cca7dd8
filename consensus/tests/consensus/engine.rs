//! Four validators in one process, over loopback: agreement, crashes, and
//! who may vote when.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::common::{CHAIN, Node, assert_agreement, keys, network, now_ms, other_form};
use malachitebft_app_channel::app::{
    consensus::ProposedValue, engine::wal::encode_entry, wal::Log,
};
use malachitebft_core_consensus::Input;
use malachitebft_core_types::{NilOrVal, Round, SignedMessage, Validity, ValueOrigin, VoteType};
use tally_consensus::{
    ConsensusError, Decision, Guard, Mode, Observing, Status,
    codec::Wire,
    context::{self, Address, BlockId, Proposal, Vote},
    guard::{Message, Position, Step},
};
use tally_ledger::{
    block::{proposal_bytes, vote_bytes},
    crypto::Domain,
    hash::Hash,
    ids::Height,
};

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
    // For a block if its proposer is one of the two, else for nothing.
    let undecided = |s: &Status| s.last_vote.is_some_and(|v| v.height > s.committed);
    nodes[0]
        .wait("a vote that decides nothing", undecided)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
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
async fn large_blocks_travel_in_parts_by_gossipsub() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "large", 4);
    for node in &nodes {
        node.knobs.bytes.store(2 << 20, Ordering::Relaxed);
    }
    start_all(&mut nodes).await;
    busy(&nodes);
    nodes[0].wait_height(8).await;
    stop_all(&mut nodes).await;
    let large = |d: &&Decision| d.body.len() == 2 << 20;
    let blocks = nodes[0].chain.lock().unwrap().blocks.clone();
    assert!(blocks.iter().filter(large).count() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn silence_makes_no_blocks_and_work_makes_them_at_once() {
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
    let mut took = Vec::new();
    for more in 1..=33 {
        // The last times only one node knows: it, or its nil vote after the
        // timeout, brings the others along.
        let woken = Instant::now();
        for node in nodes.iter().filter(|n| more <= 30 || n.number == 1) {
            node.knobs.target.store(height + more, Ordering::Relaxed);
            node.wake.wake();
        }
        for node in &nodes {
            node.wait_height(height + more).await;
        }
        if more <= 30 {
            took.push(woken.elapsed());
        }
    }
    took.sort();
    println!(
        "wake to commit at all: median {:?}, worst {:?}",
        took[15], took[29]
    );
    assert_eq!(nodes.iter().map(Node::height).max(), Some(height + 33));
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_commit_stops_that_node_with_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "fatal", 4);
    start_all(&mut nodes).await;
    nodes[1].knobs.broken.store(true, Ordering::Relaxed);
    let error = nodes[1].fault().await;
    let height = nodes[1].height();
    assert!(matches!(&error, ConsensusError::Application(_)), "{error}");
    assert!(error.to_string().contains("the disk is full"));
    nodes[0].wait_height(height + 3).await;
    nodes[1].knobs.broken.store(false, Ordering::Relaxed);
    nodes[1].start();
    nodes[1].wait_height(height + 3).await;
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_executes_to_other_roots_stops_and_names_the_block() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "diverged", 4);
    start_all(&mut nodes).await;
    nodes[1].knobs.diverges.store(true, Ordering::Relaxed);
    let error = nodes[1].fault().await;
    let ConsensusError::Diverged { height, id, why } = error else {
        panic!("{error}");
    };
    // It is the next block, and the others have it.
    assert_eq!(height.0, nodes[1].height() + 1);
    nodes[0].wait_height(height.0 + 3).await;
    let block = nodes[0].chain.lock().unwrap().blocks[height.0 as usize - 1].clone();
    assert_eq!((block.height, block.id), (height, id));
    assert!(why.contains("state root is 01"), "{why}");
    // Once it executes as they do, it catches up and votes.
    nodes[1].knobs.diverges.store(false, Ordering::Relaxed);
    nodes[1].start();
    nodes[1].wait_height(height.0 + 3).await;
    let votes = |s: &Status| s.last_vote.is_some_and(|vote| vote.height > height);
    nodes[1].wait("a vote", votes).await;
    stop_all(&mut nodes).await;
}

/// Puts another form in the place of a node's first two blocks; they were.
fn keep_other_forms(node: &Node, are_true: bool) -> Vec<Decision> {
    let mut chain = node.chain.lock().unwrap();
    let whole = chain.blocks[..2].to_vec();
    for block in &mut chain.blocks[..2] {
        block.body = other_form(block.id, are_true).into();
    }
    whole
}

/// Blocks that peers hold only in another form, which their ids do not bind:
/// when those of two peers fail here, the fault is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_executes_no_peer_s_form_of_a_block_stops_and_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "forms", 4);
    start_all(&mut nodes).await;
    for node in &mut nodes {
        node.stop().await;
    }
    for node in &nodes[..3] {
        keep_other_forms(node, true);
    }
    nodes[3].wipe();
    nodes[3].knobs.diverges.store(true, Ordering::Relaxed);
    nodes.iter_mut().for_each(Node::start);
    let error = nodes[3].fault().await;
    let ConsensusError::Diverged { height, id, why } = error else {
        panic!("{error}");
    };
    let first = nodes[0].chain.lock().unwrap().blocks[0].id;
    assert_eq!((height, id), (Height(1), first));
    assert!(why.contains("validators sent forms of it"), "{why}");
    let height = nodes[0].height();
    nodes[0].wait_height(height + 2).await;
    nodes[3].knobs.diverges.store(false, Ordering::Relaxed);
    nodes[3].start();
    nodes[3].wait_height(height + 2).await;
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_serves_false_forms_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "liar", 4);
    start_all(&mut nodes).await;
    for node in &mut nodes {
        node.stop().await;
    }
    let whole = keep_other_forms(&nodes[0], false);
    nodes[3].wipe();
    // There is nobody else to ask.
    nodes[0].start();
    nodes[3].start();
    let synced = |node: &Node| node.knobs.validated[2].load(Ordering::Relaxed);
    let end = Instant::now() + Duration::from_secs(30);
    let before = synced(&nodes[3]);
    while synced(&nodes[3]) < before + 3 {
        assert!(Instant::now() < end, "it does not ask again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(nodes[3].height(), 0);
    nodes[1].start();
    nodes[2].start();
    nodes[3].wait_height(3).await;
    nodes[0].chain.lock().unwrap().blocks[..2].clone_from_slice(&whole);
    stop_all(&mut nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_guard_is_above_its_blocks_observes_up_to_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "above", 4);
    start_all(&mut nodes).await;
    // Two of four decide nothing meanwhile.
    nodes[2].stop().await;
    nodes[0].stop().await;
    let highest = nodes.iter().map(Node::height).max().unwrap();
    let signed = Height(highest + 6);
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
    nodes[0].start();
    nodes[2]
        .wait("voting again", |s| {
            assert!(s.mode != Mode::Validator || s.committed >= signed, "{s:?}");
            assert!(s.last_vote.is_none_or(|v| v.height > signed), "{s:?}");
            s.mode == Mode::Validator
        })
        .await;
    nodes[2]
        .wait("a vote", |s| {
            assert!(s.last_vote.is_none_or(|v| v.height > signed), "{s:?}");
            s.last_vote.is_some()
        })
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
    // Two of four decide nothing: it observes until the others are there.
    nodes[2].start();
    nodes[0].start();
    nodes[2]
        .wait("observing", |s| {
            s.mode == Mode::Observer(Observing::UpTo(next))
        })
        .await;
    nodes[1].start();
    nodes[3].start();
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

/// An engine's log in which a block is decided in round 0, but for its body.
fn log_decision(node: &Node, decided: &Decision) {
    let (height, round) = (context::Height(decided.height.0), Round::new(0));
    let (block, chain) = (BlockId(decided.id), CHAIN);
    let address = |n: u8| Address(keys(n).consensus.public());
    let proposer = (decided.height.0 % 4) as u8;
    let bytes = proposal_bytes(decided.height, 0, &decided.id, -1);
    let signature = keys(proposer)
        .consensus
        .sign(Domain::Proposal, &chain, &bytes);
    let pol_round = Round::Nil;
    let proposal = Proposal {
        height,
        round,
        block,
        pol_round,
        proposer: address(proposer),
    };
    let value = ProposedValue {
        height,
        round,
        valid_round: Round::Nil,
        proposer: address(proposer),
        value: block,
        validity: Validity::Valid,
    };
    let mut inputs = vec![
        Input::Proposal(SignedMessage::new(proposal, signature)),
        Input::ProposedValue(value, ValueOrigin::Consensus),
    ];
    for (domain, kind) in [
        (Domain::Prevote, VoteType::Prevote),
        (Domain::Precommit, VoteType::Precommit),
    ] {
        let bytes = vote_bytes(decided.height, 0, Some(&decided.id));
        for n in (0..4).filter(|n| *n != node.number) {
            let signature = keys(n).consensus.sign(domain, &chain, &bytes);
            let block = NilOrVal::Val(block);
            let vote = Vote {
                kind,
                height,
                round,
                block,
                voter: address(n),
            };
            inputs.push(Input::Vote(SignedMessage::new(vote, signature)));
        }
    }
    let mut log = Log::open(node.home.join("consensus.wal")).unwrap();
    log.reset(decided.height.0).unwrap();
    for input in inputs {
        let mut entry = Vec::new();
        encode_entry(input, &Wire { max_response: 0 }, &mut entry).unwrap();
        log.append(entry).unwrap();
    }
    log.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_decided_block_whose_body_is_lost_comes_by_value_sync() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = network(folder.path(), "lost", 4);
    start_all(&mut nodes).await;
    nodes[2].stop().await;
    let height = nodes[2].height();
    for node in [0, 1, 3] {
        nodes[node].wait_height(height + 10).await;
        nodes[node].stop().await;
    }
    // Back to a height whose successor was decided in round 0.
    let blocks = nodes[0].chain.lock().unwrap().blocks.clone();
    let easy = blocks[height as usize..]
        .iter()
        .find(|d| d.certificate.round == 0);
    let decided = easy.expect("some height takes one round").clone();
    let before = decided.height.0 as usize - 1;
    nodes[2].wipe();
    nodes[2]
        .chain
        .lock()
        .unwrap()
        .blocks
        .extend_from_slice(&blocks[..before]);
    Guard::create(&nodes[2].home, CHAIN, keys(2).consensus.public()).unwrap();
    log_decision(&nodes[2], &decided);
    nodes[2].start();
    let observing = Mode::Observer(Observing::UpTo(decided.height));
    nodes[2].wait("observing", |s| s.mode == observing).await;
    assert_eq!(nodes[2].height(), before as u64);
    for node in [0, 1, 3] {
        nodes[node].start();
    }
    nodes[2]
        .wait("voting again", |s| s.mode == Mode::Validator)
        .await;
    assert_eq!(nodes[2].chain.lock().unwrap().blocks[before].id, decided.id);
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
    // Blocks are a second apart: none up to 20 is later than its start by the
    // largest clock error.
    let late = |s: &Status| {
        assert!(s.mode != Mode::Validator || s.committed.0 > 20, "{s:?}");
        assert!(s.last_vote.is_none_or(|v| v.height.0 > 20), "{s:?}");
        s.mode == Mode::Validator
    };
    nodes[2].wait("voting again", late).await;
    nodes[2]
        .wait("a vote", |s| late(s) && s.last_vote.is_some())
        .await;
    stop_all(&mut nodes).await;
}
