//! When the next height begins.

use std::time::Instant;

use crate::application::Pace;

impl Pace {
    /// The time at which to go on, `now` or later. The heartbeat does not
    /// overrule `earliest`: that one is 50 ms, the heartbeat seconds.
    pub(crate) fn begin(&self, now: Instant) -> Instant {
        let begin = if self.work { now } else { self.latest };
        begin.max(self.earliest.unwrap_or(now)).max(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_begins_at_once_or_at_the_earliest_and_silence_at_the_latest() {
        let now = Instant::now();
        let ms = |n| now + Duration::from_millis(n);
        let pace = |work, earliest, latest| {
            Pace {
                work,
                earliest,
                latest,
            }
            .begin(now)
        };
        assert_eq!(pace(true, None, ms(5000)), now);
        assert_eq!(pace(true, Some(ms(50)), ms(5000)), ms(50));
        assert_eq!(pace(false, None, ms(5000)), ms(5000));
        assert_eq!(pace(false, Some(ms(50)), ms(20)), ms(50));
        assert_eq!(pace(false, None, now), now);
    }
}
