//! A connection on which a write that makes no progress for too long fails:
//! a client that reads nothing does not keep its place among the connections,
//! nor what waits to be sent to it in memory. Nor does one that says nothing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What tells HTTP/2 from HTTP/1: so many bytes of a connection are read
/// before anything else looks after it.
const PREFACE: usize = 24;

/// Some connection.
pub(super) struct Patient<S> {
    stream: S,
    most: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Runs until so many bytes were read, or any written.
    first: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Patient<S> {
    /// Waits for `first` until the client has begun to speak, and for `most`
    /// until something can be written.
    pub(super) fn new(stream: S, first: Duration, most: Duration) -> Self {
        Patient {
            stream,
            most,
            waiting: None,
            first: Some((Box::pin(sleep(first)), PREFACE)),
        }
    }

    /// What a write has come to.
    fn progress<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        self.first = None;
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let most = self.most;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(most)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        let Some((over, left)) = &mut self.first else {
            return read;
        };
        *left = left.saturating_sub(into.filled().len() - before);
        if *left == 0 {
            self.first = None;
        } else if read.is_pending() && over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.progress(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.progress(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.progress(shut, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const MOST: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_reader_that_is_slow_gets_all_and_one_that_stops_ends_the_write() {
        let (here, mut there) = duplex(16);
        let mut here = Patient::new(here, MOST, MOST);
        let reader = tokio::spawn(async move {
            // Slower in all than one wait may take, but never for so long.
            for _ in 0..10 {
                tokio::time::sleep(MOST / 8).await;
                there.read_exact(&mut [0; 16]).await.unwrap();
            }
            there
        });
        here.write_all(&[1; 160]).await.unwrap();
        let there = reader.await.unwrap();
        let stopped = here.write_all(&[1; 96]).await.unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::TimedOut);
        drop(there);
    }

    #[tokio::test]
    async fn who_says_too_little_is_not_waited_for_and_who_has_spoken_is() {
        for (said, enough) in [(0, false), (3, false), (PREFACE, true)] {
            let (here, mut there) = duplex(64);
            let mut here = Patient::new(here, MOST / 4, MOST);
            there
                .write_all(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..said])
                .await
                .unwrap();
            here.read_exact(&mut [0; PREFACE][..said]).await.unwrap();
            let more = tokio::time::timeout(MOST, here.read(&mut [0; 1])).await;
            match more {
                Ok(more) => assert_eq!(more.unwrap_err().kind(), io::ErrorKind::TimedOut),
                Err(_) => assert!(enough, "{said}"),
            }
        }
    }
}
