//! The application that consensus drives: builds, executes and commits
//! blocks over the store and the mempool. It is the one owner of the chain;
//! a block that was built or validated is kept, so that its commit does not
//! execute it again.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tally_consensus::{
    Application, Candidate, Decision, Effort, Fatal, Pace, Slot, Source, Verdict,
};
use tally_ledger::{
    block::{Block, ValidatorSet},
    codec::List,
    correction::CorrectionProof,
    crypto::ChainId,
    debit::debit_count,
    entry::Entry,
    evidence::Evidence,
    execute::{Built, Execution, build, check_stored},
    hash::Hash,
    ids::{Height, Time},
    parameters::Parameters,
    redacted::{RedactedBlock, StoredBlock},
    state::State,
    transaction::{Transaction, TransactionId},
};
use tracing::{info, warn};

use crate::{
    chain::{Chain, MAX_BODY, header_of},
    mempool::{Mempool, Pick, Waiting, corrects},
    metrics::Metrics,
    node::Node,
    signatures::SignatureCache,
    store::Store,
    testimony::{Testimony, TestimonyError},
    view::CommittedBlock,
};

/// A live proposal may be this far ahead of the own clock.
const CLOCK_TOLERANCE_MS: u64 = 500;
/// A block of more debits than this delays the next one.
const HEAVY_DEBITS: usize = 1_000;
/// By this much after its start.
const HEAVY_PAUSE: Duration = Duration::from_millis(50);
/// Executed blocks that are kept for their commit.
const PREPARED: usize = 8;

/// Now, in ms since 1970.
pub(crate) fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Time(since.as_millis() as u64)
}

/// A block that was executed and not committed.
#[derive(Debug)]
struct Prepared {
    block: StoredBlock,
    execution: Execution,
}

/// Application of one node.
#[derive(Debug)]
pub struct NodeApplication {
    store: Store,
    chain: Arc<Chain>,
    mempool: Arc<Mempool>,
    signatures: Arc<SignatureCache>,
    metrics: Metrics,
    prepared: BTreeMap<Hash, Prepared>,
    /// In the order in which they were prepared.
    order: VecDeque<Hash>,
    height: Height,
    /// When work on this height began.
    begun: Option<Instant>,
    /// Not before this: the last block was heavy.
    earliest: Option<Instant>,
    /// When the last block was committed, or the node started.
    last: Instant,
    /// What was seen signed twice, and who hands it in.
    testimony: Option<(Testimony, Arc<Node>)>,
}

impl NodeApplication {
    /// Over an open store.
    pub fn new(
        store: Store,
        mempool: Arc<Mempool>,
        signatures: Arc<SignatureCache>,
        metrics: Metrics,
    ) -> Self {
        let chain = store.chain();
        let height = chain.read(|committed| committed.state.height());
        chain.read(|committed| {
            metrics.height.set(committed.state.height().0 as i64);
            metrics.entries.set(committed.state.log().size() as i64);
        });
        Self {
            store,
            chain,
            mempool,
            signatures,
            metrics,
            prepared: BTreeMap::new(),
            order: VecDeque::new(),
            height,
            begun: None,
            earliest: None,
            last: Instant::now(),
            testimony: None,
        }
    }

    /// One that keeps what validators sign twice, and tells the chain.
    pub(crate) fn testifying(mut self, testimony: Testimony, node: Arc<Node>) -> Self {
        self.testimony = Some((testimony, node));
        self.count_evidence();
        self
    }

    /// The chain's parameters as they are.
    pub fn parameters(&self) -> Parameters {
        self.chain.read(|committed| *committed.state.parameters())
    }

    fn keep(&mut self, id: Hash, prepared: Prepared) {
        if self.prepared.insert(id, prepared).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > PREPARED {
            let oldest = self.order.pop_front();
            oldest.and_then(|id| self.prepared.remove(&id));
        }
    }

    /// What to build from, within a share of what a block may hold.
    fn candidates(&self, effort: Effort) -> Vec<Pick> {
        let (bytes, debits) = self.chain.read(|committed| {
            let parameters = committed.state.parameters();
            (
                parameters.max_block_bytes as usize,
                parameters.max_block_debits as usize,
            )
        });
        let waiting = match effort {
            Effort::Empty => Vec::new(),
            effort => (self.mempool).candidates(effort.share(bytes), effort.share(debits)),
        };
        waiting
            .into_iter()
            .map(|waiting| self.pick(waiting))
            .collect()
    }

    /// A correction's proof is made for the log just before the block.
    fn pick(&self, waiting: Arc<Waiting>) -> Pick {
        let payload = waiting
            .corrects
            .and_then(|entry| correction_payload(&self.chain, entry));
        match payload {
            Some(payload) => Pick::Own(Transaction {
                payload,
                ..waiting.transaction.clone()
            }),
            None => Pick::Shared(waiting),
        }
    }

    /// Executes a block that somebody else built. One without some of its
    /// details is executed only if it is certified.
    fn execute(&self, body: &Bytes, certified: bool) -> Result<Prepared, String> {
        let block = StoredBlock::decode(body, MAX_BODY).map_err(|error| error.to_string())?;
        if !certified && matches!(block, StoredBlock::Redacted(_)) {
            return Err("details are missing, and it is not certified".to_owned());
        }
        let executed = self
            .chain
            .read(|committed| check_stored(&committed.state, &block, self.signatures.as_ref()));
        let execution = executed.map_err(|error| error.to_string())?;
        Ok(Prepared { block, execution })
    }

    /// Keeps what was seen, forgets what the chain has, and hands in what is
    /// this node's to tell now. Nothing here waits for anybody.
    fn testify(&mut self, seen: Vec<Evidence>) -> Result<(), TestimonyError> {
        let Some((testimony, node)) = &mut self.testimony else {
            return Ok(());
        };
        // Only this task commits, so the lock stops nobody.
        let told = self.chain.read(|committed| {
            let state = &committed.state;
            testimony.settle(state)?;
            testimony.keep(state, seen)?;
            Ok(match node.reports {
                true => testimony.tell(state, now()),
                false => Vec::new(),
            })
        })?;
        for transaction in told {
            let id = transaction.id();
            if let Err(why) = node.take(transaction, true) {
                warn!(%id, ?why, "evidence was not taken in; it is told again");
            }
        }
        self.count_evidence();
        Ok(())
    }

    fn count_evidence(&self) {
        let marks = |state: &State| state.marks().iter().map(|marks| marks.count).sum::<u32>();
        let marks = self.chain.read(|committed| marks(&committed.state));
        self.metrics.evidence.set(marks.into());
        if let Some((testimony, node)) = &self.testimony {
            let waiting = testimony.waiting();
            self.metrics.evidence_waiting.set(waiting as i64);
            node.testimony.store(waiting, Ordering::Relaxed);
        }
    }

    fn count(&self, block: &CommittedBlock, debits: usize, took: Duration) {
        let metrics = &self.metrics;
        metrics.height.set(block.block.header.height.0 as i64);
        metrics.entries.set(block.block.header.log_size as i64);
        metrics.blocks.inc();
        metrics.transactions.inc_by(block.transactions.len() as u64);
        metrics.receipts.inc_by(debits as u64);
        metrics.commit.observe(took.as_secs_f64());
    }

    /// Drops from the mempool what the block brought or made impossible.
    fn tidy(&self, ids: &[TransactionId]) {
        let stale = self
            .chain
            .read(|committed| self.mempool.committed(ids, &committed.state));
        for waiting in stale {
            let refused = admit(&self.chain, &self.signatures, &waiting.transaction).err();
            if let Some(reason) = refused {
                info!(id = %waiting.id, %reason, "dropped: the ledger refuses it by now");
                self.mempool.refuse(&waiting.id, reason);
            }
        }
    }
}

/// Whether the ledger would take a transaction now. A correction is judged
/// with a proof of its receipt in the log as it is.
pub(crate) fn admit(
    chain: &Chain,
    signatures: &SignatureCache,
    transaction: &Transaction,
) -> Result<TransactionId, tally_ledger::reason::Reason> {
    let admit = |transaction: &Transaction| {
        chain.read(|committed| {
            let now = now().max(Time(committed.state.time().0.saturating_add(1)));
            tally_ledger::execute::admit(&committed.state, now, transaction, signatures)
        })
    };
    let payload = corrects(&transaction.body).and_then(|entry| correction_payload(chain, entry));
    match payload {
        Some(payload) => admit(&Transaction {
            payload,
            ..transaction.clone()
        }),
        None => admit(transaction),
    }
}

/// Proof of a receipt in the committed log, if it is one.
fn correction_payload(chain: &Chain, entry: u64) -> Option<Vec<u8>> {
    let size = chain.read(|committed| committed.state.log().size());
    let receipt = chain.entries(entry..entry.checked_add(1)?).ok()?.pop()?;
    let path = chain.inclusion(entry, size).ok()??;
    let proof = CorrectionProof {
        leaf: List::new(receipt.leaf()).ok()?,
        path: List::new(path).ok()?,
    };
    Some(proof.encode())
}

fn debits_of(block: &StoredBlock) -> usize {
    let transactions = block.block().transactions.iter();
    let whole: usize = transactions.map(|t| debit_count(&t.payload)).sum();
    let redacted: usize = block.batches().iter().map(|batch| batch.debits.len()).sum();
    whole + redacted
}

impl Application for NodeApplication {
    fn chain(&self) -> ChainId {
        self.chain.read(|committed| *committed.state.chain())
    }

    fn committed(&self) -> Height {
        self.height
    }

    fn validators(&self, _: Height) -> ValidatorSet {
        // The set does not change in this version of the rules.
        self.chain
            .read(|committed| committed.state.validators().clone())
    }

    fn propose(&mut self, slot: Slot, effort: Effort) -> Result<Candidate, Fatal> {
        self.begun.get_or_insert_with(Instant::now);
        let candidates = self.candidates(effort);
        let Built {
            block,
            execution,
            refused,
        } = self.chain.read(|committed| {
            let signatures = self.signatures.as_ref();
            build(
                &committed.state,
                now(),
                slot.proposer,
                candidates,
                signatures,
            )
        });
        let dropped = self.mempool.refused(&refused);
        self.metrics.dropped.inc_by(dropped as u64);
        let (id, body) = (block.header.id(), Bytes::from(block.encode()));
        let block = StoredBlock::Whole(block);
        self.keep(id, Prepared { block, execution });
        Ok(Candidate { id, body })
    }

    fn id(&self, body: &Bytes) -> Option<Hash> {
        let block = Block::decode(body, MAX_BODY).ok()?;
        block.is_whole().then(|| block.header.id())
    }

    fn certified_id(&self, body: &Bytes) -> Option<Hash> {
        let redacted = RedactedBlock::decode(body, MAX_BODY).ok()?;
        redacted.is_whole().then(|| redacted.block.header.id())
    }

    fn validate(&mut self, _: Slot, body: &Bytes, source: Source) -> Result<Verdict, Fatal> {
        self.begun.get_or_insert_with(Instant::now);
        let header = match header_of(body) {
            Ok(header) => header,
            Err(error) => return Ok(Verdict::Invalid(error.to_string())),
        };
        if source.clock_test() && header.time.0 > now().0.saturating_add(CLOCK_TOLERANCE_MS) {
            let why = format!(
                "its time {} is ahead of this clock's {}",
                header.time,
                now()
            );
            return Ok(Verdict::Invalid(why));
        }
        let id = header.id();
        // The id covers the header only: the body is compared by executing
        // it, unless it is byte for byte the one that was executed.
        if self
            .prepared
            .get(&id)
            .is_some_and(|known| known.block.encode() == body[..])
        {
            return Ok(Verdict::Valid);
        }
        let started = Instant::now();
        let executed = self.execute(body, source.is_certified());
        self.metrics
            .execute
            .observe(started.elapsed().as_secs_f64());
        Ok(match executed {
            Ok(prepared) => {
                self.keep(id, prepared);
                Verdict::Valid
            }
            Err(why) => Verdict::Invalid(why),
        })
    }

    fn commit(&mut self, decision: Decision) -> Result<Time, Fatal> {
        let started = Instant::now();
        let Decision {
            height,
            id,
            body,
            certificate,
        } = decision;
        let prepared = match self.prepared.remove(&id) {
            Some(prepared) => prepared,
            None => self.execute(&body, true).map_err(|why| {
                Fatal::new(format!(
                    "certified block {id} of height {height} is invalid: {why}"
                ))
            })?,
        };
        let Prepared { block, execution } = prepared;
        let (header, debits) = (block.block().header, debits_of(&block));
        assert!(
            header.height == height && header.id() == id,
            "the decided block is this one"
        );
        let transactions = block.block().transactions.iter();
        let ids: Vec<TransactionId> = transactions.map(Transaction::id).collect();
        let round = certificate.round;
        let committed = self
            .store
            .commit(block, ids, execution, certificate, &body)
            .map_err(Fatal::new)?;
        self.height = height;
        self.prepared.clear();
        self.order.clear();
        let begun = self.begun.take().unwrap_or(started);
        self.earliest = (debits > HEAVY_DEBITS).then(|| begun + HEAVY_PAUSE);
        self.last = Instant::now();
        self.tidy(&committed.transactions);
        let (ms, commit_us) = (begun.elapsed().as_millis(), started.elapsed().as_micros());
        info!(
            height = height.0,
            round,
            txs = committed.transactions.len(),
            debits,
            entries = committed.entries.len(),
            bytes = body.len(),
            ms = ms as u64,
            commit_us = commit_us as u64,
            "block"
        );
        self.count(&committed, debits, started.elapsed());
        for (index, entry) in (committed.first_entry..).zip(&committed.entries) {
            alarm(index, entry);
        }
        self.testify(Vec::new()).map_err(Fatal::new)?;
        Ok(header.time)
    }

    fn history(
        &mut self,
        range: RangeInclusive<Height>,
        max_bytes: usize,
    ) -> Result<Vec<Decision>, Fatal> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for height in range.start().0..=range.end().0.min(self.height.0) {
            let record = self.chain.blocks.read(Height(height)).map_err(Fatal::new)?;
            let Some(record) = record else {
                break;
            };
            bytes += record.body.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            let id = header_of(&record.body).map_err(Fatal::new)?.id();
            found.push(Decision {
                height: record.height,
                id,
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
        self.chain.read(|committed| {
            let state = &committed.state;
            let heartbeat = Duration::from_millis(state.parameters().heartbeat_ms.into());
            let mut latest = self.last + heartbeat;
            let mut work = self.mempool.has_work(state);
            if let Some(due) = state.next_due() {
                let wait = Duration::from_millis(due.0.saturating_sub(now().0));
                work |= wait.is_zero();
                latest = latest.min(Instant::now() + wait);
            }
            Pace {
                work,
                earliest: self.earliest,
                latest,
            }
        })
    }

    fn evidence(&mut self, evidence: Vec<Evidence>) -> Result<(), Fatal> {
        self.testify(evidence).map_err(Fatal::new)
    }
}

/// What an operator should look at.
fn alarm(index: u64, entry: &Entry) {
    use tally_ledger::entry::Event;
    if let Entry::Event(_, Event::SignedTwice { place, signed, .. }) = entry {
        warn!(
            entry = index,
            validator = place.validator,
            height = place.height.0,
            round = place.round,
            signed = signed.name(),
            "the chain has evidence that a validator signed twice"
        );
    }
    let Entry::Event(
        _,
        Event::LeaseClosed {
            gateway,
            lease,
            unreported,
            ..
        },
    ) = entry
    else {
        return;
    };
    if unreported.0 > 0 {
        warn!(
            entry = index, gateway = gateway.0, lease = lease.0, %unreported,
            "a lost journal may have spent this without a receipt"
        );
    }
}
