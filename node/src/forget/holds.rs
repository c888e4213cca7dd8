//! Legal holds: accounts, or all of them, whose details this node must keep.
//! They are this operator's own and say nothing to other nodes.
//!
//! `HOME/holds.json` lists them; it is replaced as a whole. A hold that
//! `tally hold add` has written is kept by everything that comes after it:
//! whoever drops details takes `HOME/holds.lock`, reads the file, drops, and
//! lets go, one block file at a time; whoever changes the file takes the lock
//! too. A file that cannot be read lets nothing be dropped.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tally_ledger::ids::AccountNumber;

use super::Journal;

/// One legal hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Whose details; `None`: everybody's.
    pub account: Option<u32>,
    /// Why, such as a case number.
    pub reason: String,
    /// Since when, ms since 1970.
    pub since: u64,
}

/// Whose details must stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    all: bool,
    accounts: BTreeSet<u32>,
}

impl Holds {
    /// Of these accounts; `None`: of everybody.
    pub fn of(accounts: &[Option<u32>]) -> Self {
        Self {
            all: accounts.contains(&None),
            accounts: accounts.iter().flatten().copied().collect(),
        }
    }

    /// Whether an account's details must stay.
    pub fn keep(&self, account: AccountNumber) -> bool {
        self.all || self.accounts.contains(&account.0)
    }
}

/// Why holds cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// A file of the home.
    #[error("{path}: {error}; nothing is dropped as long as legal holds cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The list is not what it should be.
    #[error("{path}: {why}; nothing is dropped as long as legal holds cannot be read")]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is such a hold already.
    #[error("there is a hold on {0} already; remove it first to change its reason")]
    There(String),
    /// There is no such hold.
    #[error("there is no hold on {0}")]
    NotThere(String),
}

/// The holds of a home.
#[derive(Debug, Clone)]
pub struct HoldsFile(PathBuf);

fn whom(account: Option<u32>) -> String {
    account.map_or("all accounts".to_owned(), |number| {
        format!("account {number}")
    })
}

impl HoldsFile {
    /// The one of a home.
    pub fn of(home: &Path) -> Self {
        Self(home.to_owned())
    }

    fn path(&self) -> PathBuf {
        self.0.join("holds.json")
    }

    fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, HoldError> {
        result.map_err(|error| HoldError::File {
            path: path.into(),
            error,
        })
    }

    /// Nobody changes holds, and nobody else drops details, until the file is
    /// dropped.
    pub fn lock(&self) -> Result<File, HoldError> {
        let path = self.0.join("holds.lock");
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let file = Self::at(&path, options.open(&path))?;
        Self::at(&path, file.lock())?;
        Ok(file)
    }

    /// All holds; none if there is no file.
    pub fn list(&self) -> Result<Vec<Hold>, HoldError> {
        let path = self.path();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => Self::at(&path, text)?,
        };
        serde_json::from_str(&text).map_err(|error| HoldError::Form {
            path,
            why: error.to_string(),
        })
    }

    /// Whose details must stay.
    pub fn read(&self) -> Result<Holds, HoldError> {
        let accounts: Vec<_> = self.list()?.iter().map(|hold| hold.account).collect();
        Ok(Holds::of(&accounts))
    }

    /// Adds a hold. When this returns, nothing of what it keeps is being
    /// dropped, or will be.
    pub fn add(&self, hold: Hold) -> Result<(), HoldError> {
        let _lock = self.lock()?;
        let mut holds = self.list()?;
        if holds.iter().any(|other| other.account == hold.account) {
            return Err(HoldError::There(whom(hold.account)));
        }
        let what = json!({"account": hold.account, "reason": hold.reason});
        holds.push(hold);
        self.write(&holds)?;
        self.note("hold added", what)
    }

    /// Removes a hold, and says why it was there.
    pub fn remove(&self, account: Option<u32>, reason: &str) -> Result<Hold, HoldError> {
        let _lock = self.lock()?;
        let mut holds = self.list()?;
        let at = holds.iter().position(|hold| hold.account == account);
        let at = at.ok_or_else(|| HoldError::NotThere(whom(account)))?;
        let removed = holds.remove(at);
        self.note(
            "hold removed",
            json!({"account": account, "reason": reason}),
        )?;
        self.write(&holds)?;
        Ok(removed)
    }

    fn note(&self, what: &str, fields: serde_json::Value) -> Result<(), HoldError> {
        let journal = Journal::of(&self.0);
        Self::at(journal.path(), journal.append(what, fields))
    }

    fn write(&self, holds: &[Hold]) -> Result<(), HoldError> {
        let (path, temporary) = (self.path(), self.0.join("holds.new"));
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(true).write(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            file.write_all(serde_json::to_string_pretty(holds)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            crate::home::sync_folder(&self.0)
        };
        Self::at(&path, write())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(account: Option<u32>) -> Hold {
        Hold {
            account,
            reason: "case 12".to_owned(),
            since: 5,
        }
    }

    #[test]
    fn holds_are_kept_and_what_was_done_to_them_is_noted() {
        let home = tempfile::tempdir().unwrap();
        let file = HoldsFile::of(home.path());
        assert_eq!(file.read().unwrap(), Holds::default());
        file.add(hold(Some(7))).unwrap();
        file.add(hold(None)).unwrap();
        assert!(matches!(file.add(hold(Some(7))), Err(HoldError::There(_))));
        assert!(file.read().unwrap().keep(AccountNumber(1)));
        assert_eq!(file.remove(None, "closed").unwrap(), hold(None));
        let holds = file.read().unwrap();
        assert!(holds.keep(AccountNumber(7)) && !holds.keep(AccountNumber(1)));
        assert!(matches!(
            file.remove(Some(8), "closed"),
            Err(HoldError::NotThere(_))
        ));
        let log = fs::read_to_string(Journal::of(home.path()).path()).unwrap();
        let what: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let said: Vec<_> = what.iter().map(|line| &line["what"]).collect();
        assert_eq!(said, ["hold added", "hold added", "hold removed"]);
        assert_eq!(
            (&what[0]["account"], &what[0]["reason"]),
            (&json!(7), &json!("case 12"))
        );
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_not_no_hold() {
        let home = tempfile::tempdir().unwrap();
        let file = HoldsFile::of(home.path());
        fs::write(home.path().join("holds.json"), "[{\"account\": 7}]").unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("nothing is dropped"), "{error}");
    }
}
