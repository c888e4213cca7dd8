//! Which checkpoint is shown: the newest one, once as many witnesses have
//! cosigned it as the one before, or once none such came for a while. A
//! witness that is slow counts, one that is gone holds nothing up.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tally_ledger::checkpoint::SignedCheckpoint;

/// A newer checkpoint takes the place of one that more witnesses have cosigned
/// only after this time: they need a moment.
const GRACE: Duration = Duration::from_secs(10);
/// Newer checkpoints that are remembered until one of them is shown.
const WAITING: usize = 8;

/// A checkpoint that a quorum signed.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    pub(super) signed: Arc<SignedCheckpoint>,
    pub(super) cosignatures: usize,
}

/// The checkpoints from the one that is shown to the latest.
#[derive(Debug, Default)]
pub(super) struct Shown {
    shown: Option<Pinned>,
    /// Newer than the one that is shown, ascending.
    waiting: VecDeque<Pinned>,
    /// Since when the latest is not the one that is shown.
    ahead: Option<Instant>,
}

impl Shown {
    /// The newest.
    pub(super) fn latest(&self) -> Option<&Pinned> {
        self.waiting.back().or(self.shown.as_ref())
    }

    /// One of those between what is shown and the latest, by its text.
    pub(super) fn of_text(&self, text: &str) -> Option<&Pinned> {
        let mut all = self.shown.iter().chain(&self.waiting);
        all.find(|pinned| pinned.signed.note.text() == text)
    }

    /// Takes a checkpoint in: one that is known, with more lines, or a newer
    /// one.
    pub(super) fn pin(&mut self, pinned: Pinned, now: Instant) {
        self.advance(now);
        let size = pinned.signed.checkpoint.size;
        let mut all = self.shown.iter_mut().chain(&mut self.waiting);
        match all.find(|known| known.signed.checkpoint.size == size) {
            Some(known) => *known = pinned,
            None => {
                if self.waiting.len() >= WAITING {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(pinned);
            }
        }
        self.advance(now);
    }

    /// What is shown now.
    pub(super) fn shown(&mut self, now: Instant) -> Option<Arc<SignedCheckpoint>> {
        self.advance(now);
        self.shown.as_ref().map(|shown| shown.signed.clone())
    }

    fn advance(&mut self, now: Instant) {
        let enough = self.shown.as_ref().map_or(0, |shown| shown.cosignatures);
        let mut waiting = self.waiting.iter();
        if let Some(at) = waiting.rposition(|newer| newer.cosignatures >= enough) {
            self.show(at);
        }
        if self.waiting.is_empty() {
            self.ahead = None;
            return;
        }
        // Not from the latest's own beginning: with each newer one it would
        // begin anew.
        let ahead = *self.ahead.get_or_insert(now);
        if now.duration_since(ahead) >= GRACE {
            self.show(self.waiting.len() - 1);
            self.ahead = None;
        }
    }

    fn show(&mut self, at: usize) {
        self.shown = self.waiting.drain(..=at).next_back();
        // What is left is ahead from now on.
        self.ahead = None;
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{checkpoint::Checkpoint, crypto::ChainId, hash::Hash, note::Note};

    use super::*;

    fn pinned(size: u64, cosignatures: usize) -> Pinned {
        let checkpoint = Checkpoint::new(&ChainId(Hash([1; 32])), size, Hash([size as u8; 32]));
        let note = Note::parse(format!("{}\n— a.example AAAAAAAA\n", checkpoint.text()).as_bytes());
        Pinned {
            signed: Arc::new(SignedCheckpoint {
                checkpoint,
                signers: vec![0],
                note: note.unwrap(),
            }),
            cosignatures,
        }
    }

    fn shows(shown: &mut Shown, now: Instant) -> u64 {
        shown.shown(now).unwrap().checkpoint.size
    }

    #[test]
    fn behind_a_dead_witness_it_goes_on_after_the_grace() {
        let start = Instant::now();
        let mut shown = Shown::default();
        shown.pin(pinned(1, 1), start);
        // A newer one every 7 s, none of which is cosigned.
        let mut last = 1;
        for i in 1..=60u64 {
            let now = start + Duration::from_secs(7 * i);
            shown.pin(pinned(1 + i, 0), now);
            assert_eq!(shown.latest().unwrap().signed.checkpoint.size, 1 + i);
            let size = shows(&mut shown, now);
            assert!(size >= last && size + 2 > i, "{size} of {}", 1 + i);
            last = size;
        }
        assert_eq!(last, 61);
    }

    #[test]
    fn the_grace_is_of_who_is_ahead_first() {
        let start = Instant::now();
        let mut shown = Shown::default();
        shown.pin(pinned(1, 2), start);
        let before = GRACE - Duration::from_millis(1);
        shown.pin(pinned(2, 1), start);
        shown.pin(pinned(3, 0), start + before);
        assert_eq!(shows(&mut shown, start + before), 1);
        assert_eq!(shows(&mut shown, start + GRACE), 3);
        // The witnesses are back: from now on they are waited for again.
        let now = start + GRACE;
        shown.pin(pinned(3, 2), now);
        shown.pin(pinned(4, 0), now + GRACE);
        assert_eq!(
            shows(&mut shown, now + 2 * GRACE - Duration::from_millis(1)),
            3
        );
        shown.pin(pinned(4, 2), now + 2 * GRACE - Duration::from_millis(1));
        assert_eq!(
            shows(&mut shown, now + 2 * GRACE - Duration::from_millis(1)),
            4
        );
    }

    #[test]
    fn a_witness_slower_than_a_period_counts() {
        let start = Instant::now();
        let mut shown = Shown::default();
        shown.pin(pinned(1, 1), start);
        shown.pin(pinned(2, 0), start);
        shown.pin(pinned(3, 0), start);
        assert_eq!(shows(&mut shown, start), 1);
        // Of the one before the latest.
        let text = pinned(2, 0).signed.note.text().to_owned();
        assert!(shown.of_text(&text).is_some());
        shown.pin(pinned(2, 1), start);
        assert_eq!(shows(&mut shown, start), 2);
        assert_eq!(shown.latest().unwrap().signed.checkpoint.size, 3);
        // Of the one that is shown.
        let now = start + GRACE;
        assert_eq!(shows(&mut shown, now), 3);
        shown.pin(pinned(4, 0), now);
        shown.pin(pinned(4, 1), now);
        assert_eq!(shows(&mut shown, now), 4);
        // What waits is bounded.
        for size in 5..99 {
            shown.pin(pinned(size, 0), now);
        }
        assert!(shown.waiting.len() <= WAITING);
        assert_eq!(shows(&mut shown, now + GRACE), 98);
    }
}
