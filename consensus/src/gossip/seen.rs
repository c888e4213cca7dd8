//! Which transactions came already: the hashes of the last ones, in two
//! generations, so that forgetting is cheap and memory bounded.

use std::collections::HashSet;

/// Hashes per generation; 32 bytes each.
const GENERATION: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Seen {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
}

impl Seen {
    /// Whether these bytes are new; they no longer are afterwards.
    pub(super) fn insert(&mut self, bytes: &[u8]) -> bool {
        let hash = *blake3::hash(bytes).as_bytes();
        if self.old.contains(&hash) || !self.young.insert(hash) {
            return false;
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_at_least_a_generation_and_at_most_two() {
        let mut seen = Seen::default();
        for n in 0..3 * GENERATION as u64 {
            assert!(seen.insert(&n.to_le_bytes()));
            assert!(!seen.insert(&n.to_le_bytes()));
        }
        assert!(seen.young.len() + seen.old.len() <= 2 * GENERATION);
        let last = 3 * GENERATION as u64 - 1;
        assert!(!seen.insert(&(last - GENERATION as u64 + 1).to_le_bytes()));
        assert!(seen.insert(&0u64.to_le_bytes()));
    }
}
