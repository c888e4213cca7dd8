//! A metered request's way: from its arrival to its debit.
//!
//! The exchange with the engine runs in a task of its own, so that it ends
//! with a debit or a void even when the client is gone. What each ending is
//! charged is the table in the folder's README.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use tally_ledger::{debit::Flags, ids::Time};
use tokio::sync::oneshot;

use super::{
    Proxy,
    body::{Arriving, Body, fed, pieces, whole},
    decoded::{Decoded, decoded},
    dispatch::{Plan, Undone},
    endpoint::{Endpoint, StreamUsage},
    gather::{Room, gather},
    measures::Measures,
    payment::Payment,
    pricing::{self, Priced},
    reply,
    stream::{Pump, ticks},
    tokenize,
    upstream::{Upstream, passed},
};
use crate::{
    clock::unix_ms,
    envoy::leg::Leg,
    headers::{COST, IDEMPOTENCY_KEY, RECEIPT, REMAINING, REQUEST_ID},
    holds::{EARLY_PART, Hold},
    journal::{Durable, Name, Urgency},
    key::Key,
    refusal::Refusal,
    repeats::{Claim, Repeated},
    routing::{Route, fee, station::Place},
    usage::known,
};

/// Longest Idempotency-Key.
const MAX_IDEMPOTENCY: usize = 255;
/// Longest name of a request that is logged.
const MAX_NAME: usize = 128;
/// Most bytes of an engine's error that are passed on.
const ERROR_BYTES: usize = 1024 * 1024;

/// A paid request on its way to the engine and back.
pub(super) struct Exchange {
    pub(super) proxy: Arc<Proxy>,
    pub(super) endpoint: &'static Endpoint,
    pub(super) route: Route,
    pub(super) plan: Plan,
    /// At the engine that answers, and how that was asked.
    pub(super) place: Option<(Place, Arc<Upstream>)>,
    early: Duration,
    grace: Duration,
    choices: u32,
    payment: Payment,
    pub(super) hold: Hold,
    durable: Durable,
    /// The way to the engine, where Envoy has the connection.
    pub(super) leg: Option<Leg>,
    pub(super) headers: HeaderMap,
    /// As the client sent it.
    pub(super) body: Bytes,
    /// What it takes of the memory for bodies.
    pub(super) room: Option<Room>,
    stream: bool,
    wants_usage: bool,
    wants_continuous: bool,
    /// About as many tokens as the prompt has.
    pub(super) likely: u32,
    answer_bytes: usize,
    stall: Duration,
    pub(super) measures: Measures,
    pub(super) deadline: tokio::time::Instant,
}

/// How long after its lease's end a hold may run: so that its debit is on the
/// chain before the lease is closed there.
fn grace(proxy: &Proxy) -> Duration {
    let grace = proxy.serving.terms.get().parameters.lease_grace_ms;
    Duration::from_millis(u64::from(grace / 4) * 3)
}

/// Why the exchange stops before the engine's answer is whole.
pub(super) enum Stop {
    /// The client is gone.
    Gone,
    /// It took too long, or its lease's grace is nearly over.
    TimeOver,
    Cut(Refusal),
}

/// Claims the request's Idempotency-Key, if it has one, at a ledger time.
async fn claim(
    proxy: &Proxy,
    headers: &HeaderMap,
    key: &Key,
) -> Result<Option<(Claim, Time)>, Box<Response<Body>>> {
    let Some(text) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    if text.is_empty() || text.len() > MAX_IDEMPOTENCY {
        let why = "Idempotency-Key must have 1 to 255 bytes";
        return Err(Box::new(reply::bad_request(why, None)));
    }
    let name = Name {
        api_key: key.number,
        hash: key.hash_name(text.as_bytes()),
    };
    let serving = &proxy.serving;
    let last = serving.light.last().map(|header| header.time);
    let now = last.unwrap_or_else(|| Time(unix_ms()));
    match proxy.repeats.claim(&serving.holds.journal, name, now) {
        Ok(claim) => Ok(Some((claim, now))),
        Err(repeated) => {
            // The receipt that is named must outlive a crash.
            if let Repeated::Served(_) = repeated
                && serving.holds.journal.barrier().wait().await.is_err()
            {
                return Err(Box::new(proxy.refuse(Refusal::NotServing)));
            }
            serving.metrics.refuse(repeated.code());
            let gateway = serving.holds.gateway;
            Err(Box::new(reply::repeated(gateway, repeated)))
        }
    }
}

/// Answers a request of a metered endpoint.
pub(super) async fn answer(
    proxy: &Arc<Proxy>,
    endpoint: &'static Endpoint,
    request: Request<Arriving>,
) -> Response<Body> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let key = match proxy.key(&parts.headers).await {
        Ok(key) => key,
        Err(refusal) => return proxy.refuse(refusal),
    };
    let leg = parts.extensions.get::<Leg>().cloned();
    let answer = metered(proxy, endpoint, key, (parts.headers, leg), body, arrived);
    answer.await.unwrap_or_else(|refused| *refused)
}

async fn metered(
    proxy: &Arc<Proxy>,
    endpoint: &'static Endpoint,
    key: Arc<Key>,
    (headers, leg): (HeaderMap, Option<Leg>),
    body: Arriving,
    arrived: Instant,
) -> Result<Response<Body>, Box<Response<Body>>> {
    let policy = proxy.policy.get();
    let began = Instant::now();
    let (body, room) = gather(proxy, &policy, body).await?;
    let gathered = began.elapsed();
    let Priced {
        call,
        route,
        errand,
        per_choice,
        mut ask,
    } = pricing::price(proxy, &policy, endpoint, key, &headers, &body)?;
    // A queue that is full refuses before anything is reserved.
    let station = route.choose(errand, &[]);
    let station = station.map_err(|refusal| Box::new(proxy.refuse(refusal)))?;
    // Until the hold is made, and named in the journal.
    let claim = claim(proxy, &headers, &ask.key).await?;
    ask.named = claim.as_ref().map(|(claim, now)| (claim.name(), *now));
    // An answer that is not streamed leaves with its debit's fsync, which
    // covers the hold's record: that need not be hurried.
    let urgency = if call.stream {
        Urgency::Now
    } else {
        Urgency::Soon
    };
    let holds = &proxy.serving.holds;
    let count = tokenize::count(&route, &call);
    let promise = holds.authorize_counting(&ask, count, urgency).await;
    let (mut hold, durable) = promise.map_err(|refusal| {
        let mut refused = proxy.refuse(refusal);
        holds.rates.tell(&ask.key, refused.headers_mut());
        Box::new(refused)
    })?;
    drop(claim);
    hold.request = named(&headers);
    let (stream, wants_usage, wants_continuous) =
        (call.stream, call.wants_usage, call.wants_continuous);
    let (size, choices) = (call.size, call.choices);
    let asks = endpoint.stream_usage == StreamUsage::Asked;
    let bound = hold.output / choices;
    // A lowered hold is raised as it goes where its use is known exactly.
    let tops_up = stream && asks && route.continuous_usage() && choices == 1;
    let wanted = if tops_up { per_choice } else { bound };
    let payment = Payment::new(hold.output, wanted.saturating_mul(choices).max(hold.output));
    let likely = hold.exact.unwrap_or(size.likely());
    let mut plan = Plan {
        errand,
        wanted,
        paid: bound,
        tier_sold: call.tier.as_deref() == Some(fee::TIER)
            && policy.priority.service_tier_fee.is_some(),
        prepared: None,
    };
    let upstream = station.upstream();
    let rewritten = plan.rewrite(call, (&station, &upstream), &hold.receipt());
    let prepared = rewritten.unwrap_or_else(|| body.clone());
    plan.prepared = Some((upstream, prepared));
    let metrics = &proxy.serving.metrics;
    let measures = Measures::new(metrics, endpoint.operation, &hold, arrived, gathered);
    // In a box: it passes through several futures, each of which would have
    // room for all of it.
    let exchange = Box::new(Exchange {
        proxy: proxy.clone(),
        endpoint,
        route,
        plan,
        place: None,
        early: proxy.serving.lease_time / EARLY_PART,
        grace: grace(proxy),
        choices,
        payment,
        hold,
        durable,
        leg,
        headers,
        body,
        room: Some(room),
        stream,
        wants_usage,
        wants_continuous,
        likely,
        answer_bytes: policy.answer_bytes,
        stall: policy.stall_time,
        measures,
        deadline: tokio::time::Instant::now() + policy.request_time,
    });
    let (replied, reply) = oneshot::channel();
    tokio::spawn(exchange.run(replied));
    let reply = reply.await;
    Ok(reply.unwrap_or_else(|_| proxy.refuse(Refusal::NotServing)))
}

impl Exchange {
    async fn run(mut self: Box<Self>, mut replied: oneshot::Sender<Response<Body>>) {
        let answer = match self.dispatch(&mut replied).await {
            Ok(answer) => answer,
            Err(Undone::Working(stop)) => return self.stop(stop, replied),
            Err(Undone::Waiting(stop)) => return self.leave(stop, replied),
            Err(Undone::Engine) => {
                return self.fail(
                    replied,
                    reply::upstream_failed("the engine does not answer"),
                );
            }
        };
        let Some(answer) = decoded(answer) else {
            let why = "the engine's answer is compressed in an unknown way";
            return self.fail(replied, reply::upstream_failed(why));
        };
        if !answer.status().is_success() {
            return self.pass_error(answer, replied).await;
        }
        let kind = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let events = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
        if self.stream && events {
            self.stream(answer, replied).await;
        } else {
            self.complete(answer, replied).await;
        }
    }

    /// Nothing was delivered and never will be: charges nothing.
    fn fail(
        self: Box<Self>,
        replied: oneshot::Sender<Response<Body>>,
        mut response: Response<Body>,
    ) {
        self.proxy.serving.metrics.end("void");
        let server = response.status().is_server_error();
        self.measures.ended(if server { "5xx" } else { "4xx" });
        mark(&self.hold, response.headers_mut());
        self.hold.void();
        // The client may be gone; it is charged nothing.
        let _ = replied.send(response);
    }

    /// Ends while it waits for an engine: nothing was used.
    fn leave(self: Box<Self>, stop: Stop, replied: oneshot::Sender<Response<Body>>) {
        let response = match stop {
            // Nobody reads it.
            Stop::Gone => reply::upstream_failed("the client is gone"),
            Stop::TimeOver => reply::upstream_failed("the request waited too long for an engine"),
            Stop::Cut(refusal) => self.proxy.refuse(refusal),
        };
        self.fail(replied, response);
    }

    /// How early the hold moves, how long after its lease's end it may run,
    /// and until when.
    pub(super) fn limits(&self) -> (Duration, Duration, tokio::time::Instant) {
        (self.early, self.grace, self.deadline)
    }

    /// Ends before the answer could be delivered.
    fn stop(self: Box<Self>, stop: Stop, replied: oneshot::Sender<Response<Body>>) {
        match stop {
            Stop::Gone => self.abandon(),
            Stop::TimeOver => {
                self.fail(replied, reply::upstream_failed("the engine took too long"));
            }
            Stop::Cut(refusal) => {
                // The client may be gone; what was made for it is charged.
                let _ = replied.send(self.proxy.refuse(refusal));
                self.abandon();
            }
        }
    }

    /// The client is gone before the answer began. The engine was cancelled
    /// with the call; what it made is not known: the last mark counts.
    fn abandon(self: Box<Self>) {
        let usage = crate::holds::fallback(&self.hold.record);
        self.measures.ended("ended_early");
        self.proxy.serving.metrics.settled(Flags::ESTIMATED);
        self.hold.settle(usage, Flags::ESTIMATED);
    }

    /// The engine refused: its words, no charge.
    async fn pass_error(
        self: Box<Self>,
        answer: Response<Decoded>,
        replied: oneshot::Sender<Response<Body>>,
    ) {
        let (parts, body) = answer.into_parts();
        let body = tokio::time::timeout(
            Duration::from_secs(10),
            Limited::new(body, ERROR_BYTES).collect(),
        );
        let body = match body.await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => Bytes::new(),
        };
        let mut response = Response::new(whole(body));
        *response.status_mut() = parts.status;
        copy_headers(&parts.headers, response.headers_mut());
        self.fail(replied, response);
    }

    /// An answer that is not streamed: all of it waits for its debit.
    async fn complete(
        mut self: Box<Self>,
        answer: Response<Decoded>,
        mut replied: oneshot::Sender<Response<Body>>,
    ) {
        let (parts, body) = answer.into_parts();
        let limited = Limited::new(body, self.answer_bytes);
        let limits = self.limits();
        self.measures.wait();
        let body = watched(&mut self.hold, limits, &mut replied, limited.collect()).await;
        self.measures.work();
        let body = match body {
            Ok(Ok(body)) => body,
            Err(stop) => return self.stop(stop, replied),
            Ok(Err(_)) => {
                return self.fail(
                    replied,
                    reply::upstream_failed("the engine's answer broke off"),
                );
            }
        };
        // The engine is free for the next one; the request is done with.
        drop(self.place.take());
        (self.body, self.plan.prepared) = (Bytes::new(), None);
        let body = body.to_bytes();
        let chunk = std::str::from_utf8(&body)
            .map(self.endpoint.read)
            .unwrap_or_default();
        if chunk.error && !chunk.has_output() {
            let mut response = Response::new(whole(body));
            *response.status_mut() = parts.status;
            copy_headers(&parts.headers, response.headers_mut());
            return self.fail(replied, response);
        }
        let reported = chunk.usage.map(|counts| (counts, true));
        // One message of a whole answer counts as one delta: its bytes tell.
        let (usage, flags) = known(self.hold.model(), reported, chunk.counted, self.likely);
        let (body, rest) = pieces(body);
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        copy_headers(&parts.headers, response.headers_mut());
        mark(&self.hold, response.headers_mut());
        self.proxy.serving.metrics.settled(flags);
        self.measures.used(self.hold.model(), &usage, flags);
        let settled = self.hold.settle(usage, flags);
        if let Ok(cost) = HeaderValue::try_from(settled.charged.to_string()) {
            response.headers_mut().insert(COST, cost);
        }
        // The hold's record stands before the debit's: one wait is enough.
        let response = match settled.durable.wait().await {
            Ok(()) => response,
            Err(_) => self.proxy.refuse(Refusal::NotServing),
        };
        self.measures.first_byte();
        self.measures.last_byte();
        self.measures.ended("");
        let stall = self.stall;
        // The client may be gone; what was made for it is charged.
        let _ = replied.send(response);
        if let Some(rest) = rest {
            // Nor is it charged less if it does not read.
            let _ = rest.send(stall).await;
        }
    }

    /// A stream: its first byte waits for the hold's record, its last for the
    /// debit.
    async fn stream(
        self: Box<Self>,
        answer: Response<Decoded>,
        replied: oneshot::Sender<Response<Body>>,
    ) {
        let (parts, body) = answer.into_parts();
        let Exchange {
            proxy,
            endpoint,
            place,
            early,
            grace,
            choices,
            payment,
            hold,
            durable,
            wants_usage,
            wants_continuous,
            likely,
            answer_bytes,
            stall,
            mut measures,
            deadline,
            ..
        } = *self;
        if durable.wait().await.is_err() {
            let _ = replied.send(proxy.refuse(Refusal::NotServing));
            return;
        }
        let (feed, fed) = fed();
        let mut response = Response::new(fed);
        *response.status_mut() = parts.status;
        copy_headers(&parts.headers, response.headers_mut());
        mark(&hold, response.headers_mut());
        measures.first_byte();
        measures.wait();
        // A client that is gone shows as a closed feed.
        let _ = replied.send(response);
        let asks = endpoint.stream_usage == StreamUsage::Asked;
        let says = asks
            && place
                .as_ref()
                .is_some_and(|(_, asked)| asked.continuous_usage);
        let pump = Box::new(Pump {
            endpoint,
            hide_usage: asks && !wants_usage,
            hide_continuous: says && !wants_continuous,
            continuous: says || wants_continuous,
            likely,
            deadline,
            most: answer_bytes,
            early,
            grace,
            choices,
            payment,
            hold,
            feed,
            stall,
            measures,
        });
        let ended = pump.run(body).await;
        drop(place);
        match ended {
            Some(flags) => proxy.serving.metrics.settled(flags),
            None => proxy.serving.metrics.end("void"),
        }
    }
}

/// Does `work` while the request may go on; its hold moves to another lease
/// (`early`, `grace`, `deadline`) if it must. Dropping the work cancels it at
/// the engine.
pub(super) async fn watched<T>(
    hold: &mut Hold,
    (early, grace, deadline): (Duration, Duration, tokio::time::Instant),
    replied: &mut oneshot::Sender<Response<Body>>,
    work: impl Future<Output = T>,
) -> Result<T, Stop> {
    let mut tick = ticks();
    tokio::pin!(work);
    loop {
        tokio::select! {
            // What is done at once needs no timer.
            biased;
            done = &mut work => return Ok(done),
            () = replied.closed() => return Err(Stop::Gone),
            now = tick.tick() => {
                if let Some(refusal) = hold.cut() {
                    return Err(Stop::Cut(refusal));
                }
                hold.keep(early);
                let over = hold.ended_at().is_some_and(|at| at.elapsed() >= grace);
                if over || now >= deadline {
                    return Err(Stop::TimeOver);
                }
            }
        }
    }
}

/// The client's own name of the request, if it has one that a log can bear.
fn named(headers: &HeaderMap) -> Option<Box<str>> {
    let name = headers.get(REQUEST_ID)?.to_str().ok()?;
    (1..=MAX_NAME).contains(&name.len()).then(|| name.into())
}

/// What the client is told of its hold.
fn mark(hold: &Hold, headers: &mut HeaderMap) {
    hold.tell_rates(headers);
    let texts = [
        (RECEIPT, hold.receipt()),
        (REMAINING, hold.remaining().to_string()),
    ];
    for (name, text) in texts {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// Headers of the engine's answer that clients get.
fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in passed(from) {
        to.append(name.clone(), value.clone());
    }
}
