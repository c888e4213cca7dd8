//! What is under an account's lock: its leases, what was last proven of it,
//! and what is under way for it.

use std::{collections::BTreeMap, time::Instant};

use tally_ledger::{
    class::ClassRules,
    ids::{ApiKeyNumber, ClassNumber},
};

use crate::{
    ask::Ask,
    lease::Lease,
    refusal::Refusal,
    view::{Others, View},
};

/// A lease is renewed when this part of its time is left.
const RENEW_PART: u32 = 4;

pub(super) type Pair = (ClassNumber, ApiKeyNumber);

/// A Lease was granted less than one worst case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dry {
    /// Of what is available, what no Lease is granted.
    pub(super) stuck: u64,
    /// Why, if not for want of balance.
    pub(super) why: Option<Refusal>,
    pub(super) at: Instant,
}

/// Who would pay for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payer {
    /// A lease that covers it, by its index.
    Lease(usize),
    /// The class that could cover it, or that comes closest.
    Class(ClassNumber),
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) view: View,
    pub(super) viewed: Option<Instant>,
    pub(super) refreshing: bool,
    pub(super) leases: Vec<Lease>,
    pub(super) requested: Vec<Pair>,
    pub(super) dry: BTreeMap<Pair, Dry>,
    pub(super) wanted: BTreeMap<Pair, (u64, Instant)>,
    pub(super) running: u32,
}

impl Inner {
    pub(super) fn available(&self, class: ClassNumber) -> u64 {
        self.view.available.get(&class).copied().unwrap_or(0)
    }

    pub(super) fn others(&self, class: ClassNumber) -> Others {
        self.view.others.get(&class).copied().unwrap_or_default()
    }

    /// What a Lease could take now: not what a cap keeps from it, nor what is
    /// in more grants than it takes from.
    pub(super) fn leasable(&self, pair: Pair) -> u64 {
        let stuck = self.dry.get(&pair).map_or(0, |dry| dry.stuck);
        self.available(pair.0).saturating_sub(stuck)
    }

    /// Free in leases of `class`, whatever their key.
    pub(super) fn free(&self, class: ClassNumber, now: Instant) -> u64 {
        let open = self
            .leases
            .iter()
            .filter(|lease| lease.class == class && lease.is_open(now));
        open.map(|lease| lease.free).sum()
    }

    /// Whether there is nothing at all of `class`: neither available nor in a
    /// lease, here or elsewhere, nor asked for.
    pub(super) fn is_bare(&self, class: ClassNumber) -> bool {
        self.available(class) == 0
            && self.others(class).held == 0
            && self.leases.iter().all(|lease| lease.class != class)
            && self.requested.iter().all(|(asked, _)| *asked != class)
    }

    pub(super) fn is_returning(&self, class: ClassNumber) -> bool {
        let mut leases = self.leases.iter();
        leases.any(|lease| lease.class == class && lease.returning)
    }

    pub(super) fn held(&self, class: ClassNumber) -> u64 {
        self.leases
            .iter()
            .filter(|lease| lease.class == class)
            .map(|lease| lease.held)
            .sum()
    }

    /// A Lease was granted less than a worst case; for want of balance if
    /// not `capped`. The balance that is seen now came back since, and may be
    /// asked for.
    pub(super) fn set_dry(&mut self, pair: Pair, capped: bool, why: Option<Refusal>, now: Instant) {
        let stuck = capped || self.view.scattered.contains(&pair.0);
        let dry = Dry {
            stuck: if stuck { self.available(pair.0) } else { 0 },
            why,
            at: now,
        };
        self.dry.insert(pair, dry);
    }

    /// Classes that may pay, in order.
    pub(super) fn candidates(&self, ask: &Ask) -> Result<Vec<ClassNumber>, Refusal> {
        // The largest fee that a class pays for the model, if it may buy it.
        let most_fee = |class: &ClassNumber| {
            ask.rules(*class)
                .filter(|rules: &&ClassRules| rules.buys(ask.model().number))
                .map(|rules| rules.max_fee)
        };
        let wanted: Vec<ClassNumber> = match ask.class {
            Some(class) if !self.view.classes.contains(&class) => {
                return Err(Refusal::ClassUnknown);
            }
            Some(class) => vec![class],
            None => self.view.classes.clone(),
        };
        let pays = |class: &&ClassNumber| most_fee(class).is_some_and(|most| ask.fee <= most);
        let may: Vec<ClassNumber> = wanted.iter().filter(pays).copied().collect();
        if may.is_empty() {
            let most = wanted.iter().filter_map(most_fee).max();
            return Err(most.map_or(Refusal::ClassRule, Refusal::FeeTooHigh));
        }
        Ok(may)
    }

    /// Of `classes`, in their order, the first that covers the whole request,
    /// else the one that covers most.
    pub(super) fn payer(&self, classes: &[ClassNumber], ask: &Ask, now: Instant) -> Option<Payer> {
        let need = ask.cost.0;
        for class in classes {
            if let Some(i) = self.lease_for((*class, ask.key.number), ask, need, now) {
                return Some(Payer::Lease(i));
            }
            if self.free(*class, now) + self.available(*class) >= need {
                return Some(Payer::Class(*class));
            }
        }
        let most = |class: &&ClassNumber| {
            self.free(**class, now) + self.available(**class) + self.held(**class)
        };
        // Classes of equal cover: the first in the account's order.
        let class = classes.iter().rev().max_by_key(most)?;
        Some(Payer::Class(*class))
    }

    /// The open lease that covers `need` and ends first.
    pub(super) fn lease_for(
        &self,
        pair: Pair,
        ask: &Ask,
        need: u64,
        now: Instant,
    ) -> Option<usize> {
        let fits = |lease: &Lease| {
            (lease.class, lease.api_key) == pair
                && lease.is_open(now)
                && lease.free >= need
                && lease.table <= ask.prices.version
        };
        (0..self.leases.len())
            .filter(|i| fits(&self.leases[*i]))
            .min_by_key(|i| self.leases[*i].until)
    }

    /// Whether what is leased will soon run out or end while there is more
    /// than the ledger would take from others for it.
    pub(super) fn should_renew(&self, class: ClassNumber, ask: &Ask, now: Instant) -> bool {
        let pair = (class, ask.key.number);
        if self.available(class) / 2 < ask.cost.0.max(1)
            || self.requested.contains(&pair)
            || self.dry.contains_key(&pair)
        {
            return false;
        }
        let lasting = |lease: &&Lease| {
            (lease.class, lease.api_key) == pair
                && lease.is_open(now)
                && lease.until.duration_since(now) > ask.lease_time / RENEW_PART
        };
        let free: u64 = self
            .leases
            .iter()
            .filter(lasting)
            .map(|lease| lease.free)
            .sum();
        let granted: u64 = self
            .leases
            .iter()
            .filter(lasting)
            .map(|lease| lease.granted)
            .sum();
        free < (granted / 4).max(ask.cost.0.saturating_mul(2))
    }
}
