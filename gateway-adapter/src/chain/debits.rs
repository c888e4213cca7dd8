//! Sends debits: in order, in batches, to any node, the same bytes again
//! elsewhere, until the gateway's proven leaf has them with our running hash.
//! Only durable debits are sent (I8); only proven ones are forgotten.
//!
//! After a pause a batch leaves within milliseconds; under load one leaves
//! per interval, or when it is full.

use std::{sync::Arc, time::Duration};

use tally_ledger::ids::{DebitNumber, Height};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{ChainError, is_final, light::Light, nodes::Submitted, sign::Signer};
use crate::{
    journal::{Head, Journal},
    metrics::Metrics,
};

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Sends one journal's debits.
#[derive(Debug)]
pub struct Sender {
    /// Asks and checks.
    pub light: Arc<Light>,
    /// Signs.
    pub signer: Signer,
    /// Where debits come from.
    pub journal: Arc<Journal>,
    /// How long a batch gathers at least.
    pub linger: Duration,
    /// Least time from one batch to the next, unless one is full.
    pub interval: Duration,
    /// Told when somebody waits for a debit to be proven.
    pub hurry: Arc<Notify>,
    /// Most debits of a batch.
    pub batch: usize,
    /// The last proven debit.
    pub proven: watch::Sender<DebitNumber>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Sender {
    /// Runs until something is fatal. Cancel it to stop.
    pub async fn run(self) -> ChainError {
        let mut pause = Duration::from_millis(5);
        let mut last = None;
        loop {
            self.gather(last).await;
            last = Some(Instant::now());
            match self.send().await {
                Ok(()) => pause = Duration::from_millis(5),
                Err(error) if error.is_fatal() => return error,
                Err(error) => {
                    tracing::warn!(%error, unproven = self.journal.unproven(), "debits wait for the chain");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
            self.metrics.unproven.set(self.journal.unproven() as i64);
        }
    }

    /// Waits until a batch should leave; `last`: when the one before did.
    async fn gather(&self, last: Option<Instant>) {
        while self.journal.unproven() == 0 {
            self.journal.debits().await;
        }
        let soon = Instant::now() + self.linger;
        let paced = last.map_or(soon, |last| soon.max(last + self.interval));
        while self.journal.unproven() < self.batch {
            tokio::select! {
                () = tokio::time::sleep_until(paced) => return,
                () = self.hurry.notified() => return,
                () = self.journal.debits() => {}
            }
        }
    }

    async fn send(&self) -> Result<(), ChainError> {
        let after = self.journal.proven_last();
        let debits = self.journal.unproven_after(after, self.batch);
        if debits.is_empty() {
            return Ok(());
        }
        let journal = self.journal.number();
        let transaction = self.signer.debits(journal, &debits);
        self.metrics.batches.inc();
        let at_least = match self.light.nodes.submit(&transaction).await? {
            Submitted::Final(finality) => Height(finality.height),
            Submitted::Refused(reason) => {
                // Most likely an earlier try got through; the leaf tells.
                let before = self.journal.proven_last();
                self.prove(Height(0)).await?;
                if self.journal.proven_last() > before {
                    return Ok(());
                }
                let first = debits[0].number;
                tracing::error!(%reason, %first, "a batch of debits is refused");
                if is_final(reason) {
                    // The adapter checks before it numbers: a bug or a fork.
                    return Err(ChainError::DebitsRefused { first, reason });
                }
                return Err(ChainError::Unreachable(format!("refused: {reason}")));
            }
        };
        self.prove(at_least).await
    }

    /// Takes in the gateway's proven leaf.
    async fn prove(&self, at_least: Height) -> Result<(), ChainError> {
        let (_, leaf) = self.light.gateway(self.signer.gateway, at_least).await?;
        if leaf.journal > self.journal.number() {
            return Err(ChainError::Fenced);
        }
        self.journal.proven(Head {
            journal: leaf.journal,
            last: leaf.last_debit,
            hash: leaf.journal_hash,
        })?;
        self.proven.send_replace(self.journal.proven_last());
        Ok(())
    }
}
