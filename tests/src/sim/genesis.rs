//! Where every simulated chain begins, and all its keys.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use tally_consensus::Keys;
use tally_ledger::{
    block::{Validator, ValidatorSet},
    class::{Burn, ClassRules},
    codec::List,
    crypto::{ChainId, Domain, PublicKey, SecretKey, Signature},
    execute::{SignatureCheck, Strict},
    gateway::Caps,
    genesis::{GENESIS_VERSION, Genesis, GenesisGateway, GenesisPerson},
    ids::{Amount, ModelNumber, Person, TableVersion, Time},
    parameters::Parameters,
    person::Roles,
    price::{Meter, Model, PriceTable},
};

/// How many validators there are.
pub const NODES: usize = 4;
/// Time of the genesis, in ms: just before a clock hour.
pub const START_MS: u64 = 1_767_571_200_000 - 9_000;

/// Keys of the simulation, by purpose and number.
pub fn key(purpose: &str, number: usize) -> SecretKey {
    let text = format!("simulation {purpose} {number}");
    SecretKey::from_seed(blake3::hash(text.as_bytes()).as_bytes())
}

/// Keys of a validator.
pub fn keys(node: usize) -> Keys {
    Keys {
        consensus: key("consensus", node),
        network: key("network", node),
    }
}

/// The genesis: two issuers, two admins, four owners.
pub fn genesis() -> Genesis {
    let roles = [Roles::ISSUER, Roles::ISSUER, Roles::ADMIN, Roles::ADMIN];
    let owners = [Roles::VALIDATOR; NODES];
    let persons = roles.iter().chain(&owners).enumerate();
    let persons = persons.map(|(number, roles)| GenesisPerson {
        key: key("person", number).public(),
        roles: *roles,
    });
    let validators = (0..NODES).map(|node| Validator {
        consensus_key: keys(node).consensus.public(),
        checkpoint_key: key("checkpoint", node).public(),
        network_key: keys(node).network.public(),
        owner: Person((roles.len() + node) as u32),
    });
    let gateway = GenesisGateway {
        key: key("gateway", 0).public(),
        caps: Caps {
            open: Amount(u64::MAX),
            open_account: Amount(u64::MAX),
            hour: Amount(u64::MAX),
            hour_account: Amount(u64::MAX),
        },
    };
    Genesis {
        version: GENESIS_VERSION,
        name: "simulation".into(),
        time: Time(START_MS),
        persons: list(persons.collect()),
        validators: ValidatorSet(list(validators.collect())),
        classes: list(vec![class("innovation"), class("priority")]),
        prices: prices(),
        parameters: Parameters {
            max_lease_ms: 6_000,
            lease_grace_ms: 2_000,
            lease_grace_blocks: 2,
            ..Parameters::default()
        },
        gateways: list(vec![gateway]),
    }
}

/// A list that is known to be short enough.
pub fn list<T, const MAX: usize>(items: Vec<T>) -> List<T, MAX> {
    List::new(items).unwrap_or_else(|_| panic!("more than {MAX} items"))
}

fn class(name: &str) -> ClassRules {
    ClassRules {
        name: name.into(),
        models: list(vec![]),
        max_fee: Amount(1_000),
        burn: Burn::Both,
        supply_cap: Amount(u64::MAX),
        period_days: 1,
    }
}

fn prices() -> PriceTable {
    let meter = |name: &str, coefficient| Meter {
        name: name.into(),
        coefficient,
        subset_of: None,
    };
    PriceTable {
        version: TableVersion(1),
        models: list(vec![Model {
            number: ModelNumber(1),
            name: "model".into(),
            meters: list(vec![meter("input", 1_500), meter("output", 7_001)]),
            weight: 3,
            weight_coefficient: 10,
        }]),
    }
}

/// Remembers which signatures were strictly valid.
#[derive(Debug, Default)]
pub struct Memo(Mutex<HashSet<blake3::Hash>>);

impl SignatureCheck for Memo {
    fn verify(
        &self,
        key: &PublicKey,
        domain: Domain,
        chain: &ChainId,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool {
        let mut hasher = blake3::Hasher::new();
        for part in [&key.0[..], &signature.0, &domain.message(chain, bytes)] {
            hasher.update(part);
        }
        let asked = hasher.finalize();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&asked) {
            return true;
        }
        let valid = Strict.verify(key, domain, chain, bytes, signature);
        if valid {
            known.insert(asked);
        }
        valid
    }
}
