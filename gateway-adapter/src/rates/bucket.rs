//! A bucket that holds one minute's worth and fills evenly. Integers only:
//! its level is kept in 60,000ths, so that each millisecond adds exactly the
//! rate per minute.

/// Milliseconds in which an empty bucket fills.
const FILL_MS: i128 = 60_000;

/// A bucket.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Per minute; also what it holds.
    most: u32,
    /// In 60,000ths; below zero: owed.
    level: i128,
    /// When that was so, in ms.
    at: u64,
}

impl Bucket {
    /// A full one.
    pub fn new(most: u32, now: u64) -> Self {
        Bucket {
            most,
            level: i128::from(most) * FILL_MS,
            at: now,
        }
    }

    /// The rate per minute.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Another rate from now on; what was taken stays taken.
    pub fn change(&mut self, most: u32, now: u64) {
        self.refill(now);
        self.level += (i128::from(most) - i128::from(self.most)) * FILL_MS;
        self.most = most;
    }

    /// Lets time pass.
    pub fn refill(&mut self, now: u64) {
        let since = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let full = i128::from(self.most) * FILL_MS;
        self.level = full.min(self.level + i128::from(since) * i128::from(self.most));
    }

    /// In how many ms `amount` can be taken; 0: now. What is more than the
    /// bucket holds can be taken when it is full.
    pub fn wait(&self, amount: u64) -> u64 {
        let amount = i128::from(amount.min(self.most.into()));
        self.until(amount * FILL_MS)
    }

    fn until(&self, level: i128) -> u64 {
        let most = i128::from(self.most.max(1));
        let ms = (level - self.level).max(0) + most - 1;
        u64::try_from(ms / most).unwrap_or(u64::MAX)
    }

    /// Takes `amount`, whether it is there or not.
    pub fn take(&mut self, amount: u64) {
        self.level -= i128::from(amount) * FILL_MS;
    }

    /// Gives back what was not used.
    pub fn give(&mut self, amount: u64) {
        let full = i128::from(self.most) * FILL_MS;
        self.level = full.min(self.level + i128::from(amount) * FILL_MS);
    }

    /// What it holds, in whole ones.
    pub fn remaining(&self) -> u64 {
        u64::try_from(self.level.max(0) / FILL_MS).unwrap_or(u64::MAX)
    }

    /// In how many ms it is full.
    pub fn reset_ms(&self) -> u64 {
        self.until(i128::from(self.most) * FILL_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_fills_evenly_and_remembers_what_is_owed() {
        let mut bucket = Bucket::new(7, 0);
        for _ in 0..7 {
            assert_eq!(bucket.wait(1), 0);
            bucket.take(1);
        }
        // A seventh of a minute, rounded up.
        assert_eq!((bucket.wait(1), bucket.remaining()), (8_572, 0));
        bucket.refill(8_571);
        assert_eq!(bucket.wait(1), 1);
        bucket.refill(8_572);
        assert_eq!((bucket.wait(1), bucket.remaining()), (0, 1));
        bucket.take(8);
        assert_eq!(bucket.remaining(), 0);
        bucket.refill(68_571);
        assert_eq!(bucket.remaining(), 0);
        bucket.give(100);
        assert_eq!((bucket.remaining(), bucket.reset_ms()), (7, 0));
        // Time that goes back adds nothing.
        bucket.refill(0);
        assert_eq!(bucket.at, 68_571);
        // More than it holds goes when it is full.
        assert_eq!(bucket.wait(1_000), 0);
        bucket.take(1_000);
        assert_eq!(bucket.wait(1_000), 60_000 * 1_000 / 7 + 1);
    }

    #[test]
    fn another_rate_keeps_what_was_taken() {
        let mut bucket = Bucket::new(60, 0);
        bucket.take(40);
        bucket.change(100, 1_000);
        // One came back in the second before the change.
        assert_eq!((bucket.most(), bucket.remaining()), (100, 61));
        bucket.change(30, 1_000);
        // Nine are owed, at 30 a minute, and one for who comes next.
        assert_eq!((bucket.remaining(), bucket.wait(1)), (0, 20_000));
        bucket.change(30, 21_000);
        assert_eq!(bucket.remaining(), 1);
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_one_minute_and_its_own_time(
            most in 1u32..1_000,
            asked in prop::collection::vec((0u64..5_000, 1u64..100), 1..200),
        ) {
            let mut bucket = Bucket::new(most, 0);
            let (mut now, mut taken) = (0, 0);
            for (gap, amount) in asked {
                now += gap;
                bucket.refill(now);
                let amount = amount.min(most.into());
                if bucket.wait(amount) == 0 {
                    bucket.take(amount);
                    taken += amount;
                } else {
                    // It says when, to the millisecond.
                    let mut later = bucket;
                    later.refill(now + bucket.wait(amount));
                    prop_assert_eq!(later.wait(amount), 0);
                    later = bucket;
                    later.refill(now + bucket.wait(amount) - 1);
                    prop_assert!(later.wait(amount) > 0);
                }
                prop_assert!(u128::from(taken) * 60_000 <= u128::from(most) * u128::from(60_000 + now));
            }
        }
    }
}
