//! A paid request's way to an engine: its place in the queue, the body that
//! the engine gets, and another engine where one fails.
//!
//! One hold pays whatever happens here. A request goes to another engine only
//! before the first byte of an answer, and only where nothing was generated:
//! nobody was listening, or the answer is 502 or 503. Behind Envoy it
//! goes out once: trying again would be Envoy's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::oneshot;

use super::{
    body::{Arriving, Body},
    exchange::{Exchange, Stop, watched},
    request::Call,
    upstream::Upstream,
};
use crate::{
    refusal::Refusal,
    routing::{
        Errand, MOST_TRIES,
        health::Outcome,
        station::{Entered, Place, Station},
    },
};

/// How often a request that waits looks whether the gateway is stopping.
const LOOK: Duration = Duration::from_millis(100);

/// Why a request came to no answer of an engine.
pub(super) enum Undone {
    /// It never reached an engine that works: nothing is charged.
    Waiting(Stop),
    /// An engine works at it.
    Working(Stop),
    /// The engine does not answer.
    Engine,
}

/// What the body for an engine depends on, beside the client's own.
pub(super) struct Plan {
    pub(super) errand: Errand,
    /// Largest output of one answer.
    pub(super) wanted: u32,
    /// The same at an engine that does not say its usage on every chunk:
    /// what the hold pays for.
    pub(super) paid: u32,
    /// The request's `service_tier` has a fee here.
    pub(super) tier_sold: bool,
    /// The body for the engine that was likely when the request came, as it
    /// was configured then.
    pub(super) prepared: Option<(Arc<Upstream>, Bytes)>,
}

impl Plan {
    /// What a client's request becomes at an engine; `None`: its own body
    /// will do.
    pub(super) fn rewrite(
        &self,
        mut call: Call<'_>,
        (station, upstream): (&Station, &Upstream),
        receipt: &str,
    ) -> Option<Bytes> {
        let priority = upstream
            .priority
            .then(|| station.priority(self.errand.offer));
        let wanted = if upstream.continuous_usage {
            self.wanted
        } else {
            self.paid
        };
        // The engines may be others than when the request came.
        let wanted = wanted.min(upstream.max_output);
        if self.tier_sold {
            call.without_tier();
        }
        let rewritten = call.rewrite(upstream, wanted, receipt, priority);
        rewritten.map(Bytes::from)
    }
}

/// What an answer's status says about the engine, and whether the request can
/// go elsewhere.
fn outcome(status: StatusCode) -> (Outcome, bool) {
    match status.as_u16() {
        // Not 504: the engine may have worked on it, and still do.
        502 | 503 => (Outcome::Away, true),
        500.. => (Outcome::Failed, false),
        _ => (Outcome::Answered, false),
    }
}

impl Exchange {
    /// The engine's answer, from whichever answers. Its place is kept until
    /// the exchange ends.
    pub(super) async fn dispatch(
        &mut self,
        replied: &mut oneshot::Sender<Response<Body>>,
    ) -> Result<Response<Arriving>, Undone> {
        let mut tried = Vec::new();
        loop {
            self.measures.wait();
            let place = self.queue(&tried, replied).await;
            self.measures.work();
            let mut place = place.map_err(Undone::Waiting)?;
            let station = place.station().clone();
            self.hold.queued = place.queued();
            let asked = station.upstream();
            self.measures.asks(&asked.provider);
            let body = self.body_for(&station, &asked);
            let (upstream, path) = (&asked, self.endpoint.path);
            let (headers, leg) = (&self.headers, self.leg.as_ref());
            let call = async {
                match leg {
                    Some(leg) => Ok(upstream.post_through(leg, path, headers, body).await),
                    None => upstream.post(path, headers, body).await,
                }
            };
            let limits = self.limits();
            self.measures.wait();
            let answer = watched(&mut self.hold, limits, replied, call).await;
            self.measures.work();
            let answer = answer.map_err(Undone::Working)?;
            let elsewhere = match &answer {
                Ok(answer) => {
                    let (outcome, elsewhere) = outcome(answer.status());
                    place.began(outcome);
                    elsewhere
                }
                Err(error) => {
                    let away = error.is_connect();
                    place.began(if away { Outcome::Away } else { Outcome::Failed });
                    tracing::warn!(
                        request = self.hold.request_id(),
                        hold = self.hold.receipt(),
                        upstream = upstream.host(),
                        %error,
                        "the engine does not answer"
                    );
                    away
                }
            };
            tried.push(station.index);
            let others = || self.route.choose(self.plan.errand, &tried).is_ok();
            if elsewhere && self.leg.is_none() && tried.len() < MOST_TRIES && others() {
                self.proxy.serving.metrics.retries.inc();
                continue;
            }
            self.place = Some((place, asked));
            // No other engine is asked: a long stream need not keep them.
            self.body = Bytes::new();
            self.room = None;
            self.plan.prepared = None;
            return answer.map_err(|_| Undone::Engine);
        }
    }

    /// A place at an engine. Who waits for one and is told to stop has used
    /// nothing.
    async fn queue(
        &mut self,
        tried: &[usize],
        replied: &mut oneshot::Sender<Response<Body>>,
    ) -> Result<Place, Stop> {
        let came = Instant::now();
        let metrics = self.proxy.serving.metrics.clone();
        let errand = self.plan.errand;
        let waiting = match self.route.enter(errand, tried).map_err(Stop::Cut)? {
            Entered::Place(place) => {
                metrics.queue_wait.observe(0.0);
                return Ok(place);
            }
            Entered::Waiting(waiting) => waiting,
        };
        let (holds, route) = (self.proxy.serving.holds.clone(), self.route.clone());
        let stopping = async {
            while !holds.stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let place = async {
            tokio::select! {
                place = route.wait(waiting, errand, tried) => place,
                () = stopping => Err(Refusal::NotServing),
            }
        };
        let limits = self.limits();
        let place = watched(&mut self.hold, limits, replied, place).await?;
        metrics.queue_wait.observe(came.elapsed().as_secs_f64());
        // What cut a running request may be what made this place free.
        match self.hold.cut() {
            Some(refusal) => Err(Stop::Cut(refusal)),
            None => place.map_err(Stop::Cut),
        }
    }

    fn body_for(&self, station: &Station, upstream: &Arc<Upstream>) -> Bytes {
        match &self.plan.prepared {
            Some((prepared, body)) if Arc::ptr_eq(prepared, upstream) => body.clone(),
            _ => {
                // It was read before; another engine wants it otherwise.
                let read = Call::parse(self.endpoint, &self.body).ok();
                let receipt = self.hold.receipt();
                read.and_then(|call| self.plan.rewrite(call, (station, upstream), &receipt))
                    .unwrap_or_else(|| self.body.clone())
            }
        }
    }
}
