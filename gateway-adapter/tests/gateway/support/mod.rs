//! A gateway between a chain of one validator and an engine, all in this
//! process: the chain is the real ledger behind the real gRPC services, made
//! by one key; the engine does what a request's `test` field says.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod chain;
pub mod coded;
pub mod engine;
pub mod envoy;
pub mod metering;
pub mod nodes;
pub mod shape;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tally_gateway_adapter::{Gateway, GatewayConfig, GatewayError, config};
use tokio::sync::oneshot;

pub use chain::Chain;
pub use engine::Engine;

/// Longest wait for something that must happen, on a machine that is busy and
/// whose disk is.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for a condition.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A running gateway.
pub struct Running {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub envoy: SocketAddr,
    /// If it is configured.
    pub admin: Option<SocketAddr>,
    pub reloader: tally_gateway_adapter::gateway::Reloader,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), GatewayError>>,
}

impl Running {
    /// Stops it as SIGTERM does.
    pub async fn stop(mut self) -> Result<(), GatewayError> {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(DEADLINE, &mut self.task)
            .await
            .unwrap()
            .unwrap()
    }

    /// Ends it as SIGKILL does: nothing is settled, returned or answered.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Result<(), GatewayError> {
        tokio::time::timeout(DEADLINE, &mut self.task)
            .await
            .unwrap()
            .unwrap()
    }
}

/// Everything around a gateway.
pub struct Setup {
    pub chain: Arc<Chain>,
    pub engine: Arc<Engine>,
    pub home: tempfile::TempDir,
    pub config: GatewayConfig,
}

impl Setup {
    /// A chain with account 0 (`amount` micro-CT of class 0, 0 of class 1)
    /// and its API key 0.
    pub async fn new(amount: u64) -> Setup {
        let chain = Chain::start(amount).await;
        let engine = Engine::start().await;
        let home = tempfile::tempdir().unwrap();
        std::fs::write(
            home.path().join("genesis.json"),
            serde_json::to_string(&chain.genesis).unwrap(),
        )
        .unwrap();
        write_key(&home.path().join("gateway.key"), &chain::gateway_key(), 0);
        let nodes = chain.nodes.iter().map(ToString::to_string).collect();
        let mut config = GatewayConfig::new(home.path(), nodes, "127.0.0.1:0".parse().unwrap());
        config.listen.grpc = Some("127.0.0.1:0".parse().unwrap());
        config.listen.envoy = Some("127.0.0.1:0".parse().unwrap());
        config.upstreams = vec![config::Upstream {
            max_output: 100,
            ..config::Upstream::new(format!("http://{}", engine.address), vec!["m".into()])
        }];
        config.limits.wait_ms = 30_000;
        config.limits.drain_seconds = 20;
        Setup {
            chain,
            engine,
            home,
            config,
        }
    }

    /// Another account with so much of class 0; its API key.
    pub fn another(&self, amount: u64) -> String {
        let account = self.chain.open_account();
        self.chain.issue(account.0, chain::MAIN, amount);
        let key = self.chain.bind(account.0);
        chain::api_key_text(key.0)
    }

    /// Starts the gateway.
    pub async fn gateway(&self) -> Running {
        Self::start(self.config.clone()).await
    }

    /// Writes the configuration where a gateway reads it again.
    pub fn write(&self) {
        let file = self.home.path().join(config::FILE);
        std::fs::write(file, self.config.to_toml()).unwrap();
    }

    /// Starts gateways 0 to `count` - 1, with the same configuration but for
    /// their homes.
    pub async fn gateways(&self, count: u32) -> Vec<Running> {
        let mut running = Vec::new();
        for number in 0..count {
            let mut config = self.config.clone();
            if number > 0 {
                config.home = self.home.path().join(number.to_string());
                std::fs::create_dir(&config.home).unwrap();
                let genesis = config.home.join("genesis.json");
                std::fs::copy(self.home.path().join("genesis.json"), genesis).unwrap();
                let key = chain::key_of(tally_ledger::ids::GatewayNumber(number).into());
                write_key(&config.home.join("gateway.key"), &key, number);
            }
            running.push(Self::start(config).await);
        }
        running
    }

    async fn start(config: GatewayConfig) -> Running {
        let gateway = tokio::time::timeout(DEADLINE, Gateway::start(config))
            .await
            .unwrap()
            .unwrap();
        let (http, grpc) = (gateway.http().unwrap(), gateway.grpc().unwrap());
        let (envoy, admin) = (gateway.envoy().unwrap(), gateway.admin());
        let reloader = gateway.reloader();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(gateway.run(async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Running {
            http,
            grpc,
            envoy,
            admin,
            reloader,
            stop: Some(stop),
            task,
        }
    }
}

pub fn write_key(path: &Path, key: &tally_ledger::crypto::SecretKey, number: u32) {
    let seed = hex::encode(key.seed());
    let text = format!(
        "kind = \"gateway\"\nnumber = {number}\npublic = \"{}\"\nseed = \"{seed}\"\n",
        key.public()
    );
    std::fs::write(path, text).unwrap();
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
    pub fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
    /// The events' data.
    pub fn events(&self) -> Vec<String> {
        let datas = self
            .body
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "));
        datas.map(str::to_owned).collect()
    }
}

pub fn client() -> Client<HttpConnector, Full<bytes::Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A chat request of `tokens` output, with what the engine shall do.
pub fn chat(max_tokens: u32, test: Value) -> Value {
    json!({
        "model": "m",
        "messages": [{"role": "user", "content": "count"}],
        "max_tokens": max_tokens,
        "test": test,
    })
}

pub fn request(to: SocketAddr, body: &Value, key: &str) -> http::Request<Full<bytes::Bytes>> {
    http::Request::post(format!("http://{to}/v1/chat/completions"))
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(Full::new(body.to_string().into()))
        .unwrap()
}

/// Sends a chat request and reads all of its answer.
pub async fn send(to: SocketAddr, body: &Value) -> Answer {
    send_as(to, body, &chain::api_key_text(0)).await
}

pub async fn send_as(to: SocketAddr, body: &Value, key: &str) -> Answer {
    read(client().request(request(to, body, key)).await.unwrap()).await
}

pub async fn get(to: SocketAddr, path: &str) -> Answer {
    call(to, "GET", path, &chain::api_key_text(0), String::new()).await
}

pub async fn post(to: SocketAddr, path: &str, body: &Value) -> Answer {
    call(to, "POST", path, &chain::api_key_text(0), body.to_string()).await
}

/// Any request, as the holder of `key`.
pub async fn call(to: SocketAddr, method: &str, path: &str, key: &str, body: String) -> Answer {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://{to}{path}"))
        .header("authorization", format!("Bearer {key}"))
        .body(Full::new(body.into()))
        .unwrap();
    read(client().request(request).await.unwrap()).await
}

/// A number on the page of metrics.
pub async fn metric(to: SocketAddr, name: &str) -> i64 {
    let page = get(to, "/metrics").await.body;
    let mut lines = page.lines();
    let found = lines.find_map(|line| line.strip_prefix(name).filter(|rest| !rest.is_empty()));
    let value = found.and_then(|rest| rest.rsplit(' ').next());
    value.map_or(0, |value| value.parse().unwrap())
}

/// Waits until that many requests wait before the engine.
pub async fn queued(to: SocketAddr, count: i64) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while metric(to, "tally_gateway_queued_requests").await != count {
        assert!(tokio::time::Instant::now() < deadline, "never {count} wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until that many answers have begun: their holds are on disk then.
pub async fn begun(to: SocketAddr, count: i64) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while metric(to, "tally_gateway_first_byte_seconds_count").await < count {
        assert!(
            tokio::time::Instant::now() < deadline,
            "never {count} begin"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address where nobody listens, nor can while this is kept.
pub fn nowhere() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub async fn read(answer: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, mut body) = answer.into_parts();
    let mut bytes = Vec::new();
    // A body may break off; what came counts.
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(bytes).unwrap(),
    }
}
