//! `ext_authz`: admission by key, for routes that `ext_proc` does not meter.
//! Nothing is held and nothing charged here; see [`crate::proxy`] for what a
//! refusal looks like: it is the same.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            authorization_server::Authorization, check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google::rpc,
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use http_body_util::BodyExt;
use tonic::{Code, Request, Response, Status};

use super::message;
use crate::proxy::Proxy;

/// The service.
#[derive(Debug)]
pub struct Authorize {
    proxy: Arc<Proxy>,
}

impl Authorize {
    /// The service in front of `proxy`.
    pub fn new(proxy: Arc<Proxy>) -> Self {
        Authorize { proxy }
    }

    /// What a client that may not pass gets.
    async fn denied(&self, refusal: crate::refusal::Refusal) -> DeniedHttpResponse {
        let (parts, body) = self.proxy.refuse(refusal).into_parts();
        let body = body.collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        DeniedHttpResponse {
            status: Some(HttpStatus {
                code: parts.status.as_u16().into(),
            }),
            headers: message::set_all(&parts.headers),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
}

/// The header that counts, however Envoy was told to send headers.
fn authorization(attributes: Option<AttributeContext>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let http = attributes
        .and_then(|attributes| attributes.request)
        .and_then(|request| request.http);
    let Some(http) = http else {
        return headers;
    };
    let raw = http.header_map.iter().flat_map(|map| &map.headers);
    let raw = raw
        .filter(|header| header.key == AUTHORIZATION.as_str())
        .map(|header| header.raw_value.as_slice());
    let plain = http.headers.get(AUTHORIZATION.as_str());
    let values = raw.chain(plain.map(String::as_bytes));
    for value in values.filter_map(|value| HeaderValue::from_bytes(value).ok()) {
        headers.append(AUTHORIZATION, value);
    }
    headers
}

#[tonic::async_trait]
impl Authorization for Authorize {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let headers = authorization(request.into_inner().attributes);
        let (code, http_response) = match self.proxy.admit(&headers).await {
            Ok(()) => (
                Code::Ok,
                HttpResponse::OkResponse(OkHttpResponse::default()),
            ),
            Err(refusal) => (
                Code::PermissionDenied,
                HttpResponse::DeniedResponse(self.denied(refusal).await),
            ),
        };
        Ok(Response::new(CheckResponse {
            status: Some(rpc::Status {
                code: code.into(),
                ..rpc::Status::default()
            }),
            dynamic_metadata: None,
            http_response: Some(http_response),
        }))
    }
}
