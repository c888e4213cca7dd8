//! `ext_proc`: one stream of messages per HTTP request.
//!
//! The messages are read by a `Course`; the request goes to the proxy,
//! which asks the engine through a [`Leg`] and gives back an answer. What the
//! engine says waits here, one piece at most, until the exchange takes it.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    ProcessingRequest, ProcessingResponse, external_processor_server::ExternalProcessor,
};
use futures::{Stream, StreamExt, future::BoxFuture, stream};
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    course::{Course, Event, Misplaced, Reply},
    leg::{Call, Leg},
};
use crate::proxy::{
    Proxy,
    body::{Arriving, Body},
    reply,
};

/// Messages that may wait for Envoy, and pieces for the exchange.
const WAITING: usize = 16;
/// How long Envoy may take to end a stream on which everything was said.
const FAREWELL: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub struct Process {
    proxy: Arc<Proxy>,
    cut: CancellationToken,
}

/// To Envoy; `None`: everything was said.
type Out = mpsc::Sender<Option<ProcessingResponse>>;

/// Why a stream ends early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The client hung up, or the engine or Envoy broke off: these cannot be
    /// told apart.
    #[error("Envoy ended the stream")]
    Gone,
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// The exchange broke the answer off, or the gateway stops.
    #[error("the answer was broken off")]
    Cut,
}

impl Process {
    /// The service in front of `proxy`; `cut` ends the streams that run.
    pub fn new(proxy: Arc<Proxy>, cut: CancellationToken) -> Self {
        Process { proxy, cut }
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Process {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: tonic::Request<tonic::Streaming<ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, Status> {
        let (out, answers) = mpsc::channel(WAITING);
        let (proxy, cut) = (self.proxy.clone(), self.cut.clone());
        tokio::spawn(carry(proxy, request.into_inner(), out, cut));
        Ok(tonic::Response::new(Box::pin(checked(answers))))
    }
}

/// What was answered. It ends with an error unless everything was said: Envoy
/// takes an end without one for leave to go on unmetered.
fn checked(
    answers: mpsc::Receiver<Option<ProcessingResponse>>,
) -> impl Stream<Item = Result<ProcessingResponse, Status>> {
    stream::unfold(Some(answers), |answers| async move {
        let mut answers = answers?;
        match answers.recv().await {
            Some(Some(message)) => Some((Ok(message), Some(answers))),
            Some(None) => None,
            None => Some((Err(Status::aborted("the request is not metered")), None)),
        }
    })
}

/// Carries one request through.
async fn carry<S>(proxy: Arc<Proxy>, mut messages: S, out: Out, cut: CancellationToken)
where
    S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
{
    let running = Carried::new(proxy, out.clone()).run(&mut messages);
    let ended = cut.run_until_cancelled(running).await;
    match ended.unwrap_or(Err(Broken::Cut)) {
        Ok(()) => {
            // Envoy ends the stream by itself then.
            let rest = async { while let Some(Ok(_)) = messages.next().await {} };
            let _ = tokio::time::timeout(FAREWELL, rest).await;
            let _ = out.send(None).await;
        }
        Err(Broken::Misplaced(misplaced)) => {
            tracing::error!(error = %misplaced, "Envoy is not set up as gateway-adapter/contrib/envoy.yaml says");
        }
        Err(broken) => tracing::debug!(error = %broken, "a request through Envoy ended early"),
    }
}

/// One request on its way.
struct Carried {
    proxy: Arc<Proxy>,
    out: Out,
    course: Course,
    leg: Leg,
    called: mpsc::Receiver<Call>,
    /// The proxy's answer, until its head is there.
    answering: Option<BoxFuture<'static, Response<Body>>>,
    /// Where the engine's answer goes.
    engine: Option<oneshot::Sender<Response<Arriving>>>,
    /// Where its body goes.
    feed: Option<mpsc::Sender<Option<Bytes>>>,
    /// What waits to be fed: a piece, the end (`None`), or both.
    waiting: VecDeque<Option<Bytes>>,
    /// The body of the client's answer.
    body: Option<Body>,
}

async fn answer_of(answering: &mut Option<BoxFuture<'static, Response<Body>>>) -> Response<Body> {
    match answering {
        Some(answering) => answering.await,
        None => std::future::pending().await,
    }
}

async fn frame_of(body: &mut Option<Body>) -> Option<std::io::Result<http_body::Frame<Bytes>>> {
    match body {
        Some(body) => body.frame().await,
        None => std::future::pending().await,
    }
}

/// Feeds the next piece once the exchange takes it; whether more may come.
async fn feed(
    feed: Option<&mpsc::Sender<Option<Bytes>>>,
    waiting: &mut VecDeque<Option<Bytes>>,
) -> bool {
    let room = match feed {
        Some(feed) => feed.reserve().await.ok(),
        None => None,
    };
    let Some(room) = room else {
        // The exchange needs no more.
        waiting.clear();
        return false;
    };
    let piece = waiting.pop_front().flatten();
    let more = piece.is_some();
    room.send(piece);
    more
}

async fn say(out: &Out, message: ProcessingResponse) -> Result<(), Broken> {
    let sent = out.send(Some(message)).await;
    sent.map_err(|_| Broken::Gone)
}

impl Carried {
    fn new(proxy: Arc<Proxy>, out: Out) -> Self {
        let (leg, called) = Leg::new();
        Carried {
            proxy,
            out,
            course: Course::new(),
            leg,
            called,
            answering: None,
            engine: None,
            feed: None,
            waiting: VecDeque::new(),
            body: None,
        }
    }

    /// Until everything was said. Dropping this tells the exchange that the
    /// client is gone, if it is not over.
    async fn run<S>(mut self, messages: &mut S) -> Result<(), Broken>
    where
        S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
    {
        while !self.course.is_over() {
            tokio::select! {
                message = messages.next(), if self.waiting.is_empty() => match message {
                    Some(Ok(message)) => self.take(message).await?,
                    Some(Err(_)) | None => return Err(Broken::Gone),
                },
                more = feed(self.feed.as_ref(), &mut self.waiting), if !self.waiting.is_empty() => {
                    if !more {
                        self.feed = None;
                    }
                }
                Some(call) = self.called.recv() => {
                    let forward = self.course.forward(call.request)?;
                    self.engine = Some(call.answer);
                    say(&self.out, forward).await?;
                }
                answer = answer_of(&mut self.answering) => {
                    self.answering = None;
                    self.reply(answer).await?;
                }
                frame = frame_of(&mut self.body) => match frame {
                    Some(Ok(frame)) => {
                        let bytes = frame.into_data().unwrap_or_default();
                        for piece in super::message::pieces(&bytes) {
                            say(&self.out, piece).await?;
                        }
                    }
                    Some(Err(_)) => return Err(Broken::Cut),
                    None => {
                        let end = self.course.end();
                        say(&self.out, end).await?;
                    }
                },
                () = self.out.closed() => return Err(Broken::Gone),
            }
        }
        Ok(())
    }

    async fn take(&mut self, message: ProcessingRequest) -> Result<(), Broken> {
        let (event, answers) = self.course.take(message)?;
        for answer in answers {
            say(&self.out, answer).await?;
        }
        match event {
            Event::None => {}
            Event::Request(request) => self.answering = Some(self.ask(request)),
            Event::Answer(head, ended) => self.answered(head, ended),
            Event::Piece { bytes, last } => {
                let piece = Some(bytes).filter(|bytes| !bytes.is_empty());
                self.waiting.extend(piece.map(Some));
                self.waiting.extend(last.then_some(None));
            }
            Event::Abandoned => self.answering = None,
        }
        Ok(())
    }

    /// The proxy's answer to a request. Metrics are not for clients of Envoy.
    fn ask(&self, request: Request<Bytes>) -> BoxFuture<'static, Response<Body>> {
        if request.uri().path() == "/metrics" {
            let refused = reply::no_route(&Method::GET, "/metrics");
            return Box::pin(std::future::ready(refused));
        }
        let mut request = request.map(|body| Arriving::Whole(Some(body)));
        request.extensions_mut().insert(self.leg.clone());
        let answer = self.proxy.clone().answer(request);
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                Err(never) => match never {},
            }
        })
    }

    /// The engine's answer begins.
    fn answered(&mut self, head: Response<()>, ended: bool) {
        let body = if ended {
            Arriving::Whole(None)
        } else {
            let (feed, fed) = mpsc::channel(WAITING);
            self.feed = Some(feed);
            Arriving::Fed(fed)
        };
        if let Some(engine) = self.engine.take() {
            // The exchange may have ended meanwhile: its answer is on its way.
            let _ = engine.send(head.map(|()| body));
        }
    }

    /// The head of the client's answer.
    async fn reply(&mut self, answer: Response<Body>) -> Result<(), Broken> {
        let (parts, body) = answer.into_parts();
        let empty = body.is_end_stream();
        match self.course.reply(parts.status, &parts.headers, empty) {
            Reply::Streamed(reply) => {
                self.body = Some(body);
                say(&self.out, *reply).await
            }
            Reply::Immediate => {
                // Such answers are whole.
                let body = body.collect().await.map_err(|_| Broken::Cut)?.to_bytes();
                let immediate = self.course.immediate(parts.status, &parts.headers, body);
                say(&self.out, immediate).await
            }
        }
    }
}
