//! What `config.toml` says of checkpoints: how often, and who is asked to
//! cosign them.

use serde::{Deserialize, Serialize};
use tally_ledger::note::{KeyType, VerifierKey};

use super::ConfigError;
use crate::web::is_url;

/// Checkpoints of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// The first block of every period of so many ms of block time is
    /// signed. The same on all validators, or they sign different heads.
    pub period_ms: u64,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { period_ms: 10_000 }
    }
}

/// An outside party that is asked to cosign checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Where it listens; checkpoints are posted to `URL/add-checkpoint`.
    pub url: String,
    /// Its verifier key, `name+id+base64`, of type 0x04.
    #[serde(with = "text")]
    pub key: VerifierKey,
}

/// Most witnesses: their lines and those of all validators fit into a note.
const MOST: usize = 32;

/// Values that are written as their text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        value: &impl Display,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Checks that each can be asked, and is a party of its own.
pub(super) fn validate(witnesses: &[Witness]) -> Result<(), ConfigError> {
    for (i, Witness { url, key }) in witnesses.iter().enumerate() {
        let others = &witnesses[..i];
        let why = if i >= MOST {
            "is one more than 32"
        } else if !is_url(url) {
            "url is neither http:// nor https:// with a host"
        } else if key.kind() != KeyType::Cosignature {
            "key is no witness's (type 0x04)"
        } else if others.iter().any(|other| other.key.key() == key.key()) {
            "key is another witness's"
        } else {
            continue;
        };
        let name = key.name().to_owned();
        return Err(ConfigError::Witness { name, why });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tally_ledger::crypto::SecretKey;

    use super::*;

    fn witness(url: &str, kind: KeyType, seed: u8) -> Witness {
        let key = SecretKey::from_seed(&[seed; 32]).public();
        Witness {
            url: url.into(),
            key: VerifierKey::new("council.example/w1", kind, key).unwrap(),
        }
    }

    #[test]
    fn a_witness_has_an_address_and_a_key_of_its_own() {
        let good = witness("https://council.example/tally", KeyType::Cosignature, 1);
        let other = witness("http://127.0.0.1:7380", KeyType::Cosignature, 2);
        assert!(validate(&[good.clone(), other]).is_ok());
        let many = |i| witness("http://127.0.0.1:7380", KeyType::Cosignature, i);
        assert!(validate(&(0..32).map(many).collect::<Vec<_>>()).is_ok());
        let refused = [
            (0..33).map(many).collect(),
            vec![witness("council.example", KeyType::Cosignature, 1)],
            vec![witness("ftp://council.example", KeyType::Cosignature, 1)],
            vec![witness("https://council.example", KeyType::Ed25519, 1)],
            vec![good.clone(), good.clone()],
        ];
        for witnesses in refused {
            let error = validate(&witnesses).unwrap_err().to_string();
            assert!(error.starts_with("witness council.example/w1: "), "{error}");
        }
        let text = toml::to_string(&good).unwrap();
        assert_eq!(toml::from_str::<Witness>(&text).unwrap(), good);
        assert!(toml::from_str::<Witness>(&text.replace('+', "-")).is_err());
    }
}
