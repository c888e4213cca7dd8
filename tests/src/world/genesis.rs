//! The genesis of a random world: three issuers, three admins, four
//! validators, four classes, two gateways, small limits so that all of them
//! are met.

use tally_ledger::{
    block::{Validator, ValidatorSet},
    class::{Burn, ClassRules},
    codec::List,
    crypto::SecretKey,
    gateway::Caps,
    genesis::{GENESIS_VERSION, Genesis, GenesisGateway, GenesisPerson},
    ids::{Amount, ClassNumber, ModelNumber, Person, TableVersion, Time},
    parameters::Parameters,
    person::Roles,
    price::{Meter, Model, PriceTable},
    rates::{ClassRate, MAX_FEE_UNIT, NO_LIMIT, Rate, Rates},
};

use super::{Dice, KeyRing};

/// Persons who are issuers at the start.
pub(super) const ISSUERS: [u32; 3] = [0, 1, 2];
/// Persons who are admins at the start.
pub(super) const ADMINS: [u32; 3] = [3, 4, 5];
/// Persons who own a validator.
pub(super) const OWNERS: [u32; 4] = [6, 7, 8, 9];

/// 2026-01-05 00:00 UTC and a bit.
const START: u64 = 1_767_571_200_000 + 1_234;

/// A genesis from dice; its keys go onto the ring.
pub(super) fn genesis(dice: &mut Dice, ring: &mut KeyRing) -> Genesis {
    let roles = [
        (ISSUERS.len(), Roles::ISSUER),
        (ADMINS.len(), Roles::ADMIN),
        (OWNERS.len(), Roles::VALIDATOR),
        (1, Roles::AUDITOR),
    ];
    let persons: Vec<GenesisPerson> = roles
        .into_iter()
        .flat_map(|(count, roles)| vec![roles; count])
        .map(|roles| GenesisPerson {
            key: ring.fresh(),
            roles,
        })
        .collect();
    let validators: Vec<Validator> = OWNERS
        .into_iter()
        .map(|owner| Validator {
            consensus_key: ring.fresh(),
            checkpoint_key: ring.fresh(),
            network_key: ring.fresh(),
            owner: Person(owner),
        })
        .collect();
    let gateways: Vec<GenesisGateway> = (0..2)
        .map(|_| GenesisGateway {
            key: ring.fresh(),
            caps: caps(dice),
        })
        .collect();
    let classes: Vec<ClassRules> = (0..4).map(|n| class(dice, n)).collect();
    Genesis {
        version: GENESIS_VERSION,
        name: "a world".into(),
        time: Time(START),
        persons: List::new(persons).unwrap(),
        validators: ValidatorSet(List::new(validators).unwrap()),
        classes: List::new(classes).unwrap(),
        prices: prices(dice, 1),
        parameters: parameters(dice),
        gateways: List::new(gateways).unwrap(),
    }
}

/// Caps from none to narrow.
pub(super) fn caps(dice: &mut Dice) -> Caps {
    let mut cap = || {
        let wide = [u64::MAX, u64::MAX, 50_000_000];
        let most = [u64::MAX, u64::MAX, 5_000_000, 300_000, 20_000, 0];
        Amount(match dice.below(4) {
            0 => dice.pick(&most),
            _ => dice.pick(&wide),
        })
    };
    Caps {
        open: cap(),
        open_account: cap(),
        hour: cap(),
        hour_account: cap(),
    }
}

/// Parameters with limits that scripts reach.
pub(super) fn parameters(dice: &mut Dice) -> Parameters {
    Parameters {
        threshold: dice.pick(&[2, 1, 3]),
        max_lease_ms: dice.pick(&[60_000, 1_000, 3_600_000]),
        lease_grace_ms: dice.pick(&[1_000, 5_000, 60_000, 3_600_000]),
        lease_grace_blocks: dice.pick(&[1, 2, 5]),
        issuer_day_limit: Amount(dice.pick(&[u64::MAX, 50_000_000, 2_000_000])),
        issuer_day_account_limit: Amount(dice.pick(&[u64::MAX, 20_000_000, 1_000_000])),
        ..Parameters::default()
    }
}

/// Rates for some of so many classes.
pub(super) fn rates(dice: &mut Dice, classes: u64) -> Rates {
    let rate = |dice: &mut Dice| Rate {
        requests: dice.pick(&[NO_LIMIT, 1, 60]),
        tokens: dice.pick(&[NO_LIMIT, 1_000]),
    };
    let mut of_classes = Vec::new();
    for number in 0..classes as u16 {
        if dice.below(2) == 0 {
            of_classes.push(ClassRate {
                class: ClassNumber(number),
                rate: rate(dice),
            });
        }
    }
    Rates {
        fee_unit: Amount(dice.pick(&[1_000, 1, 50_000, MAX_FEE_UNIT.0])),
        key: rate(dice),
        account: rate(dice),
        classes: List::new(of_classes).unwrap(),
    }
}

/// Rules of the class with this number.
pub(super) fn class(dice: &mut Dice, number: u16) -> ClassRules {
    let models = match dice.below(3) {
        0 => vec![ModelNumber(1)],
        1 => vec![ModelNumber(2), ModelNumber(3)],
        _ => vec![],
    };
    let burns = [
        Burn::Both,
        Burn::IssuerOnly,
        Burn::HolderOnly,
        Burn::Neither,
    ];
    ClassRules {
        name: format!("class-{number}"),
        models: List::new(models).unwrap(),
        max_fee: Amount(dice.pick(&[0, 100, 1 << 40])),
        burn: burns[usize::from(number) % burns.len()],
        supply_cap: Amount(dice.pick(&[u64::MAX, u64::MAX, 100_000_000, 3_000_000])),
        period_days: u32::from(number) + 1,
    }
}

/// A price table of this version; its models always bear the same names.
pub(super) fn prices(dice: &mut Dice, version: u32) -> PriceTable {
    let models = (1..=3).map(|number| model(dice, number)).collect();
    PriceTable {
        version: TableVersion(version),
        models: List::new(models).unwrap(),
    }
}

fn model(dice: &mut Dice, number: u32) -> Model {
    let names = ["input", "cached_input", "output", "reasoning", "images"];
    let subsets = [None, Some(0), None, Some(2), None];
    let meters: Vec<Meter> = (0..dice.pick(&[4, 5, 1, 2]))
        .map(|i| Meter {
            name: names[i].into(),
            coefficient: match dice.below(12) {
                0 => 0,
                1 => (1 << 38) - 1,
                _ => dice.below(5_000),
            },
            subset_of: subsets[i],
        })
        .collect();
    Model {
        number: ModelNumber(number),
        name: format!("model-{number}"),
        meters: List::new(meters).unwrap(),
        weight: dice.below(10) as u32,
        weight_coefficient: dice.below(3_000),
    }
}

impl KeyRing {
    /// A new key pair on the ring; its public half.
    pub(super) fn fresh(&mut self) -> tally_ledger::crypto::PublicKey {
        self.made += 1;
        let mut seed = [0x5a; 32];
        seed[..8].copy_from_slice(&self.made.to_le_bytes());
        let secret = SecretKey::from_seed(&seed);
        let public = secret.public();
        self.secrets.insert(public, secret);
        public
    }
}
