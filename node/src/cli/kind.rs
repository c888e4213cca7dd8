//! What a file is, by its first bytes, and which command reads it. A file of
//! another kind, or one in which nothing can be read, is no false proof: it
//! ends with a code of its own, [`Exit::Unread`], and the name of what it is.

use std::{fs::File, io::Read, path::Path};

use anyhow::Context;
use serde_json::Value;
use tally_ledger::{
    block::Header,
    certified::CertifiedHeader,
    checkpoint::Checkpoint,
    consistency_file::{CONSISTENCY_FILE_VERSION, CONSISTENCY_MAGIC, ConsistencyFile},
    evidence::{EVIDENCE_FILE_VERSION, EVIDENCE_MAGIC},
    history::{HISTORY_FILE_VERSION, HISTORY_MAGIC, HistoryFile, MAX_HISTORY_FILE_BYTES},
    note::Note,
    receipt::{FIRST_RECEIPT_FILE_VERSION, RECEIPT_FILE_VERSION, RECEIPT_MAGIC, ReceiptFile},
    receipts::{MAX_RECEIPTS_FILE_BYTES, RECEIPTS_FILE_VERSION, RECEIPTS_MAGIC, ReceiptsFile},
    state_file::{STATE_FILE_VERSION, STATE_MAGIC, StateFile},
    tlog_proof::TLOG_PROOF,
};

use super::exit::{Exit, Failure};

/// No file of any kind is longer.
const MAX_BYTES: usize = if MAX_HISTORY_FILE_BYTES > MAX_RECEIPTS_FILE_BYTES {
    MAX_HISTORY_FILE_BYTES
} else {
    MAX_RECEIPTS_FILE_BYTES
};

/// A longer text is not parsed only to name its kind: what is parsed takes
/// many times the file's size.
const MAX_NAMED_TEXT: usize = 1 << 20;

/// A kind of file that some command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One receipt.
    Receipt,
    /// Many receipts under one proof.
    Receipts,
    /// A leaf of the state.
    State,
    /// All entries of somebody.
    History,
    /// That the log only grew.
    Consistency,
    /// What a validator signed twice.
    Evidence,
    /// A receipt under a checkpoint.
    TlogProof,
    /// A head of the log.
    Checkpoint,
    /// A segment of blocks.
    Blocks,
    /// A genesis.
    Genesis,
    /// A transaction with its signatures.
    Transaction,
    /// A key, secret or public.
    Key,
    /// A validator's public file.
    Validator,
}

use Kind::*;

/// The kinds that begin with a magic, and the versions that are read.
const BINARY: [(Kind, &[u8; 8], &[u8]); 6] = [
    (
        Receipt,
        &RECEIPT_MAGIC,
        &[FIRST_RECEIPT_FILE_VERSION, RECEIPT_FILE_VERSION],
    ),
    (Receipts, &RECEIPTS_MAGIC, &[RECEIPTS_FILE_VERSION]),
    (State, &STATE_MAGIC, &[STATE_FILE_VERSION]),
    (History, &HISTORY_MAGIC, &[HISTORY_FILE_VERSION]),
    (Consistency, &CONSISTENCY_MAGIC, &[CONSISTENCY_FILE_VERSION]),
    (Evidence, &EVIDENCE_MAGIC, &[EVIDENCE_FILE_VERSION]),
];

impl Kind {
    /// What a file is, if its first bytes say so.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let binary = BINARY.iter();
        let mut binary = binary.filter(|(_, magic, _)| bytes.starts_with(&magic[..]));
        if let Some((kind, ..)) = binary.next() {
            return Some(*kind);
        }
        if bytes.starts_with(b"tallyblk") {
            return Some(Blocks);
        }
        Self::of_text(std::str::from_utf8(bytes).ok()?)
    }

    fn of_text(text: &str) -> Option<Self> {
        if text.starts_with(TLOG_PROOF) {
            return Some(TlogProof);
        }
        if Note::parse(text.as_bytes()).is_ok_and(|note| Checkpoint::parse(note.text()).is_some()) {
            return Some(Checkpoint);
        }
        if text.len() >= MAX_NAMED_TEXT {
            return None;
        }
        if text.trim_start().starts_with('{') {
            let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
                return None;
            };
            let has = |name| fields.contains_key(name);
            return match (has("persons"), has("signatures")) {
                (true, _) => Some(Genesis),
                (_, true) => Some(Transaction),
                _ => None,
            };
        }
        let fields: toml::Table = text.parse().ok()?;
        let has = |name| fields.contains_key(name);
        match (has("kind") && has("public"), has("consensus_key")) {
            (true, _) => Some(Key),
            (_, true) => Some(Validator),
            _ => None,
        }
    }

    /// With its article, as messages say it.
    fn name(self) -> &'static str {
        match self {
            Receipt => "a receipt file",
            Receipts => "a file of many receipts",
            State => "a state file",
            History => "a history file",
            Consistency => "a consistency file",
            Evidence => "an evidence file",
            TlogProof => "a tlog-proof",
            Checkpoint => "a checkpoint",
            Blocks => "a file of a node's blocks",
            Genesis => "a genesis file",
            Transaction => "a transaction file",
            Key => "a key file",
            Validator => "a validator's public file",
        }
    }

    /// The command that reads it.
    fn reader(self) -> &'static str {
        match self {
            Receipt | Receipts => "tally receipt verify FILE",
            State => "tally receipt audit FOLDER",
            History => "tally history verify FILE",
            Consistency => "tally consistency verify FILE",
            Evidence => "tally evidence verify FILE",
            TlogProof => "tally receipt verify RECEIPT --checkpoint FILE",
            Checkpoint => "tally checkpoint verify FILE",
            Blocks => "tally verify --blocks FOLDER",
            Genesis => "tally genesis show FILE",
            Transaction => "tally tx show FILE",
            Key => "tally keypair show FILE",
            Validator => "tally genesis create --validator FILE",
        }
    }
}

/// An error of a file that is none of the wanted.
pub(crate) fn unread(why: impl Into<String>) -> anyhow::Error {
    Failure::error(Exit::Unread, why)
}

/// `a receipt file or a file of many receipts`.
fn any_of(wanted: &[Kind]) -> String {
    let names: Vec<&str> = wanted.iter().map(|kind| kind.name()).collect();
    match &names[..] {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        names => names.concat(),
    }
}

/// That a file (or page) is not of the wanted kinds, and what it is.
pub(crate) fn other(place: &str, bytes: &[u8], wanted: &[Kind]) -> anyhow::Error {
    let expected = any_of(wanted);
    unread(match Kind::of(bytes) {
        Some(kind) if !wanted.contains(&kind) => format!(
            "{place} is {}, expected was {expected}; what reads it is `{}`",
            kind.name(),
            kind.reader()
        ),
        _ if bytes.is_empty() => format!("{place} is empty, expected was {expected}"),
        _ => format!("{place} is no file that Tally makes, expected was {expected}"),
    })
}

/// That a file of the wanted kind cannot be decoded, unless it is of another.
pub(crate) fn misread(
    path: &Path,
    bytes: &[u8],
    wanted: Kind,
    why: impl std::fmt::Display,
) -> anyhow::Error {
    let place = path.display().to_string();
    match Kind::of(bytes) {
        Some(kind) if kind != wanted => other(&place, bytes, &[wanted]),
        _ if bytes.is_empty() => other(&place, bytes, &[wanted]),
        _ => unread(format!(
            "{place} cannot be read as {}: {why}",
            wanted.name()
        )),
    }
}

/// All bytes of a file, which must be no folder and no longer than any kind.
pub(crate) fn bytes_of(path: &Path, wanted: &[Kind]) -> anyhow::Result<Vec<u8>> {
    let at = || format!("reading {}, {}", path.display(), any_of(wanted));
    let file = File::open(path).with_context(at)?;
    let metadata = file.metadata().with_context(at)?;
    if metadata.is_dir() {
        return Err(unread(format!(
            "{} is a folder: name a file in it, {}",
            path.display(),
            any_of(wanted)
        )));
    }
    let most = MAX_BYTES as u64 + 1;
    // In one piece: of a secret key no copies are left behind.
    let mut bytes = Vec::with_capacity(metadata.len().min(most) as usize + 1);
    file.take(most).read_to_end(&mut bytes).with_context(at)?;
    if bytes.len() > MAX_BYTES {
        let why = format!("longer than any file that Tally makes ({MAX_BYTES} bytes)");
        return Err(unread(format!("{} is {why}", path.display())));
    }
    Ok(bytes)
}

/// Reads a file of one of the wanted kinds, in a version that is known.
pub(crate) fn read(path: &Path, wanted: &[Kind]) -> anyhow::Result<(Kind, Vec<u8>)> {
    let place = path.display().to_string();
    let bytes = bytes_of(path, wanted)?;
    let kind = Kind::of(&bytes).filter(|kind| wanted.contains(kind));
    let kind = kind.ok_or_else(|| other(&place, &bytes, wanted))?;
    if let Some((_, magic, known)) = BINARY.iter().find(|(of, ..)| *of == kind)
        && let Some(version) = bytes.get(magic.len())
        && !known.contains(version)
    {
        return Err(unread(format!(
            "{place} is {} of version {version}, this program reads up to {}: take a newer one",
            kind.name(),
            known.iter().max().unwrap_or(&0)
        )));
    }
    Ok((kind, bytes))
}

/// The certified headers under which a file proves something.
pub(crate) fn certified(path: &Path) -> anyhow::Result<Vec<CertifiedHeader>> {
    let (kind, bytes) = read(path, &[Receipt, Receipts, State, History, Consistency])?;
    let headers = match kind {
        Receipts => ReceiptsFile::decode(&bytes).map(|file| vec![file.certified]),
        State => StateFile::decode(&bytes).map(|file| vec![file.certified]),
        History => HistoryFile::decode(&bytes).map(|file| vec![file.certified]),
        Consistency => ConsistencyFile::decode(&bytes).map(|file| vec![file.old, file.new]),
        _ => ReceiptFile::decode(&bytes).map(|file| {
            let prices = file.prices.map(|prices| prices.certified);
            [Some(file.certified), prices]
                .into_iter()
                .flatten()
                .collect()
        }),
    };
    headers.map_err(|error| misread(path, &bytes, kind, error.why))
}

/// The same without their certificates.
pub(crate) fn headers(path: &Path) -> anyhow::Result<Vec<Header>> {
    let certified = certified(path)?;
    Ok(certified.into_iter().map(|one| one.header).collect())
}

/// Reads the text of a file of this kind, which may still be another.
pub(crate) fn text(path: &Path, wanted: Kind) -> anyhow::Result<String> {
    let bytes = bytes_of(path, &[wanted])?;
    String::from_utf8(bytes)
        .map_err(|error| misread(path, error.as_bytes(), wanted, "it is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file of these bytes; it must be refused so.
    fn said(bytes: &[u8], wanted: &[Kind]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path, wanted).unwrap_err();
        assert_eq!(Failure::code(&error), Exit::Unread);
        error.to_string()
    }

    #[test]
    fn every_kind_is_known_by_its_first_bytes() {
        for (kind, magic, versions) in BINARY {
            let bytes = [&magic[..], &versions[..1]].concat();
            assert_eq!(Kind::of(&bytes), Some(kind));
            let wanted = if kind == History { State } else { History };
            let said = said(&bytes, &[wanted]);
            assert!(
                said.contains(&format!(
                    "is {}, expected was {}",
                    kind.name(),
                    wanted.name()
                )) && said.ends_with(&format!("`{}`", kind.reader())),
                "{said}"
            );
        }
        let hash = "A".repeat(43) + "=";
        let checkpoint = format!(
            "a/log\n5\n{hash}\n\n\u{2014} a/log {}\n",
            "A".repeat(91) + "="
        );
        for (text, kind) in [
            (TLOG_PROOF, TlogProof),
            (&checkpoint[..], Checkpoint),
            ("tallyblk....", Blocks),
            (r#"{"persons": []}"#, Genesis),
            (r#"{"signatures": {}}"#, Transaction),
            ("kind = \"person\"\npublic = \"\"", Key),
            ("name = \"v0\"\nconsensus_key = \"\"", Validator),
        ] {
            assert_eq!(Kind::of(text.as_bytes()), Some(kind), "{text}");
        }
    }

    #[test]
    fn a_text_is_parsed_only_if_it_is_short() {
        let genesis = |spaces| format!(r#"{}{{"persons": []}}"#, " ".repeat(spaces));
        let key = |spaces| format!("{}kind = ''\npublic = ''", "\n".repeat(spaces));
        let of = |text: String| Kind::of(text.as_bytes());
        assert_eq!(of(genesis(1_000)), Some(Genesis));
        assert_eq!(of(key(1_000)), Some(Key));
        assert_eq!(of(genesis(MAX_NAMED_TEXT)), None);
        assert_eq!(of(key(MAX_NAMED_TEXT)), None);
    }

    #[test]
    fn what_is_of_no_kind_or_of_a_later_version_is_said() {
        let wanted = [Receipt, Receipts];
        assert!(said(b"", &wanted).contains("is empty"));
        let noise = said(b"noise", &wanted);
        assert!(noise.contains("a receipt file or a file of many receipts"));
        let later = said(b"TALLYRCT\x09", &wanted);
        assert!(
            later.contains("version 9, this program reads up to 2"),
            "{later}"
        );
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), &wanted).unwrap_err();
        assert_eq!(Failure::code(&error), Exit::Unread);
        assert!(error.to_string().contains("is a folder"));
    }

    #[test]
    fn what_is_longer_than_any_kind_is_not_cut_and_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = |bytes: usize| {
            file.as_file().set_len(bytes as u64).unwrap();
            bytes_of(file.path(), &[Genesis]).map(|bytes| bytes.len())
        };
        assert_eq!(refused(MAX_BYTES).unwrap(), MAX_BYTES);
        let error = refused(MAX_BYTES + 1).unwrap_err();
        assert_eq!(Failure::code(&error), Exit::Unread);
        assert!(
            error.to_string().contains("longer than any file"),
            "{error}"
        );
    }
}
