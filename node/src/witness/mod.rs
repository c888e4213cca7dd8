//! A witness (C2SP tlog-witness) for one chain, to be run by somebody outside:
//! an external auditor, a works council. It cosigns a checkpoint only if a
//! quorum of the genesis's validators signed it and the log begins with the
//! one that it cosigned last, whoever asks.
//!
//! What it guarantees: what it answers is on disk before; it never goes back,
//! also after a crash at any moment, as long as its state file is not replaced
//! by an older one; it needs no node and believes none.

mod connections;
mod evidence;
mod pages;
mod state;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use tally_ledger::{
    checkpoint::LogKeys,
    crypto::SecretKey,
    genesis::Genesis,
    note::{KeyType, Note, NoteError, NoteSignature, VerifierKey},
    witness::{AddCheckpoint, Refused},
};

pub use pages::serve;
pub use state::StateFault;
use state::StateFile;

/// Why a witness gives no cosignature.
#[derive(Debug, thiserror::Error)]
pub enum NotCosigned {
    /// It must not.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Its state cannot be written: it must stop.
    #[error(transparent)]
    Fault(#[from] StateFault),
}

/// A witness.
#[derive(Debug)]
pub struct Witness {
    log: LogKeys,
    key: VerifierKey,
    secret: SecretKey,
    state: Mutex<StateFile>,
}

impl Witness {
    /// Opens a witness's state, which must be there, or with `new` must not:
    /// a witness without its memory would cosign a second history.
    pub fn open(
        path: &Path,
        genesis: &Genesis,
        name: &str,
        secret: SecretKey,
        new: bool,
    ) -> Result<Self, StateFault> {
        let key = verifier_key(name, &secret).map_err(|error| StateFault {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        let log = LogKeys::new(genesis);
        let state = StateFile::open(path, &log, &key, new)?;
        Ok(Self {
            log,
            key,
            secret,
            state: Mutex::new(state),
        })
    }

    /// Its verifier key, which others are told.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// The log that it watches.
    pub fn log(&self) -> &LogKeys {
        &self.log
    }

    /// The checkpoint that it cosigned last, with its own line and those of
    /// the validators.
    pub fn latest(&self) -> Option<Note> {
        self.state().latest().map(|signed| signed.note.clone())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, StateFile> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cosigns the checkpoint of a request's body, if that may be; `now` is in
    /// seconds since 1970. One at a time: between the look at the last
    /// checkpoint and the write of the next there is nobody else.
    pub fn add(&self, body: &[u8], now: u64) -> Result<NoteSignature, NotCosigned> {
        let request = AddCheckpoint::decode(body)?;
        let mut state = self.state();
        let last = state.latest().map(|signed| signed.checkpoint.clone());
        let note = request.checkpoint.clone();
        let signed = match request.check(&self.log, last.as_ref()) {
            Ok(signed) => signed,
            Err(refused @ Refused::Inconsistent { .. }) => {
                // A quorum signed it: perhaps a second history.
                state.keep_evidence(&note);
                return Err(refused.into());
            }
            Err(refused) => return Err(refused.into()),
        };
        // A clock that was set back does not take back what was said.
        let time = now.max(state.time()).max(1);
        let text = signed.note.text();
        let line = NoteSignature::cosign(self.key.name(), &self.secret, time, text);
        let line = line.expect("its own name is a name");
        let validators = signed.note.only(self.log.keys());
        let note = validators.and_then(|note| note.with(line.clone()));
        let note = note.expect("a quorum's lines and one more are a note");
        state.replace(note)?;
        Ok(line)
    }
}

/// The key that others know a witness by.
pub fn verifier_key(name: &str, secret: &SecretKey) -> Result<VerifierKey, NoteError> {
    VerifierKey::new(name, KeyType::Cosignature, secret.public())
}
