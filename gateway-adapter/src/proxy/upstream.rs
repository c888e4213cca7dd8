//! An inference engine, and pooled connections to it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use zeroize::Zeroizing;

use super::{
    body::Arriving,
    connections::{CallError, Connections},
};
use crate::{config, envoy::leg::Leg, headers::IDEMPOTENCY_KEY};

/// Idle connections kept to one engine.
const IDLE: usize = 1024;

/// Headers that belong to one connection, or to the gateway, and are not
/// passed on.
const NOT_PASSED: [HeaderName; 18] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::HOST,
    header::AUTHORIZATION,
    header::ACCEPT_ENCODING,
    header::EXPECT,
    // Of the client's dealings with this gateway, or of the operator's with
    // the engine.
    header::COOKIE,
    header::SET_COOKIE,
    IDEMPOTENCY_KEY,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
];

#[derive(Debug, Clone)]
enum Http {
    Plain(Arc<Connections>),
    Tls(Box<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>),
}

/// Why an engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In the clear.
    #[error("{0}")]
    Plain(#[from] CallError),
    /// Over TLS.
    #[error("{0}")]
    Tls(#[from] legacy::Error),
}

impl Error {
    /// Whether nobody could be reached, so that nothing was asked.
    pub fn is_connect(&self) -> bool {
        match self {
            Error::Plain(error) => matches!(error, CallError::Connect(_)),
            Error::Tls(error) => error.is_connect(),
        }
    }
}

/// An engine.
#[derive(Debug, Clone)]
pub struct Upstream {
    config: config::Upstream,
    url: String,
    host: String,
    /// Models that it serves.
    pub models: Vec<String>,
    names: BTreeMap<String, String>,
    bearer: Option<HeaderValue>,
    http: Http,
    /// Whose it is, for metrics.
    pub provider: Arc<str>,
    /// Largest output of one answer.
    pub max_output: u32,
    /// Requests that it works at.
    pub concurrency: Option<usize>,
    /// Most requests that wait before it.
    pub queue: usize,
    /// Set `priority` to the order of the queue.
    pub priority: bool,
    /// Path that answers while it is well.
    pub health: Option<String>,
    /// Set `request_id` to the hold's id.
    pub request_id: bool,
    /// Ask for usage on every chunk.
    pub continuous_usage: bool,
    /// How it is asked to count a prompt.
    pub tokenize: config::Tokenize,
}

impl Upstream {
    /// An engine as configured. `bearer` is its secret, if it has one.
    pub fn new(
        config: &config::Upstream,
        bearer: Option<Zeroizing<String>>,
    ) -> Result<Self, String> {
        let uri = config.url.parse::<Uri>().map_err(|why| why.to_string())?;
        let http = if config.url.starts_with("https://") {
            over_tls()?
        } else {
            let connections = Connections::new(&uri, IDLE);
            Http::Plain(connections.ok_or_else(|| "the url has no host".to_owned())?)
        };
        let bearer = match bearer {
            None => None,
            Some(secret) => {
                let text = Zeroizing::new(format!("Bearer {}", secret.trim()));
                let mut value = HeaderValue::from_str(&text)
                    .map_err(|_| "the bearer is no header value".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let host = uri.host().map(|host| {
            uri.port()
                .map_or(host.to_owned(), |port| format!("{host}:{port}"))
        });
        Ok(Upstream {
            config: config.clone(),
            provider: config.provider.as_str().into(),
            host: host.unwrap_or_default(),
            names: config.model_names.clone(),
            concurrency: config.concurrency.map(|most| most as usize),
            queue: config.queue as usize,
            priority: config.priority,
            health: config.health.clone(),
            url: config
                .url
                .trim_end_matches('/')
                .trim_end_matches("/v1")
                .to_owned(),
            models: config.models.clone(),
            bearer,
            http,
            max_output: config.max_output,
            request_id: config.request_id,
            continuous_usage: config.continuous_usage,
            tokenize: config.tokenize,
        })
    }

    /// Whether it was configured alike, with the same secret.
    pub fn is_same(&self, other: &Self) -> bool {
        self.config == other.config && self.bearer == other.bearer
    }

    /// Where it is; also its name in Envoy's routes.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Host and port, for logs and metrics.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its own name of a model, where that differs.
    pub fn name_of(&self, model: &str) -> Option<&str> {
        self.names.get(model).map(String::as_str)
    }

    fn uri(&self, path: &str) -> Uri {
        format!("{}{path}", self.url)
            .parse()
            .expect("the url and the path were validated")
    }

    /// Adds the engine's own bearer.
    fn sign(&self, request: &mut Request<Bytes>) {
        let bearer = self.bearer.clone();
        request
            .headers_mut()
            .extend(bearer.map(|bearer| (header::AUTHORIZATION, bearer)));
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Arriving>, Error> {
        self.sign(&mut request);
        let request = request.map(Full::new);
        match &self.http {
            Http::Plain(connections) => {
                let answer = connections.call(request).await?;
                Ok(answer.map(Arriving::Driven))
            }
            Http::Tls(client) => Ok(client.request(request).await?.map(Arriving::Http)),
        }
    }

    /// Drops connections that nobody has used for long. Those over TLS end
    /// by themselves.
    pub fn sweep(&self) {
        if let Http::Plain(connections) = &self.http {
            connections.sweep();
        }
    }

    /// What `GET path` is answered.
    pub async fn get(&self, path: &str) -> Result<StatusCode, Error> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.uri(path);
        Ok(self.send(request).await?.status())
    }

    /// Sends a request to `path`. Dropping the future or the answer cancels
    /// it at the engine.
    pub async fn post(
        &self,
        path: &str,
        client_headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Arriving>, Error> {
        self.send(self.request(path, client_headers, body)).await
    }

    /// The same, through Envoy: its stream may be over before there is an
    /// answer, but it gives no error.
    pub async fn post_through(
        &self,
        leg: &Leg,
        path: &str,
        client_headers: &HeaderMap,
        body: Bytes,
    ) -> Response<Arriving> {
        let mut request = self.request(path, client_headers, body);
        self.sign(&mut request);
        leg.call(request, &self.url).await
    }

    fn request(&self, path: &str, client_headers: &HeaderMap, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri(path);
        let headers = request.headers_mut();
        headers.extend(passed(client_headers).map(|(name, value)| (name.clone(), value.clone())));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        request
    }

    #[cfg(test)]
    pub(crate) fn for_tests(max_output: u32) -> Self {
        let config = config::Upstream {
            max_output,
            ..config::Upstream::new("http://127.0.0.1:1", vec!["m".into()])
        };
        Upstream::new(&config, None).unwrap()
    }
}

/// A client that speaks TLS only.
fn over_tls() -> Result<Http, String> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(Duration::from_secs(5)));
    let tls = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(|error| format!("certificates of this machine: {error}"))?
        .https_only()
        .enable_http1()
        .wrap_connector(tcp);
    let mut client = Client::builder(TokioExecutor::new());
    client
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(IDLE);
    Ok(Http::Tls(Box::new(client.build(tls))))
}

/// Headers that are passed on, either way: not what concerns one side alone,
/// such as an engine's own limits per minute.
pub fn passed(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    headers.iter().filter(|(name, _)| {
        let text = name.as_str();
        let ours = text.starts_with("x-tally-") || text.starts_with("x-ratelimit-");
        !ours && text != "keep-alive" && !NOT_PASSED.contains(name)
    })
}
