//! An engine of fixed answers, so lean that what is measured is what stands
//! before it. It speaks just enough HTTP/1.1: a length before a request's
//! body, and no second request before the first is answered.
//!
//! An answer has 20 tokens, for 15 of a prompt. A stream's head leaves at
//! once, then the engine thinks, then come its chunks: in one piece, or one
//! by one at a pace. Usage is told in a stream only if it is asked for.

use std::{
    fmt::Write,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::wire::{Head, contains};

/// Tokens of each answer, and chunks of a stream that hold one.
pub(crate) const OUTPUT: u32 = 20;
/// Tokens of each prompt.
pub(crate) const INPUT: u32 = 15;

/// How it behaves, in ms; may change between two requests.
#[derive(Debug, Default)]
struct Manner {
    think: AtomicU64,
    pace: AtomicU64,
}

/// The engine, on a thread of its own until the program ends.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    manner: Arc<Manner>,
}

/// What it answers, made once.
struct Answers {
    whole: Vec<u8>,
    /// The head of a stream.
    head: Vec<u8>,
    /// Its chunks, without usage and with.
    chunks: [Vec<Vec<u8>>; 2],
}

impl Engine {
    /// Starts it at any free port.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let engine = Self {
            address: listener.local_addr().unwrap(),
            manner: Arc::default(),
        };
        let manner = engine.manner.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let answers = Arc::new(Answers::new());
                while let Ok((stream, _)) = listener.accept().await {
                    let (answers, manner) = (answers.clone(), manner.clone());
                    // One that breaks is its client's affair.
                    tokio::spawn(async move { serve(stream, &answers, &manner).await });
                }
            });
        });
        engine
    }

    /// From now on it thinks so long before each answer, and then pauses so
    /// long before each chunk of a stream.
    pub(crate) fn behave(&self, think_ms: u64, pace_ms: u64) {
        self.manner.think.store(think_ms, Ordering::Relaxed);
        self.manner.pace.store(pace_ms, Ordering::Relaxed);
    }
}

impl Manner {
    async fn wait(ms: &AtomicU64) {
        match ms.load(Ordering::Relaxed) {
            0 => {}
            ms => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers, manner: &Manner) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        buffer.clear();
        let head = loop {
            if let Some(head) = Head::read(&buffer)
                && buffer.len() >= head.bytes + head.content.unwrap_or(0)
            {
                break head;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let body = &buffer[head.bytes..];
        if !contains(body, b"\"stream\":true") {
            Manner::wait(&manner.think).await;
            stream.write_all(&answers.whole).await?;
            continue;
        }
        let usage = contains(body, b"\"include_usage\":true");
        let chunks = &answers.chunks[usize::from(usage)];
        let (think, pace) = (&manner.think, &manner.pace);
        if think.load(Ordering::Relaxed) + pace.load(Ordering::Relaxed) == 0 {
            let all = [&answers.head[..], &chunks.concat()].concat();
            stream.write_all(&all).await?;
            continue;
        }
        stream.write_all(&answers.head).await?;
        Manner::wait(think).await;
        if pace.load(Ordering::Relaxed) == 0 {
            stream.write_all(&chunks.concat()).await?;
            continue;
        }
        for chunk in chunks {
            stream.write_all(chunk).await?;
            Manner::wait(pace).await;
        }
    }
}

impl Answers {
    fn new() -> Self {
        let common = |object: &str, choice: Value| {
            json!({
                "id": "chatcmpl-fixed", "object": object, "created": 0, "model": "fixed",
                "choices": [choice],
            })
        };
        let usage = json!({
            "prompt_tokens": INPUT, "completion_tokens": OUTPUT,
            "total_tokens": INPUT + OUTPUT,
        });
        let message = json!({"role": "assistant", "content": " token".repeat(OUTPUT as usize)});
        let mut whole = common(
            "chat.completion",
            json!({"index": 0, "message": message, "finish_reason": "length"}),
        );
        whole["usage"] = usage.clone();
        let whole = whole.to_string();
        let chunk = |delta: Value, finish: Value| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
            common("chat.completion.chunk", choice)
        };
        let mut events = vec![chunk(
            json!({"role": "assistant", "content": ""}),
            Value::Null,
        )];
        let token = chunk(json!({"content": " token"}), Value::Null);
        events.extend((0..OUTPUT).map(|_| token.clone()));
        events.push(chunk(json!({}), "length".into()));
        let plain = events.iter().map(Value::to_string).collect();
        let mut last = events[0].clone();
        (last["choices"], last["usage"]) = (json!([]), usage);
        events.push(last);
        let full = events.iter().map(Value::to_string).collect();
        let length = whole.len();
        Answers {
            whole: format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{whole}"
            )
            .into_bytes(),
            head: b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
            chunks: [chunked(plain), chunked(full)],
        }
    }
}

/// Events with their `[DONE]`, each as a chunk of HTTP; the last has the
/// body's end with it.
fn chunked(events: Vec<String>) -> Vec<Vec<u8>> {
    let done = "[DONE]".to_owned();
    let mut chunks: Vec<String> = events
        .iter()
        .chain([&done])
        .map(|event| {
            let event = format!("data: {event}\n\n");
            format!("{:x}\r\n{event}\r\n", event.len())
        })
        .collect();
    if let Some(last) = chunks.last_mut() {
        let _ = write!(last, "0\r\n\r\n");
    }
    chunks.into_iter().map(String::into_bytes).collect()
}
