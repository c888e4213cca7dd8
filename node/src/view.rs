//! What the services read of a node: the committed state, the history on
//! disk, and what waits. Everything behind [`View`] is final: nothing shows
//! there before its block and certificate are fsynced.

use std::{ops::Range, sync::Arc};

use tally_consensus::Status;
use tally_ledger::{
    block::{Block, Certificate, Header},
    entry::Entry,
    genesis::Genesis,
    hash::Hash,
    ids::{AccountNumber, ClassNumber, DebitNumber, GatewayNumber, Height, JournalNumber},
    reason::Reason,
    redacted::{RedactedBatch, encode_redacted},
    state::State,
    transaction::{Transaction, TransactionId},
};
use tokio::sync::{broadcast, watch};

/// A committed block with what execution made of it.
#[derive(Debug)]
pub struct CommittedBlock {
    /// Header and transactions; payloads of redacted batches are empty.
    pub block: Block,
    /// Batches of debits some of whose details were dropped here.
    pub redacted: Vec<RedactedBatch>,
    /// Its id.
    pub id: Hash,
    /// The quorum.
    pub certificate: Certificate,
    /// Ids of the transactions, in order.
    pub transactions: Vec<TransactionId>,
    /// Log index of the first entry.
    pub first_entry: u64,
    /// The entries.
    pub entries: Vec<Entry>,
}

impl CommittedBlock {
    /// Canonical bytes of the block, or of what is left of it.
    pub fn encode(&self) -> Vec<u8> {
        match self.redacted.is_empty() {
            true => self.block.encode(),
            false => encode_redacted(&self.block, &self.redacted),
        }
    }
}

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// In which block.
    pub height: Height,
    /// Its index among the block's transactions.
    pub index: u32,
}

/// Whose entries are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// An account's.
    Account(AccountNumber),
    /// Receipts and leases of a gateway, and what concerns itself.
    Gateway(GatewayNumber),
    /// Receipts, leases and grants of a class.
    Class(ClassNumber),
    /// Neither receipts nor leases.
    Control,
    /// All.
    All,
}

/// How a receipt is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptName {
    /// By the hold that it settles.
    Hold(GatewayNumber, JournalNumber, u64),
    /// By the debit.
    Debit(GatewayNumber, JournalNumber, DebitNumber),
}

/// Why a transaction does not wait here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The ledger refuses it as things stand.
    Refused(Reason),
    /// Too many wait here, in all or of this author.
    Busy,
}

/// This node's own numbers.
#[derive(Debug, Clone)]
pub struct Local {
    /// Consensus.
    pub consensus: Status,
    /// Transactions that wait.
    pub waiting: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Peers that gossip transactions.
    pub gossip_peers: usize,
    /// Free bytes on the disk of the data folder.
    pub disk_free: u64,
    /// Bytes of the data folder.
    pub disk_used: u64,
    /// Milliseconds since the last block was committed here.
    pub since_block_ms: u64,
    /// This node's index in the validator set, if it is in it.
    pub validator: Option<u16>,
    /// Pieces of evidence that the chain does not have yet.
    pub evidence_waiting: usize,
    /// Whether this node hands them in.
    pub reports: bool,
}

/// The history cannot be read: this machine's fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the history cannot be read: {0}")]
pub struct ReadError(pub String);

/// Read access of the services, and the way in for transactions. Methods
/// that return `Result<_, ReadError>` may touch the disk.
pub trait View: Send + Sync + 'static {
    /// The genesis.
    fn genesis(&self) -> &Genesis;

    /// Runs `read` on the committed state and the certificate of its last
    /// block (none before block 1). Holds a lock meanwhile: be brief.
    fn with_state<T>(&self, read: impl FnOnce(&State, Option<&Certificate>) -> T) -> T
    where
        Self: Sized;

    /// A committed block; `None` above the last or below the first kept.
    fn block(&self, height: Height) -> Result<Option<Arc<CommittedBlock>>, ReadError>;

    /// How often details of debits were dropped since the start: a block that
    /// was read before the last time may have some that must not be shown.
    fn rewrites(&self) -> u64;

    /// Header and certificate of a committed block.
    fn header(&self, height: Height) -> Result<Option<(Header, Certificate)>, ReadError>;

    /// Entries by log index; fewer at the end of the log.
    fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, ReadError>;

    /// Inclusion path of an entry in the log of `size` entries.
    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Hash>>, ReadError>;

    /// Consistency path between two sizes of the log.
    fn consistency(&self, old: u64, new: u64) -> Result<Option<Vec<Hash>>, ReadError>;

    /// Where a transaction is.
    fn find_transaction(&self, id: &TransactionId) -> Result<Option<Place>, ReadError>;

    /// Log index of a receipt.
    fn find_receipt(&self, name: ReceiptName) -> Result<Option<u64>, ReadError>;

    /// Log indexes of a listing, ascending, from `from` on, `limit` at most.
    fn list(&self, listing: Listing, from: u64, limit: usize) -> Result<Vec<u64>, ReadError>;

    /// Height up to which listings are complete.
    fn indexed(&self) -> Height;

    /// The last entry of a listing before a log index.
    fn last_before(&self, listing: Listing, index: u64) -> Result<Option<u64>, ReadError>;

    /// The hashes that show entries, by ascending log indexes, in the log of
    /// `size` entries; `None` if it has fewer.
    fn multi_path(&self, indexes: &[u64], size: u64) -> Result<Option<Vec<Hash>>, ReadError>;

    /// Takes a transaction in and passes it to the other validators. Handing
    /// in one that waits already is no error.
    fn submit(&self, transaction: Transaction) -> Result<TransactionId, NotAdmitted>;

    /// A transaction that waits.
    fn waiting(&self, id: &TransactionId) -> Option<Transaction>;

    /// Why a transaction that waited was dropped, if the ledger refused it.
    fn refusal(&self, id: &TransactionId) -> Option<Reason>;

    /// Changes when one that waited is refused, from now on.
    fn refusals(&self) -> watch::Receiver<()>;

    /// Blocks from now on, as they are committed.
    fn subscribe(&self) -> broadcast::Receiver<Arc<CommittedBlock>>;

    /// This node's own numbers.
    fn local(&self) -> Local;
}
