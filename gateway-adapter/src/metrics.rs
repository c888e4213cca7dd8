//! Prometheus metrics. Labels never hold accounts, keys or holds.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tally_ledger::debit::Flags;

/// A refusal's code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    /// See [`crate::refusal::Refusal::code`].
    pub code: &'static str,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ending {
    /// `reported`, `counted`, `estimated`, `void`.
    pub ending: &'static str,
}

/// One of the configured engines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Engine {
    /// Host and port of its URL.
    pub upstream: String,
}

/// All metrics of a gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests refused, by code.
    pub refused: Family<Code, Counter>,
    /// Requests ended, by how their usage was known.
    pub endings: Family<Ending, Counter>,
    /// Debits made.
    pub debits: Counter,
    /// Holds voided.
    pub voids: Counter,
    /// Requests that waited for a lease or a running request.
    pub waited: Counter,
    /// Prompts that the engine was asked to count.
    pub counted_prompts: Counter,
    /// Holds that gave back a part while they ran.
    pub shrunk: Counter,
    /// Holds that were raised while they ran.
    pub topped_up: Counter,
    /// Holds that moved to another lease.
    pub moved: Counter,
    /// Usage above its hold.
    pub capped: Counter,
    /// Holds that run.
    pub running: Gauge,
    /// Durable debits that are not proven on the chain.
    pub unproven: Gauge,
    /// micro-CT held by running requests.
    pub held: Gauge,
    /// micro-CT free in leases.
    pub free: Gauge,
    /// 1 while no new header has come for three heartbeats.
    pub behind: Gauge,
    /// Height of the last certified header.
    pub height: Gauge,
    /// Leases asked for.
    pub leases: Counter,
    /// Batches of debits sent.
    pub batches: Counter,
    /// Seconds from a request's arrival to the first byte of its answer.
    pub first_byte: Histogram,
    /// Requests that wait before an engine.
    pub queued: Family<Engine, Gauge>,
    /// 1 while an engine is used, 0 while it is down.
    pub upstream_up: Family<Engine, Gauge>,
    /// Seconds that a request waited for a place at an engine.
    pub queue_wait: Histogram,
    /// Requests sent to another engine after one had failed.
    pub retries: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tally_gateway");
        let metrics = Metrics {
            refused: Family::default(),
            endings: Family::default(),
            debits: Counter::default(),
            voids: Counter::default(),
            waited: Counter::default(),
            counted_prompts: Counter::default(),
            shrunk: Counter::default(),
            topped_up: Counter::default(),
            moved: Counter::default(),
            capped: Counter::default(),
            running: Gauge::default(),
            unproven: Gauge::default(),
            held: Gauge::default(),
            free: Gauge::default(),
            behind: Gauge::default(),
            height: Gauge::default(),
            leases: Counter::default(),
            batches: Counter::default(),
            first_byte: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            queued: Family::default(),
            upstream_up: Family::default(),
            queue_wait: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            retries: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("refused", "Requests refused", metrics.refused.clone());
        registry.register(
            "endings",
            "Requests ended, by how usage was known",
            metrics.endings.clone(),
        );
        registry.register("debits", "Debits made", metrics.debits.clone());
        registry.register("voids", "Holds voided", metrics.voids.clone());
        registry.register(
            "waited",
            "Requests that waited for a lease or a running request",
            metrics.waited.clone(),
        );
        registry.register(
            "counted_prompts",
            "Prompts that the engine was asked to count, near the end of a balance",
            metrics.counted_prompts.clone(),
        );
        registry.register(
            "shrunk_holds",
            "Holds that gave back a part while they ran",
            metrics.shrunk.clone(),
        );
        registry.register(
            "topped_up_holds",
            "Times that a hold was raised while it ran",
            metrics.topped_up.clone(),
        );
        registry.register(
            "moved_holds",
            "Holds that moved to another lease",
            metrics.moved.clone(),
        );
        registry.register(
            "capped",
            "Debits whose usage was above the hold",
            metrics.capped.clone(),
        );
        registry.register("running", "Holds that run", metrics.running.clone());
        registry.register(
            "unproven_debits",
            "Durable debits not proven on the chain",
            metrics.unproven.clone(),
        );
        registry.register(
            "held_micro_ct",
            "Held by running requests",
            metrics.held.clone(),
        );
        registry.register("free_micro_ct", "Free in leases", metrics.free.clone());
        registry.register(
            "chain_behind",
            "No new header for three heartbeats",
            metrics.behind.clone(),
        );
        registry.register(
            "chain_height",
            "Height of the last certified header",
            metrics.height.clone(),
        );
        registry.register("leases", "Leases asked for", metrics.leases.clone());
        registry.register("batches", "Batches of debits sent", metrics.batches.clone());
        registry.register(
            "first_byte_seconds",
            "Arrival to first byte",
            metrics.first_byte.clone(),
        );
        registry.register(
            "queued_requests",
            "Requests that wait before an engine",
            metrics.queued.clone(),
        );
        registry.register(
            "upstream_up",
            "Whether an engine is used",
            metrics.upstream_up.clone(),
        );
        registry.register(
            "queue_wait_seconds",
            "Wait for a place at an engine",
            metrics.queue_wait.clone(),
        );
        registry.register(
            "upstream_retries",
            "Requests sent to another engine after one had failed",
            metrics.retries.clone(),
        );
        Metrics {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// The text that Prometheus scrapes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a refusal.
    pub fn refuse(&self, code: &'static str) {
        self.refused.get_or_create(&Code { code }).inc();
    }

    /// Counts an ending.
    pub fn end(&self, ending: &'static str) {
        self.endings.get_or_create(&Ending { ending }).inc();
    }

    /// Counts a request that was charged, by how its usage is known.
    pub fn settled(&self, flags: Flags) {
        self.end(match flags {
            flags if flags.has(Flags::ESTIMATED) => "estimated",
            flags if flags.has(Flags::COUNTED) => "counted",
            _ => "reported",
        });
    }

    /// A shared one.
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }
}
