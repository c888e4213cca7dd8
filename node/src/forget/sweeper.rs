//! Drops the details of erased accounts while the node runs, on a thread of
//! its own: file by file as they are sealed, which an erasure makes happen
//! with the next block. What a legal hold keeps is tried again until the hold
//! is gone; what this machine cannot do is logged and tried again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use tally_ledger::ids::{AccountNumber, Height};
use tracing::{info, warn};

use super::{
    Erasure, Erasures, Journal, Rule, SweepError, Swept, erasures::ErasuresError, sweep::Sweep,
};
use crate::{chain::Chain, metrics::Metrics};

/// How often it looks whether a file was sealed or a hold removed.
const EVERY: Duration = Duration::from_millis(500);
/// How long it waits after an error.
const AFTER_ERROR: Duration = Duration::from_secs(20);

/// The thread; it ends, between two files, when this is dropped.
#[derive(Debug)]
pub struct Sweeper {
    erasures: Arc<Erasures>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works with.
pub(crate) struct Parts {
    pub(crate) sweep: Sweep,
    pub(crate) erasures: Arc<Erasures>,
    pub(crate) journal: Journal,
    pub(crate) chain: Arc<Chain>,
    pub(crate) metrics: Metrics,
}

/// An erasure in progress.
#[derive(Debug, Clone, Copy)]
struct Progress {
    erasure: Erasure,
    /// The files that begin below this were looked through.
    next: Height,
    dropped: u64,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    Erasures(#[from] ErasuresError),
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Journal(std::path::PathBuf, std::io::Error),
}

impl Sweeper {
    /// Starts the thread.
    pub(crate) fn start(parts: Parts) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let erasures = parts.erasures.clone();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || run(&parts, &stopped));
        Self {
            erasures,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.erasures.wake();
        // A panic in it has aborted the process, or shows in its log line.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(parts: &Parts, stop: &AtomicBool) {
    let mut progress = BTreeMap::new();
    let mut wait = Duration::ZERO;
    while !stop.load(Ordering::SeqCst) {
        if !wait.is_zero() {
            wait = wait.saturating_sub(EVERY);
            parts.erasures.wait(EVERY);
            continue;
        }
        if let Err(error) = parts.round(&mut progress, stop) {
            warn!(%error, "details of an erased account are still here; trying again");
            wait = AFTER_ERROR;
        }
        parts.erasures.wait(EVERY);
    }
}

impl Parts {
    /// Does what can be done now.
    fn round(
        &self,
        progress: &mut BTreeMap<AccountNumber, Progress>,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let pending = self.erasures.pending();
        self.metrics.erasures_pending.set(pending.len() as i64);
        if pending.is_empty() {
            return Ok(());
        }
        let holds = self.sweep.holds.read().map_err(SweepError::from)?;
        for erasure in pending.into_iter().filter(|e| !holds.keep(e.account)) {
            let known = progress.get(&erasure.account).copied();
            let mut now = known
                .filter(|known| known.erasure == erasure)
                .unwrap_or(Progress {
                    erasure,
                    next: Height(1),
                    dropped: 0,
                });
            while !stop.load(Ordering::SeqCst) && self.step(&mut now)? {
                progress.insert(erasure.account, now);
            }
            if now.next > erasure.height {
                self.finish(&now)?;
                progress.remove(&erasure.account);
            }
        }
        self.metrics
            .erasures_pending
            .set(self.erasures.pending().len() as i64);
        Ok(())
    }

    /// Looks through the next sealed file; whether there was one.
    fn step(&self, now: &mut Progress) -> Result<bool, Error> {
        let Erasure {
            account,
            entries,
            height,
            ..
        } = now.erasure;
        let files = self.sweep.rewriter.reader().files();
        let file = files
            .into_iter()
            .find(|(first, _)| *first >= now.next && *first <= height);
        let Some((first, Some(last))) = file else {
            return Ok(false);
        };
        let mut rule = Rule {
            erased: [(account, entries)].into(),
            ..Rule::default()
        };
        let swept = self.sweep.file(first, last.min(height), &mut rule, false);
        // Also after an error, and if nothing is left to drop: that may have
        // been done before one.
        self.chain.forget_cached(last);
        let swept = swept?;
        if swept.held > 0 {
            // The hold came just now.
            return Ok(false);
        }
        if swept.files > 0 {
            self.note(now.erasure, first, &swept)?;
        }
        now.dropped += swept.dropped;
        now.next = Height(last.0 + 1);
        Ok(true)
    }

    fn note(&self, erasure: Erasure, first: Height, swept: &Swept) -> Result<(), Error> {
        self.metrics.details_dropped.inc_by(swept.dropped);
        let fields = json!({
            "account": erasure.account,
            "erased in block": erasure.height,
            "file": first,
            "details": swept.dropped,
            "bytes": swept.before.saturating_sub(swept.after),
        });
        self.append("details of an erased account dropped", fields)
    }

    fn append(&self, what: &str, fields: Value) -> Result<(), Error> {
        let written = self.journal.append(what, fields);
        written.map_err(|error| Error::Journal(self.journal.path().to_owned(), error))
    }

    fn finish(&self, done: &Progress) -> Result<(), Error> {
        let Erasure {
            account, height, ..
        } = done.erasure;
        // What a crash left renamed may not be durable, and not in the journal.
        self.sweep.rewriter.sync().map_err(SweepError::from)?;
        let fields = json!({
            "account": account,
            "erased in block": height,
            "details": done.dropped,
        });
        self.append("all details of an erased account are gone", fields)?;
        self.erasures.finish(&done.erasure)?;
        info!(
            account = account.0,
            height = height.0,
            details = done.dropped,
            "an erased account's details are gone from the block files"
        );
        Ok(())
    }
}
