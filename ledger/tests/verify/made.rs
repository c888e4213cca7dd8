//! The histories that are verified: every kind of transaction, a busy block.

use tally_ledger::{
    action::{
        Action, Correct, RegisterGateway, Revoke, SetClass, SetGatewayKey, SetRole, Surrender,
    },
    codec,
    correction::CorrectionProof,
    debit::Flags,
    ids::*,
    person::Roles,
    rates::{Rate, Rates},
    transaction::Body,
};

use crate::{history::History, world::*};

fn by_admins(world: &mut World, action: Action) {
    let transaction = world.by_admins(action);
    world.run(transaction);
}

fn by_issuers(world: &mut World, action: Action) {
    let transaction = world.by_two(action);
    world.run(transaction);
}

/// Every kind of transaction, one in a block.
pub(crate) fn everything() -> World {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let batch = [
        first_version(debit(lease, 5)),
        first_version(debit(lease, 6)),
    ];
    let batch = world.debits_tx(G0, &batch);
    world.run(batch);
    let entry = world.log.size() - 1;
    world.debit(G0, debit(lease, 7));
    world.return_lease(G0, lease);
    let action = Action::Correct(Correct {
        entry,
        amount: Amount(3),
        expires: Time(world.now + DAY_MS),
    });
    let body = world.body(ISSUER, &[CHECKER.into()], action);
    let proof = CorrectionProof {
        leaf: list(world.entries[entry as usize].leaf()),
        path: list(world.log.inclusion(entry, world.log.size()).unwrap()),
    };
    let correct = world.sign(&body, proof.encode());
    world.run(correct);
    world.issue(0, BASE, 5 * CT);
    let surrender = world.by_holder(
        0,
        Action::Surrender(Surrender {
            account: AccountNumber(0),
            grant: GrantNumber(3),
            amount: Amount(CT),
        }),
    );
    world.run(surrender);
    let revoke = Action::Revoke(Revoke {
        account: AccountNumber(0),
        grant: GrantNumber(3),
    });
    by_issuers(&mut world, revoke);
    by_issuers(&mut world, Action::Freeze(AccountNumber(0)));
    by_issuers(&mut world, Action::Unfreeze(AccountNumber(0)));
    by_issuers(&mut world, Action::RevokeApiKey(ApiKeyNumber(0)));
    let rotate = Action::RotateHolderKey(AccountNumber(0), stray_key(77));
    by_issuers(&mut world, rotate);
    let role = SetRole {
        person: Person(9),
        key: stray_key(78),
        roles: Roles::ISSUER,
    };
    by_admins(&mut world, Action::SetRole(role));
    let class = SetClass {
        class: ClassNumber(2),
        rules: rules("third"),
    };
    by_admins(&mut world, Action::SetClass(class));
    by_admins(&mut world, Action::SetPriceTable(prices(2, 2)));
    let mut parameters = *world.state.parameters();
    parameters.heartbeat_ms = 7_000;
    by_admins(&mut world, Action::SetParameters(parameters));
    let register = RegisterGateway {
        key: stray_key(79),
        caps: caps(CT),
    };
    by_admins(&mut world, Action::RegisterGateway(register));
    let set = SetGatewayKey {
        gateway: GatewayNumber(2),
        key: stray_key(80),
        caps: caps(CT),
    };
    by_admins(&mut world, Action::SetGatewayKey(set));
    let rates = Rates {
        fee_unit: Amount(2_000),
        key: Rate {
            requests: 60,
            tokens: 10_000,
        },
        account: Rate::NONE,
        classes: list(vec![]),
    };
    by_admins(&mut world, Action::SetRates(rates));
    by_admins(&mut world, Action::SuspendGateway(G1));
    // A heartbeat: no entries.
    world.block(&[]);
    let mut tags: Vec<u32> = (world.blocks.iter().flat_map(|block| &block.transactions))
        .map(|transaction| {
            let action = Body::decode(&transaction.body).unwrap().action;
            u32::from_le_bytes(codec::encode(&action)[..4].try_into().unwrap())
        })
        .collect();
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags, (0..22).collect::<Vec<_>>(), "every kind is there");
    world
}

/// Four transactions in the last block; the last of them has 20 debits.
pub(crate) fn busy() -> History {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let (other, ..) = world.lease(G1, |_| ());
    let open = open_account(1);
    let open = world.by_issuer(open);
    let grant = issue_one(0, PRIORITY, CT, world.time(), Time(world.now + DAY_MS));
    let grant = world.by_two(grant);
    let small = world.debits_tx(G1, &[debit(other, 3)]);
    let mut twenty: Vec<_> = (1..=20).map(|input| debit(lease, input)).collect();
    twenty[17].fixed.flags = Flags::ESTIMATED;
    let twenty = world.debits_tx(G0, &twenty);
    world.block(&[open, grant, small, twenty]);
    History::of(world)
}

/// Where the twenty debits' receipts begin among the block's entries.
pub(crate) const TWENTY: usize = 3;
