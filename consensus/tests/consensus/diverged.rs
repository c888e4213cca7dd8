//! A block that a quorum decided and that this node's application calls
//! invalid: the node is at fault, stops, and says which block it was. The
//! host is driven by hand, message by message; the same with the engine is in
//! `engine.rs`.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::common::{CHAIN, Counter, Node, keys, network};
use malachitebft_app_channel::{AppMsg, NetworkMsg};
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
        let (reply, _answer) = oneshot::channel();
        let message = AppMsg::ProcessSyncedValue {
            height: FIRST.into(),
            round: Round::new(0),
            proposer: address(1),
            value_bytes: body.to_vec().into(),
            reply,
        };
        self.tell(message).await
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
