//! Watch: every block from a height on. History is read from disk until the
//! reader has caught up, then blocks come as they are committed.
//!
//! Nothing is buffered for a reader: a task makes its next message when it is
//! asked for, which is when there is room to send it. A reader that stalls
//! keeps that task, and of the chain at most the block that it is being shown
//! and one message; it slows nobody else down. It is dropped with the height to continue from
//! when it is further behind than it may be, and when it has taken nothing for
//! a while; what the transport holds of its last message goes with its stream.
//!
//! At each block the caller's key and rights are looked up again: who lost
//! them is told so before the block that took them is shown. That, and the end
//! of its login, frees its place even if it reads nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, stream};
use tally_ledger::{entry::Entry, ids::Height};
use tally_proto::{Local, Problem, login::now, v1};
use tokio::sync::{Notify, OwnedSemaphorePermit, broadcast, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::{
    gate::{Gate, Visit},
    places::Share,
    reads::Reads,
    rules::Ask,
    unreadable,
};
use crate::view::{CommittedBlock, View};

/// Entries in one message; a larger block comes in several.
const ENTRIES_PER_MESSAGE: usize = 2_000;

/// What the service answers with.
pub(super) type Blocks = Pin<Box<dyn Stream<Item = Answer> + Send>>;

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
    /// How long it may take nothing.
    pub(super) stall: Duration,
    /// Its place among those there may be.
    pub(super) _place: OwnedSemaphorePermit,
}

type Answer = Result<v1::WatchResponse, Status>;

/// What a watcher's task has made for its stream: one message, or its end.
#[derive(Default)]
struct Desk {
    answer: Mutex<Option<Answer>>,
    ready: Notify,
}

impl Desk {
    fn answer(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, answer: Answer) {
        *self.answer() = Some(answer);
        self.ready.notify_one();
    }

    async fn take(&self) -> Answer {
        loop {
            if let Some(answer) = self.answer().take() {
                return answer;
            }
            self.ready.notified().await;
        }
    }
}

/// Why a watcher ends.
enum End {
    /// It does not keep up.
    Slow(String),
    /// It may not ask for this any more.
    Refused(Status),
    /// The node cannot go on.
    Other(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        End::Other(status)
    }
}

impl End {
    /// As the caller is told it, who may go on from `next`.
    fn status(&self, next: Height) -> Status {
        let cursor = [("from_height", next.to_string())];
        match self {
            End::Other(status) => status.clone(),
            End::Slow(why) => {
                let why = format!("{why}: continue from height {next}");
                Local::SlowReader.status_with(why, cursor)
            }
            End::Refused(status) => {
                let local = match Problem::of(status).map(|problem| problem.name) {
                    Some(name) if name == "NotAllowed" => Local::NotAllowed,
                    _ => Local::NotLoggedIn,
                };
                local.status_with(status.message(), cursor)
            }
        }
    }
}

/// Works for one watcher, on a task of its own.
struct Reading<V> {
    watcher: Watcher<V>,
    part: Option<Part>,
    /// Height of the last message.
    shown: Height,
    /// It has caught up once: from then on it has to keep up.
    live: bool,
}

/// The stream's end of it.
struct Reader {
    asks: mpsc::Sender<()>,
    desk: Arc<Desk>,
    _gone: DropGuard,
    /// The caller's, as long as the stream is there.
    _share: Option<Share>,
}

impl<V: View> Watcher<V> {
    /// Its blocks, made as they are read.
    pub(super) fn blocks(self, share: Option<Share>) -> Blocks {
        let (asks, asked) = mpsc::channel(1);
        let desk = Arc::<Desk>::default();
        let gone = CancellationToken::new();
        let reading = Reading {
            shown: self.next,
            watcher: self,
            part: None,
            live: false,
        };
        tokio::spawn(reading.serve(asked, desk.clone(), gone.clone()));
        let reader = Reader {
            asks,
            desk,
            _gone: gone.drop_guard(),
            _share: share,
        };
        Box::pin(stream::unfold(Some(reader), |reader| async {
            let reader = reader?;
            // There is room: what was asked before was answered. If nobody is
            // there any more, the reason lies on the desk.
            let _ = reader.asks.try_send(());
            let answer = reader.desk.take().await;
            let goes_on = answer.is_ok();
            Some((answer, goes_on.then_some(reader)))
        }))
    }
}

impl<V: View> Reading<V> {
    /// Answers until the stream is gone, or may not go on.
    async fn serve(
        mut self,
        mut asked: mpsc::Receiver<()>,
        desk: Arc<Desk>,
        gone: CancellationToken,
    ) {
        let visit = self.watcher.visit.clone();
        let end = tokio::select! {
            end = self.answer(&mut asked, &desk) => end,
            () = login_end(&visit) => self.allowed().err().unwrap_or_else(|| stopping().into()),
            () = gone.cancelled() => return,
        };
        {
            // A message that was not taken is none that was shown.
            let mut answer = desk.answer();
            let next = match (&*answer, &self.part) {
                (Some(_), _) => self.shown,
                (None, Some(part)) => part.block.block.header.height,
                (None, None) => self.watcher.next,
            };
            *answer = Some(Err(end.status(next)));
        }
        // Its place is free before it is told.
        drop(self);
        desk.ready.notify_one();
    }

    /// Answers what is asked; why that ended.
    async fn answer(&mut self, asked: &mut mpsc::Receiver<()>, desk: &Desk) -> End {
        loop {
            match self.asked_message(asked).await {
                Ok(message) => desk.put(Ok(message)),
                Err(end) => return end,
            }
        }
    }

    async fn asked_message(
        &mut self,
        asked: &mut mpsc::Receiver<()>,
    ) -> Result<v1::WatchResponse, End> {
        if asked.try_recv().is_err() {
            self.wait_for_reader(asked).await?;
        }
        self.message().await
    }

    /// Waits until the next message is asked for, as long as the reader may
    /// stay. Takes the news meanwhile, so that it holds no block back.
    async fn wait_for_reader(&mut self, asked: &mut mpsc::Receiver<()>) -> Result<(), End> {
        let mut news = self.watcher.view.subscribe();
        let stall = tokio::time::sleep(self.watcher.stall);
        tokio::pin!(stall);
        loop {
            tokio::select! {
                asked = asked.recv() => return asked.ok_or_else(|| stopping().into()),
                block = news.recv() => {
                    if matches!(block, Err(broadcast::error::RecvError::Closed)) {
                        return Err(stopping().into());
                    }
                    drop(block);
                    self.allowed()?;
                    self.keeps_up()?;
                }
                () = &mut stall => {
                    let seconds = self.watcher.stall.as_secs();
                    return Err(End::Slow(format!("nothing was taken for {seconds} s")));
                }
            }
        }
    }

    /// Whether it may still ask for this.
    fn allowed(&self) -> Result<(), End> {
        let Watcher {
            gate,
            visit,
            filter,
            ..
        } = &self.watcher;
        gate.still(visit, &filter.ask()).map_err(End::Refused)
    }

    /// Whether it is not further behind than it may be.
    fn keeps_up(&self) -> Result<(), End> {
        let last = self.watcher.view.with_state(|state, _| state.height());
        let behind = last.0.saturating_sub(self.watcher.next.0);
        match self.live && behind > self.watcher.lag {
            true => Err(End::Slow("too slow".to_owned())),
            false => Ok(()),
        }
    }

    async fn message(&mut self) -> Result<v1::WatchResponse, End> {
        let mut part = match self.part.take() {
            Some(part) => part,
            None => self.next_block().await?,
        };
        let (message, last) = part.message(self.watcher.filter);
        self.shown = part.block.block.header.height;
        if !last {
            self.part = Some(part);
        }
        Ok(message)
    }

    /// The block of the next height, once it is there and may be shown.
    async fn next_block(&mut self) -> Result<Part, End> {
        let block = match self.read_past().await? {
            Some(block) => block,
            None => self.await_next().await?,
        };
        self.allowed()?;
        self.watcher.next = Height(self.watcher.next.0 + 1);
        Ok(Part { block, from: 0 })
    }

    /// A block that was committed already; `None`: the next one was not.
    async fn read_past(&mut self) -> Result<Option<Arc<CommittedBlock>>, End> {
        let height = self.watcher.next;
        let last = self.watcher.view.with_state(|state, _| state.height());
        if height > last {
            self.live = true;
            return Ok(None);
        }
        self.keeps_up()?;
        let read = move |view: &V| view.block(height).map_err(unreadable);
        let block = self.watcher.reads.run(read).await?;
        let missing = || Local::NotFound.status(format!("block {height} is not kept here"));
        block.map(Some).ok_or_else(|| missing().into())
    }

    /// Waits for the block of the next height. It subscribes for as long as it
    /// waits: who does not take the news keeps all of it in memory.
    async fn await_next(&mut self) -> Result<Arc<CommittedBlock>, End> {
        loop {
            let mut news = self.watcher.view.subscribe();
            // It may have come just before.
            if let Some(block) = self.read_past().await? {
                return Ok(block);
            }
            loop {
                match news.recv().await {
                    Ok(block) if block.block.header.height < self.watcher.next => {}
                    Ok(block) if block.block.header.height == self.watcher.next => {
                        return Ok(block);
                    }
                    // Blocks were passed over: they are on disk.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Err(stopping().into()),
                }
            }
        }
    }
}

/// Returns when the login of this caller has ended; never, if it has none.
async fn login_end(visit: &Visit) {
    /// Clocks are set: it is looked at again after so many seconds.
    const LONGEST_S: u64 = 60;
    let Some(known) = visit.known() else {
        return std::future::pending().await;
    };
    let until = known.until.saturating_add(tally_proto::jwt::SKEW_S);
    while let left @ 1.. = until.saturating_sub(now()) {
        tokio::time::sleep(Duration::from_secs(left.min(LONGEST_S))).await;
    }
}

fn stopping() -> Status {
    Local::Unavailable.status("the node is stopping")
}

#[cfg(test)]
mod tests;
