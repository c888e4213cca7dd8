//! What waiting was worth at each time: the chain's rates with all their
//! changes, from a complete history of control and the blocks that it names.

use tally_ledger::{
    action::Action,
    certified::Trust,
    entry::Event,
    genesis::Genesis,
    ids::{Amount, Time},
    rates::{Rates, RatesState},
};

use crate::cli::{
    client::Client,
    proven::{self, controls, false_block},
};

/// How late a gateway may learn of a change, and how far its clock and the
/// block's time may be apart, in ms.
const LATE_MS: u64 = 60_000;

/// The rates of a chain over time.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Before the first change.
    pub(super) first: RatesState,
    /// Each change of the fee unit, in the order of time.
    pub(super) changes: Vec<RatesState>,
}

impl Course {
    /// One fee unit at all times.
    pub(super) fn of(fee_unit: Amount) -> Self {
        let mut course = Course::default();
        course.first.rates.fee_unit = fee_unit;
        course
    }

    /// The rates under which a gateway took in a request at `arrival`; `None`
    /// if it may not have known them.
    pub(super) fn at(&self, arrival: u64) -> Option<&RatesState> {
        let near = |rates: &RatesState| rates.since.0.abs_diff(arrival) <= LATE_MS;
        if self.changes.iter().any(near) {
            return None;
        }
        let before = |rates: &&RatesState| rates.since.0 <= arrival;
        Some(self.changes.iter().rfind(before).unwrap_or(&self.first))
    }

    fn add(&mut self, rates: Rates, at: Time) {
        let last = self.changes.last().unwrap_or(&self.first);
        // Other limits change nobody's place.
        if last.rates.fee_unit != rates.fee_unit {
            let next = last.next(rates, at);
            self.changes.push(next);
        }
    }
}

/// All changes up to a height, as the chain made them: none can be left out.
pub(super) async fn course(
    client: &mut Client,
    genesis: &Genesis,
    to: u64,
) -> anyhow::Result<Course> {
    let mut trust = Trust::new(genesis)?;
    let mut course = Course::default();
    let (entries, _) = controls(client, &mut trust, to).await?;
    for (_, leaf, event) in entries {
        let Event::RatesSet { transaction } = event else {
            continue;
        };
        let (body, time) = proven::body(client, &mut trust, leaf.height, transaction).await?;
        let Action::SetRates(rates) = body.action else {
            return Err(false_block(
                leaf.height.0,
                "it lacks the rates that its log has",
            ));
        };
        course.add(rates, time);
    }
    Ok(course)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_close_to_a_change_is_not_judged() {
        let mut course = Course::default();
        let unit = |fee_unit| Rates {
            fee_unit: Amount(fee_unit),
            ..Rates::default()
        };
        course.add(unit(5), Time(100_000));
        course.add(unit(5), Time(170_000));
        course.add(unit(7), Time(300_000));
        let fee_unit = |arrival| course.at(arrival).map(|rates| rates.rates.fee_unit.0);
        assert_eq!([fee_unit(39_999), fee_unit(40_000)], [Some(1_000), None]);
        assert_eq!([fee_unit(100_000), fee_unit(160_000)], [None, None]);
        // Who sets the same unit again changes nothing.
        assert_eq!([fee_unit(160_001), fee_unit(239_999)], [Some(5), Some(5)]);
        assert_eq!([fee_unit(240_000), fee_unit(360_001)], [None, Some(7)]);
        // What waiting was worth does not jump.
        assert_eq!(course.changes[1].worth.0, 100_000 * 1_000 + 200_000 * 5);
    }
}
