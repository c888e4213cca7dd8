//! The totals check: a whole chain passes; a missing, doubled or altered
//! receipt, a missing or wrong class leaf, and a hidden tail do not.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Chain, GATEWAY, JOURNAL, samples};
use tally_ledger::{
    audit::{Audit, AuditError, AuditReport},
    debit::Position,
    ids::{Amount, ClassNumber, DebitNumber, Height},
    receipt::{ReceiptFile, VerifyError},
    state_file::StateFile,
    tree::Table,
};

/// All files of a chain at its last height.
struct Files {
    receipts: Vec<ReceiptFile>,
    states: Vec<StateFile>,
}

fn files(chain: &Chain) -> Files {
    let last = chain.height();
    Files {
        receipts: (0..chain.charged.len())
            .map(|n| chain.receipt_file(n, last))
            .collect(),
        states: (0..2)
            .map(|class| chain.state_file(last, Table::Classes, class))
            .collect(),
    }
}

fn audit(chain: &Chain, files: &Files) -> Result<AuditReport, AuditError> {
    let mut audit = Audit::new(&chain.genesis)?;
    files
        .receipts
        .iter()
        .try_for_each(|file| audit.receipt(file).map(|_| ()))?;
    files.states.iter().try_for_each(|file| audit.state(file))?;
    audit.finish()
}

fn outcome(chain: &Chain, change: &dyn Fn(&mut Files)) -> Result<AuditReport, AuditError> {
    let mut files = files(chain);
    change(&mut files);
    audit(chain, &files)
}

fn position(number: u64) -> Position {
    Position {
        gateway: GATEWAY,
        journal: JOURNAL,
        number: DebitNumber(number),
    }
}

#[test]
fn a_whole_chain_adds_up() {
    let chain = Chain::with_receipts();
    let report = outcome(&chain, &|_| ()).unwrap();
    assert_eq!(report.header, chain.certified(Height(2)).header);
    assert_eq!(report.receipts, 7);
    let sums: Vec<u64> = report.classes.iter().map(|c| c.sums.receipts).collect();
    assert_eq!(sums, [4, 3]);
    for (class, leaf) in report.classes.iter().zip(&chain.classes) {
        assert_eq!(class.totals, leaf.totals);
        assert_eq!(class.name, leaf.rules.name);
        assert_eq!(class.sums.cost, class.sums.charged + class.sums.loss);
    }
    assert!(report.classes[1].sums.loss > 0, "one debit is capped");
    let [journal] = report.journals[..] else {
        panic!("one journal");
    };
    assert_eq!((journal.last, journal.end_proven), (DebitNumber(7), false));
}

#[test]
fn receipts_may_come_from_any_header_and_in_any_order() {
    let chain = Chain::with_receipts();
    let report = outcome(&chain, &|files| {
        files.receipts[0] = chain.receipt_file(0, Height(1));
        files.receipts.reverse();
    });
    assert_eq!(report, outcome(&chain, &|_| ()));
}

#[test]
fn a_missing_receipt_is_named() {
    let chain = Chain::with_receipts();
    for n in 0..6 {
        let missing = outcome(&chain, &|files| drop(files.receipts.remove(n)));
        let expected = AuditError::MissingDebit(position(n as u64 + 1));
        assert_eq!(missing, Err(expected));
    }
    // The last one leaves no gap, but the sums want it.
    let last = outcome(&chain, &|files| drop(files.receipts.pop()));
    let cost = u128::from(chain.charged[6].receipt.cost.0);
    let stated = chain.classes[0].totals.costs.0;
    let expected = AuditError::Sum {
        of: "class",
        number: 0,
        what: "cost",
        sum: stated - cost,
        stated,
    };
    assert_eq!(last, Err(expected));
}

#[test]
fn a_missing_tail_that_cost_nothing_is_caught_by_the_gateways_leaf() {
    let mut chain = Chain::new();
    let mut free = samples::debit(6);
    free.detail.model = tally_ledger::ids::ModelNumber(7);
    free.detail.usage = Default::default();
    free.fixed.fee = Amount(0);
    chain.block(vec![samples::debit(0), free]);
    let cut = |files: &mut Files| drop(files.receipts.pop());
    let with_gateway = |files: &mut Files| {
        let leaf = chain.state_file(Height(1), Table::Gateways, 0);
        files.states.push(leaf);
    };
    assert!(outcome(&chain, &cut).is_ok(), "no sum shows it");
    let caught = outcome(&chain, &|files| {
        cut(files);
        with_gateway(files);
    });
    assert_eq!(caught, Err(AuditError::MissingDebit(position(2))));
    let all_cut = outcome(&chain, &|files| {
        files.receipts.clear();
        with_gateway(files);
    });
    assert_eq!(all_cut, Err(AuditError::MissingDebit(position(1))));
    let whole = outcome(&chain, &with_gateway).unwrap();
    assert!(whole.journals[0].end_proven);
}

#[test]
fn a_doubled_receipt_is_named() {
    let chain = Chain::with_receipts();
    let doubled = outcome(&chain, &|files| {
        files.receipts.push(files.receipts[2].clone())
    });
    let index = chain.charged[2].index;
    assert_eq!(doubled, Err(AuditError::DoubledIndex(index)));
}

#[test]
fn a_debit_charged_twice_in_the_log_is_named() {
    // Validators that let a number through twice.
    let mut chain = Chain::new();
    chain.block(vec![samples::debit(0)]);
    chain.gateways[0].last_debit = DebitNumber(0);
    chain.block(vec![samples::debit(0)]);
    let error = AuditError::DoubledDebit(position(1));
    assert_eq!(outcome(&chain, &|_| ()), Err(error));
}

#[test]
fn an_altered_receipt_is_named() {
    let chain = Chain::with_receipts();
    let index = chain.charged[3].index;
    let altered = outcome(&chain, &|files| files.receipts[3].receipt.charged.0 += 1);
    let error = VerifyError::NotInLog { index };
    assert_eq!(altered, Err(AuditError::Receipt { index, error }));
    let detail = outcome(&chain, &|files| {
        files.receipts[3].detail.as_mut().unwrap().usage.0[0] += 1;
    });
    let error = VerifyError::Detail;
    assert_eq!(detail, Err(AuditError::Receipt { index, error }));
}

#[test]
fn every_class_of_the_state_is_needed_once() {
    let chain = Chain::with_receipts();
    for class in 0..2 {
        let missing = outcome(&chain, &|files| drop(files.states.remove(class)));
        let expected = AuditError::MissingClass(ClassNumber(class as u16));
        assert_eq!(missing, Err(expected));
    }
    let none = outcome(&chain, &|files| files.states.clear());
    assert_eq!(none, Err(AuditError::MissingClass(ClassNumber(0))));
    let unusable = |table, number| Err(AuditError::UnusableState { table, number });
    let twice = outcome(&chain, &|files| files.states.push(files.states[1].clone()));
    assert_eq!(twice, unusable(Table::Classes, 1));
    let with = |table, number| {
        let file = chain.state_file(Height(2), table, number);
        outcome(&chain, &|files| files.states.push(file.clone()))
    };
    assert_eq!(with(Table::Classes, 2), unusable(Table::Classes, 2));
    assert_eq!(with(Table::Accounts, 0), unusable(Table::Accounts, 0));
    let earlier = chain.state_file(Height(1), Table::Classes, 0);
    let heights = outcome(&chain, &|files| files.states[0] = earlier.clone());
    let (first, second) = (Height(1), Height(2));
    assert_eq!(heights, Err(AuditError::Heights { first, second }));
}

#[test]
fn a_receipt_after_the_state_is_named() {
    let chain = Chain::with_receipts();
    let late = outcome(&chain, &|files| {
        let early = |class| chain.state_file(Height(1), Table::Classes, class);
        files.states = vec![early(0), early(1)];
    });
    let (index, height) = (chain.charged[5].index, Height(2));
    assert_eq!(late, Err(AuditError::TooLate { index, height }));
}

#[test]
fn books_that_do_not_add_up_are_named() {
    // Validators that certify leaves with other totals than the receipts'.
    let with = |change: &dyn Fn(&mut Chain)| {
        let mut chain = Chain::with_receipts();
        change(&mut chain);
        chain.block(vec![]);
        outcome(&chain, &|files| {
            let gateway = chain.state_file(Height(3), Table::Gateways, 0);
            files.states.push(gateway);
        })
    };
    assert!(with(&|_| ()).is_ok());
    let what = |result: Result<AuditReport, AuditError>| match result {
        Err(AuditError::Sum { of, what, .. }) => (of, what),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        what(with(&|c| c.classes[0].totals.costs.0 += 1)),
        ("class", "cost")
    );
    assert_eq!(
        what(with(&|c| c.classes[0].totals.spent.0 += 1)),
        ("class", "charged")
    );
    assert_eq!(
        what(with(&|c| c.classes[0].totals.loss.0 += 1)),
        ("class", "loss")
    );
    assert_eq!(
        what(with(&|c| c.gateways[0].loss.0 += 1)),
        ("gateway", "loss")
    );
    let minted = with(&|c| c.classes[1].totals.available.0 += 1);
    assert_eq!(minted, Err(AuditError::NotConserved(ClassNumber(1))));
    let behind = with(&|c| c.gateways[0].last_debit.0 = 3);
    assert_eq!(behind, Err(AuditError::AfterEnd(position(4))));
}
