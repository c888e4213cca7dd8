//! `HOME/privacy.log`: who asked for holds and what was dropped, one JSON
//! object per line, only ever appended to, fsynced before anything is said to
//! be done. It names accounts by their numbers and repeats no detail.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
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
        options.create(true).read(true).append(true).mode(0o600);
        let mut file = options.open(&self.0)?;
        // What a crash or a full disk cut off stays a line of its own.
        let begin = if ends_in_a_line(&file)? { "" } else { "\n" };
        // One write, so that two processes do not mix their lines.
        file.write_all(format!("{begin}{fields}\n").as_bytes())?;
        file.sync_all()?;
        match self.0.parent() {
            Some(folder) => crate::home::sync_folder(folder),
            None => Ok(()),
        }
    }
}

fn ends_in_a_line(file: &File) -> io::Result<bool> {
    let Some(at) = file.metadata()?.len().checked_sub(1) else {
        return Ok(true);
    };
    let mut last = [0];
    file.read_exact_at(&mut last, at)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::of(folder.path());
        journal.append("first", json!({"n": 1})).unwrap();
        let whole = fs::read_to_string(journal.path()).unwrap();
        fs::write(journal.path(), &whole[..whole.len() - 5]).unwrap();
        journal.append("second", json!({"n": 2})).unwrap();
        journal.append("third", json!({"n": 3})).unwrap();
        let text = fs::read_to_string(journal.path()).unwrap();
        let lines: Vec<Result<Value, _>> = text.lines().map(serde_json::from_str).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].is_err());
        let what = |line: &Result<Value, _>| line.as_ref().unwrap()["what"].clone();
        assert_eq!(
            (what(&lines[1]), what(&lines[2])),
            ("second".into(), "third".into())
        );
    }
}
