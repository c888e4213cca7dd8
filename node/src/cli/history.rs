//! `tally history`: all that is recorded of somebody between two heights, as
//! files that prove that nothing is missing. To verify, the files and the
//! genesis are enough; no node is asked.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tally_ledger::{
    certified::Trust,
    checkpoint::Finality,
    entry::Entry,
    history::{HistoryFile, Subject, VerifiedHistory},
    ids::{AccountNumber, GatewayNumber, Height},
};
use tally_proto::v1::{self, get_history_request::Of};

use super::{
    args::{GenesisArg, ProofFiles, runtime},
    client::{Client, NodeArg, failure},
    evidence::unproven,
    exit::{Exit, Failure},
    finality::{WitnessArgs, invalid},
    keys::write_new_file,
    kind::{self, Kind},
    output::{self, Format},
};

/// Ending of history files.
pub(crate) const HISTORY: &str = "history";

/// Histories: all entries of somebody, and proof that none is missing
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HistoryCommand {
    /// Fetch a history from a node as files, and verify it
    #[command(
        after_help = "Example:\n  tally history get --account 7 --from 1 --to 2000 --out ann \
        --genesis genesis.json\n\nWrites ann-1.history, and more files if one does not hold \
        all; each names its heights."
    )]
    Get(Get),
    /// Verify history files with nothing but the genesis
    #[command(
        after_help = "Example:\n  tally history verify ann-*.history --genesis genesis.json\n\n\
        The files of one subject must follow each other without a gap in their heights."
    )]
    Verify(ProofFiles),
}

/// Arguments of `history get`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("of").required(true)))]
pub(crate) struct Get {
    /// All entries of an account
    #[arg(long, group = "of", value_name = "NUMBER")]
    account: Option<u32>,
    /// Receipts of a gateway, and the openings of its journals
    #[arg(long, group = "of", value_name = "NUMBER")]
    gateway: Option<u32>,
    /// Entries that are neither receipts nor leases
    #[arg(long, group = "of")]
    control: bool,
    /// First height; 0 is the genesis
    #[arg(long, default_value_t = 0, value_name = "HEIGHT")]
    from: u64,
    /// Last height; without it the last there is
    #[arg(
        long,
        default_value_t = 0,
        value_name = "HEIGHT",
        hide_default_value = true
    )]
    to: u64,
    /// What the files' names begin with
    #[arg(long, value_name = "PREFIX")]
    out: PathBuf,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    witness: WitnessArgs,
    #[command(flatten)]
    node: NodeArg,
}

impl HistoryCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            HistoryCommand::Get(get) => get.run(format),
            HistoryCommand::Verify(files) => verify_all(&files, format),
        }
    }
}

impl Get {
    fn of(&self) -> Of {
        match (self.account, self.gateway) {
            (Some(account), _) => Of::Account(account),
            (_, Some(gateway)) => Of::Gateway(gateway),
            _ => Of::Control(true),
        }
    }

    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let mut trust = Trust::new(&genesis)?;
        let measure = self.witness.open(&genesis)?;
        let mut rows = Vec::new();
        let runtime = runtime()?;
        let mut client = runtime.block_on(self.node.connect_to(&genesis))?;
        let (mut from, mut to) = (self.from, self.to);
        loop {
            let (bytes, _) = runtime.block_on(fetch(&mut client, self.of(), from, to))?;
            let file = HistoryFile::decode(&bytes).map_err(invalid)?;
            let verified = prove(&file, &mut trust)?;
            // Without a last height it is that of the first answer.
            to = if to == 0 {
                verified.header.height.0
            } else {
                to
            };
            if (verified.subject, verified.from.0) != (self.subject(), from) {
                let why = "the node's file is of another history; ask another node";
                return Err(Failure::error(Exit::Invalid, why.to_owned()));
            }
            let finality = measure.header(&verified.header)?;
            let path = self.path(rows.len() + 1);
            write_new_file(&path, &bytes, 0o644)?;
            rows.push(row(&path, &verified, &finality));
            if verified.to.0 >= to {
                break;
            }
            from = verified.to.0 + 1;
        }
        output::print(format, &rows)?;
        Ok(Exit::Done)
    }

    fn subject(&self) -> Subject {
        match self.of() {
            Of::Account(number) => Subject::Account(AccountNumber(number)),
            Of::Gateway(number) => Subject::Gateway(GatewayNumber(number)),
            Of::Control(_) => Subject::Control,
        }
    }

    /// `PREFIX-1.history`, ...
    fn path(&self, number: usize) -> PathBuf {
        let mut name = self.out.clone().into_os_string();
        name.push(format!("-{number}.{HISTORY}"));
        name.into()
    }
}

/// Verifies files, and that those of one subject leave no gap.
fn verify_all(files: &ProofFiles, format: Format) -> anyhow::Result<Exit> {
    let genesis = files.genesis.read()?;
    let mut trust = Trust::new(&genesis)?;
    let measure = files.witness.open(&genesis)?;
    let mut rows = Vec::new();
    let mut exit = Exit::Done;
    let mut proven = Vec::new();
    for path in &files.files {
        let verified = read(path).and_then(|file| {
            let verified = prove(&file, &mut trust)?;
            let finality = measure.header(&verified.header)?;
            Ok((verified, finality))
        });
        match verified {
            Ok((verified, finality)) => {
                proven.push((verified.subject, verified.from, verified.to, rows.len()));
                rows.push(row(path, &verified, &finality));
            }
            Err(error) => {
                let why = exit.take(error);
                rows.push(json!({"file": path, "verified": why}));
            }
        }
    }
    for (at, first, last) in gaps(proven) {
        exit.add(Exit::Invalid);
        let gap = format!("NO: heights {first} to {last} before this file are in none");
        rows[at]["verified"] = json!(gap);
    }
    output::print(format, &rows)?;
    Ok(exit)
}

/// Heights that are missing between files of one subject, in whatever order
/// they were given: the place of the file behind the gap, and the gap.
fn gaps(mut proven: Vec<(Subject, Height, Height, usize)>) -> Vec<(usize, u64, u64)> {
    proven.sort_unstable();
    let mut gaps = Vec::new();
    for of_one in proven.chunk_by(|a, b| a.0 == b.0) {
        let mut covered = of_one[0].2;
        for (_, from, to, at) in of_one {
            if from.0 > covered.0.saturating_add(1) {
                gaps.push((*at, covered.0 + 1, from.0 - 1));
            }
            covered = covered.max(*to);
        }
    }
    gaps
}

/// A history file from a node, and the height from which the next one goes on;
/// 0: there is none.
pub(crate) async fn fetch(
    client: &mut Client,
    of: Of,
    from_height: u64,
    to_height: u64,
) -> anyhow::Result<(Vec<u8>, u64)> {
    let request = v1::GetHistoryRequest {
        of: Some(of),
        from_height,
        to_height,
    };
    let answer = client.audit.get_history(request).await;
    let answer = answer.map_err(|e| failure(&e))?.into_inner();
    Ok((answer.file.to_vec(), answer.next_height))
}

fn read(path: &Path) -> anyhow::Result<HistoryFile> {
    let (kind, bytes) = kind::read(path, &[Kind::History])?;
    HistoryFile::decode(&bytes).map_err(|e| kind::misread(path, &bytes, kind, e.why))
}

fn prove(file: &HistoryFile, trust: &mut Trust<'_>) -> anyhow::Result<VerifiedHistory> {
    file.verify_with(trust).map_err(|e| unproven(trust, e))
}

fn row(path: &Path, verified: &VerifiedHistory, finality: &Finality) -> Value {
    let receipts = verified
        .entries
        .iter()
        .filter_map(|(_, entry)| match entry {
            Entry::Receipt(receipt) => Some(receipt),
            Entry::Event(..) => None,
        });
    let charged: u128 = receipts
        .clone()
        .map(|receipt| u128::from(receipt.charged.0))
        .sum();
    json!({
        "file": path,
        "verified": "yes, complete",
        "of": subject_name(verified.subject),
        "from": verified.from,
        "to": verified.to,
        "entries": verified.entries.len(),
        "receipts": receipts.count(),
        "charged": super::audit::amount(charged),
        "under height": verified.header.height,
        "finality": finality.to_string(),
    })
}

fn subject_name(subject: Subject) -> String {
    match subject {
        Subject::Account(number) => format!("account {number}"),
        Subject::Gateway(number) => format!("gateway {number}"),
        Subject::Control => "control".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_in_any_order_and_per_subject() {
        let ann = Subject::Account(AccountNumber(0));
        let bob = Subject::Account(AccountNumber(1));
        let file = |subject, from, to, at| (subject, Height(from), Height(to), at);
        // As a shell sorts ann-1, ann-10, ann-2.
        let files = vec![
            file(ann, 0, 9, 0),
            file(ann, 90, 99, 1),
            file(ann, 10, 89, 2),
        ];
        assert_eq!(gaps(files), []);
        let files = vec![file(ann, 200, 300, 0), file(ann, 0, 100, 1)];
        assert_eq!(gaps(files), [(0, 101, 199)]);
        let files = vec![
            file(ann, 0, 100, 0),
            file(bob, 0, 100, 1),
            file(ann, 200, 300, 2),
        ];
        assert_eq!(gaps(files), [(2, 101, 199)]);
        // One within another one hides nothing.
        let files = vec![
            file(ann, 0, 100, 0),
            file(ann, 5, 6, 1),
            file(ann, 101, 102, 2),
        ];
        assert_eq!(gaps(files), []);
    }
}
