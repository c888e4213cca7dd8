//! Changes to an index, with an undo log per transaction.

use std::collections::BTreeMap;

/// Entries that were set since the block began.
#[derive(Debug)]
pub(crate) struct Delta<K, V> {
    set: BTreeMap<K, V>,
    undo: Vec<(K, Option<V>)>,
}

impl<K: Ord + Clone, V: Clone> Delta<K, V> {
    pub(crate) fn new() -> Self {
        Delta {
            set: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.set.get(key)
    }

    pub(crate) fn range(
        &self,
        keys: std::ops::RangeInclusive<K>,
    ) -> impl Iterator<Item = (&K, &V)> {
        self.set.range(keys)
    }

    pub(crate) fn set(&mut self, key: K, value: V) {
        let old = self.set.insert(key.clone(), value);
        self.undo.push((key, old));
    }

    /// A transaction begins; the one before stands.
    pub(crate) fn begin(&mut self) {
        self.undo.clear();
    }

    /// The transaction has not happened.
    pub(crate) fn roll_back(&mut self) {
        while let Some((key, old)) = self.undo.pop() {
            match old {
                Some(value) => self.set.insert(key, value),
                None => self.set.remove(&key),
            };
        }
    }

    pub(crate) fn into_map(self) -> BTreeMap<K, V> {
        self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoing_goes_back_to_the_last_begin() {
        let mut delta = Delta::new();
        delta.set(1, 'a');
        delta.begin();
        delta.set(1, 'b');
        delta.set(1, 'c');
        delta.set(2, 'd');
        delta.roll_back();
        assert_eq!(delta.into_map(), BTreeMap::from([(1, 'a')]));
    }
}
