//! Every refusal, in the order of precedence of the checks behind it. A row
//! makes a world and one transaction; dry run, builder and checker must all
//! refuse it with the row's reason, and it must leave no trace.

#![allow(clippy::unwrap_used)]

mod authority;
mod envelope;
mod evidence;
mod gateways;
mod policy;
mod references;
mod rows;
#[path = "../world/mod.rs"]
mod world;

use std::collections::BTreeSet;

use authority::AUTHORITY;
use envelope::{FORM, REPLAY, SIGNERS};
use evidence::EVIDENCE;
use gateways::GATEWAYS;
use policy::{BALANCE, POLICY};
use references::REFERENCES;
use rows::*;
use tally_ledger::{
    action::{Action, NewGrant},
    crypto::{ChainId, Domain, PublicKey, Signature},
    execute::{SignatureCheck, admit, build},
    ids::*,
    reason::Reason,
    state::LIVE_IDS_PER_AUTHOR,
    transaction::{Author, AuthorKind, Body, Transaction},
};
use world::*;

const TABLES: [&[Row]; 9] = [
    FORM, SIGNERS, REPLAY, AUTHORITY, REFERENCES, POLICY, BALANCE, EVIDENCE, GATEWAYS,
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
const ELSEWHERE: [Reason; 3] = [
    Reason::TooManyIds,
    Reason::OnePriceTablePerBlock,
    Reason::EvidencePerBlock,
];

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

#[test]
fn so_much_evidence_per_block() {
    let mut world = World::ready();
    let evidence = [1, 2, 3, 4, 5].map(|height| world.double_vote(place(1, height)));
    let transactions =
        evidence.map(|evidence| world.tx(validator(0), &[], Action::Evidence(Box::new(evidence))));
    let built = build(
        &world.state,
        world.time(),
        0,
        &transactions,
        &tally_ledger::execute::Strict,
    );
    let last = transactions[4].id();
    assert_eq!(built.refused, [(last, Reason::EvidencePerBlock)]);
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
