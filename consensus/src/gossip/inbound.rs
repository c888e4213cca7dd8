//! What peers send: one stream per peer and protocol, read frame by frame. A
//! frame is read only when the one before was taken, so a slow taker slows
//! the peer; where the taker cannot be slow, an [`Allowance`] slows it. A
//! stream with a frame that is too long is dropped.

use std::{collections::BTreeMap, future::Future, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{PeerId, Stream};
use libp2p_stream::IncomingStreams;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};
use tracing::debug;

use super::frame;

/// Where frames go.
pub(super) trait Taker: Clone + Send + 'static {
    /// Takes a frame of a peer; `false`: nobody wants any more.
    fn take(&self, from: PeerId, frame: Bytes) -> impl Future<Output = bool> + Send;
}

/// How much of one stream is read per second, and what may come at once: as
/// much as in a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) frames: u32,
    pub(super) bytes: u32,
}

/// What is left of a [`Rate`], in frames and bytes.
#[derive(Debug)]
struct Allowance {
    rate: Rate,
    frames: f64,
    bytes: f64,
    at: Instant,
}

impl Allowance {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            frames: rate.frames.into(),
            bytes: rate.bytes.into(),
            at: now,
        }
    }

    /// Takes a frame of `bytes`; how long to wait before the next one.
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        let refill = |left: f64, rate: u32, taken: f64| {
            (left + passed * f64::from(rate)).min(rate.into()) - taken
        };
        self.frames = refill(self.frames, self.rate.frames, 1.0);
        self.bytes = refill(self.bytes, self.rate.bytes, bytes as f64);
        let debts = [
            -self.frames / f64::from(self.rate.frames),
            -self.bytes / f64::from(self.rate.bytes),
        ];
        Duration::from_secs_f64(debts[0].max(debts[1]).max(0.0))
    }
}

/// Reads all streams of a protocol. A peer's newer stream replaces its older.
pub(super) async fn accept(
    mut streams: IncomingStreams,
    limit: usize,
    rate: Option<Rate>,
    taker: impl Taker,
) {
    let mut readers = JoinSet::new();
    let mut current: BTreeMap<PeerId, AbortHandle> = BTreeMap::new();
    while let Some((peer, stream)) = streams.next().await {
        while readers.try_join_next().is_some() {}
        let reader = readers.spawn(read_all(peer, stream, limit, rate, taker.clone()));
        if let Some(older) = current.insert(peer, reader) {
            older.abort();
        }
    }
}

async fn read_all(
    peer: PeerId,
    mut stream: Stream,
    limit: usize,
    rate: Option<Rate>,
    taker: impl Taker,
) {
    let mut allowance = rate.map(|rate| Allowance::new(rate, Instant::now()));
    loop {
        let frame = match frame::read(&mut stream, limit).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => {
                debug!(%peer, %error, "a stream broke off");
                return;
            }
        };
        let wait = allowance.as_mut().map_or(Duration::ZERO, |left| {
            left.take(frame.len(), Instant::now())
        });
        if !taker.take(peer, frame).await {
            return;
        }
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_what_goes_on_is_slowed_to_the_rate() {
        let rate = Rate {
            frames: 100,
            bytes: 10_000,
        };
        let mut now = Instant::now();
        let start = now;
        let mut left = Allowance::new(rate, now);
        let mut frames = |count: u32, bytes: usize| {
            let from = now;
            for _ in 0..count {
                now += left.take(bytes, now);
            }
            (now - from).as_millis()
        };
        assert_eq!(frames(100, 10), 0);
        assert!((990..1_010).contains(&frames(100, 10)));
        // Large ones cost by their bytes: two seconds' worth, one was left.
        assert!((900..1_110).contains(&frames(20, 1_000)));
        assert!(now - start < Duration::from_secs(4));
    }
}
