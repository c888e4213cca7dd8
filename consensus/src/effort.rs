//! How much a proposer puts into its next block: after one of its blocks was
//! not decided an empty one, then half, then all again.

use tally_ledger::{hash::Hash, ids::Height};

use crate::application::Effort;

#[derive(Debug)]
pub(crate) struct Efforts {
    effort: Effort,
    proposed: Option<(Height, Hash)>,
}

impl Efforts {
    pub(crate) fn new() -> Self {
        Self {
            effort: Effort::Full,
            proposed: None,
        }
    }

    /// For the block that is asked for now. If the last one is still open,
    /// it got no polka: else the engine would propose it again by itself.
    pub(crate) fn next(&mut self) -> Effort {
        if self.proposed.is_some() {
            self.effort = Effort::Empty;
        }
        self.effort
    }

    /// This node proposes that block.
    pub(crate) fn proposed(&mut self, height: Height, id: Hash) {
        self.proposed = Some((height, id));
    }

    /// A block was decided.
    pub(crate) fn decided(&mut self, height: Height, id: &Hash) {
        let Some((proposed, own)) = self.proposed.take() else {
            return;
        };
        self.effort = match self.effort {
            _ if proposed != height || own != *id => Effort::Empty,
            Effort::Empty => Effort::Half,
            Effort::Half | Effort::Full => Effort::Full,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_not_decided_makes_the_next_empty_then_half_then_full() {
        let id = |n| Hash([n; 32]);
        let mut efforts = Efforts::new();
        let mut propose = |height: u64, decided: Option<u8>| {
            let effort = efforts.next();
            efforts.proposed(Height(height), id(1));
            if let Some(n) = decided {
                efforts.decided(Height(height), &id(n));
            }
            effort
        };
        assert_eq!(propose(1, Some(1)), Effort::Full);
        assert_eq!(propose(2, Some(2)), Effort::Full);
        assert_eq!(propose(3, Some(1)), Effort::Empty);
        assert_eq!(propose(4, None), Effort::Half);
        assert_eq!(propose(4, Some(1)), Effort::Empty);
        assert_eq!(propose(5, Some(1)), Effort::Half);
        assert_eq!(propose(6, Some(1)), Effort::Full);
    }

    #[test]
    fn half_of_one_transaction_is_one() {
        let shares = |effort: Effort| [0, 1, 2, 5].map(|count| effort.share(count));
        assert_eq!(shares(Effort::Full), [0, 1, 2, 5]);
        assert_eq!(shares(Effort::Half), [0, 1, 1, 3]);
        assert_eq!(shares(Effort::Empty), [0; 4]);
    }

    #[test]
    fn blocks_of_others_change_nothing() {
        let mut efforts = Efforts::new();
        efforts.decided(Height(1), &Hash([1; 32]));
        assert_eq!(efforts.next(), Effort::Full);
    }
}
