//! What this gateway lets in per minute: its share of the chain's limits, and
//! no more than its own configuration says.

use std::sync::Arc;

use tally_ledger::{
    class::ClassRules,
    ids::ClassNumber,
    rates::{self, NO_LIMIT, RatesState},
};

use crate::{
    chain::{fleet::Share, terms::Terms},
    config::{Rate, Rates as Local},
};

/// The limits in force here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of each API key.
    pub key: Rate,
    /// Of each account.
    pub account: Rate,
    /// Of each class, by number.
    classes: Vec<Rate>,
}

/// What the chain says of them.
#[derive(Debug, Clone)]
pub struct Chain {
    rates: RatesState,
    classes: Arc<Vec<ClassRules>>,
    /// This gateway's.
    share: Share,
}

impl Chain {
    /// The part of its terms that is about limits.
    pub fn of(terms: &Terms, share: Share) -> Self {
        Chain {
            rates: terms.rates.clone(),
            classes: terms.classes.clone(),
            share,
        }
    }
}

/// A share of a limit of the chain.
fn part(share: Share, limit: u32) -> Option<u32> {
    (limit != NO_LIMIT).then(|| share.part(limit))
}

/// The tighter of both.
fn tighter(local: Option<u32>, chain: Option<u32>) -> Option<u32> {
    [local, chain].into_iter().flatten().min()
}

fn both(local: Rate, chain: rates::Rate, share: Share) -> Rate {
    Rate {
        requests: tighter(local.requests, part(share, chain.requests)),
        tokens: tighter(local.tokens, part(share, chain.tokens)),
    }
}

impl Limits {
    /// Those that follow from the configuration and the chain.
    pub fn new(local: &Local, chain: &Chain) -> Self {
        let (classes, share) = (&chain.classes, chain.share);
        let chain = &chain.rates.rates;
        // Each key's requests come here alone.
        let own = if local.sticky { Share::WHOLE } else { share };
        let class = |(number, rules): (u16, &tally_ledger::class::ClassRules)| {
            let local = local.class.get(&rules.name).copied().unwrap_or_default();
            both(local, chain.class(ClassNumber(number)), share)
        };
        Limits {
            key: both(local.key, chain.key, own),
            account: both(local.account, chain.account, own),
            classes: (0..).zip(classes.iter()).map(class).collect(),
        }
    }

    /// Of a class, over all accounts.
    pub fn class(&self, class: ClassNumber) -> Rate {
        let rate = self.classes.get(usize::from(class.0));
        rate.copied().unwrap_or_default()
    }
}

#[cfg(test)]
impl Chain {
    /// With this limit of tokens per account, and no classes.
    pub(super) fn for_tests(tokens: u32) -> Self {
        let mut rates = RatesState::default();
        rates.rates.account.tokens = tokens;
        Chain {
            rates,
            classes: Arc::default(),
            share: Share::WHOLE,
        }
    }
}
