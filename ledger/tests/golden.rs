//! Golden vectors of every signed, hashed or filed type, in `vectors/`.
//!
//! A changed byte here is a changed layout, which needs a new version. The
//! files are written anew only with `TALLY_WRITE_VECTORS=1`, in a commit of
//! their own that says why.

#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/vectors.rs"]
mod vectors;

use serde::Serialize;
use serde_json::{Value, json};
use support::{Chain, GATEWAY, JOURNAL, samples, validator_key};
use tally_ledger::{
    block::{self, Header, proposal_bytes, vote_bytes},
    codec,
    correction::CorrectionProof,
    crypto::{ChainId, Domain},
    debit::{Debit, Position, batch_leaf},
    entry::EventLeaf,
    evidence::{Evidence, EvidenceFile, Offence, Place, read_validator_leaf},
    hash::{Context, Hash},
    ids::*,
    merkle::{Frontier, Levels, leaf_hash, root_of},
    price::Usage,
    receipt::ReceiptFile,
    state::{State, genesis_entry},
    state_file::StateFile,
    transaction::{Transaction, signing_domain},
    tree::{Table, Tree, state_root, table_leaf_hash},
};
use vectors::check;

fn text(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(bytes)
}

fn object(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::Object(entries.into_iter().collect())
}

fn chain_id() -> ChainId {
    samples::genesis().chain()
}

#[test]
fn hash_contexts() {
    let of = |context: Context| {
        let value = json!({
            "hash_of_abc": context.hash(b"abc").to_string(),
            "key": text(context.key()),
        });
        (context.name().to_string(), value)
    };
    check("hash_contexts", object(Context::ALL.map(of)));
}

#[test]
fn signed_messages() {
    let (key, chain) = (samples::key(7), chain_id());
    let of = |domain: Domain| {
        let value = json!({
            "bytes": text(b"abc"),
            "message": text(domain.message(&chain, b"abc")),
            "signature": text(key.sign(domain, &chain, b"abc").0),
        });
        (domain.name().to_string(), value)
    };
    check(
        "signed_messages",
        json!({
            "chain": chain.to_string(),
            "seed": text(key.seed()),
            "public_key": key.public().to_string(),
            "domains": object(Domain::ALL.map(of)),
        }),
    );
}

#[test]
fn genesis() {
    let genesis = samples::genesis();
    genesis.validate().unwrap();
    check(
        "genesis",
        json!({
            "encoding": text(genesis.encode()),
            "chain": genesis.chain().to_string(),
            "validator_set": text(codec::encode(&genesis.validators)),
            "validator_set_hash": genesis.validators.hash().to_string(),
            "price_table": text(codec::encode(&genesis.prices)),
            "parameters": text(codec::encode(&genesis.parameters)),
        }),
    );
}

#[test]
fn transactions() {
    let chain = chain_id();
    let actions = samples::actions::actions();
    // What lies between is reserved.
    let tags = (0..22u32).chain([24, 25, 33, 33]);
    let of = |(tag, (name, action)): (u32, (&str, tally_ledger::action::Action))| {
        let body = samples::actions::body(action);
        assert_eq!(codec::encode(&body.action)[..4], tag.to_le_bytes());
        let keys: Vec<_> = (80..).take(body.signers.len()).map(samples::key).collect();
        let payload = if name == "debits" {
            vec![0xda; 300]
        } else {
            vec![]
        };
        let transaction =
            Transaction::sign(&chain, &body, &keys.iter().collect::<Vec<_>>(), payload);
        let signers = body.signers.iter().zip(&keys);
        let signed = signers.map(|(signer, key)| {
            let domain = signing_domain(*signer, &body);
            json!({
                "seed": text(key.seed()),
                "message": text(domain.message(&chain, &transaction.body)),
            })
        });
        let value = json!({
            "body": text(&transaction.body),
            "id": transaction.id().to_string(),
            "signed": signed.collect::<Vec<_>>(),
            "transaction": text(transaction.encode()),
            "leaf": text(transaction.leaf()),
        });
        (name.to_string(), value)
    };
    check("transactions", object(tags.zip(actions).map(of)));
}

#[test]
fn votes_headers_blocks() {
    let chain = Chain::with_receipts();
    let certified = chain.certified(Height(2));
    let header = certified.header;
    let id = header.id();
    let body = samples::actions::body(samples::actions::actions().remove(13).1);
    let transaction = Transaction::sign(&chain.id, &body, &[&samples::key(40)], vec![1, 2, 3]);
    let leaf = leaf_hash(&transaction.leaf());
    let vote = |domain: Domain, bytes: &[u8]| {
        json!({
            "bytes": text(bytes),
            "message": text(domain.message(&chain.id, bytes)),
            "signature": text(validator_key(0).sign(domain, &chain.id, bytes).0),
        })
    };
    let for_block = vote_bytes(Height(2), 3, Some(&id));
    check(
        "blocks",
        json!({
            "header": text(header.encode()),
            "id": id.to_string(),
            "seed": text(validator_key(0).seed()),
            "prevote": vote(Domain::Prevote, &for_block),
            "precommit": vote(Domain::Precommit, &for_block),
            "precommit_nil": vote(Domain::Precommit, &vote_bytes(Height(2), 3, None)),
            "proposal": vote(Domain::Proposal, &proposal_bytes(Height(2), 3, &id, -1)),
            "proposal_with_lock": vote(Domain::Proposal, &proposal_bytes(Height(2), 3, &id, 1)),
            "certificate": text(codec::encode(&certified.certificate)),
            "certified_header": text(codec::encode(certified)),
            "block": text(block::Block { header, transactions: vec![transaction] }.encode()),
            "transactions_root_of_one": root_of(&[leaf]).to_string(),
            "transactions_root_of_none": root_of(&[]).to_string(),
        }),
    );
    assert_eq!(header.encode().len(), block::HEADER_BYTES);
    assert_eq!(Header::decode(&header.encode()), Ok(header));
}

fn batch(debit: fn(u32) -> Debit) -> Value {
    let key = Context::Journal.key();
    let mut running = Hash::ZERO;
    let mut leaves = Vec::new();
    let mut of = |n: u32| {
        let debit = debit(n);
        let mut record = Vec::new();
        debit.write(&mut record);
        let position = Position {
            gateway: GATEWAY,
            journal: JOURNAL,
            number: DebitNumber(u64::from(n) + 1),
        };
        let leaf = batch_leaf(&position, &debit.fixed.write(), &debit.detail.hash());
        let hash = leaf_hash(&leaf);
        leaves.push(hash);
        let both = [running.0, hash.0].concat();
        running = Hash(*blake3::keyed_hash(&key, &both).as_bytes());
        json!({
            "number": n + 1,
            "record": text(record),
            "detail_hash": debit.detail.hash().to_string(),
            "batch_leaf": text(leaf),
            "batch_leaf_hash": hash.to_string(),
            "running_hash": running.to_string(),
        })
    };
    let records: Vec<Value> = (0..5).map(&mut of).collect();
    let root = root_of(&leaves).to_string();
    json!({ "gateway": 0, "journal": 1, "records": records, "root": root })
}

#[test]
fn debits() {
    check("debits", batch(samples::debit));
}

#[test]
fn debits_of_version_2() {
    check("debits_2", batch(samples::queued_debit));
}

#[test]
fn prices() {
    let table = samples::first_table();
    let cases = [
        (1, [0, 0, 0, 0, 0, 0], 0),
        (1, [1_000, 400, 200, 50, 0, 0], 0),
        (1, [1_000, 400, 200, 50, 0, 0], 700),
        (1, [1, 1, 1, 1, 0, 0], 0),
        (1, [u32::MAX, 0, u32::MAX, 0, 0, 0], (1u64 << 62) - 1),
        (7, [3, 0, 0, 0, 0, 0], 1),
    ];
    let of = |(model, usage, fee)| {
        let priced = table.model(ModelNumber(model)).unwrap();
        let cost = priced.cost(&Usage(usage), Amount(fee)).unwrap().0;
        json!({ "model": model, "usage": usage, "fee": fee.to_string(), "cost": cost.to_string() })
    };
    let cases: Vec<Value> = cases.into_iter().map(of).collect();
    check("prices", json!({ "table": table, "micro_ct": cases }));
}

#[test]
fn entries() {
    let chain = Chain::with_receipts();
    let mut log = Frontier::new();
    let receipts: Vec<Value> = (chain.charged.iter())
        .map(|charged| {
            let hash = leaf_hash(&charged.receipt.leaf());
            log.append(hash);
            json!({ "leaf": text(charged.receipt.leaf()), "leaf_hash": hash.to_string() })
        })
        .collect();
    let events = samples::events::events();
    let of = |(tag, (name, event)): (u8, (&str, tally_ledger::entry::Event))| {
        assert_eq!(event.kind(), tag + 2);
        let leaf = EventLeaf {
            kind: event.kind(),
            height: Height(5),
            account: AccountNumber(if event.is_control() && tag > 14 {
                u32::MAX
            } else {
                2
            }),
            entry: 17,
            control: if event.is_control() { 31 } else { 0 },
            event: event.hash(),
        };
        let hash = leaf_hash(&leaf.leaf());
        // Kinds that came later are not in the root.
        if tag <= 23 {
            log.append(hash);
        }
        let value = json!({
            "event": text(event.encode()),
            "event_hash": event.hash().to_string(),
            "leaf": text(leaf.leaf()),
            "leaf_hash": hash.to_string(),
        });
        (name.to_string(), value)
    };
    let events = object((0..).zip(events).map(of));
    let root = log.root().to_string();
    check(
        "entries",
        json!({ "receipts": receipts, "events": events, "root_of_all": root }),
    );
}

fn leaf_of(table: Table, leaf: &impl Serialize) -> (String, Value) {
    (format!("{table:?}"), leaf_at(table, 3, leaf))
}

fn leaf_at(table: Table, number: u32, leaf: &impl Serialize) -> Value {
    let bytes = codec::encode(leaf);
    json!({
        "table": table.id(),
        "number": number,
        "leaf": text(&bytes),
        "leaf_hash": table_leaf_hash(table, number, &bytes).to_string(),
    })
}

/// A person's leaf with a unit behind it.
fn unit_manager() -> Value {
    let leaf = samples::unit_manager().leaf();
    json!({
        "table": Table::Persons.id(),
        "number": 3,
        "leaf": text(&leaf),
        "leaf_hash": table_leaf_hash(Table::Persons, 3, &leaf).to_string(),
    })
}

#[test]
fn state() {
    let genesis = samples::genesis();
    let leaves = [
        leaf_of(Table::Chain, &samples::counts()),
        leaf_of(Table::Persons, &samples::person_state()),
        ("UnitManager".to_owned(), unit_manager()),
        leaf_of(Table::Accounts, &samples::account()),
        leaf_of(Table::Gateways, &samples::gateways(&genesis)[0]),
        leaf_of(Table::Classes, &samples::classes(&genesis)[0]),
        leaf_of(Table::ApiKeys, &samples::api_key()),
        leaf_of(Table::Parameters, &genesis.parameters),
        (
            "Rates".to_owned(),
            leaf_at(Table::Parameters, 1, &samples::rates_state()),
        ),
        leaf_of(Table::IdBuckets, &samples::id_bucket()),
        leaf_of(Table::PriceTables, &genesis.prices),
        leaf_of(Table::Corrections, &samples::correction()),
        leaf_of(Table::Validators, &genesis.validators.0[0]),
    ];
    let hashes: Vec<Hash> = (0u8..9).map(samples::hash).collect();
    let tree = |size: usize| Tree::of(Table::Accounts, hashes[..size].iter().copied());
    let roots = |size| json!({ "size": size, "root": tree(size).root().to_string() });
    let path: Vec<String> = (tree(5).path(2).unwrap().iter())
        .map(Hash::to_string)
        .collect();
    let tables = Table::ALL.map(|table| (table, u32::from(table.id()), samples::hash(table.id())));
    check(
        "state",
        json!({
            "leaves": object(leaves),
            "leaf_hashes_of_the_trees": hashes,
            "roots": (0..=9).map(roots).collect::<Vec<_>>(),
            "path_of_2_in_5": path,
            "tables_of_the_root": tables.map(|(table, size, root)| json!([table.id(), size, root])),
            "state_root": state_root(&tables).to_string(),
        }),
    );
}

#[test]
fn evidence() {
    let genesis = samples::genesis();
    let of = |name: &str, evidence: Evidence| {
        let offences = evidence.verify(&genesis.chain(), &genesis.validators);
        let offence = |offence: &Offence| {
            let Place {
                validator,
                height,
                round,
            } = offence.place;
            json!([validator, height, round, offence.kind.name()])
        };
        let value = json!({
            "encoding": text(evidence.encode()),
            "hash": evidence.hash().to_string(),
            "proves": offences.unwrap().iter().map(offence).collect::<Vec<_>>(),
        });
        (name.to_owned(), value)
    };
    let all = [
        of("votes", samples::evidence::votes()),
        of("proposals", samples::evidence::proposals()),
        of("certificates", samples::evidence::certificates()),
    ];
    let file = EvidenceFile {
        chain: genesis.chain(),
        evidence: samples::evidence::votes(),
    };
    let validator = genesis.validators.0[1];
    let leaf = codec::encode(&(validator, samples::evidence::marks()));
    let read = read_validator_leaf(&leaf);
    assert_eq!(read, Ok((validator, samples::evidence::marks())));
    check(
        "evidence",
        json!({
            "genesis": text(genesis.encode()),
            "evidence": object(all),
            "file": text(file.encode()),
            "validator_leaf_with_marks": leaf_at(Table::Validators, 1, &(validator, samples::evidence::marks())),
        }),
    );
}

/// The state of the sample genesis: the first leaf of every table that has
/// one, as the ledger itself encodes it.
#[test]
fn genesis_state() {
    let genesis = samples::genesis();
    let state = State::genesis(&genesis).unwrap();
    let of = |table: Table| {
        let leaf = state.prove(table, 0).leaf;
        let value = json!({
            "id": table.id(),
            "size": state.size(table),
            "leaf": leaf.map(|leaf| text(&*leaf)),
        });
        (format!("{table:?}"), value)
    };
    let entry = genesis_entry(genesis.chain());
    check(
        "genesis_state",
        json!({
            "tables": object(Table::ALL.map(of)),
            "state_root": state.state_root().to_string(),
            "log_entry": text(entry.leaf()),
            "log_root": state.log().root().to_string(),
        }),
    );
}

#[test]
fn proofs_and_files() {
    let chain = Chain::with_receipts();
    let full = chain.receipt_file(4, Height(1));
    let plain = ReceiptFile {
        detail: None,
        ..chain.receipt_file(0, Height(2))
    };
    let present = chain.state_file(Height(2), Table::Classes, 1);
    let absent = chain.state_file(Height(2), Table::Gateways, 1);
    assert!(full.verify(&chain.genesis).is_ok() && plain.verify(&chain.genesis).is_ok());
    assert!(present.verify(&chain.genesis).is_ok() && absent.verify(&chain.genesis).is_ok());
    let leaves = Levels::of((0..11).map(samples::hash));
    let correction = CorrectionProof {
        leaf: samples::list(chain.charged[0].receipt.leaf().to_vec()),
        path: samples::list(leaves.inclusion(3, 11).unwrap()),
    };
    let mut frontier = Frontier::new();
    (0..11).for_each(|n| frontier.append(samples::hash(n)));
    check(
        "files",
        json!({
            "genesis": text(chain.genesis.encode()),
            "receipt_file": text(full.encode()),
            "receipt_file_without_detail": text(plain.encode()),
            "state_file": text(present.encode()),
            "state_file_of_absence": text(absent.encode()),
            "correction_proof": text(correction.encode()),
            "frontier": text(codec::encode(&frontier)),
        }),
    );
    assert_eq!(StateFile::decode(&absent.encode()), Ok(absent));
}

#[test]
fn receipt_files_of_version_2() {
    let chain = Chain::with_queued_receipts();
    let queued = chain.receipt_file(3, Height(1));
    let verified = queued.verify(&chain.genesis).unwrap();
    assert_eq!(verified.detail.unwrap().queued.unwrap().dispatched, 4);
    // Without a detail nothing tells the versions of debits apart.
    let plain = ReceiptFile {
        detail: None,
        ..chain.receipt_file(0, Height(2))
    };
    check(
        "files_2",
        json!({
            "receipt_file": text(queued.encode()),
            "receipt_file_without_detail": text(plain.encode()),
        }),
    );
}
