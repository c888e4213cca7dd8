//! `HOME/privacy.log`: who asked for holds and what was dropped, one JSON
//! object per line, only ever appended to, fsynced before anything is said to
//! be done. It names accounts by their numbers and repeats no detail.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The file.
#[derive(Debug, Clone)]
pub struct Journal(PathBuf);

impl Journal {
    /// The one of a home.
    pub fn of(home: &Path) -> Self {
        Self(home.join("privacy.log"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Appends a line: the time, what happened, and the fields of `what`.
    pub fn append(&self, what: &str, mut fields: Value) -> io::Result<()> {
        fields["time"] = crate::application::now().0.into();
        fields["what"] = what.into();
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.create(true).append(true).open(&self.0)?;
        // One write, so that two processes do not mix their lines.
        file.write_all(format!("{fields}\n").as_bytes())?;
        file.sync_all()?;
        match self.0.parent() {
            Some(folder) => crate::home::sync_folder(folder),
            None => Ok(()),
        }
    }
}
