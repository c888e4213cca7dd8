//! Virtual time: microseconds since the start, moved by the scheduler alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tally_ledger::ids::Time;

use super::genesis::START_MS;

/// A clock; clones show the same time, each with its own error.
#[derive(Debug, Clone)]
pub struct Clock {
    now: Arc<AtomicU64>,
    base: Instant,
    /// How wrong its time of day is, in ms.
    pub skew: i64,
}

impl Clock {
    /// At the start.
    pub fn new() -> Self {
        Self {
            now: Arc::default(),
            base: Instant::now(),
            skew: 0,
        }
    }

    /// Microseconds since the start.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Moves all clones.
    pub fn set(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// The time of day.
    pub fn wall(&self) -> Time {
        let true_time = START_MS + 10 + self.now() / 1_000;
        Time(true_time.saturating_add_signed(self.skew))
    }

    /// Now, as monotonic time: differences of it are virtual.
    pub fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now())
    }

    /// Microseconds since the start of such a time.
    pub fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_micros() as u64
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
