//! Watch: every block from a height on. History is read from disk until the
//! reader has caught up, then blocks come as they are committed. A reader
//! that falls behind is dropped with the height to continue from; its buffer
//! is bounded, and it slows nobody else down.

use std::sync::Arc;

use tally_ledger::{entry::Entry, ids::Height};
use tally_proto::{Local, v1};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tonic::Status;

use super::{blocking, unreadable};
use crate::view::{CommittedBlock, View};

/// Entries in one message; a larger block comes in several.
const ENTRIES_PER_MESSAGE: usize = 2_000;

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
    fn wants(self, entry: &Entry) -> bool {
        match entry {
            _ if self.headers_only => false,
            Entry::Receipt(_) => !self.control_only,
            Entry::Event(leaf, _) => !self.control_only || leaf.control != 0,
        }
    }

    /// A block's messages; one at least.
    fn messages(self, block: &CommittedBlock) -> Vec<v1::WatchResponse> {
        let entries: Vec<v1::Entry> = block
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| self.wants(entry))
            .map(|(i, entry)| v1::Entry::new(block.first_entry + i as u64, entry))
            .collect();
        let header = v1::CertifiedHeader::new(&block.block.header, &block.certificate);
        let message = |entries: &[v1::Entry]| v1::WatchResponse {
            header: Some(header.clone()),
            first_entry: block.first_entry,
            entries: entries.to_vec(),
            more: true,
        };
        let mut messages: Vec<_> = entries.chunks(ENTRIES_PER_MESSAGE).map(message).collect();
        if messages.is_empty() {
            messages.push(message(&[]));
        }
        if let Some(last) = messages.last_mut() {
            last.more = false;
        }
        messages
    }
}

/// Feeds one watcher until it goes, falls behind, or the node stops.
pub(super) async fn feed<V: View>(
    view: Arc<V>,
    filter: Filter,
    from: Height,
    sender: mpsc::Sender<Result<v1::WatchResponse, Status>>,
    _place: OwnedSemaphorePermit,
) {
    let mut blocks = view.subscribe();
    let mut next = from;
    loop {
        // From disk, up to where the live blocks begin.
        match catch_up(&view, filter, &mut next, &sender).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(status) => {
                let _ = sender.send(Err(status)).await;
                return;
            }
        }
        match live(&mut blocks, filter, &mut next, &sender).await {
            Live::Behind => {}
            Live::Gone => return,
            Live::Slow => {
                let cursor = [("from_height", next.0.to_string())];
                let message = format!("too slow: continue from height {next}");
                let _ = sender
                    .send(Err(Local::SlowReader.status_with(message, cursor)))
                    .await;
                return;
            }
            Live::Stopping => {
                let _ = sender
                    .send(Err(Local::Unavailable.status("the node is stopping")))
                    .await;
                return;
            }
        }
    }
}

/// Sends what is on disk from `next` on; `false`: the watcher is gone. The
/// reader's own pace counts here: it waits for room in the buffer.
async fn catch_up<V: View>(
    view: &Arc<V>,
    filter: Filter,
    next: &mut Height,
    sender: &mpsc::Sender<Result<v1::WatchResponse, Status>>,
) -> Result<bool, Status> {
    loop {
        let height = *next;
        let block = blocking(view, move |view: &V| view.block(height).map_err(unreadable)).await?;
        let Some(block) = block else {
            let last = view.with_state(|state, _| state.height());
            return match height <= last {
                true => Err(Local::NotFound.status(format!("block {height} is not kept here"))),
                false => Ok(true),
            };
        };
        for message in filter.messages(&block) {
            if sender.send(Ok(message)).await.is_err() {
                return Ok(false);
            }
        }
        *next = Height(height.0 + 1);
    }
}

enum Live {
    /// Blocks were missed: read them from disk.
    Behind,
    /// The watcher went.
    Gone,
    /// Its buffer is full.
    Slow,
    /// The node ends.
    Stopping,
}

async fn live(
    blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
    filter: Filter,
    next: &mut Height,
    sender: &mpsc::Sender<Result<v1::WatchResponse, Status>>,
) -> Live {
    loop {
        let block = tokio::select! {
            block = blocks.recv() => block,
            () = sender.closed() => return Live::Gone,
        };
        let block = match block {
            Ok(block) => block,
            Err(broadcast::error::RecvError::Lagged(_)) => return Live::Behind,
            Err(broadcast::error::RecvError::Closed) => return Live::Stopping,
        };
        let height = block.block.header.height;
        if height < *next {
            continue;
        }
        if height > *next {
            return Live::Behind;
        }
        for message in filter.messages(&block) {
            match sender.try_send(Ok(message)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => return Live::Slow,
                Err(mpsc::error::TrySendError::Closed(_)) => return Live::Gone,
            }
        }
        *next = Height(height.0 + 1);
    }
}
