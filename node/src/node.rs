//! One running node, as its services see it: the committed chain, the way in
//! for transactions, and its own numbers.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tally_consensus::{Status, Wake, gossip::Gossip};
use tally_ledger::{
    block::{Certificate, Header},
    crypto::PublicKey,
    entry::Entry,
    genesis::Genesis,
    hash::Hash,
    ids::Height,
    reason::Reason,
    state::State,
    transaction::{Transaction, TransactionId},
};
use tokio::sync::{broadcast, watch};

use crate::{
    application::admit,
    chain::Chain,
    mempool::{Mempool, Waiting},
    metrics::Metrics,
    signatures::SignatureCache,
    view::{CommittedBlock, Listing, Local, NotAdmitted, Place, ReadError, ReceiptName, View},
};

/// How long the size of the data folder is remembered.
const DISK_EVERY: Duration = Duration::from_secs(5);

/// A running node.
#[derive(Debug)]
pub struct Node {
    pub(crate) chain: Arc<Chain>,
    pub(crate) mempool: Arc<Mempool>,
    pub(crate) signatures: Arc<SignatureCache>,
    pub(crate) metrics: Metrics,
    pub(crate) wake: Wake,
    pub(crate) gossip: Option<Gossip>,
    /// Set once consensus runs.
    pub(crate) consensus: OnceLock<watch::Receiver<Status>>,
    pub(crate) key: PublicKey,
    pub(crate) data: PathBuf,
    pub(crate) disk: Mutex<Option<(Instant, u64, u64)>>,
    /// Pieces of evidence that wait to be told.
    pub(crate) testimony: AtomicUsize,
    /// Whether this node tells them.
    pub(crate) reports: bool,
}

impl Node {
    /// Takes a transaction in, from a client or from another validator.
    pub(crate) fn take(
        &self,
        transaction: Transaction,
        from_client: bool,
    ) -> Result<TransactionId, NotAdmitted> {
        let id = transaction.id();
        if self.mempool.get(&id).is_some() {
            // It leaves the mempool a moment after its block was announced:
            // who waited for that block then would wait in vain.
            return match self.chain.find_transaction(&id) {
                Ok(Some(_)) => Err(NotAdmitted::Refused(Reason::Duplicate)),
                _ => Ok(id),
            };
        }
        admit(&self.chain, &self.signatures, &transaction).map_err(|reason| {
            self.metrics.refused.inc();
            NotAdmitted::Refused(reason)
        })?;
        let gossip = self.gossip.as_ref().filter(|_| from_client);
        let bytes = gossip.map(|_| Bytes::from(transaction.encode()));
        let waiting = Waiting::new(id, transaction).expect("an admitted body decodes");
        let new = self
            .mempool
            .insert(waiting)
            .map_err(|_| NotAdmitted::Busy)?;
        if new {
            // Its block may have been committed between admission and here.
            if self
                .chain
                .find_transaction(&id)
                .is_ok_and(|found| found.is_some())
            {
                self.mempool.remove(&id);
                return Ok(id);
            }
            if let (Some(gossip), Some(bytes)) = (gossip, bytes) {
                gossip.publish(bytes);
            }
            self.wake.wake();
        }
        Ok(id)
    }

    /// Takes in what another validator sent; what is refused is dropped: its
    /// sender's client has been told by its own node.
    pub(crate) fn take_gossip(&self, bytes: &[u8]) {
        match Transaction::decode(bytes) {
            Ok(transaction) => {
                let id = transaction.id();
                if let Err(error) = self.take(transaction, false) {
                    tracing::debug!(%id, ?error, "gossip dropped");
                }
            }
            Err(error) => tracing::warn!(%error, "gossip dropped: no transaction"),
        }
    }

    fn status(&self) -> Status {
        match self.consensus.get() {
            Some(status) => status.borrow().clone(),
            None => Status::new(self.chain.read(|committed| committed.state.height())),
        }
    }

    /// Free and used bytes of the data folder.
    fn disk(&self) -> (u64, u64) {
        let mut known = self.disk.lock().expect("nobody panics while it is locked");
        match *known {
            Some((at, free, used)) if at.elapsed() < DISK_EVERY => (free, used),
            _ => {
                let (free, used) = (free_bytes(&self.data), used_bytes(&self.data));
                *known = Some((Instant::now(), free, used));
                (free, used)
            }
        }
    }
}

fn used_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => used_bytes(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Free bytes for this user on a folder's disk; the largest number if it
/// cannot be told.
fn free_bytes(folder: &Path) -> u64 {
    crate::statvfs::free_bytes(folder).unwrap_or(u64::MAX)
}

impl View for Node {
    fn genesis(&self) -> &Genesis {
        &self.chain.genesis
    }

    fn with_state<T>(&self, read: impl FnOnce(&State, Option<&Certificate>) -> T) -> T {
        self.chain
            .read(|committed| read(&committed.state, committed.certificate.as_ref()))
    }

    fn block(&self, height: Height) -> Result<Option<Arc<CommittedBlock>>, ReadError> {
        self.chain.block(height)
    }

    fn rewrites(&self) -> u64 {
        self.chain.rewrites()
    }

    fn header(&self, height: Height) -> Result<Option<(Header, Certificate)>, ReadError> {
        self.chain.header(height)
    }

    fn entries(&self, range: std::ops::Range<u64>) -> Result<Vec<Entry>, ReadError> {
        self.chain.entries(range)
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        self.chain.inclusion(index, size)
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        self.chain.consistency(old, new)
    }

    fn find_transaction(&self, id: &TransactionId) -> Result<Option<Place>, ReadError> {
        self.chain.find_transaction(id)
    }

    fn find_receipt(&self, name: ReceiptName) -> Result<Option<u64>, ReadError> {
        self.chain.find_receipt(name)
    }

    fn list(&self, listing: Listing, from: u64, limit: usize) -> Result<Vec<u64>, ReadError> {
        self.chain.list(listing, from, limit)
    }

    fn indexed(&self) -> Height {
        self.chain.indexed()
    }

    fn last_before(&self, listing: Listing, index: u64) -> Result<Option<u64>, ReadError> {
        self.chain.last_before(listing, index)
    }

    fn multi_path(&self, indexes: &[u64], size: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        self.chain.multi_path(indexes, size)
    }

    fn submit(&self, transaction: Transaction) -> Result<TransactionId, NotAdmitted> {
        self.take(transaction, true)
    }

    fn waiting(&self, id: &TransactionId) -> Option<Transaction> {
        self.mempool
            .get(id)
            .map(|waiting| waiting.transaction.clone())
    }

    fn refusal(&self, id: &TransactionId) -> Option<Reason> {
        self.mempool.refusals.of(id)
    }

    fn refusals(&self) -> watch::Receiver<()> {
        self.mempool.refusals.news()
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<CommittedBlock>> {
        self.chain.subscribe()
    }

    fn local(&self) -> Local {
        let (waiting, waiting_bytes) = self.mempool.size();
        let (disk_free, disk_used) = self.disk();
        let (since, validator) = self.chain.read(|committed| {
            let validators = committed.state.validators();
            (committed.since, validators.index_of(&self.key))
        });
        Local {
            consensus: self.status(),
            waiting,
            waiting_bytes,
            gossip_peers: self
                .gossip
                .as_ref()
                .map_or(0, |gossip| gossip.counts().peers),
            disk_free,
            disk_used,
            since_block_ms: since.elapsed().as_millis() as u64,
            validator,
            evidence_waiting: self.testimony.load(Ordering::Relaxed),
            reports: self.reports,
        }
    }
}
