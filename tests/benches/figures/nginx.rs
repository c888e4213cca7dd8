//! nginx as a plain reverse proxy, beside the gateway in the same run: what
//! each adds to a request at concurrency 1, and what each carries at 64. The
//! validators stand still meanwhile; journal, holds and signing are on.
//!
//! Wanted: to the first byte at most what nginx adds, to the last byte at
//! most that and one fdatasync p50 of the same run, and 0.8 of its requests
//! per second.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    Options,
    cluster::{Cluster, free_port, wait_connect},
    driver::Driver,
    engine::OUTPUT,
    figure::{percentile_of, print, summary},
    gateway::{FIXED, Gateway},
    machine::Probe,
    wire::{Wire, chat, load},
};

/// Requests at once where requests per second are counted.
const CONCURRENCY: usize = 64;
/// Of nginx, as of the gateway's runtime.
const WORKERS: usize = 2;

/// nginx; ends with its owner.
struct Nginx {
    address: SocketAddr,
    master: Child,
}

impl Nginx {
    /// Starts it before `engine`; `None` if it is not installed.
    fn start(folder: &Path, engine: SocketAddr) -> Option<Self> {
        let address = free_port();
        let home = folder.join("nginx");
        fs::create_dir_all(&home).unwrap();
        let config = format!(
            "daemon off;\nworker_processes {WORKERS};\npid nginx.pid;\nerror_log error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n access_log off;\n keepalive_requests 1000000000;\n\
             client_body_temp_path body;\n proxy_temp_path proxy;\n fastcgi_temp_path fastcgi;\n\
             uwsgi_temp_path uwsgi;\n scgi_temp_path scgi;\n\
             upstream engine {{ server {engine}; keepalive 256; keepalive_requests 1000000000; }}\n\
             server {{\n listen {address};\n location / {{\n proxy_pass http://engine;\n\
             proxy_http_version 1.1;\n proxy_set_header Connection \"\";\n\
             proxy_buffering off;\n }}\n }}\n}}\n"
        );
        fs::write(home.join("nginx.conf"), config).unwrap();
        let log = fs::File::create(home.join("start.log")).unwrap();
        let master = Command::new("nginx")
            .arg("-p")
            .arg(&home)
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .env("PATH", path_with_sbin())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .ok()?;
        let nginx = Self { address, master };
        wait_connect(address);
        Some(nginx)
    }
}

/// Where distributions put servers is not in everybody's PATH.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/usr/local/sbin")
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end only if it is asked to.
        let _ = kill_process(Pid::from_child(&self.master), Signal::TERM);
        let _ = self.master.wait();
    }
}

/// Who is asked: the engine itself, or a proxy before it.
const ASKED: [&str; 3] = ["direct", "nginx", "tally"];

/// Both figures.
pub(crate) async fn nginx(
    cluster: &Cluster,
    gateway: &Gateway,
    driver: &Driver,
    options: &Options,
) {
    let Some(nginx) = Nginx::start(cluster.folder(), gateway.fixed.address) else {
        eprintln!("figure nginx: left out, there is no program `nginx` (Debian: nginx-light)");
        return;
    };
    let asked = [gateway.fixed.address, nginx.address, gateway.http];
    gateway.stock(driver).await;
    for (think, stream) in [(0, false), (0, true), (20, false), (20, true)] {
        latency(cluster, gateway, driver, options, asked, think, stream).await;
    }
    for stream in [false, true] {
        throughput(cluster, gateway, driver, options, asked, stream).await;
    }
}

/// Time to the first and last byte of the last run's answers, in ms.
#[derive(Default)]
struct Times {
    first: Vec<f64>,
    last: Vec<f64>,
}

async fn latency(
    cluster: &Cluster,
    gateway: &Gateway,
    driver: &Driver,
    options: &Options,
    asked: [SocketAddr; 3],
    think: u64,
    stream: bool,
) {
    gateway.fixed.behave(think, 0);
    let request = chat(&driver.bearer(0), FIXED, OUTPUT, stream, "");
    // Per run: what nginx and the gateway add, to the first and last byte.
    let mut added: [[Vec<f64>; 2]; 2] = Default::default();
    let probe = Probe::start(&gateway.folder);
    for run in 0..=options.runs {
        gateway.settled().await;
        let _stopped = cluster.stop();
        let mut wires = Vec::new();
        for address in asked {
            wires.push((Wire::connect(address).await.unwrap(), Times::default()));
        }
        let started = Instant::now();
        while started.elapsed() < options.seconds {
            for (i, (wire, times)) in wires.iter_mut().enumerate() {
                let answer = wire.ask(&request).await.unwrap();
                assert_eq!(answer.status, 200, "{}", ASKED[i]);
                times.first.push(answer.first.as_secs_f64() * 1e3);
                times.last.push(answer.last.as_secs_f64() * 1e3);
            }
        }
        let p50 = |times: &mut Vec<f64>| percentile_of(times, 0.5);
        let p50s: Vec<[f64; 2]> = wires
            .iter_mut()
            .map(|(_, times)| [p50(&mut times.first), p50(&mut times.last)])
            .collect();
        for (proxy, added) in added.iter_mut().enumerate() {
            for (byte, values) in added.iter_mut().enumerate() {
                if run > 0 {
                    values.push(p50s[proxy + 1][byte] - p50s[0][byte]);
                }
            }
        }
    }
    gateway.fixed.behave(0, 0);
    for (proxy, added) in ASKED[1..].iter().zip(added) {
        let load = json!({
            "proxy": proxy, "concurrency": 1, "stream": stream, "chunks": OUTPUT,
            "think_ms": think, "seconds": options.seconds.as_secs(), "validators": "stopped",
        });
        for (byte, values) in ["first", "last"].iter().zip(added) {
            let name = format!("added_to_{byte}_byte_p50");
            print(&name, "ms", load.clone(), summary(&values), &probe);
        }
    }
}

async fn throughput(
    cluster: &Cluster,
    gateway: &Gateway,
    driver: &Driver,
    options: &Options,
    asked: [SocketAddr; 3],
    stream: bool,
) {
    let requests: Vec<Vec<u8>> = (0..CONCURRENCY)
        .map(|i| chat(&driver.bearer(i), FIXED, OUTPUT, stream, ""))
        .collect();
    let mut rates: [Vec<f64>; 3] = Default::default();
    let (mut ratios, mut failed) = (Vec::new(), 0);
    let probe = Probe::start(&gateway.folder);
    for run in 0..=options.runs {
        gateway.settled().await;
        let _stopped = cluster.stop();
        let mut rate = [0.0; 3];
        for (i, address) in asked.into_iter().enumerate() {
            let load = load(address, requests.clone(), options.seconds).await;
            failed += load.failed;
            rate[i] = load.rate();
            if run > 0 {
                rates[i].push(rate[i]);
            }
        }
        if run > 0 {
            ratios.push(rate[2] / rate[1]);
        }
    }
    let load = |proxy: &str| -> Value {
        json!({
            "asked": proxy, "concurrency": CONCURRENCY, "stream": stream, "chunks": OUTPUT,
            "accounts": driver.accounts.len(), "failed": failed,
            "seconds": options.seconds.as_secs(), "validators": "stopped",
        })
    };
    for (asked, rates) in ASKED.into_iter().zip(&rates) {
        print(
            "requests_per_second",
            "1/s",
            load(asked),
            summary(rates),
            &probe,
        );
    }
    let values = summary(&ratios);
    print(
        "requests_of_nginx",
        "tally / nginx",
        load("both"),
        values,
        &probe,
    );
}
