//! Waiting for a record's fsync.
//!
//! Records are numbered as they are appended, and an fsync makes all durable
//! up to a number. Who waits leaves a waker in the room of its thread. When
//! the rooms open, each thread on which somebody waits for what is durable now
//! is woken once: its usher wakes them from within. The others sleep on.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures::task::AtomicWaker;
use tokio::sync::oneshot;

use super::{JournalFailed, Shared};
use crate::cores;

/// Of a record that is in no journal.
const NEVER: u64 = u64::MAX;

/// Resolves when a record is durable. Dropped, the record is written all the
/// same, in the time that its urgency says.
#[derive(Debug)]
pub struct Durable(Kind);

#[derive(Debug)]
enum Kind {
    Record(Waiting),
    /// Something is done in between.
    Told(oneshot::Receiver<()>),
}

struct Waiting {
    shared: Arc<Shared>,
    number: u64,
    /// Whether somebody was asked to write it.
    asked: bool,
    waker: Option<Waker>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {}", self.number)
    }
}

impl Durable {
    /// Of a record; `asked`: the writer knows when to write it.
    pub(super) fn record(shared: &Arc<Shared>, number: u64, asked: bool) -> Self {
        Durable(Kind::Record(Waiting {
            shared: shared.clone(),
            number,
            asked,
            waker: None,
        }))
    }

    /// Of one that the journal does not take.
    pub(super) fn never(shared: &Arc<Shared>) -> Self {
        Self::record(shared, NEVER, true)
    }

    /// Waits for the fsync.
    pub async fn wait(self) -> Result<(), JournalFailed> {
        match self.0 {
            Kind::Record(mut waiting) => poll_fn(|context| waiting.poll(context)).await,
            Kind::Told(told) => told.await.map_err(|_| JournalFailed),
        }
    }

    /// Does something once it is durable, before anybody who waits is told.
    pub fn then(self, done: impl FnOnce() + Send + 'static) -> Durable {
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            if self.wait().await.is_ok() {
                done();
                // Nobody has to wait.
                let _ = sender.send(());
            }
        });
        Durable(Kind::Told(receiver))
    }
}

impl Waiting {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), JournalFailed>> {
        let rooms = &self.shared.rooms;
        if let Some(outcome) = rooms.outcome(self.number) {
            return Poll::Ready(outcome);
        }
        let waker = context.waker();
        if !self.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            self.waker = Some(waker.clone());
            rooms.enter(self.number, waker.clone());
        }
        // It may have become so before it was in the room.
        if let Some(outcome) = rooms.outcome(self.number) {
            return Poll::Ready(outcome);
        }
        if !self.asked {
            self.asked = true;
            self.shared.ask(self.number);
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.asked && self.shared.rooms.outcome(self.number).is_none() {
            self.shared.hurry();
        }
    }
}

/// Who waits, by thread.
#[derive(Debug)]
pub(super) struct Rooms {
    /// The last record that is durable.
    durable: AtomicU64,
    failed: AtomicBool,
    rooms: Box<[Room]>,
}

#[derive(Debug, Default)]
struct Room {
    waiting: Mutex<Vec<(u64, Waker)>>,
    usher: AtomicWaker,
}

impl Room {
    /// Whether somebody waits for a record up to `last`.
    fn holds(&self, last: u64) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().any(|(number, _)| *number <= last)
    }

    /// Takes those who wait for a record up to `last`.
    fn take(&self, last: u64) -> Vec<(u64, Waker)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .extract_if(.., |(number, _)| *number <= last)
            .collect()
    }

    fn wake(&self, last: u64) {
        for (_, waker) in self.take(last) {
            waker.wake();
        }
    }
}

impl Rooms {
    pub(super) fn new() -> Self {
        // And those that do not serve, in one.
        let rooms = (0..=cores::count()).map(|_| Room::default());
        Rooms {
            durable: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            rooms: rooms.collect(),
        }
    }

    /// Whether a record is durable, or never will be; `None`: it may be yet.
    fn outcome(&self, number: u64) -> Option<Result<(), JournalFailed>> {
        let failed = number == NEVER || self.failed.load(Ordering::Acquire);
        // Looked at second: what was durable before the failure stays so.
        if number <= self.durable.load(Ordering::Acquire) {
            return Some(Ok(()));
        }
        failed.then_some(Err(JournalFailed))
    }

    pub(super) fn is_durable(&self, number: u64) -> bool {
        number <= self.durable.load(Ordering::Acquire)
    }

    fn enter(&self, number: u64, waker: Waker) {
        let room = &self.rooms[cores::here()];
        let mut waiting = room.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((number, waker));
    }

    /// How many wait on this thread.
    pub(super) fn waiting_here(&self) -> usize {
        let room = &self.rooms[cores::here()];
        let waiting = room.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.len()
    }

    /// All up to `last` is durable.
    pub(super) fn open(&self, last: u64) {
        self.durable.store(last, Ordering::Release);
        let here = cores::here();
        for (thread, room) in self.rooms.iter().enumerate() {
            // Who enters after this look sees that it is durable.
            if !room.holds(last) {
                continue;
            }
            let usher = (thread != here).then(|| room.usher.take()).flatten();
            match usher {
                Some(usher) => usher.wake(),
                None => room.wake(last),
            }
        }
    }

    /// Nothing more becomes durable.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        for room in &self.rooms {
            room.wake(NEVER);
        }
    }

    /// Wakes those who wait on this thread, each time that it is woken.
    pub(super) async fn usher(&self) {
        let room = &self.rooms[cores::here()];
        poll_fn(|context| {
            // First, so that what opens meanwhile wakes it again.
            room.usher.register(context.waker());
            room.wake(self.durable.load(Ordering::Acquire));
            Poll::<()>::Pending
        })
        .await;
    }
}
