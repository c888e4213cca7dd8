//! What is logged of a request: its own name and its hold, never what it says.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use crate::support::{Setup, chain, chat, read, request};
use serde_json::json;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

const PROMPT: &str = "the-prompt-itself";

/// Where the log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

// One thread: what is set as its log hears all tasks.
#[tokio::test]
async fn lines_name_request_and_hold_and_never_prompt_answer_or_key() {
    let log = Log::default();
    // All that the gateway itself ever says.
    let filter = EnvFilter::new("info,tally_gateway_adapter=trace");
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    // Two of them, so that a line that another test's thread meets first is
    // not taken for one that nobody listens to.
    let _nobody = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _log = tracing::subscriber::set_default(lines);
    let mut setup = Setup::new(1_000_000).await;
    let (_socket, nowhere) = crate::support::nowhere();
    let mut gone = setup.config.upstreams[0].clone();
    gone.url = format!("http://{nowhere}");
    setup.config.upstreams.insert(0, gone);
    let gateway = setup.gateway().await;
    let key = chain::api_key_text(0);
    let send = async |name: &str, stream: bool, test| {
        let mut body = chat(5, test);
        body["messages"][0]["content"] = PROMPT.into();
        body["stream"] = stream.into();
        let mut asked = request(gateway.http, &body, &key);
        asked
            .headers_mut()
            .insert("x-request-id", name.parse().unwrap());
        read(crate::support::client().request(asked).await.unwrap()).await
    };
    // One engine is gone, usage is above the hold, a stream fails.
    let first = send("my-first", false, json!({"more": 1_000})).await;
    let second = send("my-second", true, json!({"tokens": 2})).await;
    let failed = send("my-third", true, json!({"sse_error": 1})).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200));
    let named = send(&"x".repeat(200), false, json!({})).await;
    gateway.stop().await.unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = |parts: &[&str]| {
        let found = text
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "{parts:?} in\n{text}");
    };
    for (name, answer) in [
        ("my-first", &first),
        ("my-second", &second),
        ("my-third", &failed),
    ] {
        let hold = format!("hold=\"{}\"", answer.header("x-tally-receipt"));
        line(&["a request has ended", &format!("request=\"{name}\""), &hold]);
    }
    line(&[
        "the engine does not answer",
        "request=\"my-first\"",
        "hold=",
    ]);
    line(&["usage above the hold", "request=\"my-first\"", "hold="]);
    // A name that is too long for a log is the hold's.
    let hold = named.header("x-tally-receipt");
    line(&["a request has ended", &format!("request=\"{hold}\"")]);
    let seed = key.trim_start_matches("tally-");
    for secret in [PROMPT, &key, seed, "word word", "Bearer"] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
    for line in text
        .lines()
        .filter(|line| !line.contains("DEBUG") && !line.contains("TRACE"))
    {
        assert!(!line.contains("account"), "{line}");
    }
    setup.chain.check();
}
