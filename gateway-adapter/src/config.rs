//! A gateway's own configuration: `gateway.toml` in its home. Prices,
//! classes and every limit of money are on the chain, not here.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

mod fixed;
mod rates;
mod upstream;

pub use rates::{Rate, Rates};
pub use upstream::{Priority, Tokenize, Upstream};

/// Name of the file in the home.
pub const FILE: &str = "gateway.toml";

/// All of `gateway.toml`. Paths are relative to the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The folder of this file; everything of the gateway is below it.
    #[serde(skip)]
    pub home: PathBuf,
    /// The gateway's number on the chain; absent: the key file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<u32>,
    /// Key file, as `tally` writes it.
    #[serde(default = "default_key")]
    pub key: PathBuf,
    /// The genesis, as JSON.
    #[serde(default = "default_genesis")]
    pub genesis: PathBuf,
    /// The journal's folder. Losing it loses what it promised.
    #[serde(default = "default_journal")]
    pub journal: PathBuf,
    /// gRPC addresses of validators or observers: `host:port` or a URL. Two
    /// at least, of different owners; one is enough for trials.
    pub nodes: Vec<String>,
    /// Certificate of the authority that signed the nodes' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ca: Option<PathBuf>,
    /// Addresses to listen on.
    pub listen: Listen,
    /// Which routes are served without a charge.
    #[serde(default)]
    pub routes: Routes,
    /// The inference engines.
    #[serde(default, rename = "upstream")]
    pub upstreams: Vec<Upstream>,
    /// What a place in the queue costs.
    #[serde(default)]
    pub priority: Priority,
    /// How much per minute is let in.
    #[serde(default)]
    pub rates: Rates,
    /// How leases are taken.
    #[serde(default)]
    pub lease: Lease,
    /// How debits are sent.
    #[serde(default)]
    pub submit: Submit,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// Addresses to listen on. Port 0: any free one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// OpenAI-compatible HTTP, for clients: HTTP/1.1 and HTTP/2 on one port.
    pub http: SocketAddr,
    /// TLS of `http`. Without it API keys and prompts pass in the clear: use
    /// it unless clients come over loopback or something else ends TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// `MeteringService`; loopback only, since it is not authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<SocketAddr>,
    /// `/metrics` and `/healthz`; loopback only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Envoy's `ext_proc` and `ext_authz`, gRPC; loopback only: whoever
    /// connects here says what the engine answered. Envoy runs beside the
    /// gateway, as a sidecar does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy: Option<SocketAddr>,
}

/// TLS of the listener for clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and those between it and its authority, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// Policy of the routes that charge nothing. Each needs an API key and
/// answers about its own account only; whatever is not named is 404.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Routes {
    /// Those that are served.
    pub free: Vec<FreeRoute>,
}

/// A route that charges nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeRoute {
    /// `GET /v1/models`.
    Models,
    /// `GET /v1/tally/balance`.
    Balance,
    /// `POST /v1/tally/quote`.
    Quote,
    /// `GET /v1/tally/receipts/{id}`.
    Receipts,
    /// `DELETE /v1/tally/key`.
    Key,
}

impl Default for Routes {
    fn default() -> Self {
        use FreeRoute::*;
        Routes {
            free: vec![Models, Balance, Quote, Receipts, Key],
        }
    }
}

/// How leases are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    /// For how long; the chain may shorten it.
    pub seconds: u32,
    /// How much earlier the gateway stops using one.
    pub margin_ms: u32,
}

/// How debits are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Submit {
    /// How long a batch gathers at least.
    pub linger_ms: u32,
    /// Least time from one batch to the next, unless one is full: nobody
    /// waits for debits to be final, and each block that they make costs all
    /// validators.
    pub interval_ms: u32,
    /// Most debits of a batch.
    pub batch: u32,
}

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most bytes of a request's body.
    pub body_bytes: u32,
    /// Most bytes of all requests' bodies that are in memory at once; beyond
    /// it requests are refused.
    pub bodies_bytes: u64,
    /// Longest that a request's body may take to arrive.
    pub body_seconds: u32,
    /// Most bytes of an answer that is not streamed, and of one event.
    pub answer_bytes: u32,
    /// Longest that a client may read nothing of its stream; then it is cut,
    /// and charged as if it had hung up. After twice as long any connection
    /// is closed on which nothing can be written.
    pub stall_seconds: u32,
    /// Longest wait near the end of a balance.
    pub wait_ms: u32,
    /// Longest request; well below the chain's grace of leases.
    pub request_seconds: u32,
    /// Life of a hold of `MeteringService`; then its worst case is charged.
    pub hold_seconds: u32,
    /// How long running requests may finish when stopping.
    pub drain_seconds: u32,
    /// Most debits that wait for the chain.
    pub unproven: u32,
    /// Most client connections.
    pub connections: u32,
    /// A journal segment ends when it is larger.
    pub segment_bytes: u32,
}

impl Default for Lease {
    fn default() -> Self {
        Lease {
            seconds: 300,
            margin_ms: 2_000,
        }
    }
}

impl Default for Submit {
    fn default() -> Self {
        Submit {
            linger_ms: 5,
            interval_ms: 100,
            batch: 1_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 16 * 1024 * 1024,
            bodies_bytes: 1024 * 1024 * 1024,
            body_seconds: 120,
            answer_bytes: 64 * 1024 * 1024,
            stall_seconds: 60,
            wait_ms: 30_000,
            request_seconds: 1_800,
            hold_seconds: 1_800,
            drain_seconds: 30,
            unproven: 1_000_000,
            connections: 20_000,
            segment_bytes: 64 * 1024 * 1024,
        }
    }
}

fn default_key() -> PathBuf {
    "gateway.key".into()
}

fn default_genesis() -> PathBuf {
    "genesis.json".into()
}

fn default_journal() -> PathBuf {
    "journal".into()
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is no such TOML.
    #[error("{path}: {error}")]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: toml::de::Error,
    },
    /// A value cannot work.
    #[error("{field}: {why}")]
    Value {
        /// Which.
        field: &'static str,
        /// Why.
        why: String,
    },
}

impl GatewayConfig {
    /// A configuration with defaults for all that has one.
    pub fn new(home: &Path, nodes: Vec<String>, http: SocketAddr) -> Self {
        GatewayConfig {
            home: home.to_owned(),
            gateway: None,
            key: default_key(),
            genesis: default_genesis(),
            journal: default_journal(),
            nodes,
            node_ca: None,
            listen: Listen {
                http,
                tls: None,
                grpc: None,
                admin: None,
                envoy: None,
            },
            routes: Routes::default(),
            upstreams: Vec::new(),
            priority: Priority::default(),
            rates: Rates::default(),
            lease: Lease::default(),
            submit: Submit::default(),
            limits: Limits::default(),
        }
    }

    /// Reads and validates `gateway.toml` in `home`.
    pub fn load(home: &Path) -> Result<Self, ConfigError> {
        let path = home.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| ConfigError::Read {
            path: path.clone(),
            error,
        })?;
        let mut config: GatewayConfig =
            toml::from_str(&text).map_err(|error| ConfigError::Form { path, error })?;
        config.home = home.to_owned();
        config.validate()?;
        Ok(config)
    }

    /// The text of `gateway.toml`.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("plain values have a text")
    }

    /// A path in the home.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.home.join(path)
    }

    /// How long leases are taken for.
    pub fn lease_time(&self) -> Duration {
        Duration::from_secs(self.lease.seconds.into())
    }

    /// Checks everything that can be checked before anything is opened.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |field, why: &str| {
            Err(ConfigError::Value {
                field,
                why: why.to_owned(),
            })
        };
        if self.nodes.is_empty() {
            return wrong("nodes", "name two at least (one for trials)");
        }
        let https = self.nodes.iter().any(|node| node.starts_with("https://"));
        if https && self.node_ca.is_none() {
            return wrong(
                "node_ca",
                "https nodes need the certificate of their authority",
            );
        }
        for (field, address) in [
            ("listen.grpc", self.listen.grpc),
            ("listen.admin", self.listen.admin),
            ("listen.envoy", self.listen.envoy),
        ] {
            if address.is_some_and(|address| !address.ip().is_loopback()) {
                return wrong(field, "callers are not authenticated: loopback only");
            }
        }
        for upstream in &self.upstreams {
            upstream.validate()?;
        }
        self.priority.validate()?;
        self.rates.validate()?;
        let ranges = [
            ("lease.seconds", self.lease.seconds, 1, 86_400),
            ("submit.linger_ms", self.submit.linger_ms, 0, 1_000),
            ("submit.interval_ms", self.submit.interval_ms, 0, 10_000),
            ("submit.batch", self.submit.batch, 1, 10_000),
            ("limits.body_bytes", self.limits.body_bytes, 1_024, 1 << 30),
            (
                "limits.answer_bytes",
                self.limits.answer_bytes,
                1_024,
                1 << 30,
            ),
            ("limits.body_seconds", self.limits.body_seconds, 1, 3_000),
            ("limits.stall_seconds", self.limits.stall_seconds, 1, 3_000),
            ("limits.wait_ms", self.limits.wait_ms, 0, 30_000),
            (
                "limits.request_seconds",
                self.limits.request_seconds,
                1,
                3_000,
            ),
            ("limits.hold_seconds", self.limits.hold_seconds, 1, 3_000),
            ("limits.unproven", self.limits.unproven, 1, 100_000_000),
            ("limits.connections", self.limits.connections, 1, 1_000_000),
            (
                "limits.segment_bytes",
                self.limits.segment_bytes,
                4_096,
                1 << 30,
            ),
        ];
        for (field, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return wrong(field, &format!("must be between {least} and {most}"));
            }
        }
        if self.limits.bodies_bytes < self.limits.body_bytes.into() {
            return wrong("limits.bodies_bytes", "must be limits.body_bytes at least");
        }
        if u64::from(self.lease.margin_ms) >= u64::from(self.lease.seconds) * 1_000 {
            return wrong("lease.margin_ms", "must be shorter than the lease");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        nodes = ["127.0.0.1:9000", "https://b.example:9000"]
        node_ca = "ca.pem"
        [listen]
        http = "127.0.0.1:8080"
        [[upstream]]
        url = "http://127.0.0.1:8000"
        models = ["tally-base"]
    "#;

    fn parse(text: &str) -> Result<(), String> {
        let config: GatewayConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn the_least_is_enough_and_what_is_written_reads_back() {
        assert_eq!(parse(LEAST), Ok(()));
        let config: GatewayConfig = toml::from_str(LEAST).unwrap();
        assert_eq!(
            toml::from_str::<GatewayConfig>(&config.to_toml()).unwrap(),
            config
        );
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (from, to, field) in [
            (
                r#"["127.0.0.1:9000", "https://b.example:9000"]"#,
                "[]",
                "nodes",
            ),
            (
                r#"http = "127.0.0.1:8080""#,
                "http = \"127.0.0.1:8080\"\ngrpc = \"0.0.0.0:1\"",
                "listen.grpc",
            ),
            (
                r#"http = "127.0.0.1:8080""#,
                "http = \"127.0.0.1:8080\"\nenvoy = \"0.0.0.0:1\"",
                "listen.envoy",
            ),
            ("http://127.0.0.1:8000", "127.0.0.1", "upstream.url"),
            (r#"["tally-base"]"#, "[]", "upstream"),
            (
                "[listen]",
                "[priority]\nunit = \"0.001\"\n[listen]",
                "priority.unit",
            ),
            (
                "[listen]",
                "[rates.class.main]\ntokens = 0\n[listen]",
                "rates",
            ),
            ("[listen]", "[submit]\nbatch = 0\n[listen]", "submit.batch"),
            (
                "[listen]",
                "[limits]\nbodies_bytes = 2_000\n[listen]",
                "limits.bodies_bytes",
            ),
            (
                "[listen]",
                "[limits]\nstall_seconds = 0\n[listen]",
                "limits.stall_seconds",
            ),
            (
                "[listen]",
                "[lease]\nseconds = 2\n[listen]",
                "lease.margin_ms",
            ),
            ("node_ca = \"ca.pem\"", "", "node_ca"),
            ("[listen]", "[surprise]\n[listen]", "surprise"),
        ] {
            let error = parse(&LEAST.replace(from, to)).unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
