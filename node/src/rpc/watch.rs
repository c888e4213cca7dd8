//! Watch: every block from a height on. History is read from disk until the
//! reader has caught up, then blocks come as they are committed.
//!
//! Nothing is buffered for a reader: its next message is made when there is
//! room to send it. What a reader holds meanwhile is a place in the list of
//! blocks that all share, so a reader that stalls or idles costs some hundred
//! bytes, and slows nobody else down. One that is further behind than it may
//! be is dropped with the height to continue from.
//!
//! At each block the caller's key and rights are looked up again: who lost
//! them is told so before the block that took them is shown.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, stream};
use tally_ledger::{entry::Entry, ids::Height};
use tally_proto::{Local, Problem, v1};
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tonic::Status;

use super::{
    gate::{Gate, Visit},
    reads::Reads,
    rules::Ask,
    unreadable,
};
use crate::view::{CommittedBlock, View};

/// Entries in one message; a larger block comes in several.
const ENTRIES_PER_MESSAGE: usize = 2_000;

/// What the service answers with.
pub(super) type Blocks = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

/// What a watcher asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter {
    control_only: bool,
    headers_only: bool,
}

impl From<&v1::WatchRequest> for Filter {
    fn from(request: &v1::WatchRequest) -> Self {
        Self {
            control_only: request.control_only,
            headers_only: request.headers_only,
        }
    }
}

impl Filter {
    /// What it discloses.
    pub(super) fn ask(self) -> Ask {
        match self {
            Filter {
                headers_only: true, ..
            } => Ask::Chain,
            Filter {
                control_only: true, ..
            } => Ask::Control,
            _ => Ask::Everything,
        }
    }

    fn wants(self, entry: &Entry) -> bool {
        match entry {
            _ if self.headers_only => false,
            Entry::Receipt(_) => !self.control_only,
            Entry::Event(leaf, _) => !self.control_only || leaf.control != 0,
        }
    }
}

/// A block that is being sent, from its entry `from` on.
struct Part {
    block: Arc<CommittedBlock>,
    from: usize,
}

impl Part {
    /// The next message of the block, and whether it is the last one.
    fn message(&mut self, filter: Filter) -> (v1::WatchResponse, bool) {
        let block = &self.block;
        let mut entries = Vec::new();
        let wanted = |i: &usize| filter.wants(&block.entries[*i]);
        let mut rest = (self.from..block.entries.len()).filter(wanted).peekable();
        for i in rest.by_ref().take(ENTRIES_PER_MESSAGE) {
            entries.push(v1::Entry::new(
                block.first_entry + i as u64,
                &block.entries[i],
            ));
        }
        let next = rest.peek().copied();
        self.from = next.unwrap_or(block.entries.len());
        let message = v1::WatchResponse {
            header: Some(v1::CertifiedHeader::new(
                &block.block.header,
                &block.certificate,
            )),
            first_entry: block.first_entry,
            entries,
            more: next.is_some(),
        };
        (message, next.is_none())
    }
}

/// One watcher.
pub(super) struct Watcher<V> {
    pub(super) view: Arc<V>,
    pub(super) gate: Gate<V>,
    pub(super) reads: Reads<V>,
    pub(super) visit: Visit,
    pub(super) filter: Filter,
    /// The next height to show.
    pub(super) next: Height,
    /// Blocks that it may lag behind once it has caught up.
    pub(super) lag: u64,
    /// Its place among those there may be.
    pub(super) _place: OwnedSemaphorePermit,
}

struct Reading<V> {
    watcher: Watcher<V>,
    news: broadcast::Receiver<Arc<CommittedBlock>>,
    part: Option<Part>,
    /// It has caught up once: from then on it has to keep up.
    live: bool,
}

impl<V: View> Watcher<V> {
    /// Its blocks, made as they are read.
    pub(super) fn blocks(self) -> Blocks {
        let news = self.view.subscribe();
        let reading = Reading {
            watcher: self,
            news,
            part: None,
            live: false,
        };
        Box::pin(stream::unfold(Some(reading), |reading| async {
            let mut reading = reading?;
            match reading.message().await {
                Ok(message) => Some((Ok(message), Some(reading))),
                Err(status) => Some((Err(status), None)),
            }
        }))
    }
}

impl<V: View> Reading<V> {
    async fn message(&mut self) -> Result<v1::WatchResponse, Status> {
        let mut part = match self.part.take() {
            Some(part) => part,
            None => self.next_block().await?,
        };
        let (message, last) = part.message(self.watcher.filter);
        if !last {
            self.part = Some(part);
        }
        Ok(message)
    }

    /// The block of the next height, once it is there and may be shown.
    async fn next_block(&mut self) -> Result<Part, Status> {
        let block = match self.read_past().await? {
            Some(block) => block,
            None => self.await_next().await?,
        };
        let Watcher {
            gate,
            visit,
            filter,
            next,
            ..
        } = &mut self.watcher;
        gate.still(visit, &filter.ask())
            .map_err(|status| with_cursor(&status, *next))?;
        *next = Height(next.0 + 1);
        Ok(Part { block, from: 0 })
    }

    /// A block that was committed already; `None`: the next one was not.
    async fn read_past(&mut self) -> Result<Option<Arc<CommittedBlock>>, Status> {
        let height = self.watcher.next;
        let last = self.watcher.view.with_state(|state, _| state.height());
        if height > last {
            self.live = true;
            return Ok(None);
        }
        if self.live && last.0 - height.0 > self.watcher.lag {
            let message = format!("too slow: continue from height {height}");
            let cursor = [("from_height", height.to_string())];
            return Err(Local::SlowReader.status_with(message, cursor));
        }
        let read = move |view: &V| view.block(height).map_err(unreadable);
        let block = self.watcher.reads.run(read).await?;
        let missing = || Local::NotFound.status(format!("block {height} is not kept here"));
        block.map(Some).ok_or_else(missing)
    }

    /// Waits for the block of the next height.
    async fn await_next(&mut self) -> Result<Arc<CommittedBlock>, Status> {
        loop {
            match self.news.recv().await {
                Ok(block) if block.block.header.height < self.watcher.next => {}
                Ok(block) if block.block.header.height == self.watcher.next => return Ok(block),
                // Blocks were passed over: they are on disk.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    if let Some(block) = self.read_past().await? {
                        return Ok(block);
                    }
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(Local::Unavailable.status("the node is stopping"));
                }
            }
        }
    }
}

/// A refusal, with the height from which the caller may go on when it has
/// logged in again.
fn with_cursor(status: &Status, next: Height) -> Status {
    let local = match Problem::of(status).map(|problem| problem.name) {
        Some(name) if name == "NotAllowed" => Local::NotAllowed,
        _ => Local::NotLoggedIn,
    };
    local.status_with(status.message(), [("from_height", next.to_string())])
}
