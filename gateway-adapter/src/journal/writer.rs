//! Writing: takes what has gathered, appends it, fsyncs, wakes those who wait,
//! and begins and removes segments.
//!
//! One thread is there for it. With little to do that costs each request two
//! threads that wake each other; so a thread that serves writes itself when it
//! has nothing else to do than to wait ([`write_here`]). It does not while many
//! wait, nor for a slow disk: what else arrives on it would wait as well. Then
//! it wakes the writer, once for all that has gathered.

use std::{
    cell::RefCell,
    io,
    sync::{Arc, PoisonError, TryLockError, atomic::Ordering},
    time::{Duration, Instant},
};

use tally_ledger::ids::DebitNumber;

use super::{Inner, Shared, Store, Unproven, record::Head, record::Record};
use crate::cores;

/// Turns of waiting without a record after which the writer sleeps.
const AWAKE: u32 = 100;
/// More than so many waiting on a thread are worth waking the one that writes.
pub(super) const FEW: usize = 4;

pub(super) struct Writer {
    pub(super) store: Box<dyn Store>,
    /// A segment ends when it has grown by more.
    pub(super) segment_bytes: u64,
    /// Segments and the last debit at the end of each.
    pub(super) segments: Vec<(u64, DebitNumber)>,
    /// Length of the last one.
    pub(super) length: u64,
    /// What it started from: a large state must not end a segment at once.
    pub(super) start: u64,
}

struct Batch {
    bytes: Vec<u8>,
    /// Number of its last record.
    last: u64,
    debits: Vec<Unproven>,
    head: Head,
    proven: DebitNumber,
    /// What the next segment starts from, if this one is full.
    snapshot: Option<Vec<u8>>,
}

thread_local! {
    /// The journal for which this thread writes when it has nothing to do, and
    /// the last record that somebody waits for.
    static ASKED: RefCell<Option<(Arc<Shared>, u64)>> = const { RefCell::new(None) };
}

/// Writes what somebody on this thread waits for. For a thread that serves and
/// has nothing else to do now.
pub(crate) fn write_here() {
    if let Some((shared, number)) = ASKED.take() {
        cores::hold_up(|| shared.write_up_to(number));
    }
}

/// Ends all promises when it is dropped, unless that is taken out of it: by an
/// error, and by a panic, since what was taken to be written is in no buffer
/// any more.
struct Failing<'a>(Option<&'a Shared>);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.fail();
        }
    }
}

impl Shared {
    /// Wakes the writer for a record, if it would not look at it by itself.
    pub(super) fn wake(&self, inner: &mut Inner, urgent: bool) {
        let wake = inner.asleep || (urgent && !inner.urgent);
        inner.asleep = false;
        inner.urgent |= urgent;
        if wake {
            self.wake.notify_one();
        }
    }

    /// Has the writer write all that there is.
    pub(super) fn hurry(&self) {
        self.hurry_in(&mut self.inner());
    }

    fn hurry_in(&self, inner: &mut Inner) {
        if !inner.buffer.is_empty() {
            self.wake(inner, true);
        }
    }

    /// Nothing more becomes durable.
    pub(super) fn fail(&self) {
        // Known before a record is refused, and before anybody who waits is
        // told.
        self.failed.send_replace(true);
        self.inner().failed = true;
        self.rooms.fail();
        // The writer ends.
        self.wake.notify_one();
    }

    /// Whether this thread writes what is waited for on it: it serves, and the
    /// disk is quick.
    pub(super) fn is_written_here(&self) -> bool {
        let took = self.took.load(Ordering::Relaxed);
        cores::here() != 0 && u128::from(took) <= self.quick.as_micros()
    }

    /// Has this thread write a record once it has nothing else to do; false
    /// if it does not.
    pub(super) fn ask_here(self: &Arc<Self>, number: u64) -> bool {
        self.is_written_here()
            && ASKED.with_borrow_mut(|asked| match asked {
                Some((shared, last)) => {
                    *last = number.max(*last);
                    Arc::ptr_eq(shared, self)
                }
                None => {
                    *asked = Some((self.clone(), number));
                    true
                }
            })
    }

    /// Somebody waits for a record.
    pub(super) fn ask(self: &Arc<Self>, number: u64) {
        if !self.ask_here(number) {
            self.hurry();
        }
    }

    pub(super) fn write_up_to(&self, number: u64) {
        if self.rooms.is_durable(number) {
            return;
        }
        // Where many wait, many others are about to arrive.
        if self.rooms.waiting_here() > FEW {
            return self.hurry();
        }
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            // What the last one had taken is lost.
            Err(TryLockError::Poisoned(_)) => return self.fail(),
            // Others write.
            Err(TryLockError::WouldBlock) => return self.hurry(),
        };
        self.write(&mut writer, |writer, inner| {
            // That is not done at once.
            if writer.is_full(inner) || writer.is_over(inner.proven) {
                self.hurry_in(inner);
                return None;
            }
            writer.take(inner)
        });
    }

    /// The thread that writes.
    pub(super) fn run(&self, linger: Duration) {
        while self.wait(linger) {
            let Ok(mut writer) = self.writer.lock() else {
                return self.fail();
            };
            self.write(&mut writer, |writer, inner| writer.take(inner));
        }
    }

    /// Writes what `take` takes. If that does not come to its end, nothing
    /// more is promised.
    fn write(&self, writer: &mut Writer, take: impl FnOnce(&Writer, &mut Inner) -> Option<Batch>) {
        let mut failing = Failing(Some(self));
        let batch = take(writer, &mut self.inner());
        match batch.map_or(Ok(()), |batch| writer.write(self, batch)) {
            Ok(()) => failing.0 = None,
            Err(error) => {
                tracing::error!(%error, "the journal cannot be written; free the disk and start again");
            }
        }
    }

    /// Waits for something to write; `false` when closing and all is written,
    /// or when nothing can be written any more.
    ///
    /// A record that is not urgent wakes nobody while records come often: the
    /// writer looks once per `linger` by itself, and takes it along with the
    /// next urgent one. It sleeps only after [`AWAKE`] turns without any.
    fn wait(&self, linger: Duration) -> bool {
        let mut inner = self.inner();
        let (mut since, mut idle) = (None, 0);
        let mut taken = inner.taken;
        while !inner.urgent && !inner.closing && !inner.failed {
            if taken != inner.taken {
                // What it had seen is written; what is there now came later.
                (taken, since) = (inner.taken, None);
            }
            if inner.buffer.is_empty() && idle >= AWAKE {
                inner.asleep = true;
                inner = self
                    .wake
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner);
                // Whoever woke it has cleared the mark.
                idle = if inner.asleep { idle } else { 0 };
                continue;
            }
            let rest = if inner.buffer.is_empty() {
                since = None;
                idle += 1;
                Some(linger)
            } else {
                let waited = since.get_or_insert_with(Instant::now).elapsed();
                linger.checked_sub(waited)
            };
            let Some(rest) = rest else {
                break;
            };
            let waited = self.wake.wait_timeout(inner, rest);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.asleep = false;
        !(inner.failed || inner.closing && inner.buffer.is_empty())
    }
}

impl Writer {
    /// Whether what there is fills the segment.
    fn is_full(&self, inner: &Inner) -> bool {
        let grown = self.length - self.start + inner.buffer.len() as u64;
        grown > self.segment_bytes
    }

    /// Whether a segment can be removed: all of its debits are proven, and it
    /// is not the last one.
    fn is_over(&self, proven: DebitNumber) -> bool {
        self.segments.len() > 1 && self.segments[0].1 <= proven
    }

    fn take(&self, inner: &mut Inner) -> Option<Batch> {
        inner.urgent = false;
        if inner.buffer.is_empty() || inner.failed {
            return None;
        }
        inner.taken = inner.records;
        Some(Batch {
            snapshot: self.is_full(inner).then(|| inner.state.snapshot(false)),
            bytes: std::mem::take(&mut inner.buffer),
            last: inner.records,
            debits: std::mem::take(&mut inner.debits),
            head: inner.state.head(),
            proven: inner.proven,
        })
    }

    fn write(&mut self, shared: &Shared, batch: Batch) -> io::Result<()> {
        let began = Instant::now();
        let mut bytes = Vec::with_capacity(batch.bytes.len() + 32);
        let offset = self.length;
        Record::Synced { offset }.frame(&mut bytes);
        bytes.extend_from_slice(&batch.bytes);
        self.store.append(&bytes)?;
        self.store.sync()?;
        self.length += bytes.len() as u64;
        if let Some(last) = self.segments.last_mut() {
            last.1 = batch.head.last;
        }
        if !batch.debits.is_empty() {
            shared.unproven().extend(batch.debits);
            shared.debits.notify_one();
        }
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.took.store(took, Ordering::Relaxed);
        shared.rooms.open(batch.last);
        if let Some(snapshot) = batch.snapshot {
            self.rotate(&snapshot, batch.head.last)?;
        }
        self.trim(batch.proven)
    }

    fn rotate(&mut self, snapshot: &[u8], last: DebitNumber) -> io::Result<()> {
        let number = self.segments.last().map_or(1, |(number, _)| number + 1);
        self.store.create(number)?;
        self.store.append(snapshot)?;
        self.store.sync()?;
        self.segments.push((number, last));
        self.length = snapshot.len() as u64;
        self.start = self.length;
        Ok(())
    }

    /// Removes segments whose debits are all proven, except the last.
    fn trim(&mut self, proven: DebitNumber) -> io::Result<()> {
        while self.is_over(proven) {
            let (number, _) = self.segments.remove(0);
            self.store.remove(number)?;
        }
        Ok(())
    }
}
