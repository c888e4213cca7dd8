//! Headers and certificates: that the stored headers are one chain from the
//! genesis, and that a quorum signed each.

use super::{Divergence, Field};
use crate::{
    block::{BLOCK_VERSION, Certificate, Header, ValidatorSet},
    crypto::ChainId,
    genesis::{Genesis, GenesisError},
    hash::Hash,
    ids::{Height, Time},
    redacted::StoredBlock,
    state::State,
};

/// The chain of headers so far.
#[derive(Debug, Clone)]
pub struct Headers {
    chain: ChainId,
    validators: ValidatorSet,
    validators_hash: Hash,
    /// What the next header follows.
    height: Height,
    time: Time,
    id: Hash,
    log_size: u64,
    log_root: Hash,
    precommits: u64,
}

impl Headers {
    /// Begins with the genesis.
    pub fn new(genesis: &Genesis) -> Result<Self, GenesisError> {
        let state = State::genesis(genesis)?;
        Ok(Headers {
            chain: *state.chain(),
            validators: genesis.validators.clone(),
            validators_hash: genesis.validators.hash(),
            height: Height(0),
            time: genesis.time,
            id: state.block_id(),
            log_size: state.log().size(),
            log_root: state.log().root(),
            precommits: 0,
        })
    }

    /// Height of the last header.
    pub fn height(&self) -> Height {
        self.height
    }

    /// Id of the last block; of the genesis the chain id.
    pub fn id(&self) -> Hash {
        self.id
    }

    /// Signatures of validators that were checked.
    pub fn precommits(&self) -> u64 {
        self.precommits
    }

    /// Takes the next stored block; its certified header. What is behind the
    /// header in the body is not looked at.
    pub fn next(&mut self, certificate: &Certificate, body: &[u8]) -> Result<Header, Divergence> {
        let height = Height(self.height.0 + 1);
        let header = StoredBlock::header_of(body);
        let header = header.map_err(|error| {
            Divergence::of_block(height, Field::Body, "a canonical header", error.why)
        })?;
        self.check_fields(height, &header)?;
        let id = header.id();
        certificate
            .verify(&self.chain, height, &id, &self.validators)
            .map_err(|error| {
                let expected = format!("a quorum's signatures of block {id}");
                Divergence::of_block(height, Field::Certificate, expected, error)
            })?;
        self.precommits += certificate.precommits.len() as u64;
        self.height = height;
        self.time = header.time;
        self.id = id;
        self.log_size = header.log_size;
        self.log_root = header.log_root;
        Ok(header)
    }

    /// What follows from the headers before; the certificate says the rest.
    fn check_fields(&self, height: Height, header: &Header) -> Result<(), Divergence> {
        let wrong = |name, expected: String, found: String| {
            Err(Divergence::of_block(
                height,
                Field::Header(name),
                expected,
                found,
            ))
        };
        let equal = [
            (
                "version",
                BLOCK_VERSION.to_string(),
                header.version.to_string(),
            ),
            ("chain", self.chain.to_string(), header.chain.to_string()),
            ("height", height.to_string(), header.height.to_string()),
            (
                "previous block",
                self.id.to_string(),
                header.previous.to_string(),
            ),
            (
                "next validators",
                self.validators_hash.to_string(),
                header.next_validators.to_string(),
            ),
        ];
        for (name, expected, found) in equal {
            if expected != found {
                return wrong(name, expected, found);
            }
        }
        if header.time <= self.time {
            let expected = format!("after {} ms", self.time.0);
            return wrong("time", expected, format!("{} ms", header.time.0));
        }
        if usize::from(header.proposer) >= self.validators.0.len() {
            let expected = format!("below {}", self.validators.0.len());
            return wrong("proposer", expected, header.proposer.to_string());
        }
        if header.log_size < self.log_size {
            let expected = format!("at least {}", self.log_size);
            return wrong("log size", expected, header.log_size.to_string());
        }
        if header.log_size == self.log_size && header.log_root != self.log_root {
            let (expected, found) = (self.log_root, header.log_root);
            return wrong("log root", expected.to_string(), found.to_string());
        }
        Ok(())
    }
}
