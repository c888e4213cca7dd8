//! The totals check: from a genesis, receipt files and state files alone,
//! that every debit was charged once and that the books add up.
//!
//! Given one state file per class at the last height and every receipt file
//! of the chain, [`Audit::finish`] has checked that
//!
//! - each file proves what it shows, on this chain, without a fork;
//! - no receipt is there twice, by log index or by (gateway, journal,
//!   number), and each journal's debits are 1, 2, 3, ... without a gap (I5);
//! - charged, loss and cost of the receipts, summed per class, are the
//!   class leaf's spent, loss and costs;
//! - in each class leaf the buckets add up to what was issued (I1).
//!
//! A receipt that is left out changes a sum unless it cost nothing. With a
//! gateway's state file too, the end of its current journal and its loss are
//! checked against its leaf, so there nothing at all can be left out.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    block::Header,
    certified::Trust,
    class::{Class, Totals},
    codec,
    debit::Position,
    evidence::Evidence,
    gateway::Gateway,
    genesis::{Genesis, GenesisError},
    ids::{ClassNumber, DebitNumber, GatewayNumber, Height, JournalNumber},
    receipt::{ReceiptFile, VerifiedReceipt, VerifyError},
    state_file::{StateFile, StateFileError},
    tree::Table,
};

/// Receipts of a class or gateway, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many.
    pub receipts: u64,
    /// Costs.
    pub cost: u128,
    /// What accounts paid.
    pub charged: u128,
    /// What gateways lost.
    pub loss: u128,
}

impl Sums {
    fn add(&mut self, verified: &VerifiedReceipt) {
        self.receipts += 1;
        self.cost += u128::from(verified.receipt.cost.0);
        self.charged += u128::from(verified.receipt.charged.0);
        self.loss += u128::from(verified.loss().0);
    }
}

/// A class whose books add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassReport {
    /// Which.
    pub number: ClassNumber,
    /// Its name.
    pub name: String,
    /// Its leaf's totals; equal to the sums where both say something.
    pub totals: Totals,
    /// Its receipts.
    pub sums: Sums,
}

/// A journal without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalReport {
    /// Whose.
    pub gateway: GatewayNumber,
    /// Which.
    pub journal: JournalNumber,
    /// Number of its last debit; the first is 1.
    pub last: DebitNumber,
    /// The gateway's leaf says that this is the last one.
    pub end_proven: bool,
}

/// What an audit found, when it found nothing wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The certified header that the state files hold under.
    pub header: Header,
    /// Receipts checked.
    pub receipts: u64,
    /// Every class, ascending.
    pub classes: Vec<ClassReport>,
    /// Every journal with a debit, ascending.
    pub journals: Vec<JournalReport>,
}

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The genesis cannot start a chain.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// A receipt file proves nothing.
    #[error("receipt at log index {index}: {error}")]
    Receipt {
        /// The index that the file claims.
        index: u64,
        /// Why.
        error: VerifyError,
    },
    /// A state file proves nothing.
    #[error("state of {table:?} {number}: {error}")]
    State {
        /// The table that the file claims.
        table: Table,
        /// The number that it claims.
        number: u32,
        /// Why.
        error: StateFileError,
    },
    /// A state file shows no class or gateway, or one that was there before.
    #[error("state of {table:?} {number} is no class or gateway, is absent, or is there twice")]
    UnusableState {
        /// Which table.
        table: Table,
        /// Which number.
        number: u32,
    },
    /// The state files are of different heights.
    #[error("state files of heights {first} and {second}")]
    Heights {
        /// Height of the first.
        first: Height,
        /// Height of another.
        second: Height,
    },
    /// The state has a class, or a receipt names one, without a state file.
    #[error("no state file of class {0}")]
    MissingClass(ClassNumber),
    /// A receipt is of a later height than the state files.
    #[error("the receipt at log index {index} is of height {height}, later than the state files")]
    TooLate {
        /// Its log index.
        index: u64,
        /// Its height.
        height: Height,
    },
    /// Two receipts claim one place in the log.
    #[error("two receipts at log index {0}")]
    DoubledIndex(u64),
    /// Two receipts of one debit.
    #[error("two receipts of debit {} in journal {} of gateway {}", .0.number, .0.journal, .0.gateway)]
    DoubledDebit(Position),
    /// A number is missing in a journal.
    #[error("no receipt of debit {} in journal {} of gateway {}", .0.number, .0.journal, .0.gateway)]
    MissingDebit(Position),
    /// A debit stands after the end that the gateway's leaf proves.
    #[error("debit {} in journal {} of gateway {} is after the journal's end", .0.number, .0.journal, .0.gateway)]
    AfterEnd(Position),
    /// The receipts do not add up to what the leaf says.
    #[error("{of} {number}: the receipts' {what} is {sum} micro-CT, the state says {stated}")]
    Sum {
        /// `class` or `gateway`.
        of: &'static str,
        /// Which.
        number: u32,
        /// Which sum.
        what: &'static str,
        /// Of the receipts.
        sum: u128,
        /// Of the leaf, in micro-CT.
        stated: u128,
    },
    /// I1 does not hold in a class leaf.
    #[error("class {0}: issued is not the sum of its buckets, or costs not spent and loss")]
    NotConserved(ClassNumber),
}

/// A totals check in progress. State files and receipt files may come in any
/// order.
#[derive(Debug, Clone)]
pub struct Audit<'a> {
    trust: Trust<'a>,
    header: Option<Header>,
    /// Proven size of the table of classes.
    class_count: u32,
    classes: BTreeMap<ClassNumber, Class>,
    gateways: BTreeMap<GatewayNumber, Gateway>,
    by_index: BTreeMap<u64, Height>,
    by_position: BTreeSet<(GatewayNumber, JournalNumber, DebitNumber)>,
    per_class: BTreeMap<ClassNumber, Sums>,
    per_gateway: BTreeMap<GatewayNumber, Sums>,
}

impl<'a> Audit<'a> {
    /// Starts from a genesis.
    pub fn new(genesis: &'a Genesis) -> Result<Self, AuditError> {
        Ok(Audit {
            trust: Trust::new(genesis)?,
            header: None,
            class_count: 0,
            classes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            by_index: BTreeMap::new(),
            by_position: BTreeSet::new(),
            per_class: BTreeMap::new(),
            per_gateway: BTreeMap::new(),
        })
    }

    /// What the last refusal proves, once, if it was for a fork.
    pub fn take_fork(&mut self) -> Option<Evidence> {
        self.trust.take_fork()
    }

    /// Takes the leaf of a class or gateway, all of one header.
    pub fn state(&mut self, file: &StateFile) -> Result<(), AuditError> {
        let (table, number) = (file.proof.table, file.proof.number);
        let leaf = file.verify_with(&mut self.trust);
        let leaf = leaf.map_err(|error| AuditError::State {
            table,
            number,
            error,
        })?;
        let header = file.certified.header;
        let first = *self.header.get_or_insert(header);
        if first != header {
            return Err(AuditError::Heights {
                first: first.height,
                second: header.height,
            });
        }
        self.class_count = file.proof.size(Table::Classes);
        self.take_leaf(table, number, leaf)
            .ok_or(AuditError::UnusableState { table, number })
    }

    /// `None` if the leaf is of no use, or there already.
    fn take_leaf(&mut self, table: Table, number: u32, leaf: Option<&[u8]>) -> Option<()> {
        let leaf = leaf?;
        let known = match table {
            Table::Classes => {
                let class: Class = codec::decode(leaf, leaf.len()).ok()?;
                let number = ClassNumber(number.try_into().ok()?);
                self.classes.insert(number, class).is_some()
            }
            Table::Gateways => {
                let gateway: Gateway = codec::decode(leaf, leaf.len()).ok()?;
                let number = GatewayNumber(number);
                self.gateways.insert(number, gateway).is_some()
            }
            _ => true,
        };
        (!known).then_some(())
    }

    /// Takes a receipt.
    pub fn receipt(&mut self, file: &ReceiptFile) -> Result<VerifiedReceipt, AuditError> {
        let index = file.index;
        let verified = file.verify_with(&mut self.trust);
        let verified = verified.map_err(|error| AuditError::Receipt { index, error })?;
        let receipt = &verified.receipt;
        if self.by_index.insert(index, receipt.height).is_some() {
            return Err(AuditError::DoubledIndex(index));
        }
        let position = receipt.position;
        let key = (position.gateway, position.journal, position.number);
        if !self.by_position.insert(key) {
            return Err(AuditError::DoubledDebit(position));
        }
        let class = self.per_class.entry(receipt.class).or_default();
        class.add(&verified);
        let gateway = self.per_gateway.entry(position.gateway).or_default();
        gateway.add(&verified);
        Ok(verified)
    }

    /// Checks what only all of them together show.
    pub fn finish(self) -> Result<AuditReport, AuditError> {
        let header = self
            .header
            .ok_or(AuditError::MissingClass(ClassNumber(0)))?;
        let late = |(_, height): &(&u64, &Height)| **height > header.height;
        if let Some((index, height)) = self.by_index.iter().find(late) {
            return Err(AuditError::TooLate {
                index: *index,
                height: *height,
            });
        }
        let journals = self.check_journals()?;
        let classes = self.check_classes()?;
        self.check_gateways()?;
        Ok(AuditReport {
            header,
            receipts: self.by_index.len() as u64,
            classes,
            journals,
        })
    }

    /// Numbers 1, 2, 3, ... in every journal, to the proven end where there
    /// is one (I5).
    fn check_journals(&self) -> Result<Vec<JournalReport>, AuditError> {
        let mut journals: Vec<JournalReport> = Vec::new();
        for (gateway, journal, number) in self.by_position.iter().copied() {
            let new = JournalReport {
                gateway,
                journal,
                last: DebitNumber(0),
                end_proven: false,
            };
            let same = |last: &JournalReport| (last.gateway, last.journal) == (gateway, journal);
            if !journals.last().is_some_and(same) {
                journals.push(new);
            }
            let report = journals.last_mut().expect("one was pushed if none was");
            let next = DebitNumber(report.last.0.saturating_add(1));
            if number != next {
                let position = Position {
                    gateway,
                    journal,
                    number: next,
                };
                return Err(AuditError::MissingDebit(position));
            }
            report.last = next;
        }
        self.check_empty_journals()?;
        for report in &mut journals {
            report.end_proven = self.check_end(report)?;
        }
        Ok(journals)
    }

    /// Whether the gateway's leaf proves where this journal ends; an error if
    /// it ends elsewhere.
    fn check_end(&self, report: &JournalReport) -> Result<bool, AuditError> {
        let Some(leaf) = self.gateways.get(&report.gateway) else {
            return Ok(false);
        };
        let end = match report.journal.cmp(&leaf.journal) {
            std::cmp::Ordering::Less => return Ok(false),
            std::cmp::Ordering::Equal => leaf.last_debit,
            std::cmp::Ordering::Greater => DebitNumber(0),
        };
        let position = |number| Position {
            gateway: report.gateway,
            journal: report.journal,
            number,
        };
        if report.last > end {
            return Err(AuditError::AfterEnd(position(DebitNumber(end.0 + 1))));
        }
        if report.last < end {
            let missing = DebitNumber(report.last.0 + 1);
            return Err(AuditError::MissingDebit(position(missing)));
        }
        Ok(true)
    }

    /// Sums and conservation (I1) of every class.
    fn check_classes(&self) -> Result<Vec<ClassReport>, AuditError> {
        let all = (0..self.class_count).map(|number| ClassNumber(number as u16));
        let named = self.per_class.keys().copied();
        if let Some(missing) = all
            .chain(named)
            .find(|number| !self.classes.contains_key(number))
        {
            return Err(AuditError::MissingClass(missing));
        }
        let check = |(number, class): (&ClassNumber, &Class)| {
            let sums = self.per_class.get(number).copied().unwrap_or_default();
            let totals = class.totals;
            let of = ("class", u32::from(number.0));
            equal(of, "cost", sums.cost, totals.costs.0)?;
            equal(of, "charged", sums.charged, u128::from(totals.spent.0))?;
            equal(of, "loss", sums.loss, totals.loss.0)?;
            if !totals.are_conserved() {
                return Err(AuditError::NotConserved(*number));
            }
            Ok(ClassReport {
                number: *number,
                name: class.rules.name.clone(),
                totals,
                sums,
            })
        };
        self.classes.iter().map(check).collect()
    }

    /// Current journals that should have receipts and have none here.
    fn check_empty_journals(&self) -> Result<(), AuditError> {
        for (gateway, leaf) in &self.gateways {
            let first = (*gateway, leaf.journal, DebitNumber(1));
            if leaf.last_debit >= first.2 && !self.by_position.contains(&first) {
                return Err(AuditError::MissingDebit(Position {
                    gateway: *gateway,
                    journal: leaf.journal,
                    number: first.2,
                }));
            }
        }
        Ok(())
    }

    /// Losses of the gateways whose leaves are here.
    fn check_gateways(&self) -> Result<(), AuditError> {
        self.gateways.iter().try_for_each(|(number, leaf)| {
            let sums = self.per_gateway.get(number).copied().unwrap_or_default();
            equal(("gateway", number.0), "loss", sums.loss, leaf.loss.0)
        })
    }
}

fn equal(
    (of, number): (&'static str, u32),
    what: &'static str,
    sum: u128,
    stated: u128,
) -> Result<(), AuditError> {
    if sum != stated {
        return Err(AuditError::Sum {
            of,
            number,
            what,
            sum,
            stated,
        });
    }
    Ok(())
}
