//! A table as a block changes it: the committed leaves and, on top, copies
//! of those that were touched. Each transaction can be undone alone.
//!
//! A leaf is copied when it is first touched, and once more per transaction
//! that touches it again. Lookups are two array reads, no search.

const PAGE: usize = 512;

/// Leaves of one table, by number.
pub(crate) struct Overlay<'a, T> {
    base: &'a [T],
    /// Per number: index in `touched` + 1, or 0. A page that holds no
    /// touched leaf is not there.
    pages: Vec<Option<Box<[u32; PAGE]>>>,
    touched: Vec<Touched<T>>,
    /// How many numbers there are.
    len: usize,
    /// What the running transaction found: touched leaves before it, number
    /// of leaves, and leaves as they were.
    mark: usize,
    mark_len: usize,
    undo: Vec<(usize, T)>,
    transaction: u32,
}

struct Touched<T> {
    number: u32,
    /// The transaction for which a copy is in `undo`.
    saved_for: u32,
    leaf: T,
}

impl<'a, T: Clone> Overlay<'a, T> {
    pub(crate) fn new(base: &'a [T]) -> Self {
        Overlay {
            base,
            pages: Vec::new(),
            touched: Vec::new(),
            len: base.len(),
            mark: 0,
            mark_len: base.len(),
            undo: Vec::new(),
            transaction: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn slot(&self, number: u32) -> Option<usize> {
        let number = number as usize;
        let page = self.pages.get(number / PAGE)?.as_ref()?;
        (page[number % PAGE] as usize).checked_sub(1)
    }

    fn set_slot(&mut self, number: u32, slot: u32) {
        let index = number as usize / PAGE;
        if self.pages.len() <= index {
            self.pages.resize_with(index + 1, || None);
        }
        let page = self.pages[index].get_or_insert_with(|| Box::new([0; PAGE]));
        page[number as usize % PAGE] = slot;
    }

    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        match self.slot(number) {
            Some(slot) => Some(&self.touched[slot].leaf),
            None => self.base.get(number as usize),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len as u32).filter_map(|number| self.get(number))
    }

    /// A leaf to change.
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let slot = match self.slot(number) {
            Some(slot) => {
                let touched = &mut self.touched[slot];
                if slot < self.mark && touched.saved_for != self.transaction {
                    touched.saved_for = self.transaction;
                    self.undo.push((slot, touched.leaf.clone()));
                }
                slot
            }
            None => {
                let leaf = self.base.get(number as usize)?.clone();
                self.add(number, leaf)
            }
        };
        Some(&mut self.touched[slot].leaf)
    }

    /// A leaf to change by a transaction that cannot be refused any more:
    /// nothing is kept to undo it.
    pub(crate) fn get_mut_for_good(&mut self, number: u32) -> Option<&mut T> {
        match self.slot(number) {
            Some(slot) => Some(&mut self.touched[slot].leaf),
            None => self.get_mut(number),
        }
    }

    fn add(&mut self, number: u32, leaf: T) -> usize {
        self.touched.push(Touched {
            number,
            saved_for: self.transaction,
            leaf,
        });
        self.set_slot(number, self.touched.len() as u32);
        self.touched.len() - 1
    }

    /// Adds a leaf; it has the next number.
    pub(crate) fn push(&mut self, leaf: T) -> u32 {
        let number = self.len as u32;
        self.len += 1;
        self.add(number, leaf);
        number
    }

    /// A transaction begins; the one before stands.
    pub(crate) fn begin(&mut self) {
        self.undo.clear();
        self.mark = self.touched.len();
        self.mark_len = self.len;
        self.transaction += 1;
    }

    /// The transaction has not happened.
    pub(crate) fn roll_back(&mut self) {
        for (slot, leaf) in self.undo.drain(..) {
            self.touched[slot].leaf = leaf;
        }
        while self.touched.len() > self.mark {
            let touched = self.touched.pop().expect("longer than the mark");
            self.set_slot(touched.number, 0);
        }
        self.len = self.mark_len;
    }

    /// The touched leaves with what they were, in no order.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Option<&'a T>, &T)> {
        self.touched.iter().map(|touched| {
            let old = self.base.get(touched.number as usize);
            (old, &touched.leaf)
        })
    }

    /// The touched leaves, ascending by number.
    pub(crate) fn into_changes(self) -> Vec<(u32, T)> {
        let changes = self.touched.into_iter();
        let mut changes: Vec<_> = changes.map(|t| (t.number, t.leaf)).collect();
        changes.sort_unstable_by_key(|(number, _)| *number);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(overlay: &Overlay<'_, u8>) -> Vec<u8> {
        overlay.iter().copied().collect()
    }

    #[test]
    fn a_transaction_can_be_undone_alone() {
        let base = [1, 2, 3];
        let mut overlay = Overlay::new(&base);
        overlay.begin();
        *overlay.get_mut(1).unwrap() = 20;
        assert_eq!(overlay.push(4), 3);
        overlay.begin();
        *overlay.get_mut(1).unwrap() = 21;
        *overlay.get_mut(1).unwrap() = 22;
        *overlay.get_mut(3).unwrap() = 40;
        *overlay.get_mut(0).unwrap() = 10;
        assert_eq!(overlay.push(5), 4);
        assert_eq!(all(&overlay), [10, 22, 3, 40, 5]);
        overlay.roll_back();
        assert_eq!(all(&overlay), [1, 20, 3, 4]);
        assert!(overlay.get(4).is_none() && overlay.get_mut(4).is_none());
        overlay.begin();
        assert_eq!(overlay.push(6), 4);
        assert_eq!(overlay.into_changes(), [(1, 20), (3, 4), (4, 6)]);
    }
}
