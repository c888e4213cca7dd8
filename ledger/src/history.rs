//! History files: all entries of an account, of a gateway's journals, or of
//! control, between two heights, and the proof that none is missing; checked
//! with the genesis alone.
//!
//! ```text
//! magic "TALLYHIS" | version u8 = 1 | certified header |
//! subject: tag u32 (0 account u32, 1 gateway u32, 2 control) |
//! from u64 | to u64 | entries: list of (log index u64, entry) |
//! path: list of hashes | end (0, or 1 and a state proof)
//! entry: tag u32 0, receipt leaf 86; or tag u32 1, event leaf 58, event
//! ```
//!
//! Completeness rests on numbers that the validators certified with each
//! entry: an account's entries are 1, 2, 3, ..., so are control entries, and
//! so are the debits of each of a gateway's journals, which are themselves
//! numbered and each closed by the entry that opens the next. A file shows a
//! row of such entries without a gap, from before `from` (or the very first)
//! to after `to` (or the last that the state counts under the same header).
//! What stands between is then all there is.
//!
//! What it leaves out: a gateway's leases (they are entries of their
//! accounts), the details behind receipts (a receipt file has them).

use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    block::Header,
    certified::{CertifiedHeader, HeaderError, Trust},
    codec::{self, DecodeError, List},
    debit::Position,
    entry::{Entry, Event, EventLeaf, Receipt},
    gateway::Gateway,
    genesis::{Genesis, GenesisError},
    hash::Hash,
    ids::{AccountNumber, DebitNumber, GatewayNumber, Height, JournalNumber},
    merkle::verify_multi,
    receipt::layout::{self, file, read_file},
    state::Chain,
    state_proof::{StateProof, StateProofError},
    tree::Table,
};

/// First bytes of a history file.
pub const HISTORY_MAGIC: [u8; 8] = *b"TALLYHIS";
/// Version of the file's layout.
pub const HISTORY_FILE_VERSION: u8 = 1;
/// Most entries of a history file, the neighbours among them: more than a
/// block has.
pub const MAX_HISTORY_ENTRIES: usize = 150_000;
/// Most hashes of its path: no leaf needs more than 64.
pub const MAX_HISTORY_PATH: usize = 64 * MAX_HISTORY_ENTRIES;
/// Most bytes of a history file.
pub const MAX_HISTORY_FILE_BYTES: usize = 32 * 1024 * 1024;

/// Whose entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// Tag 0. All entries of an account.
    Account(AccountNumber),
    /// Tag 1. Receipts of a gateway, and the openings of its journals.
    Gateway(GatewayNumber),
    /// Tag 2. All entries that are neither receipt nor lease.
    Control,
}

impl Subject {
    /// Whether an entry is in its row.
    pub fn has(self, entry: &Entry) -> bool {
        match (self, entry) {
            (Subject::Account(number), entry) => entry.account() == Some(number),
            (Subject::Control, Entry::Receipt(_)) => false,
            (Subject::Control, Entry::Event(_, event)) => event.is_control(),
            (Subject::Gateway(number), Entry::Receipt(r)) => r.position.gateway == number,
            (Subject::Gateway(number), Entry::Event(_, event)) => {
                matches!(event, Event::JournalOpened { gateway, .. } if *gateway == number)
            }
        }
    }

    /// The leaf that says where the row ends.
    pub fn end(self) -> (Table, u32) {
        match self {
            Subject::Account(number) => (Table::Accounts, number.0),
            Subject::Gateway(number) => (Table::Gateways, number.0),
            Subject::Control => (Table::Chain, 0),
        }
    }
}

/// An entry in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// Tag 0.
    Receipt(#[serde(with = "layout::leaf")] Receipt),
    /// Tag 1.
    Event(#[serde(with = "layout::event_leaf")] EventLeaf, Event),
}

impl From<Entry> for Shown {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Receipt(receipt) => Shown::Receipt(receipt),
            Entry::Event(leaf, event) => Shown::Event(leaf, event),
        }
    }
}

impl From<Shown> for Entry {
    fn from(shown: Shown) -> Self {
        match shown {
            Shown::Receipt(receipt) => Entry::Receipt(receipt),
            Shown::Event(leaf, event) => Entry::Event(leaf, event),
        }
    }
}

/// A row of entries and its proofs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryFile {
    /// The header under whose roots everything is shown.
    pub certified: CertifiedHeader,
    /// Whose entries.
    pub subject: Subject,
    /// First height that is asked about.
    pub from: Height,
    /// Last height that is asked about; not above the header's.
    pub to: Height,
    /// By log index: the entries, with one neighbour before and one behind
    /// where there is one.
    pub entries: List<(u64, Shown), MAX_HISTORY_ENTRIES>,
    /// Shows them all in the log of `header.log_size` entries
    /// ([`crate::merkle::multi`]).
    pub path: List<Hash, MAX_HISTORY_PATH>,
    /// Where the row ends by the state of the header, if no neighbour behind
    /// is shown.
    pub end: Option<StateProof>,
}

/// What a history file proved: these, and no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedHistory {
    /// The certified header.
    pub header: Header,
    /// Whose entries.
    pub subject: Subject,
    /// First height.
    pub from: Height,
    /// Last height.
    pub to: Height,
    /// All of the subject's entries of these heights, with their log indexes.
    pub entries: Vec<(u64, Entry)>,
}

/// Why a history file proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The genesis cannot start a chain.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// The header is not certified.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The heights asked about are not in order, or beyond the header.
    #[error("heights {from} to {to} under the header of height {header}")]
    Heights {
        /// First.
        from: Height,
        /// Last.
        to: Height,
        /// The header's.
        header: Height,
    },
    /// The entries are not those of the certified log.
    #[error("the entries are not where the file says in the certified log")]
    NotInLog,
    /// An event is not the one that its leaf names.
    #[error("the event at log index {0} is not its leaf's")]
    Event(u64),
    /// An entry of somebody else.
    #[error("the entry at log index {0} is not the subject's")]
    Other(u64),
    /// More than one entry before or after the heights asked about.
    #[error("the entry at log index {0} is outside the heights asked about")]
    Outside(u64),
    /// An entry is missing before this one.
    #[error("an entry is missing before log index {0}")]
    Gap(u64),
    /// An entry may be missing after the last one that is shown.
    #[error("nothing shows that the last entry shown is the last one")]
    OpenEnd,
    /// The state says that there are more.
    #[error("the state counts entries that the file does not show")]
    Missing,
    /// The proof of the end does not hold.
    #[error("end: {0}")]
    State(#[from] StateProofError),
    /// The proof of the end is about something else.
    #[error("the end is not proven by the subject's own leaf")]
    OtherLeaf,
}

/// How far a row has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// The number of its last entry.
    Number(u64),
    /// The last journal, and the last debit in it.
    Debit(JournalNumber, DebitNumber),
}

impl Reached {
    fn start(subject: Subject) -> Self {
        match subject {
            Subject::Gateway(_) => Reached::Debit(JournalNumber(0), DebitNumber(0)),
            Subject::Account(_) | Subject::Control => Reached::Number(0),
        }
    }

    /// How far an entry of the subject comes, whatever was before it.
    fn by(subject: Subject, entry: &Entry) -> Self {
        match (subject, entry) {
            (Subject::Account(_), Entry::Receipt(receipt)) => Reached::Number(receipt.entry.into()),
            (Subject::Account(_), Entry::Event(leaf, _)) => Reached::Number(leaf.entry.into()),
            (_, Entry::Receipt(receipt)) => {
                let Position {
                    journal, number, ..
                } = receipt.position;
                Reached::Debit(journal, number)
            }
            (Subject::Gateway(_), Entry::Event(_, Event::JournalOpened { journal, .. })) => {
                Reached::Debit(*journal, DebitNumber(0))
            }
            (_, Entry::Event(leaf, _)) => Reached::Number(leaf.control),
        }
    }

    /// Whether `entry` is the next one after this.
    fn leads_to(self, subject: Subject, entry: &Entry) -> bool {
        match (self, Self::by(subject, entry)) {
            (Reached::Number(last), Reached::Number(number)) => last.checked_add(1) == Some(number),
            (Reached::Debit(journal, last), Reached::Debit(its, number)) => match entry {
                Entry::Receipt(_) => its == journal && last.0.checked_add(1) == Some(number.0),
                Entry::Event(_, Event::JournalOpened { closed_last, .. }) => {
                    journal.0.checked_add(1) == Some(its.0) && *closed_last == last
                }
                Entry::Event(..) => false,
            },
            _ => false,
        }
    }

    /// Where the state says that the row ends; `None` for bytes that are not
    /// the subject's leaf.
    fn stated(subject: Subject, leaf: Option<&[u8]>) -> Option<Self> {
        let Some(leaf) = leaf else {
            return Some(Self::start(subject));
        };
        Some(match subject {
            Subject::Account(_) => {
                let account: Account = codec::decode(leaf, leaf.len()).ok()?;
                Reached::Number(account.entries.into())
            }
            Subject::Gateway(_) => {
                let gateway: Gateway = codec::decode(leaf, leaf.len()).ok()?;
                Reached::Debit(gateway.journal, gateway.last_debit)
            }
            Subject::Control => {
                let chain: Chain = codec::decode(leaf, leaf.len()).ok()?;
                Reached::Number(chain.controls)
            }
        })
    }
}

impl HistoryFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        file(HISTORY_MAGIC, HISTORY_FILE_VERSION, self)
    }

    /// Reads a file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let limit = MAX_HISTORY_FILE_BYTES;
        let read = read_file(HISTORY_MAGIC, &[HISTORY_FILE_VERSION], bytes, limit);
        read.map(|(_, file)| file)
    }

    /// Checks everything in the file, starting from the genesis.
    pub fn verify(&self, genesis: &Genesis) -> Result<VerifiedHistory, HistoryError> {
        self.verify_with(&mut Trust::new(genesis)?)
    }

    /// The same as one of many files.
    pub fn verify_with(&self, trust: &mut Trust<'_>) -> Result<VerifiedHistory, HistoryError> {
        trust.check(&self.certified)?;
        let header = self.certified.header;
        if self.from > self.to || self.to > header.height {
            return Err(HistoryError::Heights {
                from: self.from,
                to: self.to,
                header: header.height,
            });
        }
        let entries = self.shown(&header)?;
        let reached = self.check_row(&entries)?;
        self.check_end(&entries, reached, &header)?;
        let asked = |(_, entry): &(u64, Entry)| {
            let height = entry.height();
            self.from <= height && height <= self.to
        };
        Ok(VerifiedHistory {
            header,
            subject: self.subject,
            from: self.from,
            to: self.to,
            entries: entries.into_iter().filter(asked).collect(),
        })
    }

    /// The entries, each the one that its leaf names, all in the log.
    fn shown(&self, header: &Header) -> Result<Vec<(u64, Entry)>, HistoryError> {
        let shown = |(index, shown): &(u64, Shown)| (*index, Entry::from(shown.clone()));
        let entries: Vec<(u64, Entry)> = self.entries.iter().map(shown).collect();
        for (index, entry) in &entries {
            if let Entry::Event(leaf, event) = entry
                && (leaf.kind != event.kind() || leaf.event != event.hash())
            {
                return Err(HistoryError::Event(*index));
            }
        }
        let leaves = entries
            .iter()
            .map(|(index, entry)| (*index, entry.leaf_hash()));
        let leaves: Vec<(u64, Hash)> = leaves.collect();
        if !verify_multi(&leaves, header.log_size, &self.path, &header.log_root) {
            return Err(HistoryError::NotInLog);
        }
        Ok(entries)
    }

    /// A row of the subject's entries without a gap, with at most one
    /// neighbour on either side. How far it comes.
    fn check_row(&self, entries: &[(u64, Entry)]) -> Result<Reached, HistoryError> {
        let mut reached = Reached::start(self.subject);
        let last = entries.len().wrapping_sub(1);
        for (at, (index, entry)) in entries.iter().enumerate() {
            if !self.subject.has(entry) {
                return Err(HistoryError::Other(*index));
            }
            let height = entry.height();
            let before = height < self.from;
            if (before && at > 0) || (height > self.to && at < last) {
                return Err(HistoryError::Outside(*index));
            }
            // A neighbour before stands where it stands.
            if !before && !reached.leads_to(self.subject, entry) {
                return Err(HistoryError::Gap(*index));
            }
            reached = Reached::by(self.subject, entry);
        }
        Ok(reached)
    }

    /// Nothing of the heights asked about comes after the last one shown.
    fn check_end(
        &self,
        entries: &[(u64, Entry)],
        reached: Reached,
        header: &Header,
    ) -> Result<(), HistoryError> {
        if entries
            .last()
            .is_some_and(|(_, entry)| entry.height() > self.to)
        {
            return Ok(());
        }
        let proof = self.end.as_ref().ok_or(HistoryError::OpenEnd)?;
        if (proof.table, proof.number) != self.subject.end() {
            return Err(HistoryError::OtherLeaf);
        }
        let leaf = proof.verify(&header.state_root)?;
        let stated = Reached::stated(self.subject, leaf).ok_or(HistoryError::OtherLeaf)?;
        if stated != reached {
            return Err(HistoryError::Missing);
        }
        Ok(())
    }
}
