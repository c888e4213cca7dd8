//! What may touch the disk, on blocking threads.
//!
//! The runtime has 512 of them for the whole node, consensus among it. So a
//! service has few at a time, and what it calls for beyond that waits its
//! turn. A caller that goes away does not end work that has begun: the work
//! itself holds its place, until it is done.

use std::sync::Arc;

use tally_proto::Local;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Pieces of work of one service at a time.
const AT_ONCE: usize = 64;

/// Runs a service's work on a view.
pub(super) struct Reads<V> {
    view: Arc<V>,
    places: Arc<Semaphore>,
}

impl<V> Clone for Reads<V> {
    fn clone(&self) -> Self {
        Self {
            view: self.view.clone(),
            places: self.places.clone(),
        }
    }
}

impl<V: Send + Sync + 'static> Reads<V> {
    /// Work on `view`.
    pub(super) fn new(view: Arc<V>) -> Self {
        Self {
            view,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Runs `work` when it is its turn.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&V) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let stopping = || Local::Unavailable.status("the node is stopping");
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_| stopping())?;
        let view = self.view.clone();
        let work = move || {
            let done = work(&view);
            drop(place);
            done
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| stopping())?
    }

    /// The same for work of a kind that has places of its own, one of which is
    /// `place`: it is held until the work is done, waited for or not.
    pub(super) async fn run_in<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        work: impl FnOnce(&V) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run(move |view| {
            let done = work(view);
            drop(place);
            done
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use super::*;

    async fn until(what: &str, ready: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if ready() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{what}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_that_is_cancelled_keeps_its_place_until_its_work_is_done() {
        let reads = Reads::new(Arc::new(()));
        let few = Arc::new(Semaphore::new(1));
        let place = few.clone().try_acquire_owned().unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let call = tokio::spawn(async move {
            let work = move |(): &()| {
                begun.send(()).unwrap();
                wait.recv().unwrap();
                Ok(())
            };
            reads.run_in(place, work).await
        });
        tokio::task::spawn_blocking(move || begins.recv().unwrap())
            .await
            .unwrap();
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert_eq!(few.available_permits(), 0, "its work goes on");
        go.send(()).unwrap();
        until("its work is done", || few.available_permits() == 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_that_are_cancelled_take_no_more_threads_than_there_are_places() {
        let reads = Reads::new(Arc::new(AtomicUsize::new(0)));
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for round in 0..2 {
            let mut calls = Vec::new();
            for _ in 0..2 * AT_ONCE {
                let (reads, wait) = (reads.clone(), wait.clone());
                calls.push(tokio::spawn(async move {
                    let work = move |at_work: &AtomicUsize| {
                        at_work.fetch_add(1, Ordering::SeqCst);
                        // Ends when nothing is held back any more.
                        let _ = wait.lock().map(|wait| wait.recv());
                        Ok(())
                    };
                    reads.run(work).await
                }));
            }
            until("all places are taken", || {
                reads.places.available_permits() == 0
            })
            .await;
            calls.iter().for_each(tokio::task::JoinHandle::abort);
            for call in calls {
                let _ = call.await;
            }
            assert_eq!(reads.places.available_permits(), 0, "round {round}");
        }
        until("as many have begun", || {
            reads.view.load(Ordering::SeqCst) == AT_ONCE
        })
        .await;
        drop(go);
        until("all are done", || {
            reads.places.available_permits() == AT_ONCE
        })
        .await;
        assert_eq!(reads.view.load(Ordering::SeqCst), AT_ONCE);
    }
}
