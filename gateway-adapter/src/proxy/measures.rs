//! What one exchange tells the metrics and the log: how long it took, how
//! much of that was the gateway's own, and what it used.
//!
//! The gateway's own time is all but this: waiting for the client's body, for
//! a place at an engine, and for the engine. Waiting for the ledger and for
//! the journal's fsync is the gateway's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tally_ledger::{
    debit::Flags,
    ids::GatewayNumber,
    price::{Model, Usage},
};

use crate::{
    holds::{Hold, receipt_id},
    journal::HoldId,
    metrics::{
        Metrics,
        genai::{Ended, Operation, Tokens},
    },
    usage::{INPUT, OUTPUT},
};

/// Of one exchange.
#[derive(Debug)]
pub(super) struct Measures {
    metrics: Arc<Metrics>,
    operation: &'static str,
    provider: Option<Arc<str>>,
    model: Arc<str>,
    request: Option<Box<str>>,
    gateway: GatewayNumber,
    hold: HoldId,
    arrived: Instant,
    /// What others took so far.
    others: Duration,
    /// Since when others are at work.
    since: Option<Instant>,
}

impl Measures {
    /// Of a request that arrived then, whose body took `body` to arrive.
    pub(super) fn new(
        metrics: &Arc<Metrics>,
        operation: &'static str,
        hold: &Hold,
        arrived: Instant,
        body: Duration,
    ) -> Self {
        Measures {
            metrics: metrics.clone(),
            operation,
            provider: None,
            model: hold.model().name.as_str().into(),
            request: hold.request.clone(),
            gateway: hold.gateway(),
            hold: hold.id(),
            arrived,
            others: body,
            since: None,
        }
    }

    /// The engine that is asked is this provider's.
    pub(super) fn asks(&mut self, provider: &Arc<str>) {
        self.provider = Some(provider.clone());
    }

    /// Others are at work from now on.
    pub(super) fn wait(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The gateway is at work again.
    pub(super) fn work(&mut self) {
        self.others += self.since.take().map_or(Duration::ZERO, |at| at.elapsed());
    }

    /// The first byte is handed over.
    pub(super) fn first_byte(&self) {
        let all = self.arrived.elapsed();
        self.metrics.first_byte.observe(all.as_secs_f64());
        let own = all.saturating_sub(self.others);
        self.metrics.added_first_byte.observe(own.as_secs_f64());
    }

    /// The last byte is handed over.
    pub(super) fn last_byte(&self) {
        let own = self.arrived.elapsed().saturating_sub(self.others);
        self.metrics.added_last_byte.observe(own.as_secs_f64());
    }

    fn provider(&self) -> Arc<str> {
        // Of none, if it ended before one was asked.
        self.provider.clone().unwrap_or_default()
    }

    /// The first token of a stream has come.
    pub(super) fn first_token(&self) {
        let labels = Operation {
            gen_ai_operation_name: self.operation,
            gen_ai_provider_name: self.provider(),
            gen_ai_request_model: self.model.clone(),
        };
        let to = self.metrics.genai.first_token.get_or_create(&labels);
        to.observe(self.arrived.elapsed().as_secs_f64());
    }

    /// What was used, if more is known of it than a bound.
    pub(super) fn used(&self, model: &Model, usage: &Usage, flags: Flags) {
        if flags.has(Flags::ESTIMATED) {
            return;
        }
        for (kind, meter) in [("input", INPUT), ("output", OUTPUT)] {
            let Some(meter) = model.meter(meter) else {
                continue;
            };
            let labels = Tokens {
                gen_ai_operation_name: self.operation,
                gen_ai_provider_name: self.provider(),
                gen_ai_request_model: self.model.clone(),
                gen_ai_token_type: kind,
            };
            let to = self.metrics.genai.token_usage.get_or_create(&labels);
            to.observe(usage.0[meter].into());
        }
    }

    /// Its client read nothing for too long.
    pub(super) fn stalled(&self) {
        self.metrics.stalled.inc();
    }

    /// It has ended: well, if `error` is empty.
    pub(super) fn ended(&self, error: &'static str) {
        let labels = Ended {
            gen_ai_operation_name: self.operation,
            gen_ai_provider_name: self.provider(),
            gen_ai_request_model: self.model.clone(),
            error_type: error,
        };
        let all = self.arrived.elapsed();
        let to = self.metrics.genai.request_duration.get_or_create(&labels);
        to.observe(all.as_secs_f64());
        if tracing::enabled!(tracing::Level::DEBUG) {
            let hold = receipt_id(self.gateway, self.hold);
            let request = self.request.as_deref().unwrap_or(&hold);
            let (model, ms) = (&*self.model, all.as_millis() as u64);
            tracing::debug!(request, hold, model, error, ms, "a request has ended");
        }
    }
}
