//! The offline verifier of whole histories: what is sound is accepted at each
//! level, each kind of divergence is named where it is, and no stored bit can
//! be another.

#![allow(clippy::unwrap_used)]

mod bytes;
mod headers;
mod history;
mod made;
mod redacted;
mod replay;
#[path = "../world/mod.rs"]
mod world;

use history::*;
use made::*;
use tally_ledger::{
    block::{Certificate, HEADER_BYTES},
    codec,
    execute::{Strict, Trusted},
    ids::Height,
    verify::{Beside, Bytes, Headers, Replay, read_block},
};

#[test]
fn a_sound_history_is_accepted_at_each_level() {
    let world = everything();
    let (last, size, root) = (world.state.height(), world.log.size(), world.log.root());
    let (state_root, id) = (world.state.state_root(), world.state.block_id());
    let history = History::of(world);
    let headers = history.roots().unwrap();
    assert_eq!((headers.height(), headers.id()), (last, id));
    assert_eq!(headers.precommits(), 3 * last.0);
    let bytes = history.bytes().unwrap();
    assert_eq!((bytes.log().size(), bytes.log().root()), (size, root));
    assert_eq!(bytes.receipts(), 3);
    for with_log in [false, true] {
        let replay = history.replay(&Strict, with_log).unwrap();
        assert_eq!(replay.state().state_root(), state_root);
        assert_eq!(replay.entries(), size);
    }
}

/// Every bit of a block's stored bytes, and of its entries', is bound. Which
/// level must reject it is said for each range of bits.
#[test]
fn no_stored_bit_can_be_another() {
    let history = History::of(everything());
    let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    let mut headers = Headers::new(history.genesis()).unwrap();
    let mut bytes = Bytes::new(history.genesis());
    let mut replay = Replay::new(history.genesis()).unwrap();
    for ((certificate, body), entries) in history.blocks.iter().zip(&history.entries) {
        let height = Height(headers.height().0 + 1);
        // The header and the certificate: level `roots`.
        for bit in 0..HEADER_BYTES * 8 {
            let mut other = body.clone();
            flip(&mut other, bit);
            assert!(
                headers.clone().next(certificate, &other).is_err(),
                "{height}, bit {bit}"
            );
        }
        let encoded = codec::encode(certificate);
        for bit in 0..encoded.len() * 8 {
            let mut other = encoded.clone();
            flip(&mut other, bit);
            if let Ok(other) = codec::decode::<Certificate>(&other, other.len()) {
                assert!(
                    headers.clone().next(&other, body).is_err(),
                    "{height}, bit {bit}"
                );
            }
        }
        let header = headers.next(certificate, body).unwrap();
        // The transactions: levels `bytes` and `replay`, each alone.
        let stored: Vec<_> = entries.iter().map(Stored::view).collect();
        for bit in HEADER_BYTES * 8..body.len() * 8 {
            let mut other = body.clone();
            flip(&mut other, bit);
            let Ok(block) = read_block(height, &other, LIMIT) else {
                continue;
            };
            assert_eq!(
                block.block().header,
                header,
                "the certified header leads the body"
            );
            assert!(
                bytes.clone().block(&block, &stored).is_err(),
                "{height}, bit {bit}"
            );
            let executed = replay.block(&block, &Trusted, &Beside::default());
            assert!(executed.is_err(), "{height}, bit {bit}");
        }
        // The entries: both levels, if the log is beside.
        let block = read_block(height, body, LIMIT).unwrap();
        for (at, entry) in entries.iter().enumerate() {
            let (leaf, event) = (entry.leaf.len(), entry.event.as_ref().map_or(0, Vec::len));
            for bit in 0..(leaf + event) * 8 {
                let mut other = entry.clone();
                match bit.checked_sub(leaf * 8) {
                    None => flip(&mut other.leaf, bit),
                    Some(bit) => flip(other.event.as_mut().unwrap(), bit),
                }
                let mut stored = stored.clone();
                stored[at] = other.view();
                assert!(
                    bytes.clone().block(&block, &stored).is_err(),
                    "entry {at}, bit {bit}"
                );
                // Execution compares whole entries: one bit of each byte will do.
                if bit % 8 == bit / 8 % 8 {
                    let beside = Beside {
                        entries: Some(&stored),
                        state: None,
                    };
                    let executed = replay.block(&block, &Trusted, &beside);
                    assert!(executed.is_err(), "entry {at}, bit {bit}");
                }
            }
        }
        bytes.block(&block, &stored).unwrap();
        replay.block(&block, &Strict, &Beside::default()).unwrap();
    }
}
