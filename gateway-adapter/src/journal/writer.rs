//! The one thread that writes: takes what has gathered, appends it, fsyncs,
//! wakes those who wait, and begins and removes segments.

use std::{io, sync::PoisonError, time::Instant};

use tally_ledger::ids::DebitNumber;
use tokio::sync::oneshot;

use super::{Limits, Shared, Store, Unproven, record::Head, record::Record};

/// Turns of waiting without a record after which the writer sleeps.
const AWAKE: u32 = 100;

pub(super) struct Writer {
    pub(super) shared: std::sync::Arc<Shared>,
    pub(super) store: Box<dyn Store>,
    pub(super) limits: Limits,
    /// Segments and the last debit at the end of each.
    pub(super) segments: Vec<(u64, DebitNumber)>,
    /// Length of the last one.
    pub(super) length: u64,
    /// What it started from: a large state must not end a segment at once.
    pub(super) start: u64,
}

struct Batch {
    bytes: Vec<u8>,
    waiters: Vec<oneshot::Sender<()>>,
    debits: Vec<Unproven>,
    head: Head,
    proven: DebitNumber,
    /// What the next segment starts from, if this one is full.
    snapshot: Option<Vec<u8>>,
}

impl Writer {
    pub(super) fn run(mut self) {
        while let Some(batch) = self.next() {
            if let Err(error) = self.write(batch) {
                tracing::error!(%error, "the journal cannot be written; free the disk and start again");
                self.fail();
                return;
            }
        }
    }

    fn fail(&self) {
        let mut inner = self.shared.inner();
        inner.failed = true;
        inner.waiters.clear();
        self.shared.failed.send_replace(true);
    }

    /// Waits for something to write; `None` when closing and all is written.
    ///
    /// A record that is not urgent wakes nobody while records come often: the
    /// writer looks once per `linger` by itself, and takes it along with the
    /// next urgent one. It sleeps only after [`AWAKE`] turns without any.
    fn next(&self) -> Option<Batch> {
        let mut inner = self.shared.inner();
        let (mut since, mut idle) = (None, 0);
        while !inner.urgent && !inner.closing {
            if inner.buffer.is_empty() && idle >= AWAKE {
                inner.asleep = true;
                inner = self
                    .shared
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
                Some(self.limits.linger)
            } else {
                let waited = since.get_or_insert_with(Instant::now).elapsed();
                self.limits.linger.checked_sub(waited)
            };
            let Some(rest) = rest else {
                break;
            };
            let waited = self.shared.wake.wait_timeout(inner, rest);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.asleep = false;
        if inner.buffer.is_empty() {
            return None;
        }
        inner.urgent = false;
        let grown = self.length - self.start + inner.buffer.len() as u64;
        let full = grown > self.limits.segment_bytes;
        Some(Batch {
            bytes: std::mem::take(&mut inner.buffer),
            waiters: std::mem::take(&mut inner.waiters),
            debits: std::mem::take(&mut inner.debits),
            head: inner.state.head(),
            proven: inner.proven,
            snapshot: full.then(|| inner.state.snapshot(false)),
        })
    }

    fn write(&mut self, batch: Batch) -> io::Result<()> {
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
            self.shared.unproven().extend(batch.debits);
            self.shared.debits.notify_one();
        }
        for waiter in batch.waiters {
            // Nobody has to wait.
            let _ = waiter.send(());
        }
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
        while self.segments.len() > 1 && self.segments[0].1 <= proven {
            let (number, _) = self.segments.remove(0);
            self.store.remove(number)?;
        }
        Ok(())
    }
}
