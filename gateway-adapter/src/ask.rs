//! What a request needs: the most that it can use, and its price.

use std::{sync::Arc, time::Duration};

use tally_ledger::{
    class::ClassRules,
    hash::Hash,
    ids::{Amount, ClassNumber, Time},
    price::{MAX_FEE, Model, PriceTable, Usage, UsageError},
};

use crate::{journal::Name, key::Key, refusal::Refusal, usage};

/// The most that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Tokens of a language model.
    Tokens {
        /// Upper bound of the input.
        input: u32,
        /// Largest output, over all choices.
        output: u32,
        /// The output may be lowered to what can be paid.
        lower: bool,
    },
    /// Given counts, in the order of the model's meters.
    Exact(Usage),
}

/// A request for a hold.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who asks.
    pub key: Arc<Key>,
    /// Prices that apply.
    pub prices: Arc<PriceTable>,
    /// Index of the model in them.
    pub model: usize,
    /// Rules of all classes.
    pub classes: Arc<Vec<ClassRules>>,
    /// The class that the caller chose, if it did.
    pub class: Option<ClassNumber>,
    /// The most that it can use.
    pub need: Need,
    /// Answers to generate (`n`).
    pub choices: u32,
    /// Priority fee.
    pub fee: Amount,
    /// Worst case in counts.
    pub worst: Usage,
    /// Worst case in money.
    pub cost: Amount,
    /// First mark; see [`crate::journal::HoldRecord`].
    pub mark: Option<Usage>,
    /// The input is a bound, and somebody can count it exactly.
    pub countable: bool,
    /// The input as the engine counted it, if it did.
    pub exact: Option<u32>,
    /// ms since 1970.
    pub arrival: u64,
    /// Opaque project number.
    pub project: u32,
    /// Opaque purpose number.
    pub purpose: u32,
    /// Keyed hash of the request.
    pub request: Hash,
    /// Its Idempotency-Key and the ledger's time, if it has one.
    pub named: Option<(Name, Time)>,
    /// How long leases are taken for.
    pub lease_time: Duration,
}

impl Ask {
    /// Prices `need`; the rest of the fields are as given.
    pub fn price(&mut self) -> Result<(), Refusal> {
        if self.fee.0 >= MAX_FEE {
            return Err(Refusal::OutOfRange);
        }
        (self.worst, self.cost) = match self.need {
            Need::Tokens { input, output, .. } => {
                usage::worst_case(self.model(), input, output, self.fee)
            }
            Need::Exact(usage) => {
                let cost = self.model().cost(&usage, self.fee);
                (usage, cost.map_err(|_: UsageError| Refusal::OutOfRange)?)
            }
        };
        Ok(())
    }

    /// Takes in what the engine counted, if it did: the bound is replaced.
    pub fn counted(&mut self, exact: Option<u32>) -> Result<(), Refusal> {
        self.countable = false;
        let (Need::Tokens { input, .. }, Some(exact)) = (&mut self.need, exact) else {
            return Ok(());
        };
        let exact = exact.min(*input);
        *input = exact;
        self.exact = Some(exact);
        if self.mark.is_some() {
            let counts = usage::Counts {
                input: exact.into(),
                ..usage::Counts::default()
            };
            self.mark = Some(counts.to_usage(self.model()).0);
        }
        self.price()
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.prices.models[self.model]
    }

    /// Rules of a class.
    pub fn rules(&self, class: ClassNumber) -> Option<&ClassRules> {
        self.classes.get(usize::from(class.0))
    }

    /// The whole hold: counts, money, output.
    pub fn full(&self) -> (Usage, u64, u32) {
        let output = match self.need {
            Need::Tokens { output, .. } => output,
            Need::Exact(_) => 0,
        };
        (self.worst, self.cost.0, output)
    }
}
