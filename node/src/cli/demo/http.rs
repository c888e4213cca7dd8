//! A client of the gateway, as an OpenAI SDK is one: chat completions,
//! streamed and not, over kept connections. Needs nothing else of this crate:
//! the test that kills processes compiles it too.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

/// Sends requests.
#[derive(Debug, Clone)]
pub(crate) struct Http(Client<HttpConnector, Full<Bytes>>);

/// A request of the load.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Base URL with `/v1`.
    pub(crate) url: String,
    /// API key.
    pub(crate) secret: String,
    /// Model name.
    pub(crate) model: String,
    /// What the user says.
    pub(crate) prompt: String,
    /// Whether to stream.
    pub(crate) stream: bool,
    /// Whether a stream shall end with its usage.
    pub(crate) usage: bool,
    /// Largest output.
    pub(crate) max_tokens: u32,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Served; the hold that its receipt settles, and the usage if it was
    /// told.
    Served {
        /// `x-tally-receipt`.
        hold: String,
        /// OpenAI's usage object.
        usage: Option<Value>,
        /// `x-tally-cost`, which an answer that is not streamed carries.
        cost: Option<String>,
    },
    /// Refused for want of balance.
    Refused,
}

impl Http {
    /// A client.
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Http(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// GETs a document.
    pub(crate) async fn get(&self, url: &str) -> anyhow::Result<Value> {
        let answer = self
            .0
            .get(url.parse()?)
            .await
            .with_context(|| format!("asking {url}"))?;
        let bytes = answer.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&bytes).with_context(|| format!("the answer of {url}"))
    }

    /// Sends a request; the whole answer, whatever it says.
    pub(crate) async fn send(&self, ask: &Ask) -> anyhow::Result<http::Response<Bytes>> {
        let request = http::Request::post(format!("{}/chat/completions", ask.url))
            .header("authorization", format!("Bearer {}", ask.secret))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(ask.body().to_string())))?;
        let answer = self.0.request(request).await.context("asking")?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.context("reading the answer")?;
        Ok(http::Response::from_parts(head, body.to_bytes()))
    }

    /// Asks the gateway, and reads the whole answer.
    pub(crate) async fn ask(&self, ask: &Ask) -> anyhow::Result<Answer> {
        let (head, bytes) = self.send(ask).await?.into_parts();
        let text = std::str::from_utf8(&bytes).context("the answer is no text")?;
        let header = |name: &str| {
            let value = head.headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        match head.status.as_u16() {
            200 => {
                let hold = header("x-tally-receipt").context("no x-tally-receipt")?;
                let cost = header("x-tally-cost");
                if cost.is_some() == ask.stream {
                    bail!("x-tally-cost {cost:?}, streamed: {}", ask.stream);
                }
                let usage = if ask.stream {
                    stream_usage(ask, text)?
                } else {
                    whole_usage(text)?
                };
                Ok(Answer::Served { hold, usage, cost })
            }
            429 => {
                let value: Value = serde_json::from_str(text).context("the refusal")?;
                let again = header("x-should-retry");
                let code = &value["error"]["code"];
                if code != "insufficient_quota" || again.as_deref() != Some("false") {
                    bail!("429 with code {code} and x-should-retry {again:?}");
                }
                Ok(Answer::Refused)
            }
            other => bail!("the gateway answers {other}: {text}"),
        }
    }
}

impl Ask {
    /// OpenAI's request.
    fn body(&self) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
            "stream": self.stream,
        });
        if self.stream && self.usage {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }
}

/// The usage in an answer that is not streamed.
pub(crate) fn whole_usage(text: &str) -> anyhow::Result<Option<Value>> {
    let value: Value = serde_json::from_str(text).context("the answer")?;
    Ok(value.get("usage").cloned())
}

/// The counts of a usage object, in the order of a language model's meters:
/// input, of it cached, output, of it reasoning.
pub(crate) fn counts(usage: &Value) -> [u64; 4] {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    [
        count(&usage["prompt_tokens"]),
        count(&usage["prompt_tokens_details"]["cached_tokens"]),
        count(&usage["completion_tokens"]),
        count(&usage["completion_tokens_details"]["reasoning_tokens"]),
    ]
}

/// The stream must be whole; its usage is there if and only if it was asked
/// for.
fn stream_usage(ask: &Ask, text: &str) -> anyhow::Result<Option<Value>> {
    if !text.trim_end().ends_with("data: [DONE]") {
        bail!(
            "a stream broke off: {}",
            text.chars().rev().take(200).collect::<String>()
        );
    }
    let mut usage = None;
    for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let Ok(chunk) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        match chunk.get("usage") {
            Some(value) if value.is_object() => usage = Some(value.clone()),
            _ => {}
        }
    }
    if usage.is_some() != ask.usage {
        bail!(
            "usage in the stream: {}, asked for: {}",
            usage.is_some(),
            ask.usage
        );
    }
    Ok(usage)
}
