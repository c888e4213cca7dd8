//! A node's home: one folder with all that it has.
//!
//! ```text
//! HOME/config.toml          addresses and limits (NodeConfig)
//! HOME/genesis.json         the start of the chain, the same for all
//! HOME/keys.toml            0600: seeds of the consensus, checkpoint and
//!                           network key
//! HOME/unsigned             present until the first start: the consensus key
//!                           was generated here and has signed nothing
//! HOME/holds.json           legal holds; holds.lock beside it
//! HOME/privacy.log          holds and what was dropped, only appended to
//! HOME/consensus/guard      what this validator signed last
//! HOME/consensus/...        the engine's log and undecided blocks
//! HOME/checkpoints/         what this validator signed of the log last, the
//!                           newest checkpoint
//! HOME/access/              who asked for what, bounded; not needed to run
//! HOME/data/blocks/         the truth: blocks with their certificates
//! HOME/data/erasures        accounts erased on the chain, and which are done
//! HOME/data/log/            the log's entries and hashes, rebuildable
//! HOME/data/index/          sled, rebuildable
//! HOME/data/snapshots/      states at fixed heights, rebuildable
//! HOME/data/evidence/       what validators were seen to sign twice, until
//!                           the chain has it
//! HOME/data/lock            held while a node runs on this home
//! ```
//!
//! A guard file is made in one way only: at the first start after the key
//! was generated, from `unsigned`, which goes away before anything is signed.
//! A key that came from elsewhere has no `unsigned`, and its node observes
//! until it is safe to vote.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rand::RngCore;
use serde::{Deserialize, Serialize};
use tally_consensus::Guard;
use tally_ledger::{
    crypto::{ChainId, PublicKey, SecretKey},
    genesis::Genesis,
};
use zeroize::Zeroizing;

use crate::config::{ConfigError, NodeConfig};

/// A node's home folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {why}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Others may read the keys.
    #[error("{0}: others may read it; run: chmod 600 {0}")]
    Permissions(PathBuf),
    /// There is no home.
    #[error("{0} is no home of a node: it has no config.toml; `tally init` makes one")]
    None(PathBuf),
    /// Another process runs on this home.
    #[error("{0}: another node runs on this home")]
    InUse(PathBuf),
    /// `config.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The keys of a validator.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    /// Signs votes, proposals and the engine's peer proof.
    pub consensus: SecretKey,
    /// Signs checkpoints of the log.
    pub checkpoint: SecretKey,
    /// Identity of the transports.
    pub network: SecretKey,
}

/// `keys.toml`: seeds, as 64 hex digits.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    consensus: String,
    checkpoint: String,
    network: String,
}

impl Drop for KeysFile {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.consensus.zeroize();
        self.checkpoint.zeroize();
        self.network.zeroize();
    }
}

impl NodeKeys {
    /// Fresh keys from the operating system's randomness.
    pub fn generate() -> Self {
        let key = || {
            let mut seed = Zeroizing::new([0; 32]);
            rand::rngs::OsRng.fill_bytes(seed.as_mut());
            SecretKey::from_seed(&seed)
        };
        Self {
            consensus: key(),
            checkpoint: key(),
            network: key(),
        }
    }

    fn to_toml(&self) -> Zeroizing<String> {
        let hex = |key: &SecretKey| hex::encode(Zeroizing::new(key.seed()).as_ref());
        let file = KeysFile {
            consensus: hex(&self.consensus),
            checkpoint: hex(&self.checkpoint),
            network: hex(&self.network),
        };
        let text = toml::to_string(&file).expect("three texts have a text");
        Zeroizing::new(format!(
            "# Secret keys of this validator. Never copy them to a second one.\n{text}"
        ))
    }

    fn from_toml(text: &str) -> Result<Self, String> {
        let file: KeysFile = toml::from_str(text)
            .map_err(|_| "must name consensus, checkpoint, network".to_owned())?;
        let key = |name: &str, text: &str| {
            let mut seed = Zeroizing::new([0; 32]);
            hex::decode_to_slice(text, seed.as_mut())
                .map_err(|_| format!("{name} must be 64 hex digits"))?;
            Ok::<_, String>(SecretKey::from_seed(&seed))
        };
        Ok(Self {
            consensus: key("consensus", &file.consensus)?,
            checkpoint: key("checkpoint", &file.checkpoint)?,
            network: key("network", &file.network)?,
        })
    }
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, HomeError> {
    result.map_err(|error| HomeError::File {
        path: path.into(),
        error,
    })
}

/// Makes created, renamed and removed files of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a file that must not exist yet, durably.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), HomeError> {
    let options = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
    };
    let mut file = at(path, options())?;
    at(path, file.write_all(bytes).and_then(|()| file.sync_all()))
}

impl Home {
    /// The home at this folder, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// `config.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// `genesis.json`.
    pub fn genesis_file(&self) -> PathBuf {
        self.0.join("genesis.json")
    }

    /// `keys.toml`.
    fn keys_file(&self) -> PathBuf {
        self.0.join("keys.toml")
    }

    /// Folder of the engine's log, the guard and undecided blocks.
    pub fn consensus(&self) -> PathBuf {
        self.0.join("consensus")
    }

    /// The guard file.
    fn guard_file(&self) -> PathBuf {
        self.consensus().join("guard")
    }

    /// Folder of everything that grows with the chain.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Folder of what was signed of the log, and of checkpoints. It is no part
    /// of `data`: it outlives a history that is fetched again.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    fn unsigned_file(&self) -> PathBuf {
        self.0.join("unsigned")
    }

    /// Makes a new home (the folder may exist, with nothing of ours in it)
    /// with fresh keys, and marks that they have signed nothing.
    pub fn init(&self) -> Result<NodeKeys, HomeError> {
        for folder in [self.0.clone(), self.consensus(), self.data()] {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder);
            at(&folder, made)?;
        }
        let keys = NodeKeys::generate();
        if self.keys_file().exists() {
            let (path, why) = (
                self.keys_file(),
                "is there already and is never overwritten: choose another folder".to_owned(),
            );
            return Err(HomeError::Form { path, why });
        }
        write_new(&self.keys_file(), keys.to_toml().as_bytes(), 0o600)?;
        let public = format!("{}\n", keys.consensus.public());
        write_new(&self.unsigned_file(), public.as_bytes(), 0o600)?;
        at(&self.0, sync_folder(&self.0))?;
        Ok(keys)
    }

    /// Writes `config.toml`; replaces one that exists.
    pub fn write_config(&self, config: &NodeConfig) -> Result<(), HomeError> {
        config.validate()?;
        self.replace(&self.config_file(), config.to_toml().as_bytes())
    }

    /// Writes `genesis.json`; replaces one that exists.
    pub fn write_genesis(&self, genesis: &Genesis) -> Result<(), HomeError> {
        let text = serde_json::to_string_pretty(genesis).expect("plain values have a text");
        self.replace(&self.genesis_file(), format!("{text}\n").as_bytes())
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
        let temporary = path.with_extension("new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => at(&temporary, Err(error))?,
            _ => {}
        }
        write_new(&temporary, bytes, 0o644)?;
        at(path, fs::rename(&temporary, path))?;
        at(&self.0, sync_folder(&self.0))
    }

    /// Reads `config.toml`.
    pub fn config(&self) -> Result<NodeConfig, HomeError> {
        if matches!(self.config_file().try_exists(), Ok(false)) {
            return Err(HomeError::None(self.0.clone()));
        }
        Ok(NodeConfig::read(&self.config_file())?)
    }

    /// Reads `genesis.json` and validates it.
    pub fn genesis(&self) -> Result<Genesis, HomeError> {
        let path = self.genesis_file();
        if self.config_file().exists() && matches!(path.try_exists(), Ok(false)) {
            let why = "is not there yet: `tally join` puts it into a home".to_owned();
            return Err(HomeError::Form { path, why });
        }
        let text = at(&path, fs::read_to_string(&path))?;
        let form = |why: String| HomeError::Form {
            path: path.clone(),
            why,
        };
        let genesis: Genesis = serde_json::from_str(&text).map_err(|e| form(e.to_string()))?;
        genesis.validate().map_err(|e| form(e.to_string()))?;
        Ok(genesis)
    }

    /// Reads `keys.toml`, which nobody else may read.
    pub fn keys(&self) -> Result<NodeKeys, HomeError> {
        let path = self.keys_file();
        let mode = at(&path, fs::metadata(&path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(HomeError::Permissions(path));
        }
        let text = Zeroizing::new(at(&path, fs::read_to_string(&path))?);
        NodeKeys::from_toml(&text).map_err(|why| HomeError::Form { path, why })
    }

    /// Makes the guard file, if the key was generated here and this is the
    /// first start. Must be done before anything is signed.
    pub fn prepare_guard(&self, chain: ChainId, key: PublicKey) -> Result<(), HomeError> {
        let unsigned = self.unsigned_file();
        let text = match fs::read_to_string(&unsigned) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => at(&unsigned, text)?,
        };
        if text.trim() != key.to_string() {
            let why = "names another key than keys.toml has; remove it".to_owned();
            return Err(HomeError::Form {
                path: unsigned,
                why,
            });
        }
        let guard = self.guard_file();
        if !guard.exists() {
            let folder = self.consensus();
            at(&folder, fs::create_dir_all(&folder))?;
            at(&guard, Guard::create(&folder, chain, key))?;
        }
        at(&unsigned, fs::remove_file(&unsigned))?;
        at(&self.0, sync_folder(&self.0))
    }

    /// Takes the home for this process, until the file is dropped.
    pub fn lock(&self) -> Result<File, HomeError> {
        let folder = self.data();
        at(&folder, fs::create_dir_all(&folder))?;
        let path = folder.join("lock");
        let open = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = at(&path, open)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(HomeError::InUse(self.0.clone())),
            Err(TryLockError::Error(error)) => at(&path, Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::hash::Hash;

    use super::*;

    const CHAIN: ChainId = ChainId(Hash([7; 32]));

    #[test]
    fn keys_read_back_and_must_be_private() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("a"));
        let keys = home.init().unwrap();
        let read = home.keys().unwrap();
        assert_eq!(read.consensus.seed(), keys.consensus.seed());
        assert_eq!(read.checkpoint.seed(), keys.checkpoint.seed());
        assert_eq!(read.network.seed(), keys.network.seed());
        assert!(home.init().is_err(), "never overwrites keys");
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(home.keys_file(), mode(0o644)).unwrap();
        assert!(matches!(home.keys(), Err(HomeError::Permissions(_))));
    }

    #[test]
    fn a_guard_is_made_once_and_only_for_a_key_that_was_made_here() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let key = home.init().unwrap().consensus.public();
        let other = NodeKeys::generate().consensus.public();
        assert!(home.prepare_guard(CHAIN, other).is_err());
        assert!(!home.guard_file().exists());
        home.prepare_guard(CHAIN, key).unwrap();
        assert!(
            Guard::open(&home.consensus(), CHAIN, key)
                .unwrap()
                .is_some()
        );
        fs::remove_file(home.guard_file()).unwrap();
        home.prepare_guard(CHAIN, key).unwrap();
        assert!(
            !home.guard_file().exists(),
            "a lost guard is not made again"
        );
    }

    #[test]
    fn a_home_is_for_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let lock = home.lock().unwrap();
        assert!(matches!(home.lock(), Err(HomeError::InUse(_))));
        drop(lock);
        home.lock().unwrap();
    }
}
