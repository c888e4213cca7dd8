//! Bodies of answers, whole or fed while they stream; and bodies that arrive,
//! on a connection or in messages of Envoy.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::sync::mpsc::{self, Permit};

use super::connections::Driven;

/// What clients get.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Chunks of a stream that may wait for a slow client.
const WAITING: usize = 16;
/// A whole answer that is larger than this is fed in pieces of this size: a
/// client that reads nothing keeps no more of it in memory.
const PIECE: usize = 32 * 1024;

/// Feeds a body; dropped, it is the body's end.
#[derive(Debug)]
pub struct Feed {
    pieces: mpsc::Sender<Bytes>,
    broken: Arc<AtomicBool>,
}

/// The client is gone, or it read nothing for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread;

/// A body that is fed; an error breaks the connection or stream off.
#[derive(Debug)]
struct Fed {
    pieces: mpsc::Receiver<Bytes>,
    broken: Arc<AtomicBool>,
    /// Bytes to come, if that is known.
    left: Option<u64>,
}

/// A whole body.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    let full = Full::new(bytes.into());
    full.map_err(|never| match never {}).boxed_unsync()
}

/// A body that is fed.
pub fn fed() -> (Feed, Body) {
    feeding(WAITING, None)
}

fn feeding(waiting: usize, left: Option<u64>) -> (Feed, Body) {
    let (sender, pieces) = mpsc::channel(waiting);
    let broken = Arc::new(AtomicBool::new(false));
    let feed = Feed {
        pieces: sender,
        broken: broken.clone(),
    };
    let fed = Fed {
        pieces,
        broken,
        left,
    };
    (feed, fed.boxed_unsync())
}

/// A whole body of known length, and what feeds it if it is large.
pub fn pieces(bytes: Bytes) -> (Body, Option<Pieces>) {
    if bytes.len() <= PIECE {
        return (whole(bytes), None);
    }
    let (feed, body) = feeding(1, Some(bytes.len() as u64));
    (body, Some(Pieces { feed, rest: bytes }))
}

/// What is left of a large whole body.
#[derive(Debug)]
pub struct Pieces {
    feed: Feed,
    rest: Bytes,
}

impl Pieces {
    /// Feeds all of it, while the client takes a piece per `stall` at least;
    /// else the rest is forgotten.
    pub async fn send(self, stall: Duration) -> Result<(), Unread> {
        let Pieces { feed, mut rest } = self;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE));
            // Its own copy: one piece that waits does not keep all of them.
            let sent = feed.send(Bytes::copy_from_slice(&piece), stall).await;
            if sent.is_err() {
                feed.break_off();
                return sent;
            }
        }
        Ok(())
    }
}

impl Feed {
    /// Gives a piece, if there is room for it in time.
    pub async fn send(&self, piece: Bytes, within: Duration) -> Result<(), Unread> {
        let sent = self.pieces.send_timeout(piece, within).await;
        sent.map_err(|_| Unread)
    }

    /// Waits for room for a piece.
    pub async fn reserve(&self) -> Result<Permit<'_, Bytes>, Unread> {
        self.pieces.reserve().await.map_err(|_| Unread)
    }

    /// Resolves when the client is gone.
    pub async fn closed(&self) {
        self.pieces.closed().await;
    }

    /// Breaks the answer off: its client must not take it for whole, however
    /// late it reads what waits for it.
    pub fn break_off(self) {
        self.broken.store(true, Ordering::Release);
    }
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match ready!(self.pieces.poll_recv(context)) {
            Some(piece) => {
                let size = piece.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(size));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            None if self.broken.swap(false, Ordering::Acquire) => {
                Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into())))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body that arrives: a client's request or an engine's answer.
#[derive(Debug)]
pub enum Arriving {
    /// On a client's connection, or an engine's over TLS.
    Http(Incoming),
    /// On an engine's connection, which is driven by reading it.
    Driven(Driven),
    /// Piece by piece; `None` is its end. A feeder that goes away before that
    /// ends nothing: then the client or the engine is gone, and whoever reads
    /// is told by the closed way to the client.
    Fed(mpsc::Receiver<Option<Bytes>>),
    /// All of it, or nothing (more).
    Whole(Option<Bytes>),
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match this {
            Arriving::Http(body) => Pin::new(body).poll_frame(context),
            Arriving::Driven(body) => Pin::new(body).poll_frame(context),
            Arriving::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Arriving::Fed(pieces) => match ready!(pieces.poll_recv(context)) {
                Some(Some(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(None) => {
                    *this = Arriving::Whole(None);
                    Poll::Ready(None)
                }
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    const STALL: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_large_body_comes_whole_and_one_that_nobody_reads_is_forgotten() {
        let (small, none) = pieces(Bytes::from(vec![1; PIECE]));
        assert!(none.is_none());
        assert_eq!(small.size_hint().exact(), Some(PIECE as u64));
        let large: Bytes = (0..PIECE * 5 + 7).map(|i| i as u8).collect();
        let (body, rest) = pieces(large.clone());
        assert_eq!(body.size_hint().exact(), Some(large.len() as u64));
        let sent = tokio::spawn(rest.unwrap().send(STALL));
        assert_eq!(body.collect().await.unwrap().to_bytes(), large);
        assert_eq!(sent.await.unwrap(), Ok(()));
        // Unread: one piece waits, then it is broken off.
        let (mut body, rest) = pieces(large);
        assert_eq!(rest.unwrap().send(STALL).await, Err(Unread));
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.len(), PIECE);
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_ends_as_its_feed_says() {
        for broken in [false, true] {
            let (feed, mut body) = fed();
            feed.send(Bytes::from_static(b"a"), STALL).await.unwrap();
            if broken {
                feed.break_off();
            } else {
                drop(feed);
            }
            assert!(body.frame().await.unwrap().is_ok());
            assert_eq!(body.frame().await.is_some(), broken);
        }
    }
}
