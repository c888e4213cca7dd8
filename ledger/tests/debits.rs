//! Debits: what is charged, to whom the rest is booked, which flags say so,
//! and how the journal's running hash follows.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    action::{Action, BindApiKey},
    debit::{Debit, Flags, Position, Queued, batch_leaf, journal_hash, record_bytes},
    entry::Receipt,
    execute::{Strict, admit, build},
    hash::Hash,
    ids::*,
    merkle::leaf_hash,
    reason::Reason,
};
use world::*;

const NONE: Flags = Flags(0);

fn check(receipt: &Receipt, cost: u64, charged: u64, flags: Flags) {
    let got = (receipt.cost.0, receipt.charged.0, receipt.flags.names());
    assert_eq!(got, (cost, charged, flags.names()));
}

/// A lease of 1,000 micro-CT on the priority class, which pays fees.
fn priority() -> (World, LeaseNumber) {
    let mut world = World::ready();
    world.issue(0, PRIORITY, 10 * CT);
    let (lease, ..) = world.lease(G0, |lease| {
        lease.class = PRIORITY;
        lease.wanted = Amount(1000);
    });
    (world, lease)
}

fn priority_debit(lease: LeaseNumber, input: u32) -> Debit {
    let mut debit = debit(lease, input);
    debit.fixed.class = PRIORITY;
    debit
}

#[test]
fn what_is_charged_and_what_is_loss() {
    // (input, limit, fee) -> (cost, charged, capped)
    let rows = [
        (7, u64::MAX, 0, 7, 7, false),
        (7, 7, 0, 7, 7, false),
        (7, 6, 0, 7, 6, true),
        (1000, u64::MAX, 0, 1000, 1000, false),
        (1001, u64::MAX, 0, 1001, 1000, true),
        (7, u64::MAX, 5, 12, 12, false),
        (0, u64::MAX, 0, 0, 0, false),
        (7, 0, 0, 7, 0, true),
    ];
    for (input, limit, fee, cost, charged, capped) in rows {
        let (mut world, lease) = priority();
        let mut debit = priority_debit(lease, input);
        debit.fixed.limit = Amount(limit);
        debit.fixed.fee = Amount(fee);
        let receipt = world.debit(G0, debit);
        let flags = if capped { Flags::CAPPED } else { NONE };
        check(&receipt, cost, charged, flags);
        let totals = world.state.accounts()[0].totals_of(PRIORITY);
        assert_eq!(totals, world.state.class(PRIORITY).unwrap().totals);
        assert_eq!((totals.spent.0, totals.leased.0), (charged, 1000 - charged));
        assert_eq!(totals.loss.0, u128::from(cost - charged));
        let gateway = world.state.gateway(G0).unwrap();
        assert_eq!(gateway.loss.0, u128::from(cost - charged));
        assert_eq!(gateway.open.0, 1000 - charged);
        let api_key = world.state.api_key(ApiKeyNumber(0)).unwrap();
        assert_eq!(
            (api_key.spent.0, api_key.leased.0),
            (charged, 1000 - charged)
        );
    }
}

#[test]
fn a_fee_above_the_class_is_loss_and_not_capped() {
    let (mut world, lease) = priority();
    let mut debit = priority_debit(lease, 7);
    debit.fixed.fee = Amount(CT + 3);
    debit.fixed.limit = Amount(u64::MAX);
    // The class pays 1 CT of the fee; the lease has 1,000.
    check(&world.debit(G0, debit), CT + 10, 1000, Flags::CAPPED);
    // The base class pays no fee at all; the rest is charged in full.
    let (lease, ..) = world.lease(G0, |_| ());
    let mut debit = world::debit(lease, 7);
    debit.fixed.fee = Amount(5);
    check(&world.debit(G0, debit), 12, 7, NONE);
}

#[test]
fn both_versions_are_charged_alike_and_follow_each_other_in_a_journal() {
    let (mut world, lease) = priority();
    let mut queued = priority_debit(lease, 7);
    queued.fixed.fee = Amount(5);
    queued.detail.queued = Some(Queued {
        queue: 2,
        joined: u64::MAX,
        dispatched: 3,
    });
    for debits in [
        [first_version(queued); 3],
        [queued; 3],
        [first_version(queued); 3],
    ] {
        let transaction = world.debits_tx(G0, &debits);
        let length = 3 * record_bytes(debits[0].fixed.version).unwrap();
        assert_eq!(transaction.payload.len(), length);
        for receipt in receipts(&world.run(transaction)) {
            check(&receipt, 12, 12, NONE);
            assert_eq!(receipt.detail, debits[0].detail.hash());
        }
    }
    assert_eq!(world.state.gateway(G0).unwrap().last_debit.0, 9);
}

#[test]
fn the_gateways_flags_stay() {
    let (mut world, lease) = priority();
    let mut debit = priority_debit(lease, 7);
    debit.fixed.flags = Flags::FROM_GATEWAY;
    check(&world.debit(G0, debit), 7, 7, Flags::FROM_GATEWAY);
}

#[test]
fn models_that_class_or_key_may_not_buy_are_flagged() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let mut dear = debit(lease, 7);
    dear.detail.model = ModelNumber(2);
    check(&world.debit(G0, dear), 70, 70, Flags::CLASS_RULE);
    // An API key for model 2 only, on a class that buys all.
    world.issue(0, PRIORITY, CT);
    let action = Action::BindApiKey(BindApiKey {
        account: AccountNumber(0),
        key: key(ApiKeyNumber(1)).public(),
        models: list(vec![ModelNumber(2)]),
        cap: Amount(u64::MAX),
        expires: NEVER,
    });
    let transaction = world.by_holder(0, action);
    world.run(transaction);
    let (lease, ..) = world.lease(G0, |lease| {
        lease.class = PRIORITY;
        lease.api_key = ApiKeyNumber(1);
        lease.wanted = Amount(1000);
    });
    for (model, cost, flags) in [(2, 70, NONE), (1, 7, Flags::CLASS_RULE)] {
        let mut debit = priority_debit(lease, 7);
        debit.fixed.api_key = ApiKeyNumber(1);
        debit.detail.model = ModelNumber(model);
        check(&world.debit(G0, debit), cost, cost, flags);
    }
}

#[test]
fn late_and_after_recall() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let end = world.state.accounts()[0].lease(G0, lease).unwrap().end;
    // In the very block of its end step it is late, and still pays.
    world.now = end.0 - 1;
    check(&world.debit(G0, debit(lease, 1)), 1, 1, NONE);
    world.now = end.0;
    check(&world.debit(G0, debit(lease, 2)), 2, 2, Flags::LATE);
    // Recalled after its end: that is past.
    world.open_journal(G0, true);
    check(&world.debit(G0, debit(lease, 3)), 3, 3, Flags::LATE);

    let (lease, ..) = world.lease(G0, |_| ());
    let freeze = world.by_issuer(Action::Freeze(AccountNumber(0)));
    let spend = world.debits_tx(G0, &[debit(lease, 4)]);
    // In the block of the recall it has not ended yet.
    let entries = world.block(&[freeze, spend]);
    check(&receipts(&entries)[0], 4, 4, Flags::AFTER_RECALL);
    let both = Flags::AFTER_RECALL.with(Flags::LATE);
    check(&world.debit(G0, debit(lease, 5)), 5, 5, both);
    // Closed: nothing can be charged, and nobody knows of the recall.
    world.return_lease(G0, lease);
    let closed = Flags::LATE.with(Flags::CAPPED);
    check(&world.debit(G0, debit(lease, 6)), 6, 0, closed);
    check(&world.debit(G0, debit(lease, 0)), 0, 0, Flags::LATE);
    let account = &world.state.accounts()[0];
    assert_eq!(account.totals_of(BASE).loss.0, 6);
}

#[test]
fn on_a_closed_lease_account_class_and_key_need_only_exist() {
    let mut world = World::ready();
    let other = world.open_account();
    let other_key = world.bind(other);
    let (lease, ..) = world.lease(G0, |_| ());
    world.return_lease(G0, lease);
    let mut debit = debit(lease, 6);
    debit.fixed.account = AccountNumber(other);
    debit.fixed.class = PRIORITY;
    debit.fixed.api_key = other_key;
    let closed = Flags::LATE.with(Flags::CAPPED);
    check(&world.debit(G0, debit), 6, 0, closed);
    let totals = world.state.accounts()[other as usize].totals_of(PRIORITY);
    assert_eq!((totals.issued.0, totals.loss.0), (0, 6));
}

#[test]
fn parts_are_spent_in_the_order_taken() {
    let mut world = World::ready();
    let later = Time(START + 20 * DAY_MS);
    let now = world.time();
    world.issue_dated(0, BASE, 10, now, Time(START + 10 * DAY_MS));
    world.issue_dated(0, BASE, 20, now, later);
    let (lease, ..) = world.lease(G0, |lease| lease.wanted = Amount(35));
    let left = |world: &World| -> Vec<(u32, u64)> {
        let lease = world.state.accounts()[0].lease(G0, lease).unwrap();
        let parts = lease.parts.iter();
        parts.map(|part| (part.grant.0, part.amount.0)).collect()
    };
    assert_eq!(left(&world), [(2, 10), (3, 20), (1, 5)]);
    world.debit(G0, debit(lease, 4));
    assert_eq!(left(&world), [(2, 6), (3, 20), (1, 5)]);
    world.debit(G0, debit(lease, 6));
    assert_eq!(left(&world), [(3, 20), (1, 5)]);
    assert!(world.state.accounts()[0].grant(GrantNumber(2)).is_none());
    world.debit(G0, debit(lease, 21));
    assert_eq!(left(&world), [(1, 4)]);
    world.debit(G0, debit(lease, 99));
    assert_eq!(left(&world), []);
    // An empty lease stays open until it is closed.
    let closed = events(&world.return_lease(G0, lease));
    assert!(format!("{closed:?}").contains("returned: Amount(0)"));
}

#[test]
fn a_table_is_in_force_from_the_block_after_its_entry() {
    let mut world = World::ready();
    let (old, ..) = world.lease(G0, |_| ());
    let mut new = debit(old, 5);
    new.detail.table = TableVersion(2);
    let set = world.by_admins(Action::SetPriceTable(prices(2, 3)));
    let early = world.debits_tx(G0, &[new]);
    let now = world.time();
    let built = build(&world.state, now, 0, [&set, &early], &Strict);
    assert_eq!(built.refused, [(early.id(), Reason::UnknownTable)]);
    world.run(set);
    assert_eq!(world.state.counts().table, TableVersion(1));
    // From here on the old lease may use either, a new one only the new.
    check(&world.debit(G0, new), 15, 15, NONE);
    assert_eq!(world.state.counts().table, TableVersion(2));
    check(&world.debit(G0, debit(old, 5)), 5, 5, NONE);
    let (lease, ..) = world.lease(G0, |_| ());
    let transaction = world.debits_tx(G0, &[debit(lease, 5)]);
    assert_eq!(world.refusal(&transaction), Reason::UnknownTable);
}

#[test]
fn one_refused_debit_refuses_its_batch() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let mut bad = debit(lease, 1);
    bad.fixed.class = ClassNumber(77);
    let transaction = world.debits_tx(G0, &[debit(lease, 1), debit(lease, 2), bad]);
    assert_eq!(world.refusal(&transaction), Reason::UnknownClass);
    assert_eq!(world.state.gateway(G0).unwrap().last_debit.0, 0);
}

#[test]
fn receipts_are_numbered_and_the_journal_hash_runs() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let debits: Vec<Debit> = (1..=5).map(|input| debit(lease, input)).collect();
    let before = world.state.accounts()[0].entries;
    let transaction = world.debits_tx(G0, &debits);
    let found = receipts(&world.run(transaction));
    let mut hash = Hash::ZERO;
    for (i, (receipt, debit)) in found.iter().zip(&debits).enumerate() {
        let number = DebitNumber(i as u64 + 1);
        let position = Position {
            gateway: G0,
            journal: JournalNumber(1),
            number,
        };
        assert_eq!(receipt.position, position);
        assert_eq!(receipt.entry, before + number.0 as u32);
        assert_eq!(receipt.detail, debit.detail.hash());
        let leaf = batch_leaf(&position, &debit.fixed.write(), &receipt.detail);
        hash = journal_hash(&hash, &leaf_hash(&leaf));
    }
    let gateway = world.state.gateway(G0).unwrap();
    assert_eq!((gateway.last_debit.0, gateway.journal_hash), (5, hash));
    assert_eq!(world.state.accounts()[0].entries, before + 5);
}

#[test]
fn a_suspended_gateway_settles_until_its_last_lease_is_closed() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let suspend = world.tx(ADMIN, &[], Action::SuspendGateway(G0));
    world.run(suspend);
    let both = Flags::AFTER_RECALL.with(Flags::LATE);
    check(&world.debit(G0, debit(lease, 5)), 5, 5, both);
    world.return_lease(G0, lease);
    let transaction = world.debits_tx(G0, &[debit(lease, 5)]);
    assert_eq!(world.refusal(&transaction), Reason::SuspendedAndClosed);
}

#[test]
fn batches_may_be_sent_ahead() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let journal = JournalNumber(1);
    let batch = |world: &mut World, first: u64| {
        let debits = [debit(lease, 1), debit(lease, 2)];
        let body = world.debits_body(G0, journal, DebitNumber(first), &debits);
        world.sign(&body, payload(&debits))
    };
    let (first, second) = (batch(&mut world, 1), batch(&mut world, 3));
    let now = world.time();
    let admitted = admit(&world.state, now, &second, &Strict);
    assert_eq!(admitted, Ok(second.id()));
    let mut damaged = second.clone();
    damaged.payload[40] ^= 1;
    let refused = admit(&world.state, now, &damaged, &Strict);
    assert_eq!(refused, Err(Reason::DebitRoot));
    world.refused_in_block(&second, Reason::DebitNotNext);
    let entries = world.block(&[first, second]);
    assert_eq!(receipts(&entries).len(), 4);
}

#[test]
fn no_gateway_can_fill_a_sum_of_losses() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let mut absurd = debit(lease, 0);
    absurd.fixed.fee = Amount((1 << 62) - 1);
    let transaction = world.debits_tx(G0, &[absurd; 9]);
    world.run(transaction);
    let loss = world.state.class(BASE).unwrap().totals.loss;
    assert_eq!(loss.0, 9 * ((1 << 62) - 1));
    check(&world.debit(G0, debit(lease, 5)), 5, 5, NONE);
}
