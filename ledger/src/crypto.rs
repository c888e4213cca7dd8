//! Signatures: ed25519, `verify_strict` everywhere, and a domain and the
//! chain id inside every signed message, so nothing signed for one purpose
//! or chain can be shown for another.
//!
//! Signed message = `u8` length of domain, domain, chain id (32), bytes.
//!
//! The same keys sign logins: the text of a JWT ([`SecretKey::sign_jws`]), and
//! in a handshake of TLS. Neither can be a signed message of the ledger: one
//! begins with a character of base64url (45 or more), the other with a space
//! (32), a signed message with the length of its domain (below 32).
//!
//! Notes ([`crate::note`]) are signed without a domain as well: their form is
//! fixed by others, names the chain in its first line, and has keys of its own.

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::hash::{
    Hash, Hex, HexError, deserialize_bytes32, parse_hex, serialize_bytes32, write_hex,
};

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A transaction's body.
    Transaction,
    /// A Lease's body, by the API key on whose behalf it is taken.
    ApiKeyLease,
    /// A prevote.
    Prevote,
    /// A precommit; certificates are made of these.
    Precommit,
    /// A proposal.
    Proposal,
    /// The engine's proof that a peer speaks for a validator.
    PeerProof,
}

impl Domain {
    /// All of them.
    pub const ALL: [Domain; 6] = [
        Domain::Transaction,
        Domain::ApiKeyLease,
        Domain::Prevote,
        Domain::Precommit,
        Domain::Proposal,
        Domain::PeerProof,
    ];

    /// The domain string.
    pub const fn name(self) -> &'static str {
        match self {
            Domain::Transaction => "tally/v1/tx",
            Domain::ApiKeyLease => "tally/v1/apikey-lease",
            Domain::Prevote => "tally/v1/prevote",
            Domain::Precommit => "tally/v1/precommit",
            Domain::Proposal => "tally/v1/proposal",
            Domain::PeerProof => "tally/v1/peer-proof",
        }
    }

    /// The exact bytes that are signed for `bytes` on `chain`.
    pub fn message(self, chain: &ChainId, bytes: &[u8]) -> Vec<u8> {
        let name = self.name().as_bytes();
        let mut message = Vec::with_capacity(1 + name.len() + 32 + bytes.len());
        message.push(name.len() as u8);
        message.extend_from_slice(name);
        message.extend_from_slice(&chain.0.0);
        message.extend_from_slice(bytes);
        message
    }
}

/// The hash of the canonical genesis bytes: two chains of equal names never
/// share it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Hash);

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A public key: 32 bytes. May be no curve point; then nothing verifies.
/// Lower-case hex in text formats.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes32(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_bytes32(deserializer).map(PublicKey)
    }
}

impl PublicKey {
    /// Decompresses the key once, for repeated checks. `None` if the bytes
    /// are no valid, full-order point.
    pub fn verifier(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.0)
            .ok()
            .filter(|key| !key.is_weak())
    }

    /// Checks a signature over `bytes` in `domain` on `chain`, strictly.
    pub fn verify(
        &self,
        domain: Domain,
        chain: &ChainId,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool {
        self.verifier().is_some_and(|key| {
            let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
            key.verify_strict(&domain.message(chain, bytes), &signature)
                .is_ok()
        })
    }

    /// Checks a signature over what a note signs, strictly.
    pub(crate) fn verify_note(&self, message: &[u8], signature: &Signature) -> bool {
        self.verifier().is_some_and(|key| {
            let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
            key.verify_strict(message, &signature).is_ok()
        })
    }
}

impl PublicKey {
    /// Checks a signature over the signing input of a JWS (RFC 7515, section
    /// 5.2; EdDSA: RFC 8037), strictly.
    pub fn verify_jws(&self, input: &str, signature: &Signature) -> bool {
        is_jws(input)
            && self.verifier().is_some_and(|key| {
                let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
                key.verify_strict(input.as_bytes(), &signature).is_ok()
            })
    }
}

/// Whether a text begins as the signing input of a JWS does: with base64url of
/// `{"`. So it is no signed message of any [`Domain`].
fn is_jws(input: &str) -> bool {
    input.starts_with("ey")
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..6])
    }
}

impl FromStr for PublicKey {
    type Err = HexError;
    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(PublicKey)
    }
}

/// An ed25519 signature: 64 bytes. Lower-case hex in text formats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..6])
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(&Hex(&self.0));
        }
        let (r, s) = self.0.split_at(32);
        let halves: ([u8; 32], [u8; 32]) = (
            r.try_into().expect("a half has 32 bytes"),
            s.try_into().expect("a half has 32 bytes"),
        );
        halves.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return parse_hex(&text).map(Signature).map_err(D::Error::custom);
        }
        let (r, s) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let bytes = [r, s].concat();
        Ok(Signature(
            bytes.try_into().map_err(|_| D::Error::custom("64 bytes"))?,
        ))
    }
}

/// A signing key; zeroised on drop, never printed.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` in `domain` on `chain`.
    pub fn sign(&self, domain: Domain, chain: &ChainId, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&domain.message(chain, bytes)).to_bytes())
    }

    /// Signs the signing input of a JWS, `base64url(header).base64url(claims)`;
    /// `None` if it is none: nothing else is ever signed without a domain.
    pub fn sign_jws(&self, input: &str) -> Option<Signature> {
        is_jws(input).then(|| Signature(self.0.sign(input.as_bytes()).to_bytes()))
    }

    /// Signs what a note signs.
    pub(crate) fn sign_note(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl Clone for SecretKey {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_for_one_domain_one_chain_one_message() {
        let key = SecretKey::from_seed(&[7; 32]);
        let chain = ChainId(Hash([1; 32]));
        let signature = key.sign(Domain::Prevote, &chain, b"x");
        let public = key.public();
        assert!(public.verify(Domain::Prevote, &chain, b"x", &signature));
        assert!(!public.verify(Domain::Precommit, &chain, b"x", &signature));
        assert!(!public.verify(Domain::Prevote, &ChainId(Hash([2; 32])), b"x", &signature));
        assert!(!public.verify(Domain::Prevote, &chain, b"y", &signature));
    }

    #[test]
    fn what_logs_in_is_never_a_signed_message() {
        let key = SecretKey::from_seed(&[7; 32]);
        let (public, chain) = (key.public(), ChainId(Hash([1; 32])));
        let input = "eyJhbGciOiJFZERTQSJ9.e30";
        let signature = key.sign_jws(input).unwrap();
        assert!(public.verify_jws(input, &signature));
        assert!(!public.verify_jws("eyJhbGciOiJFZERTQSJ9.e31", &signature));
        assert!(!PublicKey([0; 32]).verify_jws(input, &signature));
        for domain in Domain::ALL {
            // Neither base64url nor the space that TLS 1.3 begins with (RFC
            // 8446, section 4.4.3), nor the type of a first message of TLS 1.2.
            assert!((2..32).contains(&domain.name().len()), "{domain:?}");
            let message = domain.message(&chain, b"ey");
            assert_eq!(usize::from(message[0]), domain.name().len());
            assert!(!public.verify(domain, &chain, b"ey", &signature));
            let text = String::from_utf8_lossy(&message);
            assert_eq!(key.sign_jws(&text), None);
        }
    }

    #[test]
    fn text_formats_carry_hex_and_the_encoding_bytes() {
        let key = SecretKey::from_seed(&[7; 32]);
        let signature = key.sign(Domain::Prevote, &ChainId::default(), b"");
        let value = (key.public(), signature, ChainId(Hash([0xab; 32])));
        let text = serde_json::to_string(&value).unwrap();
        assert!(text.contains(&"ab".repeat(32)), "{text}");
        assert_eq!(
            serde_json::from_str::<(PublicKey, Signature, ChainId)>(&text).unwrap(),
            value
        );
        assert_eq!(crate::codec::encode(&value).len(), 128);
    }

    #[test]
    fn weak_and_broken_keys_verify_nothing() {
        let signature = Signature([0; 64]);
        for key in [[0; 32], [0xff; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert!(!PublicKey(key).verify(Domain::Prevote, &ChainId::default(), b"", &signature));
        }
    }
}
