//! A gateway as a process of its own, and the engines behind it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    cluster::{Cluster, Process, free_port, spawn, wait_connect},
    driver::Driver,
    engine::Engine,
    wire::{Wire, chat, get},
};

/// The model of the engine of fixed answers.
pub(crate) const FIXED: &str = "tally-fixed";
/// The same engine's behind a queue.
pub(crate) const NARROW: &str = "tally-narrow";
/// Places at the narrow engine, and before it.
pub(crate) const PLACES: u32 = 16;
/// Most requests that wait there.
pub(crate) const QUEUE: u32 = 64;
/// Largest output of the engine of fixed answers: a lease that is asked for
/// such a request lasts for all others.
pub(crate) const LARGE: u32 = 1_000_000;

/// A gateway with engines behind it.
pub(crate) struct Gateway {
    /// OpenAI-compatible HTTP of the gateway.
    pub(crate) http: SocketAddr,
    /// `MeteringService` of the gateway.
    pub(crate) grpc: SocketAddr,
    /// HTTP of the mock engine.
    pub(crate) engine: SocketAddr,
    /// The engine of fixed answers.
    pub(crate) fixed: Engine,
    pub(crate) folder: PathBuf,
    /// The gateway and the mock engine.
    processes: [Process; 2],
}

impl Gateway {
    /// Starts a gateway, journal and signing on, and waits until it serves.
    pub(crate) fn start(cluster: &Cluster, binary: &Path) -> Self {
        let folder = cluster.folder().join("gateway");
        fs::create_dir_all(&folder).unwrap();
        let net = cluster.folder().join("net");
        fs::copy(net.join("genesis.json"), folder.join("genesis.json")).unwrap();
        fs::copy(net.join("keys/gateway-0.key"), folder.join("gateway.key")).unwrap();
        let (http, grpc, engine) = (free_port(), free_port(), free_port());
        let fixed = Engine::start();
        let config = format!(
            "key = \"gateway.key\"\ngenesis = \"genesis.json\"\nnodes = [\"{}\", \"{}\"]\n\
             [listen]\nhttp = \"{http}\"\ngrpc = \"{grpc}\"\n[lease]\nseconds = 600\n\
             [[upstream]]\nurl = \"http://{engine}\"\nmodels = [\"tally-base\"]\n\
             [[upstream]]\nurl = \"http://{fixed}\"\nmodels = [\"{FIXED}\"]\nmax_output = {LARGE}\n\
             [[upstream]]\nurl = \"http://{fixed}\"\nmodels = [\"{NARROW}\"]\n\
             concurrency = {PLACES}\nqueue = {QUEUE}\n",
            cluster.grpc[0],
            cluster.grpc[1],
            fixed = fixed.address,
        );
        fs::write(folder.join("gateway.toml"), config).unwrap();
        let port = engine.port().to_string();
        let log = |name: &str| cluster.folder().join(name);
        let mock = spawn(
            binary,
            &["mock-engine", "--port", &port],
            &log("engine.log"),
        );
        let home = folder.to_str().unwrap();
        let process = spawn(binary, &["gateway", "--home", home], &log("gateway.log"));
        for address in [engine, http, grpc] {
            wait_connect(address);
        }
        Gateway {
            http,
            grpc,
            engine,
            fixed,
            folder,
            processes: [process, mock],
        }
    }

    /// Has the gateway take leases, for every account, that outlast a figure
    /// during which it can ask for none.
    pub(crate) async fn stock(&self, driver: &Driver) {
        let mut asked = JoinSet::new();
        for i in 0..driver.accounts.len() {
            let large = chat(&driver.bearer(i), FIXED, LARGE, false, "");
            let http = self.http;
            asked.spawn(async move {
                let mut wire = Wire::connect(http).await.unwrap();
                let answer = wire.ask(&large).await.unwrap();
                assert_eq!(answer.status, 200, "a large request is served");
            });
        }
        asked.join_all().await;
    }

    /// Waits until the chain has proven every debit.
    pub(crate) async fn settled(&self) {
        settled(self.http).await;
    }

    /// Number of the gateway's process.
    pub(crate) fn process(&self) -> u32 {
        self.processes[0].id()
    }
}

/// Waits until the chain has proven every debit of the gateway there.
pub(crate) async fn settled(http: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut wire = Wire::connect(http).await.unwrap();
        wire.ask(&get("", "/healthz")).await.unwrap();
        let health: Value = serde_json::from_slice(wire.body()).unwrap();
        if health["unproven_debits"] == 0 && health["chain_behind"] == false {
            return;
        }
        assert!(Instant::now() < deadline, "debits are not proven: {health}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
