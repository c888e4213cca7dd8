//! One engine as requests see it: its queue, its health, and the places at
//! it. A [`Place`] that is dropped is the next request's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::Guard;
use prometheus_client::metrics::gauge::Gauge;
use tally_ledger::{debit::Queued, ids::AccountNumber};
use tokio::sync::oneshot;

use super::{
    health::{Gate, Health, Outcome, PROBE_ALONE},
    queue::{Numbers, Offer, Queue, Rank},
};
use crate::{
    clock::{steady_ms, unix_us},
    live::Live,
    metrics::{Engine, Metrics},
    proxy::upstream::Upstream,
};

/// An engine with its queue.
#[derive(Debug)]
pub struct Station {
    /// Its number, from 1, never another's while the gateway runs.
    pub index: usize,
    upstream: Live<Upstream>,
    waiting: Gauge,
    up: Gauge,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Queue<oneshot::Sender<Turn>>,
    health: Health,
    /// It is not among the engines any more.
    closed: bool,
}

/// Requests that waited, to be told to choose again.
#[derive(Debug, Default)]
pub struct Told(Vec<oneshot::Sender<Turn>>);

impl Told {
    /// Tells them.
    pub fn again(self) {
        for sender in self.0 {
            // Who is gone does not choose.
            let _ = sender.send(Turn::Again);
        }
    }
}

/// What a request that waits is told.
#[derive(Debug)]
enum Turn {
    Go(Place),
    /// The engine is down: choose again.
    Again,
}

/// How a request would fare; lower is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It goes at once, beside so many.
    Free(u64),
    /// It waits; the number compares engines.
    Waits(u64),
    /// It may not even wait; in so many ms perhaps.
    Full(u32),
    /// The engine is down for so many ms.
    Down(u32),
}

/// What became of a request that came.
#[derive(Debug)]
pub enum Entered {
    /// It goes at once.
    Place(Place),
    /// It waits.
    Waiting(Waiting),
}

/// A request in the queue; dropped, it leaves.
#[derive(Debug)]
pub struct Waiting {
    station: Arc<Station>,
    rank: Rank,
    turn: oneshot::Receiver<Turn>,
}

/// A place at an engine, until it is dropped.
#[derive(Debug)]
pub struct Place {
    station: Arc<Station>,
    account: AccountNumber,
    numbers: Numbers,
    /// It decides whether the engine is back.
    probe: bool,
    told: bool,
}

impl Station {
    /// An engine at which nothing runs; it counts as up.
    pub fn new(index: usize, upstream: Upstream, metrics: &Arc<Metrics>) -> Self {
        let label = Engine {
            upstream: upstream.host().to_owned(),
        };
        // Later than all numbers that were taken before a restart, unless the
        // clock was set back by more than that took.
        let queue = Queue::new(places(&upstream), upstream.queue, unix_us());
        let station = Station {
            index,
            waiting: metrics.queued.get_or_create_owned(&label),
            up: metrics.upstream_up.get_or_create_owned(&label),
            upstream: Live::new(upstream),
            inner: Mutex::new(Inner {
                queue,
                health: Health::default(),
                closed: false,
            }),
        };
        station.up.set(1);
        station
    }

    /// How it is reached now.
    pub fn upstream(&self) -> Arc<Upstream> {
        self.upstream.get()
    }

    /// The same, for a short look.
    pub fn settings(&self) -> Guard<Arc<Upstream>> {
        self.upstream.look()
    }

    /// It is reached like this from now on. If that is another way, it counts
    /// as up, and all who wait are to choose again.
    pub fn change(&self, upstream: Upstream) -> Told {
        if upstream.is_same(&self.settings()) {
            return Told::default();
        }
        let mut inner = self.lock();
        let (places, most) = (places(&upstream), upstream.queue);
        self.upstream.set(upstream);
        inner.health = Health::default();
        let waited = inner.queue.change(places, most);
        self.count(&inner);
        Told(waited.into_values().collect())
    }

    /// It is not among the engines any more: all who wait are to choose again.
    pub fn close(&self) -> Told {
        let mut inner = self.lock();
        inner.closed = true;
        Told(inner.queue.empty().into_values().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// vLLM's `priority` for a request: lower is earlier, in the order of the
    /// queue; in micro-CT.
    pub fn priority(&self, offer: Offer) -> i64 {
        let micro = offer.key().div_euclid(1_000);
        i64::try_from(micro).unwrap_or(if micro < 0 { i64::MIN } else { i64::MAX })
    }

    /// How a request with this offer would fare now.
    pub fn standing(&self, offer: Offer, now: u64) -> Standing {
        let inner = self.lock();
        if inner.closed {
            return Standing::Down(1_000);
        }
        let (gate, queue) = (inner.health.gate(now), &inner.queue);
        match gate {
            Gate::Probe if queue.is_free() => return Standing::Free(0),
            Gate::Open if queue.is_free() => return Standing::Free(queue.running() as u64),
            Gate::Shut if !inner.health.is_hopeful() => {
                let pause = inner.health.pause(now).max(1_000);
                return Standing::Down(u32::try_from(pause).unwrap_or(u32::MAX));
            }
            Gate::Open | Gate::Probe | Gate::Shut => {}
        }
        match queue.room(offer, now) {
            Err(full) => Standing::Full(full.0),
            Ok(()) if gate == Gate::Shut => Standing::Waits(u64::MAX),
            Ok(()) => Standing::Waits(queue.pressure()),
        }
    }

    /// A request comes; `None` if it may neither go nor wait.
    pub fn enter(self: &Arc<Self>, offer: Offer) -> Option<Entered> {
        let now = steady_ms();
        let mut inner = self.lock();
        let gate = inner.health.gate(now);
        if inner.closed || gate == Gate::Shut && !inner.health.is_hopeful() {
            return None;
        }
        let numbers = match gate {
            Gate::Shut => None,
            Gate::Open | Gate::Probe => inner.queue.take(),
        };
        if let Some(numbers) = numbers {
            let place = self.place(&mut inner, gate, offer.account, numbers);
            return Some(Entered::Place(place));
        }
        let (sender, turn) = oneshot::channel();
        let rank = inner.queue.wait(offer, now, sender).ok()?;
        self.count(&inner);
        Some(Entered::Waiting(Waiting {
            station: self.clone(),
            rank,
            turn,
        }))
    }

    /// A check of its health was answered, well or not; the next one is made
    /// in `again` ms.
    pub fn checked(self: &Arc<Self>, well: bool, again: u64) {
        let down = self.lock().health.checked(well, again, steady_ms());
        if down {
            self.fell();
        } else if well {
            self.serve();
        }
    }

    fn place(
        self: &Arc<Self>,
        inner: &mut Inner,
        gate: Gate,
        account: AccountNumber,
        numbers: Numbers,
    ) -> Place {
        let probe = gate == Gate::Probe;
        if probe {
            inner.health.probe(steady_ms());
            // Then one more may go, and who waits is to know.
            let station = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(PROBE_ALONE)).await;
                station.serve();
            });
        }
        Place {
            station: self.clone(),
            account,
            numbers,
            probe,
            told: false,
        }
    }

    /// Sets the gauges.
    fn count(&self, inner: &Inner) {
        if inner.closed {
            return;
        }
        self.waiting
            .set(i64::try_from(inner.queue.waiting()).unwrap_or(i64::MAX));
        self.up.set(inner.health.is_up().into());
    }

    /// Lets those go whose turn it is.
    fn serve(self: &Arc<Self>) {
        loop {
            let mut inner = self.lock();
            let gate = inner.health.gate(steady_ms());
            let next = match gate {
                Gate::Shut => None,
                Gate::Open | Gate::Probe => inner.queue.call(),
            };
            self.count(&inner);
            let Some(called) = next else {
                return;
            };
            let place = self.place(&mut inner, gate, called.rank.account(), called.numbers);
            drop(inner);
            // Who went away in this moment gives its place back.
            drop(called.request.send(Turn::Go(place)));
        }
    }

    /// The engine went down: who waits chooses again, and who still waits
    /// here after the pause is served then.
    fn fell(self: &Arc<Self>) {
        let (waiting, pause) = {
            let mut inner = self.lock();
            let waiting = Told(inner.queue.empty().into_values().collect());
            self.count(&inner);
            (waiting, inner.health.pause(steady_ms()))
        };
        let upstream = self.upstream();
        tracing::warn!(
            upstream = upstream.host(),
            pause_ms = pause,
            "an engine is down"
        );
        waiting.again();
        let station = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            station.serve();
        });
    }
}

/// Requests that an engine works at.
fn places(upstream: &Upstream) -> usize {
    upstream.concurrency.unwrap_or(usize::MAX)
}

impl Waiting {
    /// The place, when it is this request's turn; `None`: choose again.
    pub async fn turn(mut self) -> Option<Place> {
        match (&mut self.turn).await {
            Ok(Turn::Go(place)) => Some(place),
            Ok(Turn::Again) | Err(_) => None,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inner = self.station.lock();
        if inner.queue.leave(self.rank) {
            self.station.count(&inner);
        }
    }
}

impl Place {
    /// At which engine.
    pub fn station(&self) -> &Arc<Station> {
        &self.station
    }

    /// Where its request waited, and from when to when: for the debit.
    pub fn queued(&self) -> Queued {
        let Numbers { joined, dispatched } = self.numbers;
        Queued {
            queue: u32::try_from(self.station.index).unwrap_or(u32::MAX),
            joined,
            dispatched: u32::try_from(dispatched - joined).unwrap_or(u32::MAX),
        }
    }

    /// How the exchange began.
    pub fn began(&mut self, outcome: Outcome) {
        let mut inner = self.station.lock();
        let probe = self.probe && !self.told;
        self.told = true;
        let down = inner
            .health
            .began(outcome, self.account, probe, steady_ms());
        self.station.count(&inner);
        drop(inner);
        if down {
            self.station.fell();
        } else if probe {
            let upstream = self.station.upstream();
            tracing::info!(upstream = upstream.host(), "an engine is back");
            self.station.serve();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = steady_ms();
        let mut inner = self.station.lock();
        inner.queue.done(now);
        if self.probe && !self.told {
            inner.health.undecided(now);
        }
        drop(inner);
        self.station.serve();
    }
}

#[cfg(test)]
mod tests;
