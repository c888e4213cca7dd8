//! The journal: a promise is written here, and fsynced, before it is given.
//!
//! - Records are appended in one order; many waiters share an fsync (group
//!   commit), each is woken after the fsync that made its record durable.
//! - There is a thread that writes. A thread that serves and has nothing to do
//!   but to wait writes itself, while the disk is quick: that wakes nobody.
//! - A debit's number and content are fixed by its record (I5). Only durable
//!   debits are handed out to be sent (I8).
//! - Each hold is resolved once, by a debit or a void.
//! - Segments are removed only once the chain has proven their debits with
//!   the running hash that this journal has.
//! - After a write or fsync that failed or panicked nothing more is promised:
//!   every waiter gets [`JournalFailed`], and the gateway stops.
//!
//! What a start does with what it finds is decided in [`start`].

mod durable;
pub mod names;
pub mod pending;
pub mod record;
pub mod recovery;
pub mod start;
pub mod state;
pub mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};

use tally_ledger::{
    debit::Debit,
    hash::Hash,
    ids::{DebitNumber, JournalNumber, Time},
};
use tokio::sync::{Notify, watch};

pub use durable::Durable;
pub use names::{Name, Standing};
pub use pending::Pending;
pub use record::{DebitBytes, Head, HoldId, HoldRecord, LeaseSent, Record};
pub use recovery::{Contents, Recovered};
pub use state::{Carried, State, Unproven};
pub use store::{Directory, Store};
pub(crate) use writer::write_here;

use durable::Rooms;
use writer::Writer;

/// Nothing more can be promised: a write or fsync failed, or the journal was
/// closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal cannot be written")]
pub struct JournalFailed;

/// Why the chain's word about this journal cannot be true of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chain has journal {chain:?}, ours has another hash or fewer debits")]
pub struct Diverged {
    /// What the chain has.
    pub chain: Head,
}

/// How soon a record must be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A promise depends on it, and something else is done meanwhile.
    Now,
    /// The same once somebody waits for it, or nobody ever will, on a thread
    /// that writes itself; anywhere else the same as now.
    Waited,
    /// With the next urgent record, or after a few milliseconds.
    Soon,
}

/// Sizes and delays.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A segment ends when it has grown by more bytes than this.
    pub segment_bytes: u64,
    /// How long a record that is not urgent may wait.
    pub linger: Duration,
    /// A disk whose last write took no longer is quick: a thread that serves
    /// may wait for it.
    pub quick: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            segment_bytes: 64 * 1024 * 1024,
            linger: Duration::from_millis(5),
            quick: Duration::from_millis(2),
        }
    }
}

struct Inner {
    state: State,
    /// Framed records that are not written yet.
    buffer: Vec<u8>,
    /// How many records were appended since the journal was opened.
    records: u64,
    /// How many of them were taken to be written.
    taken: u64,
    /// Debits in the buffer; handed out once durable.
    debits: Vec<Unproven>,
    urgent: bool,
    /// The writer sleeps until it is woken; otherwise it looks by itself.
    asleep: bool,
    failed: bool,
    closing: bool,
    /// Last debit proven on the chain.
    proven: DebitNumber,
}

pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Locked before `inner`.
    writer: Mutex<Writer>,
    rooms: Rooms,
    /// Microseconds that the last write took.
    took: AtomicU64,
    /// See [`Limits::quick`].
    quick: Duration,
    wake: Condvar,
    /// Durable debits that are not proven, in order.
    unproven: Mutex<VecDeque<Unproven>>,
    /// Told when a debit becomes durable.
    debits: Notify,
    failed: watch::Sender<bool>,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unproven(&self) -> MutexGuard<'_, VecDeque<Unproven>> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({:?})", self.head())
    }
}

/// An open journal. Dropping it writes what is buffered.
pub struct Journal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Continues from `contents`, whose last segment is open in `store`.
    pub fn resume(store: Box<dyn Store>, contents: Contents, limits: Limits) -> Self {
        let before = contents.unproven.first().map_or_else(
            || contents.state.head().last,
            |debit| DebitNumber(debit.number.0 - 1),
        );
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                state: contents.state,
                buffer: Vec::new(),
                records: 0,
                taken: 0,
                debits: Vec::new(),
                urgent: false,
                asleep: false,
                failed: false,
                closing: false,
                proven: before,
            }),
            writer: Mutex::new(Writer {
                store,
                segment_bytes: limits.segment_bytes,
                segments: contents.segments,
                length: contents.length,
                start: 0,
            }),
            rooms: Rooms::new(),
            took: AtomicU64::new(0),
            quick: limits.quick,
            wake: Condvar::new(),
            unproven: Mutex::new(contents.unproven.into()),
            debits: Notify::new(),
            failed: watch::Sender::new(false),
        });
        let writing = shared.clone();
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writing.run(limits.linger))
            .expect("a thread can be started when the program starts");
        Journal {
            shared,
            thread: Mutex::new(Some(thread)),
        }
    }

    /// Wakes those who wait on a thread that serves, from within; runs on that
    /// thread as long as it does. Without it each is woken from outside.
    pub async fn usher(&self) {
        self.shared.rooms.usher().await;
    }

    fn push(&self, inner: &mut Inner, record: &Record, urgency: Urgency) -> Durable {
        if inner.failed || inner.closing {
            return Durable::never(&self.shared);
        }
        record.frame(&mut inner.buffer);
        inner.records += 1;
        // On a thread that writes itself nobody else is hurried. Where another
        // one is to write, it is told at once: to ask it later would take the
        // lock a second time.
        let number = inner.records;
        let here = match urgency {
            Urgency::Now => self.shared.ask_here(number),
            Urgency::Waited => self.shared.is_written_here(),
            Urgency::Soon => false,
        };
        self.shared.wake(inner, urgency != Urgency::Soon && !here);
        let asked = urgency != Urgency::Waited || !here;
        Durable::record(&self.shared, number, asked)
    }

    /// Appends a record that is neither a hold nor a debit.
    pub fn append(&self, record: &Record, urgency: Urgency) -> Durable {
        let mut inner = self.shared.inner();
        let applied = inner.state.apply(record);
        debug_assert!(applied.is_ok(), "{applied:?}: {record:?}");
        self.push(&mut inner, record, urgency)
    }

    /// Resolves when all that was recorded so far is durable.
    pub fn barrier(&self) -> Durable {
        // Says again what is known since the journal was opened.
        let journal = self.number();
        self.append(&Record::Opened { journal }, Urgency::Now)
    }

    /// What is known of an Idempotency-Key at a ledger time.
    pub fn standing(&self, name: &Name, now: Time) -> Standing {
        let mut inner = self.shared.inner();
        inner.state.names.expire(now);
        let state = &inner.state;
        match state.names.get(name) {
            Some(hold) => Standing::Used {
                hold,
                running: state.holds.contains_key(&hold),
            },
            None if state.names.has_room(name.api_key) => Standing::Free,
            None => Standing::Full,
        }
    }

    /// Makes a hold: gives `hold` the next number in this journal. The
    /// record's id is overwritten.
    pub fn hold(&self, hold: &mut HoldRecord, urgency: Urgency) -> Durable {
        self.hold_named(hold, None, urgency)
    }

    /// The same, for a request with an Idempotency-Key; `named` is the key
    /// and the ledger's time. One fsync makes both durable.
    pub fn hold_named(
        &self,
        hold: &mut HoldRecord,
        named: Option<(Name, Time)>,
        urgency: Urgency,
    ) -> Durable {
        let mut inner = self.shared.inner();
        hold.id = HoldId {
            journal: inner.state.head().journal,
            number: inner.state.base.last_hold + 1,
        };
        let record = Record::HoldMade(Box::new(*hold));
        let applied = inner.state.apply(&record);
        debug_assert!(applied.is_ok(), "{applied:?}");
        let made = self.push(&mut inner, &record, urgency);
        let Some((name, at)) = named else {
            return made;
        };
        let record = Record::HoldNamed {
            hold: hold.id,
            name,
            at,
        };
        let applied = inner.state.apply(&record);
        debug_assert!(applied.is_ok(), "{applied:?}");
        let both = self.push(&mut inner, &record, urgency);
        // Before the first one, which may lock it.
        drop(inner);
        both
    }

    /// Marks what a hold has used so far; nothing if it is resolved.
    pub fn progress(&self, hold: HoldId, usage: tally_ledger::price::Usage) {
        let mut inner = self.shared.inner();
        let record = Record::Progress { hold, usage };
        if inner.state.apply(&record).is_ok() {
            drop(self.push(&mut inner, &record, Urgency::Now));
        }
    }

    /// Journals what a running hold is from now on; `None` if it is resolved.
    ///
    /// Recovery reads a prefix of what was appended. So what a smaller hold
    /// frees may be reserved again at once: the other hold's record stands
    /// behind this one. What a larger or moved hold gains holds once this is
    /// durable.
    pub fn change(&self, hold: &HoldRecord, urgency: Urgency) -> Option<Durable> {
        let mut inner = self.shared.inner();
        let record = Record::HoldChanged {
            hold: hold.id,
            lease: hold.lease,
            limit: hold.limit,
            worst: hold.worst,
        };
        inner.state.apply(&record).ok()?;
        Some(self.push(&mut inner, &record, urgency))
    }

    /// Settles a hold with the journal's next debit; `None` if the hold is
    /// resolved already.
    pub fn debit(&self, debit: &Debit) -> Option<(DebitNumber, Durable)> {
        let mut inner = self.shared.inner();
        let number = DebitNumber(inner.state.head().last.0 + 1);
        let debit = Box::new(DebitBytes::of(debit));
        let record = Record::Debit { number, debit };
        let unproven = inner.state.apply(&record).ok()??;
        inner.debits.push(unproven);
        Some((number, self.push(&mut inner, &record, Urgency::Waited)))
    }

    /// Resolves a hold that served nothing; `None` if it is resolved already.
    pub fn void(&self, hold: HoldId) -> Option<Durable> {
        let mut inner = self.shared.inner();
        let record = Record::Void(hold);
        inner.state.apply(&record).ok()?;
        Some(self.push(&mut inner, &record, Urgency::Soon))
    }

    /// A look at the state, under the lock.
    pub fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.shared.inner().state)
    }

    /// Where the journal stands, durable or not.
    pub fn head(&self) -> Head {
        self.look(State::head)
    }

    /// Durable debits above `after`, at most `most`, in order: those that can
    /// be one batch, so of one version.
    pub fn unproven_after(&self, after: DebitNumber, most: usize) -> Vec<Unproven> {
        let unproven = self.shared.unproven();
        let first = unproven.front().map_or(0, |debit| debit.number.0);
        let skip = (after.0 + 1).saturating_sub(first) as usize;
        let next = unproven.iter().skip(skip).take(most);
        let version = |debit: &Unproven| debit.debit.version();
        let of = next.clone().next().map(version);
        next.take_while(|debit| Some(version(debit)) == of)
            .cloned()
            .collect()
    }

    /// How many durable debits are not proven.
    pub fn unproven(&self) -> usize {
        self.shared.unproven().len()
    }

    /// Waits until a debit may have become durable.
    pub async fn debits(&self) {
        self.shared.debits.notified().await;
    }

    /// Takes in what the chain has proven of this journal: forgets the debits
    /// up to there, and their segments, if its hash is ours.
    pub fn proven(&self, chain: Head) -> Result<(), Diverged> {
        let diverged = Err(Diverged { chain });
        let mut inner = self.shared.inner();
        if chain.journal != inner.state.head().journal {
            return diverged;
        }
        if chain.last <= inner.proven {
            return Ok(());
        }
        let mut unproven = self.shared.unproven();
        let count = (chain.last.0 - inner.proven.0) as usize;
        let Some(last) = unproven.get(count - 1) else {
            return diverged;
        };
        if last.number != chain.last || last.hash != chain.hash {
            return diverged;
        }
        unproven.drain(..count);
        inner.proven = chain.last;
        Ok(())
    }

    /// Last debit that is proven on the chain.
    pub fn proven_last(&self) -> DebitNumber {
        self.shared.inner().proven
    }

    /// Resolves when the journal has failed.
    pub async fn failure(&self) {
        let mut failed = self.shared.failed.subscribe();
        // The sender lives as long as `self`.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// Whether it can still promise.
    pub fn works(&self) -> bool {
        !*self.shared.failed.borrow()
    }

    /// Writes what is buffered, and ends the thread that writes.
    pub fn close(&self) {
        self.shared.inner().closing = true;
        self.shared.wake.notify_one();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        // A thread that serves may still write.
        drop(self.shared.writer.lock());
    }

    /// The journal's number.
    pub fn number(&self) -> JournalNumber {
        self.head().journal
    }

    /// The running hash, durable or not.
    pub fn hash(&self) -> Hash {
        self.head().hash
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}
