//! Connections to one engine, each driven by the request that uses it.
//!
//! A client of the usual kind gives every connection a task of its own, so
//! that each piece of an answer passes from task to task, and often from core
//! to core, on its way. Here whoever reads the answer also reads the
//! connection: pieces that have arrived together are had together, and
//! nobody else is woken. So each thread that serves keeps its own. A connection
//! that is not in use is driven by nobody: whether the engine has closed it
//! meanwhile shows when it is taken again.
//!
//! Dropping a call or its answer closes the connection, and so cancels the
//! request at the engine. A request is sent again, over another connection,
//! only if nothing of it was written to the first.

use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::HOST};
use http_body::Frame;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::cores;

/// Longest that connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest that a connection is kept without use.
const KEEP: Duration = Duration::from_secs(60);
/// So many are kept on each thread at least, however many threads there are:
/// requests do not come evenly.
const LEAST: usize = 64;

/// Why a call came to no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody could be reached.
    #[error("connecting: {0}")]
    Connect(io::Error),
    /// The connection broke.
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    /// It ended without an answer.
    #[error("the connection ended before the answer")]
    Ended,
}

/// A connection and its driver; in a box, since answers move.
struct Used {
    sender: SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
}

/// Connections to one engine.
pub struct Connections {
    host: String,
    port: u16,
    header: HeaderValue,
    /// On each thread.
    most: usize,
    /// Those not in use, by the thread that uses them, the last used last.
    idle: Box<[Mutex<Idle>]>,
}

type Idle = Vec<(Box<Used>, Instant)>;

/// An answer's body, with the connection that it comes on.
pub struct Driven {
    body: Incoming,
    used: Option<Box<Used>>,
    home: Arc<Connections>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({}:{})", self.host, self.port)
    }
}

impl fmt::Debug for Driven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driven({:?})", self.body)
    }
}

impl Used {
    /// Whether it can take a request now; reads what the engine has sent
    /// since, such as the connection's end.
    async fn is_ready(&mut self) -> bool {
        let look = std::future::poll_fn(|context| {
            let over = Pin::new(&mut self.driver).poll(context).is_ready();
            Poll::Ready(!over && self.sender.is_ready())
        });
        look.await
    }
}

/// How many, from the first on, nobody has used for long.
fn unused(idle: &Idle) -> usize {
    let old = idle.iter().take_while(|(_, since)| since.elapsed() >= KEEP);
    old.count()
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    /// To the engine at a URL, whose scheme is `http`. While they are not in
    /// use, at most `most` are kept, dealt to the threads; on each up to
    /// `LEAST` of them, even if that makes more in all.
    pub fn new(url: &Uri, most: usize) -> Option<Arc<Self>> {
        let authority = url.authority()?;
        let host = authority.host();
        // And those that do not serve.
        let threads = cores::count() + 1;
        Some(Arc::new(Connections {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            header: HeaderValue::from_str(authority.as_str()).ok()?,
            most: (most / threads).max(most.min(LEAST)),
            idle: (0..threads).map(|_| Mutex::default()).collect(),
        }))
    }

    /// This thread's: what watches a connection wakes the thread that made it.
    fn idle(&self) -> MutexGuard<'_, Idle> {
        lock(&self.idle[cores::here()])
    }

    /// A connection that is not in use and still works.
    async fn kept(&self) -> Option<Box<Used>> {
        loop {
            let (mut used, since) = self.idle().pop()?;
            if since.elapsed() < KEEP && used.is_ready().await {
                return Some(used);
            }
        }
    }

    /// Keeps a connection; drops those that nobody has used for long.
    fn keep(&self, used: Box<Used>) {
        let mut idle = self.idle();
        let old = unused(&idle).max((idle.len() + 1).saturating_sub(self.most));
        let old: Vec<_> = idle.drain(..old).collect();
        idle.push((used, Instant::now()));
        drop(idle);
        drop(old);
    }

    /// Drops those that nobody has used for long.
    pub fn sweep(&self) {
        for idle in self.idle.iter() {
            let mut idle = lock(idle);
            let old = unused(&idle);
            let old: Vec<_> = idle.drain(..old).collect();
            drop(idle);
            drop(old);
        }
    }

    async fn connect(&self) -> Result<Box<Used>, CallError> {
        let to = TcpStream::connect((self.host.as_str(), self.port));
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        let stream = tokio::time::timeout(CONNECT, to)
            .await
            .unwrap_or_else(late)
            .map_err(CallError::Connect)?;
        // Without it small requests would only be slower.
        let _ = stream.set_nodelay(true);
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Box::new(Used { sender, driver }))
    }

    /// The answer to a request.
    pub async fn call(
        self: &Arc<Self>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Driven>, CallError> {
        if let Some(path) = request.uri().path_and_query() {
            *request.uri_mut() = path.clone().into();
        }
        request.headers_mut().insert(HOST, self.header.clone());
        loop {
            let kept = self.kept().await;
            let again = kept.is_some();
            let used = match kept {
                Some(used) => used,
                None => self.connect().await?,
            };
            match exchange(used, request).await? {
                Ok((answer, used)) => {
                    return Ok(answer.map(|body| Driven {
                        body,
                        used: Some(used),
                        home: self.clone(),
                    }));
                }
                // It had ended, and nothing was written.
                Err((unsent, _)) if again => request = unsent,
                Err((_, error)) => return Err(error),
            }
        }
    }
}

/// A request that was not sent, and why.
type Unsent = (Request<Full<Bytes>>, CallError);

/// Sends a request and drives its connection until the answer's head is
/// there.
async fn exchange(
    mut used: Box<Used>,
    request: Request<Full<Bytes>>,
) -> Result<Result<(Response<Incoming>, Box<Used>), Unsent>, CallError> {
    let mut answer = pin!(used.sender.try_send_request(request));
    let mut over = false;
    let done = std::future::poll_fn(|context| {
        over = over || Pin::new(&mut used.driver).poll(context).is_ready();
        match answer.as_mut().poll(context) {
            Poll::Pending if over => Poll::Ready(None),
            answer => answer.map(Some),
        }
    });
    let sent = match done.await {
        Some(sent) => sent,
        None => {
            // A request that the connection has not taken comes back as it
            // goes.
            drop(used);
            match answer.await {
                Ok(_) => return Err(CallError::Ended),
                Err(mut error) => {
                    let unsent = error.take_message().ok_or(CallError::Ended)?;
                    return Ok(Err((unsent, CallError::Ended)));
                }
            }
        }
    };
    match sent {
        Ok(answer) => Ok(Ok((answer, used))),
        Err(mut error) => match error.take_message() {
            Some(unsent) => Ok(Err((unsent, error.into_error().into()))),
            None => Err(error.into_error().into()),
        },
    }
}

impl Driven {
    /// All of the body was read: the connection is the next one's, once it
    /// has seen so itself.
    fn done(&mut self, context: &mut Context<'_>) {
        if let Some(mut used) = self.used.take()
            && Pin::new(&mut used.driver).poll(context).is_pending()
            && !used.sender.is_closed()
        {
            self.home.keep(used);
        }
    }
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(used) = &mut this.used
            && Pin::new(&mut used.driver).poll(context).is_ready()
        {
            // What it had read is still to be had.
            this.used = None;
        }
        let frame = Pin::new(&mut this.body).poll_frame(context);
        match &frame {
            Poll::Ready(None) => this.done(context),
            Poll::Ready(Some(Ok(_))) if this.body.is_end_stream() => this.done(context),
            Poll::Ready(Some(Err(_))) => this.used = None,
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    const CHUNKS: &str =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n";

    /// An engine that gives `answer` to each request, and closes each
    /// connection after `most`; and how many it has had.
    async fn engine(answer: &'static str, most: usize) -> (Arc<Connections>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let had = Arc::new(AtomicUsize::new(0));
        let count = had.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    for _ in 0..most {
                        let mut buffer = [0; 4096];
                        if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                            return;
                        }
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (Connections::new(&url.parse().unwrap(), 4).unwrap(), had)
    }

    async fn ask(connections: &Arc<Connections>) -> Result<Bytes, CallError> {
        let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = "http://ignored/v1".parse().unwrap();
        let answer = connections.call(request).await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_connection_is_used_again_after_either_kind_of_answer() {
        for (answer, body) in [(WHOLE, "hi"), (CHUNKS, "ab")] {
            let (connections, had) = engine(answer, usize::MAX).await;
            for _ in 0..5 {
                assert_eq!(ask(&connections).await.unwrap(), body);
            }
            assert_eq!(had.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn each_thread_keeps_its_part_and_enough_of_them() {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let threads = cores::count() + 1;
        for (most, here) in [(4, 4), (threads, threads.min(LEAST)), (threads * 100, 100)] {
            let connections = Connections::new(&url, most).unwrap();
            assert_eq!(connections.most, here, "{most} on {threads} threads");
        }
    }

    #[tokio::test]
    async fn one_that_the_engine_has_closed_is_not_used_again() {
        let (connections, had) = engine(WHOLE, 1).await;
        for i in 1..=5 {
            assert_eq!(ask(&connections).await.unwrap(), "hi");
            assert_eq!(had.load(Ordering::Relaxed), i);
            // Until the end has come.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A listener, connections to it, and one that is kept: the engine's end
    /// has answered one request.
    async fn kept() -> (TcpListener, Arc<Connections>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Connections::new(&url.parse().unwrap(), 4).unwrap();
        let asked = {
            let connections = connections.clone();
            tokio::spawn(async move { ask(&connections).await })
        };
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(WHOLE.as_bytes()).await.unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), "hi");
        (listener, connections, stream)
    }

    #[tokio::test]
    async fn what_was_written_is_not_sent_again() {
        let (listener, connections, mut stream) = kept().await;
        let asked = {
            let connections = connections.clone();
            tokio::spawn(async move { ask(&connections).await })
        };
        // The engine has it, and ends without a word.
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        drop(stream);
        assert!(asked.await.unwrap().is_err());
        let again = tokio::time::timeout(Duration::from_millis(100), listener.accept());
        assert!(again.await.is_err(), "nobody connects again");
        assert!(connections.idle().is_empty());
    }

    #[tokio::test]
    async fn what_was_not_written_comes_back() {
        let (_listener, connections, stream) = kept().await;
        let (used, _) = connections.idle().pop().unwrap();
        drop(stream);
        // Until the end has come; nobody has looked.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
        *request.uri_mut() = "/v1".parse().unwrap();
        let sent = exchange(used, request).await.unwrap();
        let Err((unsent, _)) = sent else {
            panic!("it was sent");
        };
        assert_eq!(unsent.uri().path(), "/v1");
        assert_eq!(unsent.into_body().collect().await.unwrap().to_bytes(), "{}");
    }

    #[tokio::test]
    async fn those_that_nobody_uses_are_dropped_without_traffic() {
        let (_listener, connections, mut stream) = kept().await;
        connections.sweep();
        assert_eq!(connections.idle().len(), 1);
        let before = Instant::now().checked_sub(KEEP).unwrap();
        connections.idle()[0].1 = before;
        connections.sweep();
        assert!(connections.idle().is_empty());
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn pieces_that_came_together_are_had_at_once() {
        use futures::FutureExt;
        let (connections, _) = engine(CHUNKS, usize::MAX).await;
        let answer = connections.call(Request::new(Full::default())).await;
        let mut body = answer.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        let second = body.frame().now_or_never().flatten().unwrap().unwrap();
        assert_eq!(second.into_data().unwrap(), "b");
    }

    #[tokio::test]
    async fn an_answer_that_is_dropped_closes_its_connection() {
        let endless = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi";
        let (connections, _) = engine(endless, usize::MAX).await;
        let answer = connections.call(Request::new(Full::default())).await;
        drop(answer.unwrap());
        assert!(connections.idle().is_empty());
    }

    #[tokio::test]
    async fn nobody_there_and_a_broken_answer_are_told_apart() {
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let connections = Connections::new(&nobody.parse().unwrap(), 4).unwrap();
        let error = ask(&connections).await.unwrap_err();
        assert!(matches!(error, CallError::Connect(_)), "{error}");
        let (connections, _) = engine("HTTP/1.1 2", 1).await;
        let error = ask(&connections).await.unwrap_err();
        assert!(!matches!(error, CallError::Connect(_)), "{error}");
    }
}
