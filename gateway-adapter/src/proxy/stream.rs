//! A stream on its way from the engine to the client.
//!
//! Events leave as they come. While output flows a progress mark is journaled
//! at least once a second. The stream's last event (`[DONE]`, or the one that
//! the endpoint ends with) waits for the debit's fsync. Whatever ends it (client gone, engine broken, account
//! frozen, time over), what was generated is charged; only a stream that
//! failed before any output is void.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::BodyExt;
use tally_ledger::debit::Flags;

use super::{
    body::Feed,
    decoded::Decoded,
    endpoint::{Ending, Endpoint},
    measures::Measures,
    payment::Payment,
    sse::{Splitter, data, without_usage},
};
use crate::{
    holds::Hold,
    refusal::Refusal,
    usage::{Counted, Counts, known},
};

/// Time between two progress marks while output flows.
const MARK: Duration = Duration::from_millis(700);
/// How often a silent stream is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Bytes of events that leave together, if they have arrived together.
const TOGETHER: usize = 16 * 1024;
/// How long an engine may take to end its body after `[DONE]`.
const TAIL: Duration = Duration::from_secs(1);

/// Turns of looking at a running request, the first one after a while.
pub(super) fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Carries one stream.
pub(super) struct Pump {
    /// Whose form its events have.
    pub(super) endpoint: &'static Endpoint,
    /// The client did not ask for the usage chunk.
    pub(super) hide_usage: bool,
    /// Usage on other chunks was our wish, not the client's.
    pub(super) hide_continuous: bool,
    /// Usage on a chunk is usage so far.
    pub(super) continuous: bool,
    /// About as many tokens as the prompt has.
    pub(super) likely: u32,
    /// When the request must end.
    pub(super) deadline: tokio::time::Instant,
    /// Most bytes of an event.
    pub(super) most: usize,
    /// How early the hold looks for another lease.
    pub(super) early: Duration,
    /// How long after its lease's end it may still run.
    pub(super) grace: Duration,
    /// Answers in the stream.
    pub(super) choices: u32,
    /// What the hold pays for.
    pub(super) payment: Payment,
    /// Pays.
    pub(super) hold: Hold,
    /// To the client.
    pub(super) feed: Feed,
    /// Longest that the client may read nothing.
    pub(super) stall: Duration,
    /// Times and usage.
    pub(super) measures: Measures,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// `[DONE]`, or the engine's end of body.
    Done,
    ClientGone,
    /// The client is there but reads nothing.
    Stalled,
    /// The engine's connection broke, or it sent an endless event.
    Broken,
    TimeOver,
    /// No balance for more, or the lease's grace is nearly over.
    Length,
    Cut(Refusal),
}

impl End {
    /// What metrics call it; empty where it is as it should be.
    fn error(self) -> &'static str {
        match self {
            End::Done | End::Length => "",
            End::ClientGone => "client_gone",
            End::Stalled => "client_stalled",
            End::Broken => "upstream_error",
            End::TimeOver => "timeout",
            End::Cut(refusal) => refusal.code(),
        }
    }
}

/// What has been seen.
#[derive(Debug, Default)]
struct Seen {
    /// Last usage, and whether it is the final one.
    reported: Option<(Counts, bool)>,
    counted: Counted,
    error: bool,
    /// The first chunk of the stream, for the form of one of our own.
    chunk: Option<String>,
    /// Number of the next event, where they are numbered.
    next: u64,
    /// The hold does not pay for more.
    unpaid: bool,
    done: Option<Vec<u8>>,
    /// Bytes to be sent now.
    out: Vec<u8>,
    /// When progress was last marked, and what it was.
    marked: Option<Instant>,
    mark: Counted,
}

impl Seen {
    /// What was used so far, as far as is known.
    fn counts(&self, likely: u32) -> Counts {
        self.reported.map_or_else(
            || Counts {
                input: likely.into(),
                cached: 0,
                output: self.counted.output(),
                reasoning: self.counted.reasoning.min(self.counted.output()),
            },
            |(counts, _)| counts,
        )
    }
}

impl Pump {
    /// Carries the stream to its end and settles it; the debit's flags, or
    /// `None` if it is void.
    pub(super) async fn run(mut self: Box<Self>, mut body: Decoded) -> Option<Flags> {
        let mut seen = Seen::default();
        let mut splitter = Splitter::default();
        let end = self.carry(&mut body, &mut seen, &mut splitter).await;
        self.measures.work();
        let failed = seen.error || matches!(end, End::Broken | End::TimeOver);
        let produced = seen.counts(self.likely).output > 0;
        let wants_usage = !self.hide_usage;
        let Pump {
            endpoint,
            hold,
            feed,
            likely,
            choices,
            stall,
            measures,
            ..
        } = *self;
        let error = if seen.error {
            "upstream_error"
        } else {
            end.error()
        };
        if matches!(end, End::ClientGone | End::Stalled) {
            // Cancels the engine's work.
            drop(body);
            if end == End::Stalled {
                measures.stalled();
                feed.break_off();
            }
            let (usage, flags) = known(hold.model(), seen.reported, seen.counted, likely);
            measures.used(hold.model(), &usage, flags);
            measures.ended(error);
            return Some(hold.settle(usage, flags).flags);
        }
        let (flags, durable) = if failed && !produced {
            (None, hold.void())
        } else {
            let (usage, flags) = known(hold.model(), seen.reported, seen.counted, likely);
            measures.used(hold.model(), &usage, flags);
            let settled = hold.settle(usage, flags);
            (Some(settled.flags), settled.durable)
        };
        if durable.wait().await.is_err() {
            // Nothing more can be promised.
            feed.break_off();
            return flags;
        }
        let last = match end {
            End::Done => seen.done.unwrap_or_else(|| splitter.rest()),
            End::Broken => {
                let why = "the engine's stream broke off";
                (endpoint.failed)(why, "upstream_error", seen.next)
            }
            End::TimeOver => (endpoint.failed)("the request took too long", "timeout", seen.next),
            End::Cut(refusal) => (endpoint.failed)(&refusal.to_string(), refusal.code(), seen.next),
            End::Length => (endpoint.cut)(&Ending {
                first: seen.chunk.as_deref().unwrap_or_default(),
                next: seen.next,
                choices,
                usage: wants_usage.then(|| seen.counts(likely)),
            }),
            End::ClientGone | End::Stalled => Vec::new(),
        };
        // The client may be gone, or read nothing; it is charged the same.
        match feed.send(Bytes::from(last), stall).await {
            Ok(()) => drop(feed),
            Err(_) => feed.break_off(),
        }
        measures.last_byte();
        measures.ended(error);
        if end != End::Done {
            // Cancels the engine's work.
            drop(body);
        } else {
            // Read to the end, so that the connection can be used again.
            let rest = async { while let Some(Ok(_)) = body.frame().await {} };
            let _ = tokio::time::timeout(TAIL, rest).await;
        }
        flags
    }

    /// Moves the hold if it is time for that; whether the stream must end.
    fn look(&mut self) -> Option<End> {
        self.hold.keep(self.early);
        self.must_end()
    }

    async fn carry(&mut self, body: &mut Decoded, seen: &mut Seen, splitter: &mut Splitter) -> End {
        if let Some(end) = self.look() {
            return end;
        }
        let mut tick = ticks();
        seen.marked = Some(Instant::now());
        let mut told = false;
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = self.feed.closed() => return End::ClientGone,
                _ = tick.tick() => {
                    if let Some(end) = self.look() {
                        return end;
                    }
                    continue;
                }
            };
            let mut next = Some(frame);
            let mut ended = None;
            while let (Some(frame), None) = (next, ended) {
                match frame {
                    None => ended = Some(End::Done),
                    Some(Err(_)) => ended = Some(End::Broken),
                    Some(Ok(frame)) => {
                        if let Ok(bytes) = frame.into_data() {
                            let taken = self.take_in(&bytes, splitter, seen, &mut tick);
                            if let Some(end) = taken.await {
                                return end;
                            }
                            if !told && seen.counted.deltas > 0 {
                                told = true;
                                self.measures.first_token();
                            }
                        }
                    }
                }
                // What has arrived with it leaves with it.
                let more = seen.done.is_none()
                    && !seen.unpaid
                    && seen.out.len() < TOGETHER
                    && splitter.waiting() <= self.most;
                next = more.then(|| body.frame().now_or_never()).flatten();
            }
            if let Some(end) = self.flush(seen, &mut tick).await {
                return end;
            }
            if seen.done.is_some() {
                return End::Done;
            }
            if let Some(ended) = ended {
                return ended;
            }
            if seen.unpaid {
                return End::Length;
            }
            if splitter.waiting() > self.most {
                return End::Broken;
            }
        }
    }

    /// Marks what was used, if that is due, and sends what is to be sent.
    async fn flush(&mut self, seen: &mut Seen, tick: &mut tokio::time::Interval) -> Option<End> {
        let due = seen.marked.is_none_or(|marked| marked.elapsed() >= MARK);
        if due && seen.mark != seen.counted {
            (seen.marked, seen.mark) = (Some(Instant::now()), seen.counted);
            let usage = known(self.hold.model(), seen.reported, seen.counted, self.likely).0;
            self.hold.mark(usage);
        }
        if seen.out.is_empty() {
            return None;
        }
        let out = Bytes::from(std::mem::take(&mut seen.out));
        self.deliver(out, tick).await
    }

    /// Takes in bytes of the engine. Where the hold was lowered no event is
    /// delivered that it does not pay for, and none waits for another's money.
    async fn take_in(
        &mut self,
        bytes: &[u8],
        splitter: &mut Splitter,
        seen: &mut Seen,
        tick: &mut tokio::time::Interval,
    ) -> Option<End> {
        if !self.payment.is_lowered() {
            splitter.push(bytes, |event| self.event(event, seen));
        } else {
            let mut events = Vec::new();
            splitter.push(bytes, |event| events.push(event.to_vec()));
            for event in events {
                if let Some(used) = self.uses(&event, seen)
                    && !self.payment.covers(&self.hold, used)
                {
                    if let Some(end) = self.flush(seen, tick).await {
                        return Some(end);
                    }
                    // The hold is raised, or this is the end.
                    let pays = self.payment.pays(&mut self.hold, used, self.deadline);
                    seen.unpaid = !pays.await;
                    if seen.unpaid {
                        return None;
                    }
                }
                self.event(&event, seen);
            }
        }
        if let Some((counts, false)) = seen.reported {
            self.payment.fit(&mut self.hold, counts);
        }
        None
    }

    /// What is used with an event, if that is more than before it.
    fn uses(&self, event: &[u8], seen: &Seen) -> Option<Counts> {
        let json = data(event)?;
        let chunk = (self.endpoint.read)(&json);
        match chunk.usage {
            Some(counts) => Some(counts),
            None if chunk.counted.deltas == 0 => None,
            // It should have said: one token more at least.
            None => {
                let mut counts = seen.counts(self.likely);
                counts.output = counts.output.saturating_add(1);
                Some(counts)
            }
        }
    }

    /// Reads one event; it leaves as it came unless its usage is hidden.
    fn event(&self, event: &[u8], seen: &mut Seen) {
        if seen.done.is_some() {
            return;
        }
        let Some(json) = data(event) else {
            seen.out.extend_from_slice(event);
            return;
        };
        if json.trim() == "[DONE]" {
            seen.done = Some(event.to_vec());
            return;
        }
        let chunk = (self.endpoint.read)(&json);
        if seen.chunk.is_none() {
            seen.chunk = Some(json.to_string());
        }
        seen.error |= chunk.error;
        seen.next = chunk
            .sequence
            .map_or(seen.next, |number| number.saturating_add(1));
        seen.counted.deltas += chunk.counted.deltas;
        seen.counted.bytes += chunk.counted.bytes;
        seen.counted.reasoning += chunk.counted.reasoning;
        if let Some(counts) = chunk.usage {
            seen.reported = Some((counts, chunk.only_usage || !self.continuous));
        }
        if chunk.end {
            seen.done = Some(event.to_vec());
            return;
        }
        if chunk.only_usage && self.hide_usage {
            return;
        }
        if chunk.usage.is_some()
            && !chunk.only_usage
            && self.hide_continuous
            && let Some(event) = without_usage(&json)
        {
            seen.out.extend_from_slice(&event);
            return;
        }
        seen.out.extend_from_slice(event);
    }

    /// Sends to the client, however slow it is, while it reads at all and the
    /// stream may go on.
    async fn deliver(&self, bytes: Bytes, tick: &mut tokio::time::Interval) -> Option<End> {
        let mut since = None;
        loop {
            tokio::select! {
                permit = self.feed.reserve() => match permit {
                    Ok(permit) => {
                        permit.send(bytes);
                        return None;
                    }
                    Err(_) => return Some(End::ClientGone),
                },
                _ = tick.tick() => {
                    if let Some(end) = self.must_end() {
                        return Some(end);
                    }
                    if since.get_or_insert_with(Instant::now).elapsed() >= self.stall {
                        return Some(End::Stalled);
                    }
                }
            }
        }
    }

    fn must_end(&self) -> Option<End> {
        let ended = self.hold.ended_at();
        if ended.is_some_and(|at| at.elapsed() >= self.grace) {
            return Some(End::Length);
        }
        if tokio::time::Instant::now() >= self.deadline {
            return Some(End::TimeOver);
        }
        self.hold.cut().map(End::Cut)
    }
}
