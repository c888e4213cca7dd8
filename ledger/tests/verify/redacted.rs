//! Histories that lost details: verified but for what is gone.

use tally_ledger::{
    block::{Block, HEADER_BYTES},
    entry::Entry,
    execute::{Strict, Trusted},
    hash::{Context, Hash},
    ids::*,
    redacted::{Dropped, REDACTED_VERSION, RedactedBlock, StoredBlock},
    verify::{Beside, Bytes, Divergence, Field, Replay, read_block},
};

use crate::{history::*, made::*, world::list};

/// The same history after every second detail was dropped.
fn redacted() -> History {
    let mut history = History::of(everything());
    let (mut first, mut dropped) = (0, 0);
    for (block, (_, body)) in history.world.blocks.iter().zip(&mut history.blocks) {
        let entries = &history.world.entries[first..block.header.log_size as usize];
        first = block.header.log_size as usize;
        let receipts = entries.iter().filter_map(|entry| match entry {
            Entry::Receipt(receipt) => Some(receipt),
            Entry::Event(..) => None,
        });
        let left = StoredBlock::Whole(block.clone())
            .redact(receipts, |receipt| receipt.position.number.0 % 2 == 1)
            .unwrap();
        if let Some((left, count)) = left {
            *body = left.encode();
            dropped += count;
        }
    }
    assert!(dropped > 1);
    history
}

/// Changes the first block that lost details.
fn change_redacted(history: &mut History, change: impl FnOnce(&mut RedactedBlock)) -> usize {
    let stored = history.blocks.iter_mut();
    let (at, body) = stored
        .map(|(_, body)| body)
        .enumerate()
        .find(|(_, body)| body[0] == REDACTED_VERSION)
        .unwrap();
    let mut block = RedactedBlock::decode(body, LIMIT).unwrap();
    change(&mut block);
    *body = block.encode();
    at
}

/// What both levels say of it.
fn both(history: &History) -> [Divergence; 2] {
    history.roots().unwrap();
    [
        history.bytes().unwrap_err(),
        history.replay(&Trusted, false).unwrap_err(),
    ]
}

#[test]
fn a_history_that_lost_details_is_verified_but_for_what_is_gone() {
    let history = redacted();
    history.roots().unwrap();
    history.bytes().unwrap();
    history.replay(&Strict, true).unwrap();
}

#[test]
fn what_is_left_of_details_cannot_be_another() {
    let change = |change: fn(&mut Dropped)| {
        let mut history = redacted();
        change_redacted(&mut history, |block| {
            let mut dropped = block.batches[0].dropped.to_vec();
            change(&mut dropped[0]);
            block.batches[0].dropped = list(dropped);
        });
        both(&history)
    };
    let [bytes, _] = change(|left| left.cost.0 += 1);
    assert_eq!(bytes.field.to_string(), "cost of debit 0 of transaction 0");
    let [bytes, _] = change(|left| left.class_rule ^= true);
    assert!(
        bytes.field.to_string().starts_with("class rule of"),
        "{bytes}"
    );
    let [bytes, _] = change(|left| left.detail = Hash([7; 32]));
    assert_eq!(bytes.field, Field::BatchRoot);
    // No bit of such a block, either.
    let whole = redacted();
    let mut history = whole.clone();
    let at = change_redacted(&mut history, |_| ());
    let (mut bytes, mut replay) = (
        Bytes::new(whole.genesis()),
        Replay::new(whole.genesis()).unwrap(),
    );
    let stored = |at: usize| {
        whole.entries[at]
            .iter()
            .map(Stored::view)
            .collect::<Vec<_>>()
    };
    for before in 0..at {
        let height = Height(before as u64 + 1);
        let block = read_block(height, &whole.blocks[before].1, LIMIT).unwrap();
        bytes.block(&block, &stored(before)).unwrap();
        replay.block(&block, &Trusted, &Beside::default()).unwrap();
    }
    let (height, body) = (Height(at as u64 + 1), &whole.blocks[at].1);
    for bit in (1 + HEADER_BYTES) * 8..body.len() * 8 {
        let mut other = body.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let Ok(block) = read_block(height, &other, LIMIT) else {
            continue;
        };
        assert!(
            bytes.clone().block(&block, &stored(at)).is_err(),
            "bit {bit}"
        );
        let executed = replay.block(&block, &Trusted, &Beside::default());
        assert!(executed.is_err(), "bit {bit}");
    }
}

#[test]
fn only_a_batch_can_lose_details() {
    let mut history = redacted();
    let mut taken = None;
    change_redacted(&mut history, |block| taken = Some(block.batches[0].clone()));
    let mut batch = taken.unwrap();
    // The first transaction of all, of another kind, pretends to have lost some.
    let block = Block::decode(&history.blocks[0].1, LIMIT).unwrap();
    batch.index = 0;
    batch.payload = Context::Payload.hash(&block.transactions[0].payload);
    let batches = vec![batch];
    history.blocks[0].1 = RedactedBlock { block, batches }.encode();
    let [bytes, _] = both(&history);
    assert_eq!(bytes.field, Field::TransactionBody);
}
