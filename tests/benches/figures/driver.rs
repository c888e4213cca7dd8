//! The load: accounts with grants and API keys, and a gateway that signs
//! batches of debits by itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tally_ledger::{
    action::{Action, BindApiKey, Debits, Issue, Lease, NewGrant, OpenAccount, OpenJournal},
    codec::List,
    crypto::{ChainId, SecretKey},
    debit::{
        DEBIT_VERSION, Debit, Detail, Fixed, Flags, KIND_REQUEST, Position, Queued, batch_leaf,
    },
    hash::Hash,
    ids::{
        AccountNumber, Amount, ApiKeyNumber, ClassNumber, DebitNumber, GatewayNumber, HOUR_MS,
        JournalNumber, LeaseNumber, ModelNumber, TableVersion, Time,
    },
    merkle,
    price::Usage,
    transaction::{Author, Body, Transaction},
};
use tally_proto::v1::{
    Outcome, SubmitRequest, SubmitResponse, Wait, entry::Fact,
    ledger_service_client::LedgerServiceClient,
};
use tonic::transport::Channel;

use crate::cluster::{Cluster, Key};

/// Accounts that the load spreads over.
const ACCOUNTS: u32 = 64;
/// The class and model of the load.
const CLASS: ClassNumber = ClassNumber(0);
const MODEL: ModelNumber = ModelNumber(1);

/// An account of the load.
pub(crate) struct Account {
    pub(crate) number: AccountNumber,
    pub(crate) api_key: ApiKeyNumber,
    pub(crate) secret: SecretKey,
    lease: LeaseNumber,
}

/// Signs for everybody.
pub(crate) struct Driver {
    chain: ChainId,
    gateway: Key,
    journal: JournalNumber,
    next: u64,
    next_id: u64,
    pub(crate) accounts: Vec<Account>,
    pub(crate) ledger: LedgerServiceClient<Channel>,
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

/// Submits a transaction and waits for its block.
pub(crate) async fn submit(
    mut ledger: LedgerServiceClient<Channel>,
    transaction: Transaction,
    wait: Wait,
) -> SubmitResponse {
    let request = SubmitRequest {
        transaction: Some(transaction.into()),
        wait: wait.into(),
        timeout_ms: 30_000,
    };
    let answer = ledger.submit(request).await.unwrap().into_inner();
    assert_ne!(answer.outcome(), Outcome::Unknown, "not final within 30 s");
    answer
}

impl Driver {
    /// The header by which account `i`, or that many further round, asks.
    pub(crate) fn bearer(&self, i: usize) -> String {
        let account = &self.accounts[i % self.accounts.len()];
        format!("Bearer tally-{}", hex::encode(account.secret.seed()))
    }

    /// Accounts with keys and grants, and nothing of the gateway.
    pub(crate) async fn prepare_accounts(cluster: &Cluster) -> Self {
        let mut driver = Driver {
            chain: cluster.genesis.chain(),
            gateway: cluster.key("gateway-0"),
            journal: JournalNumber(1),
            next: 1,
            next_id: 1,
            accounts: Vec::new(),
            ledger: cluster.ledger(0).await,
        };
        let issuers = [cluster.key("issuer-0"), cluster.key("issuer-1")];
        for i in 0..ACCOUNTS {
            driver.open(i, &issuers).await;
        }
        driver
    }

    /// The same with an open journal and one large lease per account.
    pub(crate) async fn prepare(cluster: &Cluster) -> Self {
        let mut driver = Self::prepare_accounts(cluster).await;
        let open = OpenJournal {
            journal: JournalNumber(1),
            previous_intact: true,
        };
        driver.as_gateway(Action::OpenJournal(open), None).await;
        for i in 0..driver.accounts.len() {
            driver.lease(i).await;
        }
        driver
    }

    fn body(&mut self, author: Author, others: &[Author], action: Action) -> Body {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next_id.to_le_bytes());
        self.next_id += 1;
        let valid_until = (now_ms() / HOUR_MS) as u32 + 2;
        Body::new(author, others, id, valid_until, action)
    }

    async fn as_persons(&mut self, keys: &[&Key], action: Action) -> SubmitResponse {
        let authors: Vec<Author> = keys
            .iter()
            .map(|key| tally_ledger::ids::Person(key.number).into())
            .collect();
        let body = self.body(authors[0], &authors[1..], action);
        let secrets: Vec<&SecretKey> = keys.iter().map(|key| &key.secret).collect();
        let transaction = Transaction::sign(&self.chain, &body, &secrets, Vec::new());
        submit(self.ledger.clone(), transaction, Wait::Final).await
    }

    async fn as_gateway(&mut self, action: Action, api_key: Option<usize>) -> SubmitResponse {
        let author: Author = GatewayNumber(self.gateway.number).into();
        let account = api_key.map(|i| &self.accounts[i]);
        let others: Vec<Author> = account
            .iter()
            .map(|account| account.api_key.into())
            .collect();
        let body = Body::new(author, &others, [0; 16], 0, action);
        let mut keys = vec![&self.gateway.secret];
        keys.extend(account.map(|account| &account.secret));
        let transaction = Transaction::sign(&self.chain, &body, &keys, Vec::new());
        submit(self.ledger.clone(), transaction, Wait::Final).await
    }

    async fn open(&mut self, i: u32, issuers: &[Key; 2]) {
        let secret = SecretKey::from_seed(&[i as u8 + 1; 32]);
        let open = OpenAccount {
            unit: i % 8,
            holder: SecretKey::from_seed(&[i as u8 + 101; 32]).public(),
            classes: List::new(vec![CLASS]).unwrap(),
        };
        let opened = self
            .as_persons(&[&issuers[0]], Action::OpenAccount(open))
            .await;
        let Some(Fact::Event(event)) = &opened.finality.unwrap().entries[0].fact else {
            panic!("an account is an event");
        };
        let account = AccountNumber(event.account.unwrap());
        let grant = NewGrant {
            account,
            class: CLASS,
            amount: Amount(1_000_000_000_000_000),
            vests: Time(0),
            expires: Time(now_ms() + 24 * HOUR_MS),
        };
        let issue = Issue {
            grants: List::new(vec![grant]).unwrap(),
        };
        self.as_persons(&[&issuers[0], &issuers[1]], Action::Issue(issue))
            .await;
        let bind = BindApiKey {
            account,
            key: secret.public(),
            models: List::default(),
            cap: Amount(u64::MAX),
            expires: Time(u64::MAX),
        };
        let bound = self
            .as_persons(&[&issuers[0], &issuers[1]], Action::BindApiKey(bind))
            .await;
        let Some(Fact::Event(event)) = &bound.finality.unwrap().entries[0].fact else {
            panic!("a key is an event");
        };
        let api_key = ApiKeyNumber(event.api_key.unwrap());
        self.accounts.push(Account {
            number: account,
            api_key,
            secret,
            lease: LeaseNumber(0),
        });
    }

    async fn lease(&mut self, i: usize) {
        let number = LeaseNumber(i as u64 + 1);
        let lease = Lease {
            journal: self.journal,
            number,
            account: self.accounts[i].number,
            class: CLASS,
            api_key: self.accounts[i].api_key,
            wanted: Amount(400_000_000_000_000),
            worst_case: Amount(1_000_000),
            duration_ms: u32::MAX,
        };
        self.as_gateway(Action::Lease(lease), Some(i)).await;
        self.accounts[i].lease = number;
    }

    /// The next `count` debits, signed.
    pub(crate) fn batch(&mut self, count: u32) -> Transaction {
        let first = self.next;
        self.next += u64::from(count);
        let mut payload = Vec::with_capacity(count as usize * tally_ledger::debit::RECORD_BYTES);
        let mut leaves = Vec::with_capacity(count as usize);
        for number in first..self.next {
            let debit = self.debit(number);
            let position = Position {
                gateway: GatewayNumber(self.gateway.number),
                journal: self.journal,
                number: DebitNumber(number),
            };
            let leaf = batch_leaf(&position, &debit.fixed.write(), &debit.detail.hash());
            leaves.push(merkle::leaf_hash(&leaf));
            debit.write(&mut payload);
        }
        let debits = Debits {
            journal: self.journal,
            first: DebitNumber(first),
            count,
            root: merkle::root_of(&leaves),
        };
        let author: Author = GatewayNumber(self.gateway.number).into();
        let body = Body::new(author, &[], [0; 16], 0, Action::Debits(debits));
        Transaction::sign(&self.chain, &body, &[&self.gateway.secret], payload)
    }

    fn debit(&self, number: u64) -> Debit {
        let account = &self.accounts[number as usize % self.accounts.len()];
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&number.to_le_bytes());
        Debit {
            fixed: Fixed {
                version: DEBIT_VERSION,
                kind: KIND_REQUEST,
                flags: Flags(0),
                account: account.number,
                class: CLASS,
                api_key: account.api_key,
                lease: account.lease,
                limit: Amount(1_000_000),
                fee: Amount(0),
            },
            detail: Detail {
                salt,
                model: MODEL,
                table: TableVersion(1),
                usage: Usage([100 + (number % 7) as u32, 10, 50, 5, 0, 0]),
                hold_journal: self.journal,
                hold: number,
                project: 0,
                purpose: 0,
                arrival: now_ms(),
                duration: 20,
                request: Hash::ZERO,
                queued: Some(Queued::default()),
            },
        }
    }
}

/// A pause that keeps a pace.
pub(crate) async fn until(start: tokio::time::Instant, offset: Duration) {
    tokio::time::sleep_until(start + offset).await;
}
