//! Bodies of answers, whole or fed while they stream; and bodies that arrive,
//! on a connection or in messages of Envoy.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connections::Driven;

/// What clients get.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// Feeds a streamed body; an error breaks the connection off.
pub type Feed = mpsc::Sender<io::Result<Frame<Bytes>>>;

/// Chunks that may wait for a slow client.
const WAITING: usize = 16;

/// A whole body.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    let full = Full::new(bytes.into());
    full.map_err(|never| match never {}).boxed_unsync()
}

/// A body that is fed.
pub fn fed() -> (Feed, Body) {
    let (feed, fed) = mpsc::channel(WAITING);
    (
        feed,
        StreamBody::new(ReceiverStream::new(fed)).boxed_unsync(),
    )
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
