//! What the journal's records add up to. The same fold runs live and over
//! the files after a crash, so a record that does not fit is damage there and
//! a bug here.

use std::collections::{BTreeMap, HashMap};

use tally_ledger::{
    debit::Position,
    hash::{Context, Hash},
    ids::{DebitNumber, GatewayNumber, JournalNumber, LeaseNumber},
};

use super::names::Names;
use super::record::{DebitBytes, Head, HoldId, HoldRecord, LeaseSent, Record, SegmentHead};

/// A record that contradicts those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub &'static str);

/// A debit that is not known to be on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    /// Its number in the current journal.
    pub number: DebitNumber,
    /// Its content.
    pub debit: Box<DebitBytes>,
    /// The journal's running hash after it.
    pub hash: Hash,
}

/// A debit of an earlier journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The earlier journal.
    pub journal: JournalNumber,
    /// Its number there.
    pub number: DebitNumber,
    /// Its content.
    pub debit: Box<DebitBytes>,
}

/// The journal's running hash after a debit: keyed(h || batch leaf hash).
pub fn running_hash(
    before: &Hash,
    gateway: GatewayNumber,
    journal: JournalNumber,
    number: DebitNumber,
    debit: &DebitBytes,
) -> Hash {
    let position = Position {
        gateway,
        journal,
        number,
    };
    let leaf = debit.raw().leaf_hash(&position);
    let mut hasher = blake3::Hasher::new_keyed(journal_key());
    hasher.update(&before.0).update(&leaf.0);
    Hash(hasher.finalize().into())
}

fn journal_key() -> &'static [u8; 32] {
    static KEY: std::sync::OnceLock<[u8; 32]> = std::sync::OnceLock::new();
    KEY.get_or_init(|| Context::Journal.key())
}

/// The fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Identity and position.
    pub base: SegmentHead,
    /// Leases that were asked for and are not known to be closed.
    pub leases: BTreeMap<LeaseNumber, LeaseSent>,
    /// Holds that are not resolved.
    pub holds: HashMap<HoldId, HoldRecord>,
    /// Debits of earlier journals that are not resolved, by their hold.
    pub carried: BTreeMap<HoldId, Carried>,
    /// Idempotency keys in use.
    pub names: Names,
}

impl State {
    /// A state from which a segment starts.
    pub fn new(base: SegmentHead) -> Self {
        State {
            // Which segment it came from says nothing of the state.
            base: SegmentHead {
                first: false,
                ..base
            },
            leases: BTreeMap::new(),
            holds: HashMap::new(),
            carried: BTreeMap::new(),
            names: Names::default(),
        }
    }

    /// Where the journal stands.
    pub fn head(&self) -> Head {
        self.base.head
    }

    /// Takes in one record. Gives the debit that it added, if it did.
    pub fn apply(&mut self, record: &Record) -> Result<Option<Unproven>, Misfit> {
        match record {
            Record::Synced { .. } | Record::SnapshotEnd => {}
            Record::Segment(_) => return Err(Misfit("a segment begins inside another")),
            Record::Opened { journal } => {
                if *journal != self.base.head.journal {
                    return Err(Misfit("another journal was opened"));
                }
                self.base.opened = true;
            }
            Record::LeaseSent(lease) => {
                self.leases.insert(lease.number, *lease);
            }
            Record::LeaseClosed(number) => {
                self.leases.remove(number);
            }
            Record::HoldMade(hold) => self.hold_made(hold)?,
            Record::Progress { hold, usage } => {
                let hold = self.holds.get_mut(hold);
                hold.ok_or(Misfit("progress of an unknown hold"))?.mark = Some(*usage);
            }
            Record::HoldChanged {
                hold,
                lease,
                limit,
                worst,
            } => {
                let hold = self.holds.get_mut(hold);
                let hold = hold.ok_or(Misfit("an unknown hold was changed"))?;
                (hold.lease, hold.limit, hold.worst) = (*lease, *limit, *worst);
            }
            Record::Debit { number, debit } => return self.debit(*number, debit).map(Some),
            Record::Void(hold) => {
                let resolved = self.holds.remove(hold);
                resolved.ok_or(Misfit("an unknown hold was voided"))?;
                self.names.voided(hold);
            }
            Record::HoldNamed { hold, name, at } => {
                let open = self.holds.contains_key(hold);
                self.names.insert(*name, *hold, *at, open);
            }
            Record::Carried {
                journal,
                number,
                debit,
            } => self.carried(*journal, *number, debit),
            Record::CarriedProven { journal, last } => self
                .carried
                .retain(|_, carried| carried.journal != *journal || carried.number > *last),
        }
        Ok(None)
    }

    fn hold_made(&mut self, hold: &HoldRecord) -> Result<(), Misfit> {
        if hold.id.journal == self.base.head.journal {
            self.base.last_hold = self.base.last_hold.max(hold.id.number);
        }
        match self.holds.insert(hold.id, *hold) {
            None => Ok(()),
            Some(_) => Err(Misfit("a hold was made twice")),
        }
    }

    fn carried(&mut self, journal: JournalNumber, number: DebitNumber, debit: &DebitBytes) {
        let carried = Carried {
            journal,
            number,
            debit: Box::new(debit.clone()),
        };
        self.carried.insert(hold_of(debit), carried);
    }

    fn debit(&mut self, number: DebitNumber, debit: &DebitBytes) -> Result<Unproven, Misfit> {
        let head = &mut self.base.head;
        if number.0 != head.last.0 + 1 {
            return Err(Misfit("a debit's number is not the next"));
        }
        let hold = hold_of(debit);
        // Each hold resolves once (I5, I8).
        if self.holds.remove(&hold).is_none() && self.carried.remove(&hold).is_none() {
            return Err(Misfit("a debit settles an unknown hold"));
        }
        self.names.settled(&hold);
        head.hash = running_hash(&head.hash, self.base.gateway, head.journal, number, debit);
        head.last = number;
        Ok(Unproven {
            number,
            debit: Box::new(debit.clone()),
            hash: head.hash,
        })
    }

    /// The records from which a new segment starts, framed.
    pub fn snapshot(&self, first: bool) -> Vec<u8> {
        let mut out = Vec::new();
        Record::Segment(SegmentHead { first, ..self.base }).frame(&mut out);
        for lease in self.leases.values() {
            Record::LeaseSent(*lease).frame(&mut out);
        }
        for hold in self.holds.values() {
            Record::HoldMade(Box::new(*hold)).frame(&mut out);
        }
        for carried in self.carried.values() {
            let carried = carried.clone();
            Record::Carried {
                journal: carried.journal,
                number: carried.number,
                debit: carried.debit,
            }
            .frame(&mut out);
        }
        for (name, hold, at) in self.names.iter() {
            Record::HoldNamed { hold, name, at }.frame(&mut out);
        }
        Record::SnapshotEnd.frame(&mut out);
        out
    }
}

/// The hold that a debit settles.
pub fn hold_of(debit: &DebitBytes) -> HoldId {
    let detail = debit.read().detail;
    HoldId {
        journal: detail.hold_journal,
        number: detail.hold,
    }
}
