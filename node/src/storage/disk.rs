//! The few file operations that storage needs; the same as consensus uses.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

pub use tally_consensus::disk::{Disk, DiskFile, RealDisk};

/// The machine's own, of which nothing can be changed: files are opened for
/// reading only, and a missing folder is not made.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOnlyDisk;

fn refuse<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::ReadOnlyFilesystem,
        "only reading was asked for",
    ))
}

impl Disk for ReadOnlyDisk {
    fn open(&self, path: &Path, _: bool) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_alone(&self, _: &Path) -> io::Result<Box<dyn DiskFile>> {
        refuse()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        let mut files = paths.collect::<io::Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refuse()
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        refuse()
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        refuse()
    }
}

/// Replaces a file, or makes it, durably: whatever happens, its name then
/// names all of the old bytes or all of the new ones. `temporary` is in the
/// same folder, which must exist.
pub(crate) fn replace(
    disk: &dyn Disk,
    path: &Path,
    temporary: &Path,
    bytes: &[u8],
) -> io::Result<()> {
    let file = disk.open(temporary, true)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(temporary, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    disk.sync_folder(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
pub(crate) mod faulty {
    //! A disk whose n-th operation fails.

    use std::{
        io,
        path::{Path, PathBuf},
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering},
        },
    };

    use super::*;

    /// What fails.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Fault {
        Sync,
        Write,
        Rename,
        SyncFolder,
    }

    /// Fails operation `countdown` of its kind, and all after it.
    #[derive(Debug, Clone)]
    pub(crate) struct FaultyDisk {
        pub(crate) fault: Fault,
        pub(crate) countdown: Arc<AtomicI64>,
    }

    impl FaultyDisk {
        pub(crate) fn new(fault: Fault, after: i64) -> Self {
            Self {
                fault,
                countdown: Arc::new(AtomicI64::new(after)),
            }
        }

        fn step(&self, kind: Fault) -> io::Result<()> {
            if kind != self.fault || self.countdown.fetch_sub(1, Ordering::SeqCst) > 0 {
                return Ok(());
            }
            Err(match kind {
                Fault::Sync | Fault::Rename | Fault::SyncFolder => {
                    io::Error::other("input/output error")
                }
                Fault::Write => {
                    io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
                }
            })
        }
    }

    #[derive(Debug)]
    struct FaultyFile(Box<dyn DiskFile>, FaultyDisk);

    impl DiskFile for FaultyFile {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_at(bytes, offset)
        }
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            if let Err(error) = self.1.step(Fault::Write) {
                // A full disk takes a part.
                self.0.write_at(&bytes[..bytes.len() / 2], offset)?;
                return Err(error);
            }
            self.0.write_at(bytes, offset)
        }
        fn sync(&self) -> io::Result<()> {
            self.1.step(Fault::Sync)?;
            self.0.sync()
        }
        fn set_len(&self, length: u64) -> io::Result<()> {
            self.0.set_len(length)
        }
    }

    impl Disk for FaultyDisk {
        fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
            Ok(Box::new(FaultyFile(
                RealDisk.open(path, create)?,
                self.clone(),
            )))
        }
        fn open_alone(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.open(path, true)
        }
        fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
            RealDisk.list(folder)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step(Fault::Rename)?;
            RealDisk.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            RealDisk.remove(path)
        }
        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            self.step(Fault::SyncFolder)?;
            RealDisk.sync_folder(folder)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_to_read_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&path, [1, 2, 3]).unwrap();
        let disk = ReadOnlyDisk;
        let file = disk.open(&path, true).unwrap();
        let mut bytes = [0; 2];
        file.read_at(&mut bytes, 1).unwrap();
        assert_eq!((bytes, file.len().unwrap()), ([2, 3], 3));
        assert!(file.write_at(&[9], 0).is_err());
        assert!(file.set_len(1).is_err());
        assert!(disk.open(&other, true).is_err());
        assert!(disk.open_alone(&path).is_err());
        assert!(disk.rename(&path, &other).is_err());
        assert!(disk.remove(&path).is_err());
        assert!(disk.sync_folder(folder.path()).is_err());
        assert!(disk.list(&folder.path().join("c")).is_err());
        assert_eq!(disk.list(folder.path()).unwrap().len(), 1);
        assert_eq!(fs::read(path).unwrap(), [1, 2, 3]);
    }
}
