//! `tally genesis`: makes the file that starts a chain, and prints the hash
//! that all owners compare before they start their nodes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use tally_ledger::{
    block::{Validator, ValidatorSet},
    crypto::PublicKey,
    genesis::{GENESIS_VERSION, Genesis, GenesisPerson},
    ids::{Person, Time},
    person::Roles,
};

use super::{
    args::show_cap,
    clock::{now, parse_date, show_date},
    exit::Exit,
    genesis_config::{EXAMPLE, GenesisConfig, bounded, read_public},
    keys::{KeyKind, write_new_file},
    kind::{self, Kind},
    output::{self, Format},
    validator_file::ValidatorFile,
};

/// Make, show and compare the start of a chain
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GenesisCommand {
    /// Make the genesis file from everybody's public files
    #[command(
        after_help = "Example:\n  tally genesis create --validator v0.pub --validator v1.pub \
        --validator v2.pub --validator v3.pub \\\n      --admin ann.pub --admin ben.pub \
        --threshold 2 --config genesis.toml --out genesis.json"
    )]
    Create(Create),
    /// Print what a genesis file says and the hash that all owners compare
    #[command(after_help = "Example:\n  tally genesis show genesis.json")]
    Show(Show),
    /// Print a commented example of the --config file
    #[command(after_help = "Example:\n  tally genesis example > genesis.toml")]
    Example,
}

/// Arguments of `genesis create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Public files of the validators, in the order of their numbers
    #[arg(long = "validator", value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) validators: Vec<PathBuf>,
    /// Public key files of the admins
    #[arg(long = "admin", value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) admins: Vec<PathBuf>,
    /// How many admins must sign together
    #[arg(long, value_name = "M")]
    pub(crate) threshold: u32,
    /// Issuers, classes, prices, parameters and gateways
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Where to write the genesis
    #[arg(long, value_name = "FILE", default_value = "genesis.json")]
    pub(crate) out: PathBuf,
}

/// Arguments of `genesis show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Genesis file
    file: PathBuf,
}

impl GenesisCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            GenesisCommand::Create(create) => {
                let genesis = create.genesis()?;
                write(&create.out, &genesis)?;
                show(format, &genesis)?;
            }
            GenesisCommand::Show(args) => show(format, &read(&args.file)?)?,
            GenesisCommand::Example => output::write(EXAMPLE)?,
        }
        Ok(Exit::Done)
    }
}

/// Reads a genesis file and validates it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Genesis> {
    let at = || format!("genesis file {}", path.display());
    let text = kind::text(path, Kind::Genesis)?;
    let genesis: Genesis = serde_json::from_str(&text)
        .map_err(|e| kind::misread(path, text.as_bytes(), Kind::Genesis, e))?;
    genesis.validate().with_context(at)?;
    Ok(genesis)
}

/// Writes a new genesis file.
pub(crate) fn write(path: &Path, genesis: &Genesis) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(genesis)? + "\n";
    write_new_file(path, text.as_bytes(), 0o644)
}

/// Persons are numbered in the order in which they are added; one key that
/// is named twice is one person with both roles.
#[derive(Default)]
struct Persons(Vec<GenesisPerson>);

impl Persons {
    fn add(&mut self, key: PublicKey, roles: Roles) -> Person {
        let known = self.0.iter().position(|person| person.key == key);
        let index = known.unwrap_or_else(|| {
            self.0.push(GenesisPerson {
                key,
                roles: Roles::NONE,
            });
            self.0.len() - 1
        });
        self.0[index].roles = self.0[index].roles.with(roles);
        Person(index as u32)
    }
}

impl Create {
    /// Puts everybody's files together and validates the whole.
    pub(crate) fn genesis(&self) -> anyhow::Result<Genesis> {
        let config = GenesisConfig::read(&self.config)?;
        let mut persons = Persons::default();
        for path in &self.admins {
            persons.add(read_public(path, KeyKind::Person)?, Roles::ADMIN);
        }
        for key in config.issuers()? {
            persons.add(key, Roles::ISSUER);
        }
        let mut validators = Vec::new();
        for path in &self.validators {
            let file = ValidatorFile::read(path)?;
            validators.push(Validator {
                consensus_key: file.consensus_key,
                checkpoint_key: file.checkpoint_key,
                network_key: file.network_key,
                owner: persons.add(file.owner_key, Roles::VALIDATOR),
            });
        }
        for key in config.auditors()? {
            persons.add(key, Roles::AUDITOR);
        }
        let prices = config.prices()?;
        let genesis = Genesis {
            version: GENESIS_VERSION,
            name: config.name.clone(),
            time: config.time.as_deref().map_or(Ok(now()), date)?,
            persons: bounded(persons.0, "persons")?,
            validators: ValidatorSet(bounded(validators, "validators")?),
            classes: bounded(config.classes(&prices)?, "classes")?,
            prices,
            parameters: config.parameters(self.threshold)?,
            gateways: bounded(config.gateways()?, "gateways")?,
        };
        genesis
            .validate()
            .context("these files make no lawful genesis")?;
        Ok(genesis)
    }
}

fn date(text: &str) -> anyhow::Result<Time> {
    parse_date(text).map_err(anyhow::Error::msg)
}

/// Names of the roles of a set.
pub(crate) fn show_roles(roles: Roles) -> String {
    let set: Vec<&str> = roles.names().collect();
    if set.is_empty() {
        "none".to_owned()
    } else {
        set.join("+")
    }
}

fn show(format: Format, genesis: &Genesis) -> anyhow::Result<()> {
    let persons = genesis.persons.iter().enumerate().map(|(number, person)| {
        json!({"person": number, "roles": show_roles(person.roles), "key": person.key})
    });
    let validators = genesis
        .validators
        .0
        .iter()
        .enumerate()
        .map(|(number, validator)| {
            json!({
                "validator": number,
                "owner": format!("person:{}", validator.owner),
                "consensus key": validator.consensus_key,
            })
        });
    let classes = genesis.classes.iter().enumerate().map(|(number, rules)| {
        json!({
            "class": number,
            "name": rules.name,
            "models": if rules.models.is_empty() { json!("all") } else { json!(rules.models) },
            "max fee": rules.max_fee,
            "burn": rules.burn,
            "supply cap": show_cap(rules.supply_cap),
            "period days": rules.period_days,
        })
    });
    let gateways = genesis
        .gateways
        .iter()
        .enumerate()
        .map(|(number, gateway)| {
            json!({"gateway": number, "open": gateway.caps.open, "hour": gateway.caps.hour,
            "key": gateway.key})
        });
    let value = json!({
        "hash": genesis.chain(),
        "name": genesis.name,
        "time": show_date(genesis.time),
        "persons": persons.collect::<Vec<_>>(),
        "validators": validators.collect::<Vec<_>>(),
        "classes": classes.collect::<Vec<_>>(),
        "models": super::price::rows(&genesis.prices),
        "gateways": gateways.collect::<Vec<_>>(),
        "parameters": genesis.parameters,
    });
    output::print(format, &value)?;
    if format == Format::Table {
        output::write("\nAll owners must see the same hash before they start their nodes.\n")?;
    }
    Ok(())
}
