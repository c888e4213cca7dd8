//! The course of one HTTP request through Envoy: what each message means at
//! its place, and which answers may be given there. Pure: messages in,
//! messages out.
//!
//! | Envoy's message | | then |
//! |---|---|---|
//! | request headers | with a body: asks for it | request body |
//! | request body (all of it) | the gateway decides | forwarded, or answered at once |
//! | response headers | read; what the client gets waits for the hold | response body |
//! | response body, trailers | piece by piece to the exchange | replied, as the exchange lets it go |
//!
//! A stream that begins with **response** headers, or whose response comes
//! before the request was forwarded, is another filter's or Envoy's own
//! answer (a denial of `ext_authz`, a body over Envoy's limit): it is passed
//! on as it is, and nothing is billed.

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::HeaderMap as EnvoyHeaders,
    extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode,
    service::ext_proc::v3::{
        ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
        processing_request::Request as Asked,
    },
};
use http::{HeaderMap, Request, Response, StatusCode};

use super::message;

/// A message that has no place where it came, or that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misplaced {
    /// Envoy does not act on what it is answered: nothing can be metered.
    #[error("ext_proc must not run in observability_mode")]
    Observing,
    /// See the text.
    #[error(
        "ext_proc needs request_body_mode: BUFFERED and response_body_mode: FULL_DUPLEX_STREAMED"
    )]
    Mode,
    /// No method, path or status.
    #[error("a head without method, path or status")]
    Head,
    /// See the text.
    #[error("a message of Envoy came out of its order")]
    Order,
}

/// What a message means for the exchange.
#[derive(Debug)]
pub(super) enum Event {
    /// Nothing.
    None,
    /// The whole request.
    Request(Request<Bytes>),
    /// The engine's answer begins; whether that is all of it.
    Answer(Response<()>, bool),
    /// A part of its body; the last one may be empty.
    Piece {
        /// The bytes.
        bytes: Bytes,
        /// Nothing comes after it.
        last: bool,
    },
    /// What was begun for the request is not needed any more.
    Abandoned,
}

/// How the gateway's answer reaches the client.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// In place of the engine's: its body goes out by [`Course::piece`].
    Streamed(Box<ProcessingResponse>),
    /// The engine's, if there is one, is dropped: see [`Course::immediate`].
    Immediate,
}

#[derive(Debug)]
enum Stage {
    New,
    /// The request's body is to come.
    Head(Request<()>),
    /// The gateway decides about a request with these headers.
    Deciding(HeaderMap),
    /// The engine has it.
    Forwarded,
    /// The engine's answer began, the client's did not.
    Answered(Response<()>),
    /// The client's answer began.
    Replying,
    /// An answer that is not ours.
    Passing,
    Over,
}

/// Where a request is.
#[derive(Debug)]
pub(super) struct Course {
    stage: Stage,
    /// The engine's answer has no body.
    bodiless: bool,
    /// Its body ended with trailers.
    trailers: bool,
}

fn check(protocol: ProtocolConfiguration) -> Result<(), Misplaced> {
    let right = protocol.request_body_mode() == BodySendMode::Buffered
        && protocol.response_body_mode() == BodySendMode::FullDuplexStreamed;
    right.then_some(()).ok_or(Misplaced::Mode)
}

/// What a message means, and what it is answered at once.
type Taken = (Event, Vec<ProcessingResponse>);

impl Course {
    pub(super) fn new() -> Self {
        Course {
            stage: Stage::New,
            bodiless: false,
            trailers: false,
        }
    }

    /// Everything was said.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Takes in a message.
    pub(super) fn take(&mut self, message: ProcessingRequest) -> Result<Taken, Misplaced> {
        if message.observability_mode {
            return Err(Misplaced::Observing);
        }
        if let Some(protocol) = message.protocol_config {
            check(protocol)?;
        }
        let asked = message.request.ok_or(Misplaced::Order)?;
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        match (stage, asked) {
            (Stage::Over, _) => Ok((Event::None, Vec::new())),
            (Stage::New, Asked::RequestHeaders(head)) => {
                self.request_head(head.headers.as_ref(), head.end_of_stream)
            }
            (Stage::Head(head), Asked::RequestBody(body)) => Ok(self.request(head, body.body)),
            (Stage::Forwarded, Asked::ResponseHeaders(head)) => {
                self.answer_head(head.headers.as_ref(), head.end_of_stream)
            }
            (stage @ (Stage::Answered(_) | Stage::Replying), Asked::ResponseBody(body)) => {
                self.stage = stage;
                let (bytes, last) = (body.body.into(), body.end_of_stream);
                Ok((Event::Piece { bytes, last }, Vec::new()))
            }
            (stage @ (Stage::Answered(_) | Stage::Replying), Asked::ResponseTrailers(_)) => {
                self.stage = stage;
                self.trailers = true;
                let (bytes, last) = (Bytes::new(), true);
                Ok((Event::Piece { bytes, last }, Vec::new()))
            }
            // Not the engine's answer: the request was not forwarded.
            (Stage::New | Stage::Head(_) | Stage::Deciding(_), Asked::ResponseHeaders(head)) => {
                let same = message::answer(&HeaderMap::new(), &HeaderMap::new());
                Ok(self.pass(vec![same], head.end_of_stream))
            }
            (Stage::Passing, Asked::ResponseBody(body)) => {
                let mut same: Vec<_> = message::pieces(&body.body).collect();
                same.extend(body.end_of_stream.then(message::body_end));
                Ok(self.pass(same, body.end_of_stream))
            }
            (Stage::Passing, Asked::ResponseTrailers(_)) => {
                Ok(self.pass(vec![message::answer_trailers()], true))
            }
            (stage, Asked::RequestTrailers(_)) => {
                self.stage = stage;
                Ok((Event::None, vec![message::request_trailers()]))
            }
            _ => Err(Misplaced::Order),
        }
    }

    fn request_head(
        &mut self,
        headers: Option<&EnvoyHeaders>,
        ended: bool,
    ) -> Result<Taken, Misplaced> {
        let head = headers.and_then(message::request_head);
        let head = head.ok_or(Misplaced::Head)?;
        if ended {
            return Ok(self.request(head, Vec::new()));
        }
        self.stage = Stage::Head(head);
        Ok((Event::None, vec![message::head_seen()]))
    }

    fn request(&mut self, head: Request<()>, body: Vec<u8>) -> Taken {
        self.stage = Stage::Deciding(head.headers().clone());
        (Event::Request(head.map(|()| body.into())), Vec::new())
    }

    fn answer_head(
        &mut self,
        headers: Option<&EnvoyHeaders>,
        ended: bool,
    ) -> Result<Taken, Misplaced> {
        let head = headers.and_then(message::answer_head);
        let head = head.ok_or(Misplaced::Head)?;
        self.bodiless = ended;
        self.stage = Stage::Answered(head.clone());
        Ok((Event::Answer(head, ended), Vec::new()))
    }

    fn pass(&mut self, same: Vec<ProcessingResponse>, ended: bool) -> Taken {
        self.stage = if ended { Stage::Over } else { Stage::Passing };
        (Event::Abandoned, same)
    }

    /// The request goes on to the engine like `request`: once, and only if it
    /// has a body.
    pub(super) fn forward(
        &mut self,
        request: Request<Bytes>,
    ) -> Result<ProcessingResponse, Misplaced> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Deciding(old) if !request.body().is_empty() => {
                self.stage = Stage::Forwarded;
                Ok(message::forward(&old, request))
            }
            _ => Err(Misplaced::Order),
        }
    }

    /// The client's answer begins like this; `empty`: that is all of it.
    pub(super) fn reply(&mut self, status: StatusCode, headers: &HeaderMap, empty: bool) -> Reply {
        match &self.stage {
            Stage::Answered(engine) if engine.status() == status && empty >= self.bodiless => {
                let reply = message::answer(engine.headers(), headers);
                self.stage = if self.bodiless {
                    Stage::Over
                } else {
                    Stage::Replying
                };
                Reply::Streamed(Box::new(reply))
            }
            _ => Reply::Immediate,
        }
    }

    /// The whole answer of the gateway itself.
    pub(super) fn immediate(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
    ) -> ProcessingResponse {
        self.stage = Stage::Over;
        message::immediate(status, headers, body)
    }

    /// The client's answer is complete.
    pub(super) fn end(&mut self) -> ProcessingResponse {
        self.stage = Stage::Over;
        if self.trailers {
            message::answer_trailers()
        } else {
            message::body_end()
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::ext_proc::v3::{
        HttpBody, HttpHeaders, HttpTrailers, processing_response::Response as Answer,
    };

    use super::{super::message::tests::envoy_headers, *};

    fn from_envoy(asked: Asked) -> ProcessingRequest {
        ProcessingRequest {
            request: Some(asked),
            ..ProcessingRequest::default()
        }
    }

    fn head(headers: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
        HttpHeaders {
            headers: Some(envoy_headers(headers)),
            end_of_stream,
            ..HttpHeaders::default()
        }
    }

    fn request_head() -> Asked {
        let headers = [
            (":method", "POST"),
            (":path", "/v1/x"),
            ("authorization", "k"),
        ];
        Asked::RequestHeaders(head(&headers, false))
    }

    fn answer_head(status: &str, ended: bool) -> Asked {
        Asked::ResponseHeaders(head(&[(":status", status), ("x-engine", "1")], ended))
    }

    fn body(bytes: &str, end_of_stream: bool) -> HttpBody {
        HttpBody {
            body: bytes.into(),
            end_of_stream,
            ..HttpBody::default()
        }
    }

    /// A course that has taken in these messages.
    fn after(messages: Vec<Asked>) -> Course {
        let mut course = Course::new();
        for message in messages {
            course.take(from_envoy(message)).unwrap();
        }
        course
    }

    fn forwarded() -> Course {
        let mut course = after(vec![request_head(), Asked::RequestBody(body("{}", true))]);
        let request = Request::new(Bytes::from_static(b"{}"));
        course.forward(request).unwrap();
        course
    }

    #[test]
    fn a_request_is_decided_about_once_its_body_is_there() {
        let mut course = Course::new();
        let (event, answers) = course.take(from_envoy(request_head())).unwrap();
        assert!(matches!(event, Event::None));
        assert!(matches!(
            answers[0].response,
            Some(Answer::RequestHeaders(_))
        ));
        let whole = Asked::RequestBody(body("{}", true));
        let (event, answers) = course.take(from_envoy(whole)).unwrap();
        assert_eq!(answers, []);
        let Event::Request(request) = event else {
            panic!("{event:?}");
        };
        assert_eq!(request.body(), "{}");
        // It goes on once.
        let again = Request::new(Bytes::from_static(b"{}"));
        let forward = course.forward(request).unwrap();
        assert!(matches!(forward.response, Some(Answer::RequestBody(_))));
        assert_eq!(course.forward(again).unwrap_err(), Misplaced::Order);
    }

    #[test]
    fn without_a_body_a_request_is_only_answered_here() {
        let headers = [(":method", "GET"), (":path", "/v1/models")];
        let mut course = Course::new();
        let asked = Asked::RequestHeaders(head(&headers, true));
        let (event, _) = course.take(from_envoy(asked)).unwrap();
        assert!(matches!(event, Event::Request(_)));
        assert_eq!(
            course.reply(StatusCode::OK, &HeaderMap::new(), false),
            Reply::Immediate
        );
        course.immediate(StatusCode::OK, &HeaderMap::new(), Bytes::new());
        assert!(course.is_over());
    }

    #[test]
    fn the_engines_answer_is_replied_in_its_place_and_another_at_once() {
        for (status, ended, empty, streamed) in [
            (200, false, false, true),
            (200, true, true, true),
            (200, true, false, false),
            (502, false, false, false),
        ] {
            let mut course = forwarded();
            let answer = from_envoy(answer_head("200", ended));
            assert!(matches!(course.take(answer).unwrap().0, Event::Answer(_, e) if e == ended));
            let status = StatusCode::from_u16(status).unwrap();
            let reply = course.reply(status, &HeaderMap::new(), empty);
            assert_eq!(
                matches!(reply, Reply::Streamed(_)),
                streamed,
                "{status} {ended} {empty}"
            );
            assert_eq!(course.is_over(), streamed && ended);
        }
        let mut early = forwarded();
        let reply = early.reply(StatusCode::OK, &HeaderMap::new(), false);
        assert_eq!(reply, Reply::Immediate);
    }

    #[test]
    fn an_answer_ends_by_its_body_or_by_its_trailers() {
        for trailers in [false, true] {
            let mut course = forwarded();
            course.take(from_envoy(answer_head("200", false))).unwrap();
            let last = if trailers {
                Asked::ResponseTrailers(HttpTrailers::default())
            } else {
                Asked::ResponseBody(body("x", true))
            };
            let (event, answers) = course.take(from_envoy(last)).unwrap();
            assert!(matches!(event, Event::Piece { last: true, .. }));
            assert_eq!(answers, []);
            course.reply(StatusCode::OK, &HeaderMap::new(), false);
            let end = course.end().response;
            assert_eq!(matches!(end, Some(Answer::ResponseTrailers(_))), trailers);
            assert!(course.is_over());
        }
    }

    #[test]
    fn an_answer_that_is_not_the_engines_passes_and_ends_what_was_begun() {
        let begun = || vec![request_head(), Asked::RequestBody(body("{}", true))];
        for before in [Vec::new(), vec![request_head()], begun()] {
            let mut course = after(before);
            let (event, answers) = course.take(from_envoy(answer_head("403", false))).unwrap();
            assert!(matches!(event, Event::Abandoned));
            assert_eq!(
                answers,
                [message::answer(&HeaderMap::new(), &HeaderMap::new())]
            );
            let denied = Asked::ResponseBody(body("no", false));
            let (_, answers) = course.take(from_envoy(denied)).unwrap();
            assert_eq!(answers, message::pieces(b"no").collect::<Vec<_>>());
            let (_, answers) = course
                .take(from_envoy(Asked::ResponseBody(body("", true))))
                .unwrap();
            assert_eq!(answers, [message::body_end()]);
            assert!(course.is_over());
        }
    }

    #[test]
    fn what_has_no_place_or_another_mode_is_refused() {
        let stray = from_envoy(Asked::ResponseBody(body("x", false)));
        assert_eq!(
            Course::new().take(stray.clone()).unwrap_err(),
            Misplaced::Order
        );
        assert_eq!(forwarded().take(stray).unwrap_err(), Misplaced::Order);
        let twice = from_envoy(request_head());
        assert_eq!(forwarded().take(twice).unwrap_err(), Misplaced::Order);
        let nameless = from_envoy(Asked::RequestHeaders(head(&[(":method", "POST")], false)));
        assert_eq!(Course::new().take(nameless).unwrap_err(), Misplaced::Head);
        let mut observing = from_envoy(request_head());
        observing.observability_mode = true;
        assert_eq!(
            Course::new().take(observing).unwrap_err(),
            Misplaced::Observing
        );
        let mut streamed = from_envoy(request_head());
        streamed.protocol_config = Some(ProtocolConfiguration {
            request_body_mode: BodySendMode::Buffered.into(),
            response_body_mode: BodySendMode::Streamed.into(),
            ..ProtocolConfiguration::default()
        });
        assert_eq!(Course::new().take(streamed).unwrap_err(), Misplaced::Mode);
    }
}
