//! `tally testnet`: all homes and keys of a chain at once, in one folder, on
//! one machine. For trials only: whoever has the folder is everybody.
//!
//! ```text
//! DIR/genesis.json
//! DIR/v0 .. v3/             homes of the validators
//! DIR/keys/admin-0.key ..   persons: admins, issuers, owners
//! DIR/keys/holder-0.key ..  holders of accounts
//! DIR/keys/gateway-0.key    the gateway
//! ```

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde_json::json;
use tally_ledger::genesis::Genesis;
use tally_node::{config::Listen, home::Home};

use super::{
    exit::Exit,
    genesis::Create,
    genesis_config::EXAMPLE,
    init::{PUBLIC_FILE, make_home},
    keypair,
    keys::{KeyFile, KeyKind},
    output::{self, Format},
    validator_file::ValidatorFile,
};

/// Arguments of `testnet`.
#[derive(Debug, clap::Args)]
pub(crate) struct Testnet {
    /// Folder to make
    dir: PathBuf,
    /// How many validators
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    validators: u16,
    /// Ports from here on, four per validator; absent: any free ones
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Genesis config; absent: the one of `tally genesis example`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A chain whose every key is here.
#[derive(Debug)]
pub(crate) struct Net {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// The genesis.
    pub(crate) genesis: Genesis,
    /// Where each validator listens.
    pub(crate) listen: Vec<Listen>,
}

/// How many holders' keys are made.
pub(crate) const HOLDERS: usize = 3;

impl Testnet {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let config = self.config.as_deref().map(|path| {
            fs::read_to_string(path).with_context(|| format!("config {}", path.display()))
        });
        let config = config.transpose()?;
        let config = config.as_deref().unwrap_or(EXAMPLE);
        let net = make(
            &self.dir,
            usize::from(self.validators),
            self.base_port,
            config,
        )?;
        let rows = net.listen.iter().enumerate().map(|(i, listen)| {
            json!({
                "validator": i,
                "grpc": listen.grpc,
                "metrics": listen.http,
                "start": format!("tally node --home {}", net.home(i).folder().display()),
            })
        });
        let value = json!({
            "for": "trials only: every key is in this folder",
            "genesis": net.genesis_file(),
            "hash": net.genesis.chain(),
            "keys": net.dir.join("keys"),
            "validators": rows.collect::<Vec<_>>(),
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

impl Net {
    /// The genesis file.
    pub(crate) fn genesis_file(&self) -> PathBuf {
        self.dir.join("genesis.json")
    }

    /// A validator's home.
    pub(crate) fn home(&self, validator: usize) -> Home {
        Home::new(self.dir.join(format!("v{validator}")))
    }

    /// A key file by name, such as `issuer-0`.
    pub(crate) fn key_file(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(format!("{name}.key"))
    }
}

/// Makes everything.
pub(crate) fn make(
    dir: &Path,
    validators: usize,
    base_port: Option<u16>,
    config: &str,
) -> anyhow::Result<Net> {
    let used = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !used,
        "{} is not empty: choose another folder",
        dir.display()
    );
    let keys = dir.join("keys");
    fs::create_dir_all(&keys).with_context(|| format!("making {}", keys.display()))?;
    let key = |name: String, kind| keypair::create(&keys.join(format!("{name}.key")), kind);
    for i in 0..2 {
        key(format!("admin-{i}"), KeyKind::Person)?;
        key(format!("issuer-{i}"), KeyKind::Person)?;
    }
    key("gateway-0".to_owned(), KeyKind::Gateway)?;
    for i in 0..HOLDERS {
        key(format!("holder-{i}"), KeyKind::Account)?;
    }
    let listen = addresses(validators, base_port)?;
    let mut files = Vec::new();
    for (i, listen) in listen.iter().enumerate() {
        let owner = key(format!("owner-{i}"), KeyKind::Person)?.public;
        let name = format!("v{i}");
        files.push(make_home(&dir.join(&name), &name, *listen, Some(owner))?);
    }
    let path = keys.join("genesis.toml");
    fs::write(&path, config).with_context(|| format!("writing {}", path.display()))?;
    let create = Create {
        validators: (0..validators)
            .map(|i| dir.join(format!("v{i}")).join(PUBLIC_FILE))
            .collect(),
        admins: (0..2)
            .map(|i| keys.join(format!("admin-{i}.pub")))
            .collect(),
        threshold: 2,
        config: path,
        out: dir.join("genesis.json"),
    };
    let genesis = create.genesis()?;
    super::genesis::write(&create.out, &genesis)?;
    let net = Net {
        dir: dir.to_owned(),
        genesis,
        listen,
    };
    net.join(&files)?;
    net.number_keys()?;
    Ok(net)
}

impl Net {
    /// Gives every home the genesis and its peers.
    fn join(&self, files: &[ValidatorFile]) -> anyhow::Result<()> {
        for i in 0..files.len() {
            let home = self.home(i);
            let mut config = home.config()?;
            let others = files.iter().enumerate().filter(|(other, _)| *other != i);
            config.peers = others.map(|(_, file)| file.peer()).collect();
            home.write_config(&config)?;
            home.write_genesis(&self.genesis)?;
        }
        Ok(())
    }

    /// Writes the numbers of persons and gateways into their key files.
    fn number_keys(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.dir.join("keys"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "key") {
                continue;
            }
            let key = KeyFile::read(&path)?;
            if let Some(author) = super::submit::author_of(&key, &self.genesis) {
                KeyFile::set_number(&path, author.number)?;
            }
        }
        Ok(())
    }
}

/// Four addresses per validator. Free ones are found by binding them all at
/// once, so that none is found twice.
fn addresses(validators: usize, base_port: Option<u16>) -> anyhow::Result<Vec<Listen>> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let count = validators * 4;
    let all: Vec<SocketAddr> = match base_port {
        Some(base) => (0..count)
            .map(|i| {
                Ok(local(
                    base.checked_add(i as u16)
                        .context("--base-port is too high")?,
                ))
            })
            .collect::<anyhow::Result<_>>()?,
        None => free_addresses(count)?,
    };
    let listen = |four: &[SocketAddr]| Listen {
        grpc: four[0],
        consensus: four[1],
        gossip: four[2],
        http: four[3],
    };
    Ok(all.chunks_exact(4).map(listen).collect())
}

/// Free loopback addresses, all different. Each net has a loopback IP of its
/// own where the system has them (all of 127/8 on Linux), so that nets made
/// at the same time, or outgoing connections, never take each other's ports.
fn free_addresses(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let own: [u8; 3] = rand::random();
    let own = Ipv4Addr::new(127, own[0] | 1, own[1], own[2] % 254 + 1);
    let usable = TcpListener::bind((own, 0)).is_ok();
    let ip = if usable { own } else { Ipv4Addr::LOCALHOST };
    let bound = (0..count)
        .map(|_| TcpListener::bind((ip, 0)).context("finding a free port"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let addresses = bound.iter().map(|listener| listener.local_addr());
    Ok(addresses.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_net_holds_together_and_is_never_made_twice() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        let net = make(&dir, 4, None, EXAMPLE).unwrap();
        net.genesis.validate().unwrap();
        for i in 0..4 {
            let home = net.home(i);
            assert_eq!(home.genesis().unwrap(), net.genesis);
            assert_eq!(home.config().unwrap().peers.len(), 3);
            let key = home.keys().unwrap().consensus.public();
            assert_eq!(net.genesis.validators.index_of(&key), Some(i as u16));
        }
        let issuer = KeyFile::read(&net.key_file("issuer-1")).unwrap();
        let number = issuer.number.unwrap() as usize;
        assert_eq!(net.genesis.persons[number].key, issuer.public);
        assert!(
            make(&dir, 4, None, EXAMPLE)
                .unwrap_err()
                .to_string()
                .contains("not empty")
        );
    }

    #[test]
    fn ports_follow_the_base() {
        let listen = addresses(2, Some(30_000)).unwrap();
        assert_eq!(listen[1].grpc.port(), 30_004);
        assert!(addresses(2, Some(u16::MAX)).is_err());
    }
}
