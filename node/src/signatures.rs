//! Remembers which signatures were found good, so that each is checked once:
//! on admission, and not again when its block is built or voted on.
//!
//! The key is a hash of everything that the check depends on (key, domain,
//! chain, signed bytes, signature): what is remembered is exactly what
//! `verify_strict` said. Bad ones are not remembered.

use std::{collections::HashSet, sync::Mutex};

use tally_ledger::{
    crypto::{ChainId, Domain, PublicKey, Signature},
    execute::SignatureCheck,
};

/// Signatures of one generation; two are kept.
const GENERATION: usize = 100_000;

/// A bounded memory of good signatures.
#[derive(Debug, Default)]
pub struct SignatureCache(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
}

impl Generations {
    fn add(&mut self, key: [u8; 32]) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

impl SignatureCache {
    fn locked(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.0.lock().expect("nobody panics while it is locked")
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let generations = self.locked();
        generations.young.len() + generations.old.len()
    }
}

impl SignatureCheck for SignatureCache {
    fn verify(
        &self,
        key: &PublicKey,
        domain: Domain,
        chain: &ChainId,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool {
        // All but the last are of fixed length or named by a fixed set.
        let mut hasher = blake3::Hasher::new_derive_key("tally v1 node signature cache");
        hasher.update(&key.0);
        hasher.update(&signature.0);
        hasher.update(&chain.0.0);
        hasher.update(&[domain.name().len() as u8]);
        hasher.update(domain.name().as_bytes());
        hasher.update(bytes);
        let name = *hasher.finalize().as_bytes();
        {
            let generations = self.locked();
            if generations.young.contains(&name) || generations.old.contains(&name) {
                return true;
            }
        }
        let good = key.verify(domain, chain, bytes, signature);
        if good {
            self.locked().add(name);
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{crypto::SecretKey, hash::Hash};

    use super::*;

    #[test]
    fn only_exactly_what_was_good_is_remembered() {
        let cache = SignatureCache::default();
        let (key, other) = (
            SecretKey::from_seed(&[1; 32]),
            SecretKey::from_seed(&[2; 32]),
        );
        let (chain, no_chain) = (ChainId(Hash([3; 32])), ChainId::default());
        let signature = key.sign(Domain::Transaction, &chain, b"x");
        for _ in 0..2 {
            let verify = |key: &SecretKey, domain, chain, bytes: &[u8]| {
                cache.verify(&key.public(), domain, chain, bytes, &signature)
            };
            assert!(verify(&key, Domain::Transaction, &chain, b"x"));
            assert!(!verify(&other, Domain::Transaction, &chain, b"x"));
            assert!(!verify(&key, Domain::ApiKeyLease, &chain, b"x"));
            assert!(!verify(&key, Domain::Transaction, &no_chain, b"x"));
            assert!(!verify(&key, Domain::Transaction, &chain, b"y"));
        }
        assert_eq!(cache.len(), 1);
    }
}
