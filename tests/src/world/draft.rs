//! Drafts: a transaction before it is signed, and what can be wrong with its
//! envelope.

use tally_ledger::{
    action::Action,
    ids::HOUR_MS,
    transaction::{Author, AuthorKind},
};

use super::{Dice, World};
use crate::oracle::Payload;

/// A transaction before it is signed.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// Who writes it.
    pub author: Author,
    /// Who signs it, as listed.
    pub signers: Vec<Author>,
    /// The author's id.
    pub id: [u8; 16],
    /// Its last hour, exclusive.
    pub valid_until: u32,
    /// What to do.
    pub action: Action,
    /// What travels beside it.
    pub payload: Vec<u8>,
    /// What the payload is.
    pub meaning: Payload,
    /// Size of the log under whose root a proof was made.
    pub proof_log: Option<u64>,
    /// One signature is to be spoiled.
    pub spoiled: bool,
    /// One signature is to be left out.
    pub miscounted: bool,
}

/// An author of this kind.
pub(super) fn author(kind: AuthorKind, number: u32) -> Author {
    Author { kind, number }
}

/// A person.
pub(super) fn person(number: u32) -> Author {
    author(AuthorKind::Person, number)
}

/// A gateway.
pub(super) fn gateway(number: u32) -> Author {
    author(AuthorKind::Gateway, number)
}

/// An account's holder.
pub(super) fn holder(number: u32) -> Author {
    author(AuthorKind::Account, number)
}

/// A validator.
pub(super) fn validator(number: u32) -> Author {
    author(AuthorKind::Validator, number)
}

/// An API key.
pub(super) fn api_key(number: u32) -> Author {
    author(AuthorKind::ApiKey, number)
}

impl World {
    /// A draft with a fresh id, its other signers in order.
    pub(super) fn envelope(
        &mut self,
        dice: &mut Dice,
        author: Author,
        others: &[Author],
        action: Action,
    ) -> Draft {
        let mut rest: Vec<Author> = others.iter().copied().filter(|o| *o != author).collect();
        rest.sort_unstable();
        rest.dedup();
        let mut signers = vec![author];
        signers.extend(rest);
        let counted = author.kind == AuthorKind::Gateway;
        let hour = self.oracle.time / HOUR_MS;
        let (id, valid_until) = match counted {
            true => ([0; 16], 0),
            false => (self.id(dice), (hour + 1 + self.hours_ahead(dice)) as u32),
        };
        Draft {
            author,
            signers,
            id,
            valid_until,
            action,
            payload: Vec::new(),
            meaning: Payload::Empty,
            proof_log: None,
            spoiled: false,
            miscounted: false,
        }
    }

    /// Mostly new; of a few that repeat, now and then.
    fn id(&mut self, dice: &mut Dice) -> [u8; 16] {
        self.ids_made += 1;
        let mut id = [0; 16];
        match dice.once_in(12) {
            true => id[0] = 1 + dice.below(4) as u8,
            false => id[8..].copy_from_slice(&self.ids_made.to_le_bytes()),
        }
        id
    }

    fn hours_ahead(&self, dice: &mut Dice) -> u64 {
        match dice.below(4) {
            0 => 0,
            1 => 167,
            _ => dice.below(30),
        }
    }

    /// Puts at most one thing wrong with the envelope.
    pub(super) fn spoil(&mut self, dice: &mut Dice, draft: &mut Draft) {
        let hour = (self.oracle.time / HOUR_MS) as u32;
        match dice.below(24) {
            0 => draft.spoiled = true,
            1 => draft.miscounted = true,
            2 => draft.signers.push(draft.author),
            3 => draft.signers.reverse(),
            4 => draft.signers.push(api_key(1_000_000)),
            5 => draft.signers.push(person(dice.below(12) as u32)),
            6 => draft.id = [0; 16],
            7 => draft.valid_until = 0,
            8 => draft.id = [9; 16],
            9 => draft.valid_until = hour,
            10 => draft.valid_until = hour + 169,
            11 => draft.valid_until = hour + 168,
            12 => {
                let wrong = match dice.below(4) {
                    0 => person(dice.below(12) as u32),
                    1 => holder(dice.below(4) as u32),
                    2 => gateway(dice.below(3) as u32),
                    _ => api_key(dice.below(5) as u32),
                };
                draft.author = wrong;
                draft.signers[0] = wrong;
                let rest = draft.signers.split_off(1);
                draft
                    .signers
                    .extend(rest.into_iter().filter(|s| *s != wrong));
            }
            13 => {
                draft.payload = vec![7; 3];
                draft.meaning = Payload::Garbage;
            }
            14 => draft.signers.truncate(1),
            15 => draft.signers.clear(),
            _ => {}
        }
    }
}
