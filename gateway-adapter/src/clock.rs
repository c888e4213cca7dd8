//! The wall clock, for what people read; decisions use monotonic time.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// The wall clock when it was first asked, and from where it goes on.
static START: LazyLock<(u64, Instant)> = LazyLock::new(|| (unix_ms(), Instant::now()));

/// Milliseconds since 1970 by this machine's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Milliseconds since 1970 that never go back while the process runs: the
/// wall clock at its start, and monotonic time since.
pub fn steady_ms() -> u64 {
    let since = START.1.elapsed().as_millis();
    START
        .0
        .saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
}
