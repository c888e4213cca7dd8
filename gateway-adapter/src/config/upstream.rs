//! `[[upstream]]` and `[priority]`: the inference engines, how many requests
//! each works at, and what a place in their queues costs.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use tally_ledger::{ids::Amount, price::MAX_FEE};

use super::ConfigError;

/// An inference engine, or a provider with the same API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Up to the `/v1`, such as `http://127.0.0.1:8000`.
    pub url: String,
    /// Models that it serves, as the price table names them.
    pub models: Vec<String>,
    /// What it calls them, where that differs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub model_names: BTreeMap<String, String>,
    /// File with the bearer to send; else none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<PathBuf>,
    /// Whose it is, as metrics name it (`gen_ai.provider.name`): such as
    /// `openai` for the provider of that name.
    #[serde(default = "default_provider")]
    pub provider: String,
    /// Largest output of one answer: used where a request names none, and
    /// never exceeded. Of several upstreams of a model the smallest counts.
    #[serde(default = "default_max_output")]
    pub max_output: u32,
    /// Requests that it works at; more wait here, by their fees. Absent: as
    /// many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Most requests that wait; more are refused. Neither those with a fee nor
    /// those without fill more than three quarters of it, and one account
    /// alone half without fees.
    #[serde(default = "default_queue")]
    pub queue: u32,
    /// Set `priority` so that the engine keeps the same order (vLLM with
    /// `--scheduling-policy priority`; without it vLLM refuses the field).
    #[serde(default)]
    pub priority: bool,
    /// Path that answers 200 while the engine is well, such as `/health`:
    /// asked every few seconds. Absent: only requests tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Set `request_id` to the hold's id (vLLM honours it).
    #[serde(default)]
    pub request_id: bool,
    /// Ask for usage on every chunk (vLLM's `continuous_usage_stats`), so
    /// that a stream that breaks off is charged exactly.
    #[serde(default)]
    pub continuous_usage: bool,
    /// Whether the engine counts a prompt when asked; only done near the end
    /// of a balance.
    #[serde(default)]
    pub tokenize: Tokenize,
}

/// How an engine is asked how many tokens a prompt has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenize {
    /// Not at all: the bound from the prompt's bytes is what there is.
    #[default]
    None,
    /// `POST /tokenize` beside the `/v1`, with the chat's own fields; the
    /// answer has a `count`.
    Vllm,
}

/// What a place in the queue costs. Which classes may pay, how much, and what
/// a second of waiting is worth are on the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Priority {
    /// Where the fee unit was before it was on the chain: refused, with what
    /// to do instead.
    #[serde(skip_serializing)]
    pub unit: Option<Amount>,
    /// The fee of a request with `service_tier: "priority"`; absent: that
    /// field buys nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier_fee: Option<Amount>,
}

fn default_provider() -> String {
    "self_hosted".to_owned()
}

fn default_max_output() -> u32 {
    4_096
}

fn default_queue() -> u32 {
    256
}

fn wrong<T>(field: &'static str, why: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Value {
        field,
        why: why.to_owned(),
    })
}

impl Upstream {
    /// An upstream with defaults for all that has one.
    pub fn new(url: impl Into<String>, models: Vec<String>) -> Self {
        Upstream {
            url: url.into(),
            models,
            model_names: BTreeMap::new(),
            bearer: None,
            provider: default_provider(),
            max_output: default_max_output(),
            concurrency: None,
            queue: default_queue(),
            priority: false,
            health: None,
            request_id: false,
            continuous_usage: false,
            tokenize: Tokenize::None,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let host = self.url.parse::<http::Uri>().ok();
        let good = host.is_some_and(|uri| {
            uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
        });
        if !good {
            return wrong("upstream.url", "must be http://host:port or https://host");
        }
        if self.url.contains('@') {
            return wrong("upstream.url", "names no user: set upstream.bearer");
        }
        if self.models.is_empty() || self.max_output == 0 {
            return wrong("upstream", "needs models and a max_output above 0");
        }
        let other = |name: &&String| !self.models.contains(name);
        if let Some(name) = self.model_names.keys().find(other) {
            let why = format!("`{name}` is not among its models");
            return wrong("upstream.model_names", &why);
        }
        if self
            .concurrency
            .is_some_and(|most| !(1..=1_000_000).contains(&most))
        {
            return wrong("upstream.concurrency", "must be between 1 and 1000000");
        }
        if self.queue > 1_000_000 {
            return wrong("upstream.queue", "must be between 0 and 1000000");
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        if !(1..=64).contains(&self.provider.len()) || !self.provider.chars().all(plain) {
            let why = "must be 1 to 64 of a-z, 0-9, `.`, `_` and `-`";
            return wrong("upstream.provider", why);
        }
        let path = |path: &String| path.starts_with('/') && path.parse::<http::Uri>().is_ok();
        if !self.health.as_ref().is_none_or(path) {
            return wrong("upstream.health", "must be a path such as /health");
        }
        Ok(())
    }
}

impl Priority {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(unit) = self.unit {
            let why = format!(
                "is a parameter of the chain now: delete this line; admins set it for all \
                 gateways with `tally parameter set-rates fee_unit={unit}`, see `tally parameter show`"
            );
            return wrong("priority.unit", &why);
        }
        if self.service_tier_fee.is_some_and(|fee| fee.0 >= MAX_FEE) {
            return wrong("priority.service_tier_fee", "must be below 2^62 micro-CT");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        let whole: Upstream = toml::from_str(
            r#"
            url = "https://api.example"
            models = ["tally-base"]
            model_names = { "tally-base" = "provider-name" }
            concurrency = 8
            queue = 0
            priority = true
            health = "/health?x=1"
            "#,
        )
        .unwrap();
        whole.validate().unwrap();
        let written = toml::to_string(&whole).unwrap();
        assert_eq!(toml::from_str::<Upstream>(&written).unwrap(), whole);
        type Change = fn(&mut Upstream);
        let changes: [(&str, Change); 6] = [
            ("upstream.url", |u| u.url = "http://user:pw@host".into()),
            ("upstream.provider", |u| u.provider = "Some One".into()),
            ("upstream.model_names", |u| u.models = vec!["other".into()]),
            ("upstream.concurrency", |u| u.concurrency = Some(0)),
            ("upstream.queue", |u| u.queue = 2_000_000),
            ("upstream.health", |u| u.health = Some("health".into())),
        ];
        for (field, change) in changes {
            let mut upstream = whole.clone();
            change(&mut upstream);
            let error = upstream.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn fees_are_decimal_ct() {
        let priority: Priority = toml::from_str("service_tier_fee = \"0.5\"").unwrap();
        assert_eq!(priority.service_tier_fee, Some(Amount(500_000)));
        assert!(priority.validate().is_ok());
        assert!(toml::from_str::<Priority>("service_tier_fee = 0.5").is_err());
    }

    #[test]
    fn a_fee_unit_of_before_says_where_it_is_now() {
        let old: Priority = toml::from_str("unit = \"0.01\"").unwrap();
        let error = old.validate().unwrap_err().to_string();
        assert!(error.contains("priority.unit"), "{error}");
        assert!(error.contains("set-rates fee_unit=0.010000"), "{error}");
    }
}
