//! Follows the chain from the header at which the gateway started.
//!
//! Every control entry after that header is needed, contiguous by number and
//! proven under a certified header; how many there are is proven by the
//! chain's own leaf. So no node can hide a revocation for longer than it can
//! hide that there are newer headers, and that raises an alarm: without a new
//! header for three heartbeats the gateway serves only inside the leases that
//! it holds.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tally_ledger::{
    account::Recall,
    codec,
    entry::{Event, EventLeaf},
    hash::Hash,
    ids::{AccountNumber, GatewayNumber, Height},
    merkle::{leaf_hash, verify_inclusion},
};
use tally_proto::v1;
use tokio::sync::mpsc;

use super::{
    ChainError,
    fleet::Fleet,
    light::Light,
    nodes::{Node, unreachable},
    terms::{Current, Terms},
};
use crate::{
    chain::nodes::{is_absent, is_forbidden},
    holds::Holds,
    job::Job,
    journal::Journal,
    metrics::Metrics,
    pool::Pool,
};

/// How often to look without being told.
const TICK: Duration = Duration::from_millis(500);
/// Most bytes of an event.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Applies control entries.
#[derive(Debug)]
pub struct Follower {
    /// Asks and checks.
    pub light: Arc<Light>,
    /// Whom revocations concern.
    pub pool: Arc<Pool>,
    /// Prices, classes, parameters, rates.
    pub terms: Arc<Current>,
    /// Stopped when the gateway is suspended.
    pub holds: Arc<Holds>,
    /// With whom this gateway shares the chain's limits.
    pub fleet: Fleet,
    /// Terms or shares have changed and are not taken over yet.
    pub stale: bool,
    /// Which journal is ours.
    pub journal: Arc<Journal>,
    /// Which gateway this is.
    pub gateway: GatewayNumber,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The last control entry applied.
    pub controls: u64,
    /// Log index after it.
    pub cursor: u64,
}

/// A control entry that is in the log.
#[derive(Debug, Clone)]
struct ProvenEntry {
    /// Its index in the log.
    index: u64,
    /// Its leaf.
    leaf: EventLeaf,
    /// What it says.
    event: Event,
}

/// Where following starts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Control entries up to here are in every leaf that is read.
    pub controls: u64,
    /// Log index after them.
    pub cursor: u64,
}

impl Start {
    /// From a certified header now.
    pub async fn now(light: &Light) -> Result<Self, ChainError> {
        let chain = light.chain_leaf(Height(0)).await?;
        let leaf = chain
            .leaf
            .ok_or_else(|| ChainError::Unproven("no chain leaf".into()))?;
        light.raise_floor(chain.header.height);
        Ok(Start {
            controls: leaf.controls,
            cursor: chain.header.log_size,
        })
    }
}

impl Follower {
    /// Runs until something is fatal. Cancel it to stop.
    pub async fn run(mut self) -> ChainError {
        let (poke, mut poked) = mpsc::channel(16);
        let mut watches = tokio::task::JoinSet::new();
        for node in self.light.nodes.all().to_vec() {
            watches.spawn(watch(self.light.clone(), node, self.gateway, poke.clone()));
        }
        let mut alarmed = false;
        let mut last = Instant::now() - TICK;
        loop {
            match tokio::time::timeout(TICK, poked.recv()).await {
                Ok(Some(Poke::Fatal(error))) => return error,
                Ok(Some(Poke::Lease(account))) => self.look_again(account),
                Ok(Some(Poke::All)) => {
                    for account in self.pool.accounts() {
                        self.look_again(account.number);
                    }
                }
                _ => {}
            }
            if last.elapsed() >= TICK || self.light.last().is_some_and(|h| h.log_size > self.cursor)
            {
                last = Instant::now();
                match self.catch_up().await {
                    Ok(()) => {}
                    Err(error) if error.is_fatal() => return error,
                    Err(error) => tracing::debug!(%error, "control entries wait for a node"),
                }
            }
            let heartbeat = Duration::from_millis(self.terms.get().parameters.heartbeat_ms.into());
            let behind = self
                .light
                .silence()
                .is_none_or(|silence| silence > heartbeat * 3);
            if behind != alarmed {
                alarmed = behind;
                self.alarm(behind);
            }
        }
    }

    fn alarm(&self, behind: bool) {
        self.metrics.behind.set(behind.into());
        if behind {
            tracing::error!(
                "no new header for three heartbeats: serving only inside the leases held"
            );
        } else {
            tracing::info!("new headers again");
        }
    }

    fn look_again(&self, account: AccountNumber) {
        if let Some(account) = self.pool.account_in_use(account) {
            self.holds.jobs.send(Job::Refresh { account });
        }
    }

    /// Applies all control entries that the chain's leaf counts now.
    async fn catch_up(&mut self) -> Result<(), ChainError> {
        let chain = self.light.chain_leaf(Height(0)).await?;
        let leaf = chain
            .leaf
            .ok_or_else(|| ChainError::Unproven("no chain leaf".into()))?;
        self.metrics.height.set(chain.header.height.0 as i64);
        self.stale |= self.terms.get().prices.version != leaf.table;
        while self.controls < leaf.controls {
            for entry in self.next_entries().await? {
                self.controls = entry.leaf.control;
                self.cursor = entry.index + 1;
                self.light.raise_floor(entry.leaf.height);
                self.stale |= self.apply(entry.leaf.account, &entry.event)?;
                self.stale |= self.fleet.follow(&entry.event);
            }
        }
        self.cursor = self.cursor.max(chain.header.log_size);
        self.light.raise_floor(chain.header.height);
        if self.stale {
            let terms = Terms::load(&self.light, chain.header.height).await?;
            let share = self.fleet.share(self.gateway);
            self.holds.rates.apply(&terms, share);
            self.terms.set(terms);
            self.stale = false;
        }
        Ok(())
    }

    /// The next control entries, proven; at least one.
    async fn next_entries(&self) -> Result<Vec<ProvenEntry>, ChainError> {
        let mut last = ChainError::Unreachable("no node".into());
        let mut forbidden = false;
        for (i, node) in self.light.nodes.in_order() {
            let answer = match node.control(self.cursor).await {
                Ok(answer) => answer,
                Err(status) => {
                    forbidden |= is_forbidden(&status);
                    last = unreachable(node, &status);
                    continue;
                }
            };
            match self.contiguous(&answer) {
                Ok(entries) if entries.is_empty() => {
                    last = ChainError::Unreachable(format!("{} is behind", node.address));
                }
                Ok(entries) => {
                    self.light.nodes.prefer(i);
                    return Ok(entries);
                }
                Err(error) => {
                    tracing::error!(node = %node.address, %error, "control entries do not hold");
                    last = error;
                }
            }
        }
        // From its suspension on, a gateway that logs in is shown its own leaf
        // and no control entry, that of the suspension included.
        if forbidden
            && self
                .light
                .gateway(self.gateway, Height(0))
                .await?
                .1
                .suspended
        {
            self.suspended();
        }
        Err(last)
    }

    /// This gateway was suspended.
    fn suspended(&self) {
        if !self.holds.stopped.load(Ordering::Relaxed) {
            tracing::error!("this gateway was suspended: no new requests");
        }
        self.holds.stop();
        for account in self.pool.accounts() {
            account.end_leases(None);
        }
    }

    fn contiguous(&self, answer: &v1::ListEntriesResponse) -> Result<Vec<ProvenEntry>, ChainError> {
        let entries = proven_entries(&self.light, answer)?;
        let mut new = entries;
        new.retain(|entry| entry.leaf.control > self.controls);
        let numbers = new.iter().map(|entry| entry.leaf.control);
        if !numbers.zip(self.controls + 1..).all(|(a, b)| a == b) {
            return Err(ChainError::Unproven("a control entry is left out".into()));
        }
        Ok(new)
    }

    /// Applies one; whether prices, classes, parameters or rates changed.
    fn apply(&self, account: AccountNumber, event: &Event) -> Result<bool, ChainError> {
        let account = self.pool.account_in_use(account);
        if let Some(account) = &account {
            account.stale();
        }
        match event {
            Event::ApiKeyRevoked { api_key, .. } => self.pool.revoke(*api_key),
            Event::Frozen { .. } => {
                if let Some(account) = account {
                    account.freeze();
                    self.holds.jobs.send(Job::Refresh { account });
                }
            }
            Event::Unfrozen { .. } | Event::GrantRevoked { .. } => {
                if let Some(account) = account {
                    self.holds.jobs.send(Job::Refresh { account });
                }
            }
            Event::GatewaySuspended { gateway, .. } if *gateway == self.gateway => {
                self.suspended();
            }
            Event::JournalOpened {
                gateway, journal, ..
            } if *gateway == self.gateway && *journal > self.journal.number() => {
                return Err(ChainError::Fenced);
            }
            Event::PriceTableSet { .. }
            | Event::ClassSet { .. }
            | Event::ParametersSet { .. }
            | Event::RatesSet { .. } => return Ok(true),
            _ => {}
        }
        Ok(false)
    }
}

/// Control entries, each proven under a certified header.
fn proven_entries(
    light: &Light,
    answer: &v1::ListEntriesResponse,
) -> Result<Vec<ProvenEntry>, ChainError> {
    let unproven = |why: &str| ChainError::Unproven(why.to_owned());
    if answer.entries.is_empty() {
        return Ok(Vec::new());
    }
    let certified = answer
        .header
        .as_ref()
        .ok_or_else(|| unproven("no header"))?;
    let header = light.header(certified)?;
    let mut proven = Vec::with_capacity(answer.entries.len());
    for entry in &answer.entries {
        let path: Option<Vec<Hash>> = entry
            .path
            .iter()
            .map(|hash| Some(Hash(hash.as_ref().try_into().ok()?)))
            .collect();
        let path = path.ok_or_else(|| unproven("a path of odd hashes"))?;
        let hash = leaf_hash(&entry.leaf);
        if !verify_inclusion(&hash, entry.index, header.log_size, &path, &header.log_root) {
            return Err(unproven("an entry is not under the log's root"));
        }
        let leaf = EventLeaf::from_leaf(&entry.leaf).ok_or_else(|| unproven("no event leaf"))?;
        let Some(v1::entry::Fact::Event(event)) = &entry.fact else {
            return Err(unproven("no event"));
        };
        let event: Event = codec::decode(&event.encoded, MAX_EVENT_BYTES)
            .map_err(|error| ChainError::Unproven(error.to_string()))?;
        if event.hash() != leaf.event {
            return Err(unproven("an event unlike its leaf"));
        }
        proven.push(ProvenEntry {
            index: entry.index,
            leaf,
            event,
        });
    }
    Ok(proven)
}

enum Poke {
    /// A new header.
    Header,
    /// A lease of ours was ended early: a hint to look at its account.
    Lease(AccountNumber),
    /// Such hints may have been missed: look at all accounts.
    All,
    Fatal(ChainError),
}

/// Watches one node for ever; headers go to the light client.
async fn watch(light: Arc<Light>, node: Node, gateway: GatewayNumber, poke: mpsc::Sender<Poke>) {
    let mut pause = Duration::from_millis(50);
    loop {
        if let Ok(mut blocks) = node.watch().await {
            // Nobody listens: the gateway stops.
            let _ = poke.send(Poke::All).await;
            while let Ok(Some(block)) = blocks.message().await {
                pause = Duration::from_millis(50);
                let Some(certified) = &block.header else {
                    continue;
                };
                match light.header(certified) {
                    Ok(_) => {}
                    Err(error) if error.is_fatal() => {
                        // Nobody listens: the gateway stops.
                        let _ = poke.send(Poke::Fatal(error)).await;
                        return;
                    }
                    Err(error) => {
                        tracing::error!(node = %node.address, %error, "a header does not hold");
                        break;
                    }
                }
                for account in recalled(&block, gateway) {
                    // Who wants the balance waits for this: it is not dropped.
                    let _ = poke.send(Poke::Lease(account)).await;
                }
                // A full channel has been told already.
                let _ = poke.try_send(Poke::Header);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Accounts of our leases that were recalled in this block.
fn recalled(block: &v1::WatchResponse, gateway: GatewayNumber) -> Vec<AccountNumber> {
    let ended = |entry: &v1::Entry| match &entry.fact {
        Some(v1::entry::Fact::Event(event)) => {
            let decoded = codec::decode::<Event>(&event.encoded, MAX_EVENT_BYTES).ok()?;
            match decoded {
                Event::LeaseEnded {
                    gateway: whose,
                    recall,
                    ..
                } if whose == gateway && recall != Recall::No => event.account.map(AccountNumber),
                _ => None,
            }
        }
        _ => None,
    };
    block.entries.iter().filter_map(ended).collect()
}

/// Where earlier journals of `gateway` were closed, as far as the control
/// entries tell: (journal, its last debit).
pub async fn closed_journals(
    light: &Light,
    gateway: GatewayNumber,
) -> Result<
    Vec<(
        tally_ledger::ids::JournalNumber,
        tally_ledger::ids::DebitNumber,
    )>,
    ChainError,
> {
    let mut closed = Vec::new();
    let mut from = 0;
    loop {
        let mut page = None;
        let mut last = ChainError::Unreachable("no node".into());
        for (_, node) in light.nodes.in_order() {
            match node.control(from).await {
                Ok(answer) => {
                    page = Some(answer);
                    break;
                }
                Err(status) if is_absent(&status) => {}
                Err(status) => last = unreachable(node, &status),
            }
        }
        let page = page.ok_or(last)?;
        for ProvenEntry { event, .. } in proven_entries(light, &page)? {
            if let Event::JournalOpened {
                gateway: whose,
                journal,
                closed_last,
                ..
            } = event
                && whose == gateway
            {
                let before = tally_ledger::ids::JournalNumber(journal.0 - 1);
                closed.push((before, closed_last));
            }
        }
        if page.next == 0 {
            return Ok(closed);
        }
        from = page.next;
    }
}
