//! Nodes in one process with an application that only counts.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tally_consensus::{
    Application, Candidate, Config, ConsensusError, Decision, Effort, Fatal, Guard, Handle, Keys,
    Mode, Multiaddr, Pace, PeerId, Slot, Source, Status, Timeouts, Verdict, Wake,
};
use tally_ledger::{
    block::{Validator, ValidatorSet},
    codec::List,
    crypto::{ChainId, SecretKey},
    evidence::Evidence,
    hash::Hash,
    ids::{Height, Person, Time},
};
use tokio::net::TcpSocket;

pub(crate) const CHAIN: ChainId = ChainId(Hash([7; 32]));
pub(crate) const MAX_BLOCK: usize = 4 << 20;

/// What survives a restart: the fake of a node's block file.
#[derive(Default)]
pub(crate) struct Chain {
    pub(crate) blocks: Vec<Decision>,
}

/// Knobs and counters of one node.
#[derive(Default)]
pub(crate) struct Knobs {
    /// Blocks follow each other without waiting.
    pub(crate) busy: AtomicBool,
    /// There is work up to this height.
    pub(crate) target: AtomicU64,
    /// Bytes of a block.
    pub(crate) bytes: AtomicU64,
    /// Fails the next commit.
    pub(crate) broken: AtomicBool,
    /// Executes blocks to other roots than the others do.
    pub(crate) diverges: AtomicBool,
    /// Calls of `validate`, by source: live, restreamed, synced, replayed.
    pub(crate) validated: [AtomicU64; 4],
    /// When blocks were proposed here.
    pub(crate) proposed: Mutex<BTreeMap<u64, Instant>>,
    /// When blocks were committed here.
    pub(crate) committed: Mutex<BTreeMap<u64, Instant>>,
    pub(crate) evidence: AtomicU64,
}

/// A block is: height, round, proposer's seed, zeros; its time counts seconds
/// by height from `epoch`.
pub(crate) struct Counter {
    pub(crate) chain: Arc<Mutex<Chain>>,
    pub(crate) knobs: Arc<Knobs>,
    pub(crate) validators: ValidatorSet,
    pub(crate) epoch: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) last: Instant,
}

/// First bytes of a block's other form: its id and whether it is true follow.
pub(crate) const OTHER_FORM: &[u8; 16] = b"another form of ";

/// Another form of a block.
pub(crate) fn other_form(id: Hash, is_true: bool) -> Vec<u8> {
    [&OTHER_FORM[..], id.as_bytes(), &[u8::from(is_true)]].concat()
}

pub(crate) fn body_id(body: &[u8]) -> Hash {
    Hash(*blake3::hash(body).as_bytes())
}

impl Counter {
    fn check(&self, body: &[u8]) -> Result<(), String> {
        if self.knobs.diverges.load(Ordering::Relaxed) {
            return Err("the header's state root is 01, execution makes it 02".into());
        }
        let next = self.committed().0 + 1;
        if let Some(rest) = body.strip_prefix(OTHER_FORM) {
            return match rest[32] {
                1 => Ok(()),
                _ => Err("it says what is not true".into()),
            };
        }
        match body.first_chunk().map(|h| u64::from_le_bytes(*h)) {
            Some(height) if height == next => Ok(()),
            other => Err(format!("height {other:?} instead of {next}")),
        }
    }
}

impl Application for Counter {
    fn chain(&self) -> ChainId {
        CHAIN
    }

    fn committed(&self) -> Height {
        Height(self.chain.lock().unwrap().blocks.len() as u64)
    }

    fn validators(&self, _: Height) -> ValidatorSet {
        self.validators.clone()
    }

    fn propose(&mut self, slot: Slot, effort: Effort) -> Result<Candidate, Fatal> {
        assert_eq!(slot.height.0, self.committed().0 + 1);
        let mut body = Vec::new();
        body.extend_from_slice(&slot.height.0.to_le_bytes());
        body.extend_from_slice(&slot.round.to_le_bytes());
        body.extend_from_slice(&slot.proposer.to_le_bytes());
        if effort == Effort::Full {
            let bytes = self.knobs.bytes.load(Ordering::Relaxed) as usize;
            body.resize(body.len().max(bytes), 0);
        }
        let now = Instant::now();
        self.knobs
            .proposed
            .lock()
            .unwrap()
            .entry(slot.height.0)
            .or_insert(now);
        Ok(Candidate {
            id: body_id(&body),
            body: body.into(),
        })
    }

    fn id(&self, body: &Bytes) -> Option<Hash> {
        let whole = body.len() >= 14 && !body.starts_with(OTHER_FORM);
        whole.then(|| body_id(body))
    }

    fn certified_id(&self, body: &Bytes) -> Option<Hash> {
        let id = body.strip_prefix(OTHER_FORM)?.first_chunk()?;
        Some(Hash(*id))
    }

    fn validate(&mut self, _: Slot, body: &Bytes, source: Source) -> Result<Verdict, Fatal> {
        let counter = match source {
            Source::Live { .. } => 0,
            Source::Restreamed => 1,
            Source::Synced => 2,
            Source::Replayed => 3,
        };
        self.knobs.validated[counter].fetch_add(1, Ordering::Relaxed);
        Ok(self
            .check(body)
            .map_or_else(Verdict::Invalid, |()| Verdict::Valid))
    }

    fn commit(&mut self, decision: Decision) -> Result<Time, Fatal> {
        if self.knobs.broken.load(Ordering::Relaxed) {
            return Err(Fatal::new("the disk is full"));
        }
        self.check(&decision.body).map_err(Fatal::new)?;
        let id = self.id(&decision.body);
        assert_eq!(id.or(self.certified_id(&decision.body)), Some(decision.id));
        decision
            .certificate
            .verify(&CHAIN, decision.height, &decision.id, &self.validators)
            .unwrap();
        let height = decision.height.0;
        self.chain.lock().unwrap().blocks.push(decision);
        self.last = Instant::now();
        self.knobs
            .committed
            .lock()
            .unwrap()
            .insert(height, self.last);
        Ok(Time(self.epoch + height * 1000))
    }

    fn history(
        &mut self,
        range: RangeInclusive<Height>,
        max_bytes: usize,
    ) -> Result<Vec<Decision>, Fatal> {
        let chain = self.chain.lock().unwrap();
        let first = range.start().0 as usize - 1;
        let last = (range.end().0 as usize).min(chain.blocks.len());
        let mut bytes = 0;
        let fits = |decision: &&Decision| {
            let first = bytes == 0;
            bytes += decision.body.len();
            first || bytes <= max_bytes
        };
        Ok(chain.blocks[first..last]
            .iter()
            .take_while(fits)
            .cloned()
            .collect())
    }

    fn history_min(&self) -> Height {
        Height(1)
    }

    fn pace(&self) -> Pace {
        let target = self.knobs.target.load(Ordering::Relaxed);
        let work = self.knobs.busy.load(Ordering::Relaxed) || self.committed().0 < target;
        Pace {
            work,
            earliest: None,
            latest: self.last + self.heartbeat,
        }
    }

    fn evidence(&mut self, seen: Vec<Evidence>) -> Result<(), Fatal> {
        let seen = seen.len() as u64;
        self.knobs.evidence.fetch_add(seen, Ordering::Relaxed);
        Ok(())
    }
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as u64
}

pub(crate) fn keys(n: u8) -> Keys {
    Keys {
        consensus: SecretKey::from_seed(&[n + 1; 32]),
        network: SecretKey::from_seed(&[n + 101; 32]),
    }
}

pub(crate) fn validators(count: u8) -> ValidatorSet {
    let validator = |n| {
        let keys = keys(n);
        Validator {
            consensus_key: keys.consensus.public(),
            checkpoint_key: keys.consensus.public(),
            network_key: keys.network.public(),
            owner: Person(u32::from(n)),
        }
    };
    ValidatorSet(List::new((0..count).map(validator).collect()).unwrap())
}

/// Addresses for who names them. Sockets that listen to nothing keep them until
/// this process ends, so that nobody who asks for any free port is given one.
pub(crate) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    static KEPT: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let free = |_| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        KEPT.lock().unwrap().push(socket);
        address
    };
    (0..count).map(free).collect()
}

/// An address as libp2p writes it.
pub(crate) fn multiaddr(address: SocketAddr, peer: Option<PeerId>) -> Multiaddr {
    let peer = peer.map_or(String::new(), |peer| format!("/p2p/{peer}"));
    format!("/ip4/{}/tcp/{}{peer}", address.ip(), address.port())
        .parse()
        .unwrap()
}

/// One node, running or not.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) home: PathBuf,
    pub(crate) chain: Arc<Mutex<Chain>>,
    pub(crate) knobs: Arc<Knobs>,
    pub(crate) wake: Wake,
    pub(crate) config: Config,
    pub(crate) count: u8,
    pub(crate) epoch: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) handle: Option<Handle>,
}

impl Node {
    pub(crate) fn application(&self) -> Counter {
        Counter {
            chain: self.chain.clone(),
            knobs: self.knobs.clone(),
            validators: validators(self.count),
            epoch: self.epoch,
            heartbeat: self.heartbeat,
            last: Instant::now(),
        }
    }

    pub(crate) fn start(&mut self) {
        let (keys, config) = (keys(self.number), self.config.clone());
        let handle = tally_consensus::start(config, keys, self.application(), self.wake.clone());
        self.handle = Some(handle.unwrap());
    }

    /// The fault that it ended with.
    pub(crate) async fn fault(&mut self) -> ConsensusError {
        self.wait("bad health", |status| status.unhealthy.is_some())
            .await;
        let said = self.status().unhealthy.unwrap();
        let error = self.handle.take().unwrap().join().await.unwrap_err();
        assert_eq!(error.to_string(), said, "its health says the same");
        error
    }

    pub(crate) async fn stop(&mut self) {
        self.handle.take().unwrap().shutdown().await.unwrap();
    }

    pub(crate) fn status(&self) -> Status {
        self.handle.as_ref().unwrap().status()
    }

    /// Loses everything on its disk.
    pub(crate) fn wipe(&mut self) {
        std::fs::remove_dir_all(&self.home).unwrap();
        std::fs::create_dir_all(&self.home).unwrap();
        self.chain.lock().unwrap().blocks.clear();
    }

    /// The mode that it has once the engine runs.
    pub(crate) async fn first_mode(&self) -> Mode {
        self.wait("peers", |status| status.peers > 0).await;
        self.status().mode
    }

    pub(crate) fn height(&self) -> u64 {
        self.chain.lock().unwrap().blocks.len() as u64
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn wait(&self, what: &str, wanted: impl Fn(&Status) -> bool) {
        let mut watch = self.handle.as_ref().unwrap().watch();
        let result = tokio::time::timeout(Duration::from_secs(90), watch.wait_for(wanted)).await;
        let failed = !matches!(result, Ok(Ok(_)));
        assert!(
            !failed,
            "node {}: {what}: not reached, {:?}",
            self.number,
            self.status()
        );
    }

    pub(crate) async fn wait_height(&self, height: u64) {
        self.wait("height", |status| status.committed.0 >= height)
            .await;
    }
}

/// A network of `count` nodes that are not running yet, with guard files.
pub(crate) fn network(folder: &Path, name: &str, count: u8) -> Vec<Node> {
    // For a look at a failure: RUST_LOG=tally_consensus=debug.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_ansi(false)
        .with_test_writer()
        .try_init();
    let free = free_addresses(count as usize);
    let address = |n: u8| multiaddr(free[usize::from(n)], Some(keys(n).peer_id()));
    let node = |number: u8| {
        let home = folder.join(format!("{name}{number}"));
        std::fs::create_dir_all(&home).unwrap();
        Guard::create(&home, CHAIN, keys(number).consensus.public()).unwrap();
        let listen = multiaddr(free[usize::from(number)], None);
        let peers = (0..count).filter(|n| *n != number).map(address).collect();
        let mut config = Config::new(&format!("{name}{number}"), listen, peers, home.clone());
        config.max_block_bytes = MAX_BLOCK;
        config.timeouts = Timeouts {
            propose: Duration::from_millis(500),
            vote: Duration::from_millis(200),
            rebroadcast: Duration::from_millis(500),
            ..Timeouts::default()
        };
        Node {
            number,
            home,
            chain: Arc::default(),
            knobs: Arc::default(),
            wake: Wake::new(),
            config,
            count,
            epoch: 0,
            heartbeat: Duration::from_millis(200),
            handle: None,
        }
    };
    (0..count).map(node).collect()
}

/// No two nodes have different blocks at one height.
pub(crate) fn assert_agreement(nodes: &[Node]) {
    let longest = nodes.iter().max_by_key(|node| node.height()).unwrap();
    let longest = longest.chain.lock().unwrap().blocks.clone();
    for node in nodes {
        for block in &node.chain.lock().unwrap().blocks {
            let other = &longest[block.height.0 as usize - 1];
            assert_eq!((block.id, &block.body), (other.id, &other.body));
        }
    }
}
