//! The keys and accounts in use, each proven on first use and forgotten when
//! nothing is leased for them any more.
//!
//! Looking one up takes the lock of one of `SHARDS` maps, for reading.

use std::{
    collections::HashMap,
    hash::Hash as StdHash,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tally_ledger::{
    account::{Account as AccountLeaf, ApiKey},
    block::Header,
    crypto::SecretKey,
    ids::{AccountNumber, ApiKeyNumber, GatewayNumber, Height},
    tree::Table,
};

use crate::{
    account::Account,
    chain::{ChainError, light::Light},
    job::Job,
    key::{Key, fingerprint},
    refusal::Refusal,
    view::View,
};

/// Maps per kind.
const SHARDS: usize = 64;
/// How long "there is no such key" is remembered.
const ABSENT: Duration = Duration::from_secs(1);
/// Most keys remembered as absent.
const MAX_ABSENT: usize = 10_000;

type Fingerprint = [u8; 32];

/// A map in shards.
struct Shards<K, V>(Vec<RwLock<HashMap<K, V>>>);

impl<K: Eq + StdHash, V: Clone> Shards<K, V> {
    fn new() -> Self {
        Shards((0..SHARDS).map(|_| RwLock::new(HashMap::new())).collect())
    }

    fn get(&self, shard: usize, key: &K) -> Option<V> {
        let map = self.0[shard % SHARDS]
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        map.get(key).cloned()
    }

    fn change<T>(&self, shard: usize, change: impl FnOnce(&mut HashMap<K, V>) -> T) -> T {
        change(
            &mut self.0[shard % SHARDS]
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn values(&self) -> Vec<V> {
        let maps = self
            .0
            .iter()
            .map(|map| map.read().unwrap_or_else(PoisonError::into_inner));
        maps.flat_map(|map| map.values().cloned().collect::<Vec<_>>())
            .collect()
    }
}

/// Keys and accounts.
pub struct Pool {
    light: Arc<Light>,
    gateway: GatewayNumber,
    keys: Shards<Fingerprint, Arc<Key>>,
    accounts: Shards<AccountNumber, Arc<Account>>,
    loading: Vec<tokio::sync::Mutex<()>>,
    absent: Mutex<HashMap<Fingerprint, Instant>>,
    uses: Mutex<HashMap<AccountNumber, u64>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool(..)")
    }
}

fn shard_of(fingerprint: &Fingerprint) -> usize {
    usize::from(fingerprint[0])
}

/// An account's leaf, proven.
pub async fn account_leaf(
    light: &Light,
    account: AccountNumber,
    at_least: Height,
) -> Result<(Header, AccountLeaf), ChainError> {
    let proven = light.leaf(Table::Accounts, account.0, at_least).await?;
    // Which one is for nobody's log.
    let absent = || ChainError::Unproven("an account is missing".to_owned());
    Ok((proven.header, proven.leaf.ok_or_else(absent)?))
}

impl Pool {
    /// An empty pool.
    pub fn new(light: Arc<Light>, gateway: GatewayNumber) -> Self {
        Pool {
            light,
            gateway,
            keys: Shards::new(),
            accounts: Shards::new(),
            loading: (0..SHARDS).map(|_| tokio::sync::Mutex::new(())).collect(),
            absent: Mutex::new(HashMap::new()),
            uses: Mutex::new(HashMap::new()),
        }
    }

    /// The key of a seed, proven.
    pub async fn key(&self, seed: &[u8; 32]) -> Result<Arc<Key>, Refusal> {
        let name = fingerprint(seed);
        if let Some(key) = self.keys.get(shard_of(&name), &name) {
            return live(key);
        }
        let _one = self.loading[shard_of(&name) % SHARDS].lock().await;
        if let Some(key) = self.keys.get(shard_of(&name), &name) {
            return live(key);
        }
        if self.is_absent(&name) {
            return Err(Refusal::InvalidKey);
        }
        match self.load(&name, seed).await {
            Ok(Some(key)) => live(key),
            Ok(None) => {
                self.remember_absent(name);
                Err(Refusal::InvalidKey)
            }
            Err(error) => {
                tracing::warn!(%error, "an API key could not be looked up");
                Err(Refusal::Unreachable)
            }
        }
    }

    async fn load(
        &self,
        name: &Fingerprint,
        seed: &[u8; 32],
    ) -> Result<Option<Arc<Key>>, ChainError> {
        let secret = SecretKey::from_seed(seed);
        let public = secret.public();
        let Some(number) = self.light.find_api_key(&public).await? else {
            return Ok(None);
        };
        loop {
            let leaf = self
                .light
                .leaf::<ApiKey>(Table::ApiKeys, number.0, Height(0))
                .await?;
            let Some(api_key) = leaf
                .leaf
                .filter(|api_key| api_key.key == public && !api_key.revoked)
            else {
                return Ok(None);
            };
            let account = self.account(api_key.account).await?;
            let key = Arc::new(Key {
                number,
                account,
                secret: secret.clone(),
                public,
                models: api_key.models.to_vec(),
                expires: api_key.expires,
                revoked: AtomicBool::new(false),
                request_key: Key::request_key(seed),
            });
            let shard = shard_of(name);
            self.keys
                .change(shard, |keys| keys.insert(*name, key.clone()));
            // A revocation that was followed before the key was in the map
            // has not found it.
            if self.light.floor() <= leaf.header.height {
                return Ok(Some(key));
            }
            self.keys.change(shard, |keys| keys.remove(name));
        }
    }

    async fn account(&self, number: AccountNumber) -> Result<Arc<Account>, ChainError> {
        let shard = number.0 as usize;
        if let Some(account) = self.accounts.get(shard, &number) {
            return Ok(account);
        }
        let (header, leaf) = account_leaf(&self.light, number, Height(0)).await?;
        let view = View::of(&leaf, self.gateway, header.height, header.time);
        let account = Arc::new(Account::new(number, view, Instant::now()));
        let account = self.accounts.change(shard, |accounts| {
            accounts.entry(number).or_insert(account).clone()
        });
        if self.light.floor() > header.height {
            account.stale();
        }
        Ok(account)
    }

    fn is_absent(&self, name: &Fingerprint) -> bool {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.get(name).is_some_and(|at| at.elapsed() < ABSENT)
    }

    fn remember_absent(&self, name: Fingerprint) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        if absent.len() >= MAX_ABSENT {
            absent.clear();
        }
        absent.insert(name, Instant::now());
    }

    /// The account, if it is in use.
    pub fn account_in_use(&self, number: AccountNumber) -> Option<Arc<Account>> {
        self.accounts.get(number.0 as usize, &number)
    }

    /// All accounts in use.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.values()
    }

    /// A key was revoked.
    pub fn revoke(&self, number: ApiKeyNumber) {
        for key in self.keys.values() {
            if key.number == number {
                key.revoked.store(true, Ordering::Relaxed);
                key.account.end_leases(Some(number));
            }
        }
    }

    /// Leases to give back now (`all`: whatever is idle).
    pub fn returns(&self, all: bool) -> Vec<Job> {
        let mut jobs = Vec::new();
        for account in self.accounts() {
            account.returns(Instant::now(), all, &mut jobs);
        }
        jobs
    }

    /// Forgets accounts that were not used since the last call and hold
    /// nothing, and their keys' seeds with them.
    pub fn forget_idle(&self) {
        let mut before = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut uses = HashMap::new();
        for account in self.accounts() {
            let used = account.uses.load(Ordering::Relaxed);
            if before.get(&account.number) == Some(&used) && account.is_idle() {
                let shard = account.number.0 as usize;
                self.accounts
                    .change(shard, |accounts| accounts.remove(&account.number));
                for shard in 0..SHARDS {
                    self.keys.change(shard, |keys| {
                        keys.retain(|_, key| key.account.number != account.number);
                    });
                }
            } else {
                uses.insert(account.number, used);
            }
        }
        *before = uses;
    }
}

fn live(key: Arc<Key>) -> Result<Arc<Key>, Refusal> {
    if key.is_live_now() {
        Ok(key)
    } else {
        Err(Refusal::InvalidKey)
    }
}
