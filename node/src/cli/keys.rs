//! Key files: a secret seed in a file that only its owner can read (0600),
//! and a public file to hand to others.
//!
//! ```toml
//! kind = "person"      # person, gateway, account, api-key or witness
//! number = 3           # as the ledger numbers it; absent until it is known
//! public = "..."       # 64 hex digits
//! seed = "..."         # 64 hex digits; only in the secret file
//! ```

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tally_ledger::{
    crypto::{PublicKey, SecretKey},
    transaction::{Author, AuthorKind},
};
use zeroize::Zeroizing;

use super::kind::{self, Kind};

/// What signs with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyKind {
    /// A person with a role: issuer, admin, validator owner, auditor.
    Person,
    /// An inference gateway.
    Gateway,
    /// The holder of an account.
    Account,
    /// An API key of an account.
    ApiKey,
    /// A witness of checkpoints; the ledger does not know it.
    Witness,
}

impl KeyKind {
    /// As bodies name it; `None` for who signs no transaction.
    pub(crate) fn author_kind(self) -> Option<AuthorKind> {
        match self {
            KeyKind::Person => Some(AuthorKind::Person),
            KeyKind::Gateway => Some(AuthorKind::Gateway),
            KeyKind::Account => Some(AuthorKind::Account),
            KeyKind::ApiKey => Some(AuthorKind::ApiKey),
            KeyKind::Witness => None,
        }
    }

    /// As files and command lines name it.
    pub(crate) fn name(self) -> &'static str {
        self.author_kind().map_or("witness", AuthorKind::name)
    }
}

/// A key file, secret or public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFile {
    /// What signs with it.
    pub(crate) kind: KeyKind,
    /// Its number among its kind, once the ledger has given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) number: Option<u32>,
    /// The public half.
    pub(crate) public: PublicKey,
    /// The secret; absent in public files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<Seed>,
}

/// A secret seed; wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Seed(String);

impl Drop for Seed {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// 32 bytes from the operating system.
pub(crate) fn random_seed() -> Zeroizing<[u8; 32]> {
    let mut seed = Zeroizing::new([0; 32]);
    rand::rngs::OsRng.fill_bytes(seed.as_mut());
    seed
}

impl KeyFile {
    /// A fresh key.
    pub(crate) fn generate(kind: KeyKind) -> Self {
        Self::from_seed(kind, &random_seed())
    }

    /// The key of a seed.
    pub(crate) fn from_seed(kind: KeyKind, seed: &[u8; 32]) -> Self {
        let public = SecretKey::from_seed(seed).public();
        let seed = Some(Seed(hex::encode(seed)));
        KeyFile {
            kind,
            number: None,
            public,
            seed,
        }
    }

    /// The same without the secret.
    pub(crate) fn public_part(&self) -> Self {
        KeyFile {
            seed: None,
            ..self.clone()
        }
    }

    /// The secret key; says what to do if this is only the public file.
    pub(crate) fn secret(&self) -> anyhow::Result<SecretKey> {
        let seed = self
            .seed
            .as_ref()
            .context("this is a public key file: give the secret one")?;
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(&seed.0, bytes.as_mut()).context("`seed` must be 64 hex digits")?;
        let secret = SecretKey::from_seed(&bytes);
        ensure!(
            secret.public() == self.public,
            "`seed` and `public` do not belong together"
        );
        Ok(secret)
    }

    /// Who signs with it.
    pub(crate) fn author(&self) -> Option<Author> {
        let kind = self.kind.author_kind()?;
        self.number.map(|number| Author { kind, number })
    }

    /// Reads a secret or public file. A secret file that others can read is
    /// refused: its secret is no secret.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let at = || format!("key file {}", path.display());
        let text = Zeroizing::new(kind::text(path, Kind::Key)?);
        // toml's own message quotes the line, which may hold the seed.
        let key: KeyFile = toml::from_str(&text)
            .map_err(|e| kind::misread(path, text.as_bytes(), Kind::Key, e.message()))?;
        if key.seed.is_some() {
            let mode = fs::metadata(path).with_context(at)?.permissions().mode();
            if mode & 0o077 != 0 {
                bail!(
                    "{}: others may read it (mode {:o}); run: chmod 600 {}",
                    at(),
                    mode & 0o777,
                    path.display()
                );
            }
            key.secret().with_context(at)?;
        }
        Ok(key)
    }

    /// Writes a new file, 0600 if it holds the secret. Never overwrites.
    pub(crate) fn write_new(&self, path: &Path) -> anyhow::Result<()> {
        let secret = self.seed.is_some();
        let text = Zeroizing::new(format!("{}{}", self.header(), toml::to_string(self)?));
        write_new_file(path, text.as_bytes(), if secret { 0o600 } else { 0o644 })
    }

    /// Sets the number in an existing secret file, atomically.
    pub(crate) fn set_number(path: &Path, number: u32) -> anyhow::Result<()> {
        let mut key = Self::read(path)?;
        key.number = Some(number);
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        key.write_new(&temporary)?;
        fs::rename(&temporary, path).with_context(|| format!("renaming to {}", path.display()))
    }

    fn header(&self) -> &'static str {
        match self.seed {
            Some(_) => "# Secret key. Whoever reads it can sign in its owner's name.\n",
            None => "# Public key: may be handed to anybody.\n",
        }
    }
}

/// Writes a file that must not exist yet and makes it durable.
pub(crate) fn write_new_file(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let at = || format!("writing {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    if let Err(error) = &file
        && error.kind() == io::ErrorKind::AlreadyExists
    {
        bail!(
            "{} is there already and is not overwritten: name another file, or move it away",
            path.display()
        );
    }
    let mut file = file.with_context(at)?;
    file.write_all(bytes).with_context(at)?;
    file.sync_all().with_context(at)
}

/// Where a secret file's public counterpart goes: `a.key` -> `a.pub`.
pub(crate) fn public_path(secret: &Path) -> PathBuf {
    secret.with_extension("pub")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_back_and_others_may_not_read_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        let key = KeyFile::generate(KeyKind::Person);
        key.write_new(&path).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap(), key);
        assert!(key.write_new(&path).is_err(), "never overwrites");
        KeyFile::set_number(&path, 4).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap().author().unwrap().number, 4);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(
            KeyFile::read(&path)
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
        let public = public_path(&path);
        key.public_part().write_new(&public).unwrap();
        let read = KeyFile::read(&public).unwrap();
        assert!(read.secret().is_err() && read.public == key.public);
        assert!(!fs::read_to_string(public).unwrap().contains("seed"));
    }

    #[test]
    fn a_seed_that_does_not_fit_is_refused_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        let seed = "ab".repeat(32);
        let text = format!(
            "kind = \"person\"\npublic = \"{}\"\nseed = \"{seed}\"\n",
            "cd".repeat(32)
        );
        write_new_file(&path, text.as_bytes(), 0o600).unwrap();
        let error = format!("{:#}", KeyFile::read(&path).unwrap_err());
        assert!(
            error.contains("belong together") && !error.contains(&seed),
            "{error}"
        );
        let key = KeyFile::generate(KeyKind::Gateway);
        assert!(format!("{key:?}").contains("Seed(..)"));
    }
}
