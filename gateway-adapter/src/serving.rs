//! What proxy and `MeteringService` share: keys, terms, holds.

use std::{sync::Arc, time::Duration};

use tally_ledger::{hash::Hash, ids::Amount, price::Usage};

use crate::{
    ask::{Ask, Need},
    chain::{light::Light, terms::Current},
    clock::arrival_ms,
    holds::Holds,
    key::{self, Key},
    metrics::Metrics,
    pool::Pool,
    refusal::Refusal,
};

/// The shared part.
#[derive(Debug)]
pub struct Serving {
    /// Keys and accounts in use.
    pub pool: Arc<Pool>,
    /// Prices, classes, parameters.
    pub terms: Arc<Current>,
    /// Makes and resolves holds.
    pub holds: Arc<Holds>,
    /// For the health page.
    pub light: Arc<Light>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How long leases are taken for.
    pub lease_time: Duration,
}

/// What a request says about itself, beside its body.
#[derive(Debug, Clone, Default)]
pub struct Wish<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Name of the class to buy with; empty: the account's order decides.
    pub class: &'a str,
    /// Priority fee.
    pub fee: Amount,
    /// Opaque project number.
    pub project: u32,
    /// Opaque purpose number.
    pub purpose: u32,
    /// Keyed hash of the request.
    pub request: Hash,
    /// Answers to generate.
    pub choices: u32,
}

impl Serving {
    /// The key behind a bearer.
    pub async fn key(&self, bearer: &str) -> Result<Arc<Key>, Refusal> {
        let seed = key::parse(bearer).ok_or(Refusal::MissingKey)?;
        self.pool.key(&seed).await
    }

    /// Prices a request.
    pub fn ask(
        &self,
        key: Arc<Key>,
        wish: &Wish<'_>,
        need: impl FnOnce(&tally_ledger::price::Model) -> Result<(Need, Option<Usage>), Refusal>,
    ) -> Result<Ask, Refusal> {
        let terms = self.terms.get();
        let by_name = |model: &tally_ledger::price::Model| model.name == wish.model;
        let model = terms.prices.models.iter().position(by_name);
        let model = model.ok_or(Refusal::ModelNotFound)?;
        let priced = &terms.prices.models[model];
        if !key.buys(priced.number) {
            return Err(Refusal::KeyModel);
        }
        let class = match wish.class {
            "" => None,
            name => Some(terms.class_named(name).ok_or(Refusal::ClassUnknown)?),
        };
        let (need, mark) = need(priced)?;
        let mut ask = Ask {
            key,
            prices: terms.prices.clone(),
            model,
            classes: terms.classes.clone(),
            class,
            need,
            choices: wish.choices.max(1),
            fee: wish.fee,
            worst: Usage::default(),
            cost: Amount::ZERO,
            mark,
            countable: false,
            named: None,
            exact: None,
            arrival: arrival_ms(),
            project: wish.project,
            purpose: wish.purpose,
            request: wish.request,
            lease_time: self.lease_time,
        };
        ask.price()?;
        Ok(ask)
    }
}
