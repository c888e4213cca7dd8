//! `[rates]`: how much per minute this gateway lets in at most, beside its
//! share of what the chain's parameters say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// A limit per minute; absent: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    /// Requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// LLM tokens, of input and output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
}

/// This gateway's own limits; where the chain has one too the lower holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// Whoever sends requests here sends all of them here: a load balancer
    /// keeps each account on one gateway. Then the chain's limits of keys and
    /// accounts are not divided by the number of gateways.
    pub sticky: bool,
    /// Of each API key.
    pub key: Rate,
    /// Of each account, over all its keys.
    pub account: Rate,
    /// Of each class by its name, over all accounts.
    pub class: BTreeMap<String, Rate>,
}

impl Rate {
    /// Whether it limits nothing.
    pub fn is_none(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }
}

impl Rates {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let mut all = [&self.key, &self.account]
            .into_iter()
            .chain(self.class.values());
        if all.any(|rate| rate.requests == Some(0) || rate.tokens == Some(0)) {
            return Err(ConfigError::Value {
                field: "rates",
                why: "a limit must be above 0; leave it out for none".to_owned(),
            });
        }
        Ok(())
    }
}
