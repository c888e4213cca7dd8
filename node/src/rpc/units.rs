//! Totals of a unit, for its manager: sums over its accounts, never one of
//! them by itself.

use std::collections::BTreeMap;

use tally_ledger::{
    block::Certificate,
    class::Totals,
    ids::{Amount, ClassNumber, Sum},
    state::State,
};
use tally_proto::{Local, v1};
use tonic::Status;

use super::proofs;

/// Answers GetUnitTotals. Goes over all accounts.
pub(super) fn totals(
    state: &State,
    certificate: Option<&Certificate>,
    unit: u32,
) -> Result<v1::GetUnitTotalsResponse, Status> {
    let (header, certificate) = proofs::last_certified(state, certificate)?;
    let (mut accounts, mut sums) = (0, BTreeMap::<ClassNumber, Totals>::new());
    for account in state
        .accounts()
        .iter()
        .filter(|account| account.unit == unit)
    {
        accounts += 1;
        for (class, totals) in &account.totals {
            add(sums.entry(*class).or_default(), totals);
        }
    }
    let of_class = |(class, totals): (&ClassNumber, &Totals)| v1::ClassTotals::new(*class, totals);
    match accounts {
        0 => Err(Local::NotFound.status(format!("no account is of unit {unit}"))),
        accounts => Ok(v1::GetUnitTotalsResponse {
            header: Some(v1::CertifiedHeader::new(header, certificate)),
            unit,
            accounts,
            totals: sums.iter().map(of_class).collect(),
        }),
    }
}

/// No sum overflows: those of all accounts are the class's own (I1).
fn add(sum: &mut Totals, totals: &Totals) {
    let fields: [(&mut Amount, Amount); 8] = [
        (&mut sum.issued, totals.issued),
        (&mut sum.unvested, totals.unvested),
        (&mut sum.available, totals.available),
        (&mut sum.leased, totals.leased),
        (&mut sum.spent, totals.spent),
        (&mut sum.expired, totals.expired),
        (&mut sum.revoked, totals.revoked),
        (&mut sum.surrendered, totals.surrendered),
    ];
    for (sum, amount) in fields {
        sum.0 = sum.0.saturating_add(amount.0);
    }
    let fields: [(&mut Sum, Sum); 2] =
        [(&mut sum.costs, totals.costs), (&mut sum.loss, totals.loss)];
    for (sum, amount) in fields {
        sum.0 = sum.0.saturating_add(amount.0);
    }
}
