//! The accounts that were erased on the chain, and whether this node has
//! dropped their details yet: `data/erasures`, a JSON list that is replaced
//! as a whole and fsynced before a later snapshot is written, so that no
//! start passes over one.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tally_ledger::{
    entry::{Entry, Event},
    ids::{AccountNumber, Height},
};

use crate::storage::Disk;

/// An account that was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// Whose details go.
    pub account: AccountNumber,
    /// Of receipts among its first so many entries.
    pub entries: u32,
    /// In the blocks up to this one.
    pub height: Height,
    /// Nothing of it is left in this node's block files.
    pub done: bool,
}

/// The list cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}; make room and check the disk, then start the node again")]
pub struct ErasuresError {
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    pub error: io::Error,
}

/// All erasures of a node's data folder; whoever waits for one is woken.
#[derive(Debug)]
pub struct Erasures {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    list: Mutex<Vec<Erasure>>,
    changed: Condvar,
}

impl Erasures {
    /// Reads the list, if there is one.
    pub fn open(disk: Arc<dyn Disk>, data: &Path) -> Result<Self, ErasuresError> {
        let path = data.join("erasures");
        let read = || -> io::Result<Vec<Erasure>> {
            if !disk.list(data)?.contains(&path) {
                return Ok(Vec::new());
            }
            let file = disk.open(&path, false)?;
            let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
            file.read_at(&mut bytes, 0)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        let list = read().map_err(|error| ErasuresError { path, error })?;
        Ok(Self {
            disk,
            folder: data.to_owned(),
            list: Mutex::new(list),
            changed: Condvar::new(),
        })
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Erasure>> {
        self.list.lock().expect("nobody panics while it is locked")
    }

    /// Takes in what a block's entries erase, durably. Whether there was any.
    /// `replayed`: the block is one of those on this disk, executed again at
    /// a start. Else it was written just now, and if it was here before, what
    /// was done then was done to other files.
    pub fn take<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e Entry>,
        replayed: bool,
    ) -> Result<bool, ErasuresError> {
        let new: Vec<Erasure> = entries.into_iter().filter_map(erasure).collect();
        if new.is_empty() {
            return Ok(false);
        }
        let mut list = self.locked();
        for erasure in new {
            let known = list.iter_mut().find(|old| old.account == erasure.account);
            match known {
                Some(old) if old.height >= erasure.height => old.done &= replayed,
                Some(old) => *old = erasure,
                None => list.push(erasure),
            }
        }
        self.write(&list)?;
        self.changed.notify_all();
        Ok(true)
    }

    /// Those that are not done.
    pub fn pending(&self) -> Vec<Erasure> {
        let list = self.locked();
        list.iter()
            .filter(|erasure| !erasure.done)
            .copied()
            .collect()
    }

    /// Notes, durably, that nothing is left of one.
    pub fn finish(&self, done: &Erasure) -> Result<(), ErasuresError> {
        let mut list = self.locked();
        let old = list.iter_mut().find(|erasure| *erasure == done);
        if let Some(erasure) = old {
            erasure.done = true;
        }
        self.write(&list)
    }

    /// Waits until there may be something to do.
    pub fn wait(&self, most: Duration) {
        // A poisoned lock is found by the next who takes it.
        let _ = self.changed.wait_timeout(self.locked(), most);
    }

    /// Wakes whoever waits.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    fn write(&self, list: &[Erasure]) -> Result<(), ErasuresError> {
        let path = self.folder.join("erasures");
        let write = || -> io::Result<()> {
            let temporary = self.folder.join("erasures.new");
            let file = self.disk.open(&temporary, true)?;
            file.set_len(0)?;
            file.write_at(&serde_json::to_vec(list)?, 0)?;
            file.sync()?;
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_folder(&self.folder)
        };
        write().map_err(|error| ErasuresError { path, error })
    }
}

fn erasure(entry: &Entry) -> Option<Erasure> {
    let Entry::Event(leaf, Event::Erased { entries, .. }) = entry else {
        return None;
    };
    Some(Erasure {
        account: leaf.account,
        entries: *entries,
        height: leaf.height,
        done: false,
    })
}

#[cfg(test)]
mod tests {
    use tally_ledger::{entry::EventLeaf, hash::Hash};

    use super::*;
    use crate::storage::disk::{
        RealDisk,
        faulty::{Fault, FaultyDisk},
    };

    fn event(account: u32, entries: u32, height: u64) -> Entry {
        let event = Event::Erased {
            transaction: Hash([1; 32]),
            entries,
        };
        let leaf = EventLeaf {
            kind: event.kind(),
            height: Height(height),
            account: AccountNumber(account),
            entry: entries + 1,
            control: 9,
            event: event.hash(),
        };
        Entry::Event(leaf, event)
    }

    fn open(folder: &Path) -> Erasures {
        Erasures::open(Arc::new(RealDisk), folder).unwrap()
    }

    fn pending(erasures: &Erasures) -> Vec<(u32, u32, u64)> {
        let of = |e: Erasure| (e.account.0, e.entries, e.height.0);
        erasures.pending().into_iter().map(of).collect()
    }

    #[test]
    fn each_is_done_once_but_for_what_comes_after_or_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let erasures = open(folder.path());
        assert!(!erasures.take(&[], false).unwrap());
        let first = [event(7, 5, 10), event(8, 3, 10)];
        assert!(erasures.take(&first, false).unwrap());
        assert_eq!(pending(&erasures), [(7, 5, 10), (8, 3, 10)]);
        erasures.finish(&erasures.pending()[0]).unwrap();
        drop(erasures);

        // Executed again at a start, it stays done.
        let erasures = open(folder.path());
        erasures.take(&first, true).unwrap();
        assert_eq!(pending(&erasures), [(8, 3, 10)]);
        // Erased again later, there is more to do.
        erasures.take(&[event(7, 9, 20)], false).unwrap();
        assert_eq!(pending(&erasures), [(7, 9, 20), (8, 3, 10)]);
        erasures.finish(&erasures.pending()[0]).unwrap();
        // The same block from others: its files are new ones.
        erasures.take(&first, false).unwrap();
        assert_eq!(pending(&erasures), [(7, 9, 20), (8, 3, 10)]);
        assert_eq!(pending(&open(folder.path())), [(7, 9, 20), (8, 3, 10)]);
    }

    #[test]
    fn what_cannot_be_noted_is_an_error_and_the_old_list_stays() {
        for fault in [Fault::Write, Fault::Sync, Fault::Rename] {
            let folder = tempfile::tempdir().unwrap();
            open(folder.path()).take(&[event(7, 5, 10)], false).unwrap();
            let disk = Arc::new(FaultyDisk::new(fault, 0));
            let erasures = Erasures::open(disk, folder.path()).unwrap();
            let error = erasures.take(&[event(8, 3, 11)], false).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("make room") && error.contains("start the node again"));
            assert_eq!(pending(&open(folder.path())), [(7, 5, 10)]);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("erasures"), "[{}]").unwrap();
        assert!(Erasures::open(Arc::new(RealDisk), folder.path()).is_err());
    }
}
