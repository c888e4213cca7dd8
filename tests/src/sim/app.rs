//! The application that consensus drives, on the real ledger and the real
//! block files: the rules of a node without its network and indexes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tally_consensus::{
    Application, Candidate, Decision, Effort, Fatal, Pace, Slot, Source, Verdict,
};
use tally_ledger::{
    block::{Block, HEADER_BYTES, Header, ValidatorSet},
    crypto::ChainId,
    evidence::Evidence,
    execute::{self, Execution},
    genesis::Genesis,
    hash::Hash,
    ids::{Height, Time},
    state::State,
    transaction::{Transaction, TransactionId},
};
use tally_node::{storage::BlockFiles, testimony::Testimony};

use super::{
    clock::Clock,
    disk::SimDisk,
    genesis::{Memo, keys},
    judge::Judge,
    message::show,
};

/// Largest body.
pub const MAX_BODY: usize = 4 << 20;
/// Blocks of a segment are few, so that segments change.
const SEGMENT_BYTES: u64 = 24 << 10;
/// How far ahead of the own clock a new block may be.
const CLOCK_TEST_MS: u64 = 500;

/// What all nodes of a simulation share.
#[derive(Clone)]
pub struct Shared {
    /// Where the chain begins.
    pub genesis: Arc<Genesis>,
    /// Valid signatures.
    pub memo: Arc<Memo>,
    /// Judges everything that happens.
    pub judge: Arc<Mutex<Judge>>,
}

impl Shared {
    /// The judge.
    pub fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's application; clones are the same one.
#[derive(Clone)]
pub struct App(Arc<Mutex<Inner>>);

/// Inside of it.
pub struct Inner {
    /// The committed state.
    pub state: State,
    node: usize,
    shared: Shared,
    clock: Clock,
    files: BlockFiles,
    made: BTreeMap<Hash, Execution>,
    pool: Vec<Transaction>,
    pooled: BTreeSet<TransactionId>,
    committed_at: u64,
    testimony: Testimony,
}

impl App {
    /// Opens the block files of a node and replays them.
    pub fn open(shared: Shared, node: usize, clock: Clock, disk: &SimDisk) -> Result<Self, String> {
        let chain = shared.genesis.chain();
        let folder = Path::new("blocks");
        let disk = Arc::new(disk.clone());
        let key = keys(node).consensus;
        let evidence = "evidence".into();
        let testimony = Testimony::open(disk.clone(), evidence, &shared.genesis, key)
            .map_err(|error| error.to_string())?;
        let (files, _) = BlockFiles::open(disk, folder, chain, SEGMENT_BYTES)
            .map_err(|error| error.to_string())?;
        let mut state = State::genesis(&shared.genesis).map_err(|error| error.to_string())?;
        for height in 1..=files.last().0 {
            let record = files.reader().read(Height(height));
            let record = record.map_err(|error| error.to_string())?;
            let record = record.ok_or("a block is missing")?;
            let block = Block::decode(&record.body, MAX_BODY).map_err(|e| e.to_string())?;
            let id = block.header.id();
            let validators = state.validators();
            (record.certificate)
                .verify(&chain, record.height, &id, validators)
                .map_err(|error| format!("block {height} on disk: {error}"))?;
            let execution = execute::check(&state, &block, &*shared.memo)
                .map_err(|error| format!("block {height} on disk: {error}"))?;
            state.commit(execution);
        }
        let committed_at = clock.now();
        shared.judge().reopened(node, &state);
        Ok(Self(Arc::new(Mutex::new(Inner {
            state,
            node,
            shared,
            clock,
            files,
            made: BTreeMap::new(),
            pool: Vec::new(),
            pooled: BTreeSet::new(),
            committed_at,
            testimony,
        }))))
    }

    /// Inside of it.
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction came.
    pub fn submit(&self, transaction: Transaction) {
        self.inner().submit(transaction);
    }
}

impl Inner {
    fn submit(&mut self, transaction: Transaction) {
        let id = transaction.id();
        let now = self.clock.wall();
        let memo = self.shared.memo.clone();
        let admitted = execute::admit(&self.state, now, &transaction, &*memo);
        if let Err(reason) = admitted {
            let node = self.node;
            show(|| format!("node {node} does not admit {id:?}: {reason:?}"));
        }
        if admitted.is_ok() && self.pooled.insert(id) {
            self.pool.push(transaction);
        }
    }

    /// Another valid block of the next height than [`Application::propose`]
    /// makes: for a validator that lies.
    pub fn other_block(&self, proposer: u16, later_ms: u64) -> Block {
        let time = Time(self.clock.wall().0 + later_ms);
        let none: [Transaction; 0] = [];
        execute::build(&self.state, time, proposer, none, &*self.shared.memo).block
    }

    fn clean_pool(&mut self) {
        let now = self.clock.wall();
        for transaction in std::mem::take(&mut self.pool) {
            let memo = &*self.shared.memo;
            match execute::admit(&self.state, now, &transaction, memo) {
                Ok(_) => self.pool.push(transaction),
                Err(_) => {
                    self.pooled.remove(&transaction.id());
                }
            }
        }
    }

    fn judge_body(&mut self, body: &[u8], source: Source) -> Result<(), String> {
        let block = Block::decode(body, MAX_BODY).map_err(|error| error.to_string())?;
        let ahead = self.clock.wall().0.saturating_add(CLOCK_TEST_MS);
        if source.clock_test() && block.header.time.0 > ahead {
            return Err("its time is too far ahead".into());
        }
        let execution = execute::check(&self.state, &block, &*self.shared.memo)
            .map_err(|error| error.to_string())?;
        self.made.insert(block.header.id(), execution);
        Ok(())
    }

    fn commit(&mut self, decision: Decision) -> Result<Time, Fatal> {
        let execution = self.made.remove(&decision.id);
        let execution = execution.ok_or_else(|| Fatal::new("decided, but never validated"))?;
        let Decision {
            height,
            body,
            certificate,
            ..
        } = decision;
        (self.files.append(height, &certificate, &body)).map_err(Fatal::new)?;
        self.state.commit(execution);
        self.made.clear();
        self.clean_pool();
        self.committed_at = self.clock.now();
        {
            let mut judge = self.shared.judge.lock();
            let judge = judge
                .as_mut()
                .map_err(|_| Fatal::new("the judge is gone"))?;
            judge.committed(self.node, &self.state, &body, certificate.round);
        }
        self.testify(Vec::new())?;
        Ok(self.state.time())
    }

    /// What a node does with what it saw signed twice.
    fn testify(&mut self, seen: Vec<Evidence>) -> Result<(), Fatal> {
        self.testimony.settle(&self.state).map_err(Fatal::new)?;
        (self.testimony.keep(&self.state, seen)).map_err(Fatal::new)?;
        let told = self.testimony.tell(&self.state, self.clock.wall());
        told.into_iter()
            .for_each(|transaction| self.submit(transaction));
        Ok(())
    }

    /// The first height of which evidence waits.
    pub fn oldest_evidence(&self) -> Option<Height> {
        self.testimony.oldest()
    }
}

impl Application for App {
    fn chain(&self) -> ChainId {
        *self.inner().state.chain()
    }

    fn committed(&self) -> Height {
        self.inner().state.height()
    }

    fn validators(&self, _: Height) -> ValidatorSet {
        self.inner().state.validators().clone()
    }

    fn propose(&mut self, slot: Slot, effort: Effort) -> Result<Candidate, Fatal> {
        let inner = &mut *self.inner();
        let take = effort.share(inner.pool.len());
        let time = inner.clock.wall();
        let (candidates, memo) = (inner.pool.iter().take(take), &*inner.shared.memo);
        let built = execute::build(&inner.state, time, slot.proposer, candidates, memo);
        let (node, height) = (inner.node, slot.height);
        show(|| {
            let (taken, refused) = (built.block.transactions.len(), &built.refused);
            format!("node {node} builds {height}, {effort:?}: {taken}, refused {refused:?}")
        });
        let id = built.block.header.id();
        inner.made.insert(id, built.execution);
        let body = built.block.encode().into();
        Ok(Candidate { id, body })
    }

    fn id(&self, body: &Bytes) -> Option<Hash> {
        let block = Block::decode(body, MAX_BODY).ok()?;
        block.is_whole().then(|| block.header.id())
    }

    fn validate(&mut self, _: Slot, body: &Bytes, source: Source) -> Result<Verdict, Fatal> {
        Ok(match self.inner().judge_body(body, source) {
            Ok(()) => Verdict::Valid,
            Err(why) => Verdict::Invalid(why),
        })
    }

    fn commit(&mut self, decision: Decision) -> Result<Time, Fatal> {
        self.inner().commit(decision)
    }

    fn history(
        &mut self,
        range: RangeInclusive<Height>,
        max_bytes: usize,
    ) -> Result<Vec<Decision>, Fatal> {
        let inner = self.inner();
        let (mut bytes, mut found) = (0, Vec::new());
        for height in range.start().0..=range.end().0 {
            let record = inner.files.reader().read(Height(height));
            let Some(record) = record.map_err(Fatal::new)? else {
                break;
            };
            bytes += record.body.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            let header = Header::decode(&record.body[..HEADER_BYTES]).map_err(Fatal::new)?;
            found.push(Decision {
                height: record.height,
                id: header.id(),
                body: record.body,
                certificate: record.certificate,
            });
        }
        Ok(found)
    }

    fn history_min(&self) -> Height {
        Height(1)
    }

    fn pace(&self) -> Pace {
        let inner = self.inner();
        let due = inner.state.next_due();
        let is_due = due.is_some_and(|due| due <= inner.clock.wall());
        let now = inner.clock.instant();
        let since = Duration::from_micros(inner.clock.now() - inner.committed_at);
        let heartbeat = inner.state.parameters().heartbeat_ms;
        Pace {
            work: !inner.pool.is_empty() || is_due,
            earliest: None,
            latest: now + Duration::from_millis(heartbeat.into()).saturating_sub(since),
        }
    }

    fn evidence(&mut self, evidence: Vec<Evidence>) -> Result<(), Fatal> {
        let mut inner = self.inner();
        for one in &evidence {
            inner.shared.judge().evidence(one);
        }
        inner.testify(evidence)
    }
}
