//! What all requests are measured by: the price table in force, the classes'
//! rules, the parameters, the rates. Proven, and replaced when a control entry changes
//! them.

use std::sync::{Arc, PoisonError, RwLock};

use tally_ledger::{
    class::{Class, ClassRules},
    ids::{ClassNumber, Height, TableVersion},
    parameters::Parameters,
    price::PriceTable,
    rates::RatesState,
    tree::Table,
};

use super::{ChainError, light::Light};

/// A consistent set.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The price table in force.
    pub prices: Arc<PriceTable>,
    /// Rules of each class, by number.
    pub classes: Arc<Vec<ClassRules>>,
    /// The chain's parameters.
    pub parameters: Parameters,
    /// Limits per minute of all gateways together, and the fee unit.
    pub rates: RatesState,
}

impl Terms {
    /// Proves them at `at_least` or later.
    pub async fn load(light: &Light, at_least: Height) -> Result<Self, ChainError> {
        let chain = light.chain_leaf(at_least).await?;
        let table = chain.leaf.ok_or_else(|| missing("chain leaf"))?.table;
        let number = table
            .0
            .checked_sub(1)
            .ok_or_else(|| missing("price table"))?;
        let prices = light
            .leaf::<PriceTable>(Table::PriceTables, number, at_least)
            .await?;
        let prices = prices.leaf.ok_or_else(|| missing("price table"))?;
        let parameters = light
            .leaf::<Parameters>(Table::Parameters, 0, at_least)
            .await?;
        let parameters = parameters.leaf.ok_or_else(|| missing("parameters"))?;
        // Absent as long as none were set.
        let rates = light.leaf::<RatesState>(Table::Parameters, 1, at_least);
        let rates = rates.await?.leaf.unwrap_or_default();
        let mut classes = Vec::new();
        loop {
            let number = classes.len() as u32;
            let class = light
                .leaf::<Class>(Table::Classes, number, at_least)
                .await?;
            match class.leaf {
                Some(class) => classes.push(class.rules),
                None => break,
            }
        }
        Ok(Terms {
            prices: Arc::new(prices),
            classes: Arc::new(classes),
            parameters,
            rates,
        })
    }

    /// The class of this name.
    pub fn class_named(&self, name: &str) -> Option<ClassNumber> {
        let index = self.classes.iter().position(|rules| rules.name == name)?;
        Some(ClassNumber(index as u16))
    }
}

fn missing(what: &str) -> ChainError {
    ChainError::Unproven(format!("no {what}"))
}

/// The terms that apply now, shared.
#[derive(Debug)]
pub struct Current(RwLock<Arc<Terms>>);

impl Current {
    /// Starts with these.
    pub fn new(terms: Terms) -> Self {
        Current(RwLock::new(Arc::new(terms)))
    }

    /// Those that apply now.
    pub fn get(&self) -> Arc<Terms> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces them.
    pub fn set(&self, terms: Terms) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    /// Whether prices of `version` or later are known.
    pub fn knows(&self, version: TableVersion) -> bool {
        self.get().prices.version >= version
    }
}
