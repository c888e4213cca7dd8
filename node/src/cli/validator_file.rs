//! A validator's public file: what its owner hands to the others, who put it
//! into the genesis and into their own lists of peers. Nothing in it is
//! secret.

use std::{net::SocketAddr, path::Path};

use serde::{Deserialize, Serialize};
use tally_ledger::crypto::PublicKey;
use tally_node::config::Peer;

use super::{
    keys::write_new_file,
    kind::{self, Kind},
};

/// The public side of a validator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ValidatorFile {
    /// A name for people, in logs and metrics.
    pub(crate) name: String,
    /// Where the other validators reach its consensus.
    pub(crate) consensus: SocketAddr,
    /// Where the other validators hand it transactions.
    pub(crate) gossip: SocketAddr,
    /// Signs votes and proposals.
    pub(crate) consensus_key: PublicKey,
    /// Signs checkpoints of the log.
    pub(crate) checkpoint_key: PublicKey,
    /// Identity of the transports.
    pub(crate) network_key: PublicKey,
    /// The person who owns the machine.
    pub(crate) owner_key: PublicKey,
}

impl ValidatorFile {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = kind::text(path, Kind::Validator)?;
        toml::from_str(&text)
            .map_err(|e| kind::misread(path, text.as_bytes(), Kind::Validator, e.message()))
    }

    /// Writes a new file.
    pub(crate) fn write_new(&self, path: &Path) -> anyhow::Result<()> {
        let text = format!(
            "# Public file of a validator: hand it to the other owners.\n{}",
            toml::to_string(self)?
        );
        write_new_file(path, text.as_bytes(), 0o644)
    }

    /// As the other validators' configurations list it.
    pub(crate) fn peer(&self) -> Peer {
        Peer {
            name: self.name.clone(),
            network_key: self.network_key,
            consensus: self.consensus,
            gossip: self.gossip,
        }
    }
}
