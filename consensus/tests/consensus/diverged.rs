//! A block that a quorum decided and that this node's application calls
//! invalid: the node is at fault, stops, and says which block it was. The
//! host is driven by hand, message by message; the same with the engine is in
//! `engine.rs`.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::common::{CHAIN, Counter, MAX_BLOCK, Node, keys, network, other_form};
use malachitebft_app_channel::{AppMsg, NetworkMsg, app::engine::host::SyncedValueOutcome};
use malachitebft_core_types::{
    CommitCertificate, CommitSignature, NilOrVal, Round, VoteExtensions, VoteType,
};
use tally_consensus::{
    ConsensusError, PeerId,
    bare::{Bare, Run},
    context::{Address, BlockId, Engine, Key, Vote},
    disk::RealDisk,
    peer_id,
};
use tally_ledger::{
    block::vote_bytes,
    crypto::{Domain, Signature},
    hash::Hash,
    ids::Height,
};
use tokio::sync::{mpsc, oneshot};

const FIRST: Height = Height(1);

/// A node's host without its engine.
struct Hand {
    bare: Bare<Counter>,
    /// Who decides: without the node that is looked at, if there are enough.
    quorum: Vec<u8>,
    run: Run,
    network: mpsc::Sender<NetworkMsg<Engine>>,
    _parts: mpsc::Receiver<NetworkMsg<Engine>>,
}

impl Hand {
    fn open(node: &Node) -> Self {
        let (config, application) = (node.config.clone(), node.application());
        let keys = keys(node.number);
        let mut bare = Bare::open(Arc::new(RealDisk), config, keys, application, 0).unwrap();
        let run = bare.run(1).unwrap();
        let (network, _parts) = mpsc::channel(64);
        let least = crate::common::validators(node.count).quorum();
        Self {
            bare,
            quorum: (0..node.count).rev().take(least).collect(),
            run,
            network,
            _parts,
        }
    }

    fn next(&self) -> Height {
        Height(self.bare.committed().0 + 1)
    }

    /// A message of the engine; the fault that it ends the node with.
    async fn tell(&mut self, message: AppMsg<Engine>) -> Result<(), ConsensusError> {
        match self.bare.handle(message, &self.network).await {
            Ok(()) => Ok(()),
            Err(stopped) => self.bare.after(Some(stopped)),
        }
    }

    /// Lets the node build a block.
    async fn propose(&mut self) -> Hash {
        let (reply, answer) = oneshot::channel();
        let message = AppMsg::GetValue {
            height: FIRST.into(),
            round: Round::new(0),
            timeout: Duration::from_secs(1),
            reply,
        };
        self.tell(message).await.unwrap();
        answer.await.unwrap().value.0
    }

    /// Tells it that a block was decided.
    async fn decide(&mut self, id: Hash) -> Result<(), ConsensusError> {
        let height = self.next();
        let signature = |n: &u8| CommitSignature::new(address(*n), precommit(*n, height, id));
        let certificate = CommitCertificate {
            height: height.into(),
            round: Round::new(0),
            value_id: BlockId(id),
            commit_signatures: self.quorum.iter().map(signature).collect(),
        };
        let (reply, _answer) = oneshot::channel();
        let message = AppMsg::Decided {
            certificate,
            extensions: VoteExtensions::default(),
            reply,
        };
        self.tell(message).await
    }

    /// Shows it precommits, as the engine does with those of a certificate.
    async fn precommits(&mut self, id: Hash) {
        let height = self.next();
        for n in self.quorum.clone() {
            let vote = Vote {
                kind: VoteType::Precommit,
                height: height.into(),
                round: Round::new(0),
                block: NilOrVal::Val(BlockId(id)),
                voter: address(n),
            };
            let (key, signature) = (Key::new(address(n).0), precommit(n, height, id));
            let verifier = &self.run.verifier;
            let checked = verifier.verify_signed_vote(&vote, &signature, &key);
            assert!(checked.await.unwrap().is_valid());
        }
    }

    /// Brings it a block by value sync.
    async fn sync(&mut self, body: &[u8]) -> Result<(), ConsensusError> {
        self.synced(body).await.map(drop)
    }

    /// The same from a peer, and what it says of it.
    async fn synced_from(
        &mut self,
        peer: PeerId,
        body: &[u8],
    ) -> Result<SyncedValueOutcome<Engine>, ConsensusError> {
        self.bare.served(peer, self.next(), body);
        self.synced(body).await
    }

    /// The same of nobody in particular.
    async fn synced(&mut self, body: &[u8]) -> Result<SyncedValueOutcome<Engine>, ConsensusError> {
        let (reply, answer) = oneshot::channel();
        let message = AppMsg::ProcessSyncedValue {
            height: self.next().into(),
            round: Round::new(0),
            proposer: address(1),
            value_bytes: body.to_vec().into(),
            reply,
        };
        self.tell(message).await?;
        Ok(answer.await.unwrap())
    }
}

fn is_fault(outcome: &Result<SyncedValueOutcome<Engine>, ConsensusError>) -> bool {
    matches!(outcome, Ok(SyncedValueOutcome::PeerFault))
}

fn network_id(n: u8) -> PeerId {
    peer_id(&keys(n).network.public()).unwrap()
}

/// A block of the first height, and its id.
fn first_block() -> (Vec<u8>, Hash) {
    block(FIRST)
}

fn block(height: Height) -> (Vec<u8>, Hash) {
    let body = [&height.0.to_le_bytes()[..], &[0; 6]].concat();
    let id = crate::common::body_id(&body);
    (body, id)
}

/// One of many false forms of a block.
fn false_form(block: Hash, n: u32) -> Vec<u8> {
    [other_form(block, false), n.to_le_bytes().to_vec()].concat()
}

fn address(n: u8) -> Address {
    Address(keys(n).consensus.public())
}

fn precommit(n: u8, height: Height, id: Hash) -> Signature {
    let bytes = vote_bytes(height, 0, Some(&id));
    keys(n).consensus.sign(Domain::Precommit, &CHAIN, &bytes)
}

fn assert_diverged(result: Result<(), ConsensusError>, block: Hash, word: &str) {
    let Err(ConsensusError::Diverged { height, id, why }) = result else {
        panic!("{result:?}");
    };
    assert_eq!((height, id), (FIRST, block));
    assert!(why.contains(word), "{why}");
}

#[tokio::test]
async fn a_decided_block_that_is_invalid_after_a_restart_stops_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "decided", 4)[0];
    // Valid when it was made, and durable; then the state is another one.
    let block = Hand::open(node).propose().await;
    node.knobs.diverges.store(true, Ordering::Relaxed);
    let mut hand = Hand::open(node);
    assert_diverged(hand.decide(block).await, block, "state root is 01");
    assert_eq!(node.height(), 0, "nothing was committed");
    // Started again with the state as it was, it takes the same block.
    node.knobs.diverges.store(false, Ordering::Relaxed);
    Hand::open(node).decide(block).await.unwrap();
    assert_eq!(node.chain.lock().unwrap().blocks[0].id, block);
}

#[tokio::test]
async fn a_block_that_comes_certified_and_is_invalid_stops_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "synced", 4)[0];
    let (body, block) = first_block();
    node.knobs.diverges.store(true, Ordering::Relaxed);
    let mut hand = Hand::open(node);
    // Of a block that nobody has certified, the peer is to blame.
    hand.sync(&body).await.unwrap();
    hand.precommits(block).await;
    assert_diverged(hand.sync(&body).await, block, "state root is 01");
    assert_eq!(node.height(), 0, "nothing was committed");
}

/// A form of a certified block whose id does not bind all of it: a false one
/// is its peer's fault, is not kept, and keeps nobody from taking a true one.
#[tokio::test]
async fn a_certified_block_in_a_false_form_is_the_peers_fault_and_a_true_one_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "forms", 4)[0];
    let (_, block) = first_block();
    let (good, bad) = (other_form(block, true), other_form(block, false));
    let mut hand = Hand::open(node);
    assert!(
        is_fault(&hand.synced(&good).await),
        "nobody has certified it"
    );
    hand.precommits(block).await;
    assert!(is_fault(&hand.synced(&bad).await));
    drop(hand);
    // It is not on the disk either: the decided body is not there.
    let decided = Hand::open(node).decide(block).await;
    assert!(decided.is_ok() && node.height() == 0, "{decided:?}");
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    let taken = hand.synced(&good).await;
    assert!(matches!(taken, Ok(SyncedValueOutcome::Verdict(value)) if value.validity.is_valid()));
    // A false one that comes after it changes nothing.
    assert!(!is_fault(&hand.synced(&bad).await));
    drop(hand);
    // After a restart the true one is judged again, from the disk.
    Hand::open(node).decide(block).await.unwrap();
    let blocks = &node.chain.lock().unwrap().blocks;
    assert_eq!((blocks[0].id, &blocks[0].body[..]), (block, &good[..]));
}

/// One of four validators may be faulty: two that each sent a form which fails
/// here cannot both be, so this node is.
#[tokio::test]
async fn forms_of_more_validators_than_may_be_faulty_that_fail_stop_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "all", 4)[0];
    let (_, block) = first_block();
    let good = other_form(block, true);
    node.knobs.diverges.store(true, Ordering::Relaxed);
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    // From one validator, and from peers that are none.
    let strangers = (0..4).map(|_| PeerId::random());
    for peer in [network_id(1); 2].into_iter().chain(strangers) {
        assert!(is_fault(&hand.synced_from(peer, &good).await));
    }
    let stopped = hand.synced_from(network_id(2), &good).await.map(drop);
    assert_diverged(stopped, block, "2 validators sent forms of it");
    assert_eq!(node.height(), 0, "nothing was committed");
    // Executing as the others do, it takes the form.
    node.knobs.diverges.store(false, Ordering::Relaxed);
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    assert!(!is_fault(&hand.synced_from(network_id(1), &good).await));
}

/// The forms need not be the same: what was taken away differs from validator
/// to validator.
#[tokio::test]
async fn forms_that_fail_count_whatever_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "kinds", 4)[0];
    let (_, block) = first_block();
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    let one = hand.synced_from(network_id(3), &false_form(block, 1)).await;
    assert!(is_fault(&one));
    let other = hand.synced_from(network_id(1), &false_form(block, 2)).await;
    assert_diverged(other.map(drop), block, "it says what is not true");
}

#[tokio::test]
async fn one_lying_validator_stops_nobody_with_any_number_of_false_forms() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "liar", 4)[0];
    let (_, block) = first_block();
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    for n in 0..300 {
        let false_one = false_form(block, n);
        let outcome = hand.synced_from(network_id(3), &false_one).await;
        assert!(is_fault(&outcome), "{n}");
    }
    let good = other_form(block, true);
    let taken = hand.synced_from(network_id(1), &good).await;
    assert!(matches!(taken, Ok(SyncedValueOutcome::Verdict(value)) if value.validity.is_valid()));
    hand.decide(block).await.unwrap();
    assert_eq!(node.height(), 1);
}

/// A quorum of three is all three: none may be faulty. A false form of one is
/// no proof even so, for it may be the one that is.
#[tokio::test]
async fn where_no_validator_may_be_faulty_one_liar_still_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "three", 3)[0];
    let (_, block) = first_block();
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    for n in 0..3 {
        let outcome = hand.synced_from(network_id(1), &false_form(block, n)).await;
        assert!(is_fault(&outcome), "{n}");
    }
    let second = hand.synced_from(network_id(2), &false_form(block, 9)).await;
    assert_diverged(second.map(drop), block, "2 validators sent forms of it");
}

/// What this program cannot read, or takes for too large, is none of a
/// certified block that others sent: it counts like a form that fails.
#[tokio::test]
async fn bodies_that_this_program_cannot_take_count_like_forms_that_fail() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "later", 4)[0];
    let (_, block) = first_block();
    let mut large = other_form(block, true);
    large.resize(MAX_BLOCK / 4 * 5 + 1, 0);
    let mut hand = Hand::open(node);
    // Without a certificate they count for nothing.
    for n in 1..4 {
        let later = hand.synced_from(network_id(n), b"later").await;
        assert!(is_fault(&later), "{n}");
    }
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    for body in [&b"later"[..], b"", b"of a version", &large] {
        assert!(is_fault(&hand.synced_from(network_id(2), body).await));
        assert!(is_fault(&hand.synced_from(PeerId::random(), body).await));
    }
    let second = hand.synced_from(network_id(3), b"other").await;
    assert_diverged(second.map(drop), block, "cannot read it; 2 validators");
    // The same with one that is too large, after one that is false.
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    let first = hand.synced_from(network_id(1), &false_form(block, 1)).await;
    assert!(is_fault(&first));
    let second = hand.synced_from(network_id(3), &large).await;
    assert_diverged(second.map(drop), block, "bytes are more than 5242880; 2 v");
    // A true form of a third one would have been taken.
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    assert!(is_fault(&hand.synced_from(network_id(1), b"later").await));
    let good = other_form(block, true);
    assert!(!is_fault(&hand.synced_from(network_id(2), &good).await));
}

/// Of seven validators two may be faulty: the third form that fails stops it.
#[tokio::test]
async fn of_seven_validators_two_liars_stop_nobody_and_a_third_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "seven", 7)[0];
    let (_, block) = first_block();
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    for n in 0..6 {
        let peer = network_id(5 + n as u8 % 2);
        let outcome = hand.synced_from(peer, &false_form(block, n)).await;
        assert!(is_fault(&outcome), "{n}");
    }
    let third = hand.synced_from(network_id(1), &false_form(block, 9)).await;
    assert_diverged(third.map(drop), block, "3 validators sent forms of it");
}

/// Senders are counted block by block: one that lied about another block does
/// not add to the next one's.
#[tokio::test]
async fn forms_that_failed_are_forgotten_with_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let node = &network(folder.path(), "commit", 4)[0];
    let (_, first) = first_block();
    let mut hand = Hand::open(node);
    hand.precommits(first).await;
    let lie = hand.synced_from(network_id(3), &false_form(first, 1)).await;
    assert!(is_fault(&lie));
    let good = other_form(first, true);
    assert!(!is_fault(&hand.synced_from(network_id(2), &good).await));
    hand.decide(first).await.unwrap();
    assert_eq!(node.height(), 1);
    let (_, second) = block(Height(2));
    hand.precommits(second).await;
    let lie = hand
        .synced_from(network_id(1), &false_form(second, 1))
        .await;
    assert!(is_fault(&lie));
    let good = other_form(second, true);
    assert!(!is_fault(&hand.synced_from(network_id(2), &good).await));
    hand.decide(second).await.unwrap();
    assert_eq!(node.height(), 2);
}
