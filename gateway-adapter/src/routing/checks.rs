//! Asking engines in the background whether they are well.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{Upstreams, station::Station};

/// Time between two checks of an engine, and the longest that one may take.
const EACH: Duration = Duration::from_secs(2);

/// Checks every engine that has a `health` path, until it is cancelled.
pub async fn run(upstreams: &Upstreams) {
    let mut stations = upstreams.watch();
    let mut checks = JoinSet::new();
    let mut running = HashMap::new();
    loop {
        let now = stations.borrow_and_update().clone();
        let gone = running.extract_if(|number, _| !now.iter().any(|s| s.index == *number));
        gone.for_each(|(_, check): (usize, tokio::task::AbortHandle)| check.abort());
        for station in now {
            running
                .entry(station.index)
                .or_insert_with(|| checks.spawn(check(station)));
        }
        tokio::select! {
            changed = stations.changed() => if changed.is_err() {
                return;
            },
            Some(_) = checks.join_next() => {}
        }
    }
}

async fn check(station: Arc<Station>) {
    loop {
        let upstream = station.upstream();
        if let Some(path) = &upstream.health {
            let asked = tokio::time::timeout(EACH, upstream.get(path)).await;
            let well = matches!(asked, Ok(Ok(status)) if status.is_success());
            station.checked(well, EACH.as_millis() as u64);
        }
        tokio::time::sleep(EACH).await;
    }
}
