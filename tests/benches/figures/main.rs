//! The figures: four validator processes, a gateway and the load on this
//! machine, release build, fsync, roots and signatures on.
//!
//! ```text
//! cargo bench -p tally-tests --bench figures               # all
//! cargo bench -p tally-tests --bench figures -- --runs 5 --seconds 5 debits
//! cargo bench -p tally-tests --bench figures -- --set 'spread = "gossipsub"' latency
//! ```
//!
//! `--nice 10` runs the validators below the gateway and the load, which share
//! the two cores here and would not elsewhere; in what concerns a gateway alone
//! (`nginx`, `unary`, `stream`, `streams`, `overload`, `pairs`) they are stopped
//! while it is measured, so that it serves inside its leases. `--set` puts a line into every
//! validator's `config.toml`; `--binary` names a program built earlier, to
//! compare two.
//!
//! Prints one JSON line per figure: median and range over the runs, the load,
//! the machine's idle share and the fdatasync latency of the same runs.
//! Effects are counted in a validator's log, not in requests sent.

#![allow(clippy::unwrap_used)]

mod cluster;
mod debits;
mod driver;
mod engine;
mod figure;
mod gateway;
mod machine;
mod metering;
mod nginx;
mod overload;
mod pairs;
mod proxy;
mod streams;
mod verify;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What to measure, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    runs: usize,
    seconds: Duration,
    figures: Vec<String>,
    /// Lines for every validator's `config.toml`.
    settings: Vec<String>,
    /// Debits per second of `latency`.
    rate: u64,
    /// How much lower the validators' priority is than the gateway's.
    nice: u64,
    /// The program to measure; without, a release build of this checkout.
    binary: Option<PathBuf>,
}

impl Options {
    fn of(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Options {
            runs: 5,
            seconds: Duration::from_secs(5),
            figures: Vec::new(),
            settings: Vec::new(),
            rate: 1_000,
            nice: 0,
            binary: None,
        };
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let mut number = || {
                let text = value()?;
                text.parse::<u64>()
                    .map_err(|e| format!("{arg} {text}: {e}"))
            };
            match arg.as_str() {
                "--runs" => options.runs = number()?.max(1) as usize,
                "--seconds" => options.seconds = Duration::from_secs(number()?.max(1)),
                "--binary" => options.binary = Some(value()?.into()),
                "--rate" => options.rate = number()?.max(1),
                "--nice" => options.nice = number()?.min(19),
                "--set" => options.settings.push(value()?),
                name if FIGURES.contains(&name) => options.figures.push(name.to_owned()),
                other => return Err(format!("unknown argument {other}; figures: {FIGURES:?}")),
            }
        }
        Ok(options)
    }

    fn wants(&self, figure: &str) -> bool {
        self.figures.is_empty() || self.figures.iter().any(|name| name == figure)
    }
}

const FIGURES: [&str; 11] = [
    "debits", "latency", "verify", "metering", "proxy", "nginx", "unary", "stream", "streams",
    "overload", "pairs",
];
/// Those of a gateway as a process.
const OF_A_GATEWAY: [&str; 7] = [
    "metering", "proxy", "nginx", "unary", "stream", "streams", "overload",
];

fn main() {
    // `cargo test --all-targets` runs benches too, without `--bench`.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let options = match Options::of(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(options));
}

async fn measure(options: Options) {
    let binary = options.binary.clone();
    let binary = binary.unwrap_or_else(cluster::build_release);
    if ["debits", "latency", "verify"]
        .iter()
        .any(|name| options.wants(name))
    {
        let cluster = cluster::Cluster::start(&binary, &options).await;
        let mut driver = driver::Driver::prepare(&cluster).await;
        if options.wants("latency") {
            debits::latency(&cluster, &mut driver, &options).await;
        }
        if options.wants("debits") {
            debits::throughput(&cluster, &mut driver, &options).await;
        }
        if options.wants("verify") {
            verify::verify(&cluster, &mut driver, &options).await;
        }
    }
    if OF_A_GATEWAY.iter().any(|name| options.wants(name)) {
        of_a_gateway(&binary, &options).await;
    }
    if options.wants("pairs") {
        let cluster = cluster::Cluster::start(&binary, &options).await;
        let driver = driver::Driver::prepare_accounts(&cluster).await;
        pairs::pairs(&cluster, &driver, &options);
    }
}

async fn of_a_gateway(binary: &Path, options: &Options) {
    let cluster = cluster::Cluster::start(binary, options).await;
    let driver = driver::Driver::prepare_accounts(&cluster).await;
    let gateway = gateway::Gateway::start(&cluster, binary);
    if options.wants("metering") {
        metering::metering(&gateway, &driver, options).await;
    }
    if options.wants("proxy") {
        proxy::proxy(&gateway, &driver, options).await;
    }
    if options.wants("nginx") {
        nginx::nginx(&cluster, &gateway, &driver, options).await;
    }
    if options.wants("unary") {
        metering::unary(&cluster, &gateway, &driver, options).await;
    }
    if options.wants("stream") {
        metering::stream(&cluster, &gateway, &driver, options).await;
    }
    if options.wants("streams") {
        streams::streams(&cluster, &gateway, &driver).await;
    }
    if options.wants("overload") {
        overload::overload(&cluster, &gateway, &driver, options).await;
    }
}
