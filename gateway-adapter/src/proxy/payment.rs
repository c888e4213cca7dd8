//! Whether a stream's hold pays for what comes next.
//!
//! A hold that was lowered is raised while the stream runs, as far as the
//! balance goes: only where the engine says the usage on every chunk, so that
//! what is delivered never costs more than what is reserved. Where a hold
//! pays for everything, what its bound of the input took too much is given
//! back as soon as the engine says what the input was.

use std::time::Duration;

use tally_ledger::ids::Amount;
use tokio::time::Instant;

use crate::{
    holds::Hold,
    usage::{Counts, payable_output, worst_case},
};

/// A hold is raised before less than this many tokens of it are left.
const AHEAD: u32 = 64;
/// Longest that a stream waits for a lease that is on its way.
const WAIT: Duration = Duration::from_secs(5);
/// How often it looks again without being told.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A hold is made smaller if that frees at least this part of it.
const WORTH_PART: u64 = 8;

/// What a stream's hold pays for, in output tokens.
#[derive(Debug)]
pub(super) struct Payment {
    /// It pays for this much, all choices together.
    paid: u32,
    /// It would be this much if the balance allowed.
    wanted: u32,
    /// What the bound of the input took too much was given back.
    fitted: bool,
}

fn tokens(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Payment {
    /// A hold for `paid` tokens of output where `wanted` were asked for.
    pub(super) fn new(paid: u32, wanted: u32) -> Self {
        Payment {
            paid,
            wanted,
            fitted: false,
        }
    }

    /// Whether the hold was made for less than was asked.
    pub(super) fn is_lowered(&self) -> bool {
        self.paid < self.wanted
    }

    /// Whether the hold pays for `used` as it is, without having to be raised.
    pub(super) fn covers(&mut self, hold: &Hold, used: Counts) -> bool {
        self.know(hold, used);
        !self.is_lowered() || tokens(used.output).saturating_add(AHEAD) <= self.paid
    }

    /// Whether the hold pays for `used`; raises it if it must and can. What
    /// was gained is durable then.
    pub(super) async fn pays(&mut self, hold: &mut Hold, used: Counts, until: Instant) -> bool {
        self.know(hold, used);
        let output = tokens(used.output);
        let until = until.min(Instant::now() + WAIT);
        if self.is_lowered() && output > self.paid {
            // A cut rests on what the chain says now.
            hold.look_again();
        }
        while self.is_lowered() && output.saturating_add(AHEAD) > self.paid {
            let cost =
                |output| worst_case(hold.model(), tokens(used.input), output, hold.record.fee).1;
            let least = cost(self.paid.saturating_add(1));
            let most = cost(self.wanted).max(hold.record.limit);
            match hold.top_up(least, most) {
                Ok(durable) => {
                    if durable.wait().await.is_err() {
                        return false;
                    }
                    self.know(hold, used);
                }
                Err(true) if output > self.paid && Instant::now() < until => {
                    hold.changed(LOOK_AGAIN).await;
                }
                Err(_) => break,
            }
        }
        output <= self.paid
    }

    /// The input is known: what the bound took too much pays for output.
    fn know(&mut self, hold: &Hold, used: Counts) {
        let (input, limit) = (tokens(used.input), hold.record.limit);
        let pays = payable_output(hold.model(), input, self.wanted, hold.record.fee, limit);
        self.paid = pays.unwrap_or(0);
    }

    /// Gives back what the hold cannot use any more, now that the input is
    /// known. Once.
    pub(super) fn fit(&mut self, hold: &mut Hold, used: Counts) {
        if self.fitted || self.is_lowered() {
            return;
        }
        self.fitted = true;
        let input = tokens(used.input);
        let (worst, cost) = worst_case(hold.model(), input, self.wanted, hold.record.fee);
        let frees = hold.record.limit.saturating_sub(cost);
        if frees > Amount(hold.record.limit.0 / WORTH_PART) {
            hold.shrink(worst, cost);
        }
    }
}
