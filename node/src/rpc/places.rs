//! Places for watchers: so many in all, and so many for one caller.
//!
//! A caller is its name; without a login, the address it comes from. Who may
//! do without one on loopback is not counted: all programs of this machine
//! share that address, and its shell has more than streams to take.
//!
//! What works for a watcher holds a place of all. Its stream holds one of the
//! caller's, even when nothing works for it any more: a caller that opens
//! stream after stream and reads none has as many as it may, and no more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_proto::Local;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Streams of each caller.
#[derive(Debug, Default)]
struct Callers(Mutex<BTreeMap<String, usize>>);

impl Callers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    callers: Arc<Callers>,
    /// Of one caller.
    most: usize,
}

/// One of a caller's places.
#[derive(Debug)]
pub(super) struct Share {
    callers: Arc<Callers>,
    caller: String,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut callers = self.callers.lock();
        if let Some(count) = callers.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}

impl Places {
    /// So many in all, `most` of them for one caller.
    pub(super) fn new(all: usize, most: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            callers: Arc::default(),
            most,
        }
    }

    /// A place of all, and one of this caller if it is counted.
    pub(super) fn take(
        &self,
        caller: Option<String>,
    ) -> Result<(OwnedSemaphorePermit, Option<Share>), Status> {
        let share = caller.map(|caller| self.share(caller)).transpose()?;
        let place = self.all.clone().try_acquire_owned();
        let place =
            place.map_err(|_| Local::Busy.status("too many watchers here; ask another node"))?;
        Ok((place, share))
    }

    fn share(&self, caller: String) -> Result<Share, Status> {
        let mut callers = self.callers.lock();
        let count = callers.entry(caller.clone()).or_default();
        if *count >= self.most {
            let why = format!(
                "{caller} has {count} streams open here, as many as one caller may \
                 (rpc.max_watches_per_caller): end one first"
            );
            return Err(Local::Busy.status(why));
        }
        *count += 1;
        Ok(Share {
            callers: self.callers.clone(),
            caller,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_cannot_take_the_places_of_others() {
        let places = Places::new(5, 2);
        let of = |name: &str| places.take(Some(name.to_owned()));
        let (place, share) = of("account:7").unwrap();
        let second = of("account:7").unwrap();
        let refused = of("account:7").unwrap_err();
        assert!(refused.message().contains("account:7 has 2"), "{refused}");
        let other = of("account:8").unwrap();
        // Nothing works for a stream any more, but it is open yet.
        drop(place);
        of("account:7").unwrap_err();
        drop(share);
        let third = of("account:7").unwrap();
        // Who is not counted is bounded with all others.
        let rest: Vec<_> = (0..2).map(|_| places.take(None).unwrap()).collect();
        let refused = places.take(None).unwrap_err();
        assert!(refused.message().contains("too many watchers"), "{refused}");
        of("account:9").unwrap_err();
        drop((second, third, other, rest));
        assert!(places.callers.lock().is_empty());
        assert_eq!(places.all.available_permits(), 5);
    }
}
