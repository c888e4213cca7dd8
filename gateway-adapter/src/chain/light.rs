//! What is believed: headers that a quorum of the genesis's validators
//! certified, and leaves of the state proven under them.
//!
//! A leaf is never taken from below the height up to which control entries
//! were applied: a node that answers from the past cannot bring back a
//! revoked key.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use tally_ledger::{
    block::{BLOCK_VERSION, Header},
    codec,
    crypto::{ChainId, PublicKey},
    gateway::Gateway,
    genesis::Genesis,
    hash::Hash,
    ids::{ApiKeyNumber, GatewayNumber, Height, Time},
    state::Chain,
    state_proof::{MAX_LEAF_BYTES, StateProof},
    tree::Table,
};
use tally_proto::v1;

use super::{
    ChainError,
    nodes::{Nodes, unreachable},
};

/// How long to ask on for something newer before giving up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Certified headers that need not be checked again.
const REMEMBERED: usize = 64;

/// A leaf and the header under which it is proven.
#[derive(Debug, Clone)]
pub struct Proven<T> {
    /// The header.
    pub header: Header,
    /// The leaf; `None`: provably absent.
    pub leaf: Option<T>,
}

#[derive(Debug)]
struct Seen {
    /// The last certified header, and when it came.
    last: Option<(Header, Instant)>,
    /// Ids of headers that were certified.
    certified: Vec<Hash>,
    /// Leaves below this height are too old.
    floor: Height,
}

/// The light client.
#[derive(Debug)]
pub struct Light {
    /// The nodes asked.
    pub nodes: Nodes,
    /// The chain's id.
    pub chain: ChainId,
    genesis: Genesis,
    validators: Hash,
    seen: Mutex<Seen>,
}

impl Light {
    /// Trusts a genesis, asks `nodes`.
    pub fn new(genesis: Genesis, nodes: Nodes) -> Self {
        Light {
            nodes,
            chain: genesis.chain(),
            validators: genesis.validators.hash(),
            genesis,
            seen: Mutex::new(Seen {
                last: None,
                certified: Vec::new(),
                floor: Height(0),
            }),
        }
    }

    /// What trust starts from.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a header and its certificate.
    pub fn header(&self, certified: &v1::CertifiedHeader) -> Result<Header, ChainError> {
        let unproven = |why: String| ChainError::Unproven(why);
        let (header, certificate) = certified.parts().map_err(|e| unproven(e.to_string()))?;
        let id = header.id();
        if header.version != BLOCK_VERSION || header.chain != self.chain {
            return Err(unproven("a header of another chain".into()));
        }
        if !self.seen().certified.contains(&id) {
            certificate
                .verify(&self.chain, header.height, &id, &self.genesis.validators)
                .map_err(|e| unproven(e.to_string()))?;
        }
        if header.next_validators != self.validators {
            return Err(ChainError::ValidatorsChanged);
        }
        let mut seen = self.seen();
        if !seen.certified.contains(&id) {
            if seen.certified.len() == REMEMBERED {
                seen.certified.remove(0);
            }
            seen.certified.push(id);
        }
        if seen
            .last
            .is_none_or(|(last, _)| last.height < header.height)
        {
            seen.last = Some((header, Instant::now()));
        }
        Ok(header)
    }

    /// The last certified header.
    pub fn last(&self) -> Option<Header> {
        self.seen().last.map(|(header, _)| header)
    }

    /// How long ago the last certified header came.
    pub fn silence(&self) -> Option<Duration> {
        self.seen().last.map(|(_, at)| at.elapsed())
    }

    /// Block time of the last header.
    pub fn time(&self) -> Time {
        self.last().map_or(Time(0), |header| header.time)
    }

    /// Leaves below this height are too old.
    pub fn floor(&self) -> Height {
        self.seen().floor
    }

    /// Leaves below `height` are too old from now on.
    pub fn raise_floor(&self, height: Height) {
        let mut seen = self.seen();
        seen.floor = seen.floor.max(height);
    }

    /// Checks a state proof.
    pub fn check(
        &self,
        proof: &v1::StateProof,
        table: Table,
        number: u32,
    ) -> Result<(Header, StateProof), ChainError> {
        let unproven = |why: String| ChainError::Unproven(why);
        let certified = proof.header.as_ref();
        let header = self.header(certified.ok_or_else(|| unproven("no header".into()))?)?;
        let proof = StateProof::decode(&proof.proof).map_err(|e| unproven(e.to_string()))?;
        if (proof.table, proof.number) != (table, number) {
            return Err(unproven("a proof of another leaf".into()));
        }
        proof
            .verify(&header.state_root)
            .map_err(|e| unproven(e.to_string()))?;
        Ok((header, proof))
    }

    /// A leaf, proven at `at_least` or later; asks on for a while if the
    /// nodes are not there yet.
    pub async fn leaf<T: DeserializeOwned>(
        &self,
        table: Table,
        number: u32,
        at_least: Height,
    ) -> Result<Proven<T>, ChainError> {
        let at_least = at_least.max(self.seen().floor);
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(2);
        loop {
            let mut last = ChainError::Unreachable("no node".into());
            for (i, node) in self.nodes.in_order() {
                let answer = match node.leaf(table, number).await {
                    Ok(answer) => answer,
                    Err(status) => {
                        last = unreachable(node, &status);
                        continue;
                    }
                };
                match self.check(&answer, table, number) {
                    Ok((header, proof)) if header.height >= at_least => {
                        self.nodes.prefer(i);
                        return decoded(header, &proof);
                    }
                    Ok((header, _)) => {
                        let behind = format!("{} is at height {}", node.address, header.height);
                        last = ChainError::Unreachable(behind);
                    }
                    Err(error) if error.is_fatal() => return Err(error),
                    Err(error) => {
                        tracing::error!(node = %node.address, %error, "a node's proof does not hold");
                        last = error;
                    }
                }
            }
            if Instant::now() + pause > deadline {
                return Err(last);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// This chain's own leaf.
    pub async fn chain_leaf(&self, at_least: Height) -> Result<Proven<Chain>, ChainError> {
        self.leaf(Table::Chain, 0, at_least).await
    }

    /// A gateway's leaf.
    pub async fn gateway(
        &self,
        gateway: GatewayNumber,
        at_least: Height,
    ) -> Result<(Header, Gateway), ChainError> {
        let proven = self.leaf(Table::Gateways, gateway.0, at_least).await?;
        let absent = || ChainError::Unproven(format!("there is no gateway {gateway}"));
        Ok((proven.header, proven.leaf.ok_or_else(absent)?))
    }

    /// The number of an API key, as any node hints; `None` if all that answer
    /// know none, two at least where there are two.
    pub async fn find_api_key(&self, key: &PublicKey) -> Result<Option<ApiKeyNumber>, ChainError> {
        let mut denials = 0;
        let mut last = ChainError::Unreachable("no node".into());
        for (_, node) in self.nodes.in_order() {
            match node.find_api_key(key).await {
                Ok(Some(number)) => return Ok(Some(number)),
                Ok(None) => denials += 1,
                Err(status) => last = unreachable(node, &status),
            }
        }
        if denials >= self.nodes.all().len().min(2) {
            return Ok(None);
        }
        Err(last)
    }
}

fn decoded<T: DeserializeOwned>(
    header: Header,
    proof: &StateProof,
) -> Result<Proven<T>, ChainError> {
    let leaf = proof.leaf.as_ref();
    let leaf = leaf
        .map(|bytes| codec::decode(bytes, MAX_LEAF_BYTES))
        .transpose();
    let leaf = leaf.map_err(|error| ChainError::Unproven(error.to_string()))?;
    Ok(Proven { header, leaf })
}
