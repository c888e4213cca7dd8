//! Which transactions came already: the hashes of the last ones, in two
//! generations, so that forgetting is cheap and memory bounded.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// Hashes per generation; 32 bytes each.
const GENERATION: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
}

impl Seen {
    /// Whether these bytes are new; they no longer are afterwards.
    pub(super) fn insert(&self, bytes: &[u8]) -> bool {
        let hash = *blake3::hash(bytes).as_bytes();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.old.contains(&hash) || !seen.young.insert(hash) {
            return false;
        }
        if seen.young.len() >= GENERATION {
            seen.old = std::mem::take(&mut seen.young);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_at_least_a_generation_and_at_most_two() {
        let seen = Seen::default();
        for n in 0..3 * GENERATION as u64 {
            assert!(seen.insert(&n.to_le_bytes()));
            assert!(!seen.insert(&n.to_le_bytes()));
        }
        let sets = seen.0.lock().unwrap();
        assert!(sets.young.len() + sets.old.len() <= 2 * GENERATION);
        drop(sets);
        let last = 3 * GENERATION as u64 - 1;
        assert!(!seen.insert(&(last - GENERATION as u64 + 1).to_le_bytes()));
        assert!(seen.insert(&0u64.to_le_bytes()));
    }
}
