//! Refusals 40 to 49: what a transaction names and is not there.

use tally_ledger::{
    action::{Action, NewGrant, SetClass},
    correction::CorrectionProof,
    ids::*,
    person::Roles,
    reason::Reason,
};

use crate::{rows::*, world::*};

pub(crate) const REFERENCES: &[Row] = &[
    ("erase", Reason::UnknownAccount, |world| {
        world.by_two(Action::Erase(AccountNumber(9)))
    }),
    ("freeze", Reason::UnknownAccount, |world| {
        world.by_issuer(Action::Freeze(AccountNumber(1)))
    }),
    ("issue", Reason::UnknownAccount, |world| {
        let account = AccountNumber(1);
        world.by_issuer(grants(vec![grant(), NewGrant { account, ..grant() }]))
    }),
    ("debit", Reason::UnknownAccount, |world| {
        one_debit(world, |debit| debit.fixed.account.0 = 1)
    }),
    ("issue", Reason::UnknownClass, |world| {
        let class = ClassNumber(2);
        world.by_issuer(grants(vec![NewGrant { class, ..grant() }]))
    }),
    ("a class beyond the next", Reason::UnknownClass, |world| {
        let class = ClassNumber(3);
        let rules = rules("new");
        world.by_admins(Action::SetClass(SetClass { class, rules }))
    }),
    ("rates", Reason::UnknownClass, |world| {
        rates_with(world, |rates| {
            rates.classes = list(vec![class_rate(0), class_rate(2)]);
        })
    }),
    ("debit", Reason::UnknownClass, |world| {
        one_debit(world, |debit| debit.fixed.class.0 = 2)
    }),
    ("revoke", Reason::UnknownGrant, |world| {
        world.by_issuer(revoke(2))
    }),
    ("a grant that is spent", Reason::UnknownGrant, |world| {
        let all = world.surrender_tx(1, 100 * CT);
        world.run(all);
        world.surrender_tx(1, 1)
    }),
    ("revoke", Reason::UnknownApiKey, |world| {
        world.by_issuer(Action::RevokeApiKey(ApiKeyNumber(1)))
    }),
    ("debit", Reason::UnknownApiKey, |world| {
        one_debit(world, |debit| debit.fixed.api_key.0 = 1)
    }),
    ("suspend", Reason::UnknownGateway, |world| {
        world.tx(ADMIN, &[], Action::SuspendGateway(GatewayNumber(2)))
    }),
    ("the unit of nobody", Reason::UnknownPerson, |world| {
        let next = world.state.persons().len() as u32;
        world.by_admins(set_unit(next))
    }),
    ("a person beyond the next", Reason::UnknownPerson, |world| {
        world.by_admins(set_role(10, stray_key(1), Roles::NONE))
    }),
    ("bind", Reason::UnknownModel, |world| {
        bind_with(world, |bind| bind.models = list(vec![ModelNumber(3)]))
    }),
    ("debit", Reason::UnknownModel, |world| {
        one_debit(world, |debit| debit.detail.model = ModelNumber(3))
    }),
    ("table 0", Reason::UnknownTable, |world| {
        one_debit(world, |debit| debit.detail.table = TableVersion(0))
    }),
    ("table of the next block", Reason::UnknownTable, |world| {
        let lease = with_lease(world);
        let table = world.by_admins(Action::SetPriceTable(prices(2, 3)));
        world.run(table);
        let mut late = debit(lease, 5);
        late.detail.table = TableVersion(3);
        world.debits_tx(G0, &[late])
    }),
    (
        "table older than the lease",
        Reason::UnknownTable,
        |world| {
            let table = world.by_admins(Action::SetPriceTable(prices(2, 3)));
            world.run(table);
            one_debit(world, |_| ())
        },
    ),
    ("correct a lease entry", Reason::UnknownReceipt, |world| {
        with_lease(world);
        let entry = world.log.size() - 1;
        correct(world, entry, 1)
    }),
    ("another receipt's place", Reason::BadInclusion, |world| {
        let entry = receipt_entry(world);
        let mut transaction = correct(world, entry, 1);
        let other = correct(world, entry - 1, 1);
        let mut proof = CorrectionProof::decode(&transaction.payload).unwrap();
        proof.path = CorrectionProof::decode(&other.payload).unwrap().path;
        transaction.payload = proof.encode();
        transaction
    }),
    ("a proof that has aged", Reason::BadInclusion, |world| {
        let entry = receipt_entry(world);
        let transaction = correct(world, entry, 1);
        world.open_account();
        transaction
    }),
];
