//! The file from which a genesis is made: names instead of numbers, files
//! instead of keys, defaults for what is left out. `contrib/genesis.toml` is
//! the commented example.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tally_ledger::{
    class::{Burn, ClassRules},
    codec::List,
    crypto::PublicKey,
    gateway::Caps,
    genesis::GenesisGateway,
    ids::{Amount, ModelNumber, TableVersion},
    parameters::Parameters,
    price::{Meter, Model, PriceTable},
};

use super::keys::{KeyFile, KeyKind};

/// The commented example, as `genesis example` prints it.
pub(crate) const EXAMPLE: &str = include_str!("../../contrib/genesis.toml");

/// What the config file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenesisConfig {
    /// A name for people.
    pub(crate) name: String,
    /// Date of the genesis; absent: now.
    pub(crate) time: Option<String>,
    /// Public key files of issuers.
    #[serde(default)]
    issuers: Vec<PathBuf>,
    /// Public key files of auditors.
    #[serde(default)]
    auditors: Vec<PathBuf>,
    /// Prices.
    #[serde(default, rename = "model")]
    models: Vec<ModelConfig>,
    /// Classes, numbered from 0.
    #[serde(default, rename = "class")]
    classes: Vec<ClassConfig>,
    /// Gateways, numbered from 0.
    #[serde(default, rename = "gateway")]
    gateways: Vec<GatewayConfig>,
    /// What differs from the defaults.
    #[serde(default)]
    parameters: toml::Table,
    /// Folder of the file; key files are relative to it.
    #[serde(skip)]
    folder: PathBuf,
}

/// A model with its meters by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelConfig {
    number: u32,
    name: String,
    weight: u32,
    weight_coefficient: u64,
    meters: Vec<MeterConfig>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeterConfig {
    name: String,
    coefficient: u64,
    subset_of: Option<String>,
}

/// A class with its models by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassConfig {
    name: String,
    #[serde(default)]
    models: Vec<String>,
    max_fee: Amount,
    burn: Burn,
    supply_cap: Cap,
    period_days: u32,
}

/// An amount, or `unlimited`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Cap(Amount);

impl TryFrom<String> for Cap {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        super::args::parse_cap(&text).map(Cap)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewayConfig {
    key: PathBuf,
    open: Amount,
    open_account: Amount,
    hour: Amount,
    hour_account: Amount,
}

impl GenesisConfig {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let at = || format!("genesis config {}", path.display());
        let text = fs::read_to_string(path).with_context(at)?;
        let mut config: GenesisConfig = toml::from_str(&text).with_context(at)?;
        config.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(config)
    }

    /// Issuers' keys.
    pub(crate) fn issuers(&self) -> anyhow::Result<Vec<PublicKey>> {
        self.keys(&self.issuers, KeyKind::Person)
    }

    /// Auditors' keys.
    pub(crate) fn auditors(&self) -> anyhow::Result<Vec<PublicKey>> {
        self.keys(&self.auditors, KeyKind::Person)
    }

    fn keys(&self, paths: &[PathBuf], kind: KeyKind) -> anyhow::Result<Vec<PublicKey>> {
        paths
            .iter()
            .map(|path| read_public(&self.folder.join(path), kind))
            .collect()
    }

    /// Price table 1.
    pub(crate) fn prices(&self) -> anyhow::Result<PriceTable> {
        price_table(TableVersion(1), &self.models)
    }

    /// Classes.
    pub(crate) fn classes(&self, prices: &PriceTable) -> anyhow::Result<Vec<ClassRules>> {
        self.classes
            .iter()
            .map(|class| class.rules(prices))
            .collect()
    }

    /// Gateways.
    pub(crate) fn gateways(&self) -> anyhow::Result<Vec<GenesisGateway>> {
        let gateway = |config: &GatewayConfig| {
            let key = read_public(&self.folder.join(&config.key), KeyKind::Gateway)?;
            let caps = Caps {
                open: config.open,
                open_account: config.open_account,
                hour: config.hour,
                hour_account: config.hour_account,
            };
            Ok(GenesisGateway { key, caps })
        };
        self.gateways.iter().map(gateway).collect()
    }

    /// Parameters: the defaults, overridden by the file.
    pub(crate) fn parameters(&self, threshold: u32) -> anyhow::Result<Parameters> {
        let mut all = toml::Table::try_from(Parameters::default())?;
        ensure!(
            !self.parameters.contains_key("threshold"),
            "parameters: the threshold is given by --threshold"
        );
        all.extend(self.parameters.clone());
        all.insert("threshold".to_owned(), i64::from(threshold).into());
        all.try_into().context("parameters")
    }
}

/// Reads the public key of a key file of this kind.
pub(crate) fn read_public(path: &Path, kind: KeyKind) -> anyhow::Result<PublicKey> {
    let key = KeyFile::read(path)?;
    ensure!(
        key.kind == kind,
        "key file {} is of a {}, a {} is needed",
        path.display(),
        key.kind.name(),
        kind.name()
    );
    Ok(key.public)
}

/// A table of models by name.
pub(crate) fn price_table(
    version: TableVersion,
    models: &[ModelConfig],
) -> anyhow::Result<PriceTable> {
    let models = models
        .iter()
        .map(ModelConfig::model)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let models = bounded(models, "models")?;
    let table = PriceTable { version, models };
    table.validate()?;
    Ok(table)
}

/// A bounded list, or what there is too much of.
pub(crate) fn bounded<T, const MAX: usize>(
    items: Vec<T>,
    what: &str,
) -> anyhow::Result<List<T, MAX>> {
    let count = items.len();
    List::new(items).map_err(|_| anyhow::anyhow!("{count} {what}, at most {MAX}"))
}

impl ModelConfig {
    fn model(&self) -> anyhow::Result<Model> {
        let meter = |config: &MeterConfig| {
            let whole = config.subset_of.as_ref().map(|whole| {
                let index = self.meters.iter().position(|meter| meter.name == *whole);
                index.with_context(|| {
                    format!("model {}: `{whole}` is none of its meters", self.name)
                })
            });
            let subset_of = whole.transpose()?.map(|index| index as u8);
            Ok(Meter {
                name: config.name.clone(),
                coefficient: config.coefficient,
                subset_of,
            })
        };
        let meters = self
            .meters
            .iter()
            .map(meter)
            .collect::<anyhow::Result<_>>()?;
        Ok(Model {
            number: ModelNumber(self.number),
            name: self.name.clone(),
            meters: bounded(meters, "meters")?,
            weight: self.weight,
            weight_coefficient: self.weight_coefficient,
        })
    }
}

impl ClassConfig {
    /// Its rules; models by the names of `prices`.
    pub(crate) fn rules(&self, prices: &PriceTable) -> anyhow::Result<ClassRules> {
        let mut models = self
            .models
            .iter()
            .map(|name| {
                let model = prices.model_named(name);
                let model =
                    model.with_context(|| format!("class {}: no model `{name}`", self.name));
                Ok(model?.number)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        models.sort_unstable();
        Ok(ClassRules {
            name: self.name.clone(),
            models: bounded(models, "models of a class")?,
            max_fee: self.max_fee,
            burn: self.burn,
            supply_cap: self.supply_cap.0,
            period_days: self.period_days,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_holds_together() {
        let config: GenesisConfig = toml::from_str(EXAMPLE).unwrap();
        let prices = config.prices().unwrap();
        let classes = config.classes(&prices).unwrap();
        assert!(classes.iter().all(ClassRules::are_lawful));
        assert!(!classes[0].buys(ModelNumber(2)) && classes[1].buys(ModelNumber(2)));
        let parameters = config.parameters(3).unwrap();
        parameters.validate().unwrap();
        assert_eq!(parameters.threshold, 3);
        assert_eq!(
            parameters.issuer_day_account_limit,
            Amount(10_000 * 1_000_000)
        );
        assert_eq!(parameters.heartbeat_ms, Parameters::default().heartbeat_ms);
    }

    #[test]
    fn mistakes_are_named() {
        let with = |from: &str, to: &str| {
            let text = EXAMPLE.replace(from, to);
            let config: Result<GenesisConfig, _> = toml::from_str(&text);
            let result = config.map_err(anyhow::Error::from).and_then(|config| {
                config.parameters(1)?;
                config.classes(&config.prices()?)
            });
            format!("{:#}", result.unwrap_err())
        };
        assert!(with("[\"tally-base\"]", "[\"gpt\"]").contains("no model `gpt`"));
        assert!(with("\"input\" }", "\"inputs\" }").contains("`inputs` is none"));
        assert!(with("issuer_day_limit", "isuer_day_limit").contains("isuer_day_limit"));
        assert!(with("burn = \"both\"", "burn = \"all\"").contains("issuer_only"));
    }
}
