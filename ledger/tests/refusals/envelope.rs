//! Refusals 1 to 26: form, signatures, replay; and what can be said of an
//! action's form without the state.

use tally_ledger::{
    action::{Action, Correct},
    crypto::ChainId,
    hash::Hash,
    ids::*,
    reason::Reason,
    transaction::{Body, Transaction},
};

use crate::{rows::*, world::*};

pub(crate) const FORM: &[Row] = &[
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
    ("rates out of order", Reason::Malformed, |world| {
        rates_with(world, |rates| {
            rates.classes = list(vec![class_rate(1), class_rate(0)]);
        })
    }),
    ("rates with a class twice", Reason::Malformed, |world| {
        rates_with(world, |rates| {
            rates.classes = list(vec![class_rate(1), class_rate(1)]);
        })
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

pub(crate) const SIGNERS: &[Row] = &[
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

pub(crate) const REPLAY: &[Row] = &[
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
