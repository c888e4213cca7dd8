//! The engine of one: the same trait, the same handle.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::common::{Counter, Knobs, keys, validators};
use tally_consensus::{ConsensusError, Wake, solo};

fn counter(knobs: &Arc<Knobs>, count: u8) -> Counter {
    Counter {
        chain: Arc::default(),
        knobs: knobs.clone(),
        validators: validators(count),
        epoch: 0,
        heartbeat: Duration::from_secs(600),
        last: Instant::now(),
    }
}

#[tokio::test]
async fn one_validator_commits_when_woken_and_stops_in_order() {
    let (knobs, wake) = (Arc::new(Knobs::default()), Wake::new());
    let handle = solo::start(keys(0), counter(&knobs, 1), wake.clone());
    assert_eq!(handle.status().committed.0, 0);
    knobs.busy.store(true, Ordering::Relaxed);
    wake.wake();
    let mut watch = handle.watch();
    watch
        .wait_for(|status| status.committed.0 >= 5)
        .await
        .unwrap();
    handle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_fault_ends_it_and_so_does_a_second_validator() {
    let knobs = Arc::new(Knobs::default());
    knobs.busy.store(true, Ordering::Relaxed);
    knobs.broken.store(true, Ordering::Relaxed);
    let error = solo::start(keys(0), counter(&knobs, 1), Wake::new())
        .join()
        .await
        .unwrap_err();
    assert!(matches!(error, ConsensusError::Application(_)), "{error}");
    let error = solo::start(keys(0), counter(&knobs, 2), Wake::new())
        .join()
        .await
        .unwrap_err();
    assert!(matches!(error, ConsensusError::Engine(_)), "{error}");
}
