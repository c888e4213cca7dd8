//! What validators signed twice, and which of it is new.

use tally_ledger::reason::Reason;

use super::{Fact, Oracle, Payload, Request};

/// Evidence transactions that a block takes.
const PER_BLOCK: usize = 4;
/// A validator's latest heights, of which each counts once.
const LATEST: usize = 16;

/// What evidence says, and whether it is true.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Two different messages of one place, in their order, that name
    /// somebody.
    pub formed: bool,
    /// All signatures and certificates are good.
    pub proven: bool,
    /// At which height.
    pub height: u64,
    /// In which round.
    pub round: u32,
    /// Which validators.
    pub validators: Vec<u16>,
    /// What they signed twice.
    pub signed: &'static str,
}

/// Evidence that was kept against a validator.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// In which block.
    pub block: u64,
    /// Which such transaction of the block showed it, from 1.
    pub nth: usize,
    /// Who.
    pub validator: u16,
    /// When.
    pub height: u64,
}

impl Oracle {
    /// All heights with evidence against a validator, ascending.
    pub fn marked(&self, validator: u16) -> Vec<u64> {
        let kept = self.evidence.iter().filter(|k| k.validator == validator);
        let mut heights: Vec<u64> = kept.map(|kept| kept.height).collect();
        heights.sort_unstable();
        heights
    }

    /// Whether evidence of a height would be among the latest ones and is not
    /// there yet.
    fn is_news(&self, validator: u16, height: u64) -> bool {
        let marked = self.marked(validator);
        let latest = &marked[marked.len().saturating_sub(LATEST)..];
        !latest.contains(&height) && (latest.len() < LATEST || height > latest[0])
    }

    fn kept_in_block(&self) -> usize {
        let kept = self.evidence.iter().filter(|k| k.block == self.height);
        kept.map(|kept| kept.nth).max().unwrap_or(0)
    }

    pub(super) fn evidence_faults(&self, request: &Request) -> Vec<Reason> {
        let Payload::Shown(shown) = &request.payload else {
            // What it would have shown beside garbage does not matter.
            return vec![
                Reason::UnexpectedPayload,
                Reason::EvidenceForm,
                Reason::EvidenceHeight,
                Reason::EvidenceKnown,
                Reason::EvidenceUnproven,
            ];
        };
        let mut faults = Vec::new();
        if !shown.formed {
            faults.push(Reason::EvidenceForm);
        }
        if shown.height >= self.height {
            faults.push(Reason::EvidenceHeight);
        }
        let news = |validator: &u16| self.is_news(*validator, shown.height);
        if !shown.validators.iter().any(news) {
            faults.push(Reason::EvidenceKnown);
        }
        if !shown.proven {
            faults.push(Reason::EvidenceUnproven);
        }
        if self.kept_in_block() >= PER_BLOCK {
            faults.push(Reason::EvidencePerBlock);
        }
        faults
    }

    pub(super) fn keep_evidence(&mut self, request: &Request) {
        let Payload::Shown(shown) = &request.payload else {
            return;
        };
        let nth = self.kept_in_block() + 1;
        for validator in &shown.validators {
            if !self.is_news(*validator, shown.height) {
                continue;
            }
            self.evidence.push(Kept {
                block: self.height,
                nth,
                validator: *validator,
                height: shown.height,
            });
            let fact = Fact::SignedTwice {
                validator: *validator,
                height: shown.height,
                round: shown.round,
                signed: shown.signed,
            };
            self.record(None, fact);
        }
    }
}
