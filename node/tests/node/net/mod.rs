//! Nodes in this process, on loopback, with ports from the system: what the
//! tests of running nodes share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    future::Future,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tally_ledger::{
    action::{Action, BindApiKey, Debits, Issue, Lease, NewGrant, OpenAccount, OpenJournal},
    block::{Validator, ValidatorSet, vote_bytes},
    class::{Burn, ClassRules},
    codec::List,
    crypto::{ChainId, Domain, SecretKey},
    debit::{
        DEBIT_VERSION, Debit, Detail, FIRST_DEBIT_VERSION, Fixed, Flags, KIND_REQUEST, Position,
        Queued, batch_leaf,
    },
    evidence::{Evidence, Place, SignedVote, Vote},
    gateway::Caps,
    genesis::{GENESIS_VERSION, Genesis, GenesisGateway, GenesisPerson},
    hash::Hash,
    ids::*,
    merkle::{leaf_hash, root_of},
    parameters::Parameters,
    person::Roles,
    price::{Meter, Model, PriceTable, Usage},
    transaction::{Author, Body, Transaction},
};
use tally_node::{
    Engine, Home, NodeError, RunningNode,
    config::{Listen, NodeConfig, Peer, Storage},
    home::{HomeError, NodeKeys},
    storage::{Disk, RealDisk},
};
use tally_proto::{
    LoggedIn, Login,
    v1::{
        self, audit_service_client::AuditServiceClient, get_receipt_request::By,
        ledger_service_client::LedgerServiceClient,
    },
};
use tokio::{net::TcpSocket, sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;

pub type Ledger = LedgerServiceClient<Channel>;
pub type Audit = AuditServiceClient<Channel>;

pub const ISSUER: Person = Person(0);
pub const CHECKER: Person = Person(1);
pub const GATEWAY: GatewayNumber = GatewayNumber(0);
/// One compute token.
pub const CT: u64 = 1_000_000;

pub fn list<T: std::fmt::Debug, const MAX: usize>(items: Vec<T>) -> List<T, MAX> {
    List::new(items).unwrap()
}

/// The key of a person, gateway, holder or API key.
pub fn key(who: impl Into<Author>) -> SecretKey {
    let who = who.into();
    let mut seed = [7; 32];
    seed[0] = who.kind.into();
    seed[1..5].copy_from_slice(&who.number.to_le_bytes());
    SecretKey::from_seed(&seed)
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

/// A validator's prevotes for nil and for a block.
pub fn prevoted_twice(chain: &ChainId, key: &SecretKey, validator: u16, height: u64) -> Evidence {
    let place = Place {
        validator,
        height: Height(height),
        round: 0,
    };
    let pair = [None, Some(Hash([1; 32]))].map(|block| {
        let bytes = vote_bytes(place.height, 0, block.as_ref());
        let signature = key.sign(Domain::Prevote, chain, &bytes);
        SignedVote { block, signature }
    });
    Evidence::of_votes(place, Vote::Prevote, pair).unwrap()
}

/// Homes of a chain's validators.
pub struct Net {
    pub dir: tempfile::TempDir,
    pub genesis: Genesis,
    pub homes: Vec<Home>,
    /// Keep the nodes' addresses.
    _kept: Vec<TcpSocket>,
}

/// Caps that nothing reaches.
pub fn caps() -> Caps {
    let most = Amount(u64::MAX);
    Caps {
        open: most,
        open_account: most,
        hour: most,
        hour_account: most,
    }
}

fn genesis(validators: &[NodeKeys]) -> Genesis {
    let person = |number: u32, roles| GenesisPerson {
        key: key(Person(number)).public(),
        roles,
    };
    let roles = |number: u32| match number {
        0 | 1 => Roles::ISSUER,
        2 | 3 => Roles::ADMIN,
        _ => Roles::VALIDATOR,
    };
    let persons = 4 + validators.len() as u32;
    let validator = |(i, keys): (u32, &NodeKeys)| Validator {
        consensus_key: keys.consensus.public(),
        checkpoint_key: keys.checkpoint.public(),
        network_key: keys.network.public(),
        owner: Person(4 + i),
    };
    let most = Amount(u64::MAX);
    let class = ClassRules {
        name: "innovation".into(),
        models: List::default(),
        max_fee: Amount::ZERO,
        burn: Burn::Both,
        supply_cap: most,
        period_days: 30,
    };
    let meter = |name: &str, subset_of| Meter {
        name: name.into(),
        coefficient: 1000,
        subset_of,
    };
    let model = Model {
        number: ModelNumber(1),
        name: "tiny".into(),
        meters: list(vec![meter("input", None), meter("cached_input", Some(0))]),
        weight: 0,
        weight_coefficient: 0,
    };
    Genesis {
        version: GENESIS_VERSION,
        name: "test".into(),
        time: Time(now() - 1000),
        persons: list((0..persons).map(|i| person(i, roles(i))).collect()),
        validators: ValidatorSet(list((0..).zip(validators).map(validator).collect())),
        classes: list(vec![class]),
        prices: PriceTable {
            version: TableVersion(1),
            models: list(vec![model]),
        },
        parameters: Parameters {
            heartbeat_ms: 500,
            issuer_day_limit: most,
            issuer_day_account_limit: most,
            ..Parameters::default()
        },
        gateways: list(vec![GenesisGateway {
            key: key(GATEWAY).public(),
            caps: caps(),
        }]),
    }
}

/// A free address for who names it. The socket listens to nothing and keeps
/// it, so that nobody who asks for any free port is given this one.
fn free() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub fn real_disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

impl Net {
    pub fn new(validators: usize) -> Self {
        Self::with(
            validators,
            Storage {
                snapshot_every: 5,
                ..Storage::default()
            },
        )
    }

    pub fn with(validators: usize, storage: Storage) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let homes: Vec<_> = (0..validators)
            .map(|i| Home::new(dir.path().join(format!("v{i}"))))
            .collect();
        let keys: Vec<_> = homes.iter().map(|home| home.init().unwrap()).collect();
        let genesis = genesis(&keys);
        let (kept, at): (Vec<_>, Vec<_>) = (0..4 * validators).map(|_| free()).unzip();
        let peer = |i: usize| Peer {
            name: format!("v{i}"),
            network_key: keys[i].network.public(),
            consensus: at[4 * i],
            gossip: at[4 * i + 1],
        };
        for (i, home) in homes.iter().enumerate() {
            let listen = Listen {
                consensus: at[4 * i],
                gossip: at[4 * i + 1],
                grpc: at[4 * i + 2],
                http: at[4 * i + 3],
            };
            let peers = (0..validators)
                .filter(|other| *other != i)
                .map(peer)
                .collect();
            let mut config = NodeConfig::new(&format!("v{i}"), listen, peers);
            config.storage = storage;
            home.write_config(&config).unwrap();
            home.write_genesis(&genesis).unwrap();
        }
        Self {
            dir,
            genesis,
            homes,
            _kept: kept,
        }
    }

    pub fn chain(&self) -> ChainId {
        self.genesis.chain()
    }

    pub async fn start(&self, index: usize, engine: Engine) -> Running {
        self.start_on(real_disk(), index, engine).await
    }

    /// A node of a home that another one has just left. A program that some
    /// other test starts in this moment has all open files for a while, and
    /// with them their locks.
    pub async fn try_start(
        &self,
        disk: &Arc<dyn Disk>,
        index: usize,
        engine: Engine,
    ) -> Result<RunningNode, NodeError> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let started = RunningNode::start_on(disk.clone(), &self.homes[index], engine).await;
            match started {
                Err(NodeError::Home(HomeError::InUse(_))) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                started => return started,
            }
        }
    }

    pub async fn start_on(&self, disk: Arc<dyn Disk>, index: usize, engine: Engine) -> Running {
        let node = self.try_start(&disk, index, engine).await.unwrap();
        let (grpc, http) = (node.grpc, node.http);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(node.run(async move {
            let _ = stopped.await;
        }));
        let channel = Channel::from_shared(format!("http://{grpc}")).unwrap();
        let channel = channel.connect().await.unwrap();
        let ledger = LedgerServiceClient::new(channel.clone());
        let audit = AuditServiceClient::new(channel).max_decoding_message_size(64 << 20);
        Running {
            ledger,
            audit,
            grpc,
            http,
            stop,
            task,
        }
    }

    /// Changes a node's configuration before it starts.
    pub fn configure(&self, index: usize, change: impl FnOnce(&mut NodeConfig)) {
        let mut config = self.homes[index].config().unwrap();
        change(&mut config);
        self.homes[index].write_config(&config).unwrap();
    }

    /// A transaction of `signers`, author first.
    pub fn sign(&self, id: u8, signers: &[Author], action: Action) -> Transaction {
        let hour = (now() / HOUR_MS) as u32 + 24;
        let gateway = signers[0] == GATEWAY.into();
        let (id, until) = if gateway {
            ([0; 16], 0)
        } else {
            ([id; 16], hour)
        };
        self.sign_at(id, until, signers, action, Vec::new())
    }

    pub fn sign_at(
        &self,
        id: [u8; 16],
        until: u32,
        signers: &[Author],
        action: Action,
        payload: Vec<u8>,
    ) -> Transaction {
        let body = Body::new(signers[0], &signers[1..], id, until, action);
        let keys: Vec<_> = body.signers.iter().map(|signer| key(*signer)).collect();
        let keys: Vec<_> = keys.iter().collect();
        Transaction::sign(&self.chain(), &body, &keys, payload)
    }

    pub fn open_account(&self, number: u32) -> Transaction {
        let open = OpenAccount {
            unit: number,
            holder: key(AccountNumber(number)).public(),
            classes: list(vec![ClassNumber(0)]),
        };
        self.sign(
            number as u8 + 1,
            &[ISSUER.into()],
            Action::OpenAccount(open),
        )
    }

    pub fn issue(&self, account: u32, amount: u64) -> Transaction {
        let grant = NewGrant {
            account: AccountNumber(account),
            class: ClassNumber(0),
            amount: Amount(amount),
            vests: Time(0),
            expires: Time(now() + DAY_MS),
        };
        let action = Action::Issue(Issue {
            grants: list(vec![grant]),
        });
        self.sign(account as u8 + 100, &[ISSUER.into()], action)
    }

    pub fn bind(&self, account: u32) -> Transaction {
        let bind = BindApiKey {
            account: AccountNumber(account),
            key: key(ApiKeyNumber(account)).public(),
            models: List::default(),
            cap: Amount(u64::MAX),
            expires: Time(u64::MAX),
        };
        let signers = [AccountNumber(account).into()];
        self.sign(account as u8 + 1, &signers, Action::BindApiKey(bind))
    }

    pub fn open_journal(&self) -> Transaction {
        let open = OpenJournal {
            journal: JournalNumber(1),
            previous_intact: true,
        };
        self.sign(0, &[GATEWAY.into()], Action::OpenJournal(open))
    }

    pub fn lease(&self, number: u64, account: u32, wanted: u64) -> Transaction {
        let lease = Lease {
            journal: JournalNumber(1),
            number: LeaseNumber(number),
            account: AccountNumber(account),
            class: ClassNumber(0),
            api_key: ApiKeyNumber(account),
            wanted: Amount(wanted),
            worst_case: Amount(wanted),
            duration_ms: 600_000,
        };
        self.sign(
            0,
            &[GATEWAY.into(), ApiKeyNumber(account).into()],
            Action::Lease(lease),
        )
    }

    /// Gives account 0 ten times `leased`, an API key, and lease 1 of `leased`
    /// in journal 1.
    pub async fn prepare(&self, node: &Running, leased: u64) {
        node.finalise(self.open_account(0)).await;
        node.finalise(self.issue(0, 10 * leased)).await;
        node.finalise(self.bind(0)).await;
        node.finalise(self.open_journal()).await;
        node.finalise(self.lease(1, 0, leased)).await;
    }

    /// Debits `first..first + count` of journal 1, each of `input` tokens;
    /// debit n settles hold 1000 + n. Batches that begin with an odd number
    /// are of the first version.
    pub fn debits(
        &self,
        first: u64,
        count: u64,
        lease: u64,
        account: u32,
        input: u32,
    ) -> Transaction {
        let (mut payload, mut leaves) = (Vec::new(), Vec::new());
        let first_version = first % 2 == 1;
        for number in first..first + count {
            let fixed = Fixed {
                version: if first_version {
                    FIRST_DEBIT_VERSION
                } else {
                    DEBIT_VERSION
                },
                kind: KIND_REQUEST,
                flags: Flags(0),
                account: AccountNumber(account),
                class: ClassNumber(0),
                api_key: ApiKeyNumber(account),
                lease: LeaseNumber(lease),
                limit: Amount(u64::from(input) * 2),
                fee: Amount::ZERO,
            };
            let detail = Detail {
                salt: [number as u8; 16],
                model: ModelNumber(1),
                table: TableVersion(1),
                usage: Usage([input, 0, 0, 0, 0, 0]),
                hold_journal: JournalNumber(1),
                hold: 1000 + number,
                queued: (!first_version).then_some(Queued {
                    queue: 1,
                    joined: 2 * number,
                    dispatched: 1,
                }),
                ..Detail::default()
            };
            let position = Position {
                gateway: GATEWAY,
                journal: JournalNumber(1),
                number: DebitNumber(number),
            };
            leaves.push(leaf_hash(&batch_leaf(
                &position,
                &fixed.write(),
                &detail.hash(),
            )));
            Debit { fixed, detail }.write(&mut payload);
        }
        let action = Action::Debits(Debits {
            journal: JournalNumber(1),
            first: DebitNumber(first),
            count: count as u32,
            root: root_of(&leaves),
        });
        self.sign_at([0; 16], 0, &[GATEWAY.into()], action, payload)
    }
}

/// A node that runs, and its clients.
pub struct Running {
    pub ledger: Ledger,
    pub audit: Audit,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), tally_node::NodeError>>,
}

impl Running {
    pub async fn stop(self) {
        let Self {
            ledger,
            audit,
            stop,
            task,
            ..
        } = self;
        // With its clients gone the server has nothing to wait for.
        drop((ledger, audit, stop));
        task.await.unwrap().unwrap();
    }

    /// Whether it has stopped by itself.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Why it stopped by itself.
    pub async fn ended(self) -> tally_node::NodeError {
        self.task.await.unwrap().unwrap_err()
    }

    /// Hands a transaction in and waits until it is final.
    pub async fn finalise(&self, transaction: Transaction) -> v1::Finality {
        let response = submit(&self.ledger, transaction).await.unwrap();
        assert_eq!(response.outcome(), v1::Outcome::Final);
        response.finality.unwrap()
    }

    /// The receipt of a debit or hold.
    pub async fn receipt(&self, by: By) -> Result<v1::GetReceiptResponse, tonic::Status> {
        let request = v1::GetReceiptRequest { by: Some(by) };
        let answer = self.audit.clone().get_receipt(request).await?;
        Ok(answer.into_inner())
    }

    /// A connection of its own, with a small window, so that what is not read
    /// is soon not sent either.
    pub async fn channel(&self) -> Channel {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        let channel = channel.initial_stream_window_size(64 * 1024);
        channel.connect().await.unwrap()
    }

    /// The Audit service, asked as somebody.
    pub async fn audit_as(&self, login: Login) -> AuditServiceClient<LoggedIn> {
        let client = AuditServiceClient::with_interceptor(self.channel().await, login);
        client.max_decoding_message_size(64 << 20)
    }

    /// A page of its HTTP listener, head included.
    pub async fn page(&self, path: &'static str) -> String {
        let http = self.http;
        let get = move || {
            let mut stream = TcpStream::connect(http).unwrap();
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        tokio::task::spawn_blocking(get).await.unwrap()
    }

    pub async fn height(&self) -> u64 {
        let status = self
            .ledger
            .clone()
            .get_status(v1::GetStatusRequest {})
            .await;
        status.unwrap().into_inner().height
    }
}

/// The name of a debit of journal 1.
pub fn by_debit(number: u64) -> By {
    By::Debit(v1::DebitId {
        gateway: GATEWAY.0,
        journal: 1,
        number,
    })
}

/// The name of the hold that a debit of [`Net::debits`] settles.
pub fn by_hold(debit: u64) -> By {
    By::Hold(v1::HoldId {
        gateway: GATEWAY.0,
        journal: 1,
        number: 1000 + debit,
    })
}

pub async fn submit(
    ledger: &Ledger,
    transaction: Transaction,
) -> Result<v1::SubmitResponse, tonic::Status> {
    let request = v1::SubmitRequest {
        transaction: Some(transaction.into()),
        wait: v1::Wait::Final.into(),
        timeout_ms: 20_000,
    };
    ledger
        .clone()
        .submit(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Waits until `ready` says so, at most a minute and a half.
pub async fn until<F: Future<Output = bool>>(what: &str, mut ready: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !ready().await {
        assert!(Instant::now() < deadline, "{what}: not within 90 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
