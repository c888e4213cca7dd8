//! Decoding of everything that comes from outside: what is encoded reads
//! back, and hostile bytes neither panic nor pass unless they are the one
//! canonical encoding of a value.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Debug;

use proptest::{collection::vec, prelude::*, sample::Index};
use support::{Chain, samples};
use tally_ledger::{
    action::{Action, BindApiKey, Debits, Issue, Lease, NewGrant, OpenAccount},
    block::{Block, HEADER_BYTES, Header, MAX_VALIDATORS, ValidatorSet},
    certified::{CertifiedHeader, MAX_CERTIFIED_BYTES},
    codec::{self, DecodeError, List},
    correction::CorrectionProof,
    crypto::{ChainId, PublicKey, Signature},
    debit::{Debit, Flags, Position, RECORD_BYTES, record_bytes},
    entry::{EventLeaf, KIND_RECEIPT, Receipt},
    evidence::{Evidence, EvidenceFile, MAX_EVIDENCE_FILE_BYTES},
    genesis::{Genesis, MAX_GENESIS_BYTES},
    hash::Hash,
    ids::*,
    merkle::Frontier,
    receipt::{MAX_RECEIPT_FILE_BYTES, ReceiptFile},
    receipts::{MAX_RECEIPTS_FILE_BYTES, ReceiptsFile},
    state_file::{MAX_STATE_FILE_BYTES, StateFile},
    state_proof::StateProof,
    transaction::{Author, AuthorKind, Body, MAX_BODY_BYTES, MAX_TRANSACTION_BYTES, Transaction},
    tree::Table,
};

/// Decodes, and encodes again if that worked.
type Again = fn(&[u8]) -> Option<Vec<u8>>;

fn again<T>(decoded: Result<T, DecodeError>, encode: impl Fn(&T) -> Vec<u8>) -> Option<Vec<u8>> {
    decoded.ok().map(|value| encode(&value))
}

fn block_limit() -> usize {
    4 * 1024 * 1024
}

/// Every type that is read from outside, with sample bytes.
fn outside() -> Vec<(&'static str, Again, Vec<u8>)> {
    let chain = Chain::with_receipts();
    let header = chain.certified(Height(1)).header;
    let bodies = samples::actions::actions().into_iter();
    let bodies: Vec<Body> = bodies.map(|(_, a)| samples::actions::body(a)).collect();
    let sign = |body: &Body| {
        let keys = [samples::key(1), samples::key(2)];
        Transaction::sign(&chain.id, body, &[&keys[0], &keys[1]], vec![7; 20])
    };
    let transactions: Vec<Transaction> = bodies[..3].iter().map(sign).collect();
    let block = Block {
        header,
        transactions: transactions.clone(),
    };
    let mut frontier = Frontier::new();
    (0..11).for_each(|n| frontier.append(samples::hash(n)));
    let correction = CorrectionProof {
        leaf: samples::list(chain.charged[0].receipt.leaf().to_vec()),
        path: samples::list((0..4).map(samples::hash).collect()),
    };
    let state = chain.state_file(Height(1), Table::Classes, 1);
    let absent = chain.state_file(Height(1), Table::Gateways, 4);
    let receipt = chain.receipt_file(4, Height(1));
    let certified = chain.certified(Height(2));

    let body: Again = |bytes| again(Body::decode(bytes), Body::encode);
    let mut all: Vec<(&str, Again, Vec<u8>)> = bodies
        .iter()
        .map(|sample| ("body", body, sample.encode()))
        .collect();
    let transaction: Again = |bytes| again(Transaction::decode(bytes), Transaction::encode);
    all.extend(
        transactions
            .iter()
            .map(|sample| ("transaction", transaction, sample.encode())),
    );
    let evidence: Again = |bytes| again(Evidence::decode(bytes), Evidence::encode);
    let kinds = [
        samples::evidence::votes(),
        samples::evidence::proposals(),
        samples::evidence::certificates(),
    ];
    all.extend(kinds.map(|sample| ("evidence", evidence, sample.encode())));
    let rest: [(&str, Again, Vec<u8>); 12] = [
        (
            "evidence file",
            |bytes| again(EvidenceFile::decode(bytes), EvidenceFile::encode),
            EvidenceFile {
                chain: chain.id,
                evidence: samples::evidence::certificates(),
            }
            .encode(),
        ),
        (
            "block",
            |bytes| again(Block::decode(bytes, block_limit()), Block::encode),
            block.encode(),
        ),
        (
            "header",
            |bytes| again(Header::decode(bytes), Header::encode),
            header.encode(),
        ),
        (
            "certified header",
            |bytes| {
                let read: Result<CertifiedHeader, _> = codec::decode(bytes, MAX_CERTIFIED_BYTES);
                again(read, codec::encode)
            },
            codec::encode(certified),
        ),
        (
            "genesis",
            |bytes| again(Genesis::decode(bytes), Genesis::encode),
            chain.genesis.encode(),
        ),
        (
            "receipt file",
            |bytes| again(ReceiptFile::decode(bytes), ReceiptFile::encode),
            receipt.encode(),
        ),
        (
            "receipts file",
            |bytes| again(ReceiptsFile::decode(bytes), ReceiptsFile::encode),
            chain.receipts_file(&[0, 3, 6], &[3]).encode(),
        ),
        (
            "state file",
            |bytes| again(StateFile::decode(bytes), StateFile::encode),
            state.encode(),
        ),
        (
            "state file of absence",
            |bytes| again(StateFile::decode(bytes), StateFile::encode),
            absent.encode(),
        ),
        (
            "state proof",
            |bytes| again(StateProof::decode(bytes), StateProof::encode),
            state.proof.encode(),
        ),
        (
            "correction proof",
            |bytes| again(CorrectionProof::decode(bytes), CorrectionProof::encode),
            correction.encode(),
        ),
        (
            "frontier",
            |bytes| again(codec::decode::<Frontier>(bytes, 4_096), codec::encode),
            codec::encode(&frontier),
        ),
    ];
    all.extend(rest);
    all
}

#[test]
fn samples_read_back_and_no_prefix_or_longer_one_does() {
    for (name, again, bytes) in outside() {
        assert_eq!(again(&bytes).as_ref(), Some(&bytes), "{name}");
        for cut in 0..bytes.len() {
            assert_eq!(again(&bytes[..cut]), None, "{name} cut at {cut}");
        }
        assert_eq!(
            again(&[&bytes[..], &[0]].concat()),
            None,
            "{name} and a zero"
        );
    }
}

#[test]
fn every_flipped_bit_is_another_value_or_refused() {
    for (name, again, bytes) in outside() {
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            if let Some(encoded) = again(&altered) {
                assert_eq!(encoded, altered, "{name}, bit {bit}");
            }
        }
    }
}

#[test]
fn counts_that_lie_are_refused_at_once() {
    // Each eight bytes in turn claim 2^64 - 1, 2^32 and 2^20 items.
    for (name, again, bytes) in outside() {
        for at in 0..bytes.len().saturating_sub(8) {
            for count in [u64::MAX, 1 << 32, 1 << 20] {
                let mut altered = bytes.clone();
                altered[at..at + 8].copy_from_slice(&count.to_le_bytes());
                if let Some(encoded) = again(&altered) {
                    assert_eq!(encoded, altered, "{name}, count at {at}");
                }
            }
        }
    }
}

#[test]
fn more_bytes_than_the_limit_are_refused() {
    let too_long = |limit: usize| vec![0; limit + 1];
    assert!(Body::decode(&too_long(MAX_BODY_BYTES)).is_err());
    assert!(Transaction::decode(&too_long(MAX_TRANSACTION_BYTES)).is_err());
    assert!(Header::decode(&too_long(HEADER_BYTES)).is_err());
    assert!(Genesis::decode(&too_long(MAX_GENESIS_BYTES)).is_err());
    assert!(Block::decode(&too_long(block_limit()), block_limit()).is_err());
    assert!(ReceiptFile::decode(&too_long(MAX_RECEIPT_FILE_BYTES)).is_err());
    assert!(StateFile::decode(&too_long(MAX_STATE_FILE_BYTES)).is_err());
    assert!(EvidenceFile::decode(&too_long(MAX_EVIDENCE_FILE_BYTES)).is_err());
    assert!(ReceiptsFile::decode(&too_long(MAX_RECEIPTS_FILE_BYTES)).is_err());
}

#[test]
fn lists_over_their_bound_are_refused() {
    let one = codec::encode(&samples::genesis().validators.0[0]);
    let set = |count: usize| [&(count as u64).to_le_bytes()[..], &one.repeat(count)].concat();
    let read = |bytes: &[u8]| codec::decode::<ValidatorSet>(bytes, 1 << 20);
    assert!(read(&set(MAX_VALIDATORS)).is_ok());
    assert!(read(&set(MAX_VALIDATORS + 1)).is_err());
}

#[test]
fn files_of_another_kind_or_version_are_refused() {
    let chain = Chain::with_receipts();
    let receipt = chain.receipt_file(0, Height(1)).encode();
    let state = chain.state_file(Height(1), Table::Classes, 0).encode();
    assert!(ReceiptFile::decode(&state).is_err());
    assert!(StateFile::decode(&receipt).is_err());
    let receipts = chain.receipts_file(&[0, 1], &[]).encode();
    assert!(ReceiptsFile::decode(&receipt).is_err());
    assert!(ReceiptFile::decode(&receipts).is_err());
    for version in [0, 2, 255] {
        let with = |bytes: &[u8]| [&bytes[..8], &[version], &bytes[9..]].concat();
        assert!(ReceiptFile::decode(&with(&receipt)).is_err());
        assert!(ReceiptsFile::decode(&with(&receipts)).is_err());
        assert!(StateFile::decode(&with(&state)).is_err());
    }
}

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey)
}

fn list<T: Debug, const MAX: usize>(
    item: impl Strategy<Value = T>,
    most: usize,
) -> impl Strategy<Value = List<T, MAX>> {
    vec(item, 0..=most).prop_map(|items| List::new(items).unwrap())
}

fn author() -> impl Strategy<Value = Author> {
    let kind = prop_oneof![
        Just(AuthorKind::Person),
        Just(AuthorKind::Gateway),
        Just(AuthorKind::Account),
        Just(AuthorKind::ApiKey),
        Just(AuthorKind::Validator),
    ];
    (kind, any::<u32>()).prop_map(|(kind, number)| Author { kind, number })
}

fn new_grant() -> impl Strategy<Value = NewGrant> {
    let numbers = any::<(u32, u16, u64, u64, u64)>();
    numbers.prop_map(|(account, class, amount, vests, expires)| NewGrant {
        account: AccountNumber(account),
        class: ClassNumber(class),
        amount: Amount(amount),
        vests: Time(vests),
        expires: Time(expires),
    })
}

/// The actions with lists, or of many numbers; the others are in the samples.
fn action() -> impl Strategy<Value = Action> {
    let classes = list(any::<u16>().prop_map(ClassNumber), 16);
    let open = (any::<u32>(), public_key(), classes).prop_map(|(unit, holder, classes)| {
        Action::OpenAccount(OpenAccount {
            unit,
            holder,
            classes,
        })
    });
    let issue = list(new_grant(), 40).prop_map(|grants| Action::Issue(Issue { grants }));
    let models = list(any::<u32>().prop_map(ModelNumber), 8);
    let bind = (any::<(u32, u64, u64)>(), public_key(), models);
    let bind = bind.prop_map(|((account, cap, expires), key, models)| {
        Action::BindApiKey(BindApiKey {
            account: AccountNumber(account),
            key,
            models,
            cap: Amount(cap),
            expires: Time(expires),
        })
    });
    let lease = any::<(u32, u64, u32, u16, u32, u64, u64, u32)>().prop_map(|n| {
        Action::Lease(Lease {
            journal: JournalNumber(n.0),
            number: LeaseNumber(n.1),
            account: AccountNumber(n.2),
            class: ClassNumber(n.3),
            api_key: ApiKeyNumber(n.4),
            wanted: Amount(n.5),
            worst_case: Amount(n.6),
            duration_ms: n.7,
        })
    });
    let debits = (any::<(u32, u64, u32)>(), hash()).prop_map(|((journal, first, count), root)| {
        Action::Debits(Debits {
            journal: JournalNumber(journal),
            first: DebitNumber(first),
            count,
            root,
        })
    });
    prop_oneof![open, issue, bind, lease, debits]
}

fn body() -> impl Strategy<Value = Body> {
    let head = (any::<u8>(), author(), list(author(), 16));
    (head, any::<[u8; 16]>(), any::<u32>(), action()).prop_map(
        |((version, author, signers), id, valid_until, action)| Body {
            version,
            author,
            signers,
            id,
            valid_until,
            action,
        },
    )
}

fn signature() -> impl Strategy<Value = Signature> {
    vec(any::<u8>(), 64).prop_map(|bytes| Signature(bytes.try_into().unwrap()))
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let payload = vec(any::<u8>(), 0..400);
    (body(), list(signature(), 16), payload).prop_map(|(body, signatures, payload)| Transaction {
        body: body.encode(),
        signatures,
        payload,
    })
}

fn header() -> impl Strategy<Value = Header> {
    let numbers = any::<(u8, u64, u64, u16, u64)>();
    (numbers, [(); 6].map(|()| hash())).prop_map(|(n, h)| Header {
        version: n.0,
        chain: ChainId(h[0]),
        height: Height(n.1),
        time: Time(n.2),
        previous: h[1],
        proposer: n.3,
        transactions_root: h[2],
        log_size: n.4,
        log_root: h[3],
        state_root: h[4],
        next_validators: h[5],
    })
}

proptest! {
    #[test]
    fn bodies_and_transactions_read_back(body in body(), transaction in transaction()) {
        prop_assert_eq!(Body::decode(&body.encode()), Ok(body));
        prop_assert_eq!(Transaction::decode(&transaction.encode()), Ok(transaction));
    }

    #[test]
    fn headers_and_blocks_read_back(header in header(), transactions in vec(transaction(), 0..4)) {
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        let block = Block { header, transactions };
        prop_assert_eq!(Block::decode(&block.encode(), block_limit()), Ok(block));
    }

    #[test]
    fn records_and_leaves_read_back(
        record in vec(any::<u8>(), RECORD_BYTES),
        version in 1u8..=2,
        n in any::<(u16, u64, u32, u32)>(),
        at in any::<(u32, u32, u64)>(),
        amounts in any::<(u16, u64, u64)>(),
        detail in hash(),
    ) {
        let mut record = record;
        record[0] = version;
        record.truncate(record_bytes(version).unwrap());
        let mut written = Vec::new();
        Debit::read(&record).unwrap().write(&mut written);
        prop_assert_eq!(&written, &record);
        let receipt = Receipt {
            flags: Flags(n.0),
            height: Height(n.1),
            account: AccountNumber(n.2),
            entry: n.3,
            position: Position {
                gateway: GatewayNumber(at.0),
                journal: JournalNumber(at.1),
                number: DebitNumber(at.2),
            },
            class: ClassNumber(amounts.0),
            cost: Amount(amounts.1),
            charged: Amount(amounts.2),
            detail,
        };
        prop_assert_eq!(Receipt::from_leaf(&receipt.leaf()), Some(receipt));
        prop_assert_eq!(EventLeaf::from_leaf(&receipt.leaf()), None);
        let event = EventLeaf {
            kind: KIND_RECEIPT + 1 + (n.0 % 24) as u8,
            height: receipt.height,
            account: receipt.account,
            entry: receipt.entry,
            control: at.2,
            event: detail,
        };
        prop_assert_eq!(EventLeaf::from_leaf(&event.leaf()), Some(event));
        prop_assert_eq!(Receipt::from_leaf(&event.leaf()), None);
    }

    #[test]
    fn random_bytes_pass_only_as_they_are_encoded(bytes in vec(any::<u8>(), 0..600)) {
        for (name, again, _) in &outside()[20..] {
            if let Some(encoded) = again(&bytes) {
                prop_assert_eq!(&encoded, &bytes, "{}", name);
            }
        }
        Receipt::from_leaf(&bytes);
        EventLeaf::from_leaf(&bytes);
    }

    #[test]
    fn spliced_bytes_pass_only_as_they_are_encoded(
        edits in vec((any::<Index>(), vec(any::<u8>(), 0..12), 0usize..12), 1..5),
    ) {
        for (name, again, mut bytes) in outside() {
            for (at, new, cut) in &edits {
                let start = at.index(bytes.len() + 1);
                let end = (start + cut).min(bytes.len());
                bytes.splice(start..end, new.iter().copied());
            }
            if let Some(encoded) = again(&bytes) {
                prop_assert_eq!(encoded, bytes, "{}", name);
            }
        }
    }
}
