//! Headers with their certificates, and what a verifier believes of them.
//!
//! Trust starts at the genesis: its hash is the chain id, its validators
//! certify the headers. A header is believed if a quorum of them signed
//! precommits for its id on this chain; everything else that a file shows is
//! then compared with the roots in that header.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    block::{BLOCK_VERSION, Certificate, CertificateError, HEADER_BYTES, Header, MAX_VALIDATORS},
    codec::{self, List},
    crypto::ChainId,
    evidence::Evidence,
    genesis::{Genesis, GenesisError},
    hash::{Context, Hash},
    ids::Height,
};

/// Most bytes of an encoded certified header.
pub const MAX_CERTIFIED_BYTES: usize = HEADER_BYTES + 4 + 8 + MAX_VALIDATORS * 66 + 8;

/// Headers that a verifier remembers whole, to show a fork.
const WHOLE: usize = 10_000;

/// A change of the validator set between the genesis and a header. Version 1
/// of the files knows none, so the list of them is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetChange {}

/// A header and the proof that the validators decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertifiedHeader {
    /// The header.
    pub header: Header,
    /// A quorum of precommits for it.
    pub certificate: Certificate,
    /// Changes of the validator set since the genesis.
    pub set_changes: List<SetChange, 0>,
}

/// Why a certified header is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another layout.
    #[error("header version {0}, this program knows {BLOCK_VERSION}")]
    Version(u8),
    /// The header is of another chain.
    #[error("the header is of chain {found}, the genesis of {wanted}")]
    OtherChain {
        /// The genesis's.
        wanted: ChainId,
        /// The header's.
        found: ChainId,
    },
    /// There is no quorum behind it.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// Two headers of one height have a quorum: validators signed both.
    #[error("two certified headers of height {height}: {first} and {second}")]
    Fork {
        /// The height.
        height: Height,
        /// Id of the one seen first.
        first: Hash,
        /// Id of the other.
        second: Hash,
    },
}

/// What a verifier believes: a genesis, and the headers it has seen proof
/// of. One for many files checks each certificate once and notices a fork.
#[derive(Debug, Clone)]
pub struct Trust<'a> {
    genesis: &'a Genesis,
    chain: ChainId,
    ids: BTreeMap<Height, Hash>,
    /// Hashes of certified headers whose signatures were checked.
    checked: BTreeSet<Hash>,
    /// The first of each height, of so many heights.
    whole: BTreeMap<Height, CertifiedHeader>,
    fork: Option<Evidence>,
}

impl<'a> Trust<'a> {
    /// Believes in a genesis, if it can start a chain at all.
    pub fn new(genesis: &'a Genesis) -> Result<Self, GenesisError> {
        genesis.validate()?;
        Ok(Trust {
            genesis,
            chain: genesis.chain(),
            ids: BTreeMap::new(),
            checked: BTreeSet::new(),
            whole: BTreeMap::new(),
            fork: None,
        })
    }

    /// The genesis.
    pub fn genesis(&self) -> &'a Genesis {
        self.genesis
    }

    /// Checks that the validators decided this header on this chain.
    pub fn check(&mut self, certified: &CertifiedHeader) -> Result<(), HeaderError> {
        let CertifiedHeader {
            header,
            certificate,
            ..
        } = certified;
        // Any collision-free hash of the whole will do for remembering.
        let whole = Context::Block.hash(&codec::encode(certified));
        if self.checked.contains(&whole) {
            return Ok(());
        }
        if header.version != BLOCK_VERSION {
            return Err(HeaderError::Version(header.version));
        }
        if header.chain != self.chain {
            return Err(HeaderError::OtherChain {
                wanted: self.chain,
                found: header.chain,
            });
        }
        let (height, id) = (header.height, header.id());
        certificate.verify(&self.chain, height, &id, &self.genesis.validators)?;
        let first = *self.ids.entry(height).or_insert(id);
        if first != id {
            if let Some(known) = self.whole.get(&height) {
                let both = Evidence::of_certificates(known.clone(), certified.clone());
                self.fork = both.ok();
            }
            return Err(HeaderError::Fork {
                height,
                first,
                second: id,
            });
        }
        if self.whole.len() < WHOLE {
            let known = self.whole.entry(height);
            known.or_insert_with(|| certified.clone());
        }
        self.checked.insert(whole);
        Ok(())
    }

    /// What the last [`HeaderError::Fork`] proves, once; none if the first
    /// header is not remembered whole.
    pub fn take_fork(&mut self) -> Option<Evidence> {
        self.fork.take()
    }
}
