//! What waiting was worth at each time: the chain's rates with all their
//! changes, from a complete history of control and the blocks that it names.

use tally_ledger::{
    action::Action,
    certified::{CertifiedHeader, Trust},
    codec::List,
    entry::{Entry, Event},
    genesis::Genesis,
    history::{HistoryFile, Subject},
    ids::{Amount, Height, Time},
    rates::{Rates, RatesState},
    transaction::{Body, TransactionId},
};
use tally_proto::v1::get_history_request::Of;

use super::{block, false_block};
use crate::cli::{
    client::Client,
    exit::{Exit, Failure},
    history,
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
    for (height, transaction) in changes(client, &mut trust, to).await? {
        let (found, certificate) = block(client.clone(), height.0).await?;
        let header = found.block().header;
        let certified = CertifiedHeader {
            header,
            certificate,
            set_changes: List::default(),
        };
        trust
            .check(&certified)
            .map_err(|e| false_block(height.0, e))?;
        if header.height != height || !found.is_whole() {
            return Err(false_block(
                height.0,
                "its content is not what it commits to",
            ));
        }
        let mut bodies = found.block().transactions.iter();
        let body = bodies.find(|body| body.id() == transaction);
        let action = body.and_then(|body| Body::decode(&body.body).ok());
        let Some(Action::SetRates(rates)) = action.map(|body| body.action) else {
            return Err(false_block(height.0, "it lacks the rates that its log has"));
        };
        course.add(rates, header.time);
    }
    Ok(course)
}

/// Height and transaction of every change, from a history of control that is
/// verified to be complete.
async fn changes(
    client: &mut Client,
    trust: &mut Trust<'_>,
    to: u64,
) -> anyhow::Result<Vec<(Height, TransactionId)>> {
    let (mut from, mut found) = (0, Vec::new());
    while from <= to {
        let (bytes, _) = history::fetch(client, Of::Control(true), from, to).await?;
        let wrong = |why: String| Failure::error(Exit::Invalid, why);
        let file = HistoryFile::decode(&bytes).map_err(|e| wrong(e.to_string()))?;
        let proven = file.verify_with(trust).map_err(|e| wrong(e.to_string()))?;
        if (proven.subject, proven.from.0) != (Subject::Control, from) {
            return Err(wrong("the node's history is of something else".to_owned()));
        }
        for (_, entry) in proven.entries {
            if let Entry::Event(leaf, Event::RatesSet { transaction }) = entry {
                found.push((leaf.height, transaction));
            }
        }
        from = proven.to.0 + 1;
    }
    Ok(found)
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
