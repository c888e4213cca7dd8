//! The few file operations that storage needs, so that tests can make them
//! fail or lose unsynced writes.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Whether nothing is in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `bytes` from `offset` on.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all writes so far durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends it.
    fn set_len(&self, length: u64) -> io::Result<()>;
}

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file for reading and writing; makes it if `create`.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;
    /// The files of a folder, which is made if it is missing; sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
    /// Renames a file, replacing another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes created, renamed and removed files of a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create);
        Ok(Box::new(options.open(path)?))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::create_dir_all(folder)?;
        let mut files = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        crate::home::sync_folder(folder)
    }
}

#[cfg(test)]
pub(crate) mod faulty {
    //! A disk whose n-th operation fails.

    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;

    /// What fails.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Fault {
        Sync,
        Write,
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
                Fault::Sync => io::Error::other("input/output error"),
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
        fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
            RealDisk.list(folder)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            RealDisk.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            RealDisk.remove(path)
        }
        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            RealDisk.sync_folder(folder)
        }
    }
}
