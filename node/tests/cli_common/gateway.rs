//! A trial net with a gateway, the mock engine behind it, and holders who may
//! spend: separate processes, made with an operator's commands.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::Value;
use tally_gateway_adapter::{
    GatewayConfig,
    config::{FILE, Upstream},
};

use super::{LIMIT, Net, Running, start, wait_for};

/// Accounts with an API key; number `i` is account `i`.
pub(crate) const HOLDERS: usize = 3;
/// The model that everybody may buy, and the one for `priority`.
pub(crate) const MODELS: [&str; 2] = ["tally-base", "tally-large"];
/// How long a process that stops in order may take on a busy machine: twice
/// what a gateway allows itself.
pub(crate) const STOP: Duration = Duration::from_secs(30);
/// What each holder has of each class, in CT.
const GRANT: u32 = 4_000;

/// The net, and what meters on it.
pub(crate) struct Metered {
    /// Its validators.
    pub(crate) net: Net,
    /// Base URL of the engine, with `/v1`.
    pub(crate) engine: String,
    /// What the holders' clients send.
    pub(crate) secrets: Vec<String>,
    gateway: Option<Running>,
    engine_process: Running,
}

impl Metered {
    /// Starts four validators and the engine and makes the holders; the
    /// gateway does not run yet.
    pub(crate) fn new(engine: &str) -> Self {
        Self::with(engine, None)
    }

    /// The same; at the engine are at most so many requests, others wait.
    pub(crate) fn with(engine: &str, concurrency: Option<u32>) -> Self {
        Self::on(Net::start(4), engine, concurrency)
    }

    /// The same on a net that runs.
    pub(crate) fn on(net: Net, engine: &str, concurrency: Option<u32>) -> Self {
        let line = format!("--format json mock-engine --port 0 {engine}");
        let (running, said) = start(net.folder.path(), &line);
        let engine = said["listening"].as_str().unwrap().to_owned();
        let secrets = (0..HOLDERS).map(|i| holder(&net, i)).collect();
        let metered = Metered {
            net,
            engine,
            secrets,
            gateway: None,
            engine_process: running,
        };
        metered.configure(concurrency);
        metered
    }

    /// The gateway's home, with its journal.
    pub(crate) fn home(&self) -> PathBuf {
        self.net.folder.path().join("gateway")
    }

    fn configure(&self, concurrency: Option<u32>) {
        let home = self.home();
        fs::create_dir_all(&home).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = GatewayConfig::new(&home, self.net.grpc.clone(), any);
        config.key = "../net/keys/gateway-0.key".into();
        config.genesis = "../net/genesis.json".into();
        config.upstreams = vec![Upstream {
            max_output: 64,
            concurrency,
            ..Upstream::new(
                self.engine.trim_end_matches("/v1"),
                MODELS.map(str::to_owned).to_vec(),
            )
        }];
        fs::write(home.join(FILE), config.to_toml()).unwrap();
    }

    /// Sends the engine a signal: `STOP` holds it up until `CONT`.
    pub(crate) fn signal_engine(&self, name: &str) {
        self.engine_process.signal(name);
    }

    /// Starts the gateway, without waiting for it.
    pub(crate) fn start_gateway(&mut self) {
        let folder = self.net.folder.path();
        let line = "--format json gateway --home gateway";
        let log = folder.join("gateway.log");
        self.gateway = Some(Running::start(folder, &log, line));
    }

    /// Waits until the gateway that was started serves; gives its base URL.
    pub(crate) fn serving(&mut self) -> String {
        let said = self.gateway.as_mut().expect("it was started").said();
        said["listening"].as_str().unwrap().to_owned()
    }

    /// SIGKILL.
    pub(crate) fn kill_gateway(&mut self) {
        self.gateway = None;
    }

    /// Has the gateway read its configuration again; waits until it says
    /// what became of that.
    pub(crate) fn reload_gateway(&mut self, change: impl FnOnce(&mut GatewayConfig)) -> String {
        let mut config = GatewayConfig::load(&self.home()).unwrap();
        change(&mut config);
        fs::write(self.home().join(FILE), config.to_toml()).unwrap();
        let log = self.net.folder.path().join("gateway.log");
        let said = || {
            let text = fs::read_to_string(&log).unwrap();
            let lines = text.lines().filter(|line| line.contains("was read again"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = said().len();
        self.gateway.as_ref().expect("it runs").signal("HUP");
        wait_for("the gateway's word", LIMIT, || said().get(before).cloned())
    }

    /// SIGTERM; gives the exit code.
    pub(crate) fn terminate_gateway(&mut self) -> i32 {
        let mut gateway = self.gateway.take().expect("it runs");
        gateway.terminate(STOP)
    }

    /// What has ended by itself.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        let nodes = self.net.ended();
        let mut ended: Vec<String> = nodes.iter().map(|i| format!("validator {i}")).collect();
        let gateway = self.gateway.as_mut();
        if gateway.is_some_and(|gateway| gateway.0.try_wait().unwrap().is_some()) {
            ended.push("the gateway".to_owned());
        }
        ended
    }
}

/// Opens account `i`, issues a grant of each class, and binds an API key.
fn holder(net: &Net, i: usize) -> String {
    let key = format!("KEYS/holder-{i}.key");
    let opened = net.run(
        0,
        &format!(
            "account open --unit {i} --holder {key} --class innovation --class priority \
             GENESIS --key KEYS/issuer-0.key"
        ),
    );
    let opened: Value = opened.json();
    assert_eq!(opened["entries"][0]["account"], i);
    for class in ["innovation", "priority"] {
        let issue = format!(
            "grant issue --account {i} --class {class} --amount {GRANT} --expires 2099-01-01 \
             GENESIS --key KEYS/issuer-0.key"
        );
        net.run(0, &issue).ok();
    }
    let create = format!("key create --account {i} --out {i}.apikey GENESIS --key {key}");
    net.run(0, &create).ok();
    let secret = fs::read_to_string(net.folder.path().join(format!("{i}.apikey")));
    secret.unwrap().trim().to_owned()
}
