//! A small Envoy: an HTTP server that sends each request through `ext_proc`
//! as the real one was seen to do, and on to the engine. What the engine
//! sends arrives at the gateway in two messages per write, so events are
//! split. The real binary is driven in `tests/interop`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode},
};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap as EnvoyHeaders, HeaderValue as EnvoyHeader},
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::ext_proc::v3::{
        CommonResponse, HeaderMutation, HttpBody, HttpHeaders, ImmediateResponse,
        ProcessingRequest, ProcessingResponse, ProtocolConfiguration, body_mutation::Mutation,
        external_processor_client::ExternalProcessorClient, processing_request::Request as Ask,
        processing_response::Response as Answer,
    },
};
use http_body_util::{BodyExt, Full};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

pub struct Envoy {
    pub address: SocketAddr,
    client: ExternalProcessorClient<Channel>,
    engine: Mutex<SocketAddr>,
}

pub fn protocol(request: BodySendMode, response: BodySendMode) -> ProtocolConfiguration {
    ProtocolConfiguration {
        request_body_mode: request.into(),
        response_body_mode: response.into(),
        ..ProtocolConfiguration::default()
    }
}

pub fn ask(request: Ask) -> ProcessingRequest {
    ProcessingRequest {
        protocol_config: Some(protocol(
            BodySendMode::Buffered,
            BodySendMode::FullDuplexStreamed,
        )),
        request: Some(request),
        ..ProcessingRequest::default()
    }
}

pub fn head(pseudo: &[(&str, &str)], headers: &HeaderMap, end_of_stream: bool) -> HttpHeaders {
    let header = |key: &str, value: &[u8]| EnvoyHeader {
        key: key.to_owned(),
        value: String::new(),
        raw_value: value.to_vec(),
    };
    let pseudo = pseudo
        .iter()
        .map(|(name, value)| header(name, value.as_bytes()));
    let plain = headers
        .iter()
        .map(|(name, value)| header(name.as_str(), value.as_bytes()));
    HttpHeaders {
        headers: Some(EnvoyHeaders {
            headers: pseudo.chain(plain).collect(),
        }),
        end_of_stream,
        ..HttpHeaders::default()
    }
}

pub fn body(body: &[u8], end_of_stream: bool) -> HttpBody {
    HttpBody {
        body: body.to_vec(),
        end_of_stream,
        ..HttpBody::default()
    }
}

/// The filter on one request.
pub struct Filter {
    pub asks: mpsc::Sender<ProcessingRequest>,
    pub answers: Streaming<ProcessingResponse>,
}

impl Filter {
    pub async fn open(mut client: ExternalProcessorClient<Channel>) -> Filter {
        let (asks, asked) = mpsc::channel(16);
        let answers = client.process(ReceiverStream::new(asked)).await.unwrap();
        Filter {
            asks,
            answers: answers.into_inner(),
        }
    }

    pub async fn tell(&self, request: Ask) {
        // The gateway may be gone; that shows in its answers.
        let _ = self.asks.send(ask(request)).await;
    }

    /// The next answer; an end of the stream is what Envoy makes of it: an
    /// error is a 500, a clean end lets the request pass unmetered.
    pub async fn answer(&mut self) -> Result<Answer, StatusCode> {
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer.response.unwrap()),
            Ok(None) => panic!("closed without an error: Envoy would go on unmetered"),
            Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl Envoy {
    pub async fn start(gateway: SocketAddr, engine: SocketAddr) -> Arc<Envoy> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = ExternalProcessorClient::connect(format!("http://{gateway}"));
        let envoy = Arc::new(Envoy {
            address: listener.local_addr().unwrap(),
            client: client.await.unwrap(),
            engine: Mutex::new(engine),
        });
        let router = Router::new().fallback(carry).with_state(envoy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        envoy
    }

    /// From now on requests go there.
    pub async fn route(&self, engine: SocketAddr) {
        *self.engine.lock().await = engine;
    }

    pub fn client(&self) -> ExternalProcessorClient<Channel> {
        self.client.clone()
    }
}

/// Changes headers, and the path if that is set.
fn mutate(headers: &mut HeaderMap, path: &mut String, mutation: HeaderMutation) {
    for name in mutation.remove_headers {
        headers.remove(name);
    }
    for set in mutation.set_headers {
        let header = set.header.unwrap();
        if header.key == ":path" {
            *path = String::from_utf8(header.raw_value).unwrap();
            continue;
        }
        let name = HeaderName::from_bytes(header.key.as_bytes()).unwrap();
        let value = HeaderValue::from_bytes(&header.raw_value).unwrap();
        match set.append_action {
            2 => drop(headers.insert(name, value)),
            _ => drop(headers.append(name, value)),
        }
    }
}

fn immediate(answer: ImmediateResponse) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status.unwrap().code as u16).unwrap();
    let headers = answer.headers.unwrap_or_default();
    mutate(response.headers_mut(), &mut String::new(), headers);
    response
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from("envoy"));
    *response.status_mut() = status;
    response
}

fn streamed(common: Option<CommonResponse>) -> (Vec<u8>, bool) {
    match common.unwrap().body_mutation.unwrap().mutation {
        Some(Mutation::StreamedResponse(piece)) => (piece.body, piece.end_of_stream),
        other => panic!("{other:?}"),
    }
}

/// One request through the filter.
async fn carry(
    State(envoy): State<Arc<Envoy>>,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible> {
    let answered = through(&envoy, request).await;
    Ok(answered.unwrap_or_else(plain))
}

async fn through(envoy: &Arc<Envoy>, request: Request<Body>) -> Result<Response<Body>, StatusCode> {
    let (mut parts, bytes) = request.into_parts();
    let bytes = bytes.collect().await.unwrap().to_bytes();
    let mut path = parts.uri.path_and_query().unwrap().to_string();
    let pseudo = [(":method", parts.method.as_str()), (":path", &path)];
    let request_head = head(&pseudo, &parts.headers, bytes.is_empty());
    let mut filter = Filter::open(envoy.client()).await;
    filter.tell(Ask::RequestHeaders(request_head)).await;
    if !bytes.is_empty() {
        match filter.answer().await? {
            Answer::RequestHeaders(_) => {}
            Answer::ImmediateResponse(answer) => return Ok(immediate(answer)),
            other => panic!("{other:?}"),
        }
        filter.tell(Ask::RequestBody(body(&bytes, true))).await;
    }
    let common = match filter.answer().await? {
        Answer::RequestBody(answer) => answer.response.unwrap(),
        Answer::ImmediateResponse(answer) => return Ok(immediate(answer)),
        other => panic!("{other:?}"),
    };
    mutate(
        &mut parts.headers,
        &mut path,
        common.header_mutation.unwrap(),
    );
    let Some(Mutation::Body(bytes)) = common.body_mutation.unwrap().mutation else {
        panic!("the body is not replaced");
    };
    // Envoy answers 500 then.
    assert_eq!(parts.headers["content-length"], bytes.len().to_string());
    let address = *envoy.engine.lock().await;
    let mut request = Request::new(Full::new(Bytes::from(bytes)));
    *request.method_mut() = parts.method;
    *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
    *request.headers_mut() = parts.headers;
    request.headers_mut().remove("host");
    let engine = super::client();
    let answer = tokio::select! {
        answer = engine.request(request) => answer,
        early = filter.answer() => match early? {
            Answer::ImmediateResponse(answer) => return Ok(immediate(answer)),
            other => panic!("{other:?}"),
        },
    };
    let answer = match answer {
        Ok(answer) => answer.map(Body::new),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE),
    };
    reply(filter, answer).await
}

/// The engine's answer goes back through the filter.
async fn reply(mut filter: Filter, answer: Response<Body>) -> Result<Response<Body>, StatusCode> {
    let (mut parts, engine) = answer.into_parts();
    let pseudo = [(":status", parts.status.as_str())];
    let answer_head = head(&pseudo, &parts.headers, false);
    filter.tell(Ask::ResponseHeaders(answer_head)).await;
    let (broken, mut broke) = mpsc::channel::<()>(1);
    let telling = tokio::spawn(tell_body(filter.asks.clone(), engine, broken));
    let stopped = Stop(telling);
    let common = tokio::select! {
        answer = filter.answer() => match answer? {
            Answer::ResponseHeaders(answer) => answer.response.unwrap_or_default(),
            Answer::ImmediateResponse(answer) => return Ok(immediate(answer)),
            other => panic!("{other:?}"),
        },
        Some(()) = broke.recv() => return Err(StatusCode::BAD_GATEWAY),
    };
    let changes = common.header_mutation.unwrap_or_default();
    mutate(&mut parts.headers, &mut String::new(), changes);
    parts.headers.remove("content-length");
    parts.headers.remove("transfer-encoding");
    let (client, to_client) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    tokio::spawn(async move {
        let _stopped = stopped;
        loop {
            let answer = tokio::select! {
                answer = filter.answer() => answer,
                () = client.closed() => return,
                Some(()) = broke.recv() => Err(StatusCode::BAD_GATEWAY),
            };
            let (bytes, last) = match answer {
                Ok(Answer::ResponseBody(answer)) => streamed(answer.response),
                Ok(other) => panic!("{other:?}"),
                Err(_) => {
                    let _ = client
                        .send(Err(std::io::ErrorKind::BrokenPipe.into()))
                        .await;
                    return;
                }
            };
            if !bytes.is_empty() && client.send(Ok(bytes.into())).await.is_err() {
                return;
            }
            if last {
                return;
            }
        }
    });
    let body = Body::from_stream(ReceiverStream::new(to_client));
    Ok(Response::from_parts(parts, body))
}

/// Ends a task with its owner: the engine's connection goes with it.
struct Stop(tokio::task::JoinHandle<()>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Each write of the engine as two messages, then an empty one as the end. A
/// body that breaks off has no end.
async fn tell_body(
    asks: mpsc::Sender<ProcessingRequest>,
    mut engine: Body,
    broken: mpsc::Sender<()>,
) {
    while let Some(frame) = engine.frame().await {
        let Ok(frame) = frame else {
            let _ = broken.send(()).await;
            std::future::pending::<()>().await;
            return;
        };
        let bytes = frame.into_data().unwrap_or_default();
        for half in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
            let _ = asks.send(ask(Ask::ResponseBody(body(half, false)))).await;
        }
    }
    let _ = asks.send(ask(Ask::ResponseBody(body(b"", true)))).await;
    // The end of the messages is the end of the stream.
    std::future::pending::<()>().await;
}
