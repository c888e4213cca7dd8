//! Sample values: fixed, so that golden vectors can be made of them.

pub(crate) mod actions;
pub(crate) mod events;
pub(crate) mod evidence;

use tally_ledger::{
    account::{Account, ApiKey, DayCounter, Grant, HourCounter, LeasePart, OpenLease, Recall},
    block::{Validator, ValidatorSet},
    class::{Burn, Class, ClassRules, Totals},
    codec::List,
    correction::Correction,
    crypto::{PublicKey, SecretKey},
    debit::{
        DEBIT_VERSION, Debit, Detail, FIRST_DEBIT_VERSION, Fixed, Flags, KIND_REQUEST, Queued,
    },
    gateway::{Caps, Gateway},
    genesis::{GENESIS_VERSION, Genesis, GenesisGateway, GenesisPerson},
    hash::Hash,
    ids::*,
    parameters::Parameters,
    person::{PersonState, Roles},
    price::{Meter, Model, PriceTable, Usage},
    rates::{ClassRate, NO_LIMIT, Rate, Rates, RatesState},
    state::{Chain, IdBucket},
};

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

pub(crate) fn public(n: u8) -> PublicKey {
    key(n).public()
}

pub(crate) fn hash(n: u8) -> Hash {
    Hash(std::array::from_fn(|i| n.wrapping_add(i as u8)))
}

pub(crate) fn list<T: std::fmt::Debug, const MAX: usize>(items: Vec<T>) -> List<T, MAX> {
    List::new(items).unwrap()
}

fn meter(name: &str, coefficient: u64, subset_of: Option<u8>) -> Meter {
    Meter {
        name: name.into(),
        coefficient,
        subset_of,
    }
}

pub(crate) fn first_table() -> PriceTable {
    let chat = Model {
        number: ModelNumber(1),
        name: "chat-8b".into(),
        meters: list(vec![
            meter("input", 1_000, None),
            meter("cached_input", 250, Some(0)),
            meter("output", 4_000, None),
            meter("reasoning", 3_000, Some(2)),
        ]),
        weight: 8,
        weight_coefficient: 125,
    };
    let images = Model {
        number: ModelNumber(7),
        name: "images-xl".into(),
        meters: list(vec![meter("images", 40_000_000, None)]),
        weight: 0,
        weight_coefficient: 0,
    };
    PriceTable {
        version: TableVersion(1),
        models: list(vec![chat, images]),
    }
}

/// Table 2: everything costs twice as much.
pub(crate) fn second_table() -> PriceTable {
    let mut models = first_table().models.to_vec();
    for model in &mut models {
        let mut meters = model.meters.to_vec();
        meters.iter_mut().for_each(|meter| meter.coefficient *= 2);
        model.meters = list(meters);
    }
    PriceTable {
        version: TableVersion(2),
        models: list(models),
    }
}

pub(crate) fn caps() -> Caps {
    Caps {
        open: Amount(5_000_000_000),
        open_account: Amount(50_000_000),
        hour: Amount(9_000_000_000),
        hour_account: Amount(90_000_000),
    }
}

pub(crate) fn rules(name: &str, models: Vec<ModelNumber>, max_fee: u64, burn: Burn) -> ClassRules {
    ClassRules {
        name: name.into(),
        models: list(models),
        max_fee: Amount(max_fee),
        burn,
        supply_cap: Amount(u64::MAX),
        period_days: 30,
    }
}

pub(crate) fn parameters() -> Parameters {
    Parameters {
        threshold: 2,
        max_block_bytes: 3 * 1024 * 1024,
        max_block_debits: 20_000,
        max_lease_ms: 600_000,
        lease_grace_ms: 3_600_000,
        lease_grace_blocks: 20,
        heartbeat_ms: 5_000,
        clock_error_ms: 900_000,
        issuer_day_limit: Amount(100_000_000_000),
        issuer_day_account_limit: Amount(1_000_000_000),
    }
}

pub(crate) fn rates() -> Rates {
    let rate = |requests, tokens| Rate { requests, tokens };
    Rates {
        fee_unit: Amount(2_000),
        key: rate(600, 200_000),
        account: Rate::NONE,
        classes: list(vec![ClassRate {
            class: ClassNumber(1),
            rate: rate(NO_LIMIT, 9_000_000),
        }]),
    }
}

pub(crate) fn rates_state() -> RatesState {
    RatesState {
        rates: rates(),
        since: Time(1_800_000_000_500),
        worth: Sum(1_800_000_000_500_000),
    }
}

pub(crate) fn genesis() -> Genesis {
    let roles = [
        Roles::ADMIN,
        Roles::ADMIN.with(Roles::AUDITOR),
        Roles::ISSUER,
        Roles::ISSUER,
        Roles::VALIDATOR,
        Roles::VALIDATOR,
        Roles::VALIDATOR,
        Roles::VALIDATOR.with(Roles::ADMIN),
    ];
    let person = |(n, roles)| GenesisPerson {
        key: public(n),
        roles,
    };
    let validator = |index: u8| Validator {
        consensus_key: super::validator_key(index.into()).public(),
        checkpoint_key: public(60 + index),
        network_key: public(70 + index),
        owner: Person(u32::from(index) + 4),
    };
    Genesis {
        version: GENESIS_VERSION,
        name: "sample chain".into(),
        time: Time(1_800_000_000_000),
        persons: list((1..).zip(roles).map(person).collect()),
        validators: ValidatorSet(list((0..4).map(validator).collect())),
        classes: list(vec![
            rules("innovation", vec![ModelNumber(1)], 0, Burn::IssuerOnly),
            rules("priority", vec![], 1_000_000, Burn::Both),
        ]),
        prices: first_table(),
        parameters: parameters(),
        gateways: list(vec![GenesisGateway {
            key: public(40),
            caps: caps(),
        }]),
    }
}

/// Class leaves with [`super::ISSUED`] issued and leased.
pub(crate) fn classes(genesis: &Genesis) -> Vec<Class> {
    let class = |rules: &ClassRules| Class {
        rules: rules.clone(),
        totals: Totals {
            issued: super::ISSUED,
            leased: super::ISSUED,
            ..Totals::default()
        },
        period: 694,
        period_issued: super::ISSUED,
    };
    genesis.classes.iter().map(class).collect()
}

pub(crate) fn gateways(genesis: &Genesis) -> Vec<Gateway> {
    let gateway = |gateway: &GenesisGateway| Gateway {
        key: gateway.key,
        caps: gateway.caps,
        suspended: false,
        journal: super::JOURNAL,
        last_debit: DebitNumber(0),
        journal_hash: hash(3),
        last_lease: LeaseNumber(9),
        open: Amount(1_000_000),
        open_leases: 1,
        hour: 500_000,
        hour_leased: Amount(2_000_000),
        loss: Sum(0),
    };
    genesis.gateways.iter().map(gateway).collect()
}

/// The n-th debit in version 2: every second one waited in queue 1.
pub(crate) fn queued_debit(n: u32) -> Debit {
    let mut debit = debit(n);
    debit.fixed.version = DEBIT_VERSION;
    let waited = Queued {
        queue: 1,
        joined: 1_800_000_000_000_000 + u64::from(n),
        dispatched: n + 1,
    };
    debit.detail.queued = Some(if n % 2 == 1 {
        waited
    } else {
        Queued::default()
    });
    debit
}

/// The n-th debit, of version 1; every third has a fee, every fourth is
/// capped, every fifth is of table 2.
pub(crate) fn debit(n: u32) -> Debit {
    let capped = n % 4 == 3;
    Debit {
        fixed: Fixed {
            version: FIRST_DEBIT_VERSION,
            kind: KIND_REQUEST,
            flags: if capped {
                Flags::CAPPED
            } else {
                Flags::COUNTED
            },
            account: AccountNumber(n % 3),
            class: ClassNumber((n % 2) as u16),
            api_key: ApiKeyNumber(n),
            lease: LeaseNumber(9),
            limit: Amount(if capped { 400 } else { 50_000 }),
            fee: Amount(if n % 3 == 1 { 700 } else { 0 }),
        },
        detail: Detail {
            salt: [n as u8; 16],
            model: ModelNumber(1),
            table: TableVersion(if n % 5 == 4 { 2 } else { 1 }),
            usage: Usage([1_000 + n, 400, 200 + n, 50, 0, 0]),
            hold_journal: super::JOURNAL,
            hold: u64::from(n) + 1,
            project: 12,
            purpose: 0,
            arrival: 1_800_000_000_000 + u64::from(n),
            duration: 1_500,
            request: hash(n as u8),
            queued: None,
        },
    }
}

pub(crate) fn grant() -> Grant {
    Grant {
        number: GrantNumber(3),
        class: ClassNumber(1),
        amount: Amount(12_500_000),
        free: Amount(2_500_000),
        leased: Amount(9_000_000),
        vests: Time(1_800_000_000_000),
        expires: Time(1_900_000_000_000),
        burn: Burn::Both,
        vested: true,
        expired: false,
        revoked: false,
    }
}

fn open_lease() -> OpenLease {
    OpenLease {
        gateway: super::GATEWAY,
        number: LeaseNumber(9),
        class: ClassNumber(1),
        api_key: ApiKeyNumber(5),
        granted: Amount(10_000_000),
        parts: list(vec![
            LeasePart {
                grant: GrantNumber(3),
                amount: Amount(9_000_000),
            },
            LeasePart {
                grant: GrantNumber(4),
                amount: Amount(1),
            },
        ]),
        opened: Time(1_800_000_000_500),
        end: Time(1_800_000_600_500),
        table: TableVersion(1),
        recall: Recall::Wanted,
        ended: Some((Time(1_800_000_300_000), Height(77))),
    }
}

pub(crate) fn account() -> Account {
    Account {
        unit: 4_711,
        holder: public(50),
        frozen: false,
        classes: list(vec![ClassNumber(1), ClassNumber(0)]),
        entries: 12,
        last_grant: GrantNumber(4),
        totals: vec![(
            ClassNumber(1),
            Totals {
                issued: Amount(12_500_000),
                available: Amount(2_500_000),
                leased: Amount(9_000_000),
                spent: Amount(1_000_000),
                costs: Sum(1_000_300),
                loss: Sum(300),
                ..Totals::default()
            },
        )],
        grants: vec![grant()],
        leases: vec![open_lease()],
        api_keys: vec![ApiKeyNumber(5), ApiKeyNumber(8)],
        hours: vec![HourCounter {
            gateway: super::GATEWAY,
            hour: 500_000,
            leased: Amount(10_000_000),
        }],
        days: vec![DayCounter {
            issuer: Person(2),
            day: 20_833,
            total: Amount(12_500_000),
        }],
    }
}

pub(crate) fn api_key() -> ApiKey {
    ApiKey {
        account: AccountNumber(2),
        key: public(51),
        models: list(vec![ModelNumber(1)]),
        cap: Amount(u64::MAX),
        expires: Time(u64::MAX),
        revoked: false,
        spent: Amount(1_000_000),
        leased: Amount(9_000_000),
    }
}

pub(crate) fn person_state() -> PersonState {
    PersonState {
        key: public(3),
        roles: Roles::ISSUER,
        day: 20_833,
        day_total: Amount(12_500_000),
        unit: None,
    }
}

/// A person whose leaf has a unit behind it.
pub(crate) fn unit_manager() -> PersonState {
    PersonState {
        roles: Roles::UNIT_MANAGER,
        unit: Some(4_711),
        ..person_state()
    }
}

pub(crate) fn correction() -> Correction {
    Correction {
        entry: 4_242,
        corrected: Amount(300),
    }
}

pub(crate) fn counts() -> Chain {
    Chain {
        entries: 4_243,
        controls: 31,
        protocol: 1,
        table: TableVersion(2),
    }
}

pub(crate) fn id_bucket() -> IdBucket {
    IdBucket {
        hour: 500_024,
        count: 3,
        hash: hash(6),
    }
}
