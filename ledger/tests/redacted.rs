//! Blocks that lost details: what they still prove and do, and what is found
//! out when somebody lies about what was lost. And Erase, which asks for it.

#![allow(clippy::unwrap_used)]

#[path = "support/vectors.rs"]
mod vectors;
mod world;

use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    block::Block,
    codec,
    debit::{Detail, Position},
    entry::{Entry, Event, Receipt},
    execute::{BlockError, Strict, build, check, check_stored},
    hash::Hash,
    history::{HistoryFile, Shown, Subject},
    ids::*,
    merkle::{Levels, leaf_hash},
    reason::Reason,
    receipt::{DebitProof, PriceCheck, ReceiptFile},
    redacted::{OtherReceipts, REDACTED_VERSION, RedactedBlock, StoredBlock, leaf_of},
    state::State,
    transaction::{Body, Transaction},
};
use world::*;

/// A block with two batches and what else, the state before it, and its
/// receipts.
struct Made {
    before: State,
    block: Block,
    receipts: Vec<Receipt>,
}

const LIMIT: usize = 1 << 20;

fn made() -> Made {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| {});
    let (other, ..) = world.lease(G1, |_| {});
    let debits: Vec<_> = (1..=5).map(|input| debit(lease, input)).collect();
    let mut with_fee = debit(other, 9);
    // The base class pays no fee.
    with_fee.fixed.fee = Amount(70);
    let transactions = [
        world.debits_tx(G0, &debits),
        world.by_holder(0, bind(0, 7)),
        world.debits_tx(G1, &[with_fee, debit(other, 8)]),
    ];
    let built = build(&world.state, world.time(), 0, transactions.iter(), &Strict);
    assert_eq!(built.refused, []);
    let receipts = built.execution.entries().iter().filter_map(receipt);
    Made {
        receipts: receipts.collect(),
        before: world.state,
        block: built.block,
    }
}

fn receipt(entry: &Entry) -> Option<Receipt> {
    match entry {
        Entry::Receipt(receipt) => Some(*receipt),
        Entry::Event(..) => None,
    }
}

impl Made {
    fn whole(&self) -> StoredBlock {
        StoredBlock::Whole(self.block.clone())
    }

    /// Without the details of these receipts, by their place in the block.
    fn without(&self, lost: &[usize]) -> RedactedBlock {
        let mut place = 0..;
        let goes = |_: &Receipt| lost.contains(&place.next().unwrap());
        let (block, count) = self.whole().redact(&self.receipts, goes).unwrap().unwrap();
        assert_eq!(count as usize, lost.len());
        block
    }

    fn run(&self, block: &RedactedBlock) -> Result<(), BlockError> {
        let block = StoredBlock::Redacted(block.clone());
        check_stored(&self.before, &block, &Strict).map(|execution| {
            assert_eq!(execution.header(), &self.block.header);
        })
    }
}

#[test]
fn what_is_left_executes_to_the_same_and_no_dropped_byte_is_left() {
    let made = made();
    check(&made.before, &made.block, &Strict).unwrap();
    let whole = made.whole();
    assert!(whole.is_whole() && whole.batches().is_empty());
    assert_eq!(StoredBlock::decode(&whole.encode(), LIMIT), Ok(whole));
    for lost in [&[0][..], &[1, 4], &[5], &[0, 1, 2, 3, 4, 5, 6]] {
        let left = made.without(lost);
        let bytes = left.encode();
        assert_eq!(bytes[0], REDACTED_VERSION);
        assert_eq!(RedactedBlock::decode(&bytes, LIMIT), Ok(left.clone()));
        assert!(left.is_whole());
        made.run(&left).unwrap();
        // Each detail is in the block once, and gone if it was dropped.
        let payloads = [0, 2].map(|index| &made.block.transactions[index].payload);
        let records = payloads
            .into_iter()
            .flat_map(|p| tally_ledger::debit::raw_debits(p));
        for (place, record) in records.enumerate() {
            let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
            assert_eq!(
                holds(record.detail),
                !lost.contains(&place),
                "{place} of {lost:?}"
            );
            assert!(holds(record.fixed));
        }
    }
}

#[test]
fn more_can_go_later_and_what_is_gone_cannot_go_again() {
    let made = made();
    let all = made.without(&[0, 1, 2, 3, 4, 5, 6]);
    let some = StoredBlock::Redacted(made.without(&[0, 5]));
    let (rest, count) = some.redact(&made.receipts, |_| true).unwrap().unwrap();
    assert_eq!((rest, count), (all.clone(), 5));
    let all = StoredBlock::Redacted(all);
    assert_eq!(all.redact(&made.receipts, |_| true), Ok(None));
    assert_eq!(made.whole().redact(&made.receipts, |_| false), Ok(None));
}

#[test]
fn receipts_of_other_debits_are_refused() {
    let made = made();
    let refuses = |receipts: &[Receipt]| {
        let result = made.whole().redact(receipts, |_| true);
        assert_eq!(result, Err(OtherReceipts));
    };
    refuses(&made.receipts[..6]);
    refuses(&[&made.receipts[..], &made.receipts[..1]].concat());
    let mut swapped = made.receipts.clone();
    swapped.swap(0, 1);
    refuses(&swapped);
}

/// Whoever says something else of what was dropped is found out: by the
/// header's roots before execution, or by the log's root after it.
#[test]
fn lies_about_what_was_dropped_are_found_out() {
    let made = made();
    let good = made.without(&[0, 1, 2, 3, 4, 5, 6]);
    let lie = |change: &dyn Fn(&mut RedactedBlock)| {
        let mut other = good.clone();
        change(&mut other);
        other
    };
    // The id does not bind these: only execution does.
    for change in [
        &(|block: &mut RedactedBlock| block.batches[0].dropped[2].cost.0 += 1)
            as &dyn Fn(&mut RedactedBlock),
        &|block| block.batches[1].dropped[1].class_rule = true,
    ] {
        let other = lie(change);
        assert!(other.is_whole());
        let error = made.run(&other).unwrap_err();
        assert!(matches!(error, BlockError::LogRoot { .. }), "{error}");
    }
    let refused = |block: &RedactedBlock, wanted| match made.run(block).unwrap_err() {
        BlockError::Refused { reason, .. } => assert_eq!(reason, wanted),
        error => panic!("{error}"),
    };
    // Less than the fee that the class does not pay.
    refused(
        &lie(&|block| block.batches[1].dropped[0].cost.0 = 69),
        Reason::UsageForm,
    );
    let unsigned = lie(&|block| block.batches[0].dropped[0].detail.0[0] ^= 1);
    assert!(!unsigned.is_whole());
    refused(&unsigned, Reason::DebitRoot);
    let unsigned = lie(&|block| block.batches[0].debits[0].fixed.limit.0 -= 1);
    assert!(!unsigned.is_whole());
    refused(&unsigned, Reason::DebitRoot);
    let fewer = lie(&|block| {
        let mut debits = block.batches[0].debits.clone().into_vec();
        debits.pop();
        block.batches[0].debits = list(debits);
        let mut dropped = block.batches[0].dropped.clone().into_vec();
        dropped.pop();
        block.batches[0].dropped = list(dropped);
    });
    assert!(!fewer.is_whole());
    refused(&fewer, Reason::DebitCount);
    let other = lie(&|block| block.batches[0].payload.0[0] ^= 1);
    assert!(!other.is_whole());
    let error = made.run(&other).unwrap_err();
    assert!(
        matches!(
            error,
            BlockError::Root {
                name: "transactions root",
                ..
            }
        ),
        "{error}"
    );
    // Numbers that run over are found out and harm nobody.
    let other = lie(&|block| {
        let transaction = &mut block.block.transactions[0];
        let mut body = Body::decode(&transaction.body).unwrap();
        let Action::Debits(debits) = &mut body.action else {
            panic!("the first is a batch");
        };
        debits.first = DebitNumber(u64::MAX - 1);
        transaction.body = body.encode();
    });
    assert!(!other.is_whole());
    assert!(made.run(&other).is_err());
    // Another transaction's payload is none to redact.
    let other = lie(&|block| block.batches[0].index = 1);
    assert!(!other.is_whole());
    assert!(made.run(&other).is_err());
}

/// As a proposal it is nothing: neither a block nor a transaction of one.
#[test]
fn what_is_left_is_never_a_block_or_a_payload() {
    let made = made();
    let left = made.without(&[0]);
    let block = Block::decode(&left.encode(), LIMIT);
    assert!(block.is_err() || !block.unwrap().is_whole());
    assert!(!left.block.is_whole());
    assert!(check(&made.before, &left.block, &Strict).is_err());
    let emptied: &Transaction = &left.block.transactions[0];
    let built = build(&made.before, made.block.header.time, 0, [emptied], &Strict);
    assert_eq!(built.refused, [(emptied.id(), Reason::DebitCount)]);
}

#[test]
fn other_forms_are_not_read() {
    let made = made();
    let good = made.without(&[0, 5]);
    let bad = |change: &dyn Fn(&mut RedactedBlock)| {
        let mut other = good.clone();
        change(&mut other);
        let read = RedactedBlock::decode(&other.encode(), LIMIT);
        assert!(read.is_err(), "{read:?}");
    };
    bad(&|block| block.batches.clear());
    bad(&|block| block.batches.swap(0, 1));
    bad(&|block| block.batches[0].index = 99);
    bad(&|block| block.batches[1].index = 0);
    bad(&|block| block.block.transactions[0].payload = vec![1]);
    bad(&|block| block.batches[0].dropped = list(Vec::new()));
    bad(&|block| block.batches[0].debits[1].detail = None);
    bad(&|block| block.batches[0].debits[1].fixed.version = 1);
    bad(&|block| block.batches[0].debits[1].fixed.version = 3);
    bad(&|block| {
        let detail: &mut Option<Detail> = &mut block.batches[0].debits[1].detail;
        detail.as_mut().unwrap().queued = None;
    });
    let bytes = good.encode();
    assert!(RedactedBlock::decode(&bytes, bytes.len() - 1).is_err());
    assert!(RedactedBlock::decode(&[&bytes[..], &[0]].concat(), LIMIT).is_err());
    for end in 0..bytes.len() {
        assert!(StoredBlock::decode(&bytes[..end], LIMIT).is_err(), "{end}");
    }
    // A flipped bit is no form, or another block, or executes to another.
    for bit in (0..bytes.len() * 8).step_by(37) {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = RedactedBlock::decode(&other, LIMIT) {
            let same = read.is_whole() && read.block.header.id() == good.block.header.id();
            assert!(!same || made.run(&read).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn golden_redacted_block() {
    let made = made();
    let some = made.without(&[1, 5]);
    let of = |block: &RedactedBlock| {
        json!({
            "redacted": hex::encode(block.encode()),
            "batches": hex::encode(codec::encode(&block.batches)),
        })
    };
    let value: Value = json!({
        "block": hex::encode(made.block.encode()),
        "block_id": made.block.header.id().to_string(),
        "receipts": made.receipts.iter().map(|r| hex::encode(r.leaf())).collect::<Vec<_>>(),
        "without_1_and_5": of(&some),
        "without_any": of(&made.without(&[0, 1, 2, 3, 4, 5, 6])),
    });
    vectors::check("redacted", value);
}

/// The proof of a batch's debit from what is left of its block.
fn proof(block: &RedactedBlock, first: Position, offset: u64) -> DebitProof {
    let batch = &block.batches[0];
    let index = batch.index as usize;
    let transactions = &block.block.transactions;
    let leaves: Vec<_> = (transactions.iter().enumerate())
        .map(|(index, transaction)| leaf_of(transaction, block.batch(index)))
        .collect();
    let tree = Levels::of(leaves.iter().map(|leaf| leaf_hash(leaf)));
    let levels = Levels::of(batch.leaf_hashes(first));
    let part = |at: usize| Hash(leaves[index][at..at + 32].try_into().unwrap());
    DebitProof {
        fixed: batch.debits[offset as usize].fixed,
        batch_path: list(levels.inclusion(offset, levels.size()).unwrap()),
        body: list(transactions[index].body.clone()),
        signatures: part(32),
        payload: part(64),
        index: batch.index,
        count: leaves.len() as u32,
        path: list(tree.inclusion(index as u64, tree.size()).unwrap()),
    }
}

/// A receipt without its detail, from a block that lost it, and histories
/// with an erasure: what a verifier in any language must take.
#[test]
fn golden_files_of_an_erased_account() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| {});
    let debits: Vec<_> = (1..=3).map(|input| debit(lease, input)).collect();
    let batch = world.debits_tx(G0, &debits);
    let other = world.by_holder(0, bind(0, 7));
    let transactions = [other, batch];
    let block = build(&world.state, world.time(), 0, transactions.iter(), &Strict).block;
    let index = world.log.size() + 2;
    let receipts: Vec<_> = world
        .block(&transactions)
        .iter()
        .filter_map(receipt)
        .collect();
    let left = StoredBlock::Whole(block).redact(&receipts, |_| true);
    let (left, _) = left.unwrap().unwrap();
    let file = ReceiptFile {
        certified: world.certified(),
        index,
        receipt: receipts[1],
        path: list(world.log.inclusion(index, world.log.size()).unwrap()),
        detail: None,
        debit: Some(proof(&left, receipts[0].position, 1)),
        prices: None,
    };
    let verified = file.verify(&world.genesis).unwrap();
    assert_eq!(verified.price, PriceCheck::NoDetail);
    assert_eq!(verified.fixed, Some(debits[1].fixed));
    let erase = world.by_two(Action::Erase(AccountNumber(0)));
    world.run(erase);
    let history = |subject: Subject| {
        let entries = (0..).zip(&world.entries);
        let of: Vec<u64> = entries
            .filter(|(_, e)| subject.has(e))
            .map(|(i, _)| i)
            .collect();
        let shown = |i: &u64| (*i, Shown::from(world.entries[*i as usize].clone()));
        let (table, number) = subject.end();
        let file = HistoryFile {
            certified: world.certified(),
            subject,
            from: Height(0),
            to: world.state.height(),
            entries: list(of.iter().map(shown).collect()),
            path: list(world.log.multi(&of, world.log.size()).unwrap()),
            end: Some(world.state.prove(table, number)),
        };
        let verified = file.verify(&world.genesis).unwrap();
        let (_, last) = verified.entries.last().unwrap();
        assert!(matches!(last, Entry::Event(_, Event::Erased { .. })));
        file.encode()
    };
    let value = json!({
        "genesis": hex::encode(world.genesis.encode()),
        "receipt_file": hex::encode(file.encode()),
        "account_history": hex::encode(history(Subject::Account(AccountNumber(0)))),
        "control_history": hex::encode(history(Subject::Control)),
    });
    vectors::check("erased", value);
}

#[test]
fn erasing_logs_how_many_entries_it_is_about_and_changes_nothing_else() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| {});
    let batch = world.debits_tx(G0, &[debit(lease, 5), debit(lease, 6)]);
    world.run(batch);
    let before = world.state.accounts()[0].clone();
    let controls = world.state.counts().controls;
    let erase = Action::Erase(AccountNumber(0));
    let by_issuers = world.by_two(erase.clone());
    let by_holder = world.tx(AccountNumber(0), &[ISSUER.into()], erase.clone());
    for (transaction, entries) in [
        (by_issuers, before.entries),
        (by_holder, before.entries + 1),
    ] {
        let id = transaction.id();
        let logged = world.run(transaction);
        let [Entry::Event(leaf, event)] = &logged[..] else {
            panic!("one event: {logged:?}");
        };
        let wanted = Event::Erased {
            transaction: id,
            entries,
        };
        assert_eq!(event, &wanted);
        assert_eq!((leaf.kind, leaf.account), (28, AccountNumber(0)));
        assert_eq!(leaf.entry, entries + 1);
        assert_eq!(
            leaf.control,
            controls + 1 + u64::from(entries - before.entries)
        );
    }
    let mut after = world.state.accounts()[0].clone();
    after.entries -= 2;
    assert_eq!(after, before);
    // Frozen or not, and later debits are taken as before.
    let batch = world.debits_tx(G0, &[debit(lease, 7)]);
    world.run(batch);
    let freeze = world.by_issuer(Action::Freeze(AccountNumber(0)));
    world.run(freeze);
    let erase = world.tx(AccountNumber(0), &[ISSUER.into()], erase);
    world.run(erase);
}

#[test]
fn reserved_tags_are_nothing() {
    for tag in [22u32, 23].into_iter().chain(26..=32).chain([34]) {
        let bytes = [&tag.to_le_bytes()[..], &[0; 8]].concat();
        for length in 4..=bytes.len() {
            assert!(
                codec::decode::<Action>(&bytes[..length], 64).is_err(),
                "{tag}"
            );
        }
    }
    let erase = codec::encode(&Action::Erase(AccountNumber(7)));
    assert_eq!(erase, [25, 0, 0, 0, 7, 0, 0, 0]);
}
