//! API keys as requests carry them, and as the chain knows them.
//!
//! A key is `tally-` and the 32-byte seed of an ed25519 key, as 64 hex digits
//! or 43 characters of URL-safe base64. The gateway keeps the seed in memory,
//! zeroised on drop, while the account has leases: renewals are signed by it
//! too. It is never logged; `Debug` shows the number only.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::Engine as _;
use tally_ledger::{
    crypto::{PublicKey, SecretKey},
    hash::Hash,
    ids::{ApiKeyNumber, ModelNumber, Time},
};
use zeroize::Zeroizing;

use crate::account::Account;

/// What every API key begins with.
pub const PREFIX: &str = "tally-";

/// Reads the seed of an API key.
pub fn parse(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let coded = text.strip_prefix(PREFIX)?;
    let mut seed = Zeroizing::new([0; 32]);
    match coded.len() {
        64 => hex::decode_to_slice(coded, seed.as_mut_slice()).ok()?,
        43 => {
            let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let length = engine.decode_slice(coded, seed.as_mut_slice()).ok()?;
            if length != 32 {
                return None;
            }
        }
        _ => return None,
    }
    Some(seed)
}

/// Writes a seed as an API key.
pub fn format(seed: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(format!("{PREFIX}{}", hex::encode(seed)))
}

/// Under which name a key is remembered: not the secret itself.
pub fn fingerprint(seed: &[u8; 32]) -> [u8; 32] {
    // The context is hashed once, not for each request.
    static CONTEXT: LazyLock<blake3::Hasher> =
        LazyLock::new(|| blake3::Hasher::new_derive_key("tally v1 api key fingerprint"));
    CONTEXT.clone().update(seed).finalize().into()
}

/// A key in use.
pub struct Key {
    /// Its number on the chain.
    pub number: ApiKeyNumber,
    /// Whose.
    pub account: Arc<Account>,
    /// Signs Leases.
    pub secret: SecretKey,
    /// Its public half.
    pub public: PublicKey,
    /// Models it may buy, ascending; empty: all.
    pub models: Vec<ModelNumber>,
    /// When it ends.
    pub expires: Time,
    /// It was revoked.
    pub revoked: AtomicBool,
    /// Hashes requests, so that only the key's holder can match one.
    pub request_key: [u8; 32],
}

impl Key {
    /// Whether it may buy `model`.
    pub fn buys(&self, model: ModelNumber) -> bool {
        self.models.is_empty() || self.models.binary_search(&model).is_ok()
    }

    /// Whether it may be used at `now`.
    pub fn is_live(&self, now: Time) -> bool {
        now < self.expires && !self.revoked.load(Ordering::Relaxed)
    }

    /// Whether it may be used by this machine's clock.
    pub fn is_live_now(&self) -> bool {
        self.is_live(Time(crate::clock::unix_ms()))
    }

    /// Keyed hash of a request's body.
    pub fn hash_request(&self, body: &[u8]) -> Hash {
        Hash(blake3::keyed_hash(&self.request_key, body).into())
    }

    /// Keyed hash of an Idempotency-Key. No request's body begins like this.
    pub fn hash_name(&self, name: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.request_key);
        hasher.update(b"idempotency-key\0").update(name);
        Hash(hasher.finalize().into())
    }

    /// The key for [`Key::hash_request`]: its holder can derive it too.
    pub fn request_key(seed: &[u8; 32]) -> [u8; 32] {
        blake3::derive_key("tally v1 request", seed)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.request_key);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_seed_under_its_context() {
        let seed = [7; 32];
        let plain = blake3::derive_key("tally v1 api key fingerprint", &seed);
        assert_eq!((fingerprint(&seed), fingerprint(&seed)), (plain, plain));
    }

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        let seed = [0xfb; 32];
        let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(seed);
        assert_eq!(*parse(&format(&seed)).unwrap(), seed);
        assert_eq!(*parse(&format!("tally-{base64}")).unwrap(), seed);
        for bad in ["", "tally-", "sk-00", &format(&seed)[..69], &base64] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
