//! Compressed bodies, each piece flushed as it comes.

use std::io;

use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use axum::body::Body;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_stream::{Stream, StreamExt};
use tokio_util::{io::ReaderStream, sync::CancellationToken};

/// `pieces`, compressed as `encoding` says. If they break off so does the
/// body: without the end of its compression.
pub fn coded(
    encoding: &str,
    pieces: impl Stream<Item = io::Result<String>> + Send + Unpin + 'static,
) -> Body {
    let (into, from) = tokio::io::duplex(1 << 20);
    let coder: Box<dyn AsyncWrite + Send + Unpin> = match encoding {
        "gzip" => Box::new(GzipEncoder::new(into)),
        "deflate" => Box::new(ZlibEncoder::new(into)),
        "br" => Box::new(BrotliEncoder::new(into)),
        "zstd" => Box::new(ZstdEncoder::new(into)),
        _ => return Body::from_stream(pieces),
    };
    let gone = CancellationToken::new();
    let read = gone.clone().drop_guard();
    tokio::spawn(async move { gone.run_until_cancelled(code(coder, pieces)).await });
    Body::from_stream(ReaderStream::new(from).map(move |piece| {
        // Who goes away stops what makes the pieces.
        let _alive = &read;
        piece
    }))
}

async fn code(
    mut coder: Box<dyn AsyncWrite + Send + Unpin>,
    mut pieces: impl Stream<Item = io::Result<String>> + Unpin,
) {
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { return };
        if coder.write_all(piece.as_bytes()).await.is_err() || coder.flush().await.is_err() {
            return;
        }
    }
    let _ = coder.shutdown().await;
}
