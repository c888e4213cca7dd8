//! Receipts files: many receipts that share one proof; what a file of one
//! proves of each, they prove too, but for the debit's fixed part.

#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/vectors.rs"]
mod vectors;

use serde_json::json;
use support::Chain;
use tally_ledger::{
    certified::Trust,
    codec::List,
    ids::*,
    receipt::{PriceCheck, VerifyError},
    receipts::ReceiptsFile,
    tree::Table,
};

/// Every choice of the seven receipts.
fn choices() -> impl Iterator<Item = Vec<usize>> {
    (1u32..1 << 7).map(|bits| (0..7).filter(|n| bits >> n & 1 == 1).collect())
}

#[test]
fn any_receipts_are_shown_together() {
    for chain in [Chain::with_receipts(), Chain::with_queued_receipts()] {
        let mut trust = Trust::new(&chain.genesis).unwrap();
        for which in choices() {
            let file = chain.receipts_file(&which, &[2, 6]);
            let read = ReceiptsFile::decode(&file.encode()).unwrap();
            assert_eq!(read, file);
            let verified = read.verify_with(&mut trust).unwrap();
            assert_eq!(verified.len(), which.len());
            for (n, verified) in which.iter().zip(&verified) {
                let charged = &chain.charged[*n];
                assert_eq!(
                    (verified.index, verified.receipt),
                    (charged.index, charged.receipt)
                );
                assert_eq!(verified.height, chain.height());
                let wanted = match n {
                    2 | 6 => PriceCheck::NoDetail,
                    _ => PriceCheck::ImpliedFee(charged.debit.fixed.fee),
                };
                assert_eq!(verified.price, wanted);
                assert_eq!(verified.fixed, None);
            }
        }
    }
}

#[test]
fn a_file_costs_less_than_files_of_one_each() {
    let chain = Chain::with_receipts();
    let all = [0, 1, 2, 3, 4, 5, 6];
    let together = chain.receipts_file(&all, &[]).encode().len();
    let alone = all.map(|n| chain.receipt_file(n, chain.height()).encode().len());
    assert!(together * 2 < alone.iter().sum(), "{together}, {alone:?}");
}

/// A file with something wrong.
fn refused(change: impl FnOnce(&mut ReceiptsFile, &Chain)) -> VerifyError {
    let chain = Chain::with_receipts();
    let mut file = chain.receipts_file(&[0, 1, 3, 6], &[3]);
    change(&mut file, &chain);
    file.verify(&chain.genesis).unwrap_err()
}

#[test]
fn each_altered_part_is_named() {
    assert_eq!(
        refused(|f, _| f.receipts[1].receipt.charged.0 -= 1),
        VerifyError::NoneInLog
    );
    assert_eq!(
        refused(|f, _| f.receipts[1].index += 1),
        VerifyError::NoneInLog
    );
    assert_eq!(refused(|f, _| f.path[0].0[0] ^= 1), VerifyError::NoneInLog);
    assert_eq!(
        refused(|f, _| f.path = List::default()),
        VerifyError::NoneInLog
    );
    assert_eq!(
        refused(|f, _| f.receipts = List::default()),
        VerifyError::NoneInLog
    );
    assert_eq!(
        refused(|f, _| f.receipts.swap(1, 2)),
        VerifyError::NotInLog { index: 2 }
    );
    let duration = |f: &mut ReceiptsFile, _: &Chain| {
        f.receipts[0].detail.as_mut().unwrap().duration += 1;
    };
    assert_eq!(refused(duration), VerifyError::Detail);
    // Under an older header, a receipt of later is not in the log.
    let older = |f: &mut ReceiptsFile, chain: &Chain| {
        f.certified = chain.certified(Height(1)).clone();
    };
    assert_eq!(refused(older), VerifyError::NoneInLog);
    let header = |f: &mut ReceiptsFile, _: &Chain| f.certified.header.log_root.0[0] ^= 1;
    assert!(matches!(refused(header), VerifyError::Header(_)));
}

#[test]
fn price_tables_are_those_that_are_proven() {
    let chain = Chain::with_receipts();
    let all = [0, 1, 2, 3, 4, 5, 6];
    let file = chain.receipts_file(&all, &[]);
    assert_eq!(file.prices.len(), 1);
    let at = file
        .receipts
        .iter()
        .position(|shown| shown.detail.unwrap().table.0 == 2)
        .unwrap();
    let mut without = file.clone();
    without.prices = List::default();
    let verified = without.verify(&chain.genesis).unwrap();
    assert_eq!(
        verified[at].price,
        PriceCheck::UnknownTable(TableVersion(2))
    );
    let with = |proofs: Vec<_>| {
        let mut other = file.clone();
        other.prices = List::new(proofs).unwrap();
        other.verify(&chain.genesis).unwrap_err()
    };
    let own = file.prices[0].clone();
    // The same twice, another leaf, a number without a leaf, another state.
    assert_eq!(
        with(vec![own.clone(), own.clone()]),
        VerifyError::PriceTable(TableVersion(2))
    );
    let last = chain.height();
    let class = chain.state_file(last, Table::Classes, 1).proof;
    assert_eq!(with(vec![class]), VerifyError::PriceTable(TableVersion(2)));
    let none = chain.state_file(last, Table::PriceTables, 9).proof;
    assert_eq!(with(vec![none]), VerifyError::PriceTable(TableVersion(10)));
    let older = chain.state_file(Height(1), Table::PriceTables, 1).proof;
    assert!(matches!(with(vec![older]), VerifyError::PriceLeaf(_)));
}

#[test]
fn a_cost_that_is_not_the_price_is_refused() {
    let mut chain = Chain::new();
    // The ledger of this chain charges less than its own table says.
    chain.tables[0].models[0].weight_coefficient = 0;
    chain.block((0..2).map(support::samples::debit).collect());
    let file = chain.receipts_file(&[0, 1], &[]);
    let error = file.verify(&chain.genesis).unwrap_err();
    assert!(matches!(error, VerifyError::Cost { .. }), "{error}");
}

#[test]
fn no_bit_can_be_flipped() {
    let chain = Chain::with_queued_receipts();
    let mut trust = Trust::new(&chain.genesis).unwrap();
    let bytes = chain.receipts_file(&[0, 1, 3, 4, 6], &[3]).encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(read) = ReceiptsFile::decode(&flipped) else {
            continue;
        };
        assert!(read.verify_with(&mut trust).is_err(), "bit {bit}");
    }
}

#[test]
fn files_have_the_bytes_that_they_always_had() {
    let chain = Chain::with_receipts();
    let queued = Chain::with_queued_receipts();
    let hex = |file: ReceiptsFile| hex::encode(file.encode());
    vectors::check(
        "receipts",
        json!({
            "genesis": hex::encode(chain.genesis.encode()),
            "several": hex(chain.receipts_file(&[0, 1, 3, 6], &[3])),
            "all_without_details": hex(chain.receipts_file(&[0, 1, 2, 3, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6])),
            "one": hex(chain.receipts_file(&[4], &[])),
        }),
    );
    let queued = hex(queued.receipts_file(&[0, 2, 5], &[2]));
    vectors::check("receipts_2", json!({"receipts_file": queued}));
}
