//! Asking engines in the background whether they are well.

use std::{sync::Arc, time::Duration};

use super::{Upstreams, station::Station};

/// Time between two checks of an engine, and the longest that one may take.
const EACH: Duration = Duration::from_secs(2);

/// Checks every engine that has a `health` path, until it is cancelled.
pub async fn run(upstreams: &Upstreams) {
    let checked = upstreams.stations().iter().map(check);
    futures::future::join_all(checked).await;
}

async fn check(station: &Arc<Station>) {
    let Some(path) = &station.upstream.health else {
        return;
    };
    loop {
        let asked = tokio::time::timeout(EACH, station.upstream.get(path)).await;
        let well = matches!(asked, Ok(Ok(status)) if status.is_success());
        station.checked(well, EACH.as_millis() as u64);
        tokio::time::sleep(EACH).await;
    }
}
