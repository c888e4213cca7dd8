//! Envoy's messages as HTTP, and HTTP as Envoy's messages.

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::{
        HeaderMap as EnvoyHeaders, HeaderValue as EnvoyHeader, HeaderValueOption,
        header_value_option::HeaderAppendAction,
    },
    service::ext_proc::v3::{
        BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse,
        ImmediateResponse, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
        body_mutation::Mutation, processing_response::Response as Answer,
    },
    r#type::v3::HttpStatus,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};

/// Most bytes of a body in one message: Envoy's gRPC takes 64 KiB at a time.
const PIECE: usize = 60_000;

/// Where a request goes, among Envoy's headers.
const PATH: &str = ":path";

/// Framing is Envoy's own affair; `host` cannot be changed here.
const NOT_OURS: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
];

/// Reads Envoy's headers; those with a `:` apart.
fn headers(from: &EnvoyHeaders, mut pseudo: impl FnMut(&str, &[u8])) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for header in &from.headers {
        let value = match header.raw_value.as_slice() {
            [] => header.value.as_bytes(),
            raw => raw,
        };
        if header.key.starts_with(':') {
            pseudo(&header.key, value);
            continue;
        }
        let name = HeaderName::from_bytes(header.key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            // More than a map takes are not passed on.
            let _ = headers.try_append(name, value);
        }
    }
    headers
}

/// A request's head; `None` if it has no method or path.
pub(super) fn request_head(from: &EnvoyHeaders) -> Option<Request<()>> {
    let (mut method, mut path) = (None, None);
    let headers = headers(from, |name, value| match name {
        ":method" => method = Method::from_bytes(value).ok(),
        PATH => path = Uri::try_from(value).ok(),
        _ => {}
    });
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = (method?, path?);
    *request.headers_mut() = headers;
    Some(request)
}

/// An answer's head; `None` if it has no status.
pub(super) fn answer_head(from: &EnvoyHeaders) -> Option<Response<()>> {
    let mut status = None;
    let headers = headers(from, |name, value| {
        if name == ":status" {
            status = StatusCode::from_bytes(value).ok();
        }
    });
    let mut response = Response::new(());
    *response.status_mut() = status?;
    *response.headers_mut() = headers;
    Some(response)
}

/// Sets a header, or adds one more of its name.
pub(super) fn set(
    name: &str,
    value: &HeaderValue,
    action: HeaderAppendAction,
) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(EnvoyHeader {
            key: name.to_owned(),
            value: String::new(),
            raw_value: value.as_bytes().to_vec(),
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}

/// All of `headers`, set.
pub(super) fn set_all(headers: &HeaderMap) -> Vec<HeaderValueOption> {
    let mut set_headers = Vec::new();
    for name in headers.keys().filter(|name| !NOT_OURS.contains(name)) {
        set_headers.extend(set_values(headers, name));
    }
    set_headers
}

fn set_values<'a>(
    headers: &'a HeaderMap,
    name: &'a HeaderName,
) -> impl Iterator<Item = HeaderValueOption> + 'a {
    let values = headers.get_all(name).iter().enumerate();
    values.map(|(i, value)| {
        let action = match i {
            0 => HeaderAppendAction::OverwriteIfExistsOrAdd,
            _ => HeaderAppendAction::AppendIfExistsOrAdd,
        };
        set(name.as_str(), value, action)
    })
}

/// What makes `new` of `old`.
fn change(old: &HeaderMap, new: &HeaderMap) -> HeaderMutation {
    let ours = |name: &&HeaderName| !NOT_OURS.contains(name);
    let mut mutation = HeaderMutation::default();
    for name in old.keys().filter(ours) {
        if !new.contains_key(name) {
            mutation.remove_headers.push(name.to_string());
        }
    }
    for name in new.keys().filter(ours) {
        if !old.get_all(name).iter().eq(new.get_all(name)) {
            mutation.set_headers.extend(set_values(new, name));
        }
    }
    mutation
}

fn message(answer: Answer) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(answer),
        ..ProcessingResponse::default()
    }
}

fn common(
    header_mutation: Option<HeaderMutation>,
    body: Option<Mutation>,
) -> Option<CommonResponse> {
    Some(CommonResponse {
        header_mutation,
        body_mutation: body.map(|mutation| BodyMutation {
            mutation: Some(mutation),
        }),
        ..CommonResponse::default()
    })
}

/// The request's head was seen: its body, please.
pub(super) fn head_seen() -> ProcessingResponse {
    message(Answer::RequestHeaders(HeadersResponse::default()))
}

/// The request goes on to the engine like `request`, whose head was `old`.
/// Its path is the engine's, without what the client wrote behind it. Its
/// length is set in the same message; routes are looked up again, since it
/// names its engine now.
pub(super) fn forward(old: &HeaderMap, request: Request<Bytes>) -> ProcessingResponse {
    let (parts, body) = request.into_parts();
    let mut mutation = change(old, &parts.headers);
    let overwrite = HeaderAppendAction::OverwriteIfExistsOrAdd;
    let path = HeaderValue::from_str(parts.uri.path());
    let length = HeaderValue::from(body.len());
    let path = path.ok().map(|path| set(PATH, &path, overwrite));
    mutation.set_headers.extend(path);
    let length = set(header::CONTENT_LENGTH.as_str(), &length, overwrite);
    mutation.set_headers.push(length);
    if old.contains_key(header::TRANSFER_ENCODING) {
        let name = header::TRANSFER_ENCODING.to_string();
        mutation.remove_headers.push(name);
    }
    let mut response = common(Some(mutation), Some(Mutation::Body(body.into())));
    if let Some(response) = &mut response {
        response.clear_route_cache = true;
    }
    message(Answer::RequestBody(BodyResponse { response }))
}

/// The answer's head goes on to the client like `new`; it was `old`.
pub(super) fn answer(old: &HeaderMap, new: &HeaderMap) -> ProcessingResponse {
    let response = common(Some(change(old, new)), None);
    message(Answer::ResponseHeaders(HeadersResponse { response }))
}

/// A part of the answer's body.
fn streamed(body: Vec<u8>, end_of_stream: bool) -> ProcessingResponse {
    let piece = StreamedBodyResponse {
        body,
        end_of_stream,
        ..StreamedBodyResponse::default()
    };
    let response = common(None, Some(Mutation::StreamedResponse(piece)));
    message(Answer::ResponseBody(BodyResponse { response }))
}

/// A part of the answer's body, in messages of a size that Envoy takes.
pub(super) fn pieces(body: &[u8]) -> impl Iterator<Item = ProcessingResponse> {
    body.chunks(PIECE)
        .map(|piece| streamed(piece.to_vec(), false))
}

/// The end of the answer's body.
pub(super) fn body_end() -> ProcessingResponse {
    streamed(Vec::new(), true)
}

/// The request's trailers go on as they are.
pub(super) fn request_trailers() -> ProcessingResponse {
    message(Answer::RequestTrailers(TrailersResponse::default()))
}

/// The answer's trailers go on as they are.
pub(super) fn answer_trailers() -> ProcessingResponse {
    message(Answer::ResponseTrailers(TrailersResponse::default()))
}

/// An answer of the gateway itself, instead of the engine's.
pub(super) fn immediate(
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> ProcessingResponse {
    message(Answer::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: status.as_u16().into(),
        }),
        headers: Some(HeaderMutation {
            set_headers: set_all(headers),
            remove_headers: Vec::new(),
        }),
        body: body.into(),
        grpc_status: None,
        details: "tally".to_owned(),
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::envoy) fn envoy_headers(headers: &[(&str, &str)]) -> EnvoyHeaders {
        let headers = headers.iter().map(|(name, value)| EnvoyHeader {
            key: (*name).to_owned(),
            value: String::new(),
            raw_value: value.as_bytes().to_vec(),
        });
        EnvoyHeaders {
            headers: headers.collect(),
        }
    }

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn sets(mutation: &HeaderMutation) -> Vec<(String, String, i32)> {
        let sets = mutation.set_headers.iter().map(|set| {
            let header = set.header.clone().unwrap();
            let value = String::from_utf8(header.raw_value).unwrap();
            (header.key, value, set.append_action)
        });
        sets.collect()
    }

    #[test]
    fn heads_are_read_and_one_without_path_or_status_is_none() {
        let head = request_head(&envoy_headers(&[
            (":method", "POST"),
            (":path", "/v1/x?y=1"),
            ("a", "1"),
            ("a", "2"),
        ]));
        let head = head.unwrap();
        assert_eq!((head.method(), head.uri().path()), (&Method::POST, "/v1/x"));
        assert_eq!(head.headers().get_all("a").iter().count(), 2);
        assert!(request_head(&envoy_headers(&[(":method", "GET")])).is_none());
        let head = answer_head(&envoy_headers(&[(":status", "503")]));
        assert_eq!(head.unwrap().status(), 503);
        assert!(answer_head(&envoy_headers(&[("a", "1")])).is_none());
    }

    #[test]
    fn only_what_differs_is_changed() {
        let old = map(&[
            ("same", "1"),
            ("same", "2"),
            ("other", "1"),
            ("authorization", "Bearer secret"),
            ("host", "a"),
            ("content-length", "5"),
        ]);
        let new = map(&[
            ("same", "1"),
            ("same", "2"),
            ("other", "2"),
            ("new", "x"),
            ("new", "y"),
        ]);
        let mutation = change(&old, &new);
        assert_eq!(mutation.remove_headers, ["authorization"]);
        let expected = [("other", "2", 2), ("new", "x", 2), ("new", "y", 0)];
        let expected = expected.map(|(name, value, action)| (name.into(), value.into(), action));
        assert_eq!(sets(&mutation), expected);
    }

    #[test]
    fn a_request_that_goes_on_carries_its_length_and_a_large_body_is_cut_in_pieces() {
        let mut request = Request::new(Bytes::from_static(b"{\"a\":1}"));
        *request.headers_mut() = map(&[("a", "1")]);
        *request.uri_mut() = "http://engine:1/under/v1/x".parse().unwrap();
        let old = map(&[("a", "1"), ("transfer-encoding", "chunked")]);
        let Some(Answer::RequestBody(answer)) = forward(&old, request).response else {
            panic!("not a request's body");
        };
        let answer = answer.response.unwrap();
        let mutation = answer.header_mutation.unwrap();
        let expected = [(":path", "/under/v1/x", 2), ("content-length", "7", 2)];
        let expected = expected.map(|(name, value, action)| (name.into(), value.into(), action));
        assert_eq!(sets(&mutation), expected);
        assert_eq!(mutation.remove_headers, ["transfer-encoding"]);
        assert!(answer.clear_route_cache);
        assert_eq!(pieces(&[0; PIECE + 1]).count(), 2);
        assert_eq!(pieces(&[]).count(), 0);
    }
}
