//! The chain: every Submit is a block of its own, certified by one key; a
//! ticker makes empty blocks as heartbeats.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tally_gateway_adapter::clock::unix_ms;
use tally_ledger::{
    account::Account,
    action::{Action, BindApiKey, Issue, Lease, NewGrant, OpenAccount},
    block::{Certificate, Header, Validator, ValidatorSet, vote_bytes},
    certified::CertifiedHeader,
    class::{Burn, ClassRules, Totals},
    codec::List,
    crypto::{Domain, SecretKey},
    debit::{Debit, raw_debits},
    entry::{Entry, Receipt},
    execute::{Strict, admit, build},
    gateway::{Caps, Gateway},
    genesis::{GENESIS_VERSION, Genesis, GenesisGateway, GenesisPerson},
    ids::*,
    merkle::Levels,
    parameters::Parameters,
    person::Roles,
    price::{Meter, Model, PriceTable},
    rates::Rates,
    reason::Reason,
    receipt::ReceiptFile,
    state::{State, genesis_entry},
    transaction::{Author, AuthorKind, Body, Transaction},
};
use tally_proto::v1;
use tokio::sync::broadcast;

use super::nodes;

pub const MAIN: ClassNumber = ClassNumber(0);
pub const SPARE: ClassNumber = ClassNumber(1);
/// The largest priority fee of the spare class; the main class pays none.
pub const MAX_FEE: Amount = Amount(5_000);
/// Price per token of input and of output, in micro-CT.
pub const INPUT: u64 = 1;
pub const OUTPUT: u64 = 4;

pub fn list<T: std::fmt::Debug, const MAX: usize>(items: Vec<T>) -> List<T, MAX> {
    List::new(items).unwrap()
}

fn seed(kind: u8, number: u32) -> [u8; 32] {
    let mut seed = [9; 32];
    seed[0] = kind;
    seed[1..5].copy_from_slice(&number.to_le_bytes());
    seed
}

pub fn key_of(who: Author) -> SecretKey {
    SecretKey::from_seed(&seed(who.kind.into(), who.number))
}

pub fn gateway_key() -> SecretKey {
    key_of(GatewayNumber(0).into())
}

/// API key `number` as clients send it.
pub fn api_key_text(number: u32) -> String {
    tally_gateway_adapter::key::format(&seed(4, number)).to_string()
}

fn validator_key() -> SecretKey {
    SecretKey::from_seed(&[77; 32])
}

fn genesis() -> Genesis {
    let person = |number: u32, roles| GenesisPerson {
        key: key_of(Person(number).into()).public(),
        roles,
    };
    let meter = |name: &str, coefficient, subset_of| Meter {
        name: name.into(),
        coefficient,
        subset_of,
    };
    let rules = |name: &str| ClassRules {
        name: name.into(),
        models: List::default(),
        max_fee: Amount::ZERO,
        burn: Burn::IssuerOnly,
        supply_cap: Amount(u64::MAX),
        period_days: 1,
    };
    let unlimited = Caps {
        open: Amount(u64::MAX),
        open_account: Amount(u64::MAX),
        hour: Amount(u64::MAX),
        hour_account: Amount(u64::MAX),
    };
    Genesis {
        version: GENESIS_VERSION,
        name: "test".into(),
        time: Time(unix_ms() - 1_000),
        persons: list(vec![
            person(0, Roles::ISSUER),
            person(1, Roles::ISSUER),
            person(2, Roles::ADMIN),
            person(3, Roles::ADMIN),
            person(4, Roles::VALIDATOR),
        ]),
        validators: ValidatorSet(list(vec![Validator {
            consensus_key: validator_key().public(),
            checkpoint_key: SecretKey::from_seed(&[78; 32]).public(),
            network_key: SecretKey::from_seed(&[79; 32]).public(),
            owner: Person(4),
        }])),
        classes: list(vec![
            rules("main"),
            ClassRules {
                max_fee: MAX_FEE,
                ..rules("spare")
            },
        ]),
        prices: PriceTable {
            version: TableVersion(1),
            models: list(vec![Model {
                number: ModelNumber(1),
                name: "m".into(),
                meters: list(vec![
                    meter("input", INPUT * 1_000, None),
                    meter("cached_input", INPUT * 500, Some(0)),
                    meter("output", OUTPUT * 1_000, None),
                    meter("reasoning", OUTPUT * 1_000, Some(2)),
                ]),
                weight: 0,
                weight_coefficient: 0,
            }]),
        },
        parameters: Parameters {
            heartbeat_ms: 100,
            lease_grace_ms: 600_000,
            issuer_day_limit: Amount(u64::MAX),
            issuer_day_account_limit: Amount(u64::MAX),
            ..Parameters::default()
        },
        gateways: list(
            (0..3)
                .map(|number| GenesisGateway {
                    key: key_of(GatewayNumber(number).into()).public(),
                    caps: unlimited,
                })
                .collect(),
        ),
    }
}

/// What is known of the chain.
pub struct Inner {
    pub state: State,
    pub log: Levels,
    pub entries: Vec<Entry>,
    pub header: Option<(Header, Certificate)>,
    pub finalities: HashMap<tally_ledger::hash::Hash, v1::Finality>,
    /// Every debit that was executed, in order.
    pub debits: Vec<Debit>,
    next_id: u64,
}

/// A chain and its nodes.
pub struct Chain {
    pub genesis: Genesis,
    pub inner: Mutex<Inner>,
    pub blocks: broadcast::Sender<v1::WatchResponse>,
    pub nodes: Vec<SocketAddr>,
    /// All validators are down.
    pub down: AtomicBool,
    /// One of the nodes is.
    pub gone: [AtomicBool; 2],
    /// The nodes lose the answers to Submit.
    pub mute: AtomicBool,
    /// The nodes do not answer about parameters and rates.
    pub withholds_parameters: AtomicBool,
    /// A Submit takes until this is over.
    pub slow: AtomicBool,
    /// Submits under way, and the most at once.
    pub submitting: AtomicUsize,
    pub most_submitting: AtomicUsize,
    /// The nodes refuse all debits for this.
    pub refuse_debits: Mutex<Option<Reason>>,
}

impl Chain {
    /// A chain with account 0, its API key 0 and `amount` of the main class.
    pub async fn start(amount: u64) -> Arc<Chain> {
        let genesis = genesis();
        let state = State::genesis(&genesis).unwrap();
        let first = genesis_entry(*state.chain());
        let mut listeners = Vec::new();
        for _ in 0..2 {
            listeners.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let chain = Arc::new(Chain {
            inner: Mutex::new(Inner {
                state,
                log: Levels::of([first.leaf_hash()]),
                entries: vec![first],
                header: None,
                finalities: HashMap::new(),
                debits: Vec::new(),
                next_id: 0,
            }),
            genesis,
            blocks: broadcast::channel(1_000).0,
            nodes: listeners.iter().map(|l| l.local_addr().unwrap()).collect(),
            down: AtomicBool::new(false),
            gone: Default::default(),
            mute: AtomicBool::new(false),
            withholds_parameters: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            submitting: AtomicUsize::new(0),
            most_submitting: AtomicUsize::new(0),
            refuse_debits: Mutex::new(None),
        });
        chain.block(None).unwrap();
        chain.open_account();
        if amount > 0 {
            chain.issue(0, MAIN, amount);
        }
        chain.bind(0);
        for (place, listener) in listeners.into_iter().enumerate() {
            tokio::spawn(nodes::serve(listener, chain.clone(), place));
        }
        let ticker = Arc::downgrade(&chain);
        tokio::spawn(async move {
            while let Some(chain) = ticker.upgrade() {
                if !chain.down.load(Ordering::Relaxed) {
                    chain.block(None).unwrap();
                }
                drop(chain);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        chain
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Makes a block of one transaction, or of none.
    pub fn block(&self, transaction: Option<&Transaction>) -> Result<v1::Finality, Reason> {
        let mut inner = self.inner.lock().unwrap();
        let now = Time(unix_ms());
        if let Some(transaction) = transaction {
            if let Some(finality) = inner.finalities.get(&transaction.id()) {
                return Ok(finality.clone());
            }
            admit(&inner.state, now, transaction, &Strict)?;
        }
        let built = build(&inner.state, now, 0, transaction, &Strict);
        if let Some((_, reason)) = built.refused.first() {
            return Err(*reason);
        }
        let first = inner.entries.len() as u64;
        for hash in built.execution.leaf_hashes() {
            inner.log.append(*hash);
        }
        let header = built.block.header;
        let entries = inner.state.commit(built.execution);
        let vote = vote_bytes(header.height, 0, Some(&header.id()));
        let signature = validator_key().sign(Domain::Precommit, &header.chain, &vote);
        let certificate = Certificate {
            round: 0,
            precommits: list(vec![(0, signature)]),
        };
        let mut finality = v1::Finality {
            height: header.height.0,
            time: header.time.0,
            ..Default::default()
        };
        let mut control = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            if let Entry::Event(leaf, event) = entry {
                let proto = v1::Entry::new(first + i as u64, entry);
                if leaf.control > 0
                    || matches!(event, tally_ledger::entry::Event::LeaseEnded { .. })
                {
                    control.push(proto.clone());
                }
                finality.entries.push(proto);
            }
        }
        inner.entries.extend(entries);
        inner.header = Some((header, certificate.clone()));
        if let Some(transaction) = transaction {
            inner.finalities.insert(transaction.id(), finality.clone());
            if matches!(
                Body::decode(&transaction.body).unwrap().action,
                Action::Debits(_)
            ) {
                let debits = raw_debits(&transaction.payload).map(|raw| raw.read().unwrap());
                inner.debits.extend(debits);
            }
        }
        // Nobody may be watching.
        let _ = self.blocks.send(v1::WatchResponse {
            header: Some(v1::CertifiedHeader::new(&header, &certificate)),
            first_entry: first,
            entries: control,
            more: false,
        });
        Ok(finality)
    }

    /// An action, signed by all that must.
    pub fn act(&self, author: impl Into<Author>, others: &[Author], action: Action) {
        let (id, chain) = {
            let mut inner = self.inner.lock().unwrap();
            inner.next_id += 1;
            (inner.next_id, *inner.state.chain())
        };
        let author = author.into();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        let counted = author.kind == AuthorKind::Gateway;
        let (bytes, valid_until) = match counted {
            true => ([0; 16], 0),
            false => (bytes, Time(unix_ms()).hour() + 2),
        };
        let body = Body::new(author, others, bytes, valid_until, action);
        let keys: Vec<SecretKey> = body.signers.iter().map(|signer| key_of(*signer)).collect();
        let keys: Vec<&SecretKey> = keys.iter().collect();
        self.block(Some(&Transaction::sign(&chain, &body, &keys, Vec::new())))
            .unwrap();
    }

    /// As the gateway under test.
    pub fn act_as_gateway(&self, action: Action) {
        self.act(GatewayNumber(0), &[], action);
    }

    /// A lease of the gateway under test, signed by its API key.
    pub fn lease(&self, lease: Lease) {
        let signers = [lease.api_key.into()];
        self.act(GatewayNumber(0), &signers, Action::Lease(lease));
    }

    /// Two issuers.
    pub fn by_issuers(&self, action: Action) {
        self.act(Person(0), &[Person(1).into()], action);
    }

    /// Two admins.
    pub fn by_admins(&self, action: Action) {
        self.act(Person(2), &[Person(3).into()], action);
    }

    pub fn set_rates(&self, rates: &Rates) {
        self.by_admins(Action::SetRates(rates.clone()));
    }

    pub fn suspend(&self, gateway: u32) {
        self.by_admins(Action::SuspendGateway(GatewayNumber(gateway)));
    }

    /// Waits until the gateway at `to` has applied everything so far.
    pub async fn followed(&self, to: SocketAddr) {
        let now = self.inner.lock().unwrap().state.height().0 as i64;
        let height = async || super::metric(to, "tally_gateway_chain_height").await;
        let deadline = tokio::time::Instant::now() + super::DEADLINE;
        // A look at a later height begins when the one before it is done.
        let mut seen = 0;
        while seen <= now {
            assert!(tokio::time::Instant::now() < deadline, "it does not follow");
            tokio::time::sleep(Duration::from_millis(20)).await;
            seen = height().await;
        }
        while height().await <= seen {
            assert!(tokio::time::Instant::now() < deadline, "it does not follow");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn open_account(&self) -> AccountNumber {
        let number = self.inner.lock().unwrap().state.accounts().len() as u32;
        self.by_issuers(Action::OpenAccount(OpenAccount {
            unit: 0,
            holder: key_of(AccountNumber(number).into()).public(),
            classes: list(vec![MAIN, SPARE]),
        }));
        AccountNumber(number)
    }

    pub fn issue(&self, account: u32, class: ClassNumber, amount: u64) {
        let grant = NewGrant {
            account: AccountNumber(account),
            class,
            amount: Amount(amount),
            vests: Time(0),
            expires: Time(unix_ms() + DAY_MS),
        };
        self.by_issuers(Action::Issue(Issue {
            grants: list(vec![grant]),
        }));
    }

    pub fn bind(&self, account: u32) -> ApiKeyNumber {
        let number = self.inner.lock().unwrap().state.api_keys().len() as u32;
        self.by_issuers(Action::BindApiKey(BindApiKey {
            account: AccountNumber(account),
            key: key_of(ApiKeyNumber(number).into()).public(),
            models: List::default(),
            cap: Amount(u64::MAX),
            expires: Time(u64::MAX),
        }));
        ApiKeyNumber(number)
    }

    pub fn account(&self, number: u32) -> Account {
        self.inner.lock().unwrap().state.accounts()[number as usize].clone()
    }

    pub fn gateway(&self) -> Gateway {
        self.inner.lock().unwrap().state.gateways()[0]
    }

    /// Totals of a class of an account.
    pub fn totals(&self, account: u32, class: ClassNumber) -> Totals {
        let account = self.account(account);
        let found = account.totals.iter().find(|(c, _)| *c == class);
        found.map_or_else(Totals::default, |(_, totals)| *totals)
    }

    /// Totals of account 0's main class.
    pub fn main(&self) -> Totals {
        self.totals(0, MAIN)
    }

    pub fn receipts(&self) -> Vec<Receipt> {
        let inner = self.inner.lock().unwrap();
        let receipts = inner.entries.iter().filter_map(|entry| match entry {
            Entry::Receipt(receipt) => Some(*receipt),
            Entry::Event(..) => None,
        });
        receipts.collect()
    }

    /// The receipt of a hold as a node proves it, under the last header.
    pub fn receipt_file(&self, hold: &v1::HoldId) -> Option<ReceiptFile> {
        let inner = self.inner.lock().unwrap();
        let receipts = (0..)
            .zip(&inner.entries)
            .filter_map(|(index, entry)| match entry {
                Entry::Receipt(receipt) => Some((index, *receipt)),
                Entry::Event(..) => None,
            });
        let mut debits = receipts.zip(&inner.debits);
        let ((index, receipt), debit) = debits.find(|((_, receipt), debit)| {
            let gateway = receipt.position.gateway.0;
            let detail = &debit.detail;
            (gateway, detail.hold_journal.0, detail.hold)
                == (hold.gateway, hold.journal, hold.number)
        })?;
        let (header, certificate) = inner.header.clone()?;
        let path = inner.log.inclusion(index, header.log_size)?;
        Some(ReceiptFile {
            certified: CertifiedHeader {
                header,
                certificate,
                set_changes: List::default(),
            },
            index,
            receipt,
            path: list(path),
            detail: Some(debit.detail),
            debit: None,
            prices: None,
        })
    }

    /// The debits that were executed.
    pub fn debits(&self) -> Vec<Debit> {
        self.inner.lock().unwrap().debits.clone()
    }

    /// The one receipt, with its debit; waits for it.
    pub async fn only_receipt(&self) -> (Receipt, Debit) {
        super::until("a receipt", || !self.receipts().is_empty()).await;
        assert_eq!(self.receipts().len(), 1);
        (self.receipts()[0], self.debits()[0])
    }

    /// Each hold was settled once, and nothing was lost to the gateway.
    pub fn check(&self) {
        let mut holds: Vec<_> = self
            .debits()
            .iter()
            .zip(self.receipts())
            .map(|(debit, receipt)| {
                let gateway = receipt.position.gateway;
                (gateway, debit.detail.hold_journal, debit.detail.hold)
            })
            .collect();
        let count = holds.len();
        holds.sort_unstable();
        holds.dedup();
        assert_eq!(holds.len(), count, "a hold was settled twice");
        let totals = self.main();
        assert!(totals.are_conserved());
    }
}
