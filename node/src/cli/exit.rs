//! Exit codes: one table, the same for every command, so that scripts can
//! tell "never" from "not now" from "nobody knows yet".

use std::process::ExitCode;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; healthy.
    Done = 0,
    /// This machine or a file failed.
    Failed = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// The ledger refuses it for good.
    Refused = 3,
    /// The ledger refuses it now.
    NotNow = 4,
    /// The deadline passed; the outcome is open.
    Unknown = 5,
    /// No node answers.
    Unreachable = 6,
    /// Something that was to be verified is false.
    Invalid = 7,
    /// Blocks are final, but a validator is missing or behind.
    Degraded = 8,
    /// No new block is final.
    NotFinal = 9,
    /// A file is not one that the command reads: nothing was verified.
    Unread = 10,
}

/// The table that every `--help` of the top level ends with.
pub(crate) const TABLE: &str = "\
Exit codes:
  0  done; `status`: healthy
  1  failed on this machine: a file, a key, the disk; nothing was submitted
  2  the command line is wrong
  3  refused by the ledger for good: these bytes will never be accepted
  4  refused now: the same bytes may be accepted later
  5  unknown: the deadline passed; ask again with the id that was printed
  6  no node answers
  7  verification failed: a file, proof or sum is false
  8  `status`: degraded, a validator is missing or behind
  9  `status`: not final, no new block is decided
  10 not a file that this command reads: of another kind, or damaged";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Exit {
    /// Takes in how one of several files ended. What is false outweighs
    /// everything; of other codes the first is kept.
    pub(crate) fn add(&mut self, code: Exit) {
        if code == Exit::Invalid || *self == Exit::Done {
            *self = code;
        }
    }

    /// Takes in the error of one of several files, and gives what is listed of
    /// that file. The others are looked at all the same.
    pub(crate) fn take(&mut self, error: anyhow::Error) -> String {
        let code = Failure::code(&error);
        self.add(code);
        let word = match code {
            Exit::Invalid => "NO",
            Exit::Unread => "NOT READ",
            _ => "NOT VERIFIED",
        };
        format!("{word}: {error:#}")
    }
}

/// An error that knows its exit code. Any other error is [`Exit::Failed`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The code.
    pub(crate) exit: Exit,
    /// What happened and what to do about it.
    pub(crate) message: String,
}

impl Failure {
    /// An error with a code.
    pub(crate) fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        let message = message.into();
        anyhow::Error::new(Failure { exit, message })
    }

    /// The code of any error.
    pub(crate) fn code(error: &anyhow::Error) -> Exit {
        error
            .downcast_ref::<Failure>()
            .map_or(Exit::Failed, |failure| failure.exit)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn context_keeps_the_code_and_other_errors_are_failures() {
        let refused = Err::<(), _>(Failure::error(Exit::Refused, "no")).context("row 3");
        assert_eq!(Failure::code(&refused.unwrap_err()), Exit::Refused);
        assert_eq!(Failure::code(&anyhow::anyhow!("disk")), Exit::Failed);
    }

    #[test]
    fn of_several_files_a_false_one_outweighs_all_and_else_the_first_counts() {
        let error = |exit| Failure::error(exit, "why");
        let others = [Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Unread];
        for other in others {
            let mut exit = Exit::Done;
            assert_eq!(exit.take(error(Exit::Invalid)), "NO: why");
            exit.take(error(other));
            assert_eq!(exit, Exit::Invalid, "{other:?} later");
            let mut exit = Exit::Done;
            exit.take(error(other));
            assert_eq!(exit, other);
            exit.take(error(Exit::NotNow));
            assert_eq!(exit, other, "the first counts");
            exit.take(error(Exit::Invalid));
            assert_eq!(exit, Exit::Invalid, "{other:?} earlier");
        }
        let mut exit = Exit::Done;
        assert_eq!(exit.take(error(Exit::Unread)), "NOT READ: why");
        assert_eq!(exit.take(error(Exit::Usage)), "NOT VERIFIED: why");
    }

    #[test]
    fn the_table_names_every_code() {
        for code in 0..=10 {
            assert!(TABLE.contains(&format!("\n  {code:<3}")), "{code}");
        }
    }
}
