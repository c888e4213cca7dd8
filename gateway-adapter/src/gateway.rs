//! A gateway from its configuration to its end: starts in the order in which
//! promises become possible, serves, and stops by settling and returning what
//! it holds.

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Deserialize;
use tally_ledger::{
    crypto::{PublicKey, SecretKey},
    genesis::Genesis,
    ids::{DebitNumber, GatewayNumber, Height},
};
use tally_proto::Login;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    chain::{
        ChainError,
        debits::Sender,
        fleet::Fleet,
        follow::{Follower, Start},
        leases::{Before, Leases},
        light::Light,
        nodes::{Node, Nodes},
        opening,
        sign::Signer,
        terms::{Current, Terms},
    },
    config::GatewayConfig,
    cores::Cores,
    error::GatewayError,
    holds::Holds,
    job::Jobs,
    journal::{Directory, Journal, Limits},
    live::Live,
    metering::Metering,
    metrics::Metrics,
    pool::Pool,
    proxy::{Proxy, free::ASKING, policy::Policy, upstream::Upstream},
    rates::Rates,
    routing::{Upstreams, checks},
    serving::Serving,
};
use timed::Timed;

mod connection;
mod patient;
mod reload;
mod serve;
mod timed;
mod tls;
mod upkeep;

pub use reload::Reloader;

/// How long to wait for the chain at the end.
const FAREWELL: Duration = Duration::from_secs(15);

/// A gateway that is ready to serve.
#[derive(Debug)]
pub struct Gateway {
    http: TcpListener,
    tls: Option<Arc<Live<ServerConfig>>>,
    reloader: Reloader,
    grpc: Option<TcpListener>,
    admin: Option<TcpListener>,
    envoy: Option<TcpListener>,
    proxy: Arc<Proxy>,
    metering: Arc<Metering>,
    journal: Arc<Journal>,
    proven: watch::Receiver<DebitNumber>,
    limits: crate::config::Limits,
    fatal: mpsc::Receiver<ChainError>,
    tasks: JoinSet<()>,
    cores: Arc<Cores>,
    _lock: std::fs::File,
}

/// A key file as `tally` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    kind: String,
    number: Option<u32>,
    public: PublicKey,
    seed: String,
}

fn read(path: &Path) -> Result<Zeroizing<String>, GatewayError> {
    let text = std::fs::read_to_string(path);
    text.map(Zeroizing::new)
        .map_err(|error| GatewayError::File {
            path: path.to_owned(),
            error,
        })
}

fn read_key(path: &Path) -> Result<(SecretKey, Option<u32>), GatewayError> {
    let wrong = |why: &str| GatewayError::Content {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let text = read(path)?;
    // The parser's message could quote the secret.
    let file: KeyFile = toml::from_str(&text).map_err(|_| wrong("not a secret key file"))?;
    let (coded, mut seed) = (Zeroizing::new(file.seed), Zeroizing::new([0; 32]));
    hex::decode_to_slice(coded.as_str(), seed.as_mut_slice())
        .map_err(|_| wrong("the seed is not 64 hex digits"))?;
    let key = SecretKey::from_seed(&seed);
    if file.kind != "gateway" || key.public() != file.public {
        return Err(wrong(
            "not a gateway's key, or seed and public key do not fit",
        ));
    }
    Ok((key, file.number))
}

fn read_genesis(path: &Path) -> Result<Genesis, GatewayError> {
    let wrong = |why: String| GatewayError::Content {
        path: path.to_owned(),
        why,
    };
    let genesis: Genesis =
        serde_json::from_str(&read(path)?).map_err(|error| wrong(error.to_string()))?;
    genesis
        .validate()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(genesis)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| GatewayError::Listen {
            address: address.to_string(),
            error,
        })
}

/// One process per home.
fn lock(home: &Path) -> Result<std::fs::File, GatewayError> {
    let path = home.join("gateway.lock");
    let file = std::fs::File::create(&path).map_err(|error| GatewayError::File { path, error })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(GatewayError::InUse(home.to_owned())),
    }
}

/// Serves until `shutdown`, then finishes what runs, settles, and returns its
/// leases. An error names what the operator must do.
pub async fn run_gateway(
    config: GatewayConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    tokio::pin!(shutdown);
    let gateway = tokio::select! {
        gateway = Gateway::start(config) => gateway?,
        () = &mut shutdown => return Ok(()),
    };
    gateway.run(shutdown).await
}

impl Gateway {
    /// Opens everything. Waits as long as no node can prove this gateway.
    pub async fn start(config: GatewayConfig) -> Result<Self, GatewayError> {
        config.validate()?;
        let lock = lock(&config.home)?;
        let genesis = read_genesis(&config.path(&config.genesis))?;
        let (key, number) = read_key(&config.path(&config.key))?;
        let number = config
            .gateway
            .or(number)
            .ok_or_else(|| GatewayError::Content {
                path: config.path(&config.key),
                why: "no gateway number here nor in gateway.toml".into(),
            })?;
        let gateway = GatewayNumber(number);
        let ca = match &config.node_ca {
            Some(path) => Some(read(&config.path(path))?),
            None => None,
        };
        let login = Login::new(gateway.into(), key.clone(), genesis.chain());
        let nodes = config
            .nodes
            .iter()
            .map(|address| Node::new(address, ca.as_ref().map(|ca| ca.as_bytes()), login.clone()));
        let nodes = Nodes::new(nodes.collect::<Result<_, _>>()?);
        let light = Arc::new(Light::new(genesis, nodes));
        let signer = Signer {
            chain: light.chain,
            gateway,
            key,
        };
        let engines = upstreams(&config)?;
        let tls = tls::server(&config)?.map(|tls| Arc::new(Live::new(tls)));
        if tls.is_none() && !config.listen.http.ip().is_loopback() {
            tracing::warn!(
                "API keys and prompts arrive in the clear: set listen.tls, or end TLS before the gateway"
            );
        }
        let (http, grpc, admin, envoy) = (
            listen(config.listen.http).await?,
            optional(config.listen.grpc).await?,
            optional(config.listen.admin).await?,
            optional(config.listen.envoy).await?,
        );
        let cores = Cores::start(crate::journal::write_here).map_err(GatewayError::Threads)?;
        let store =
            Directory::open(&config.path(&config.journal)).map_err(GatewayError::Journal)?;
        let metrics = Metrics::shared();
        let store = Timed {
            store,
            metrics: metrics.clone(),
        };
        let limits = Limits {
            segment_bytes: config.limits.segment_bytes.into(),
            ..Limits::default()
        };
        let opened = opening::open(&light, &signer, Box::new(store), limits).await?;
        let (start, terms, fleet) = first_terms(&light).await?;
        let journal = Arc::new(opened.journal);
        let upstreams = Arc::new(Upstreams::new(engines, &metrics));
        let checked = upstreams.clone();
        reload::check_classes(&config, &terms);
        let rates = Rates::new(config.rates.clone(), &terms, fleet.share(gateway));
        let terms = Arc::new(Current::new(terms));
        let pool = Arc::new(Pool::new(light.clone(), gateway));
        let (jobs, todo) = Jobs::queue();
        let holds = Arc::new(Holds {
            journal: journal.clone(),
            gateway,
            metrics: metrics.clone(),
            rates,
            jobs: jobs.clone(),
            wait: Duration::from_millis(config.limits.wait_ms.into()),
            max_unproven: config.limits.unproven as usize,
            stopped: AtomicBool::new(opened.leaf.suspended),
            running: AtomicUsize::new(0),
        });
        let hurry = Arc::new(Notify::new());
        let (proven_tx, proven) = watch::channel(journal.proven_last());
        let (fatal_tx, fatal) = mpsc::channel(4);
        let mut tasks = JoinSet::new();
        cores.on_each(&mut tasks, || {
            let journal = journal.clone();
            async move { journal.usher().await }
        });
        tasks.spawn(async move { checks::run(&checked).await });
        let sender = Sender {
            light: light.clone(),
            signer: signer.clone(),
            journal: journal.clone(),
            linger: Duration::from_millis(config.submit.linger_ms.into()),
            interval: Duration::from_millis(config.submit.interval_ms.into()),
            hurry: hurry.clone(),
            batch: config
                .submit
                .batch
                .min(terms.get().parameters.max_block_debits) as usize,
            proven: proven_tx,
            metrics: metrics.clone(),
        };
        tasks.spawn(until_fatal(sender.run(), fatal_tx.clone()));
        let leases = Arc::new(Leases {
            light: light.clone(),
            signer,
            journal: journal.clone(),
            terms: terms.clone(),
            proven: proven.clone(),
            hurry,
            duration: config.lease_time(),
            margin: Duration::from_millis(config.lease.margin_ms.into()),
            jobs: jobs.clone(),
            metrics: metrics.clone(),
            fatal: fatal_tx.clone(),
            stuck: AtomicUsize::new(0),
            flying: Mutex::default(),
        });
        let before = Before {
            leases: opened.old,
            debits: journal.head().last,
        };
        tasks.spawn(leases.clone().return_old(before.clone()));
        tasks.spawn(leases.run(todo, opened.leaf.last_lease, before));
        let follower = Follower {
            light: light.clone(),
            pool: pool.clone(),
            terms: terms.clone(),
            holds: holds.clone(),
            fleet,
            stale: false,
            journal: journal.clone(),
            gateway,
            metrics: metrics.clone(),
            controls: start.controls,
            cursor: start.cursor,
        };
        tasks.spawn(until_fatal(follower.run(), fatal_tx));
        let serving = Arc::new(Serving {
            pool,
            terms,
            holds,
            light,
            metrics,
            lease_time: config.lease_time(),
        });
        let hold_time = Duration::from_secs(config.limits.hold_seconds.into());
        let metering = Arc::new(Metering::new(serving.clone(), hold_time, upstreams.clone()));
        tasks.spawn(upkeep::run(
            serving.clone(),
            metering.clone(),
            upstreams.clone(),
        ));
        let proxy = Arc::new(Proxy {
            repeats: Arc::default(),
            serving,
            upstreams,
            policy: Live::new(Policy::of(&config)),
            body_bytes: config.limits.body_bytes as usize,
            metrics: admin.is_some() || config.listen.http.ip().is_loopback(),
            asking: Semaphore::new(ASKING),
        });
        let limits = config.limits;
        let reloader = Reloader::new(config, proxy.clone(), tls.clone());
        Ok(Gateway {
            http,
            tls,
            reloader,
            grpc,
            admin,
            envoy,
            proxy,
            metering,
            journal,
            proven,
            limits,
            fatal,
            tasks,
            cores: Arc::new(cores),
            _lock: lock,
        })
    }

    /// Where clients connect.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.local_addr().ok()
    }

    /// Where `MeteringService` listens.
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc.as_ref()?.local_addr().ok()
    }

    /// Where `/metrics` and `/healthz` are.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Where Envoy asks.
    pub fn envoy(&self) -> Option<SocketAddr> {
        self.envoy.as_ref()?.local_addr().ok()
    }

    /// Reads the configuration again while the gateway runs.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// `MeteringService` without the network, for a program that has the
    /// gateway within it.
    pub fn metering(&self) -> Arc<Metering> {
        self.metering.clone()
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), GatewayError> {
        tracing::info!(http = ?self.http(), grpc = ?self.grpc(), envoy = ?self.envoy(), journal = %self.journal.number(), "serving");
        let stop = CancellationToken::new();
        let (http, tls, admin, grpc, envoy) =
            (self.http, self.tls, self.admin, self.grpc, self.envoy);
        let listeners = Listeners {
            http,
            tls,
            admin,
            grpc,
            envoy,
        };
        let (proxy, metering) = (self.proxy.clone(), self.metering.clone());
        let cores = self.cores.clone();
        let mut servers = listeners.serve((proxy, metering), &cores, &self.limits, &stop);
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            () = self.journal.failure() => Err(GatewayError::Journal(std::io::Error::other("a write or fsync failed"))),
            () = self.cores.lost() => Err(GatewayError::Lost),
            error = self.fatal.recv() => match error {
                Some(error) => Err(error.into()),
                None => Ok(()),
            },
        };
        let holds = self.proxy.serving.holds.clone();
        holds.stop();
        let drain = self.proxy.policy.get().drain_time;
        wait_until(Instant::now() + drain, || {
            holds.running.load(Ordering::Relaxed) == 0 || ended.is_err()
        })
        .await;
        // Connections end when their answers are complete.
        stop.cancel();
        let finish = async { while servers.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(2), finish)
            .await
            .is_err()
        {
            servers.shutdown().await;
        }
        self.metering.sweep(true);
        if ended.is_ok() {
            farewell(&self.proxy.serving, &self.journal, self.proven).await;
        }
        self.tasks.shutdown().await;
        self.journal.close();
        tracing::info!(unproven = self.journal.unproven(), "stopped");
        ended
    }
}

/// Where a gateway listens.
struct Listeners {
    http: TcpListener,
    tls: Option<Arc<Live<ServerConfig>>>,
    admin: Option<TcpListener>,
    grpc: Option<TcpListener>,
    envoy: Option<TcpListener>,
}

impl Listeners {
    /// Serves on all of them until `stop`. Not part of [`Gateway::run`], which
    /// is compiled anew for each way to shut down: everything that requests
    /// pass through would be too.
    fn serve(
        self,
        (proxy, metering): (Arc<Proxy>, Arc<Metering>),
        cores: &Arc<Cores>,
        limits: &crate::config::Limits,
        stop: &CancellationToken,
    ) -> JoinSet<()> {
        let mut servers = JoinSet::new();
        let connections = Arc::new(Semaphore::new(limits.connections as usize));
        servers.spawn(serve::http(
            self.http,
            self.tls,
            proxy.clone(),
            (Some(cores.clone()), connections),
            stop.clone(),
        ));
        if let Some(admin) = self.admin {
            let few = Arc::new(Semaphore::new(64));
            let page = Arc::new(Proxy {
                repeats: Arc::default(),
                serving: proxy.serving.clone(),
                upstreams: Arc::default(),
                policy: Live::new(Policy {
                    free: Vec::new(),
                    ..(*proxy.policy.get()).clone()
                }),
                body_bytes: 1_024,
                metrics: true,
                asking: Semaphore::new(0),
            });
            // Not where a slow disk or a large prompt could hold it up.
            let few = (None, few);
            servers.spawn(serve::http(admin, None, page, few, stop.clone()));
        }
        if let Some(grpc) = self.grpc {
            servers.spawn(serve::grpc(grpc, metering, stop.clone()));
        }
        if let Some(envoy) = self.envoy {
            servers.spawn(serve::envoy(envoy, proxy, stop.clone()));
        }
        servers
    }
}

/// Returns what is leased, once its debits are proven; bounded.
async fn farewell(serving: &Serving, journal: &Journal, proven: watch::Receiver<DebitNumber>) {
    let last = journal.head().last;
    let deadline = Instant::now() + FAREWELL;
    wait_until(deadline, || {
        // Again each time: a lease that was asked for may be granted late.
        serving.holds.jobs.send_all(serving.pool.returns(true));
        let accounts = serving.pool.accounts();
        *proven.borrow() >= last && accounts.iter().all(|account| account.is_idle())
    })
    .await;
}

async fn wait_until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_fatal(task: impl Future<Output = ChainError>, fatal: mpsc::Sender<ChainError>) {
    let error = task.await;
    // The gateway is stopping if nobody listens.
    let _ = fatal.send(error).await;
}

async fn first_terms(light: &Light) -> Result<(Start, Terms, Fleet), GatewayError> {
    loop {
        let all = async {
            let start = Start::now(light).await?;
            let terms = Terms::load(light, Height(0)).await?;
            let fleet = Fleet::load(light, Height(0)).await?;
            Ok::<_, ChainError>((start, terms, fleet))
        };
        match all.await {
            Ok(all) => return Ok(all),
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "waiting for prices and parameters"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn upstreams(config: &GatewayConfig) -> Result<Vec<Upstream>, GatewayError> {
    let mut upstreams = Vec::new();
    for upstream in &config.upstreams {
        let bearer = match &upstream.bearer {
            Some(path) => Some(read(&config.path(path))?),
            None => None,
        };
        let built = Upstream::new(upstream, bearer).map_err(|why| GatewayError::Content {
            path: config.path(Path::new(crate::config::FILE)),
            why,
        })?;
        upstreams.push(built);
    }
    Ok(upstreams)
}

async fn optional(address: Option<SocketAddr>) -> Result<Option<TcpListener>, GatewayError> {
    match address {
        Some(address) => listen(address).await.map(Some),
        None => Ok(None),
    }
}
