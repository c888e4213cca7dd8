//! Engines' answers without their compression.
//!
//! Engines are asked for `identity`. One that compresses all the same is
//! understood: the answer is decoded as it comes, so that it can be metered,
//! and the client gets it plain. What comes out is bounded where it is
//! gathered, so a small answer cannot grow without limit; an answer that is
//! compressed in a way that is not known is the engine's failure.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use bytes::Bytes;
use futures::TryStreamExt;
use http::{Response, header::CONTENT_ENCODING};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::{Arriving, Body};

/// Bytes that are decoded at a time.
const PIECE: usize = 16 * 1024;

/// An engine's answer as it is meant.
#[derive(Debug)]
pub(super) enum Decoded {
    /// It came like this.
    Plain(Arriving),
    /// It was compressed.
    Coded(Body),
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Decoded::Plain(body) => {
                let frame = Pin::new(body).poll_frame(context);
                frame.map_err(io::Error::other)
            }
            Decoded::Coded(body) => Pin::new(body).poll_frame(context),
        }
    }
}

/// The answer without its compression; `None` if that is not known.
pub(super) fn decoded(answer: Response<Arriving>) -> Option<Response<Decoded>> {
    let codings = answer.headers().get_all(CONTENT_ENCODING);
    let codings: Option<Vec<String>> = codings
        .iter()
        .map(|value| Some(value.to_str().ok()?.trim().to_ascii_lowercase()))
        .collect();
    let coding = match &codings?[..] {
        [] => "identity".to_owned(),
        [one] => one.clone(),
        _ => return None,
    };
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(CONTENT_ENCODING);
    let body = match &*coding {
        "identity" | "" => Decoded::Plain(body),
        "gzip" | "x-gzip" => {
            let mut decoder = GzipDecoder::new(reader(body));
            decoder.multiple_members(true);
            coded(decoder)
        }
        "deflate" => coded(ZlibDecoder::new(reader(body))),
        "br" => coded(BrotliDecoder::new(reader(body))),
        "zstd" => {
            let mut decoder = ZstdDecoder::new(reader(body));
            decoder.multiple_members(true);
            coded(decoder)
        }
        _ => return None,
    };
    Some(Response::from_parts(parts, body))
}

fn reader(body: Arriving) -> impl tokio::io::AsyncBufRead + Send + Unpin {
    StreamReader::new(body.into_data_stream().map_err(io::Error::other))
}

fn coded(decoder: impl AsyncRead + Send + 'static) -> Decoded {
    let pieces = ReaderStream::with_capacity(decoder, PIECE).map_ok(Frame::data);
    Decoded::Coded(StreamBody::new(pieces).boxed_unsync())
}
