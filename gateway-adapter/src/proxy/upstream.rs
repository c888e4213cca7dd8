//! The inference engines, and pooled connections to them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use zeroize::Zeroizing;

use super::body::Arriving;
use crate::{config, envoy::leg::Leg};

/// Idle connections kept to one engine.
const IDLE: usize = 1024;

/// Headers that belong to one connection, or to the gateway, and are not
/// passed on.
const NOT_PASSED: [HeaderName; 12] = [
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
];

#[derive(Debug, Clone)]
enum Http {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
    /// Envoy has the connection.
    Leg(Leg),
}

/// An engine.
#[derive(Debug, Clone)]
pub struct Upstream {
    url: String,
    models: Vec<String>,
    bearer: Option<HeaderValue>,
    http: Http,
    /// Largest output of one answer.
    pub max_output: u32,
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
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(Duration::from_secs(5)));
        let mut client = Client::builder(TokioExecutor::new());
        client
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(IDLE);
        let http = if config.url.starts_with("https://") {
            let tls = HttpsConnectorBuilder::new()
                .with_native_roots()
                .map_err(|error| format!("certificates of this machine: {error}"))?
                .https_only()
                .enable_http1()
                .wrap_connector(tcp);
            Http::Tls(client.build(tls))
        } else {
            Http::Plain(client.build(tcp))
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
        Ok(Upstream {
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

    /// Sends a request to `path`. Dropping the future or the answer cancels
    /// it at the engine.
    pub async fn post(
        &self,
        path: &str,
        client_headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Arriving>, Error> {
        let uri: Uri = format!("{}{path}", self.url)
            .parse()
            .expect("the url was validated and the path is ours");
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
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
        headers.extend(
            self.bearer
                .clone()
                .map(|bearer| (header::AUTHORIZATION, bearer)),
        );
        let answer = match &self.http {
            Http::Plain(client) => client.request(request.map(Full::new)).await?,
            Http::Tls(client) => client.request(request.map(Full::new)).await?,
            Http::Leg(leg) => return Ok(leg.call(request, &self.url).await),
        };
        Ok(answer.map(Arriving::Http))
    }

    /// The same engine, reached through Envoy.
    pub fn through(self, leg: Leg) -> Self {
        Upstream {
            http: Http::Leg(leg),
            ..self
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(max_output: u32) -> Self {
        let config = config::Upstream {
            url: "http://127.0.0.1:1".into(),
            models: vec!["m".into()],
            bearer: None,
            max_output,
            request_id: false,
            continuous_usage: false,
            tokenize: config::Tokenize::None,
        };
        Upstream::new(&config, None).unwrap()
    }
}

/// Headers that are passed on, either way.
pub fn passed(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    headers.iter().filter(|(name, _)| {
        let ours = name.as_str().starts_with("x-tally-") || name.as_str() == "keep-alive";
        !ours && !NOT_PASSED.contains(name)
    })
}

/// All engines.
#[derive(Debug)]
pub struct Upstreams(Vec<Upstream>);

impl Upstreams {
    /// These.
    pub fn new(upstreams: Vec<Upstream>) -> Self {
        Upstreams(upstreams)
    }

    /// The engine for a model.
    pub fn of(&self, model: &str) -> Option<&Upstream> {
        self.0
            .iter()
            .find(|upstream| upstream.models.iter().any(|name| name == model))
    }

    /// Whether any engine serves it.
    pub fn serves(&self, model: &str) -> bool {
        self.of(model).is_some()
    }
}
