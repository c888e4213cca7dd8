//! Authorize + Settle in process: a gateway in this program, its thread and
//! its journal's on one core, and no network between. 100,000 pairs per
//! second are wanted. The validators stand still meanwhile; journal and fsync
//! are on.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use serde_json::json;
use tally_gateway_adapter::{Gateway, GatewayConfig, metering::Metering};
use tally_proto::v1::VoidRequest;
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    Options,
    cluster::Cluster,
    driver::Driver,
    figure::{print, summary},
    gateway::{LARGE, settled},
    machine::Probe,
    metering::{seeds, used, wish},
};

/// Pairs under way.
const WINDOW: usize = 1_024;

/// The figure, on a thread that stays on one core.
pub(crate) fn pairs(cluster: &Cluster, driver: &Driver, options: &Options) {
    let run = || {
        stay();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(measure(cluster, driver, options));
    };
    tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(run).join().unwrap()));
}

/// Keeps this thread, and those that it starts, on the first core.
fn stay() {
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let number = thread.file_name().unwrap();
    let status = Command::new("taskset")
        .args(["-p", "-c", "0"])
        .arg(number)
        .output()
        .expect("taskset (util-linux) is installed");
    assert!(status.status.success(), "taskset: {status:?}");
}

fn config(cluster: &Cluster) -> GatewayConfig {
    let home = cluster.folder().join("pairs");
    fs::create_dir_all(&home).unwrap();
    let net = cluster.folder().join("net");
    let copy = |from: &Path, to: &str| fs::copy(net.join(from), home.join(to)).unwrap();
    copy(Path::new("genesis.json"), "genesis.json");
    copy(Path::new("keys/gateway-0.key"), "gateway.key");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = GatewayConfig::new(&home, cluster.grpc[..2].to_vec(), any);
    config.lease.seconds = 600;
    config
}

async fn measure(cluster: &Cluster, driver: &Driver, options: &Options) {
    let gateway = Gateway::start(config(cluster)).await.unwrap();
    let (metering, http) = (gateway.metering(), gateway.http().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(gateway.run(async { drop(stopped.await) }));
    let seeds = seeds(driver);
    for seed in &seeds {
        let mut large = wish(seed.clone());
        large.max_output = LARGE;
        let hold = metering.authorize(large).await.unwrap().hold;
        metering.void(VoidRequest { hold }).await.unwrap();
    }
    let probe = Probe::start(cluster.folder());
    let mut rates = Vec::new();
    for run in 0..=options.runs {
        settled(http).await;
        let _still = cluster.stop();
        let started = Instant::now();
        let mut all = JoinSet::new();
        for i in 0..WINDOW {
            let (metering, seed) = (metering.clone(), seeds[i % seeds.len()].clone());
            all.spawn(one_after_another(metering, seed, started, options.seconds));
        }
        let pairs: u64 = all.join_all().await.iter().sum();
        if run > 0 {
            rates.push(pairs as f64 / started.elapsed().as_secs_f64());
        }
    }
    let load = json!({
        "cores": 1, "under way": WINDOW, "accounts": seeds.len(),
        "seconds": options.seconds.as_secs(), "validators": "stopped",
    });
    let values = summary(&rates);
    print(
        "authorize_settle_in_process",
        "pairs/s",
        load,
        values,
        &probe,
    );
    drop(stop);
    running.await.unwrap().unwrap();
}

/// Pairs until the time is over; how many.
async fn one_after_another(
    metering: Arc<Metering>,
    seed: Bytes,
    started: Instant,
    time: std::time::Duration,
) -> u64 {
    let mut pairs = 0;
    while started.elapsed() < time {
        let hold = metering.authorize(wish(seed.clone())).await.unwrap().hold;
        metering.settle(used(hold)).await.unwrap();
        pairs += 1;
    }
    pairs
}
