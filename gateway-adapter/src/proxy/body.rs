//! Bodies of answers: whole, or fed while they stream.

use std::io;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

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
