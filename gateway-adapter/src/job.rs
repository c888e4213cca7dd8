//! What an account asks of the chain's side, and what it is answered.

use std::{sync::Arc, time::Instant};

use tally_ledger::ids::{ClassNumber, DebitNumber, Height, LeaseNumber, TableVersion};
use tokio::sync::mpsc;

use crate::{account::Account, key::Key, refusal::Refusal};

/// What a Lease was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Its number.
    pub number: LeaseNumber,
    /// How much; not zero.
    pub amount: u64,
    /// Price table in force.
    pub table: TableVersion,
    /// At which height it was proven.
    pub height: Height,
    /// Until when it may be used, by the own monotonic clock.
    pub until: Instant,
}

/// Whether a Lease was granted less than one worst case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// It was not.
    No,
    /// That was all there is.
    Balance,
    /// A cap of the gateway or the key is used up.
    Cap,
}

/// Why a Lease was granted nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoGrant {
    /// For good or for now; the request is refused so.
    Refused(Refusal),
    /// There is no balance.
    Dry,
}

/// What the chain's side should do for an account.
#[derive(Debug, Clone)]
pub enum Job {
    /// Ask for a lease.
    Lease {
        /// For whom.
        account: Arc<Account>,
        /// On behalf of which key.
        key: Arc<Key>,
        /// Of what.
        class: ClassNumber,
        /// How much.
        wanted: u64,
        /// Worst case of one request.
        worst: u64,
    },
    /// Prove the account's leaf again.
    Refresh {
        /// Whose.
        account: Arc<Account>,
    },
    /// Give a lease back once its debits are proven.
    Return {
        /// Whose.
        account: Arc<Account>,
        /// Which.
        lease: LeaseNumber,
        /// The debit that must be proven first.
        after: DebitNumber,
    },
}

/// Most jobs that may wait.
const MOST_JOBS: usize = 65_536;

/// Where jobs are handed in; it is bounded: see `MOST_JOBS`.
#[derive(Debug, Clone)]
pub struct Jobs(mpsc::Sender<Job>);

impl Jobs {
    /// The two ends of the queue.
    pub fn queue() -> (Jobs, mpsc::Receiver<Job>) {
        let (jobs, todo) = mpsc::channel(MOST_JOBS);
        (Jobs(jobs), todo)
    }

    /// Hands in a job. When the queue is full, or the chain's side is gone,
    /// its account is told that it was not done.
    pub fn send(&self, job: Job) {
        if let Err(error) = self.0.try_send(job) {
            error.into_inner().undo();
        }
    }

    /// Hands in several.
    pub fn send_all(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.send(job);
        }
    }
}

impl Job {
    /// Tells the account that the job was not done; it may ask again.
    pub fn undo(self) {
        match self {
            Job::Lease {
                account,
                key,
                class,
                ..
            } => {
                let unreachable = NoGrant::Refused(Refusal::Unreachable);
                account.not_granted((class, key.number), unreachable, Instant::now());
            }
            Job::Refresh { account } => account.not_viewed(Instant::now()),
            Job::Return { account, lease, .. } => account.not_closed(lease),
        }
    }
}
