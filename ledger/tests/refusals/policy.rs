//! Refusals 60 to 83: rules, bounds and balances; and the limits of an issuer
//! who acts alone.

use tally_ledger::{
    action::{Action, NewGrant, RegisterGateway, SetClass, SetGatewayKey},
    ids::*,
    person::Roles,
    reason::Reason,
    transaction::Body,
};

use crate::{rows::*, world::*};

pub(crate) const POLICY: &[Row] = &[
    ("freeze twice", Reason::Frozen, |world| {
        let first = world.by_issuer(Action::Freeze(AccountNumber(0)));
        world.run(first);
        world.by_issuer(Action::Freeze(AccountNumber(0)))
    }),
    ("a frozen holder binds", Reason::Frozen, |world| {
        let first = world.by_issuer(Action::Freeze(AccountNumber(0)));
        world.run(first);
        world.by_holder(0, bind(0, 9))
    }),
    ("a frozen holder rotates", Reason::Frozen, |world| {
        let first = world.by_issuer(Action::Freeze(AccountNumber(0)));
        world.run(first);
        let action = Action::RotateHolderKey(AccountNumber(0), stray_key(1));
        world.by_holder(0, action)
    }),
    ("a frozen holder surrenders", Reason::Frozen, |world| {
        let first = world.by_issuer(Action::Freeze(AccountNumber(0)));
        world.run(first);
        world.surrender_tx(1, 1)
    }),
    ("unfreeze", Reason::NotFrozen, |world| {
        world.by_two(Action::Unfreeze(AccountNumber(0)))
    }),
    ("holder burns issuer's", Reason::NotBurnable, |world| {
        let grant = world.issue(0, PRIORITY, CT);
        world.surrender_tx(grant.0, 1)
    }),
    ("issuer burns nobody's", Reason::NotBurnable, |world| {
        let class = ClassNumber(2);
        let mut rules = rules("stone");
        rules.burn = tally_ledger::class::Burn::Neither;
        let set = world.by_admins(Action::SetClass(SetClass { class, rules }));
        world.run(set);
        let grant = world.issue(0, class, CT);
        world.by_two(revoke(grant.0))
    }),
    ("a grant twice", Reason::AlreadyRevoked, |world| {
        with_lease(world);
        let first = world.by_two(revoke(1));
        world.run(first);
        world.by_two(revoke(1))
    }),
    ("an API key twice", Reason::AlreadyRevoked, |world| {
        let first = world.by_issuer(Action::RevokeApiKey(ApiKeyNumber(0)));
        world.run(first);
        world.tx(ApiKeyNumber(0), &[], Action::RevokeApiKey(ApiKeyNumber(0)))
    }),
    ("a key once bound", Reason::KeyBoundBefore, |world| {
        let first = world.by_issuer(Action::RevokeApiKey(ApiKeyNumber(0)));
        world.run(first);
        bind_with(world, |bind| bind.key = key(ApiKeyNumber(0)).public())
    }),
    ("65 grants at once", Reason::TooManyGrants, |world| {
        world.by_two(grants(vec![grant(); 64]))
    }),
    ("the 65th by correction", Reason::TooManyGrants, |world| {
        let entry = receipt_entry(world);
        let fill = world.by_two(grants(vec![grant(); 63]));
        world.run(fill);
        correct(world, entry, 1)
    }),
    ("65 API keys", Reason::TooManyKeys, |world| {
        for _ in 0..63 {
            world.bind(0);
        }
        bind_with(world, |_| ())
    }),
    ("the period's cap", Reason::SupplyCap, |world| {
        let mut genesis = genesis();
        let mut classes = genesis.classes.to_vec();
        classes[1].supply_cap = Amount(10);
        genesis.classes = list(classes);
        *world = World::ready_of(genesis);
        world.issue(0, PRIORITY, 9);
        let (class, amount) = (PRIORITY, Amount(1));
        let one = NewGrant {
            class,
            amount,
            ..grant()
        };
        world.by_two(grants(vec![one, one]))
    }),
    ("issue of zero", Reason::Amount, |world| {
        let amount = Amount(0);
        world.by_issuer(grants(vec![NewGrant { amount, ..grant() }]))
    }),
    ("a sum over the range", Reason::Amount, |world| {
        let half = NewGrant {
            amount: Amount(1 << 63),
            ..grant()
        };
        world.by_two(grants(vec![half, half]))
    }),
    ("a class's sum over the range", Reason::Amount, |world| {
        world.issue(0, PRIORITY, u64::MAX - 1);
        let (class, amount) = (PRIORITY, Amount(2));
        let two = NewGrant {
            class,
            amount,
            ..grant()
        };
        world.by_two(grants(vec![two]))
    }),
    ("surrender of zero", Reason::Amount, |world| {
        world.surrender_tx(1, 0)
    }),
    ("correction of zero", Reason::Amount, |world| {
        let entry = receipt_entry(world);
        correct(world, entry, 0)
    }),
    ("more than was charged", Reason::OverReceipt, |world| {
        let entry = receipt_entry(world);
        let first = correct(world, entry, 3);
        world.run(first);
        correct(world, entry, 3)
    }),
    ("expires as it vests", Reason::Dates, |world| {
        let at = Time(START + DAY_MS);
        let (vests, expires) = (at, at);
        world.by_issuer(grants(vec![NewGrant {
            vests,
            expires,
            ..grant()
        }]))
    }),
    ("expires now", Reason::Dates, |world| {
        let expires = world.time();
        world.by_issuer(grants(vec![NewGrant { expires, ..grant() }]))
    }),
    ("a key that ends now", Reason::Dates, |world| {
        let now = world.time();
        bind_with(world, |bind| bind.expires = now)
    }),
    ("a correction that expires now", Reason::Dates, |world| {
        let entry = receipt_entry(world);
        let made = correct(world, entry, 1);
        let mut body = Body::decode(&made.body).unwrap();
        if let Action::Correct(correct) = &mut body.action {
            correct.expires = world.time();
        }
        world.sign(&body, made.payload)
    }),
    ("another person's key", Reason::KeyTaken, |world| {
        world.by_admins(set_role(9, key(ISSUER).public(), Roles::NONE))
    }),
    ("another gateway's key", Reason::KeyTaken, |world| {
        let (key, caps) = (key(G0).public(), caps(1));
        world.by_admins(Action::RegisterGateway(RegisterGateway { key, caps }))
    }),
    ("a neighbour's key", Reason::KeyTaken, |world| {
        let (gateway, key, caps) = (G1, key(G0).public(), caps(1));
        let set = SetGatewayKey { gateway, key, caps };
        world.by_admins(Action::SetGatewayKey(set))
    }),
    ("issuer and admin", Reason::UnlawfulRoles, |world| {
        world.by_admins(set_role(9, stray_key(1), Roles::ISSUER.with(Roles::ADMIN)))
    }),
    ("an owner turned issuer", Reason::UnlawfulRoles, |world| {
        world.by_admins(set_role(OWNER.0, stray_key(1), Roles::ISSUER))
    }),
    (
        "an owner without the role",
        Reason::OwnsValidator,
        |world| world.by_admins(set_role(OWNER.0, stray_key(1), Roles::NONE)),
    ),
    ("an owner turned admin", Reason::OwnsValidator, |world| {
        world.by_admins(set_role(OWNER.0, stray_key(1), Roles::ADMIN))
    }),
    (
        "the second last admin goes",
        Reason::TooFewAdmins,
        |world| {
            let first = world.by_admins(set_role(5, stray_key(1), Roles::NONE));
            world.run(first);
            world.by_admins(set_role(4, stray_key(2), Roles::NONE))
        },
    ),
    ("a threshold above them", Reason::TooFewAdmins, |world| {
        parameters_with(world, |parameters| parameters.threshold = 4)
    }),
    ("a class's second name", Reason::NameTaken, |world| {
        let class = ClassNumber(2);
        let rules = rules("base");
        world.by_admins(Action::SetClass(SetClass { class, rules }))
    }),
    ("a class without a name", Reason::UnlawfulRules, |world| {
        let class = BASE;
        let rules = rules("");
        world.by_admins(Action::SetClass(SetClass { class, rules }))
    }),
    ("a model without meters", Reason::UnlawfulPrices, |world| {
        let mut table = prices(2, 1);
        let mut models = table.models.to_vec();
        models[0].meters = Default::default();
        table.models = list(models);
        world.by_admins(Action::SetPriceTable(table))
    }),
    ("a model renamed", Reason::UnlawfulPrices, |world| {
        let mut table = prices(2, 1);
        let mut models = table.models.to_vec();
        models[0].name = "other".into();
        table.models = list(models);
        world.by_admins(Action::SetPriceTable(table))
    }),
    ("version 3 after 1", Reason::TableVersion, |world| {
        world.by_admins(Action::SetPriceTable(prices(3, 1)))
    }),
    (
        "a lease of a day and more",
        Reason::UnlawfulParameters,
        |world| parameters_with(world, |parameters| parameters.max_lease_ms = 86_400_001),
    ),
    ("a fee unit of nothing", Reason::UnlawfulRates, |world| {
        rates_with(world, |rates| rates.fee_unit = Amount::ZERO)
    }),
    ("a fee unit above 1000 CT", Reason::UnlawfulRates, |world| {
        rates_with(world, |rates| rates.fee_unit = Amount(1_000_000_001))
    }),
    ("no request of a key", Reason::UnlawfulRates, |world| {
        rates_with(world, |rates| rates.key.requests = 0)
    }),
    ("no token of an account", Reason::UnlawfulRates, |world| {
        rates_with(world, |rates| rates.account.tokens = 0)
    }),
    ("no token of a class", Reason::UnlawfulRates, |world| {
        rates_with(world, |rates| {
            let mut class = class_rate(0);
            class.rate.tokens = 0;
            rates.classes = list(vec![class]);
        })
    }),
    ("suspend twice", Reason::AlreadySuspended, |world| {
        let first = world.tx(ADMIN, &[], Action::SuspendGateway(G0));
        world.run(first);
        world.tx(ADMIN, &[], Action::SuspendGateway(G0))
    }),
    ("a 257th class", Reason::TableFull, |world| {
        let mut genesis = genesis();
        let names = (0..256).map(|i| rules(&format!("class-{i}")));
        genesis.classes = list(names.collect());
        *world = World::of(genesis);
        let class = ClassNumber(256);
        let rules = rules("one-more");
        world.by_admins(Action::SetClass(SetClass { class, rules }))
    }),
    ("an issuer's day", Reason::CheckerMissing, |world| {
        *world = World::ready_of(lowered(|p| p.issuer_day_limit = Amount(10)));
        let amount = Amount(11);
        world.by_issuer(grants(vec![NewGrant { amount, ..grant() }]))
    }),
    (
        "an issuer's day at an account",
        Reason::CheckerMissing,
        |world| {
            *world = World::ready_of(lowered(|p| p.issuer_day_account_limit = Amount(10)));
            let amount = Amount(6);
            let six = NewGrant { amount, ..grant() };
            world.by_issuer(grants(vec![six, six]))
        },
    ),
];

pub(crate) const BALANCE: &[Row] = &[("more than is free", Reason::Insufficient, |world| {
    with_lease(world);
    world.surrender_tx(1, 90 * CT + 1)
})];
