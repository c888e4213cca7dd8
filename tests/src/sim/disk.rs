//! A disk in memory that loses unsynced writes when its power fails.
//!
//! Of what was written to a file since its last sync, a failure keeps some
//! first writes and perhaps a part of the next one; a sector of 512 bytes
//! that existed is never half written. Of what happened to names since their
//! folder's last sync, it keeps some first changes. The power can be set to
//! fail at the n-th operation from now; from then on every operation fails.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_consensus::disk::{Disk, DiskFile};

use super::rng::Rng;

const SECTOR: u64 = 512;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Clone)]
enum Naming {
    Made(PathBuf, u64),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

type Names = BTreeMap<PathBuf, u64>;

#[derive(Debug)]
struct Platters {
    rng: Rng,
    files: BTreeMap<u64, Content>,
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<Naming>,
    /// How often the power came back; files opened before are gone.
    boots: u64,
    left: Option<u64>,
    off: bool,
    lies: bool,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Platters>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    number: u64,
    boot: u64,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, new) => {
            let end = *at as usize + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at as usize..end].copy_from_slice(new);
        }
        Change::Length(length) => bytes.resize(*length as usize, 0),
    }
}

fn rename(names: &mut Names, naming: &Naming) {
    match naming {
        Naming::Made(path, number) => {
            names.insert(path.clone(), *number);
        }
        Naming::Renamed(from, to) => {
            if let Some(number) = names.remove(from) {
                names.insert(to.clone(), number);
            }
        }
        Naming::Removed(path) => {
            names.remove(path);
        }
    }
}

fn in_folder(naming: &Naming, folder: &Path) -> bool {
    let path = match naming {
        Naming::Made(path, _) | Naming::Renamed(_, path) | Naming::Removed(path) => path,
    };
    path.parent() == Some(folder)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Platters {
    fn power(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.left {
            self.off |= *left == 0;
            *left = left.saturating_sub(1);
        }
        match self.off {
            true => Err(io::Error::other("the power failed")),
            false => Ok(()),
        }
    }

    fn content(&mut self, number: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&number).ok_or_else(not_found)
    }

    fn change(&mut self, number: u64, change: Change) -> io::Result<()> {
        // What fails may be there all the same.
        let power = self.power();
        let content = self.content(number)?;
        apply(&mut content.now, &change);
        content.unsynced.push(change);
        power
    }

    fn name(&mut self, naming: Naming) -> io::Result<()> {
        let power = self.power();
        rename(&mut self.names, &naming);
        self.unsynced_names.push(naming);
        power
    }

    /// What is left of a file's unsynced writes.
    fn survive(rng: &mut Rng, content: &mut Content) {
        let writes = std::mem::take(&mut content.unsynced);
        let keep = match rng.below(4) {
            0 => 0,
            1 => writes.len(),
            _ => rng.below(writes.len() as u64 + 1) as usize,
        };
        let size = content.durable.len() as u64;
        for write in &writes[..keep] {
            apply(&mut content.durable, write);
        }
        if let Some(Change::Write(at, bytes)) = writes.get(keep) {
            let mut end = at + rng.below(bytes.len() as u64 + 1);
            if end < size {
                end = (end / SECTOR * SECTOR).max(*at);
            }
            let torn = bytes[..(end - at) as usize].to_vec();
            apply(&mut content.durable, &Change::Write(*at, torn));
        }
        content.now = content.durable.clone();
    }
}

impl SimDisk {
    /// An empty one.
    pub fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(Platters {
            rng,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            boots: 0,
            left: None,
            off: false,
            lies: false,
        })))
    }

    fn platters(&self) -> MutexGuard<'_, Platters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails at the n-th operation from now, from 0.
    pub fn fail_after(&self, operations: u64) {
        self.platters().left = Some(operations);
    }

    /// The power fails now.
    pub fn fail(&self) {
        self.platters().off = true;
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.platters().off
    }

    /// Everything is gone: another disk.
    pub fn wipe(&self) {
        let platters = &mut *self.platters();
        platters.names.clear();
        platters.durable_names.clear();
        platters.unsynced_names.clear();
        platters.files.clear();
    }

    /// From now on, syncs do nothing and say they did.
    pub fn lie(&self) {
        self.platters().lies = true;
    }

    /// The power is back; what was not synced is gone, most of it.
    pub fn boot(&self) {
        let platters = &mut *self.platters();
        platters.boots += 1;
        (platters.off, platters.left) = (false, None);
        for content in platters.files.values_mut() {
            Platters::survive(&mut platters.rng, content);
        }
        let namings = std::mem::take(&mut platters.unsynced_names);
        let keep = platters.rng.below(namings.len() as u64 + 1) as usize;
        for naming in &namings[..keep] {
            rename(&mut platters.durable_names, naming);
        }
        platters.names = platters.durable_names.clone();
        let Platters { files, names, .. } = platters;
        files.retain(|number, _| names.values().any(|named| named == number));
    }

    fn open_file(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut platters = self.platters();
        if platters.off {
            return Err(io::Error::other("the power failed"));
        }
        let number = match platters.names.get(path) {
            Some(number) => *number,
            None if create => {
                let number = platters.files.keys().next_back().map_or(0, |last| last + 1);
                platters.files.insert(number, Content::default());
                platters.name(Naming::Made(path.into(), number))?;
                number
            }
            None => return Err(not_found()),
        };
        let (disk, boot) = (self.clone(), platters.boots);
        Ok(Box::new(SimFile { disk, number, boot }))
    }
}

impl SimFile {
    fn platters(&self) -> io::Result<MutexGuard<'_, Platters>> {
        let platters = self.disk.platters();
        match platters.boots == self.boot {
            true => Ok(platters),
            false => Err(io::Error::other("opened before the power failed")),
        }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let number = self.number;
        Ok(self.platters()?.content(number)?.now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut platters = self.platters()?;
        let content = &platters.content(self.number)?.now;
        let end = offset as usize + bytes.len();
        let found = content.get(offset as usize..end);
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let change = Change::Write(offset, bytes.to_vec());
        self.platters()?.change(self.number, change)
    }

    fn sync(&self) -> io::Result<()> {
        let mut platters = self.platters()?;
        platters.power()?;
        if !platters.lies {
            let content = platters.content(self.number)?;
            content.durable = content.now.clone();
            content.unsynced.clear();
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.platters()?.change(self.number, Change::Length(length))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        self.open_file(path, create)
    }

    fn open_alone(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_file(path, true)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let platters = self.platters();
        let paths = platters.names.keys();
        Ok(paths
            .filter(|path| path.parent() == Some(folder))
            .cloned()
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut platters = self.platters();
        if !platters.names.contains_key(from) {
            return Err(not_found());
        }
        platters.name(Naming::Renamed(from.into(), to.into()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut platters = self.platters();
        if !platters.names.contains_key(path) {
            return Err(not_found());
        }
        platters.name(Naming::Removed(path.into()))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut platters = self.platters();
        platters.power()?;
        let namings = std::mem::take(&mut platters.unsynced_names);
        for naming in namings {
            match in_folder(&naming, folder) && !platters.lies {
                true => rename(&mut platters.durable_names, &naming),
                false => platters.unsynced_names.push(naming),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
        let file = disk.open(path, false).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_at_most_in_order() {
        let (folder, path) = (Path::new("f"), Path::new("f/a"));
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let disk = SimDisk::new(Rng::new(seed));
            let file = disk.open(path, true).unwrap();
            file.write_at(b"01234", 0).unwrap();
            file.sync().unwrap();
            disk.sync_folder(folder).unwrap();
            file.write_at(b"56", 5).unwrap();
            file.write_at(b"789", 7).unwrap();
            disk.boot();
            assert!(file.len().is_err());
            let left = read(&disk, path);
            assert!(b"0123456789".starts_with(&left) && left.len() >= 5);
            lengths.insert(left.len());
        }
        assert!(lengths.len() > 3, "{lengths:?}");
    }

    #[test]
    fn a_file_without_a_synced_name_may_be_gone() {
        let gone = |seed| {
            let disk = SimDisk::new(Rng::new(seed));
            disk.open(Path::new("f/a"), true).unwrap().sync().unwrap();
            disk.boot();
            disk.open(Path::new("f/a"), false).is_err()
        };
        let count = (0..100).filter(|seed| gone(*seed)).count();
        assert!(count > 10 && count < 90);
    }

    #[test]
    fn the_power_fails_when_it_is_set_to() {
        let disk = SimDisk::new(Rng::new(1));
        let file = disk.open(Path::new("f/a"), true).unwrap();
        disk.fail_after(1);
        file.write_at(b"a", 0).unwrap();
        assert!(file.sync().is_err() && disk.is_off());
        assert!(file.write_at(b"b", 1).is_err());
        disk.boot();
        assert!(!disk.is_off());
    }
}
