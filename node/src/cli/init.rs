//! `tally init` and `tally join`: one validator's home. First every owner
//! makes a home and hands out its public file; then one of them makes the
//! genesis; then every owner puts it into the home, with the others' files.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde_json::json;
use tally_ledger::crypto::PublicKey;
use tally_node::{
    config::{Listen, NodeConfig},
    home::Home,
};

use super::{
    exit::Exit,
    genesis_config::read_public,
    keypair,
    keys::KeyKind,
    output::{self, Format},
    validator_file::ValidatorFile,
};

/// Name of the public file in a home.
pub(crate) const PUBLIC_FILE: &str = "validator.pub";

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// The node's name in logs and metrics
    #[arg(long)]
    name: String,
    /// Public key file of the person who owns the machine; absent: a key is made as HOME/owner.key
    #[arg(long, value_name = "FILE")]
    owner: Option<PathBuf>,
    /// Address at which the other validators reach this one
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// First of four ports: gRPC, consensus, gossip, metrics
    #[arg(long, value_name = "PORT", default_value_t = 26650)]
    base_port: u16,
}

/// Arguments of `join`.
#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// The validator's home
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// Genesis file
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// The hash that all owners compared (`tally genesis show`)
    #[arg(long, value_name = "HASH")]
    hash: String,
    /// Public files of the other validators
    #[arg(long = "validator", value_name = "FILE", num_args = 1..)]
    validators: Vec<PathBuf>,
}

/// gRPC and metrics on loopback, the rest on the address.
fn listen(address: IpAddr, base: u16) -> anyhow::Result<Listen> {
    let port = |offset: u16| base.checked_add(offset).context("--base-port is too high");
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Listen {
        grpc: local(port(0)?),
        consensus: SocketAddr::new(address, port(1)?),
        gossip: SocketAddr::new(address, port(2)?),
        http: local(port(3)?),
    })
}

impl Init {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let owner = self
            .owner
            .as_deref()
            .map(|path| read_public(path, KeyKind::Person));
        let listen = listen(self.address, self.base_port)?;
        let file = make_home(&self.home, &self.name, listen, owner.transpose()?)?;
        let value = json!({
            "home": self.home,
            "public file": self.home.join(PUBLIC_FILE),
            "consensus key": file.consensus_key,
            "owner key": file.owner_key,
            "grpc": listen.grpc,
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

/// Makes a home with fresh keys, a configuration without peers and the
/// public file. Without an owner's key, one is made beside them.
pub(crate) fn make_home(
    folder: &Path,
    name: &str,
    listen: Listen,
    owner: Option<PublicKey>,
) -> anyhow::Result<ValidatorFile> {
    let config = NodeConfig::new(name, listen, Vec::new());
    config.validate()?;
    let home = Home::new(folder);
    let keys = home.init()?;
    let owner = match owner {
        Some(key) => key,
        None => keypair::create(&folder.join("owner.key"), KeyKind::Person)?.public,
    };
    home.write_config(&config)?;
    let file = ValidatorFile {
        name: name.to_owned(),
        consensus: listen.consensus,
        gossip: listen.gossip,
        consensus_key: keys.consensus.public(),
        checkpoint_key: keys.checkpoint.public(),
        network_key: keys.network.public(),
        owner_key: owner,
    };
    file.write_new(&folder.join(PUBLIC_FILE))?;
    Ok(file)
}

impl Join {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = super::genesis::read(&self.genesis)?;
        let hash = genesis.chain().to_string();
        ensure!(
            hash == self.hash,
            "this genesis has the hash {hash}, the owners agreed on {}: ask for the right file",
            self.hash
        );
        let home = Home::new(&self.home);
        let key = home.keys()?.consensus.public();
        let number = genesis.validators.index_of(&key);
        let mut config = home.config()?;
        let files = self.validators.iter().map(|path| ValidatorFile::read(path));
        let files = files.collect::<anyhow::Result<Vec<_>>>()?;
        let mut peers = Vec::new();
        for file in files.iter().filter(|file| file.consensus_key != key) {
            let known = genesis.validators.index_of(&file.consensus_key).is_some();
            ensure!(known, "{} is no validator of this genesis", file.name);
            peers.push(file.peer());
        }
        config.peers = peers;
        home.write_config(&config)?;
        home.write_genesis(&genesis)?;
        let value = json!({
            "home": self.home,
            "hash": hash,
            "validator": number,
            "peers": config.peers.len(),
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}
