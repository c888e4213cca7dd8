//! The genesis of the small world: who is in it, under which keys, with which
//! rules and prices.

use super::*;

/// A whole clock day, and so a whole clock hour.
pub const START: u64 = 19_700 * DAY_MS;
/// One compute token.
pub const CT: u64 = 1_000_000;
/// Never.
pub const NEVER: Time = Time(u64::MAX);

pub const ISSUER: Person = Person(0);
pub const CHECKER: Person = Person(1);
pub const ADMIN: Person = Person(3);
pub const SECOND_ADMIN: Person = Person(4);
pub const OWNER: Person = Person(6);
pub const G0: GatewayNumber = GatewayNumber(0);
pub const G1: GatewayNumber = GatewayNumber(1);
/// Buys model 1 only, no fee, burned by either side.
pub const BASE: ClassNumber = ClassNumber(0);
/// Buys all models, fee up to 1 CT, burned by issuers only.
pub const PRIORITY: ClassNumber = ClassNumber(1);

pub fn list<T: std::fmt::Debug, const MAX: usize>(items: Vec<T>) -> List<T, MAX> {
    List::new(items).unwrap()
}

/// The key of a person, gateway, holder or API key.
pub fn key(who: impl Into<Author>) -> SecretKey {
    let who = who.into();
    if who.kind == AuthorKind::Validator {
        return SecretKey::from_seed(&[200 + who.number as u8; 32]);
    }
    let mut seed = [7; 32];
    seed[0] = who.kind.into();
    seed[1..5].copy_from_slice(&who.number.to_le_bytes());
    SecretKey::from_seed(&seed)
}

/// A public key that is nobody's.
pub fn stray_key(number: u8) -> PublicKey {
    SecretKey::from_seed(&[number; 32]).public()
}

pub fn caps(amount: u64) -> Caps {
    Caps {
        open: Amount(amount),
        open_account: Amount(amount),
        hour: Amount(amount),
        hour_account: Amount(amount),
    }
}

pub fn rules(name: &str) -> ClassRules {
    ClassRules {
        name: name.into(),
        models: List::default(),
        max_fee: Amount(CT),
        burn: Burn::IssuerOnly,
        supply_cap: Amount(u64::MAX),
        period_days: 1,
    }
}

/// A model whose price is `price` micro-CT per unit of input.
pub fn model(number: u32, price: u64) -> Model {
    let meter = |name: &str, subset_of| Meter {
        name: name.into(),
        coefficient: price * 1000,
        subset_of,
    };
    Model {
        number: ModelNumber(number),
        name: format!("model-{number}"),
        meters: list(vec![meter("input", None), meter("cached", Some(0))]),
        weight: 0,
        weight_coefficient: 0,
    }
}

pub fn prices(version: u32, price: u64) -> PriceTable {
    PriceTable {
        version: TableVersion(version),
        models: list(vec![model(1, price), model(2, 10 * price)]),
    }
}

pub fn genesis() -> Genesis {
    let person = |number: u32, roles| GenesisPerson {
        key: key(Person(number)).public(),
        roles,
    };
    let roles = [Roles::ISSUER, Roles::ADMIN, Roles::VALIDATOR];
    let validator = |owner: u8| Validator {
        consensus_key: stray_key(200 + owner),
        checkpoint_key: stray_key(210 + owner),
        network_key: stray_key(220 + owner),
        owner: Person(OWNER.0 + u32::from(owner)),
    };
    let mut base = rules("base");
    base.models = list(vec![ModelNumber(1)]);
    base.max_fee = Amount::ZERO;
    base.burn = Burn::Both;
    let gateway = |number: u32| GenesisGateway {
        key: key(GatewayNumber(number)).public(),
        caps: caps(u64::MAX),
    };
    Genesis {
        version: GENESIS_VERSION,
        name: "world".into(),
        time: Time(START),
        persons: list((0..9).map(|i| person(i, roles[i as usize / 3])).collect()),
        validators: ValidatorSet(list((0..3).map(validator).collect())),
        classes: list(vec![base, rules("priority")]),
        prices: prices(1, 1),
        parameters: Parameters {
            issuer_day_limit: Amount(1_000_000 * CT),
            issuer_day_account_limit: Amount(1_000_000 * CT),
            lease_grace_blocks: 3,
            ..Parameters::default()
        },
        gateways: list(vec![gateway(0), gateway(1)]),
    }
}
