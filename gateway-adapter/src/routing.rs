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
//!
//! The engines can be replaced while requests run ([`Upstreams::change`]). A
//! [`Route`] is a model's for good: who holds one sees the engines of now.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tally_ledger::{ids::Time, rates::RatesState};
use tokio::sync::watch;

use crate::{
    ask::Ask, clock::steady_ms, config::Tokenize, live::Live, metrics::Metrics,
    proxy::upstream::Upstream, refusal::Refusal,
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

type Stations = Vec<Arc<Station>>;

/// All engines.
#[derive(Debug, Default)]
pub struct Upstreams {
    metrics: Arc<Metrics>,
    routes: Live<HashMap<String, Route>>,
    stations: watch::Sender<Stations>,
    /// How many there have been; held while they are changed.
    numbers: Mutex<usize>,
}

/// The engines of one model.
#[derive(Debug, Clone, Default)]
pub struct Route {
    stations: Arc<Live<Stations>>,
    /// Equal choices take turns.
    turn: Arc<AtomicUsize>,
}

/// What a request asks of a [`Route`].
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// Fee, time of arrival, and whose it is.
    pub offer: Offer,
    /// Where it begins among equal engines.
    first: usize,
}

impl Upstreams {
    /// These engines.
    pub fn new(upstreams: Vec<Upstream>, metrics: &Arc<Metrics>) -> Self {
        let all = Upstreams {
            metrics: metrics.clone(),
            ..Upstreams::default()
        };
        all.change(upstreams);
        all
    }

    /// These engines from now on. One with the URL of an earlier one is that
    /// one: its queue, its health and what runs there stay. Who waits at an
    /// engine that is gone or was changed chooses again, with the time that
    /// it has waited; what runs ends where it runs.
    pub fn change(&self, upstreams: Vec<Upstream>) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = self.stations();
        let mut stations = Vec::new();
        let mut told = Vec::new();
        for upstream in upstreams {
            let known = gone
                .iter()
                .position(|station| station.upstream().url() == upstream.url());
            let station = match known {
                Some(known) => gone.remove(known),
                None => {
                    *numbers += 1;
                    let station = Station::new(*numbers, upstream.clone(), &self.metrics);
                    Arc::new(station)
                }
            };
            told.push(station.change(upstream));
            stations.push(station);
        }
        self.lead_to(&stations);
        self.stations.send_replace(stations);
        told.extend(gone.iter().map(|station| station.close()));
        let stations = self.stations();
        let hosts = |station: &Arc<Station>| station.upstream().host().to_owned();
        for station in &gone {
            let shared = stations.iter().any(|other| hosts(other) == hosts(station));
            if !shared {
                self.metrics.forget_engine(station.upstream().host());
            }
        }
        told.into_iter().for_each(station::Told::again);
    }

    /// Makes the routes lead to these stations.
    fn lead_to(&self, stations: &Stations) {
        let mut of: HashMap<String, Stations> = HashMap::new();
        for station in stations {
            for model in &station.upstream().models {
                let serving = of.entry(model.clone()).or_default();
                if !serving.iter().any(|known| Arc::ptr_eq(known, station)) {
                    serving.push(station.clone());
                }
            }
        }
        let before = self.routes.get();
        for (_, route) in before.iter().filter(|(model, _)| !of.contains_key(*model)) {
            route.stations.set(Vec::new());
        }
        let routes = of.into_iter().map(|(model, stations)| {
            let route = before.get(&model).cloned().unwrap_or_default();
            route.stations.set(stations);
            (model, route)
        });
        self.routes.set(routes.collect());
    }

    /// The engines of a model.
    pub fn of(&self, model: &str) -> Option<Route> {
        self.routes.look().get(model).cloned()
    }

    /// Whether any engine serves it.
    pub fn serves(&self, model: &str) -> bool {
        self.routes.look().contains_key(model)
    }

    /// All of them.
    pub fn stations(&self) -> Stations {
        self.stations.borrow().clone()
    }

    /// All of them, now and after each change.
    pub fn watch(&self) -> watch::Receiver<Stations> {
        self.stations.subscribe()
    }

    /// Largest output of one answer at any of them.
    pub fn most_output(&self) -> Option<u32> {
        let stations = self.stations();
        let each = stations.iter().map(|station| station.upstream().max_output);
        each.max()
    }
}

impl Route {
    /// Largest output of one answer, at any of the engines.
    pub fn max_output(&self) -> u32 {
        let stations = self.stations.look();
        let each = stations.iter().map(|station| station.settings().max_output);
        each.min().unwrap_or(0)
    }

    /// Whether each engine says the usage on every chunk.
    pub fn continuous_usage(&self) -> bool {
        let stations = self.stations.look();
        let mut each = stations.iter();
        each.all(|station| station.settings().continuous_usage)
    }

    /// An engine that counts prompts.
    pub fn counting(&self) -> Option<Arc<Upstream>> {
        let stations = self.stations.look();
        let counts = |station: &&Arc<Station>| station.settings().tokenize != Tokenize::None;
        stations
            .iter()
            .find(counts)
            .map(|station| station.upstream())
    }

    /// Whether a fee buys anything at one of the engines.
    pub fn sells_priority(&self) -> bool {
        self.stations.look().iter().any(|station| {
            let upstream = station.settings();
            upstream.concurrency.is_some() || upstream.priority
        })
    }

    /// A request, under these rates; it came when its debit will say.
    pub fn errand(&self, ask: &Ask, rates: &RatesState) -> Errand {
        Errand {
            offer: Offer {
                fee: ask.fee,
                worth: rates.worth_at(Time(ask.arrival)),
                account: ask.key.account.number,
            },
            first: self.turn.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The engine that a request would go to now, or wait for; not one of
    /// those that it `tried`.
    pub fn choose(&self, errand: Errand, tried: &[usize]) -> Result<Arc<Station>, Refusal> {
        let now = steady_ms();
        let stations = self.stations.look();
        let count = stations.len();
        let in_turn = (0..count).map(|i| &stations[errand.first.wrapping_add(i) % count]);
        let best = in_turn
            .filter(|station| !tried.contains(&station.index))
            .map(|station| (station.standing(errand.offer, now), station))
            .min_by_key(|(standing, _)| *standing);
        match best {
            Some((Standing::Free(_) | Standing::Waits(_), station)) => Ok(station.clone()),
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
