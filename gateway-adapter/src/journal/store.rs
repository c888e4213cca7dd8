//! Where segments live. The journal's logic sees only this trait, so that
//! tests can run it over a disk that loses unsynced writes and fails at will.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Numbered append-only segments; one is open for writing.
pub trait Store: Send {
    /// Numbers of all segments, ascending.
    fn segments(&self) -> io::Result<Vec<u64>>;
    /// A segment's bytes.
    fn read(&self, segment: u64) -> io::Result<Vec<u8>>;
    /// Creates an empty segment durably and opens it for writing.
    fn create(&mut self, segment: u64) -> io::Result<()>;
    /// Cuts a segment to `length` durably and opens it for writing.
    fn cut(&mut self, segment: u64, length: u64) -> io::Result<()>;
    /// Appends to the open segment; not durable until [`Store::sync`].
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Removes a segment that is not needed any more.
    fn remove(&mut self, segment: u64) -> io::Result<()>;
    /// Sets a segment aside: it is listed no more but kept for people.
    fn set_aside(&mut self, segment: u64) -> io::Result<()>;
}

/// Segments as files `00000000000000000001.journal` in a directory.
pub struct Directory {
    path: PathBuf,
    open: Option<File>,
}

impl Directory {
    /// Opens `path`, creating it if missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        sync_directory(path.parent().unwrap_or(path))?;
        Ok(Directory {
            path: path.to_owned(),
            open: None,
        })
    }

    fn file(&self, segment: u64) -> PathBuf {
        self.path.join(format!("{segment:020}.journal"))
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        self.open
            .as_mut()
            .ok_or_else(|| io::Error::other("no segment is open"))
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Store for Directory {
    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number: Option<u64> = name
                .to_str()
                .and_then(|name| name.strip_suffix(".journal"))
                .and_then(|digits| digits.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        std::fs::read(self.file(segment))
    }

    fn create(&mut self, segment: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(self.file(segment))?;
        file.sync_all()?;
        sync_directory(&self.path)?;
        self.open = Some(file);
        Ok(())
    }

    fn cut(&mut self, segment: u64, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().append(true).open(self.file(segment))?;
        file.set_len(length)?;
        file.sync_all()?;
        self.open = Some(file);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.opened()?.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.opened()?.sync_data()
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        std::fs::remove_file(self.file(segment))?;
        sync_directory(&self.path)
    }

    fn set_aside(&mut self, segment: u64) -> io::Result<()> {
        let from = self.file(segment);
        let mut to = from.with_extension("old");
        for copy in 2.. {
            if !to.exists() {
                break;
            }
            to = from.with_extension(format!("old-{copy}"));
        }
        std::fs::rename(from, to)?;
        sync_directory(&self.path)
    }
}
