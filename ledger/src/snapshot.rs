//! Snapshots: a whole state in one canonical piece of bytes.
//!
//! ```text
//! version u8 | chain id 32 | header (option) | log frontier | leaves of all
//! tables, live ids with them | version 2: the rates' leaf | version 3: the
//! rates' leaf (option), list of (validator u16, marks), those with evidence |
//! blake3 derive_key("tally v1 snapshot", all before) 32
//! ```
//!
//! Version 1 is of a chain on which no rates were set, version 2 of one
//! without evidence; each is written as long as that is so: such a state has
//! the bytes that it always had.
//!
//! What is derived from the leaves is rebuilt. Reading checks the hash (the
//! file is whole), the genesis (it is this chain's), and that state root and
//! log root are those of the header. Whether that header is certified is the
//! caller's to check: only then is a foreign snapshot to be believed.

use serde::{Deserialize, Serialize};

use crate::{
    block::Header,
    codec::{self, DecodeError},
    crypto::ChainId,
    evidence::Marks,
    genesis::Genesis,
    hash::Context,
    merkle::Frontier,
    rates::RatesState,
    state::{IdBucket, Leaves, State, ids::BUCKETS},
};

/// Newest version of the layout.
pub const SNAPSHOT_VERSION: u8 = 3;
/// Version without rates.
const WITHOUT_RATES: u8 = 1;
/// Version with rates, without evidence.
const WITH_RATES: u8 = 2;

/// Why a snapshot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Cut short or damaged.
    #[error("the snapshot's hash does not match its content")]
    Damaged,
    /// Another layout.
    #[error("snapshot version {0}, this program knows 1 to {SNAPSHOT_VERSION}")]
    Version(u8),
    /// Not canonical.
    #[error("the snapshot does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// Of another genesis.
    #[error("the snapshot is of chain {0}")]
    OtherChain(ChainId),
    /// The content is not what its header says.
    #[error("the snapshot's {0} is not its header's")]
    Roots(&'static str),
}

/// What a snapshot stores, after version and chain id.
type Content<'a> = (&'a Option<Header>, &'a Frontier, &'a Leaves);

/// The same, owned.
#[derive(Serialize, Deserialize)]
struct Read {
    header: Option<Header>,
    log: Frontier,
    leaves: Leaves,
}

/// The content of version 2.
#[derive(Deserialize)]
struct ReadWithRates {
    read: Read,
    rates: RatesState,
}

/// The content of version 3.
#[derive(Deserialize)]
struct ReadWithMarks {
    read: Read,
    rates: Option<RatesState>,
    marks: Vec<(u16, Marks)>,
}

impl Read {
    fn decode(version: u8, content: &[u8]) -> Result<Read, SnapshotError> {
        let (mut read, rates, marks) = match version {
            WITHOUT_RATES => (codec::decode(content, content.len())?, None, Vec::new()),
            WITH_RATES => {
                let ReadWithRates { read, rates } = codec::decode(content, content.len())?;
                (read, Some(rates), Vec::new())
            }
            _ => {
                let whole: ReadWithMarks = codec::decode(content, content.len())?;
                (whole.read, whole.rates, whole.marks)
            }
        };
        read.leaves.rates.extend(rates);
        read.mark(marks)?;
        Ok(read)
    }

    /// Puts marks to their validators; ascending, none that says nothing.
    fn mark(&mut self, marks: Vec<(u16, Marks)>) -> Result<(), SnapshotError> {
        let wrong = SnapshotError::Roots("list of marks");
        let ascending = marks.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let leaves = &mut self.leaves;
        leaves.marks = vec![Marks::default(); leaves.validators.0.len()];
        for (validator, marks) in marks {
            match leaves.marks.get_mut(usize::from(validator)) {
                Some(known) if ascending && marks.are_well_formed() => *known = marks,
                _ => return Err(wrong),
            }
        }
        Ok(())
    }
}

impl State {
    /// The whole state as bytes; equal states give equal bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let rates = self.rates();
        let marks = (0u16..).zip(&self.leaves.marks);
        let marks: Vec<(u16, &Marks)> = marks.filter(|(_, marks)| marks.count > 0).collect();
        let version = match (rates, marks.is_empty()) {
            (None, true) => WITHOUT_RATES,
            (Some(_), true) => WITH_RATES,
            (_, false) => SNAPSHOT_VERSION,
        };
        let mut bytes = vec![version];
        bytes.extend_from_slice(&self.chain.0.0);
        let content: Content<'_> = (&self.header, &self.log, &self.leaves);
        bytes.extend_from_slice(&codec::encode(&content));
        if version == SNAPSHOT_VERSION {
            bytes.extend(codec::encode(&(rates, marks)));
        } else {
            bytes.extend(rates.map(codec::encode).unwrap_or_default());
        }
        let hash = Context::Snapshot.hash(&bytes);
        bytes.extend_from_slice(&hash.0);
        bytes
    }

    /// Reads what [`State::snapshot`] wrote, of the chain that starts with
    /// `genesis`.
    pub fn from_snapshot(genesis: &Genesis, bytes: &[u8]) -> Result<State, SnapshotError> {
        let (body, hash) = bytes
            .split_last_chunk::<32>()
            .ok_or(SnapshotError::Damaged)?;
        if Context::Snapshot.hash(body).0 != *hash {
            return Err(SnapshotError::Damaged);
        }
        let (version, rest) = body.split_first().ok_or(SnapshotError::Damaged)?;
        if !(WITHOUT_RATES..=SNAPSHOT_VERSION).contains(version) {
            return Err(SnapshotError::Version(*version));
        }
        let (chain, content) = rest
            .split_first_chunk::<32>()
            .ok_or(SnapshotError::Damaged)?;
        let chain = ChainId(crate::hash::Hash(*chain));
        if chain != genesis.chain() {
            return Err(SnapshotError::OtherChain(chain));
        }
        let Read {
            header,
            log,
            mut leaves,
        } = Read::decode(*version, content)?;
        if leaves.buckets.len() != BUCKETS {
            return Err(SnapshotError::Roots("table of ids"));
        }
        for (slot, bucket) in (0..).zip(&mut leaves.buckets) {
            let placed = match bucket.ids.is_empty() {
                true => bucket.hour == 0,
                false => IdBucket::slot(bucket.hour) == slot,
            };
            if !placed {
                return Err(SnapshotError::Roots("table of ids"));
            }
            bucket.rebuild();
        }
        let state = State::assemble(chain, genesis.time, header, log, leaves);
        state.matches_header(genesis)?;
        Ok(state)
    }

    /// Compares roots with the header's, or with the genesis's state.
    fn matches_header(&self, genesis: &Genesis) -> Result<(), SnapshotError> {
        let (state_root, log_size, log_root) = match &self.header {
            Some(header) => (header.state_root, header.log_size, header.log_root),
            None => {
                let start = State::genesis(genesis).map_err(|_| SnapshotError::Roots("genesis"))?;
                (start.state_root(), start.log.size(), start.log.root())
            }
        };
        let chain = self.header.map_or(self.chain, |header| header.chain);
        if chain != self.chain {
            return Err(SnapshotError::OtherChain(chain));
        }
        if self.state_root() != state_root {
            return Err(SnapshotError::Roots("state root"));
        }
        if (self.log.size(), self.log.root()) != (log_size, log_root) {
            return Err(SnapshotError::Roots("log root"));
        }
        Ok(())
    }
}
