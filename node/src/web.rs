//! A small HTTP client, for witnesses and tiled logs: bounded in time and
//! bytes, `http` and `https`.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// A call may take so long, with its answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes of an answer: a full bundle of entries, and room.
const MOST: usize = 1 << 20;

/// Sends requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Web {
    plain: Client<HttpConnector, Full<Bytes>>,
    /// None where the machine has no certificates to trust.
    tls: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {why}")]
pub struct WebError {
    /// Whom.
    pub url: String,
    /// Why not.
    pub why: String,
}

/// Whether this client can ask there: `http://` or `https://` with a host.
pub fn is_url(url: &str) -> bool {
    url.parse::<Uri>()
        .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

impl Web {
    /// A client that trusts what this machine trusts.
    pub fn new() -> Self {
        let builder = || Client::builder(TokioExecutor::new());
        let tls = HttpsConnectorBuilder::new().with_native_roots();
        Self {
            plain: builder().build(HttpConnector::new()),
            tls: tls.ok().map(|tls| {
                let connector = tls.https_only().enable_http1().build();
                builder().build(connector)
            }),
        }
    }

    /// GETs a document.
    pub async fn get(&self, url: &str) -> Result<(StatusCode, Bytes), WebError> {
        self.call(Method::GET, url, Bytes::new()).await
    }

    /// POSTs a body.
    pub async fn post(&self, url: &str, body: Bytes) -> Result<(StatusCode, Bytes), WebError> {
        self.call(Method::POST, url, body).await
    }

    async fn call(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), WebError> {
        let failed = |why: String| WebError {
            url: url.to_owned(),
            why,
        };
        let request = Request::builder().method(method).uri(url);
        let request = request
            .body(Full::new(body))
            .map_err(|error| failed(error.to_string()))?;
        let answer = async {
            let answer = match (request.uri().scheme_str(), &self.tls) {
                (Some("https"), Some(tls)) => tls.request(request).await,
                (Some("https"), None) => return Err("no certificates on this machine".into()),
                _ => self.plain.request(request).await,
            };
            let answer = answer.map_err(|e| explain(&e))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MOST).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((head.status, body))
        };
        match timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self::new()
    }
}

/// The innermost reason says most: "connection refused".
fn explain(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
