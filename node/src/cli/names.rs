//! Classes and models by name or number. Names are those of the genesis:
//! what is signed carries the number, and no node is asked what a name means.

use anyhow::Context;
use tally_ledger::{
    codec::List,
    genesis::Genesis,
    ids::{ClassNumber, ModelNumber},
};

use super::genesis_config::bounded;

/// A class by name or number.
pub(crate) fn class(genesis: &Genesis, text: &str) -> anyhow::Result<ClassNumber> {
    if let Ok(number) = text.parse() {
        return Ok(ClassNumber(number));
    }
    let index = genesis.classes.iter().position(|rules| rules.name == text);
    let index = index.with_context(|| {
        let names: Vec<&str> = genesis.classes.iter().map(|rules| &*rules.name).collect();
        format!(
            "no class `{text}` in the genesis; it has: {}; later ones go by their number",
            names.join(", ")
        )
    })?;
    Ok(ClassNumber(index as u16))
}

/// Several classes, in this order.
pub(crate) fn classes<const MAX: usize>(
    genesis: &Genesis,
    names: &[String],
) -> anyhow::Result<List<ClassNumber, MAX>> {
    let classes = names
        .iter()
        .map(|name| class(genesis, name))
        .collect::<anyhow::Result<_>>()?;
    bounded(classes, "classes")
}

/// A model by name or number.
fn model(genesis: &Genesis, text: &str) -> anyhow::Result<ModelNumber> {
    if let Ok(number) = text.parse() {
        return Ok(ModelNumber(number));
    }
    let model = genesis.prices.model_named(text).with_context(|| {
        let names: Vec<&str> = genesis
            .prices
            .models
            .iter()
            .map(|model| &*model.name)
            .collect();
        format!(
            "no model `{text}` in the genesis; it has: {}; later ones go by their number",
            names.join(", ")
        )
    })?;
    Ok(model.number)
}

/// Several models, ascending.
pub(crate) fn models<const MAX: usize>(
    genesis: &Genesis,
    names: &[String],
) -> anyhow::Result<List<ModelNumber, MAX>> {
    let mut models = names
        .iter()
        .map(|name| model(genesis, name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    models.sort_unstable();
    models.dedup();
    bounded(models, "models")
}
