//! The state: what all blocks so far have led to.
//!
//! It is a set of tables of leaves with consecutive numbers, a
//! dense tree per table, the log's frontier, and an index that is derived
//! from the leaves and never hashed. It changes in one way only: an
//! `Execution` that was computed from it is
//! committed. Every leaf is under the state root, so two nodes of equal root
//! hold the same state (I6).

mod chain;
pub(crate) mod due;
pub(crate) mod ids;
mod index;
mod leaves;

pub use chain::{Chain, PROTOCOL};
pub use due::{Due, DueKind, MAX_DUE_STEPS};
pub use ids::{BUCKETS, IdBucket, LIVE_IDS_PER_AUTHOR, MAX_HOURS_AHEAD};
pub(crate) use index::Index;
pub(crate) use leaves::{Leaves, LeavesChange, new_gateway};

use crate::{
    account::{Account, ApiKey},
    block::{Header, ValidatorSet},
    class::Class,
    codec::List,
    correction::Correction,
    crypto::{ChainId, PublicKey},
    entry::{Entry, Event, EventLeaf},
    evidence::Marks,
    execute::Execution,
    gateway::Gateway,
    genesis::{Genesis, GenesisError},
    hash::Hash,
    ids::{
        AccountNumber, ApiKeyNumber, ClassNumber, GatewayNumber, Height, LeaseNumber, Person,
        TableVersion, Time,
    },
    merkle::{self, Frontier},
    parameters::Parameters,
    person::PersonState,
    price::PriceTable,
    rates::RatesState,
    state_proof::StateProof,
    tree::{Table, Tree, state_root},
};

/// The committed state after a block, or after the genesis.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) chain: ChainId,
    pub(crate) genesis_time: Time,
    /// The last block's; none after the genesis.
    pub(crate) header: Option<Header>,
    pub(crate) log: Frontier,
    pub(crate) leaves: Leaves,
    /// One per table, ascending.
    pub(crate) trees: [Tree; Table::COUNT],
    pub(crate) index: Index,
}

/// The log's entry 0, which is control entry 1.
pub fn genesis_entry(chain: ChainId) -> Entry {
    let event = Event::Genesis { chain };
    let leaf = EventLeaf {
        kind: event.kind(),
        height: Height(0),
        account: AccountNumber::NONE,
        entry: 0,
        control: 1,
        event: event.hash(),
    };
    Entry::Event(leaf, event)
}

impl State {
    /// The state that a genesis starts from.
    pub fn genesis(genesis: &Genesis) -> Result<State, GenesisError> {
        genesis.validate()?;
        let chain = genesis.chain();
        let mut log = Frontier::new();
        log.append(genesis_entry(chain).leaf_hash());
        let leaves = Leaves::genesis(genesis);
        Ok(State::assemble(chain, genesis.time, None, log, leaves))
    }

    /// Builds trees and index from the leaves.
    pub(crate) fn assemble(
        chain: ChainId,
        genesis_time: Time,
        header: Option<Header>,
        log: Frontier,
        leaves: Leaves,
    ) -> State {
        State {
            chain,
            genesis_time,
            header,
            log,
            trees: Table::ALL.map(|table| Tree::of(table, leaves.hashes(table))),
            index: Index::of(&leaves),
            leaves,
        }
    }

    /// Hash of the genesis.
    pub fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// Height of the last block; 0 after the genesis.
    pub fn height(&self) -> Height {
        self.header.map_or(Height(0), |header| header.height)
    }

    /// Time of the last block, or of the genesis.
    pub fn time(&self) -> Time {
        self.header.map_or(self.genesis_time, |header| header.time)
    }

    /// The last block's header; none after the genesis.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Id of the last block; of the genesis the chain id.
    pub fn block_id(&self) -> Hash {
        self.header.map_or(self.chain.0, |header| header.id())
    }

    /// The log: its size, peaks and root.
    pub fn log(&self) -> &Frontier {
        &self.log
    }

    /// Root over all tables.
    pub fn state_root(&self) -> Hash {
        state_root(&self.trees.each_ref().map(tree_head))
    }

    /// Counts, protocol, price table in force.
    pub fn counts(&self) -> &Chain {
        &self.leaves.chain
    }

    /// Parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.leaves.parameters
    }

    /// Limits per minute and fee unit; `None`: never set, see
    /// [`RatesState::default`].
    pub fn rates(&self) -> Option<&RatesState> {
        self.leaves.rates.first()
    }

    /// Validators of the next height.
    pub fn validators(&self) -> &ValidatorSet {
        &self.leaves.validators
    }

    /// What evidence there is against each validator, by number.
    pub fn marks(&self) -> &[Marks] {
        &self.leaves.marks
    }

    /// Persons by number.
    pub fn persons(&self) -> &[PersonState] {
        &self.leaves.persons
    }

    /// Accounts by number.
    pub fn accounts(&self) -> &[Account] {
        &self.leaves.accounts
    }

    /// Gateways by number.
    pub fn gateways(&self) -> &[Gateway] {
        &self.leaves.gateways
    }

    /// Classes by number.
    pub fn classes(&self) -> &[Class] {
        &self.leaves.classes
    }

    /// API keys by number.
    pub fn api_keys(&self) -> &[ApiKey] {
        &self.leaves.api_keys
    }

    /// Price tables; the first is version 1.
    pub fn price_tables(&self) -> &[PriceTable] {
        &self.leaves.prices
    }

    /// Corrected receipts in the order of first correction.
    pub fn corrections(&self) -> &[Correction] {
        &self.leaves.corrections
    }

    /// A person.
    pub fn person(&self, number: Person) -> Option<&PersonState> {
        self.leaves.persons.get(number.0 as usize)
    }

    /// An account.
    pub fn account(&self, number: AccountNumber) -> Option<&Account> {
        self.leaves.accounts.get(number.0 as usize)
    }

    /// A gateway.
    pub fn gateway(&self, number: GatewayNumber) -> Option<&Gateway> {
        self.leaves.gateways.get(number.0 as usize)
    }

    /// A class.
    pub fn class(&self, number: ClassNumber) -> Option<&Class> {
        self.leaves.classes.get(usize::from(number.0))
    }

    /// An API key.
    pub fn api_key(&self, number: ApiKeyNumber) -> Option<&ApiKey> {
        self.leaves.api_keys.get(number.0 as usize)
    }

    /// The API key with this public half.
    pub fn api_key_by_public(&self, key: &PublicKey) -> Option<ApiKeyNumber> {
        self.index.api_keys.get(key).copied()
    }

    /// A version of the price table.
    pub fn price_table(&self, version: TableVersion) -> Option<&PriceTable> {
        self.leaves.prices.get((version.0 as usize).wrapping_sub(1))
    }

    /// Whose tokens a gateway's open lease holds; `None`: it is not open.
    pub fn lease_account(
        &self,
        gateway: GatewayNumber,
        lease: LeaseNumber,
    ) -> Option<AccountNumber> {
        self.index.leases.get(&(gateway, lease)).copied()
    }

    /// When the next due step is due, if the next block could run it: at
    /// once if that is not after now. A lease close that waits for blocks is
    /// left out; heartbeats bring it nearer.
    pub fn next_due(&self) -> Option<Time> {
        let next = Height(self.height().0 + 1);
        let mut ready = self.index.due.iter().filter(|due| {
            due.kind != DueKind::LeaseClose || self.index.close_is_ready(&self.leaves, due, next)
        });
        ready.next().map(|due| due.at)
    }

    /// Number of leaves of a table.
    pub fn size(&self, table: Table) -> u32 {
        self.tree(table).size()
    }

    /// Proof of what the state says about a number of a table.
    pub fn prove(&self, table: Table, number: u32) -> StateProof {
        let path = self.tree(table).path(number);
        let leaf = path.is_some().then(|| self.leaves.encode(table, number));
        StateProof {
            table,
            number,
            leaf: leaf.map(|leaf| List::new(leaf).expect("a leaf's lists are bounded")),
            path: List::new(path.unwrap_or_default()).expect("a tree is at most 32 deep"),
            tables: self.trees.each_ref().map(|tree| (tree.size(), tree.root())),
        }
    }

    fn tree(&self, table: Table) -> &Tree {
        &self.trees[usize::from(table.id()) - 1]
    }

    /// Takes over what was executed on top of this very state; gives back
    /// the block's entries.
    ///
    /// # Panics
    /// If it was executed on top of another state.
    pub fn commit(&mut self, execution: Execution) -> Vec<Entry> {
        let Execution {
            header,
            entries,
            change,
            ..
        } = execution;
        assert!(
            header.previous == self.block_id() && header.height.0 == self.height().0 + 1,
            "a block is committed on the state on which it was executed"
        );
        self.index.take_over(&self.leaves, &change);
        self.leaves.take_over(change.leaves);
        for (tree, update) in self.trees.iter_mut().zip(change.trees) {
            tree.apply(update);
        }
        if change.regrace {
            self.index.due = due::of_all(&self.leaves);
        }
        self.log = change.log;
        self.header = Some(header);
        entries
    }
}

/// What the state root says of a table.
pub(crate) fn tree_head(tree: &Tree) -> (Table, u32, Hash) {
    (tree.table(), tree.size(), tree.root())
}

impl Entry {
    /// Bytes of its leaf in the log.
    pub fn leaf(&self) -> Vec<u8> {
        match self {
            Entry::Receipt(receipt) => receipt.leaf().to_vec(),
            Entry::Event(leaf, _) => leaf.leaf().to_vec(),
        }
    }

    /// Hash of its leaf in the log.
    pub fn leaf_hash(&self) -> Hash {
        match self {
            Entry::Receipt(receipt) => merkle::leaf_hash(&receipt.leaf()),
            Entry::Event(leaf, _) => merkle::leaf_hash(&leaf.leaf()),
        }
    }
}
