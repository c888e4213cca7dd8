//! What the node counts. No account, key or name is ever a label.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The node's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Last committed height.
    pub height: Gauge,
    /// Entries in the log.
    pub entries: Gauge,
    /// Blocks committed since the start.
    pub blocks: Counter,
    /// Transactions committed since the start.
    pub transactions: Counter,
    /// Receipts committed since the start.
    pub receipts: Counter,
    /// Transactions that the ledger refused on admission.
    pub refused: Counter,
    /// Transactions for which there was no room.
    pub turned_away: Counter,
    /// Candidates that a block passed over because they no longer held.
    pub dropped: Counter,
    /// Transactions that wait.
    pub waiting: Gauge,
    /// Their bytes.
    pub waiting_bytes: Gauge,
    /// Seconds to execute a block.
    pub execute: Histogram,
    /// Seconds to make a block durable and take it over.
    pub commit: Histogram,
    /// Heights with evidence on the chain, over all validators.
    pub evidence: Gauge,
    /// Pieces of evidence that this node has and the chain does not yet.
    pub evidence_waiting: Gauge,
    /// Size of the log that this validator signed last.
    pub checkpoint_signed: Gauge,
    /// Size of the newest checkpoint with a quorum.
    pub checkpoint_size: Gauge,
    /// Configured witnesses that have cosigned it.
    pub checkpoint_cosignatures: Gauge,
    /// Signatures of validators for another log than this node's.
    pub checkpoint_conflicts: Counter,
    /// Requests that a witness did not answer with a cosignature.
    pub witness_failures: Counter,
    /// Free bytes on the data folder's disk.
    pub disk_free: Gauge<f64, AtomicU64>,
    /// Details of erased accounts that were dropped since the start.
    pub details_dropped: Counter,
    /// Erased accounts whose details are still here.
    pub erasures_pending: Gauge,
    registry: Arc<Registry>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        let mut metrics = Self {
            height: Gauge::default(),
            entries: Gauge::default(),
            blocks: Counter::default(),
            transactions: Counter::default(),
            receipts: Counter::default(),
            refused: Counter::default(),
            turned_away: Counter::default(),
            dropped: Counter::default(),
            waiting: Gauge::default(),
            waiting_bytes: Gauge::default(),
            execute: seconds(),
            commit: seconds(),
            evidence: Gauge::default(),
            evidence_waiting: Gauge::default(),
            checkpoint_signed: Gauge::default(),
            checkpoint_size: Gauge::default(),
            checkpoint_cosignatures: Gauge::default(),
            checkpoint_conflicts: Counter::default(),
            witness_failures: Counter::default(),
            disk_free: Gauge::default(),
            details_dropped: Counter::default(),
            erasures_pending: Gauge::default(),
            registry: Arc::new(Registry::default()),
        };
        metrics.registry = Arc::new(metrics.registry());
        metrics
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("tally_node");
        registry.register("height", "Last committed height", self.height.clone());
        registry.register("log_entries", "Entries in the log", self.entries.clone());
        registry.register("blocks", "Blocks committed", self.blocks.clone());
        let text = "Transactions committed";
        registry.register("transactions", text, self.transactions.clone());
        registry.register("receipts", "Receipts committed", self.receipts.clone());
        let text = "Transactions refused on admission";
        registry.register("refused", text, self.refused.clone());
        let text = "Transactions turned away for want of room";
        registry.register("turned_away", text, self.turned_away.clone());
        let text = "Candidates passed over by a block";
        registry.register("dropped", text, self.dropped.clone());
        registry.register("waiting", "Transactions that wait", self.waiting.clone());
        let text = "Bytes of transactions that wait";
        registry.register("waiting_bytes", text, self.waiting_bytes.clone());
        let text = "Seconds to execute a block";
        registry.register("execute_seconds", text, self.execute.clone());
        let text = "Seconds to make a block durable and take it over";
        registry.register("commit_seconds", text, self.commit.clone());
        let text = "Heights at which a validator signed twice, on the chain";
        registry.register("evidence", text, self.evidence.clone());
        let text = "Evidence seen here that the chain does not have yet";
        registry.register("evidence_waiting", text, self.evidence_waiting.clone());
        let text = "Size of the log that this validator signed last";
        registry.register("checkpoint_signed", text, self.checkpoint_signed.clone());
        let text = "Size of the newest checkpoint with a quorum";
        registry.register("checkpoint_size", text, self.checkpoint_size.clone());
        let text = "Configured witnesses that have cosigned it";
        let gauge = self.checkpoint_cosignatures.clone();
        registry.register("checkpoint_cosignatures", text, gauge);
        let text = "Signatures of validators for another log than this node's";
        let counter = self.checkpoint_conflicts.clone();
        registry.register("checkpoint_conflicts", text, counter);
        let text = "Requests that a witness did not answer with a cosignature";
        registry.register("witness_failures", text, self.witness_failures.clone());
        let text = "Free bytes on the data folder's disk";
        registry.register("disk_free_bytes", text, self.disk_free.clone());
        let text = "Details of erased accounts dropped";
        registry.register("details_dropped", text, self.details_dropped.clone());
        let text = "Erased accounts whose details are still here";
        registry.register("erasures_pending", text, self.erasures_pending.clone());
        registry
    }

    /// The metrics as Prometheus reads them.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.height.set(7);
        metrics.receipts.inc_by(3);
        metrics.commit.observe(0.001);
        let text = metrics.text();
        for line in [
            "tally_node_height 7",
            "tally_node_receipts_total 3",
            "tally_node_commit_seconds_count 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
