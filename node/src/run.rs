//! Runs a node: opens its home, starts its parts, and stops them in order.
//!
//! The order of a stop: no new calls, consensus ends between two steps, the
//! store finishes what it writes. A fault of this machine ends the process
//! with one line that says what to do; a panic in any task aborts it, so that
//! no half of a node lives on.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
    time::Duration,
};

use tally_consensus::{
    Config as ConsensusConfig, ConsensusError, Handle, Keys, Wake,
    gossip::{self, Direct, Gossip, GossipConfig, GossipError, Incoming},
    solo,
};
use tally_ledger::crypto::PublicKey;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tracing::{error, info};

use crate::{
    application::NodeApplication,
    checkpoint::{self, Board, CheckpointFault, Submitter},
    config::{Log, NodeConfig, Spread, multiaddr},
    forget::{HoldsFile, Journal, Sweeper, sweeper},
    home::{Home, HomeError, NodeKeys},
    http,
    mempool::Mempool,
    metrics::Metrics,
    node::Node,
    rpc::{self, RpcError},
    signatures::SignatureCache,
    storage::{Disk, RealDisk},
    store::{Store, StoreError},
    testimony::{Testimony, TestimonyError},
    web::Web,
};

/// How long servers may take to finish their calls.
const DRAIN: Duration = Duration::from_secs(3);

/// What decides blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The consensus of several validators.
    Validators,
    /// This node alone; the genesis must have one validator.
    Solo,
}

/// Why a node cannot run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of evidence.
    #[error(transparent)]
    Testimony(#[from] TestimonyError),
    /// Checkpoints cannot go on.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFault),
    /// Gossip cannot start.
    #[error("gossip: {0}")]
    Gossip(#[from] GossipError),
    /// Consensus cannot start, or had to stop.
    #[error("consensus: {0}")]
    Consensus(#[from] ConsensusError),
    /// The gRPC services.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The HTTP listener.
    #[error("cannot serve HTTP on {address}: {error}")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// Another validator has this node's network key.
    #[error("config.toml lists this node's own network_key {0} as a peer")]
    OwnPeer(PublicKey),
    /// A part ended that should not have.
    #[error("{0} stopped unexpectedly")]
    Ended(&'static str),
}

/// A node that runs.
#[derive(Debug)]
pub struct RunningNode {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where `/metrics`, `/healthz`, `/checkpoint` and tiles are served.
    pub http: SocketAddr,
    /// The node, for tests in the same process.
    pub node: Arc<Node>,
    shutdown: watch::Sender<bool>,
    consensus: Handle,
    gossip: Option<(Gossip, JoinHandle<()>)>,
    rpc_task: JoinHandle<Result<(), RpcError>>,
    http_task: JoinHandle<std::io::Result<()>>,
    _sweeper: Sweeper,
    board: Arc<Board>,
    checkpoints: JoinSet<Result<(), CheckpointFault>>,
    _lock: std::fs::File,
}

/// Resolves when the node is told to stop.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The store and what stands on it.
struct Opened {
    node: Arc<Node>,
    application: NodeApplication,
    sweeper: Sweeper,
    board: Arc<Board>,
}

/// Opens them; blocks on the disk.
fn open(
    home: &Home,
    config: &NodeConfig,
    keys: &NodeKeys,
    gossip: Option<Gossip>,
    wake: Wake,
    disk: Arc<dyn Disk>,
) -> Result<Opened, NodeError> {
    let genesis = home.genesis()?;
    let folder = home.data().join("evidence");
    let key = keys.consensus.clone();
    let testimony = Testimony::open(disk.clone(), folder, &genesis, key)?;
    let store = Store::open(disk.clone(), &home.data(), genesis, &config.storage)?;
    let node = Arc::new(Node {
        chain: store.chain(),
        mempool: Arc::new(Mempool::new(config.mempool)),
        signatures: Arc::new(SignatureCache::default()),
        metrics: Metrics::new(),
        wake,
        gossip,
        consensus: OnceLock::new(),
        key: keys.consensus.public(),
        data: home.data(),
        disk: Mutex::new(None),
        testimony: AtomicUsize::new(testimony.waiting()),
        reports: config.consensus.report_evidence,
    });
    let sweeper = Sweeper::start(sweeper::Parts {
        sweep: store.sweep(HoldsFile::of(home.folder())),
        erasures: store.erasures(),
        journal: Journal::of(home.folder()),
        chain: store.chain(),
        metrics: node.metrics.clone(),
    });
    let application = NodeApplication::new(
        store,
        node.mempool.clone(),
        node.signatures.clone(),
        node.metrics.clone(),
    );
    let application = application.testifying(testimony, node.clone());
    let settings = checkpoint::Settings {
        folder: home.checkpoints(),
        key: keys.checkpoint.clone(),
        period_ms: config.checkpoint.period_ms,
        witnesses: config.witness.iter().map(|w| w.key.clone()).collect(),
    };
    let board = Board::open(node.chain.clone(), disk, settings, node.metrics.clone())?;
    Ok(Opened {
        node,
        application,
        sweeper,
        board: Arc::new(board),
    })
}

/// Signs, gathers and hands in checkpoints.
fn start_checkpoints(
    board: &Arc<Board>,
    config: &NodeConfig,
    node: &Node,
) -> JoinSet<Result<(), CheckpointFault>> {
    let mut tasks = JoinSet::new();
    let notices = node.gossip.as_ref().map(Gossip::notices);
    tasks.spawn(checkpoint::run(board.clone(), notices));
    if !config.witness.is_empty() {
        let web = Web::new();
        for witness in &config.witness {
            let (board, metrics) = (board.clone(), node.metrics.clone());
            tasks.spawn(Submitter::new(board, witness, web.clone(), metrics).run());
        }
    }
    tasks
}

/// Admits what other validators send, on a thread of its own.
fn take_gossip(node: Arc<Node>, mut incoming: Incoming) {
    std::thread::spawn(move || {
        while let Some((_, bytes)) = incoming.blocking_recv() {
            node.take_gossip(&bytes);
        }
    });
}

impl RunningNode {
    /// Starts a node. Returns when it serves; it may still be catching up.
    pub async fn start(home: &Home, engine: Engine) -> Result<Self, NodeError> {
        Self::start_on(Arc::new(RealDisk), home, engine).await
    }

    /// The same, with what it writes while it runs on another disk, for tests;
    /// but for the index, which is sled's, and the engine's own log.
    pub async fn start_on(
        disk: Arc<dyn Disk>,
        home: &Home,
        engine: Engine,
    ) -> Result<Self, NodeError> {
        let config = home.config()?;
        let lock = home.lock()?;
        let keys = home.keys()?;
        let own = keys.network.public();
        if config.peers.iter().any(|peer| peer.network_key == own) {
            return Err(NodeError::OwnPeer(own));
        }
        let chain = home.genesis()?.chain();
        home.prepare_guard(chain, keys.consensus.public())?;
        let (mut gossip, mut incoming) = (None, None);
        if engine == Engine::Validators {
            let listen = multiaddr(config.listen.gossip);
            let mut network = GossipConfig::new(listen, config.gossip_peers());
            network.direct = config.spread == Spread::Direct;
            let (handle, received, task) = gossip::start(network, &keys.network)?;
            (gossip, incoming) = (Some((handle, task)), Some(received));
        }
        let wake = Wake::new();
        let Opened {
            node,
            application,
            sweeper,
            board,
        } = {
            let (home, config, keys) = (home.clone(), config.clone(), keys.clone());
            let gossip = gossip.as_ref().map(|(handle, _)| handle.clone());
            let (wake, disk) = (wake.clone(), disk.clone());
            let open = move || open(&home, &config, &keys, gossip, wake, disk);
            let opened = tokio::task::spawn_blocking(open).await;
            opened.map_err(|_| NodeError::Ended("opening the store"))??
        };
        if let Some(incoming) = incoming {
            take_gossip(node.clone(), incoming);
        }
        let (shutdown, stop) = watch::channel(false);
        let (grpc, rpc_task) =
            rpc::serve(&config, home.folder(), node.clone(), stopped(stop.clone())).await?;
        let address = config.listen.http;
        let pages = checkpoint::pages(board.clone());
        let served = http::serve(
            address,
            node.clone(),
            node.metrics.clone(),
            pages,
            stopped(stop),
        );
        let (http, http_task) = served
            .await
            .map_err(|error| NodeError::Http { address, error })?;
        let checkpoints = start_checkpoints(&board, &config, &node);
        let direct = gossip.as_ref().and_then(|(handle, _)| handle.direct());
        let consensus = match engine {
            Engine::Solo => solo::start(consensus_keys(&keys), application, wake),
            Engine::Validators => {
                let settings = consensus_settings(home, &config, &application, direct);
                let keys = consensus_keys(&keys);
                tally_consensus::start_on(disk, settings, keys, application, wake)?
            }
        };
        let _ = node.consensus.set(consensus.watch());
        info!(name = %config.name, %chain, %grpc, %http, "node runs");
        Ok(Self {
            grpc,
            http,
            node,
            shutdown,
            consensus,
            gossip,
            rpc_task,
            http_task,
            _sweeper: sweeper,
            board,
            checkpoints,
            _lock: lock,
        })
    }

    /// Waits until `shutdown`, or until a fault, and stops the node in order.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
        let Self {
            consensus,
            gossip,
            mut rpc_task,
            mut http_task,
            board,
            mut checkpoints,
            shutdown: stop,
            ..
        } = self;
        let stopper = consensus.stopper();
        let joined = consensus.join();
        tokio::pin!(joined);
        let result = tokio::select! {
            () = shutdown => Ok(()),
            ended = &mut joined => match ended {
                Ok(()) => Err(NodeError::Ended("consensus")),
                Err(error) => Err(NodeError::Consensus(error)),
            },
            ended = &mut rpc_task => Err(match ended {
                Ok(Err(error)) => NodeError::Rpc(error),
                _ => NodeError::Ended("gRPC"),
            }),
            _ = &mut http_task => Err(NodeError::Ended("HTTP")),
            ended = checkpoints.join_next() => Err(match ended {
                Some(Ok(Err(fault))) => NodeError::Checkpoint(fault),
                _ => NodeError::Ended("signing checkpoints"),
            }),
        };
        if let Err(error) = &result {
            error!(%error, "the node stops");
        }
        let consensus_ended = matches!(&result, Err(NodeError::Consensus(_)))
            || matches!(&result, Err(NodeError::Ended("consensus")));
        stop.send_replace(true);
        checkpoints.abort_all();
        // What they had begun to write is written; nothing more will be.
        let _ = tokio::task::spawn_blocking(move || board.close()).await;
        stopper.stop();
        let mut result = result;
        if !consensus_ended {
            let ended = joined.await.map_err(NodeError::Consensus);
            result = result.and(ended);
        }
        if let Some((handle, task)) = gossip {
            handle.stop();
            let _ = timeout(DRAIN, task).await;
        }
        for task in [rpc_task.abort_handle(), http_task.abort_handle()] {
            // Calls that are still open then (watches) are cut.
            let deadline = tokio::time::Instant::now() + DRAIN;
            while !task.is_finished() && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            task.abort();
        }
        info!("node stopped");
        result
    }
}

fn consensus_keys(keys: &NodeKeys) -> Keys {
    Keys {
        consensus: keys.consensus.clone(),
        network: keys.network.clone(),
    }
}

fn consensus_settings(
    home: &Home,
    config: &NodeConfig,
    application: &NodeApplication,
    direct: Option<Direct>,
) -> ConsensusConfig {
    let listen = multiaddr(config.listen.consensus);
    let peers = config.consensus_peers();
    let mut settings = ConsensusConfig::new(&config.name, listen, peers, home.consensus());
    settings.direct = direct;
    let parameters = application.parameters();
    settings.max_block_bytes = crate::chain::MAX_BODY.min(4 << 20);
    settings.max_clock_error = Duration::from_millis(parameters.clock_error_ms.into());
    settings
}

/// Runs the node of a home until `shutdown`.
pub async fn run_node(
    home: &Home,
    engine: Engine,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    RunningNode::start(home, engine).await?.run(shutdown).await
}

/// Begins logging to stderr, as configured; `RUST_LOG` overrides the filter.
/// Does nothing if something else logs already.
pub fn start_logging(config: &Log) {
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _ = if config.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).try_init()
    };
}

/// A panic anywhere logs one line and aborts the process.
pub fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        error!(%panic, "a bug: the process stops; report it with this line");
        default(panic);
        std::process::abort();
    }));
}
