//! A lane: what waits for one peer, and the task that writes it to a stream
//! of its own, in order, as long as there is a connection.
//!
//! The queue is bounded, and closed while there is no stream; nothing is ever
//! sent again. A peer that does not read slows its lane, then loses what does
//! not fit; one that leaves a write waiting for 10 s loses its connection.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, io::WriteHalf};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::debug;

use super::{Counters, add, frame};

/// Most bytes of small frames that are written at once.
const WRITE_BYTES: usize = 1 << 20;
/// As much does not wait for the gap.
const FULL: usize = 64 << 10;
/// A peer that takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How lanes of one protocol work.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) protocol: StreamProtocol,
    /// Most bytes that wait for one peer.
    pub(super) room: usize,
    /// Least time between two writes: what comes in between shares the next
    /// one. After a pause the first leaves at once.
    pub(super) gap: Duration,
    /// From a lost stream to the next try.
    pub(super) retry: Duration,
}

/// The way to one peer.
#[derive(Debug)]
pub(super) struct Lane {
    peer: PeerId,
    settings: Settings,
    queue: Mutex<Queue>,
    work: Notify,
    counters: Arc<Counters>,
}

/// The lane is open while this lives, so also when its task is aborted.
struct Open<'a>(&'a Lane);

impl<'a> Open<'a> {
    fn new(lane: &'a Lane) -> Self {
        lane.set_open(true);
        Self(lane)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set_open(false);
    }
}

#[derive(Debug, Default)]
struct Queue {
    open: bool,
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Lane {
    pub(super) fn new(peer: PeerId, settings: Settings, counters: Arc<Counters>) -> Self {
        Self {
            peer,
            settings,
            queue: Mutex::default(),
            work: Notify::new(),
            counters,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a stream to the peer.
    pub(super) fn is_open(&self) -> bool {
        self.queue().open
    }

    /// Queues a frame. `false`: there is no stream, or no room; it was dropped
    /// and counted.
    pub(super) fn push(&self, frame: Bytes) -> bool {
        let mut queue = self.queue();
        if !queue.open || queue.bytes + frame.len() > self.settings.room {
            add(&self.counters.dropped, 1);
            return false;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        drop(queue);
        self.work.notify_one();
        true
    }

    /// Frames that wait, and their bytes.
    fn waiting(&self) -> (usize, usize) {
        let queue = self.queue();
        (queue.frames.len(), queue.bytes)
    }

    /// What is next to write; empty if nothing waits.
    fn take(&self) -> Vec<u8> {
        let mut queue = self.queue();
        let mut bytes = Vec::new();
        while let Some(frame) = queue.frames.front() {
            let length = frame::HEAD + frame.len();
            if !bytes.is_empty() && bytes.len() + length > WRITE_BYTES {
                break;
            }
            bytes.reserve(length);
            frame::append(&mut bytes, frame);
            queue.bytes -= frame.len();
            queue.frames.pop_front();
        }
        bytes
    }

    fn set_open(&self, open: bool) {
        let mut queue = self.queue();
        let lost = queue.frames.len();
        *queue = Queue {
            open,
            ..Queue::default()
        };
        add(&self.counters.dropped, lost as u64);
        self.counters.count_peer(open);
    }

    /// Keeps a stream to the peer while `connected`; names on `dead` whom it
    /// has given up.
    pub(super) async fn run(
        self: Arc<Self>,
        mut control: Control,
        mut connected: watch::Receiver<bool>,
        dead: mpsc::Sender<PeerId>,
    ) {
        let (peer, protocol) = (self.peer, self.settings.protocol.clone());
        while connected.wait_for(|connected| *connected).await.is_ok() {
            match control.open_stream(peer, protocol.clone()).await {
                Ok(stream) => {
                    let open = Open::new(&self);
                    let error = self.write(stream).await;
                    drop(open);
                    debug!(%peer, %protocol, %error, "a stream ended");
                    if error.kind() == io::ErrorKind::TimedOut {
                        // The connection is dead without knowing it.
                        let _ = dead.send(peer).await;
                    }
                }
                Err(error) => debug!(%peer, %protocol, %error, "no stream"),
            }
            sleep(self.settings.retry).await;
        }
    }

    /// Writes what is queued, until the stream ends; says why it did. The
    /// peer sends nothing on it: so that it ends shows at once.
    async fn write(&self, stream: Stream) -> io::Error {
        let (mut from_peer, to_peer) = stream.split();
        let mut nothing = [0; 1];
        tokio::select! {
            read = from_peer.read(&mut nothing) => {
                read.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            error = self.write_all(to_peer) => error,
        }
    }

    async fn write_all(&self, mut to_peer: WriteHalf<Stream>) -> io::Error {
        let mut next_write = Instant::now();
        loop {
            let (frames, waiting) = self.waiting();
            if frames == 0 {
                self.work.notified().await;
                continue;
            }
            if waiting < FULL && Instant::now() < next_write {
                sleep_until(next_write).await;
            }
            let bytes = self.take();
            let written = async {
                to_peer.write_all(&bytes).await?;
                to_peer.flush().await
            };
            match timeout(PATIENCE, written).await {
                Ok(Ok(())) => next_write = Instant::now() + self.settings.gap,
                Ok(Err(error)) => return error,
                Err(_) => return io::ErrorKind::TimedOut.into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(room: usize) -> Lane {
        let settings = Settings {
            protocol: StreamProtocol::new("/test"),
            room,
            gap: Duration::ZERO,
            retry: Duration::ZERO,
        };
        Lane::new(PeerId::random(), settings, Arc::default())
    }

    #[test]
    fn a_closed_lane_takes_nothing_and_an_open_one_what_fits() {
        let lane = lane(10);
        assert!(!lane.push(Bytes::from_static(b"a")));
        lane.set_open(true);
        assert!(lane.push(Bytes::from_static(b"12345678")));
        assert!(!lane.push(Bytes::from_static(b"123")));
        assert!(lane.push(Bytes::from_static(b"12")));
        assert_eq!(lane.take(), b"\x08\0\0\x0012345678\x02\0\0\x0012");
        assert!(lane.push(Bytes::from_static(b"1234567890")));
        lane.set_open(false);
        assert_eq!(lane.counters.counts().dropped, 3);
        assert!(lane.take().is_empty());
    }

    #[test]
    fn a_large_frame_goes_alone_and_small_ones_together() {
        let lane = lane(4 * WRITE_BYTES);
        lane.set_open(true);
        for length in [3, 2 * WRITE_BYTES, 5, 6] {
            assert!(lane.push(vec![0; length].into()));
        }
        assert_eq!(lane.take().len(), 4 + 3);
        assert_eq!(lane.take().len(), 4 + 2 * WRITE_BYTES);
        assert_eq!(lane.take().len(), 4 + 5 + 4 + 6);
        assert!(lane.take().is_empty());
    }
}
