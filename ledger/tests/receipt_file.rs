//! Receipt and state files: what verifies, and that nothing altered does.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Chain, GATEWAY, certify, validator_key};
use tally_ledger::{
    audit::{Audit, AuditError},
    block::{Certificate, CertificateError},
    certified::{HeaderError, Trust},
    codec::List,
    crypto::Domain,
    genesis::Genesis,
    ids::{AccountNumber, Amount, Height, TableVersion},
    receipt::{DebitError, PriceCheck, ReceiptFile, VerifyError},
    state_file::{StateFile, StateFileError},
    tree::Table,
};

#[test]
fn every_receipt_of_its_own_block_is_proven_to_the_price() {
    let chain = Chain::with_receipts();
    for (n, charged) in chain.charged.iter().enumerate() {
        let file = chain.receipt_file(n, charged.receipt.height);
        let verified = file.verify(&chain.genesis).unwrap();
        assert_eq!(verified.receipt, charged.receipt);
        assert_eq!(verified.fixed, Some(charged.debit.fixed));
        assert_eq!(verified.price, PriceCheck::Exact, "receipt {n}");
        assert_eq!(ReceiptFile::decode(&file.encode()), Ok(file));
    }
}

#[test]
fn less_evidence_proves_less_and_says_so() {
    let chain = Chain::with_receipts();
    let check = |n: usize, height, change: &dyn Fn(&mut ReceiptFile)| {
        let mut file = chain.receipt_file(n, Height(height));
        change(&mut file);
        file.verify(&chain.genesis).map(|verified| verified.price)
    };
    // Receipt 1 pays a fee of 700, receipt 0 none, receipt 4 is of table 2.
    let fee = |fee| Ok(PriceCheck::ImpliedFee(Amount(fee)));
    assert_eq!(check(0, 2, &|_| ()), fee(0));
    assert_eq!(check(1, 2, &|_| ()), fee(700));
    assert_eq!(check(1, 1, &|file| file.debit = None), fee(700));
    assert_eq!(check(4, 1, &|_| ()), Ok(PriceCheck::Exact));
    let unknown = Ok(PriceCheck::UnknownTable(TableVersion(2)));
    assert_eq!(check(4, 1, &|file| file.prices = None), unknown);
    let none = Ok(PriceCheck::NoDetail);
    assert_eq!(check(4, 1, &|file| file.detail = None), none);
    assert_eq!(check(0, 1, &|file| file.detail = None), none);
}

type Change<'a> = &'a dyn Fn(&mut ReceiptFile);

/// The error of receipt `n` under the header of `height`, after a change.
fn refused(chain: &Chain, n: usize, height: u64, change: Change<'_>) -> VerifyError {
    let mut file = chain.receipt_file(n, Height(height));
    change(&mut file);
    file.verify(&chain.genesis).unwrap_err()
}

#[test]
fn each_altered_part_is_named() {
    let chain = Chain::with_receipts();
    let of = |change: Change<'_>| refused(&chain, 1, 1, change);
    let index = chain.charged[1].index;
    let missing = VerifyError::NotInLog { index };
    assert_eq!(of(&|f| f.receipt.charged.0 -= 1), missing);
    assert_eq!(of(&|f| f.receipt.account = AccountNumber(9)), missing);
    assert_eq!(of(&|f| f.path = List::default()), missing);
    let next = VerifyError::NotInLog { index: index + 1 };
    assert_eq!(of(&|f| f.index += 1), next);
    let height = |receipt| VerifyError::Height {
        receipt: Height(receipt),
        header: Height(1),
    };
    assert_eq!(of(&|f| f.receipt.height = Height(2)), height(2));
    assert_eq!(of(&|f| f.receipt.height = Height(0)), height(0));
    assert_eq!(
        of(&|f| f.detail.as_mut().unwrap().duration += 1),
        VerifyError::Detail
    );
}

#[test]
fn each_altered_debit_proof_is_named() {
    let chain = Chain::with_receipts();
    let of = |change: &dyn Fn(&mut ReceiptFile, &Chain)| {
        refused(&chain, 1, 1, &|file| change(file, &chain))
    };
    let debit = |error| VerifyError::Debit(error);
    let in_batch = debit(DebitError::NotInBatch);
    assert_eq!(
        of(&|f, _| f.debit.as_mut().unwrap().fixed.fee.0 += 1),
        in_batch
    );
    assert_eq!(
        of(&|f, _| f.debit.as_mut().unwrap().fixed.limit.0 += 1),
        in_batch
    );
    assert_eq!(
        of(&|f, _| f.debit.as_mut().unwrap().batch_path = List::default()),
        in_batch
    );
    let in_block = debit(DebitError::NotInBlock);
    assert_eq!(
        of(&|f, _| f.debit.as_mut().unwrap().payload.0[0] ^= 1),
        in_block
    );
    assert_eq!(
        of(&|f, _| f.debit.as_mut().unwrap().signatures.0[0] ^= 1),
        in_block
    );
    assert_eq!(of(&|f, _| f.debit.as_mut().unwrap().index = 2), in_block);
    let other_body = |f: &mut ReceiptFile, chain: &Chain| {
        let other = chain.receipt_file(5, Height(2)).debit.unwrap();
        f.debit.as_mut().unwrap().body = other.body;
    };
    assert_eq!(of(&other_body), in_block);
    let later_header = |f: &mut ReceiptFile, chain: &Chain| {
        let debit = f.debit.take();
        *f = chain.receipt_file(1, Height(2));
        f.debit = debit;
    };
    assert_eq!(of(&later_header), debit(DebitError::OtherHeight));
}

#[test]
fn a_ledger_that_charges_other_than_the_price_is_caught() {
    // Validators that certify a wrong cost: the proofs hold, the price not.
    for (n, cost) in [(0, 1), (1, -1), (4, 5)] {
        let mut chain = Chain::new();
        if n == 4 {
            chain.tables[1] = chain.tables[0].clone();
            chain.tables[1].version = TableVersion(2);
        }
        let wrong_price = |models: &mut Vec<_>| {
            let first: &mut tally_ledger::price::Model = &mut models[0];
            first.weight = first.weight.checked_add_signed(cost * 8).unwrap();
        };
        let genesis = chain.genesis.clone();
        let mut models = chain.tables[0].models.to_vec();
        wrong_price(&mut models);
        chain.tables[0].models = List::new(models).unwrap();
        chain.block((0..5).map(support::samples::debit).collect());
        let file = chain.receipt_file(n, Height(1));
        let outcome = file.verify(&genesis).map(|verified| verified.price);
        if n == 4 {
            // Table 2 is proven from the state, so it is the price.
            assert_eq!(outcome, Ok(PriceCheck::Exact));
        } else {
            let found = chain.charged[n].receipt.cost;
            let wanted = Amount((found.0 as i64 - i64::from(cost)) as u64);
            assert_eq!(outcome, Err(VerifyError::Cost { wanted, found }));
        }
    }
}

#[test]
fn a_price_table_must_be_the_one_the_detail_names() {
    let chain = Chain::with_receipts();
    let prices = |table, number| Some(chain.state_file(Height(1), table, number));
    let of = |proof: &Option<_>| refused(&chain, 4, 1, &|f| f.prices.clone_from(proof));
    let named = VerifyError::PriceTable(TableVersion(2));
    assert_eq!(of(&prices(Table::PriceTables, 0)), named);
    assert_eq!(of(&prices(Table::PriceTables, 7)), named);
    assert_eq!(of(&prices(Table::Classes, 0)), named);
    let mut other_header = prices(Table::PriceTables, 1);
    other_header.as_mut().unwrap().certified = chain.certified(Height(2)).clone();
    assert!(matches!(of(&other_header), VerifyError::PriceProof(_)));
    // A version never changes: a proof at any height will do.
    for height in [1, 2] {
        let mut file = chain.receipt_file(4, Height(1));
        file.prices = Some(chain.state_file(Height(height), Table::PriceTables, 1));
        let verified = file.verify(&chain.genesis).unwrap();
        assert_eq!(verified.price, PriceCheck::Exact);
    }
}

#[test]
fn only_a_quorum_of_the_genesis_validators_counts() {
    let chain = Chain::with_receipts();
    let precommits = |change: &dyn Fn(&mut Vec<_>)| {
        refused(&chain, 0, 1, &|file| {
            let mut list = file.certified.certificate.precommits.to_vec();
            change(&mut list);
            file.certified.certificate.precommits = List::new(list).unwrap();
        })
    };
    let error = |error| VerifyError::Header(HeaderError::Certificate(error));
    let few = error(CertificateError::NoQuorum { have: 2, need: 3 });
    assert_eq!(precommits(&|list| list.truncate(2)), few);
    assert_eq!(
        precommits(&|list| list[2] = list[1]),
        error(CertificateError::Unordered)
    );
    assert_eq!(
        precommits(&|list| list[2].0 = 2),
        error(CertificateError::BadSignature(2))
    );
    assert_eq!(
        precommits(&|list| list[2].0 = 4),
        error(CertificateError::UnknownValidator(4))
    );
    assert_eq!(
        precommits(&|list| list[0].1.0[0] ^= 1),
        error(CertificateError::BadSignature(0))
    );
    let round = refused(&chain, 0, 1, &|f| f.certified.certificate.round += 1);
    assert_eq!(round, error(CertificateError::BadSignature(0)));
    let header = refused(&chain, 0, 1, &|f| f.certified.header.log_size += 1);
    assert_eq!(header, error(CertificateError::BadSignature(0)));
    let version = refused(&chain, 0, 1, &|f| f.certified.header.version = 2);
    assert_eq!(version, VerifyError::Header(HeaderError::Version(2)));
    // Prevotes of a quorum are no certificate.
    let prevotes = refused(&chain, 0, 1, &|file| {
        let header = file.certified.header;
        let bytes = tally_ledger::block::vote_bytes(header.height, 0, Some(&header.id()));
        let sign = |i| (i, validator_key(i).sign(Domain::Prevote, &chain.id, &bytes));
        let precommits = List::new((0..4).map(sign).collect()).unwrap();
        file.certified.certificate = Certificate {
            round: 0,
            precommits,
        };
    });
    assert_eq!(prevotes, error(CertificateError::BadSignature(0)));
}

#[test]
fn another_genesis_is_another_chain() {
    let chain = Chain::with_receipts();
    let other = Genesis {
        name: "other".into(),
        ..chain.genesis.clone()
    };
    let error = chain.receipt_file(0, Height(1)).verify(&other).unwrap_err();
    let expected = HeaderError::OtherChain {
        wanted: other.chain(),
        found: chain.id,
    };
    assert_eq!(error, VerifyError::Header(expected));
}

#[test]
fn a_fork_is_noticed_across_files() {
    let chain = Chain::with_receipts();
    let mut trust = Trust::new(&chain.genesis).unwrap();
    let good = chain.receipt_file(0, Height(1));
    good.verify_with(&mut trust).unwrap();
    good.verify_with(&mut trust).unwrap();
    let mut header = good.certified.header;
    header.proposer = 2;
    let forked = certify(&chain.id, header);
    let file = ReceiptFile {
        certified: forked.clone(),
        ..good.clone()
    };
    assert!(file.verify(&chain.genesis).is_ok(), "alone it looks fine");
    let expected = HeaderError::Fork {
        height: Height(1),
        first: good.certified.header.id(),
        second: forked.header.id(),
    };
    assert_eq!(trust.take_fork(), None);
    assert_eq!(
        file.verify_with(&mut trust),
        Err(VerifyError::Header(expected.clone()))
    );
    // It is proof against all who signed both, handed out once.
    let fork = trust.take_fork().unwrap();
    let offences = fork.verify(&chain.id, &chain.genesis.validators).unwrap();
    let named: Vec<u16> = offences.iter().map(|o| o.place.validator).collect();
    assert_eq!(named, [0, 1, 3]);
    assert_eq!(trust.take_fork(), None);
    let mut audit = Audit::new(&chain.genesis).unwrap();
    audit.receipt(&good).unwrap();
    let error = VerifyError::Header(expected);
    let expected = AuditError::Receipt { index: 1, error };
    assert_eq!(audit.receipt(&file), Err(expected));
    assert_eq!(audit.take_fork(), Some(fork));
}

#[test]
fn every_flipped_bit_of_a_receipt_file_is_rejected() {
    let chain = Chain::with_receipts();
    let bytes = chain.receipt_file(4, Height(1)).encode();
    let good = ReceiptFile::decode(&bytes).unwrap();
    let mut trust = Trust::new(&chain.genesis).unwrap();
    let batch = good.debit.as_ref().unwrap().clone();
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let Ok(altered) = ReceiptFile::decode(&altered) else {
            continue;
        };
        let Ok(verified) = altered.verify_with(&mut trust) else {
            continue;
        };
        // Only hints that prove nothing may differ: where the transaction
        // stands in its block.
        let debit = altered.debit.as_ref().unwrap();
        assert!(
            (debit.index, debit.count) != (batch.index, batch.count),
            "bit {bit}"
        );
        assert_eq!(verified, good.verify(&chain.genesis).unwrap());
    }
}

#[test]
fn state_files_verify_and_nothing_altered_does() {
    let chain = Chain::with_receipts();
    let file = chain.state_file(Height(2), Table::Gateways, 0);
    let bytes = file.encode();
    assert_eq!(StateFile::decode(&bytes).unwrap(), file);
    let leaf = tally_ledger::codec::encode(&chain.gateways[GATEWAY.0 as usize]);
    assert_eq!(file.verify(&chain.genesis), Ok(Some(&leaf[..])));
    let absent = chain.state_file(Height(2), Table::Gateways, 1);
    assert_eq!(absent.verify(&chain.genesis), Ok(None));
    let mut trust = Trust::new(&chain.genesis).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let altered = StateFile::decode(&altered);
        let verified = altered.as_ref().map(|file| file.verify_with(&mut trust));
        assert!(!matches!(verified, Ok(Ok(_))), "bit {bit}");
    }
    let mut other_header = file;
    other_header.certified = chain.certified(Height(1)).clone();
    assert!(matches!(
        other_header.verify(&chain.genesis),
        Err(StateFileError::Proof(_))
    ));
}
