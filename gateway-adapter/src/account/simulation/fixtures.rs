//! The account and the price table that simulated gateways work with.

use super::*;

/// An account with one grant that never expires.
pub(super) fn leaf(balance: u64) -> Leaf {
    let grant = Grant {
        number: GrantNumber(1),
        class: CLASS,
        amount: Amount(balance),
        free: Amount(balance),
        leased: Amount(0),
        vests: Time(0),
        expires: Time(u64::MAX),
        burn: Burn::IssuerOnly,
        vested: true,
        expired: false,
        revoked: false,
    };
    Leaf {
        unit: 0,
        holder: SecretKey::from_seed(&[2; 32]).public(),
        frozen: false,
        classes: List::new(vec![CLASS]).unwrap(),
        entries: 0,
        last_grant: GrantNumber(1),
        totals: Vec::new(),
        grants: vec![grant],
        leases: Vec::new(),
        api_keys: Vec::new(),
        hours: Vec::new(),
        days: Vec::new(),
    }
}

/// One model: input costs 1, output 4.
pub(super) fn prices() -> Arc<PriceTable> {
    let meter = |name: &str, coefficient| Meter {
        name: name.into(),
        coefficient,
        subset_of: None,
    };
    let model = Model {
        number: ModelNumber(1),
        name: "m".into(),
        meters: List::new(vec![
            meter(usage::INPUT, 1_000),
            meter(usage::OUTPUT, 4_000),
        ])
        .unwrap(),
        weight: 0,
        weight_coefficient: 0,
    };
    Arc::new(PriceTable {
        version: TableVersion(1),
        models: List::new(vec![model]).unwrap(),
    })
}
