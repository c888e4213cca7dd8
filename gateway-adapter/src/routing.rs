//! From a model's name to a place at one of its engines.
//!
//! - Of the engines that serve a model one is chosen that has a free place,
//!   the one with the fewest running requests; else the one whose queue is
//!   shortest for its places. An engine that is down is not chosen, but for
//!   the one request that finds out whether it is back.
//! - Requests wait in that engine's [`queue`]. If it goes down they choose
//!   again, with the time that they have waited.
//! - When nothing can be chosen a request is refused, before anything is
//!   reserved if that is known then.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tally_ledger::{
    ids::{Amount, Time},
    rates::RatesState,
};

use crate::{
    clock::steady_ms, config::Tokenize, metrics::Metrics, proxy::upstream::Upstream,
    refusal::Refusal,
};

pub mod checks;
pub mod fee;
pub mod health;
pub mod queue;
pub mod station;

use queue::Offer;
use station::{Entered, Place, Standing, Station, Waiting};

/// Most engines that one request is sent to, one after another.
pub const MOST_TRIES: usize = 3;

/// All engines.
#[derive(Debug, Default)]
pub struct Upstreams {
    stations: Vec<Arc<Station>>,
    routes: HashMap<String, Route>,
}

/// The engines of one model.
#[derive(Debug, Clone)]
pub struct Route {
    stations: Arc<[Arc<Station>]>,
    /// Equal choices take turns.
    turn: Arc<AtomicUsize>,
}

/// What a request asks of a [`Route`].
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// Fee and time of arrival.
    pub offer: Offer,
    /// Where it begins among equal engines.
    first: usize,
}

impl Upstreams {
    /// These engines.
    pub fn new(upstreams: Vec<Upstream>, metrics: &Arc<Metrics>) -> Self {
        let stations: Vec<_> = upstreams
            .into_iter()
            .enumerate()
            .map(|(index, upstream)| Arc::new(Station::new(index, upstream, metrics)))
            .collect();
        let mut of: HashMap<String, Vec<Arc<Station>>> = HashMap::new();
        for station in &stations {
            for model in &station.upstream.models {
                let serving = of.entry(model.clone()).or_default();
                if !serving.iter().any(|known| Arc::ptr_eq(known, station)) {
                    serving.push(station.clone());
                }
            }
        }
        let routes = of.into_iter().map(|(model, stations)| {
            let route = Route {
                stations: stations.into(),
                turn: Arc::default(),
            };
            (model, route)
        });
        Upstreams {
            stations,
            routes: routes.collect(),
        }
    }

    /// The engines of a model.
    pub fn of(&self, model: &str) -> Option<&Route> {
        self.routes.get(model)
    }

    /// Whether any engine serves it.
    pub fn serves(&self, model: &str) -> bool {
        self.routes.contains_key(model)
    }

    /// All of them.
    pub fn stations(&self) -> &[Arc<Station>] {
        &self.stations
    }
}

impl Route {
    /// Largest output of one answer, at any of the engines.
    pub fn max_output(&self) -> u32 {
        let each = self.stations.iter();
        each.map(|station| station.upstream.max_output)
            .min()
            .unwrap_or(0)
    }

    /// Whether each engine says the usage on every chunk.
    pub fn continuous_usage(&self) -> bool {
        let mut each = self.stations.iter();
        each.all(|station| station.upstream.continuous_usage)
    }

    /// An engine that counts prompts.
    pub fn counting(&self) -> Option<&Arc<Upstream>> {
        let mut each = self.stations.iter().map(|station| &station.upstream);
        each.find(|upstream| upstream.tokenize != Tokenize::None)
    }

    /// Whether a fee buys anything at one of the engines.
    pub fn sells_priority(&self) -> bool {
        self.stations
            .iter()
            .any(|station| station.upstream.concurrency.is_some() || station.upstream.priority)
    }

    /// A request that came at `arrived`, as its debit will say, under these
    /// rates.
    pub fn errand(&self, fee: Amount, arrived: u64, rates: &RatesState) -> Errand {
        Errand {
            offer: Offer {
                fee,
                worth: rates.worth_at(Time(arrived)),
            },
            first: self.turn.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The engine that a request would go to now, or wait for; not one of
    /// those that it `tried`.
    pub fn choose(&self, errand: Errand, tried: &[usize]) -> Result<&Arc<Station>, Refusal> {
        let now = steady_ms();
        let count = self.stations.len();
        let in_turn = (0..count).map(|i| &self.stations[errand.first.wrapping_add(i) % count]);
        let best = in_turn
            .filter(|station| !tried.contains(&station.index))
            .map(|station| (station.standing(errand.offer.fee, now), station))
            .min_by_key(|(standing, _)| *standing);
        match best {
            Some((Standing::Free(_) | Standing::Waits(_), station)) => Ok(station),
            Some((Standing::Full(retry_ms), _)) => Err(Refusal::QueueFull { retry_ms }),
            Some((Standing::Down(retry_ms), _)) => Err(Refusal::UpstreamDown { retry_ms }),
            None => Err(Refusal::UpstreamDown { retry_ms: 1_000 }),
        }
    }

    /// A place at an engine, or one in its queue.
    pub fn enter(&self, errand: Errand, tried: &[usize]) -> Result<Entered, Refusal> {
        loop {
            // Refused after all: it changed in between.
            if let Some(entered) = self.choose(errand, tried)?.enter(errand.offer) {
                return Ok(entered);
            }
        }
    }

    /// Waits for a place at an engine, here or elsewhere. Dropping the future
    /// leaves the queue.
    pub async fn wait(
        &self,
        mut waiting: Waiting,
        errand: Errand,
        tried: &[usize],
    ) -> Result<Place, Refusal> {
        loop {
            if let Some(place) = waiting.turn().await {
                return Ok(place);
            }
            match self.enter(errand, tried)? {
                Entered::Place(place) => return Ok(place),
                Entered::Waiting(again) => waiting = again,
            }
        }
    }
}
