//! What rows are made with.

use tally_ledger::{
    action::{Action, BindApiKey, Correct, Issue, NewGrant, Revoke, SetRole, SetUnit},
    correction::CorrectionProof,
    crypto::PublicKey,
    debit::Debit,
    genesis::Genesis,
    ids::*,
    parameters::Parameters,
    person::Roles,
    rates::{ClassRate, Rate, Rates},
    reason::Reason,
    transaction::{Body, Transaction},
};

use crate::world::*;

/// What is wrong, the reason, how to make it.
pub(crate) type Row = (&'static str, Reason, fn(&mut World) -> Transaction);

pub(crate) fn lowered(change: impl FnOnce(&mut Parameters)) -> Genesis {
    let mut genesis = genesis();
    change(&mut genesis.parameters);
    genesis
}

/// A transaction that would be accepted, of a body to be changed.
pub(crate) fn changed(world: &mut World, change: impl FnOnce(&mut Body)) -> Transaction {
    let action = Action::Freeze(AccountNumber(0));
    let mut body = world.body(ISSUER, &[], action);
    change(&mut body);
    world.sign(&body, Vec::new())
}

pub(crate) fn grants(grants: Vec<NewGrant>) -> Action {
    Action::Issue(Issue {
        grants: list(grants),
    })
}

pub(crate) fn grant() -> NewGrant {
    NewGrant {
        account: AccountNumber(0),
        class: BASE,
        amount: Amount(CT),
        vests: Time(START),
        expires: NEVER,
    }
}

pub(crate) fn with_lease(world: &mut World) -> LeaseNumber {
    world.lease(G0, |_| ()).0
}

/// A batch of one of gateway 0, on a lease, changed.
pub(crate) fn one_debit(world: &mut World, change: impl FnOnce(&mut Debit)) -> Transaction {
    let lease = with_lease(world);
    let mut debit = debit(lease, 5);
    change(&mut debit);
    world.debits_tx(G0, &[debit])
}

pub(crate) fn bind_with(world: &mut World, change: impl FnOnce(&mut BindApiKey)) -> Transaction {
    let mut action = BindApiKey {
        account: AccountNumber(0),
        key: stray_key(99),
        models: Default::default(),
        cap: Amount(CT),
        expires: NEVER,
    };
    change(&mut action);
    world.by_holder(0, Action::BindApiKey(action))
}

pub(crate) fn parameters_with(
    world: &mut World,
    change: impl FnOnce(&mut Parameters),
) -> Transaction {
    let mut parameters = *world.state.parameters();
    change(&mut parameters);
    world.by_admins(Action::SetParameters(parameters))
}

pub(crate) fn class_rate(class: u16) -> ClassRate {
    ClassRate {
        class: ClassNumber(class),
        rate: Rate::NONE,
    }
}

pub(crate) fn rates_with(world: &mut World, change: impl FnOnce(&mut Rates)) -> Transaction {
    let mut rates = Rates::default();
    change(&mut rates);
    world.by_admins(Action::SetRates(rates))
}

pub(crate) fn revoke(grant: u32) -> Action {
    Action::Revoke(Revoke {
        account: AccountNumber(0),
        grant: GrantNumber(grant),
    })
}

pub(crate) fn set_role(person: u32, key: PublicKey, roles: Roles) -> Action {
    Action::SetRole(SetRole {
        person: Person(person),
        key,
        roles,
    })
}

pub(crate) fn set_unit(person: u32) -> Action {
    Action::SetUnit(SetUnit {
        person: Person(person),
        unit: Some(7),
    })
}

/// A correction of the receipt at `entry`, with its proof.
pub(crate) fn correct(world: &mut World, entry: u64, amount: u64) -> Transaction {
    let action = Action::Correct(Correct {
        entry,
        amount: Amount(amount),
        expires: NEVER,
    });
    let body = world.body(ISSUER, &[CHECKER.into()], action);
    let size = world.log.size();
    let proof = CorrectionProof {
        leaf: list(world.entries[entry as usize].leaf()),
        path: list(world.log.inclusion(entry, size).unwrap()),
    };
    world.sign(&body, proof.encode())
}

/// A world with a receipt of 5 micro-CT as its last entry.
pub(crate) fn receipt_entry(world: &mut World) -> u64 {
    let lease = with_lease(world);
    world.debit(G0, debit(lease, 5));
    world.log.size() - 1
}
