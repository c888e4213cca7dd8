//! The wall clock, for what people read; decisions use monotonic time. A
//! request's arrival is both: it is read in its receipt, and its queue's order
//! is made from it.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The wall clock when it was first asked, and from where it goes on.
static START: LazyLock<(u64, Instant)> = LazyLock::new(|| (unix_ms(), Instant::now()));

fn wall() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Milliseconds since 1970 by this machine's clock.
pub fn unix_ms() -> u64 {
    u64::try_from(wall().as_millis()).unwrap_or(u64::MAX)
}

/// Microseconds since 1970 by this machine's clock.
pub fn unix_us() -> u64 {
    u64::try_from(wall().as_micros()).unwrap_or(u64::MAX)
}

/// When a request arrives, in ms since 1970: the wall clock, but it never
/// goes back while the process runs. If the clock is set back this goes on at
/// its own pace from where it was; if it is set forward this follows.
pub fn arrival_ms() -> u64 {
    /// The most that the wall clock was ahead of monotonic time, in us.
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    follow(&AHEAD, unix_us, monotonic_us) / 1_000
}

/// The wall clock is read first: a thread that does not run between the two
/// sees it behind. Seen ahead, it would stay so.
fn follow(ahead: &AtomicU64, wall: impl FnOnce() -> u64, monotonic: impl FnOnce() -> u64) -> u64 {
    let wall = wall();
    let monotonic = monotonic();
    let now = wall.saturating_sub(monotonic);
    let before = ahead.fetch_max(now, Ordering::Relaxed);
    monotonic.saturating_add(before.max(now))
}

/// Microseconds since this process first asked for a time.
fn monotonic_us() -> u64 {
    u64::try_from(START.1.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 that never go back while the process runs: the
/// wall clock at its start, and monotonic time since.
pub fn steady_ms() -> u64 {
    let since = START.1.elapsed().as_millis();
    START
        .0
        .saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn arrivals_follow_the_clock_and_never_go_back() {
        let ahead = AtomicU64::new(0);
        // (monotonic, wall clock) -> arrival
        for (monotonic, wall, arrival) in [
            (0, 1_000, 1_000),
            (10, 1_010, 1_010),
            // Set back by a second.
            (20, 20, 1_020),
            (500, 500, 1_500),
            // Set forward past where it was.
            (510, 9_000, 9_000),
            (520, 9_010, 9_010),
        ] {
            assert_eq!(follow(&ahead, || wall, || monotonic), arrival);
        }
        assert!(arrival_ms().abs_diff(unix_ms()) < 1_000);
    }

    #[test]
    fn a_pause_between_the_two_clocks_leaves_no_arrival_in_the_future() {
        let ahead = AtomicU64::new(0);
        let time = Cell::new(5_000);
        // Each clock is read, and then the thread does not run for a while.
        let arrive = |pause| {
            let read = |from| {
                let now = time.get() - from;
                time.set(time.get() + pause);
                now
            };
            follow(&ahead, || read(0), || read(1_000))
        };
        for pause in [0, 70, 0, 3_000_000, 0, 1] {
            let arrival = arrive(pause);
            assert!(arrival <= time.get(), "{arrival} at {}", time.get());
        }
        // And it is told as it is again.
        assert_eq!(arrive(0), time.get());
    }
}
