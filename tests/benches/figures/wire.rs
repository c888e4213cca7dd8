//! HTTP/1.1 by hand: a client that costs little more than its system calls,
//! so that the load takes as little as it can of the cores that it shares
//! with what is measured.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// The head of a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length, with the empty line.
    pub(crate) bytes: usize,
    /// Of an answer.
    pub(crate) status: u16,
    /// Length of the body; `None`: it comes in chunks, or there is none.
    pub(crate) content: Option<usize>,
    /// Milliseconds to wait, as a refusal says.
    pub(crate) retry_ms: Option<u64>,
}

/// Whether `part` is in `bytes`.
pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

impl Head {
    /// Reads one, if it is whole.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let mut lines = bytes[..end].split(|byte| *byte == b'\n');
        let first = std::str::from_utf8(lines.next()?).ok()?;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let mut head = Head {
            bytes: end + 4,
            status: status.unwrap_or(0),
            content: None,
            retry_ms: None,
        };
        for line in lines {
            let number = |name: &str| {
                let (given, value) = line.split_at_checked(name.len())?;
                let same = given.eq_ignore_ascii_case(name.as_bytes());
                same.then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
            };
            head.content = head
                .content
                .or(number("content-length:").map(|n| n as usize));
            head.retry_ms = head.retry_ms.or(number("retry-after-ms:"));
        }
        Some(head)
    }
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// From the request to the body's first byte.
    pub(crate) first: Duration,
    /// From the request to its last byte.
    pub(crate) last: Duration,
    /// Milliseconds to wait, as a refusal says.
    pub(crate) retry_ms: Option<u64>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A POST of a chat, as bytes on the wire.
pub(crate) fn chat(
    bearer: &str,
    model: &str,
    max_tokens: u32,
    stream: bool,
    more: &str,
) -> Vec<u8> {
    let body = serde_json::json!({
        "model": model,
        "messages": [{"role": "user", "content": "How long is a piece of string?"}],
        "max_tokens": max_tokens,
        "stream": stream,
    })
    .to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: figures\r\nauthorization: {bearer}\r\n\
         content-type: application/json\r\n{more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A GET.
pub(crate) fn get(bearer: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: figures\r\nauthorization: {bearer}\r\n\r\n").into_bytes()
}

impl Wire {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let buffer = Vec::with_capacity(16 * 1024);
        Ok(Self { stream, buffer })
    }

    /// Sends a request and reads all of its answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.buffer.clear();
        let started = Instant::now();
        self.stream.write_all(request).await?;
        let (mut head, mut first) = (None, None);
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            head = head.or_else(|| Head::read(&self.buffer));
            let Some(head) = head else { continue };
            if self.buffer.len() > head.bytes {
                first.get_or_insert_with(|| started.elapsed());
            }
            let whole = match head.content {
                Some(length) => self.buffer.len() >= head.bytes + length,
                // Nothing that is asked for here has this within.
                None if head.status == 204 => true,
                None => self.buffer.ends_with(b"\r\n0\r\n\r\n"),
            };
            if whole {
                let last = started.elapsed();
                return Ok(Answer {
                    status: head.status,
                    first: first.unwrap_or(last),
                    last,
                    retry_ms: head.retry_ms,
                });
            }
        }
    }

    /// The body of the last answer; of one in chunks, with their lengths.
    pub(crate) fn body(&self) -> &[u8] {
        let start = Head::read(&self.buffer).map_or(0, |head| head.bytes);
        &self.buffer[start..]
    }
}

/// What a load of requests came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// Answers with 200, all of them there.
    pub(crate) served: u64,
    /// Others.
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
}

impl Load {
    /// Requests served per second.
    pub(crate) fn rate(&self) -> f64 {
        self.served as f64 / self.seconds
    }
}

/// Requests on as many connections, one after another on each, for `time`;
/// from a thread of its own.
pub(crate) async fn load(address: SocketAddr, requests: Vec<Vec<u8>>, time: Duration) -> Load {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut wires = Vec::new();
            for request in requests {
                wires.push((Wire::connect(address).await.unwrap(), request));
            }
            let started = Instant::now();
            let mut all = JoinSet::new();
            for (mut wire, request) in wires {
                all.spawn(async move {
                    let mut load = Load::default();
                    let streamed = contains(&request, b"\"stream\":true");
                    while started.elapsed() < time {
                        let answer = wire.ask(&request).await;
                        let ended = !streamed || contains(tail(wire.body()), b"[DONE]");
                        let good = answer.is_ok_and(|answer| answer.status == 200) && ended;
                        load.served += u64::from(good);
                        load.failed += u64::from(!good);
                    }
                    load
                });
            }
            let loads = all.join_all().await;
            let sum = |of: fn(&Load) -> u64| loads.iter().map(of).sum();
            Load {
                served: sum(|load| load.served),
                failed: sum(|load| load.failed),
                seconds: started.elapsed().as_secs_f64(),
            }
        })
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn tail(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(64)..]
}
