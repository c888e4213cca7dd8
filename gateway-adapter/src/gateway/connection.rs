//! One client's connection: served until it ends, is idle for too long, or
//! its client takes nothing of what waits for it.
//!
//! HTTP/1 closes what is idle by itself, and [`Patient`] ends writes that
//! make no progress. With HTTP/2 a client can do either without a write that
//! waits: it opens no stream, or no window. So it is watched here who is
//! waited for: the gateway and its engine, or the client.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::patient::Patient;
use crate::{clock::steady_ms, proxy::body::Body};

/// Longest until a client has begun to speak, and until a request's head is
/// whole.
const FIRST: Duration = Duration::from_secs(30);
/// Longest that a connection is kept without a request.
const IDLE: Duration = Duration::from_secs(120);
/// How often a silent HTTP/2 client is asked whether it is there, and how
/// long its answer may take.
const PING: Duration = Duration::from_secs(20);
/// Longest between two looks at a connection.
const LOOK: Duration = Duration::from_secs(5);

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until it has begun to speak.
    first: Duration,
    /// Until its next request.
    idle: Duration,
    /// Until it takes any of what waits for it.
    unread: Duration,
}

impl Patience {
    /// The usual one, and so long for a client that reads nothing.
    pub(super) fn of(unread: Duration) -> Self {
        Patience {
            first: FIRST,
            idle: IDLE,
            unread,
        }
    }

    fn look(self) -> Duration {
        let least = self.idle.min(self.unread) / 4;
        least.clamp(Duration::from_millis(1), LOOK)
    }
}

/// What serves HTTP/1 and HTTP/2.
pub(super) fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Not `pipeline_flush`: with it a client that reads nothing has all
        // of its answer gathered here, without bound.
        .header_read_timeout(FIRST);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(1_000);
    builder
}

/// What happens on a connection.
#[derive(Debug, Default)]
struct Life {
    /// Requests that are not answered whole.
    running: AtomicUsize,
    /// Those for which the client waits, not the gateway for it.
    ours: AtomicUsize,
    /// When anything last moved, in ms.
    moved: AtomicU64,
}

impl Life {
    fn touch(&self) {
        self.moved.store(steady_ms(), Ordering::Relaxed);
    }

    fn still(&self) -> Duration {
        let moved = self.moved.load(Ordering::Relaxed);
        Duration::from_millis(steady_ms().saturating_sub(moved))
    }

    /// Nothing is asked, and nothing was for so long.
    fn is_idle(&self, most: Duration) -> bool {
        self.running.load(Ordering::Relaxed) == 0 && self.still() >= most
    }

    /// All that runs waits for the client, and has for so long.
    fn is_unread(&self, most: Duration) -> bool {
        self.running.load(Ordering::Relaxed) > 0
            && self.ours.load(Ordering::Relaxed) == 0
            && self.still() >= most
    }
}

/// One request on a connection.
#[derive(Debug)]
struct Running {
    life: Arc<Life>,
    ours: bool,
}

impl Running {
    fn new(life: &Arc<Life>) -> Self {
        life.running.fetch_add(1, Ordering::Relaxed);
        let mut running = Running {
            life: life.clone(),
            ours: false,
        };
        running.turn(true);
        running
    }

    /// Whose turn it is.
    fn turn(&mut self, ours: bool) {
        match (self.ours, ours) {
            (false, true) => _ = self.life.ours.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.life.ours.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.ours = ours;
        self.life.touch();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.turn(false);
        self.life.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body: it is asked for more only when there is room for that.
struct Watched {
    body: Body,
    running: Running,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.running.turn(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves one connection until it ends, or gracefully until `stop`.
pub(super) async fn serve<S, A, F>(
    builder: &auto::Builder<TokioExecutor>,
    stream: S,
    answer: A,
    patience: Patience,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let life = Arc::new(Life::default());
    life.touch();
    let service = hyper::service::service_fn(|request| {
        let mut running = Running::new(&life);
        // In a box, which is gone when the answer begins: in the stream's own
        // task there would be room for it twice, until the stream's end.
        let answer = Box::pin(answer(request));
        async move {
            let response = answer.await?;
            running.turn(false);
            Ok::<_, Infallible>(response.map(|body| Watched { body, running }))
        }
    });
    // Above TLS: what only shakes hands has not begun to speak.
    let stream = Patient::new(stream, patience.first, patience.unread);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut look = tokio::time::interval(patience.look());
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            // A connection that breaks is its client's affair.
            _ = connection.as_mut() => return,
            () = stop.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                let over = patience.idle + patience.unread;
                if life.is_unread(patience.unread) || life.is_idle(over) {
                    return;
                }
                if !ending && life.is_idle(patience.idle) {
                    // What is on its way to the client still has some time.
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http_body_util::{BodyExt, Empty};
    use hyper::client::conn::http2;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::proxy::body::{fed, whole};

    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(90);
    const SIZE: usize = 100_000;

    /// Answers `/slow` after some time, `/never` with a stream that has
    /// nothing to say, all else with much.
    async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let body = match request.uri().path() {
            "/slow" => {
                tokio::time::sleep(SHORT * 3).await;
                whole("late")
            }
            "/never" => {
                let (feed, body) = fed();
                tokio::spawn(async move {
                    tokio::time::sleep(SHORT * 3).await;
                    drop(feed);
                });
                body
            }
            _ => whole(vec![1; SIZE]),
        };
        Ok(Response::new(body))
    }

    fn served(first: Duration, idle: Duration, unread: Duration) -> (DuplexStream, Ended) {
        let (here, there) = duplex(1 << 20);
        let patience = Patience {
            first,
            idle,
            unread,
        };
        let ended = tokio::spawn(async move {
            let began = Instant::now();
            serve(&builder(), here, answer, patience, CancellationToken::new()).await;
            began.elapsed()
        });
        (there, ended)
    }

    type Ended = tokio::task::JoinHandle<Duration>;

    async fn soon(ended: Ended) {
        let took = tokio::time::timeout(LONG / 3, ended).await;
        let took = took.expect("it is closed").unwrap();
        assert!(took >= SHORT, "{took:?}");
    }

    async fn two(stream: DuplexStream, window: u32) -> http2::SendRequest<Empty<Bytes>> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    fn get(path: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("http://x{path}"))
            .body(Empty::new())
            .unwrap()
    }

    #[tokio::test]
    async fn who_does_not_begin_to_speak_is_closed() {
        // The second could become HTTP/2.
        for said in ["", "P", "PRI * HTTP/2.0\r\n"] {
            let (mut there, ended) = served(SHORT, LONG, LONG);
            there.write_all(said.as_bytes()).await.unwrap();
            soon(ended).await;
        }
    }

    #[tokio::test]
    async fn a_connection_without_requests_is_closed_in_either_version() {
        let (there, ended) = served(LONG, SHORT, LONG);
        let _sender = two(there, 65_535).await;
        soon(ended).await;
        let (mut there, ended) = served(LONG, SHORT, LONG);
        there.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        there.read_to_end(&mut all).await.unwrap();
        assert!(all.len() > SIZE);
        soon(ended).await;
    }

    #[tokio::test]
    async fn who_opens_no_window_is_closed() {
        let (there, ended) = served(LONG, LONG, SHORT);
        let mut sender = two(there, 0).await;
        let _unread = sender.send_request(get("/")).await.unwrap();
        soon(ended).await;
    }

    #[tokio::test]
    async fn who_waits_for_the_gateway_is_not_closed() {
        let (there, _ended) = served(SHORT, SHORT, SHORT);
        let mut sender = two(there, 65_535).await;
        for (path, size) in [("/slow", 4), ("/never", 0), ("/", SIZE)] {
            let answer = sender.send_request(get(path)).await.unwrap();
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes().len(), size, "{path}");
        }
    }
}
