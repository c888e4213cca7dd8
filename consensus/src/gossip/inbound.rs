//! What peers send: one stream per peer and protocol, read frame by frame. A
//! frame is read only when the one before was taken, so a slow taker slows
//! the peer; a stream with a frame that is too long is dropped.

use std::{collections::BTreeMap, future::Future};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{PeerId, Stream};
use libp2p_stream::IncomingStreams;
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::frame;

/// Where frames go.
pub(super) trait Taker: Clone + Send + 'static {
    /// Takes a frame of a peer; `false`: nobody wants any more.
    fn take(&self, from: PeerId, frame: Bytes) -> impl Future<Output = bool> + Send;
}

/// Reads all streams of a protocol. A peer's newer stream replaces its older.
pub(super) async fn accept(mut streams: IncomingStreams, limit: usize, taker: impl Taker) {
    let mut readers = JoinSet::new();
    let mut current: BTreeMap<PeerId, AbortHandle> = BTreeMap::new();
    while let Some((peer, stream)) = streams.next().await {
        while readers.try_join_next().is_some() {}
        let reader = readers.spawn(read_all(peer, stream, limit, taker.clone()));
        if let Some(older) = current.insert(peer, reader) {
            older.abort();
        }
    }
}

async fn read_all(peer: PeerId, mut stream: Stream, limit: usize, taker: impl Taker) {
    loop {
        match frame::read(&mut stream, limit).await {
            Ok(Some(frame)) => {
                if !taker.take(peer, frame).await {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                debug!(%peer, %error, "a stream broke off");
                return;
            }
        }
    }
}
