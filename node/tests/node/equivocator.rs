//! Four validators over the real network, of which one signs two messages in
//! each height: prevotes, precommits or proposals. It is driven by hand, with
//! its own keys, over the streams on which validators talk to each other: no
//! node has code that does this.
//!
//! The other three are whole nodes. They see it, keep it over a restart, and
//! put it on the chain against the right one; and the chain goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, identity, noise, tcp, yamux,
};
use malachitebft_app_channel::app::consensus::SignedConsensusMsg;
use malachitebft_codec::Codec;
use malachitebft_core_types::{NilOrVal, Round, SignedMessage, Validator as _, VoteType};
use serde_json::Value;
use tally_consensus::{
    codec::Wire,
    context::{Address, BlockId, Engine as Consensus, Height, Proposal, Validators, Vote},
    peer_id,
};
use tally_ledger::{
    block::{proposal_bytes, vote_bytes},
    crypto::{ChainId, Domain},
    evidence::EvidenceFile,
    hash::Hash,
};
use tally_node::{Engine, home::NodeKeys};
use tally_proto::v1;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::interval,
};

use crate::{
    cli_common::run,
    net::{Net, Running, until},
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/tally/consensus/1");
/// First byte of a frame with a vote or a proposal.
const VOTE_OR_PROPOSAL: u8 = 1;
const WIRE: Wire = Wire {
    max_response: 1 << 20,
};
/// Who signs twice: the last of four.
const CULPRIT: usize = 3;
const VALIDATORS: Engine = Engine::Validators;

/// A validator that is no node, only a peer of the others.
struct Equivocator {
    chain: ChainId,
    keys: NodeKeys,
    validators: Validators,
    /// Where it has proposed.
    proposed: BTreeSet<(Height, u32)>,
}

impl Equivocator {
    /// Takes part until its task is aborted.
    fn start(net: &Net) -> JoinHandle<()> {
        let keys = net.homes[CULPRIT].keys().unwrap();
        let others = net.homes[..CULPRIT].iter().map(|home| {
            let listen = home.config().unwrap().listen.gossip;
            let id = peer_id(&home.keys().unwrap().network.public()).unwrap();
            let address = format!("/ip4/{}/tcp/{}", listen.ip(), listen.port());
            (id, address.parse().unwrap())
        });
        let others = others.collect();
        let own = net.homes[CULPRIT].config().unwrap().listen.gossip;
        let own = format!("/ip4/{}/tcp/{}", own.ip(), own.port());
        let equivocator = Self {
            chain: net.chain(),
            keys,
            validators: Validators::new(&net.genesis.validators),
            proposed: BTreeSet::new(),
        };
        tokio::spawn(equivocator.run(own.parse().unwrap(), others))
    }

    fn swarm(&self) -> Swarm<libp2p_stream::Behaviour> {
        let key = identity::Keypair::ed25519_from_bytes(self.keys.network.seed()).unwrap();
        SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
            .build()
    }

    /// Hears what the others say, and answers to all of them.
    async fn run(mut self, listen: Multiaddr, others: BTreeMap<PeerId, Multiaddr>) {
        let mut swarm = self.swarm();
        swarm.listen_on(listen).unwrap();
        let mut control = swarm.behaviour().new_control();
        let mut incoming = control.accept(PROTOCOL).unwrap();
        let (heard, mut hears) = mpsc::channel(64);
        let mut says: BTreeMap<PeerId, mpsc::UnboundedSender<Vec<u8>>> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut redial = interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = swarm.select_next_some() => {}
                Some((_, stream)) = incoming.next() => {
                    tasks.spawn(hear(stream, heard.clone()));
                }
                Some(message) = hears.recv() => {
                    for frame in self.answer(&message) {
                        says.retain(|_, stream| stream.send(frame.clone()).is_ok());
                    }
                }
                _ = redial.tick() => for (id, address) in &others {
                    if !swarm.is_connected(id) {
                        says.remove(id);
                        let _ = swarm.dial(address.clone().with_p2p(*id).unwrap());
                    } else if !says.contains_key(id) {
                        let (sender, frames) = mpsc::unbounded_channel();
                        says.insert(*id, sender);
                        tasks.spawn(say(control.clone(), *id, frames));
                    }
                }
            }
        }
    }

    /// Two messages where one is due: at heights whose first proposal is its
    /// own, proposals; at the others, prevotes and precommits by turns.
    fn answer(&mut self, message: &SignedConsensusMsg<Consensus>) -> Vec<Vec<u8>> {
        let (height, round, proposed) = match message {
            SignedConsensusMsg::Vote(vote) => (vote.message.height, vote.message.round, None),
            SignedConsensusMsg::Proposal(proposal) => {
                let proposal = &proposal.message;
                (proposal.height, proposal.round, Some(proposal.block))
            }
        };
        let number = round.as_u32().unwrap();
        let own = Address(self.keys.consensus.public());
        let proposes = |round| *self.validators.proposer(height, round).address() == own;
        match proposed {
            Some(block) if !proposes(0) => {
                let vote = |block| self.vote(height, number, block);
                [Some(block), None].map(vote).into()
            }
            None if proposes(number) && self.proposed.insert((height, number)) => {
                let proposal = |byte| self.proposal(height, number, Hash([byte; 32]));
                [1, 2].map(proposal).into()
            }
            _ => Vec::new(),
        }
    }

    fn vote(&self, height: Height, round: u32, block: Option<BlockId>) -> Vec<u8> {
        let (kind, domain) = match height.0.is_multiple_of(2) {
            true => (VoteType::Precommit, Domain::Precommit),
            false => (VoteType::Prevote, Domain::Prevote),
        };
        let id = block.map(|id| id.0);
        let bytes = vote_bytes(height.into(), round, id.as_ref());
        let vote = Vote {
            kind,
            height,
            round: Round::new(round),
            block: block.map_or(NilOrVal::Nil, NilOrVal::Val),
            voter: Address(self.keys.consensus.public()),
        };
        let signature = self.keys.consensus.sign(domain, &self.chain, &bytes);
        frame(&SignedConsensusMsg::Vote(SignedMessage::new(
            vote, signature,
        )))
    }

    fn proposal(&self, height: Height, round: u32, block: Hash) -> Vec<u8> {
        let bytes = proposal_bytes(height.into(), round, &block, -1);
        let proposal = Proposal {
            height,
            round: Round::new(round),
            block: BlockId(block),
            pol_round: Round::Nil,
            proposer: Address(self.keys.consensus.public()),
        };
        let key = &self.keys.consensus;
        let signature = key.sign(Domain::Proposal, &self.chain, &bytes);
        frame(&SignedConsensusMsg::Proposal(SignedMessage::new(
            proposal, signature,
        )))
    }
}

fn frame(message: &SignedConsensusMsg<Consensus>) -> Vec<u8> {
    let message = WIRE.encode(message).unwrap();
    let length = (message.len() as u32 + 1).to_le_bytes();
    [&length[..], &[VOTE_OR_PROPOSAL], &message].concat()
}

/// Reads votes and proposals of a peer until it goes.
async fn hear(mut stream: Stream, heard: mpsc::Sender<SignedConsensusMsg<Consensus>>) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).await.is_ok() {
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        if frame[0] == VOTE_OR_PROPOSAL {
            let message = WIRE.decode(frame.split_off(1).into()).unwrap();
            if heard.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// Writes what is to be said to a peer until it goes.
async fn say(
    mut control: libp2p_stream::Control,
    to: PeerId,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let Ok(mut stream) = control.open_stream(to, PROTOCOL).await else {
        return;
    };
    while let Some(frame) = frames.recv().await {
        if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn start(net: &Net) -> Vec<Running> {
    let mut nodes = Vec::new();
    for i in 0..CULPRIT {
        nodes.push(net.start(i, VALIDATORS).await);
    }
    nodes
}

async fn status(node: &Running) -> v1::GetStatusResponse {
    let mut ledger = node.ledger.clone();
    let status = ledger.get_status(v1::GetStatusRequest {}).await;
    status.unwrap().into_inner()
}

/// What a node's chain has of evidence, proven to be complete.
async fn listed(net: &Net, node: &Running) -> Vec<Value> {
    let genesis = net.homes[0].genesis_file();
    let ask = format!(
        "--format json evidence list --node {} --genesis {}",
        node.grpc,
        genesis.display()
    );
    let folder = net.dir.path().to_owned();
    let list = tokio::task::spawn_blocking(move || run(&folder, &ask).json());
    list.await.unwrap()["evidence"].as_array().unwrap().clone()
}

/// The files of what a node has seen; one may be half written yet.
fn files(net: &Net, node: usize) -> impl Iterator<Item = Option<EvidenceFile>> {
    let files = fs::read_dir(net.homes[node].data().join("evidence")).unwrap();
    files.map(|file| EvidenceFile::decode(&fs::read(file.unwrap().path()).ok()?).ok())
}

/// What is proven by them; all of it of the culprit.
fn proven(net: &Net, files: impl Iterator<Item = EvidenceFile>) -> BTreeSet<&'static str> {
    let offences = files.flat_map(|file| file.verify(&net.genesis).unwrap());
    let kinds = offences.map(|offence| {
        assert_eq!(usize::from(offence.place.validator), CULPRIT);
        offence.kind.name()
    });
    kinds.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_validator_that_signs_twice_is_seen_by_all_and_named_on_the_chain() {
    let kinds = BTreeSet::from(["prevotes", "precommits", "proposals"]);
    let net = Net::new(4);
    let report = |reports: bool| {
        for i in 0..CULPRIT {
            net.configure(i, |config| config.consensus.report_evidence = reports);
        }
    };
    report(false);
    let nodes = start(&net).await;
    nodes[0].finalise(net.open_account(0)).await;
    for node in &nodes {
        assert_eq!(status(node).await.evidence_waiting, 0, "nobody lies yet");
    }
    let equivocator = Equivocator::start(&net);
    for (i, node) in nodes.iter().enumerate() {
        until("everything that is signed twice was seen", || async {
            proven(&net, files(&net, i).flatten()) == kinds
        })
        .await;
        assert_eq!(status(node).await.evidence, 0, "nobody tells yet");
    }
    // The chain goes on beside it.
    nodes[1].finalise(net.open_account(1)).await;
    assert!(!equivocator.is_finished());
    equivocator.abort();
    for node in nodes {
        node.stop().await;
    }
    for i in 0..CULPRIT {
        let whole = files(&net, i).map(Option::unwrap);
        assert_eq!(proven(&net, whole), kinds, "after the stop");
    }
    report(true);
    let nodes = start(&net).await;
    for node in &nodes {
        until("nothing waits any more", || async {
            let status = status(node).await;
            status.evidence_waiting == 0 && status.evidence >= 3
        })
        .await;
    }
    nodes[2].finalise(net.open_account(2)).await;
    let all = listed(&net, &nodes[0]).await;
    for entry in &all {
        assert_eq!(entry["validator"], CULPRIT, "{entry}");
    }
    let named = all.iter().map(|entry| entry["signed twice"].as_str());
    let named: BTreeSet<_> = named.map(Option::unwrap).collect();
    assert_eq!(named, kinds, "{all:?}");
    assert_eq!(listed(&net, &nodes[2]).await, all);
    for node in nodes {
        node.stop().await;
    }
}
