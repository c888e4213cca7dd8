//! The few file operations that storage needs; the same as consensus uses.

use std::{io, path::Path};

pub use tally_consensus::disk::{Disk, DiskFile, RealDisk};

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
        fn open_alone(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.open(path, true)
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
