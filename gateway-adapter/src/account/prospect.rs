//! What would become of a request if it came now: the same rules as when it
//! comes, but nothing is reserved, asked for or given back.

use std::time::Instant;

use tally_ledger::ids::{Amount, ClassNumber};

use super::{
    Account,
    inner::{Inner, Payer},
};
use crate::{
    ask::{Ask, Need},
    refusal::Refusal,
    usage::payable_output,
};

/// When a request would be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once: a lease that is held here covers it.
    Now,
    /// After one lease: what is available covers it.
    AfterLease,
    /// When running requests, or other gateways, have given back enough.
    AfterOthers,
}

/// What would become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// It would be served.
    Served {
        /// When.
        when: When,
        /// Which class would pay.
        class: ClassNumber,
        /// Output that can be paid, over all choices, as far as is known.
        output: u32,
    },
    /// It would be refused.
    Refused {
        /// Why.
        why: Refusal,
        /// The class that comes closest to paying it, if any may.
        class: Option<ClassNumber>,
    },
}

impl Account {
    /// What would become of `ask`, by what was last proven of the account.
    pub fn prospect(&self, ask: &Ask, now: Instant) -> Prospect {
        let inner = self.inner();
        let refused = |why| Prospect::Refused { why, class: None };
        if inner.view.frozen {
            return refused(Refusal::Frozen);
        }
        let classes = match inner.candidates(ask) {
            Ok(classes) => classes,
            Err(refusal) => return refused(refusal),
        };
        match inner.payer(&classes, ask, now) {
            Some(Payer::Lease(i)) => Prospect::Served {
                when: When::Now,
                class: inner.leases[i].class,
                output: ask.full().2,
            },
            Some(Payer::Class(class)) => inner.prospect(class, ask, now),
            None => refused(Refusal::ClassRule),
        }
    }
}

impl Inner {
    /// No lease covers `ask`; `class` comes closest to it.
    fn prospect(&self, class: ClassNumber, ask: &Ask, now: Instant) -> Prospect {
        let (_, need, output) = ask.full();
        let here = self.free(class, now) + self.available(class);
        let others = self.others(class).held;
        let busy = self.running > 0 || others > 0;
        let later = here.saturating_add(self.held(class)).saturating_add(others);
        let served = |when, output| Prospect::Served {
            when,
            class,
            output,
        };
        if here >= need {
            return served(When::AfterLease, output);
        }
        let budget = if busy { later } else { here };
        let when = if busy {
            When::AfterOthers
        } else {
            When::AfterLease
        };
        if budget >= need {
            return served(when, output);
        }
        match lowered(ask, Amount(budget)) {
            Some(output) => served(when, output),
            None => Prospect::Refused {
                why: Refusal::Insufficient,
                class: Some(class),
            },
        }
    }
}

/// The output, over all choices, to which `budget` lowers a request; `None`
/// if it may not be lowered or not even one token per choice can be paid.
pub(super) fn lowered(ask: &Ask, budget: Amount) -> Option<u32> {
    let Need::Tokens {
        input,
        output,
        lower: true,
    } = ask.need
    else {
        return None;
    };
    let per_choice = output / ask.choices;
    let tokens = payable_output(ask.model(), input, output, ask.fee, budget)?;
    let tokens = (tokens / ask.choices).min(per_choice);
    (tokens > 0).then(|| tokens.saturating_mul(ask.choices))
}
