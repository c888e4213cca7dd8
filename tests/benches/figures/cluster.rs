//! Four validators as processes on loopback, from a release build.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tally_ledger::{crypto::SecretKey, genesis::Genesis};
use tally_proto::v1::{
    GetStatusRequest, audit_service_client::AuditServiceClient,
    ledger_service_client::LedgerServiceClient,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::Options;

/// Builds the binary whose figures are taken.
pub(crate) fn build_release() -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--bin",
            "tally",
            "--message-format",
            "json",
        ])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo build --release --bin tally");
    let text = String::from_utf8_lossy(&output.stdout);
    let executables = text.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables
        .collect::<Vec<_>>()
        .pop()
        .expect("cargo names the binary")
}

/// A process, ended with its owner.
pub(crate) struct Process(Child);

impl Process {
    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process whose output goes to a file.
pub(crate) fn spawn(binary: &Path, args: &[&str], log: &Path) -> Process {
    let log = fs::File::create(log).unwrap();
    let child = Command::new(binary)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Process(child)
}

/// A key file of the trial net.
pub(crate) struct Key {
    pub(crate) number: u32,
    pub(crate) secret: SecretKey,
}

/// The running validators.
pub(crate) struct Cluster {
    folder: TempDir,
    pub(crate) genesis: Genesis,
    pub(crate) grpc: Vec<String>,
    nodes: Vec<Process>,
}

impl Cluster {
    /// Makes a trial net and waits for its first block.
    pub(crate) async fn start(binary: &Path, options: &Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("genesis.toml");
        fs::write(&config, CONFIG).unwrap();
        let net = folder.path().join("net");
        let output = Command::new(binary)
            .args([
                "--format",
                "json",
                "testnet",
                net.to_str().unwrap(),
                "--config",
            ])
            .arg(&config)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = made["validators"].as_array().unwrap();
        let grpc = rows
            .iter()
            .map(|row| row["grpc"].as_str().unwrap().to_owned())
            .collect();
        let nodes = (0..rows.len()).map(|i| {
            let home = net.join(format!("v{i}"));
            configure(&home.join("config.toml"), &options.settings);
            let log = folder.path().join(format!("v{i}.log"));
            let lower = options.nice.to_string();
            let binary = binary.to_str().unwrap();
            let node = ["node", "--home", home.to_str().unwrap()];
            let args = [&["-n", &lower, binary], &node[..]].concat();
            spawn(Path::new("nice"), &args, &log)
        });
        let nodes = nodes.collect();
        let text = fs::read_to_string(net.join("genesis.json")).unwrap();
        let genesis = serde_json::from_str(&text).unwrap();
        let cluster = Self {
            folder,
            genesis,
            grpc,
            nodes,
        };
        for i in 0..4 {
            cluster.wait_height(i, 1).await;
        }
        cluster
    }

    /// A folder for files of the run.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A validator's home.
    pub(crate) fn home(&self, validator: usize) -> PathBuf {
        self.folder.path().join(format!("net/v{validator}"))
    }

    /// A key of the trial net, such as `issuer-0`.
    pub(crate) fn key(&self, name: &str) -> Key {
        let path = self.folder.path().join(format!("net/keys/{name}.key"));
        let file: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
        let seed: [u8; 32] = hex::decode(file["seed"].as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap();
        let number = file
            .get("number")
            .and_then(toml::Value::as_integer)
            .unwrap_or(0);
        Key {
            number: number as u32,
            secret: SecretKey::from_seed(&seed),
        }
    }

    async fn channel(&self, validator: usize) -> Option<Channel> {
        let uri = format!("http://{}", self.grpc[validator]);
        let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
        endpoint.tcp_nodelay(true).connect().await.ok()
    }

    /// A client of a validator.
    pub(crate) async fn ledger(&self, validator: usize) -> LedgerServiceClient<Channel> {
        LedgerServiceClient::new(self.channel(validator).await.expect("the validator runs"))
    }

    /// A reader of a validator.
    pub(crate) async fn audit(&self, validator: usize) -> AuditServiceClient<Channel> {
        let channel = self.channel(validator).await.expect("the validator runs");
        AuditServiceClient::new(channel).max_decoding_message_size(64 << 20)
    }

    async fn wait_height(&self, validator: usize, height: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(channel) = self.channel(validator).await
                && let Ok(status) = LedgerServiceClient::new(channel)
                    .get_status(GetStatusRequest {})
                    .await
                && status.get_ref().height >= height
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "validator {validator} makes no block"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Puts lines in place of those with the same key.
fn configure(file: &Path, settings: &[String]) {
    let mut config: toml::Table = fs::read_to_string(file).unwrap().parse().unwrap();
    for line in settings {
        config.extend(line.parse::<toml::Table>().unwrap());
    }
    fs::write(file, toml::to_string(&config).unwrap()).unwrap();
}

/// The example without caps, so that what is measured is the machine.
const CONFIG: &str = include_str!("genesis.toml");

/// A port that is free now.
pub(crate) fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Waits until something listens.
pub(crate) fn wait_connect(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Validators that stand still until this is dropped.
pub(crate) struct Stopped<'a>(&'a [Process]);

impl Cluster {
    /// Lets the validators stand still: what a gateway does alone, inside its
    /// leases, is measured without them on the same cores.
    pub(crate) fn stop(&self) -> Stopped<'_> {
        let nodes = &self.nodes;
        nodes.iter().for_each(|node| node.signal(Signal::STOP));
        Stopped(nodes)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|node| node.signal(Signal::CONT));
    }
}
