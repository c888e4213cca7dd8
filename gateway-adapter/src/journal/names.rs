//! Idempotency keys: which hold was made for which request, for a day of
//! ledger time. Part of the journal's state, so it survives a crash with the
//! hold itself; bounded per API key and in all. A name whose hold was void is
//! free again: nothing was served or charged.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use tally_ledger::{
    hash::Hash,
    ids::{ApiKeyNumber, DAY_MS, Time},
};

use super::record::HoldId;

/// Most names in use of one API key.
pub const PER_KEY: usize = 10_000;
/// Most names in use in all.
pub const IN_ALL: usize = 200_000;

/// A request's Idempotency-Key, as the gateway keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// Whose request it is; names of different keys have nothing in common.
    pub api_key: ApiKeyNumber,
    /// Keyed hash of what the client sent.
    pub hash: Hash,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may be used.
    Free,
    /// There is no room for another one.
    Full,
    /// A hold was made for it.
    Used {
        /// Which.
        hold: HoldId,
        /// It is not resolved yet.
        running: bool,
    },
}

/// The names in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    holds: BTreeMap<Name, (HoldId, Time)>,
    per_key: BTreeMap<ApiKeyNumber, usize>,
    /// Of holds that are not resolved.
    open: HashMap<HoldId, Name>,
    /// By age.
    order: VecDeque<(Time, Name)>,
}

impl Names {
    /// The hold that was made for a name.
    pub fn get(&self, name: &Name) -> Option<HoldId> {
        self.holds.get(name).map(|(hold, _)| *hold)
    }

    /// Whether another name of an API key fits.
    pub fn has_room(&self, api_key: ApiKeyNumber) -> bool {
        let own = self.per_key.get(&api_key).copied().unwrap_or(0);
        own < PER_KEY && self.holds.len() < IN_ALL
    }

    /// A hold was made for a name at a ledger time; `open`: it is not
    /// resolved.
    pub fn insert(&mut self, name: Name, hold: HoldId, at: Time, open: bool) {
        self.expire(at);
        if self.holds.insert(name, (hold, at)).is_none() {
            *self.per_key.entry(name.api_key).or_default() += 1;
        }
        self.order.push_back((at, name));
        if open {
            self.open.insert(hold, name);
        }
    }

    /// A hold was settled: its name stays in use.
    pub fn settled(&mut self, hold: &HoldId) {
        self.open.remove(hold);
    }

    /// A hold was void: its name is free.
    pub fn voided(&mut self, hold: &HoldId) {
        if let Some(name) = self.open.remove(hold)
            && self.get(&name) == Some(*hold)
        {
            self.remove(&name);
            // It is one of the youngest.
            let place = self.order.iter().rposition(|(_, other)| *other == name);
            place.map(|place| self.order.remove(place));
        }
    }

    /// Forgets what is a day old.
    pub fn expire(&mut self, now: Time) {
        let is_old = |at: Time| at.0.saturating_add(DAY_MS) <= now.0;
        while let Some((at, name)) = self.order.front().copied().filter(|(at, _)| is_old(*at)) {
            self.order.pop_front();
            if self.holds.get(&name).is_some_and(|(_, used)| *used == at) {
                self.remove(&name);
            }
        }
    }

    fn remove(&mut self, name: &Name) {
        if self.holds.remove(name).is_none() {
            return;
        }
        if let Some(count) = self.per_key.get_mut(&name.api_key) {
            *count -= 1;
            if *count == 0 {
                self.per_key.remove(&name.api_key);
            }
        }
    }

    /// All, by age.
    pub fn iter(&self) -> impl Iterator<Item = (Name, HoldId, Time)> {
        self.order.iter().filter_map(|(at, name)| {
            let (hold, used) = self.holds.get(name)?;
            (used == at).then_some((*name, *hold, *at))
        })
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::ids::JournalNumber;

    use super::*;

    fn name(api_key: u32, hash: u16) -> Name {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&hash.to_le_bytes());
        Name {
            api_key: ApiKeyNumber(api_key),
            hash: Hash(bytes),
        }
    }

    fn hold(number: u64) -> HoldId {
        HoldId {
            journal: JournalNumber(1),
            number,
        }
    }

    #[test]
    fn a_name_is_used_for_a_day_and_free_again_when_its_hold_is_void() {
        let mut names = Names::default();
        names.insert(name(1, 7), hold(1), Time(5), true);
        assert_eq!(names.get(&name(1, 7)), Some(hold(1)));
        assert_eq!(names.get(&name(2, 7)), None);
        names.voided(&hold(1));
        assert_eq!(names.get(&name(1, 7)), None);
        names.insert(name(1, 7), hold(2), Time(6), true);
        names.settled(&hold(2));
        names.voided(&hold(2));
        names.expire(Time(5 + DAY_MS));
        assert_eq!(names.get(&name(1, 7)), Some(hold(2)));
        assert_eq!(names.iter().count(), 1);
        names.expire(Time(6 + DAY_MS));
        assert_eq!(names, Names::default());
    }

    #[test]
    fn room_is_bounded_per_key_and_comes_back_with_time() {
        let mut names = Names::default();
        for i in 0..PER_KEY {
            assert!(names.has_room(ApiKeyNumber(1)));
            names.insert(name(1, i as u16), hold(i as u64), Time(i as u64), false);
        }
        assert!(!names.has_room(ApiKeyNumber(1)));
        assert!(names.has_room(ApiKeyNumber(2)));
        names.expire(Time(DAY_MS));
        assert!(names.has_room(ApiKeyNumber(1)));
        assert_eq!(names.iter().count(), PER_KEY - 1);
    }
}
