//! Files made from blocks that the ledger itself built: every receipt is
//! proven to the exact price, every table's leaves prove, the books add up,
//! and any two log roots are consistent (I7).

#![allow(clippy::unwrap_used)]

mod support;

use support::{certify, samples, validator_key};
use tally_ledger::{
    action::*,
    audit::Audit,
    block::Block,
    certified::CertifiedHeader,
    codec,
    crypto::SecretKey,
    debit::{Debit, Position, batch_leaf},
    entry::{Entry, Receipt},
    execute::{Strict, build, check},
    genesis::Genesis,
    hash::{Context, Hash},
    ids::*,
    merkle::{Levels, leaf_hash, root_of, verify_consistency},
    receipt::{DebitProof, PriceCheck, ReceiptFile},
    state::{State, genesis_entry},
    state_file::StateFile,
    transaction::{Author, AuthorKind, Body, Transaction},
    tree::Table,
};

struct Chain {
    genesis: Genesis,
    state: State,
    log: Levels,
    blocks: Vec<(CertifiedHeader, Block)>,
    receipts: Vec<(u64, Receipt)>,
}

const MAKER: Person = Person(2);
const CHECKER: Person = Person(3);
const ADMINS: [Person; 2] = [Person(0), Person(1)];
const HOUR: u32 = 500_024;

/// The key of whoever signs.
fn key_of(author: Author) -> SecretKey {
    match author.kind {
        AuthorKind::Person => samples::key(author.number as u8 + 1),
        AuthorKind::Gateway => samples::key(40),
        AuthorKind::Account => samples::key(50),
        AuthorKind::ApiKey => samples::key(51),
        AuthorKind::Validator => validator_key(author.number as u16),
    }
}

impl Chain {
    fn new() -> Self {
        let genesis = samples::genesis();
        let state = State::genesis(&genesis).unwrap();
        let entry = genesis_entry(genesis.chain());
        Chain {
            log: Levels::of([entry.leaf_hash()]),
            genesis,
            state,
            blocks: Vec::new(),
            receipts: Vec::new(),
        }
    }

    fn sign(&self, author: Author, others: &[Author], action: Action) -> Transaction {
        self.sign_with(author, others, action, Vec::new())
    }

    fn sign_with(
        &self,
        author: Author,
        others: &[Author],
        action: Action,
        payload: Vec<u8>,
    ) -> Transaction {
        let counted = author.kind == AuthorKind::Gateway;
        let unique = Context::Detail.hash(&codec::encode(&action)).0;
        let id = unique[..16].try_into().unwrap();
        let (id, hour) = if counted { ([0; 16], 0) } else { (id, HOUR) };
        let body = Body::new(author, others, id, hour, action);
        let keys: Vec<SecretKey> = body.signers.iter().map(|signer| key_of(*signer)).collect();
        let keys: Vec<&SecretKey> = keys.iter().collect();
        Transaction::sign(self.state.chain(), &body, &keys, payload)
    }

    /// Builds, checks, certifies and commits a block of these.
    fn block(&mut self, transactions: Vec<Transaction>) {
        let time = Time(self.state.time().0 + 1_000);
        let built = build(&self.state, time, 1, &transactions, &Strict);
        assert_eq!(built.refused, []);
        check(&self.state, &built.block, &Strict).unwrap();
        let first = self.log.size();
        let hashes = built.execution.leaf_hashes().to_vec();
        hashes.iter().for_each(|leaf| self.log.append(*leaf));
        for (index, entry) in (first..).zip(self.state.commit(built.execution)) {
            if let Entry::Receipt(receipt) = entry {
                self.receipts.push((index, receipt));
            }
        }
        let header = built.block.header;
        assert_eq!(
            (header.log_size, header.log_root),
            (self.log.size(), self.log.root())
        );
        let certified = certify(self.state.chain(), header);
        self.blocks.push((certified, built.block));
    }

    /// A batch of debits on the gateway's first lease.
    fn debits(&self, debits: &[Debit]) -> Transaction {
        let gateway = self.state.gateway(support::GATEWAY).unwrap();
        let first = DebitNumber(gateway.last_debit.0 + 1);
        let mut payload = Vec::new();
        debits.iter().for_each(|debit| debit.write(&mut payload));
        let leaves = batch(first, debits);
        let action = Action::Debits(Debits {
            journal: support::JOURNAL,
            first,
            count: debits.len() as u32,
            root: root_of(&leaves),
        });
        self.sign_with(support::GATEWAY.into(), &[], action, payload)
    }

    fn certified(&self, height: Height) -> &(CertifiedHeader, Block) {
        &self.blocks[height.0 as usize - 1]
    }

    fn state_file(&self, table: Table, number: u32) -> StateFile {
        StateFile {
            certified: self.certified(self.state.height()).0.clone(),
            proof: self.state.prove(table, number),
        }
    }

    /// Everything about a receipt, under the header of its own height.
    fn receipt_file(&self, index: u64, receipt: &Receipt, debits: &[Debit]) -> ReceiptFile {
        let (certified, block) = self.certified(receipt.height);
        let (at, transaction) = (block.transactions.iter().enumerate())
            .find(|(_, transaction)| !transaction.payload.is_empty())
            .unwrap();
        let Action::Debits(action) = Body::decode(&transaction.body).unwrap().action else {
            panic!("only batches have a payload here");
        };
        let (start, count) = (action.first.0 as usize - 1, action.count as usize);
        let leaves = Levels::of(batch(action.first, &debits[start..start + count]));
        let number = receipt.position.number.0 - action.first.0;
        let all = Levels::of(block.transactions.iter().map(|t| leaf_hash(&t.leaf())));
        let debit = debits[receipt.position.number.0 as usize - 1];
        let path = self
            .log
            .inclusion(index, certified.header.log_size)
            .unwrap();
        ReceiptFile {
            certified: certified.clone(),
            index,
            receipt: *receipt,
            path: samples::list(path),
            detail: Some(debit.detail),
            debit: Some(DebitProof {
                fixed: debit.fixed,
                batch_path: samples::list(leaves.inclusion(number, leaves.size()).unwrap()),
                body: samples::list(transaction.body.clone()),
                signatures: Context::Signatures.hash(&codec::encode(&transaction.signatures)),
                payload: Context::Payload.hash(&transaction.payload),
                index: at as u32,
                count: all.size() as u32,
                path: samples::list(all.inclusion(at as u64, all.size()).unwrap()),
            }),
            prices: None,
        }
    }
}

fn batch(first: DebitNumber, debits: &[Debit]) -> Vec<Hash> {
    let leaf = |(number, debit): (u64, &Debit)| {
        let position = Position {
            gateway: support::GATEWAY,
            journal: support::JOURNAL,
            number: DebitNumber(number),
        };
        leaf_hash(&batch_leaf(
            &position,
            &debit.fixed.write(),
            &debit.detail.hash(),
        ))
    };
    (first.0..).zip(debits).map(leaf).collect()
}

fn opening(chain: &Chain) -> Vec<Transaction> {
    let grants = [0, 1].map(|class| NewGrant {
        account: AccountNumber(0),
        class: ClassNumber(class),
        amount: Amount(50_000_000),
        vests: Time(0),
        expires: Time(u64::MAX),
    });
    let open = OpenAccount {
        unit: 1,
        holder: samples::public(50),
        classes: samples::list(vec![ClassNumber(0), ClassNumber(1)]),
    };
    let bind = BindApiKey {
        account: AccountNumber(0),
        key: samples::public(51),
        models: samples::list(vec![]),
        cap: Amount(u64::MAX),
        expires: Time(u64::MAX),
    };
    let issue = Issue {
        grants: samples::list(grants.to_vec()),
    };
    let journal = OpenJournal {
        journal: support::JOURNAL,
        previous_intact: true,
    };
    let both = |action| chain.sign(MAKER.into(), &[CHECKER.into()], action);
    vec![
        chain.sign(MAKER.into(), &[], Action::OpenAccount(open)),
        both(Action::Issue(issue)),
        both(Action::BindApiKey(bind)),
        chain.sign(support::GATEWAY.into(), &[], Action::OpenJournal(journal)),
    ]
}

fn leasing(chain: &Chain) -> Vec<Transaction> {
    let lease = Lease {
        journal: support::JOURNAL,
        number: LeaseNumber(1),
        account: AccountNumber(0),
        class: ClassNumber(1),
        api_key: ApiKeyNumber(0),
        wanted: Amount(20_000_000),
        worst_case: Amount(50_000),
        duration_ms: 600_000,
    };
    let api_key = ApiKeyNumber(0).into();
    let prices = Action::SetPriceTable(samples::second_table());
    vec![
        chain.sign(support::GATEWAY.into(), &[api_key], Action::Lease(lease)),
        chain.sign(ADMINS[0].into(), &[ADMINS[1].into()], prices),
    ]
}

/// Nine debits in two batches; some capped, with a fee, or of table 2.
fn run() -> (Chain, Vec<Debit>) {
    let mut chain = Chain::new();
    chain.block(opening(&chain));
    chain.block(leasing(&chain));
    let debit = |n: u32| {
        let mut debit = samples::debit(n);
        debit.fixed.account = AccountNumber(0);
        debit.fixed.class = ClassNumber(1);
        debit.fixed.api_key = ApiKeyNumber(0);
        debit.fixed.lease = LeaseNumber(1);
        debit
    };
    let debits: Vec<Debit> = (0..9).map(debit).collect();
    chain.block(vec![chain.debits(&debits[..6])]);
    chain.block(vec![chain.debits(&debits[6..])]);
    (chain, debits)
}

#[test]
fn every_receipt_is_proven_and_the_books_add_up() {
    let (chain, debits) = run();
    assert_eq!(chain.receipts.len(), debits.len());
    let mut audit = Audit::new(&chain.genesis).unwrap();
    for (index, receipt) in &chain.receipts {
        let mut file = chain.receipt_file(*index, receipt, &debits);
        let table = file.detail.unwrap().table;
        if table.0 > 1 {
            file.prices = Some(chain.state_file(Table::PriceTables, table.0 - 1));
        }
        let file = ReceiptFile::decode(&file.encode()).unwrap();
        let verified = audit.receipt(&file).unwrap();
        assert_eq!(verified.price, PriceCheck::Exact);
    }
    for (table, count) in [(Table::Classes, 2), (Table::Gateways, 1)] {
        for number in 0..count {
            let file = StateFile::decode(&chain.state_file(table, number).encode()).unwrap();
            audit.state(&file).unwrap();
        }
    }
    let report = audit.finish().unwrap();
    assert_eq!(report.receipts, 9);
    let sums = report.classes[1].sums;
    assert_eq!(sums.receipts, 9);
    assert!(sums.loss > 0 && sums.charged > 0);
    assert!(report.journals[0].end_proven);
}

#[test]
fn every_leaf_of_the_state_proves_and_the_next_number_is_absent() {
    let (chain, _) = run();
    for table in Table::ALL {
        let size = chain.state.size(table);
        for number in 0..size {
            let file = chain.state_file(table, number);
            assert!(file.verify(&chain.genesis).unwrap().is_some());
        }
        let absent = chain.state_file(table, size);
        assert_eq!(absent.verify(&chain.genesis), Ok(None));
    }
}

#[test]
fn any_two_log_roots_are_consistent() {
    let (chain, _) = run();
    let headers: Vec<_> = chain.blocks.iter().map(|(c, _)| c.header).collect();
    for (i, new) in headers.iter().enumerate() {
        for old in &headers[..=i] {
            let path = chain.log.consistency(old.log_size, new.log_size).unwrap();
            let sizes = (old.log_size, new.log_size);
            assert!(verify_consistency(
                sizes.0,
                sizes.1,
                &old.log_root,
                &new.log_root,
                &path
            ));
        }
    }
}
