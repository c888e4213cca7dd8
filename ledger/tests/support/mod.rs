//! A small certified chain with receipts, built by hand: headers, log and
//! state trees follow the layouts, the outcome of a debit the plainest rule
//! (charged = min(cost, limit)). And sample values of every type.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod samples;

use tally_ledger::{
    action::{Action, Debits},
    block::{BLOCK_VERSION, Certificate, Header, vote_bytes},
    certified::CertifiedHeader,
    class::Class,
    codec::{self, List},
    crypto::{ChainId, Domain, SecretKey},
    debit::{Debit, Position, batch_leaf},
    entry::Receipt,
    gateway::Gateway,
    genesis::Genesis,
    hash::{Context, Hash},
    ids::{Amount, DebitNumber, GatewayNumber, Height, JournalNumber, Time},
    merkle::{Levels, leaf_hash},
    price::PriceTable,
    receipt::{DebitProof, ReceiptFile},
    receipts::{ReceiptsFile, ShownReceipt},
    state_file::StateFile,
    state_proof::StateProof,
    transaction::{Body, Transaction},
    tree::{Table, Tree, state_root, table_leaf_hash},
};

pub(crate) const GATEWAY: GatewayNumber = GatewayNumber(0);
pub(crate) const JOURNAL: JournalNumber = JournalNumber(1);

/// The key of a validator.
pub(crate) fn validator_key(index: u16) -> SecretKey {
    SecretKey::from_seed(&[100 + index as u8; 32])
}

/// Signs a header as validators 0, 1 and 3 of four.
pub(crate) fn certify(chain: &ChainId, header: Header) -> CertifiedHeader {
    let round = 2;
    let bytes = vote_bytes(header.height, round, Some(&header.id()));
    let precommit = |index| {
        let key = validator_key(index);
        (index, key.sign(Domain::Precommit, chain, &bytes))
    };
    CertifiedHeader {
        header,
        certificate: Certificate {
            round,
            precommits: List::new([0, 1, 3].map(precommit).to_vec()).unwrap(),
        },
        set_changes: List::default(),
    }
}

/// State leaves per table, as a block left them.
pub(crate) type Leaves = Vec<(Table, Vec<Vec<u8>>)>;

struct Block {
    certified: CertifiedHeader,
    leaves: Leaves,
    batch: Levels,
    transaction: Transaction,
}

/// A receipt and its debit.
pub(crate) struct Charged {
    pub(crate) index: u64,
    pub(crate) receipt: Receipt,
    pub(crate) debit: Debit,
}

/// The chain.
pub(crate) struct Chain {
    pub(crate) genesis: Genesis,
    pub(crate) id: ChainId,
    pub(crate) tables: Vec<PriceTable>,
    pub(crate) classes: Vec<Class>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) charged: Vec<Charged>,
    log: Levels,
    blocks: Vec<Block>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        let genesis = samples::genesis();
        let id = genesis.chain();
        Chain {
            id,
            tables: vec![genesis.prices.clone(), samples::second_table()],
            classes: samples::classes(&genesis),
            gateways: samples::gateways(&genesis),
            charged: Vec::new(),
            log: Levels::of([leaf_hash(b"the genesis entry stands here")]),
            blocks: Vec::new(),
            genesis,
        }
    }

    /// A chain of two blocks with seven receipts in all.
    pub(crate) fn with_receipts() -> Self {
        let mut chain = Self::new();
        chain.block((0..5).map(samples::debit).collect());
        chain.block((5..7).map(samples::debit).collect());
        chain
    }

    /// The same chain with debits of version 2.
    pub(crate) fn with_queued_receipts() -> Self {
        let mut chain = Self::new();
        chain.block((0..5).map(samples::queued_debit).collect());
        chain.block((5..7).map(samples::queued_debit).collect());
        chain
    }

    pub(crate) fn height(&self) -> Height {
        Height(self.blocks.len() as u64)
    }

    pub(crate) fn certified(&self, height: Height) -> &CertifiedHeader {
        &self.blocks[height.0 as usize - 1].certified
    }

    /// A block with one batch.
    pub(crate) fn block(&mut self, debits: Vec<Debit>) {
        let height = Height(self.height().0 + 1);
        let first = DebitNumber(self.gateways[0].last_debit.0 + 1);
        let mut batch = Levels::default();
        let mut payload = Vec::new();
        let mut batch_receipts = Vec::new();
        for (number, debit) in (first.0..).zip(debits) {
            let position = Position {
                gateway: GATEWAY,
                journal: JOURNAL,
                number: DebitNumber(number),
            };
            let leaf = batch_leaf(&position, &debit.fixed.write(), &debit.detail.hash());
            batch.append(leaf_hash(&leaf));
            debit.write(&mut payload);
            batch_receipts.push((position, debit));
        }
        for (position, debit) in batch_receipts {
            self.charge(height, position, debit);
        }
        let transaction = self.transaction(first, &batch, payload);
        self.seal(height, batch, transaction);
    }

    fn charge(&mut self, height: Height, position: Position, debit: Debit) {
        let table = &self.tables[debit.detail.table.0 as usize - 1];
        let model = table.model(debit.detail.model).unwrap();
        let cost = model.cost(&debit.detail.usage, debit.fixed.fee).unwrap();
        let charged = cost.min(debit.fixed.limit);
        let receipt = Receipt {
            flags: debit.fixed.flags,
            height,
            account: debit.fixed.account,
            entry: position.number.0 as u32,
            position,
            class: debit.fixed.class,
            cost,
            charged,
            detail: debit.detail.hash(),
        };
        let loss = Amount(cost.0 - charged.0);
        let totals = &mut self.classes[usize::from(receipt.class.0)].totals;
        totals.costs.add(cost);
        totals.spent.0 += charged.0;
        totals.loss.add(loss);
        totals.leased.0 -= charged.0;
        self.gateways[0].loss.add(loss);
        self.gateways[0].last_debit = position.number;
        let index = self.log.size();
        self.log.append(leaf_hash(&receipt.leaf()));
        self.charged.push(Charged {
            index,
            receipt,
            debit,
        });
    }

    fn transaction(&self, first: DebitNumber, batch: &Levels, payload: Vec<u8>) -> Transaction {
        let action = Action::Debits(Debits {
            journal: JOURNAL,
            first,
            count: batch.size() as u32,
            root: batch.root(),
        });
        let body = Body::new(GATEWAY.into(), &[], [0; 16], 0, action);
        Transaction::sign(&self.id, &body, &[&samples::key(40)], payload)
    }

    fn leaves(&self) -> Leaves {
        let encoded = |table| match table {
            Table::Classes => self.classes.iter().map(codec::encode).collect(),
            Table::Gateways => self.gateways.iter().map(codec::encode).collect(),
            Table::PriceTables => self.tables.iter().map(codec::encode).collect(),
            other => vec![vec![other.id(); 3]; usize::from(other.id())],
        };
        Table::ALL.map(|table| (table, encoded(table))).to_vec()
    }

    fn seal(&mut self, height: Height, batch: Levels, transaction: Transaction) {
        let before = self.blocks.last().map(|block| block.certified.header);
        let leaves = self.leaves();
        let header = Header {
            version: BLOCK_VERSION,
            chain: self.id,
            height,
            time: Time(1_800_000_000_000 + height.0),
            previous: before.map_or(self.id.0, |header| header.id()),
            proposer: 1,
            transactions_root: Levels::of(transaction_leaves(&transaction)).root(),
            log_size: self.log.size(),
            log_root: self.log.root(),
            state_root: state_root(&trees(&leaves).map(|t| (t.table(), t.size(), t.root()))),
            next_validators: self.genesis.validators.hash(),
        };
        self.blocks.push(Block {
            certified: certify(&self.id, header),
            leaves,
            batch,
            transaction,
        });
    }

    /// The receipt file of the n-th receipt under a height's header; with
    /// detail and price table, and with the debit proof where that is possible.
    pub(crate) fn receipt_file(&self, n: usize, height: Height) -> ReceiptFile {
        let Charged {
            index,
            receipt,
            debit,
        } = &self.charged[n];
        let certified = self.certified(height).clone();
        let path = self.log.inclusion(*index, certified.header.log_size);
        let table = debit.detail.table.0;
        let last = self.height();
        let prices = || self.state_file(last, Table::PriceTables, table - 1);
        ReceiptFile {
            certified,
            index: *index,
            receipt: *receipt,
            path: List::new(path.unwrap()).unwrap(),
            detail: Some(debit.detail),
            debit: (receipt.height == height).then(|| self.debit_proof(n)),
            prices: (table > 1).then(prices),
        }
    }

    /// Some receipts in one file under the last header, those of `bare`
    /// without their details.
    pub(crate) fn receipts_file(&self, which: &[usize], bare: &[usize]) -> ReceiptsFile {
        let last = self.height();
        let certified = self.certified(last).clone();
        let indexes: Vec<u64> = which.iter().map(|n| self.charged[*n].index).collect();
        let path = self.log.multi(&indexes, certified.header.log_size);
        let shown = which.iter().map(|n| {
            let Charged {
                index,
                receipt,
                debit,
            } = &self.charged[*n];
            ShownReceipt {
                index: *index,
                receipt: *receipt,
                detail: (!bare.contains(n)).then_some(debit.detail),
            }
        });
        let shown: Vec<_> = shown.collect();
        let named = shown.iter().filter_map(|shown| shown.detail);
        let later: std::collections::BTreeSet<u32> = named
            .map(|detail| detail.table.0)
            .filter(|version| *version > 1)
            .collect();
        let proof = |version: u32| self.state_file(last, Table::PriceTables, version - 1).proof;
        ReceiptsFile {
            certified,
            receipts: List::new(shown).unwrap(),
            path: List::new(path.unwrap()).unwrap(),
            prices: List::new(later.into_iter().map(proof).collect()).unwrap(),
        }
    }

    fn debit_proof(&self, n: usize) -> DebitProof {
        let Charged { receipt, debit, .. } = &self.charged[n];
        let block = &self.blocks[receipt.height.0 as usize - 1];
        let before = self
            .charged
            .iter()
            .filter(|other| other.receipt.height < receipt.height);
        let index = n as u64 - before.count() as u64;
        let path = block.batch.inclusion(index, block.batch.size()).unwrap();
        let transactions = Levels::of(transaction_leaves(&block.transaction));
        let signatures = codec::encode(&block.transaction.signatures);
        DebitProof {
            fixed: debit.fixed,
            batch_path: List::new(path).unwrap(),
            body: List::new(block.transaction.body.clone()).unwrap(),
            signatures: Context::Signatures.hash(&signatures),
            payload: Context::Payload.hash(&block.transaction.payload),
            index: 1,
            count: 3,
            path: List::new(transactions.inclusion(1, 3).unwrap()).unwrap(),
        }
    }

    /// The state file of a number under a height's header.
    pub(crate) fn state_file(&self, height: Height, table: Table, number: u32) -> StateFile {
        let block = &self.blocks[height.0 as usize - 1];
        let trees = trees(&block.leaves);
        let at = usize::from(table.id()) - 1;
        let leaf = block.leaves[at].1.get(number as usize).cloned();
        let path = trees[at].path(number).unwrap_or_default();
        StateFile {
            certified: block.certified.clone(),
            proof: StateProof {
                table,
                number,
                leaf: leaf.map(|leaf| List::new(leaf).unwrap()),
                path: List::new(path).unwrap(),
                tables: trees.map(|tree| (tree.size(), tree.root())),
            },
        }
    }
}

/// Leaves under the transactions root: ours stands between two others.
fn transaction_leaves(transaction: &Transaction) -> Vec<Hash> {
    vec![
        leaf_hash(&[1; 96]),
        leaf_hash(&transaction.leaf()),
        leaf_hash(&[2; 96]),
    ]
}

fn trees(leaves: &Leaves) -> [Tree; Table::COUNT] {
    let tree = |(table, leaves): &(Table, Vec<Vec<u8>>)| {
        let numbered = (0..).zip(leaves);
        let hashes = numbered.map(|(number, leaf)| table_leaf_hash(*table, number, leaf));
        Tree::of(*table, hashes)
    };
    let trees: Vec<Tree> = leaves.iter().map(tree).collect();
    trees.try_into().unwrap()
}

/// Sum of all that was issued, per class, in the samples.
pub(crate) const ISSUED: Amount = Amount(10_000_000_000);
