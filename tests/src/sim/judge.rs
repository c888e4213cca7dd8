//! The judge: sees everything that nodes sign and commit, and says what must
//! never happen.
//!
//! - agreement: one block per height, and one state after it (I6, I9);
//! - no honest node signs two different messages for one height, round and
//!   step;
//! - what a node has committed, it has after every crash;
//! - the log only grows: a consistency proof between the roots of successive
//!   blocks (I7), entry, control and debit numbers without gaps (I5);
//! - totals are conserved (I1), no lease holds more than its grants (I3),
//!   cost = charged + loss at the table's price (I4);
//! - evidence names only those who did it.
//!
//! It follows the chain with a state of its own, which executes every block
//! once more.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use tally_ledger::{
    account::Account,
    block::Block,
    class::Totals,
    crypto::PublicKey,
    entry::{Entry, Receipt},
    evidence::Evidence,
    execute,
    genesis::Genesis,
    hash::Hash,
    ids::{AccountNumber, ClassNumber},
    merkle::{self, consistency_path, verify_consistency},
    state::{State, genesis_entry},
};

use super::{
    app::MAX_BODY,
    genesis::{Memo, NODES},
};

/// What a validator signs in one place: height, round, step.
pub type Place = (u64, u32, u8);

/// What is true of a height once somebody has committed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Agreed {
    block: Hash,
    state_root: Hash,
    log: (u64, Hash),
}

impl Agreed {
    fn of(state: &State) -> Self {
        Self {
            block: state.block_id(),
            state_root: state.state_root(),
            log: (state.log().size(), state.log().root()),
        }
    }
}

/// The judge.
pub struct Judge {
    /// The chain as the first committer of each height has it.
    pub state: State,
    /// How often each request became a receipt, by its detail's hash.
    pub receipts: BTreeMap<Hash, u32>,
    /// The last height that each node has committed.
    pub heights: [u64; NODES],
    /// Blocks that were decided after the first round.
    pub late_blocks: u64,
    /// Double signatures that honest nodes noticed.
    pub evidences: u64,
    memo: Arc<Memo>,
    liar: Option<PublicKey>,
    agreed: Vec<Agreed>,
    /// What nodes read of heights that nobody is known to have committed:
    /// durable, but the power failed before they could say so.
    claims: BTreeMap<u64, Vec<(usize, Agreed)>>,
    leaves: Vec<Hash>,
    entries: BTreeMap<AccountNumber, u32>,
    control: u64,
    /// Last journal and debit.
    journal: (u32, u64),
    signed: BTreeMap<(usize, Place), Vec<u8>>,
    verdict: Option<String>,
}

impl Judge {
    /// At the genesis. `liar` may sign what it likes.
    pub fn new(genesis: &Genesis, memo: Arc<Memo>, liar: Option<PublicKey>) -> Self {
        let state = State::genesis(genesis).expect("the genesis of the simulation is valid");
        Self {
            agreed: vec![Agreed::of(&state)],
            claims: BTreeMap::new(),
            leaves: vec![genesis_entry(genesis.chain()).leaf_hash()],
            state,
            receipts: BTreeMap::new(),
            heights: [0; NODES],
            evidences: 0,
            late_blocks: 0,
            memo,
            liar,
            entries: BTreeMap::new(),
            control: 1,
            journal: (0, 0),
            signed: BTreeMap::new(),
            verdict: None,
        }
    }

    /// What has happened that must not, the first of it.
    pub fn verdict(&self) -> Option<&str> {
        self.verdict.as_deref()
    }

    /// The height of the chain.
    pub fn height(&self) -> u64 {
        self.state.height().0
    }

    /// Says that something must not be.
    pub fn condemn(&mut self, why: String) {
        self.verdict.get_or_insert(why);
    }

    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.condemn(what());
        }
    }

    /// An honest node has signed this.
    pub fn signed(&mut self, node: usize, place: Place, bytes: &[u8]) {
        let known = (self.signed)
            .entry((node, place))
            .or_insert_with(|| bytes.to_vec());
        let same = known == bytes;
        self.require(same, || {
            format!("node {node} signs two messages at (height, round, step) {place:?}")
        });
    }

    /// A node has seen somebody sign twice.
    pub fn evidence(&mut self, evidence: &Evidence) {
        self.evidences += 1;
        let accused = evidence.offences();
        let liars = accused.iter().all(|of| self.lies(of.place.validator));
        self.require(liars && !accused.is_empty(), || {
            format!("evidence against an honest node: {evidence:?}")
        });
    }

    /// Whether a validator is the liar.
    fn lies(&self, validator: u16) -> bool {
        let validator = self.state.validators().0.get(usize::from(validator));
        let key = validator.map(|validator| validator.consensus_key);
        self.liar.is_some() && self.liar == key
    }

    /// Heights at which the chain says that somebody signed twice: nobody but
    /// the liar.
    pub fn marked(&mut self) -> u64 {
        let marks = (0..).zip(self.state.marks());
        let marked: Vec<(u16, u32)> = marks.map(|(n, marks)| (n, marks.count)).collect();
        let liars = marked.iter().all(|(n, count)| *count == 0 || self.lies(*n));
        self.require(liars, || {
            format!("the chain accuses honest nodes: {marked:?}")
        });
        marked.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// A node has another disk: it may have lost its blocks, and still must
    /// not sign twice.
    pub fn wiped(&mut self, node: usize) {
        self.heights[node] = 0;
    }

    /// A node has read its files again.
    pub fn reopened(&mut self, node: usize, state: &State) {
        let (had, has) = (self.heights[node], state.height().0);
        self.require(has >= had, || {
            format!("node {node} had committed height {had}, after a crash it has {has}")
        });
        self.agree(node, state);
        self.heights[node] = has;
    }

    /// A node has committed a block, and is in this state.
    pub fn committed(&mut self, node: usize, state: &State, body: &[u8], round: u32) {
        let height = state.height().0;
        let before = self.heights[node];
        self.require(height == before + 1, || {
            format!("node {node} commits {height} after {before}")
        });
        self.heights[node] = height;
        if height == self.agreed.len() as u64 {
            self.late_blocks += u64::from(round > 0);
            self.follow(body);
        }
        self.agree(node, state);
        self.hold(node, state);
    }

    /// One block per height, one state per block.
    fn agree(&mut self, node: usize, state: &State) {
        let (height, found) = (state.height().0, Agreed::of(state));
        match self.agreed.get(height as usize).copied() {
            Some(agreed) => self.require(agreed == found, || {
                format!("node {node} is at {found:?} at height {height}, others at {agreed:?}")
            }),
            None => (self.claims.entry(height).or_default()).push((node, found)),
        }
    }

    /// Executes the block of a new height; looks at what it added to the log.
    fn follow(&mut self, body: &[u8]) {
        let before = self.state.log().clone();
        let block = match Block::decode(body, MAX_BODY) {
            Ok(block) => block,
            Err(error) => return self.condemn(format!("an undecodable block: {error}")),
        };
        let execution = match execute::check(&self.state, &block, &*self.memo) {
            Ok(execution) => execution,
            Err(error) => return self.condemn(format!("an invalid block: {error}")),
        };
        let entries = self.state.commit(execution);
        for entry in &entries {
            self.leaves.push(merkle::leaf_hash(&entry.leaf()));
            self.count(entry);
        }
        let (old, new) = (before.size(), self.state.log().size());
        let subtree = |level: u32, index: u64| {
            let (start, end) = ((index << level) as usize, ((index + 1) << level) as usize);
            Ok::<_, Infallible>(merkle::root_of(&self.leaves[start..end]))
        };
        let path = consistency_path(old, new, subtree).unwrap_or_default();
        let root = self.state.log().root();
        let grows = new == self.leaves.len() as u64
            && verify_consistency(old, new, &before.root(), &root, &path);
        self.require(grows, || {
            format!("I7: the log of {old} entries is not in {new}")
        });
        let agreed = Agreed::of(&self.state);
        self.agreed.push(agreed);
        for (node, found) in self.claims.remove(&self.height()).unwrap_or_default() {
            self.require(found == agreed, || {
                format!("node {node} has {found:?} on disk, others {agreed:?}")
            });
        }
    }

    /// Numbers of entries go up by one.
    fn count(&mut self, entry: &Entry) {
        let (account, number) = match entry {
            Entry::Receipt(receipt) => (receipt.account, receipt.entry),
            Entry::Event(leaf, _) => (leaf.account, leaf.entry),
        };
        if entry.account().is_some() {
            let last = self.entries.entry(account).or_default();
            *last += 1;
            let next = *last;
            self.require(number == next, || {
                format!("{account:?}: {number} is not {next}")
            });
        }
        match entry {
            Entry::Receipt(receipt) => self.receipt(receipt),
            Entry::Event(leaf, _) if leaf.control != 0 => {
                self.control += 1;
                let next = self.control;
                self.require(leaf.control == next, || format!("control entry {next}"));
            }
            Entry::Event(..) => {}
        }
    }

    fn receipt(&mut self, receipt: &Receipt) {
        let position = receipt.position;
        let (journal, number) = (position.journal.0, position.number.0);
        let next = match self.journal.0 == journal {
            true => self.journal.1 + 1,
            false => 1,
        };
        let (last, place) = (self.journal.0, (journal, number));
        self.require(journal >= last && number == next, || {
            format!("I5: debit {place:?} instead of number {next}")
        });
        self.journal = place;
        self.require(receipt.charged <= receipt.cost, || {
            format!("I4: {receipt:?}")
        });
        *self.receipts.entry(receipt.detail).or_default() += 1;
    }

    /// I1 and I3 on a node's own state.
    fn hold(&mut self, node: usize, state: &State) {
        if let Err(why) = conserved(state) {
            self.condemn(format!("node {node}, height {}: {why}", state.height().0));
        }
        let gateway = &state.gateways()[0];
        let last = (gateway.journal.0, gateway.last_debit.0);
        if state.height() == self.state.height() {
            let logged = self.journal;
            let ahead = last.0 > logged.0 && last.1 == 0;
            self.require(last == logged || ahead, || {
                format!("I5: node {node}: the gateway's leaf says {last:?}, the log {logged:?}")
            });
        }
    }
}

fn conserved(state: &State) -> Result<(), String> {
    let mut sums: BTreeMap<ClassNumber, [u128; 5]> = BTreeMap::new();
    for (number, account) in state.accounts().iter().enumerate() {
        for (class, totals) in &account.totals {
            fits(account, *class, totals).map_err(|why| format!("account {number}: {why}"))?;
            for (sum, part) in sums
                .entry(*class)
                .or_default()
                .iter_mut()
                .zip(parts(totals))
            {
                *sum += part;
            }
        }
    }
    for (number, class) in state.classes().iter().enumerate() {
        let of_accounts = sums.remove(&ClassNumber(number as u16)).unwrap_or_default();
        if !class.totals.are_conserved() || parts(&class.totals) != of_accounts {
            return Err(format!("I1: class {number}: {:?}", class.totals));
        }
    }
    let leased: u128 = (state.classes().iter())
        .map(|class| u128::from(class.totals.leased.0))
        .sum();
    let open: u128 = (state.gateways().iter())
        .map(|gateway| u128::from(gateway.open.0))
        .sum();
    match leased <= open {
        true => Ok(()),
        false => Err(format!("I3: {leased} leased, {open} open")),
    }
}

fn parts(totals: &Totals) -> [u128; 5] {
    let wide = |amount: tally_ledger::ids::Amount| u128::from(amount.0);
    [
        wide(totals.issued),
        wide(totals.available),
        wide(totals.leased),
        wide(totals.spent),
        totals.costs.0,
    ]
}

/// What an account's grants and leases hold is what its totals say.
fn fits(account: &Account, class: ClassNumber, totals: &Totals) -> Result<(), String> {
    if !totals.are_conserved() {
        return Err(format!("I1: {totals:?}"));
    }
    let grants = account.grants.iter().filter(|grant| grant.class == class);
    let (mut free, mut leased) = (0, 0);
    for grant in grants {
        free += u128::from(grant.free.0);
        leased += u128::from(grant.leased.0);
    }
    let leases = account.leases.iter().filter(|lease| lease.class == class);
    let open: u128 = leases.map(|lease| u128::from(lease.remaining().0)).sum();
    let held = u128::from(totals.unvested.0) + u128::from(totals.available.0);
    if free != held || leased != u128::from(totals.leased.0) || open != leased {
        let why = format!("I3: free {free}, leased {leased}, in leases {open}: {totals:?}");
        return Err(why);
    }
    Ok(())
}
