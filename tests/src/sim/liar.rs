//! A validator that lies: it follows the protocol with honest code, and what
//! it sends is twisted on the way out. It signs with its own key alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use malachitebft_app_channel::app::{
    consensus::{LivenessMsg, SignedConsensusMsg},
    streaming::{StreamContent, StreamId, StreamMessage},
    types::sync::{Response, Status},
};
use malachitebft_codec::Codec;
use malachitebft_core_types::{NilOrVal, Round, SignedMessage, VoteType};
use tally_consensus::context::{Address, BlockId, Height, Init, Part, Proposal, Vote};
use tally_ledger::{
    block::{proposal_bytes, vote_bytes},
    crypto::{ChainId, Domain, SecretKey},
    hash::Hash,
};

use super::message::{Packet, WIRE};
use super::{
    app::App,
    genesis::{NODES, keys},
    rng::Rng,
};

/// The liar's mind.
pub struct Liar {
    /// Which node.
    pub node: usize,
    key: SecretKey,
    chain: ChainId,
    rng: Rng,
    /// Blocks proposed by anybody, by height.
    known: BTreeMap<u64, BTreeSet<Hash>>,
    streams: u64,
}

/// To whom, and what.
pub type Letters = Vec<(usize, Packet)>;

impl Liar {
    /// The liar among the nodes.
    pub fn new(node: usize, chain: ChainId, rng: Rng) -> Self {
        Self {
            node,
            key: keys(node).consensus,
            chain,
            rng,
            known: BTreeMap::new(),
            streams: u64::MAX / 2,
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.node;
        (0..NODES).filter(move |node| *node != own)
    }

    /// Listens to what anybody sends.
    pub fn hear(&mut self, packet: &Packet) {
        if let Packet::Consensus(bytes) = packet
            && let Ok(SignedConsensusMsg::Proposal(proposal)) = WIRE.decode(bytes.clone())
        {
            let message = proposal.message;
            let blocks = self.known.entry(message.height.0).or_default();
            blocks.insert(message.block.0);
        }
    }

    /// What it sends to all others instead of what it should.
    pub fn twist(&mut self, packet: Packet, app: Option<&App>) -> Letters {
        match &packet {
            Packet::Consensus(bytes) => match WIRE.decode(bytes.clone()) {
                Ok(SignedConsensusMsg::Vote(vote)) => self.twist_vote(&vote.message, &packet),
                Ok(SignedConsensusMsg::Proposal(proposal)) => {
                    self.twist_proposal(&proposal.message, &packet, app)
                }
                Err(_) => Vec::new(),
            },
            Packet::Status(bytes) => {
                let mut status: Status<_> = match WIRE.decode(bytes.clone()) {
                    Ok(status) => status,
                    Err(_) => return Vec::new(),
                };
                if self.rng.chance(200) {
                    status.tip_height = Height(status.tip_height.0 + self.rng.below(1_000));
                }
                let status = WIRE.encode(&status).map(Packet::Status);
                let to = self.others();
                status.map_or(Vec::new(), |status| {
                    to.map(|to| (to, status.clone())).collect()
                })
            }
            _ => self.some_of(&packet),
        }
    }

    /// The packet, to most of the others.
    fn some_of(&mut self, packet: &Packet) -> Letters {
        let to: Vec<usize> = self.others().filter(|_| self.rng.chance(800)).collect();
        to.into_iter().map(|to| (to, packet.clone())).collect()
    }

    fn twist_vote(&mut self, vote: &Vote, packet: &Packet) -> Letters {
        let mut letters = Vec::new();
        for to in self.others() {
            if self.rng.chance(600) {
                letters.push((to, packet.clone()));
            }
            if self.rng.chance(500) {
                let (height, round) = (vote.height.0, vote.round.as_u32().unwrap_or(0));
                letters.push((to, self.vote(vote.kind, height, round)));
            }
        }
        letters
    }

    /// A vote for anything.
    fn vote(&mut self, kind: VoteType, height: u64, round: u32) -> Packet {
        let known = self.known.get(&height).map(|blocks| blocks.iter().copied());
        let mut blocks: Vec<Option<Hash>> = known.into_iter().flatten().map(Some).collect();
        blocks.push(None);
        if self.rng.chance(100) {
            blocks.push(Some(Hash([self.rng.word() as u8; 32])));
        }
        let block = self.rng.pick(&blocks);
        let domain = match kind {
            VoteType::Prevote => Domain::Prevote,
            VoteType::Precommit => Domain::Precommit,
        };
        let bytes = vote_bytes(tally_ledger::ids::Height(height), round, block.as_ref());
        let vote = Vote {
            kind,
            height: Height(height),
            round: Round::new(round),
            block: block.map_or(NilOrVal::Nil, |hash| NilOrVal::Val(BlockId(hash))),
            voter: Address(self.key.public()),
        };
        let signature = self.key.sign(domain, &self.chain, &bytes);
        let message = SignedConsensusMsg::Vote(SignedMessage::new(vote, signature));
        let bytes = WIRE.encode(&message).unwrap_or_default();
        Packet::Consensus(bytes)
    }

    fn twist_proposal(&mut self, own: &Proposal, packet: &Packet, app: Option<&App>) -> Letters {
        let other = app.and_then(|app| self.other_proposal(own, app));
        let Some((proposal, body)) = other.filter(|_| self.rng.chance(700)) else {
            return self.some_of(packet);
        };
        let parts = self.stream(own.height.0, own.round.as_u32().unwrap_or(0), body);
        let mut letters = Vec::new();
        for to in self.others() {
            let both = self.rng.chance(250);
            let first = self.rng.chance(500);
            if both || first {
                letters.push((to, packet.clone()));
            }
            if both || !first {
                letters.push((to, proposal.clone()));
                letters.extend(parts.iter().map(|part| (to, part.clone())));
            }
        }
        letters
    }

    /// Another block for the same place, valid in itself, with its proposal;
    /// now and then spoiled.
    fn other_proposal(&mut self, own: &Proposal, app: &App) -> Option<(Packet, Vec<u8>)> {
        let later = match self.rng.below(4) {
            0 => 60_000,
            _ => 1 + self.rng.below(300),
        };
        let inner = app.inner();
        if inner.state.height().0 + 1 != own.height.0 {
            return None;
        }
        let mut block = inner.other_block(self.node as u16, later);
        drop(inner);
        match self.rng.below(5) {
            0 => block.header.state_root.0[3] ^= 1,
            1 => block.header.log_size += 1,
            _ => {}
        }
        let id = block.header.id();
        self.known.entry(own.height.0).or_default().insert(id);
        let mut body = block.encode();
        if self.rng.chance(100) {
            body.truncate(body.len() - 3);
        }
        let proposal = Proposal {
            block: BlockId(id),
            ..own.clone()
        };
        let round = own.round.as_u32().unwrap_or(0);
        let pol_round = own.pol_round.as_i64() as i32;
        let bytes = proposal_bytes(own.height.into(), round, &id, pol_round);
        let signature = self.key.sign(Domain::Proposal, &self.chain, &bytes);
        let message = SignedConsensusMsg::Proposal(SignedMessage::new(proposal, signature));
        let bytes = WIRE.encode(&message).ok()?;
        Some((Packet::Consensus(bytes), body))
    }

    fn stream(&mut self, height: u64, round: u32, body: Vec<u8>) -> Vec<Packet> {
        self.streams += 1;
        let name = StreamId::new(Bytes::copy_from_slice(&self.streams.to_be_bytes()));
        let init = Init {
            height: Height(height),
            round,
            pol_round: None,
            length: body.len() as u32,
        };
        let first = StreamContent::Data(Part::First(init, body.into()));
        let message = StreamMessage::new(name, 0, first);
        let packet = WIRE.encode(&message).ok().map(Packet::Part);
        packet.into_iter().collect()
    }

    /// Blocks for a peer that catches up, now and then others.
    pub fn twist_response(&mut self, packet: Packet) -> Packet {
        let Packet::Response(bytes) = &packet else {
            return packet;
        };
        let decoded: Result<Response<_>, _> = WIRE.decode(bytes.clone());
        let Ok(Response::ValueResponse(mut response)) = decoded else {
            return packet;
        };
        let count = response.values.len() as u64;
        let value = &mut response.values[self.rng.below(count) as usize];
        match self.rng.below(4) {
            0 => {
                let mut body = value.value_bytes.to_vec();
                let place = self.rng.below(body.len() as u64) as usize;
                body[place] ^= 1;
                value.value_bytes = body.into();
            }
            1 => {
                value.certificate.commit_signatures.pop();
            }
            2 => value.certificate.value_id = BlockId(Hash([9; 32])),
            _ => {}
        }
        let response = WIRE.encode(&Response::ValueResponse(response));
        response.map(Packet::Response).unwrap_or(packet)
    }

    /// What comes to its mind.
    pub fn babble(&mut self, height: u64) -> Letters {
        let mut letters = Vec::new();
        for to in self.others() {
            let round = self.rng.below(4) as u32;
            let kind = self.rng.pick(&[VoteType::Prevote, VoteType::Precommit]);
            letters.push(match self.rng.below(5) {
                0 => (to, self.garbage()),
                1 => {
                    let packet = self.vote(kind, height + 1 + self.rng.clone().below(3), round);
                    (to, self.as_liveness(packet))
                }
                2 => {
                    let body = vec![self.rng.word() as u8; 40];
                    let parts = self.stream(height + 1, round, body);
                    letters.extend(parts.into_iter().map(|part| (to, part)));
                    continue;
                }
                3 => (to, self.vote(kind, height + 1, 1 << 20)),
                _ => (to, self.vote(kind, height + 1, round)),
            });
        }
        letters
    }

    fn as_liveness(&self, packet: Packet) -> Packet {
        match &packet {
            Packet::Consensus(bytes) => match WIRE.decode(bytes.clone()) {
                Ok(SignedConsensusMsg::Vote(vote)) => {
                    let message = WIRE.encode(&LivenessMsg::Vote(vote));
                    message.map(Packet::Liveness).unwrap_or(packet)
                }
                _ => packet,
            },
            _ => packet,
        }
    }

    fn garbage(&mut self) -> Packet {
        let length = self.rng.below(200) as usize;
        let bytes: Bytes = (0..length).map(|_| self.rng.word() as u8).collect();
        match self.rng.below(6) {
            0 => Packet::Consensus(bytes),
            1 => Packet::Liveness(bytes),
            2 => Packet::Part(bytes),
            3 => Packet::Status(bytes),
            4 => Packet::Response(bytes),
            _ => Packet::Transaction(bytes),
        }
    }
}
