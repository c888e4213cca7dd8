//! Snapshots: a whole state in one canonical piece of bytes.
//!
//! ```text
//! version u8 | chain id 32 | header (option) | log frontier | leaves of all
//! tables, live ids with them | version 2: the rates' leaf; version 3: the
//! rates' leaf (option), list of (validator u16, marks), those with evidence,
//! list of (person u32, unit u32), those with a unit |
//! blake3 derive_key("tally v1 snapshot", all before) 32
//! ```
//!
//! Version 1 is of a chain on which no rates were set, version 2 of one without
//! evidence on which nobody has a unit: a state has the lowest version that
//! holds it, and so the bytes that it always had.
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
/// Version with rates and nothing else behind the leaves.
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

/// What version 3 has behind the leaves.
#[derive(Default, Serialize, Deserialize)]
struct Behind {
    rates: Option<RatesState>,
    /// By validator.
    marks: Vec<(u16, Marks)>,
    /// By person.
    units: Vec<(u32, u32)>,
}

/// The content of version 3.
#[derive(Deserialize)]
struct ReadAll {
    read: Read,
    behind: Behind,
}

impl Behind {
    fn of(leaves: &Leaves) -> Behind {
        let persons = (0..).zip(&leaves.persons);
        let marks = (0..).zip(leaves.marks.iter().cloned());
        Behind {
            rates: leaves.rates.first().cloned(),
            marks: marks.filter(|(_, marks)| marks.count > 0).collect(),
            units: persons
                .filter_map(|(number, person)| Some((number, person.unit?)))
                .collect(),
        }
    }

    /// The lowest version that holds it.
    fn version(&self) -> u8 {
        match (&self.rates, self.marks.is_empty() && self.units.is_empty()) {
            (None, true) => WITHOUT_RATES,
            (Some(_), true) => WITH_RATES,
            (_, false) => SNAPSHOT_VERSION,
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self.version() {
            WITHOUT_RATES => Vec::new(),
            WITH_RATES => self.rates.as_ref().map(codec::encode).unwrap_or_default(),
            _ => codec::encode(self),
        }
    }

    /// Puts it where it belongs, if it is what [`Behind::of`] gives.
    fn put(self, leaves: &mut Leaves) -> Result<(), SnapshotError> {
        leaves.rates.extend(self.rates);
        put_marks(self.marks, leaves)?;
        put_units(self.units, leaves)
    }
}

impl Read {
    fn decode(version: u8, content: &[u8]) -> Result<Read, SnapshotError> {
        let (mut read, behind) = match version {
            WITHOUT_RATES => (codec::decode(content, content.len())?, Behind::default()),
            WITH_RATES => {
                let ReadWithRates { read, rates } = codec::decode(content, content.len())?;
                let behind = Behind {
                    rates: Some(rates),
                    ..Behind::default()
                };
                (read, behind)
            }
            _ => {
                let ReadAll { read, behind } = codec::decode(content, content.len())?;
                (read, behind)
            }
        };
        if behind.version() != version {
            return Err(SnapshotError::Roots("version"));
        }
        behind.put(&mut read.leaves)?;
        Ok(read)
    }
}

/// Puts marks to their validators; ascending, none that says nothing.
fn put_marks(marks: Vec<(u16, Marks)>, leaves: &mut Leaves) -> Result<(), SnapshotError> {
    let wrong = || SnapshotError::Roots("list of marks");
    if !marks.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(wrong());
    }
    leaves.marks = vec![Marks::default(); leaves.validators.0.len()];
    for (validator, marks) in marks {
        match leaves.marks.get_mut(usize::from(validator)) {
            Some(known) if marks.are_well_formed() => *known = marks,
            _ => return Err(wrong()),
        }
    }
    Ok(())
}

/// Puts units to their persons; ascending.
fn put_units(units: Vec<(u32, u32)>, leaves: &mut Leaves) -> Result<(), SnapshotError> {
    let wrong = || SnapshotError::Roots("list of units");
    if !units.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(wrong());
    }
    for (number, unit) in units {
        let person = leaves.persons.get_mut(number as usize);
        person.ok_or_else(wrong)?.unit = Some(unit);
    }
    Ok(())
}

impl State {
    /// The whole state as bytes; equal states give equal bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let behind = Behind::of(&self.leaves);
        let mut bytes = vec![behind.version()];
        bytes.extend_from_slice(&self.chain.0.0);
        let content: Content<'_> = (&self.header, &self.log, &self.leaves);
        bytes.extend_from_slice(&codec::encode(&content));
        bytes.extend(behind.encode());
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
