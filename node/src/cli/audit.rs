//! `tally receipt audit`: from a folder of receipt and state files and the
//! genesis alone, that nothing is missing, doubled or altered, and that the
//! sums are the ledger's own. The checks themselves are in the ledger's
//! `audit`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    audit::{Audit, AuditReport, ClassReport},
    checkpoint::Finality,
    codec::DecodeError,
    ids::Amount,
    receipt::{PriceCheck, ReceiptFile},
    state_file::StateFile,
};

use super::{
    args::GenesisArg,
    evidence::with_fork,
    exit::{Exit, Failure},
    kind::{self, Kind},
    output::{self, Format},
};

/// Example of the command.
pub(crate) const EXAMPLE: &str = "\
Example:
  tally receipt audit receipts/ --genesis genesis.json

The folder holds *.receipt files, one receipt each, and *.state files of every
class (and of the gateways) at one height: `tally class list --out receipts/`.
Nothing else is read: no node, no network.";

/// Ending of receipt files.
pub(crate) const RECEIPT: &str = "receipt";
/// Ending of state files.
pub(crate) const STATE: &str = "state";

/// Arguments of `receipt audit`.
#[derive(Debug, clap::Args)]
pub(crate) struct AuditArgs {
    /// Folder with the files
    dir: PathBuf,
    #[command(flatten)]
    genesis: GenesisArg,
}

/// Files of a folder with an ending, in the order of their names.
fn files(dir: &Path, ending: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let at = || format!("folder {}", dir.display());
    if dir.is_file() {
        let why = "is a file: name the folder that holds the receipt and state files";
        return Err(kind::unread(format!("{} {why}", dir.display())));
    }
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(dir).with_context(at)? {
        let path = entry.with_context(at)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == ending)
        {
            files.insert(path);
        }
    }
    Ok(files)
}

impl AuditArgs {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let mut audit = Audit::new(&genesis)?;
        let mut exact = 0u64;
        let states = files(&self.dir, STATE)?;
        let receipts = files(&self.dir, RECEIPT)?;
        if states.is_empty() && receipts.is_empty() {
            let why = "has no *.receipt and no *.state files";
            let how = "see `tally receipt get` and `tally class list --out`";
            let message = format!("{} {why}: {how}", self.dir.display());
            return Err(kind::unread(message));
        }
        // A file that cannot be read ends the audit only after all others: one
        // of them may be false.
        let mut unread = None;
        for path in states {
            let file = match read(&path, Kind::State, StateFile::decode) {
                Ok(file) => file,
                Err(error) => {
                    unread.get_or_insert(error);
                    continue;
                }
            };
            let taken = audit.state(&file);
            taken.map_err(|e| invalid(&path, with_fork(e, audit.take_fork(), &genesis)))?;
        }
        if receipts.is_empty()
            && let Some(path) = files(&self.dir, "receipts")?.first()
        {
            let why = "a file of many receipts does not show the debits: fetch each by itself";
            let message = format!("{}: {why}", path.display());
            return Err(Failure::error(Exit::Usage, message));
        }
        for path in receipts {
            let file = match read(&path, Kind::Receipt, ReceiptFile::decode) {
                Ok(file) => file,
                Err(error) => {
                    unread.get_or_insert(error);
                    continue;
                }
            };
            let verified = audit.receipt(&file);
            let verified =
                verified.map_err(|e| invalid(&path, with_fork(e, audit.take_fork(), &genesis)))?;
            exact += u64::from(verified.price == PriceCheck::Exact);
        }
        // Without it nobody knows whether anything is missing.
        if let Some(unread) = unread {
            return Err(unread.context("the audit is not finished"));
        }
        let report = audit.finish().map_err(|e| invalid(&self.dir, e))?;
        output::print(format, &describe(&report, exact))?;
        Ok(Exit::Done)
    }
}

/// Reads and decodes a file of one kind.
fn read<T>(
    path: &Path,
    kind: Kind,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) -> anyhow::Result<T> {
    let (kind, bytes) = kind::read(path, &[kind])?;
    decode(&bytes).map_err(|e| kind::misread(path, &bytes, kind, e.why))
}

fn invalid(path: &Path, error: impl std::fmt::Display) -> anyhow::Error {
    Failure::error(Exit::Invalid, format!("{}: {error}", path.display()))
}

pub(crate) fn amount(sum: u128) -> Value {
    u64::try_from(sum).map_or_else(|_| json!(sum.to_string()), |sum| json!(Amount(sum)))
}

fn describe(report: &AuditReport, exact: u64) -> Value {
    let class = |class: &ClassReport| {
        json!({
            "class": class.number,
            "name": class.name,
            "receipts": class.sums.receipts,
            "cost": amount(class.sums.cost),
            "charged": amount(class.sums.charged),
            "loss": amount(class.sums.loss),
            "issued": class.totals.issued,
            "available": class.totals.available,
            "leased": class.totals.leased,
            "spent": class.totals.spent,
        })
    };
    let journals = report.journals.iter().map(|journal| {
        json!({
            "gateway": journal.gateway,
            "journal": journal.journal,
            "debits": journal.last,
            "end proven": journal.end_proven,
        })
    });
    json!({
        "verified at height": report.header.height,
        "log entries": report.header.log_size,
        // The totals are the state's, which witnesses do not see.
        "finality": Finality::Final.to_string(),
        "receipts": report.receipts,
        "price recomputed exactly": exact,
        "every debit once (I5), sums equal the state's, buckets add up (I1)": "yes",
        "classes": report.classes.iter().map(class).collect::<Vec<_>>(),
        "journals": journals.collect::<Vec<_>>(),
    })
}
