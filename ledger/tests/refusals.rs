//! Every refusal, in the order of precedence of the checks behind it. A row
//! makes a world and one transaction; dry run, builder and checker must all
//! refuse it with the row's reason, and it must leave no trace.

#![allow(clippy::unwrap_used)]

mod world;

use std::collections::BTreeSet;

use tally_ledger::{
    action::{
        Action, BindApiKey, Correct, Issue, Lease, NewGrant, OpenJournal, RegisterGateway, Revoke,
        SetClass, SetGatewayKey, SetRole,
    },
    correction::CorrectionProof,
    crypto::{ChainId, Domain, PublicKey, Signature},
    debit::{Debit, Flags},
    execute::{SignatureCheck, admit, build},
    hash::Hash,
    ids::*,
    parameters::Parameters,
    person::Roles,
    price::{MAX_FEE, Usage},
    reason::Reason,
    state::LIVE_IDS_PER_AUTHOR,
    transaction::{Author, AuthorKind, Body, Transaction},
};
use world::*;

type Make = fn(&mut World) -> Transaction;

fn lowered(change: impl FnOnce(&mut Parameters)) -> tally_ledger::genesis::Genesis {
    let mut genesis = genesis();
    change(&mut genesis.parameters);
    genesis
}

/// A transaction that would be accepted, of a body to be changed.
fn changed(world: &mut World, change: impl FnOnce(&mut Body)) -> Transaction {
    let action = Action::Freeze(AccountNumber(0));
    let mut body = world.body(ISSUER, &[], action);
    change(&mut body);
    world.sign(&body, Vec::new())
}

fn grants(grants: Vec<NewGrant>) -> Action {
    Action::Issue(Issue {
        grants: list(grants),
    })
}

fn grant() -> NewGrant {
    NewGrant {
        account: AccountNumber(0),
        class: BASE,
        amount: Amount(CT),
        vests: Time(START),
        expires: NEVER,
    }
}

fn with_lease(world: &mut World) -> LeaseNumber {
    world.lease(G0, |_| ()).0
}

/// A batch of one of gateway 0, on a lease, changed.
fn one_debit(world: &mut World, change: impl FnOnce(&mut Debit)) -> Transaction {
    let lease = with_lease(world);
    let mut debit = debit(lease, 5);
    change(&mut debit);
    world.debits_tx(G0, &[debit])
}

fn bind_with(world: &mut World, change: impl FnOnce(&mut BindApiKey)) -> Transaction {
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

fn parameters_with(world: &mut World, change: impl FnOnce(&mut Parameters)) -> Transaction {
    let mut parameters = *world.state.parameters();
    change(&mut parameters);
    world.by_admins(Action::SetParameters(parameters))
}

fn revoke(grant: u32) -> Action {
    Action::Revoke(Revoke {
        account: AccountNumber(0),
        grant: GrantNumber(grant),
    })
}

fn set_role(person: u32, key: PublicKey, roles: Roles) -> Action {
    Action::SetRole(SetRole {
        person: Person(person),
        key,
        roles,
    })
}

/// A correction of the receipt at `entry`, with its proof.
fn correct(world: &mut World, entry: u64, amount: u64) -> Transaction {
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
fn receipt_entry(world: &mut World) -> u64 {
    let lease = with_lease(world);
    world.debit(G0, debit(lease, 5));
    world.log.size() - 1
}

/// A table of rows: what is wrong, the reason, how to make it.
const FORM: &[(&str, Reason, Make)] = &[
    ("empty body", Reason::Malformed, |world| {
        let mut transaction = changed(world, |_| ());
        transaction.body.clear();
        transaction
    }),
    ("trailing byte", Reason::Malformed, |world| {
        let mut transaction = changed(world, |_| ());
        transaction.body.push(0);
        transaction
    }),
    ("issue of nothing", Reason::Malformed, |world| {
        world.by_issuer(grants(vec![]))
    }),
    ("models out of order", Reason::Malformed, |world| {
        bind_with(world, |bind| {
            bind.models = list(vec![ModelNumber(2), ModelNumber(1)]);
        })
    }),
    ("class twice", Reason::Malformed, |world| {
        let mut action = open_account(9);
        if let Action::OpenAccount(open) = &mut action {
            open.classes = list(vec![BASE, PRIORITY, BASE]);
        }
        world.by_issuer(action)
    }),
    ("payload over its bound", Reason::TooLarge, |world| {
        let mut transaction = changed(world, |_| ());
        transaction.payload = vec![0; 3 * 1024 * 1024 + 1];
        transaction
    }),
    ("more than a block holds", Reason::TooLarge, |world| {
        *world = World::ready_of(lowered(|p| p.max_block_bytes = 512 * 1024));
        let mut transaction = changed(world, |_| ());
        transaction.payload = vec![0; 512 * 1024];
        transaction
    }),
    (
        "more debits than a block holds",
        Reason::TooLarge,
        |world| {
            *world = World::ready_of(lowered(|p| p.max_block_debits = 1));
            let lease = with_lease(world);
            world.debits_tx(G0, &[debit(lease, 1), debit(lease, 1)])
        },
    ),
    ("version 2", Reason::UnknownVersion, |world| {
        changed(world, |body| body.version = 2)
    }),
    ("payload", Reason::UnexpectedPayload, |world| {
        let mut transaction = changed(world, |_| ());
        transaction.payload = vec![1];
        transaction
    }),
    ("no proof", Reason::MalformedPayload, |world| {
        let action = Action::Correct(Correct {
            entry: 0,
            amount: Amount(1),
            expires: NEVER,
        });
        world.by_two(action)
    }),
    ("nothing wanted", Reason::LeaseForm, |world| {
        let mut lease = world.next_lease(G0);
        lease.wanted = Amount(0);
        world.lease_tx(G0, lease)
    }),
    ("no duration", Reason::LeaseForm, |world| {
        let mut lease = world.next_lease(G0);
        lease.duration_ms = 0;
        world.lease_tx(G0, lease)
    }),
    ("no debits", Reason::DebitCount, |world| {
        world.debits_tx(G0, &[])
    }),
    ("half a debit", Reason::DebitCount, |world| {
        let mut transaction = one_debit(world, |_| ());
        transaction.payload.pop();
        transaction
    }),
];

const SIGNERS: &[(&str, Reason, Make)] = &[
    ("author not first", Reason::SignerList, |world| {
        changed(world, |body| {
            body.signers = list(vec![CHECKER.into(), ISSUER.into()]);
        })
    }),
    ("nobody", Reason::SignerList, |world| {
        changed(world, |body| body.signers = list(vec![]))
    }),
    ("author twice", Reason::SignerList, |world| {
        changed(world, |body| {
            body.signers = list(vec![ISSUER.into(), ISSUER.into()]);
        })
    }),
    ("not ascending", Reason::SignerList, |world| {
        changed(world, |body| {
            body.signers = list(vec![ISSUER.into(), Person(2).into(), CHECKER.into()]);
        })
    }),
    ("one signature too many", Reason::SignatureCount, |world| {
        let mut transaction = changed(world, |_| ());
        let signature = transaction.signatures[0];
        transaction.signatures = list(vec![signature, signature]);
        transaction
    }),
    ("no such person", Reason::UnknownSigner, |world| {
        world.tx(Person(99), &[], Action::Freeze(AccountNumber(0)))
    }),
    ("no such account", Reason::UnknownSigner, |world| {
        let action = Action::RotateHolderKey(AccountNumber(9), stray_key(1));
        world.tx(AccountNumber(9), &[], action)
    }),
    ("no such API key", Reason::UnknownSigner, |world| {
        let mut lease = world.next_lease(G0);
        lease.api_key = ApiKeyNumber(9);
        world.lease_tx(G0, lease)
    }),
    ("changed after signing", Reason::BadSignature, |world| {
        let mut transaction = changed(world, |_| ());
        let last = transaction.body.len() - 1;
        transaction.body[last] ^= 1;
        transaction
    }),
    ("signed for another chain", Reason::BadSignature, |world| {
        let body = world.body(ISSUER, &[], Action::Freeze(AccountNumber(0)));
        let chain = ChainId(Hash([1; 32]));
        Transaction::sign(&chain, &body, &[&key(ISSUER)], Vec::new())
    }),
    (
        "a further signature is bad",
        Reason::BadSignature,
        |world| {
            let mut transaction = world.by_two(Action::Freeze(AccountNumber(0)));
            let first = transaction.signatures[0];
            transaction.signatures = list(vec![first, first]);
            transaction
        },
    ),
];

const REPLAY: &[(&str, Reason, Make)] = &[
    ("no id", Reason::IdRequired, |world| {
        changed(world, |body| body.id = [0; 16])
    }),
    ("no hour", Reason::IdRequired, |world| {
        changed(world, |body| body.valid_until = 0)
    }),
    ("a gateway's id", Reason::IdForbidden, |world| {
        let action = Action::ReturnLease(LeaseNumber(1));
        let mut body = world.body(G0, &[], action);
        body.id[3] = 1;
        world.sign(&body, Vec::new())
    }),
    ("a gateway's hour", Reason::IdForbidden, |world| {
        let action = Action::ReturnLease(LeaseNumber(1));
        let mut body = world.body(G0, &[], action);
        body.valid_until = world.time().hour() + 1;
        world.sign(&body, Vec::new())
    }),
    ("the hour has come", Reason::Expired, |world| {
        let hour = world.time().hour() + 1;
        world.now = u64::from(hour) * HOUR_MS;
        changed(world, |body| body.valid_until = hour)
    }),
    ("169 hours ahead", Reason::TooFarAhead, |world| {
        let hour = world.time().hour();
        changed(world, |body| body.valid_until = hour + 169)
    }),
    ("the same again", Reason::Duplicate, |world| {
        let transaction = changed(world, |_| ());
        world.run(transaction.clone());
        transaction
    }),
    ("the same id", Reason::IdTaken, |world| {
        let transaction = changed(world, |_| ());
        let used = Body::decode(&transaction.body).unwrap();
        world.run(transaction);
        changed(world, |body| {
            body.id = used.id;
            body.valid_until += 1;
        })
    }),
];

const AUTHORITY: &[(&str, Reason, Make)] = &[
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

const REFERENCES: &[(&str, Reason, Make)] = &[
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

const POLICY: &[(&str, Reason, Make)] = &[
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

const BALANCE: &[(&str, Reason, Make)] = &[("more than is free", Reason::Insufficient, |world| {
    with_lease(world);
    world.surrender_tx(1, 90 * CT + 1)
})];

const GATEWAYS: &[(&str, Reason, Make)] = &[
    (
        "lease before a journal",
        Reason::JournalNotCurrent,
        |world| {
            let (key, caps) = (key(GatewayNumber(2)).public(), caps(1));
            let register = Action::RegisterGateway(RegisterGateway { key, caps });
            let register = world.by_admins(register);
            world.run(register);
            let lease = world.next_lease(GatewayNumber(2));
            world.lease_tx(GatewayNumber(2), lease)
        },
    ),
    (
        "debits of a fenced journal",
        Reason::JournalNotCurrent,
        |world| {
            let transaction = one_debit(world, |_| ());
            world.open_journal(G0, true);
            transaction
        },
    ),
    (
        "lease of a journal to come",
        Reason::JournalAhead,
        |world| {
            let journal = JournalNumber(2);
            let lease = world.next_lease(G0);
            world.lease_tx(G0, Lease { journal, ..lease })
        },
    ),
    ("the same journal", Reason::JournalNotNext, |world| {
        let action = Action::OpenJournal(OpenJournal {
            journal: JournalNumber(1),
            previous_intact: true,
        });
        world.tx(G0, &[], action)
    }),
    ("the same lease", Reason::LeaseNotNext, |world| {
        let lease = world.next_lease(G0);
        let transaction = world.lease_tx(G0, lease);
        world.run(transaction.clone());
        transaction
    }),
    ("another's lease", Reason::LeaseAhead, |world| {
        let lease = with_lease(world);
        world.tx(G1, &[], Action::ReturnLease(lease))
    }),
    ("returned twice", Reason::LeaseNotOpen, |world| {
        let lease = with_lease(world);
        world.return_lease(G0, lease);
        world.tx(G0, &[], Action::ReturnLease(lease))
    }),
    ("a lease to come", Reason::LeaseAhead, |world| {
        one_debit(world, |debit| debit.fixed.lease.0 += 1)
    }),
    ("another class", Reason::LeaseMismatch, |world| {
        one_debit(world, |debit| debit.fixed.class = PRIORITY)
    }),
    ("another API key", Reason::LeaseMismatch, |world| {
        let other = world.bind(0);
        one_debit(world, |debit| debit.fixed.api_key = other)
    }),
    ("another account", Reason::LeaseMismatch, |world| {
        let other = AccountNumber(world.open_account());
        one_debit(world, |debit| debit.fixed.account = other)
    }),
    ("the same batch", Reason::DebitNotNext, |world| {
        let transaction = one_debit(world, |_| ());
        world.run(transaction.clone());
        transaction
    }),
    ("an exchanged debit", Reason::DebitRoot, |world| {
        let mut transaction = one_debit(world, |_| ());
        transaction.payload[60] ^= 1;
        transaction
    }),
    ("kind 2", Reason::DebitForm, |world| {
        one_debit(world, |debit| debit.fixed.kind = 2)
    }),
    ("version 2", Reason::DebitForm, |world| {
        one_debit(world, |debit| debit.fixed.version = 2)
    }),
    ("the ledger's flag", Reason::DebitForm, |world| {
        one_debit(world, |debit| debit.fixed.flags = Flags::LATE)
    }),
    ("a count without meter", Reason::UsageForm, |world| {
        one_debit(world, |debit| {
            debit.detail.usage = Usage([1, 0, 0, 0, 0, 1]);
        })
    }),
    ("a subset above its whole", Reason::UsageForm, |world| {
        one_debit(world, |debit| {
            debit.detail.usage = Usage([1, 2, 0, 0, 0, 0]);
        })
    }),
    ("a fee of 2^62", Reason::UsageForm, |world| {
        one_debit(world, |debit| debit.fixed.fee = Amount(MAX_FEE))
    }),
    (
        "suspended, all closed",
        Reason::SuspendedAndClosed,
        |world| {
            let transaction = one_debit(world, |_| ());
            let suspend = world.tx(ADMIN, &[], Action::SuspendGateway(G0));
            world.run(suspend);
            world.return_lease(G0, LeaseNumber(1));
            transaction
        },
    ),
    ("journal 1 lost", Reason::PreviousJournalIntact, |world| {
        *world = World::of(genesis());
        let action = Action::OpenJournal(OpenJournal {
            journal: JournalNumber(1),
            previous_intact: false,
        });
        world.tx(G0, &[], action)
    }),
];

const TABLES: [&[(&str, Reason, Make)]; 8] = [
    FORM, SIGNERS, REPLAY, AUTHORITY, REFERENCES, POLICY, BALANCE, GATEWAYS,
];

#[test]
fn each_row_is_refused_for_its_reason() {
    for (what, reason, make) in TABLES.into_iter().flatten() {
        let mut world = World::ready();
        let transaction = make(&mut world);
        assert_eq!(world.refusal(&transaction), *reason, "{reason}: {what}");
    }
}

/// Reasons that need more than one transaction on one state.
const ELSEWHERE: [Reason; 2] = [Reason::TooManyIds, Reason::OnePriceTablePerBlock];

#[test]
fn every_reason_has_a_row() {
    let rows = TABLES.into_iter().flatten().map(|(_, reason, _)| *reason);
    let covered: BTreeSet<Reason> = rows.chain(ELSEWHERE).collect();
    let all: BTreeSet<Reason> = Reason::ALL.iter().copied().collect();
    assert_eq!(covered, all);
    for reason in Reason::ALL {
        assert_eq!(Reason::from_number(reason.number()), Some(*reason));
    }
}

#[test]
fn one_price_table_per_block() {
    let mut world = World::ready();
    let first = world.by_admins(Action::SetPriceTable(prices(2, 2)));
    let again = world.by_admins(Action::SetPriceTable(prices(2, 3)));
    let next = world.by_admins(Action::SetPriceTable(prices(3, 3)));
    let built = build(
        &world.state,
        world.time(),
        0,
        [&first, &again, &next],
        &tally_ledger::execute::Strict,
    );
    let refused: Vec<Reason> = built.refused.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(refused, [Reason::OnePriceTablePerBlock; 2]);
}

/// Believes every signature: for tests that are about something else.
struct Trusting;

impl SignatureCheck for Trusting {
    fn verify(&self, _: &PublicKey, _: Domain, _: &ChainId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

#[test]
fn an_author_has_at_most_so_many_live_ids() {
    let mut world = World::ready();
    let mut state = world.state.clone();
    let until = world.time().hour() + 1;
    let rotate = |world: &mut World, until| {
        let action = Action::RotateHolderKey(AccountNumber(0), stray_key(1));
        let mut body = world.body(AccountNumber(0), &[], action);
        body.valid_until = until;
        Transaction {
            body: body.encode(),
            signatures: list(vec![Signature([0; 64])]),
            payload: Vec::new(),
        }
    };
    // The world's own: the holder bound one API key.
    let mut used = 1;
    while used < LIVE_IDS_PER_AUTHOR {
        let count = 10_000.min(LIVE_IDS_PER_AUTHOR - used);
        let batch: Vec<_> = (0..count).map(|_| rotate(&mut world, until)).collect();
        let built = build(&state, state.time(), 0, batch, &Trusting);
        assert_eq!(built.refused, []);
        state.commit(built.execution);
        used += count;
    }
    let one_more = rotate(&mut world, until);
    let refused = admit(&state, state.time(), &one_more, &Trusting);
    assert_eq!(refused, Err(Reason::TooManyIds));
    // When the hour has passed, so have its ids.
    let then = Time(u64::from(until) * HOUR_MS);
    let later = rotate(&mut world, until + 1);
    assert!(admit(&state, then, &later, &Trusting).is_ok());
    let built = build(&state, then, 0, [&later], &Trusting);
    assert_eq!(built.refused, []);
    state.commit(built.execution);
    assert_eq!(
        admit(&state, then, &later, &Trusting),
        Err(Reason::Duplicate)
    );
}

#[test]
fn what_fails_twice_is_refused_for_the_earlier_check() {
    // Each change breaks one more check, earlier in the order.
    type Break = fn(&mut Body, &mut Vec<u8>);
    let breaks: [(Reason, Break); 7] = [
        (Reason::Amount, |body, _| {
            if let Action::Issue(issue) = &mut body.action {
                let amount = Amount(0);
                issue.grants = list(vec![NewGrant { amount, ..grant() }]);
            }
        }),
        (Reason::UnknownClass, |body, _| {
            if let Action::Issue(issue) = &mut body.action {
                issue.grants[0].class = ClassNumber(9);
            }
        }),
        (Reason::RoleMissing, |body, _| {
            body.author = ADMIN.into();
            body.signers = list(vec![ADMIN.into()]);
        }),
        (Reason::Expired, |body, _| body.valid_until = 1),
        (Reason::UnknownSigner, |body, _| {
            let stranger: Author = Person(77).into();
            body.signers = list(vec![body.author, stranger]);
        }),
        (Reason::SignerList, |body, _| {
            body.signers = list(vec![ISSUER.into()]);
        }),
        (Reason::UnexpectedPayload, |_, payload| payload.push(1)),
    ];
    let mut world = World::ready();
    let mut body = world.body(ISSUER, &[], grants(vec![grant()]));
    let mut payload = Vec::new();
    for (reason, change) in breaks {
        change(&mut body, &mut payload);
        let transaction = world.sign(&body, payload.clone());
        assert_eq!(world.refusal(&transaction), reason);
    }
    let mut transaction = world.sign(&body, payload);
    transaction.body[0] = 2;
    assert_eq!(world.refusal(&transaction), Reason::UnknownVersion);
}

#[test]
fn a_bad_signature_hides_what_the_author_may_not_know() {
    // A replayed id is only told to who can sign for it.
    let mut world = World::ready();
    let transaction = changed(&mut world, |_| ());
    world.run(transaction.clone());
    let mut forged = transaction;
    forged.signatures = list(vec![Signature([0; 64])]);
    assert_eq!(world.refusal(&forged), Reason::BadSignature);
    assert_eq!(AuthorKind::Person as u8, 1);
}
