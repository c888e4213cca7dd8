//! Prometheus metrics. Labels never hold accounts, keys or holds.
//!
//! Those that OpenTelemetry has a name for have that name, as Prometheus
//! writes it: see [`genai`].

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry},
};
use tally_ledger::debit::Flags;

pub mod genai;

use genai::GenAi;

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

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reload {
    /// `applied` or `refused`.
    pub result: &'static str,
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
    /// Bytes of requests' bodies in memory.
    pub bodies: Gauge,
    /// Durable debits that are not proven on the chain.
    pub unproven: Gauge,
    /// Seconds since the oldest of them was made.
    pub unproven_age: Gauge,
    /// Seconds that an fsync of the journal took.
    pub fsync: Histogram,
    /// micro-CT held by running requests.
    pub held: Gauge,
    /// micro-CT free in leases.
    pub free: Gauge,
    /// Leases that are not closed.
    pub open_leases: Gauge,
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
    /// Of these, the seconds in which only the gateway was at work.
    pub added_first_byte: Histogram,
    /// The same until the last byte.
    pub added_last_byte: Histogram,
    /// Requests that wait before an engine.
    pub queued: Family<Engine, Gauge>,
    /// 1 while an engine is used, 0 while it is down.
    pub upstream_up: Family<Engine, Gauge>,
    /// Seconds that a request waited for a place at an engine.
    pub queue_wait: Histogram,
    /// Requests sent to another engine after one had failed.
    pub retries: Counter,
    /// Streams that were cut because their client read nothing.
    pub stalled: Counter,
    /// Times that the configuration was read again.
    pub reloads: Family<Reload, Counter>,
    /// Under OpenTelemetry's names.
    pub genai: GenAi,
}

/// Registers a metric.
fn add<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: M) -> M {
    to.register(name, help, metric.clone());
    metric
}

/// Registers one that begins empty.
fn new<M: Metric + Clone + Default>(to: &mut Registry, name: &str, help: &str) -> M {
    add(to, name, help, M::default())
}

/// Times that are short here: from 10 us.
fn short() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        let genai = GenAi::registered(&mut all);
        let to = all.sub_registry_with_prefix("tally_gateway");
        let first_byte = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let queue_wait = Histogram::new(exponential_buckets(0.001, 2.0, 18));
        Metrics {
            refused: new(to, "refused", "Requests refused"),
            endings: new(to, "endings", "Requests ended, by how usage was known"),
            debits: new(to, "debits", "Debits made"),
            voids: new(to, "voids", "Holds voided"),
            waited: new(
                to,
                "waited",
                "Requests that waited for a lease or a running request",
            ),
            counted_prompts: new(
                to,
                "counted_prompts",
                "Prompts that the engine was asked to count, near the end of a balance",
            ),
            shrunk: new(
                to,
                "shrunk_holds",
                "Holds that gave back a part while they ran",
            ),
            topped_up: new(
                to,
                "topped_up_holds",
                "Times that a hold was raised while it ran",
            ),
            moved: new(to, "moved_holds", "Holds that moved to another lease"),
            capped: new(to, "capped", "Debits whose usage was above the hold"),
            running: new(to, "running", "Holds that run"),
            bodies: new(to, "bodies_bytes", "Requests' bodies in memory"),
            unproven: new(
                to,
                "unproven_debits",
                "Durable debits not proven on the chain",
            ),
            unproven_age: new(
                to,
                "unproven_age_seconds",
                "Since the oldest debit that is not proven on the chain",
            ),
            fsync: add(
                to,
                "journal_fsync_seconds",
                "An fsync of the journal",
                short(),
            ),
            held: new(to, "held_micro_ct", "Held by running requests"),
            free: new(to, "free_micro_ct", "Free in leases"),
            open_leases: new(to, "open_leases", "Leases that are not closed"),
            behind: new(to, "chain_behind", "No new header for three heartbeats"),
            height: new(to, "chain_height", "Height of the last certified header"),
            leases: new(to, "leases", "Leases asked for"),
            batches: new(to, "batches", "Batches of debits sent"),
            first_byte: add(
                to,
                "first_byte_seconds",
                "Arrival to first byte",
                first_byte,
            ),
            added_first_byte: add(
                to,
                "added_first_byte_seconds",
                "Of the time to the first byte what only the gateway took",
                short(),
            ),
            added_last_byte: add(
                to,
                "added_last_byte_seconds",
                "Of the time to the last byte what only the gateway took",
                short(),
            ),
            queued: new(to, "queued_requests", "Requests that wait before an engine"),
            upstream_up: new(to, "upstream_up", "Whether an engine is used"),
            queue_wait: add(
                to,
                "queue_wait_seconds",
                "Wait for a place at an engine",
                queue_wait,
            ),
            retries: new(
                to,
                "upstream_retries",
                "Requests sent to another engine after one had failed",
            ),
            stalled: new(
                to,
                "stalled_streams",
                "Streams cut because their client read nothing",
            ),
            reloads: new(
                to,
                "config_reloads",
                "Times that the configuration was read again",
            ),
            genai,
            registry: all,
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

    /// Counts a reload.
    pub fn reloaded(&self, result: &'static str) {
        self.reloads.get_or_create(&Reload { result }).inc();
    }

    /// Shows an engine no more.
    pub fn forget_engine(&self, host: &str) {
        let engine = Engine {
            upstream: host.to_owned(),
        };
        self.queued.remove(&engine);
        self.upstream_up.remove(&engine);
    }

    /// A shared one.
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }
}
