//! A block that a quorum decided and that this node's application calls
//! invalid: the node is at fault, stops, and says which block it was. The
//! host is driven by hand, message by message; the same with the engine is in
//! `engine.rs`.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::common::{CHAIN, Counter, Node, keys, network, other_form};
use malachitebft_app_channel::{AppMsg, NetworkMsg, app::engine::host::SyncedValueOutcome};
use malachitebft_core_types::{
    CommitCertificate, CommitSignature, NilOrVal, Round, VoteExtensions, VoteType,
};
use tally_consensus::{
    ConsensusError,
    bare::{Bare, Run},
    context::{Address, BlockId, Engine, Key, Vote},
    disk::RealDisk,
};
use tally_ledger::{
    block::vote_bytes,
    crypto::{Domain, Signature},
    hash::Hash,
    ids::Height,
};
use tokio::sync::{mpsc, oneshot};

const FIRST: Height = Height(1);
/// Who decides, without the node that is looked at.
const QUORUM: [u8; 3] = [1, 2, 3];

/// A node's host without its engine.
struct Hand {
    bare: Bare<Counter>,
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
        Self {
            bare,
            run,
            network,
            _parts,
        }
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
        let signature = |n: u8| CommitSignature::new(address(n), precommit(n, id));
        let certificate = CommitCertificate {
            height: FIRST.into(),
            round: Round::new(0),
            value_id: BlockId(id),
            commit_signatures: QUORUM.map(signature).to_vec(),
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
        for n in QUORUM {
            let vote = Vote {
                kind: VoteType::Precommit,
                height: FIRST.into(),
                round: Round::new(0),
                block: NilOrVal::Val(BlockId(id)),
                voter: address(n),
            };
            let (key, signature) = (Key::new(address(n).0), precommit(n, id));
            let verifier = &self.run.verifier;
            let checked = verifier.verify_signed_vote(&vote, &signature, &key);
            assert!(checked.await.unwrap().is_valid());
        }
    }

    /// Brings it a block by value sync.
    async fn sync(&mut self, body: &[u8]) -> Result<(), ConsensusError> {
        self.synced(body).await.map(drop)
    }

    /// The same, and what it says of it.
    async fn synced(&mut self, body: &[u8]) -> Result<SyncedValueOutcome<Engine>, ConsensusError> {
        let (reply, answer) = oneshot::channel();
        let message = AppMsg::ProcessSyncedValue {
            height: FIRST.into(),
            round: Round::new(0),
            proposer: address(1),
            value_bytes: body.to_vec().into(),
            reply,
        };
        self.tell(message).await?;
        Ok(answer.await.unwrap())
    }
}

fn address(n: u8) -> Address {
    Address(keys(n).consensus.public())
}

fn precommit(n: u8, id: Hash) -> Signature {
    let bytes = vote_bytes(FIRST, 0, Some(&id));
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
    let body = [&1_u64.to_le_bytes()[..], &[0; 6]].concat();
    let block = crate::common::body_id(&body);
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
    let body = [&1_u64.to_le_bytes()[..], &[0; 6]].concat();
    let block = crate::common::body_id(&body);
    let (good, bad) = (other_form(block, true), other_form(block, false));
    let mut hand = Hand::open(node);
    let fault = |outcome| matches!(outcome, Ok(SyncedValueOutcome::PeerFault));
    assert!(fault(hand.synced(&good).await), "nobody has certified it");
    hand.precommits(block).await;
    assert!(fault(hand.synced(&bad).await));
    drop(hand);
    // It is not on the disk either: the decided body is not there.
    let decided = Hand::open(node).decide(block).await;
    assert!(decided.is_ok() && node.height() == 0, "{decided:?}");
    let mut hand = Hand::open(node);
    hand.precommits(block).await;
    let taken = hand.synced(&good).await;
    assert!(matches!(taken, Ok(SyncedValueOutcome::Verdict(value)) if value.validity.is_valid()));
    // A false one that comes after it changes nothing.
    assert!(!fault(hand.synced(&bad).await));
    drop(hand);
    // After a restart the true one is judged again, from the disk.
    Hand::open(node).decide(block).await.unwrap();
    let blocks = &node.chain.lock().unwrap().blocks;
    assert_eq!((blocks[0].id, &blocks[0].body[..]), (block, &good[..]));
}
