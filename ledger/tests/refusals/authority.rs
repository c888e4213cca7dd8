//! Refusals 30 to 34: who may do what.

use tally_ledger::{
    action::Action, ids::*, person::Roles, rates::Rates, reason::Reason, transaction::Body,
};

use crate::{rows::*, world::*};

pub(crate) const AUTHORITY: &[Row] = &[
    ("an account freezes", Reason::WrongAuthor, |world| {
        world.by_holder(0, Action::Freeze(AccountNumber(0)))
    }),
    ("an issuer surrenders", Reason::WrongAuthor, |world| {
        let holder = world.surrender_tx(1, 1);
        let action = Body::decode(&holder.body).unwrap().action;
        world.by_two(action)
    }),
    ("a person leases", Reason::WrongAuthor, |world| {
        world.by_issuer(Action::ReturnLease(LeaseNumber(1)))
    }),
    ("a gateway revokes a key", Reason::WrongAuthor, |world| {
        world.tx(G0, &[], Action::RevokeApiKey(ApiKeyNumber(0)))
    }),
    ("a gateway sets rates", Reason::WrongAuthor, |world| {
        world.tx(G0, &[], Action::SetRates(Rates::default()))
    }),
    ("issuers set rates", Reason::RoleMissing, |world| {
        world.by_two(Action::SetRates(Rates::default()))
    }),
    (
        "an admin and an issuer set rates",
        Reason::ThresholdMissing,
        |world| {
            let action = Action::SetRates(Rates::default());
            world.tx(ADMIN, &[ISSUER.into()], action)
        },
    ),
    ("a gateway sets a unit", Reason::WrongAuthor, |world| {
        world.tx(G0, &[], set_unit(0))
    }),
    ("issuers set a unit", Reason::RoleMissing, |world| {
        world.by_two(set_unit(0))
    }),
    (
        "an admin sets a unit alone",
        Reason::ThresholdMissing,
        |world| world.tx(ADMIN, &[], set_unit(0)),
    ),
    ("an admin freezes", Reason::RoleMissing, |world| {
        world.tx(ADMIN, &[], Action::Freeze(AccountNumber(0)))
    }),
    ("an issuer suspends", Reason::RoleMissing, |world| {
        world.by_two(Action::SuspendGateway(G0))
    }),
    (
        "an issuer unfreezes alone",
        Reason::CheckerMissing,
        |world| world.by_issuer(Action::Unfreeze(AccountNumber(0))),
    ),
    (
        "a gateway erases an account",
        Reason::WrongAuthor,
        |world| world.tx(G0, &[], Action::Erase(AccountNumber(0))),
    ),
    ("an admin erases", Reason::RoleMissing, |world| {
        world.tx(ADMIN, &[ISSUER.into()], Action::Erase(AccountNumber(0)))
    }),
    ("an issuer erases alone", Reason::CheckerMissing, |world| {
        world.by_issuer(Action::Erase(AccountNumber(0)))
    }),
    ("a holder erases alone", Reason::CheckerMissing, |world| {
        world.by_holder(0, Action::Erase(AccountNumber(0)))
    }),
    (
        "a holder erases with an admin",
        Reason::CheckerMissing,
        |world| {
            let erase = Action::Erase(AccountNumber(0));
            world.tx(AccountNumber(0), &[ADMIN.into()], erase)
        },
    ),
    (
        "a holder erases another's account",
        Reason::NotYours,
        |world| {
            let account = world.open_account();
            let erase = Action::Erase(AccountNumber(0));
            world.tx(AccountNumber(account), &[ISSUER.into()], erase)
        },
    ),
    ("an admin is no checker", Reason::CheckerMissing, |world| {
        world.tx(ISSUER, &[ADMIN.into()], Action::Unfreeze(AccountNumber(0)))
    }),
    ("an issuer binds alone", Reason::CheckerMissing, |world| {
        world.by_issuer(bind(0, 9))
    }),
    ("an admin alone", Reason::ThresholdMissing, |world| {
        world.tx(ADMIN, &[], set_role(9, stray_key(1), Roles::NONE))
    }),
    ("another's account", Reason::NotYours, |world| {
        let account = world.open_account();
        world.by_holder(account, bind(0, 9))
    }),
    ("another's API key", Reason::NotYours, |world| {
        let account = world.open_account();
        world.by_holder(account, Action::RevokeApiKey(ApiKeyNumber(0)))
    }),
    ("an API key and its neighbour", Reason::NotYours, |world| {
        let other = world.bind(0);
        world.tx(other, &[], Action::RevokeApiKey(ApiKeyNumber(0)))
    }),
    ("the API key has not signed", Reason::NotYours, |world| {
        let lease = world.next_lease(G0);
        world.tx(G0, &[], Action::Lease(lease))
    }),
    (
        "the API key is another account's",
        Reason::NotYours,
        |world| {
            let mut lease = world.next_lease(G0);
            lease.account = AccountNumber(world.open_account());
            world.lease_tx(G0, lease)
        },
    ),
];
