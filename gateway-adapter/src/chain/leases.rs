//! Asks for leases, proves what they were granted, has them given back, and
//! proves accounts' leaves again.
//!
//! Leases of a gateway are numbered contiguously; up to [`IN_FLIGHT`] with
//! consecutive numbers are asked for at once, and the ledger takes them in
//! their order. Each intent is in the journal before it is sent: after a
//! crash the lease is found and given back. A lease whose answer is not known
//! is asked for again with the same bytes until it is; requests do not wait
//! for that but are refused as unreachable. So each number that was given is
//! taken some day; one that never can be would block those behind it, and
//! stops the gateway.
//!
//! A Lease that was on its way at a crash may still get its number, or have
//! got it: under a number that was sent before the start, a lease of those
//! bytes and one of this process's cannot be told apart. Such a lease may
//! have ended earlier than this process would think, and is about to be given
//! back. It is never spent: the number is asked for, and whatever it granted
//! is given back too.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tally_ledger::{
    account::Account as AccountLeaf,
    action::Lease,
    block::Header,
    codec,
    entry::{Event, Shortfall},
    ids::{Amount, ClassNumber, DebitNumber, Height, LeaseNumber},
    reason::Reason,
};
use tally_proto::v1;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
};

use super::{
    ChainError, is_final,
    light::Light,
    nodes::Submitted,
    sign::Signer,
    terms::{Current, Terms},
};
use crate::{
    account::Account,
    job::{Granted, Job, Jobs, NoGrant, Short},
    journal::{Journal, LeaseSent, Record, Urgency},
    key::Key,
    metrics::Metrics,
    pool,
    refusal::Refusal,
    view::View,
};

/// Leases asked for at a time.
pub const IN_FLIGHT: usize = 16;
/// Most that wait to be asked for; beyond it requests are refused.
const MOST_ASKED: usize = 4_096;
/// Returns and refreshes at a time.
const AT_A_TIME: usize = 32;
/// Longest pause while a lease waits for those before it.
const MAX_TURN: Duration = Duration::from_millis(40);
/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Does the pool's jobs.
#[derive(Debug)]
pub struct Leases {
    /// Asks and checks.
    pub light: Arc<Light>,
    /// Signs.
    pub signer: Signer,
    /// Where intents are kept.
    pub journal: Arc<Journal>,
    /// Prices in force.
    pub terms: Arc<Current>,
    /// The last proven debit.
    pub proven: watch::Receiver<DebitNumber>,
    /// Makes debits leave at once.
    pub hurry: Arc<Notify>,
    /// How long leases are taken for.
    pub duration: Duration,
    /// How much earlier the gateway stops using one.
    pub margin: Duration,
    /// For what a proof of an account brings about.
    pub jobs: Jobs,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Told what ends the gateway.
    pub fatal: mpsc::Sender<ChainError>,
    /// How many leases' answers are not known: no other can be asked for.
    pub stuck: AtomicUsize,
    /// Numbers that were given and are not known to be taken.
    pub flying: Mutex<BTreeSet<LeaseNumber>>,
}

/// Counts a lease whose answer is not known, as long as it lives.
struct Stuck<'a>(&'a AtomicUsize);

impl<'a> Stuck<'a> {
    fn new(stuck: &'a AtomicUsize) -> Self {
        stuck.fetch_add(1, Ordering::Relaxed);
        Stuck(stuck)
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The last lease that the log was seen to have, and since when.
struct Progress(LeaseNumber, Instant);

impl Progress {
    fn new() -> Self {
        Progress(LeaseNumber(0), Instant::now())
    }

    /// `last` is the last one; for how long it was seen to be.
    fn at(&mut self, last: LeaseNumber) -> Duration {
        if last > self.0 {
            *self = Progress(last, Instant::now());
        }
        self.1.elapsed()
    }
}

/// What a start finds.
#[derive(Debug, Clone)]
pub struct Before {
    /// Leases that were sent before it and are not known to be closed.
    pub leases: Vec<LeaseSent>,
    /// The last debit that may name one of them.
    pub debits: DebitNumber,
}

#[derive(Clone)]
struct Wanted {
    account: Arc<Account>,
    key: Arc<Key>,
    class: ClassNumber,
    wanted: u64,
    worst: u64,
}

impl Leases {
    /// Does jobs until their senders are gone. `last` is the gateway's last
    /// lease, proven.
    pub async fn run(
        self: Arc<Self>,
        mut jobs: mpsc::Receiver<Job>,
        last: LeaseNumber,
        before: Before,
    ) {
        let (ask, asked) = mpsc::channel(MOST_ASKED);
        let worker = tokio::spawn(self.clone().ask_in_turn(asked, last, before));
        let slots = Arc::new(Semaphore::new(AT_A_TIME));
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Lease {
                    account,
                    key,
                    class,
                    wanted,
                    worst,
                } => {
                    let wanted = Wanted {
                        account,
                        key,
                        class,
                        wanted,
                        worst,
                    };
                    if self.is_stuck() {
                        wanted.unreachable();
                    } else if let Err(error) = ask.try_send(wanted) {
                        error.into_inner().unreachable();
                    }
                }
                Job::Refresh { account } => {
                    let (this, slots) = (self.clone(), slots.clone());
                    tokio::spawn(async move {
                        let _slot = slots.acquire_owned().await;
                        this.refresh(&account).await;
                    });
                }
                Job::Return {
                    account,
                    lease,
                    after,
                } => {
                    let (this, slots) = (self.clone(), slots.clone());
                    tokio::spawn(async move {
                        let mut proven = this.proven.clone();
                        if *proven.borrow() < after {
                            this.hurry.notify_one();
                        }
                        if proven.wait_for(|proven| *proven >= after).await.is_err() {
                            return;
                        }
                        let _slot = slots.acquire_owned().await;
                        this.give_back(&account, lease).await;
                    });
                }
            }
        }
        drop(ask);
        let _ = worker.await;
    }

    fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) > 0
    }

    fn flying(&self) -> MutexGuard<'_, BTreeSet<LeaseNumber>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_in_turn(
        self: Arc<Self>,
        mut asked: mpsc::Receiver<Wanted>,
        mut last: LeaseNumber,
        before: Before,
    ) {
        let sent: BTreeSet<LeaseNumber> = before.leases.iter().map(|sent| sent.number).collect();
        let mut flight = JoinSet::new();
        loop {
            tokio::select! {
                Some(landed) = flight.join_next() => {
                    if let Ok(Err(error)) = landed {
                        // The gateway is stopping if nobody listens.
                        let _ = self.fatal.send(error).await;
                        return;
                    }
                }
                wanted = asked.recv(), if flight.len() < IN_FLIGHT => {
                    let Some(wanted) = wanted else {
                        return;
                    };
                    if self.is_stuck() {
                        wanted.unreachable();
                        continue;
                    }
                    last.0 += 1;
                    while sent.contains(&last) {
                        self.flying().insert(last);
                        let (this, wanted) = (self.clone(), wanted.clone());
                        flight.spawn(this.pass_over(wanted, last, before.debits));
                        last.0 += 1;
                    }
                    self.flying().insert(last);
                    flight.spawn(self.clone().fly(wanted, last));
                }
            }
        }
    }

    /// Whether a lease only waits for those before it; `last` is the last one
    /// in the log.
    fn is_in_turn(&self, number: LeaseNumber, last: LeaseNumber, log: &mut Progress) -> bool {
        // Several may have landed since `last` was proven.
        let near = last.0 + IN_FLIGHT as u64 >= number.0 && log.at(last) < MAX_PAUSE;
        near || self.flying().first() < Some(&number)
    }

    async fn fly(self: Arc<Self>, wanted: Wanted, number: LeaseNumber) -> Result<(), ChainError> {
        let landed = self.ask(&wanted, number).await;
        if landed.is_err() {
            wanted.unreachable();
        }
        landed
    }

    /// Asks for one lease until it is taken.
    async fn ask(&self, wanted: &Wanted, number: LeaseNumber) -> Result<(), ChainError> {
        let since = Instant::now();
        let duration_ms = self.duration_ms();
        let until = since + Duration::from_millis(duration_ms.into()).saturating_sub(self.margin);
        let finality = self.place(wanted, number, duration_ms).await?;
        self.granted(wanted, number, until, finality).await
    }

    /// Asks for a lease whose number was sent before the start, and gives it
    /// back, whose ever it is, once the debits of before are proven.
    async fn pass_over(
        self: Arc<Self>,
        wanted: Wanted,
        number: LeaseNumber,
        debits: DebitNumber,
    ) -> Result<(), ChainError> {
        self.place(&wanted, number, self.duration_ms()).await?;
        let ours = Before {
            leases: vec![wanted.sent(number)],
            debits,
        };
        tokio::spawn(self.return_old(ours));
        Ok(())
    }

    fn duration_ms(&self) -> u32 {
        let parameters = self.terms.get().parameters;
        (self.duration.as_millis() as u32).min(parameters.max_lease_ms)
    }

    /// Sends a Lease until the log has one of this number.
    async fn place(
        &self,
        wanted: &Wanted,
        number: LeaseNumber,
        duration_ms: u32,
    ) -> Result<v1::Finality, ChainError> {
        let mut log = Progress::new();
        let lease = Lease {
            journal: self.journal.number(),
            number,
            account: wanted.account.number,
            class: wanted.class,
            api_key: wanted.key.number,
            wanted: Amount(wanted.wanted),
            worst_case: Amount(wanted.worst),
            duration_ms,
        };
        let sent = Record::LeaseSent(wanted.sent(number));
        self.journal.append(&sent, Urgency::Now).wait().await?;
        self.metrics.leases.inc();
        let transaction = self.signer.lease(lease, &wanted.key);
        let mut pause = Duration::from_millis(5);
        let mut stuck = None;
        loop {
            let error = match self.light.nodes.submit(&transaction).await {
                Ok(Submitted::Final(finality)) => {
                    self.flying().remove(&number);
                    return Ok(finality);
                }
                Ok(Submitted::Refused(Reason::LeaseNotNext)) => {
                    match self.light.gateway(self.signer.gateway, Height(0)).await {
                        // Taken by these bytes, whose answer was lost.
                        Ok((header, leaf)) if leaf.last_lease >= number => {
                            self.flying().remove(&number);
                            return Ok(v1::Finality {
                                height: header.height.0,
                                ..Default::default()
                            });
                        }
                        // Those before it are on their way, or just landed.
                        Ok((_, leaf)) if self.is_in_turn(number, leaf.last_lease, &mut log) => {
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(MAX_TURN);
                            continue;
                        }
                        Ok(_) => ChainError::Unreachable(Reason::LeaseNotNext.to_string()),
                        Err(error) if error.is_fatal() => return Err(error),
                        Err(error) => error,
                    }
                }
                Ok(Submitted::Refused(Reason::JournalNotCurrent)) => {
                    return Err(ChainError::Fenced);
                }
                Ok(Submitted::Refused(reason)) if is_final(reason) => {
                    // What it names was proven: a bug or a fork.
                    return Err(ChainError::LeaseRefused { number, reason });
                }
                // A node may be behind what was proven here.
                Ok(Submitted::Refused(reason)) => ChainError::Unreachable(reason.to_string()),
                Err(error) => error,
            };
            if stuck.is_none() {
                tracing::warn!(%error, %number, "a lease's answer is not known; asking on");
                stuck = Some(Stuck::new(&self.stuck));
                wanted.unreachable();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The Lease is in the log: proves what it was granted.
    async fn granted(
        &self,
        wanted: &Wanted,
        number: LeaseNumber,
        until: Instant,
        finality: v1::Finality,
    ) -> Result<(), ChainError> {
        let account = wanted.account.number;
        let mut stuck = None;
        let proven = loop {
            match pool::account_leaf(&self.light, account, Height(finality.height)).await {
                Ok(proven) => break proven,
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    stuck.get_or_insert_with(|| Stuck::new(&self.stuck));
                    tracing::warn!(%error, "a lease is granted but not proven yet");
                    wanted.unreachable();
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
        drop(stuck);
        let (header, leaf) = proven;
        let open = leaf
            .leases
            .iter()
            .find(|open| (open.gateway, open.number) == (self.signer.gateway, number))
            .filter(|open| (open.class, open.api_key) == (wanted.class, wanted.key.number))
            .cloned();
        wanted
            .account
            .viewed(self.view(&header, &leaf), Instant::now());
        let why = shortfall(&finality);
        let Some(open) = open else {
            wanted.not_granted(no_grant(why));
            if why.is_none() {
                // Other bytes may have taken the number: from before a start,
                // for another account.
                self.close(number).await?;
            }
            self.journal
                .append(&Record::LeaseClosed(number), Urgency::Soon);
            return Ok(());
        };
        while !self.terms.knows(open.table) {
            match Terms::load(&self.light, header.height).await {
                Ok(terms) => self.terms.set(terms),
                Err(error) if error.is_fatal() => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        // Nothing has been debited to it yet: what remains is what is free.
        let amount = open.remaining().0;
        let granted = Granted {
            number,
            amount,
            table: open.table,
            height: header.height,
            until,
        };
        let short = match why {
            _ if amount >= wanted.worst => Short::No,
            Some(Shortfall::GatewayCap | Shortfall::KeyCap) => Short::Cap,
            _ => Short::Balance,
        };
        wanted.account.granted(
            (wanted.class, wanted.key.number),
            granted,
            short,
            Instant::now(),
        );
        Ok(())
    }

    pub(super) fn view(&self, header: &Header, leaf: &AccountLeaf) -> View {
        View::of(leaf, self.signer.gateway, header.height, header.time)
    }

    async fn refresh(&self, account: &Arc<Account>) {
        match pool::account_leaf(&self.light, account.number, Height(0)).await {
            Ok((header, leaf)) => {
                account.viewed(self.view(&header, &leaf), Instant::now());
                let mut jobs = Vec::new();
                account.returns(Instant::now(), false, &mut jobs);
                self.jobs.send_all(jobs);
            }
            Err(error) => {
                tracing::warn!(%error, "an account's leaf is not proven");
                account.not_viewed(Instant::now());
            }
        }
    }
}

impl Wanted {
    fn sent(&self, number: LeaseNumber) -> LeaseSent {
        LeaseSent {
            number,
            account: self.account.number,
            class: self.class,
            api_key: self.key.number,
        }
    }

    fn not_granted(&self, why: NoGrant) {
        let pair = (self.class, self.key.number);
        self.account.not_granted(pair, why, Instant::now());
    }

    fn unreachable(&self) {
        self.not_granted(NoGrant::Refused(Refusal::Unreachable));
    }
}

/// Why a Lease granted less, as the node says: a hint for messages; what was
/// granted is proven.
fn shortfall(finality: &v1::Finality) -> Option<Shortfall> {
    finality.entries.iter().find_map(|entry| match &entry.fact {
        Some(v1::entry::Fact::Event(event)) => {
            match codec::decode::<Event>(&event.encoded, 4096).ok()? {
                Event::LeaseGranted { shortfall, .. } => Some(shortfall),
                _ => None,
            }
        }
        _ => None,
    })
}

fn no_grant(why: Option<Shortfall>) -> NoGrant {
    match why {
        Some(Shortfall::GatewayCap) => NoGrant::Refused(Refusal::GatewayCap),
        Some(Shortfall::KeyEnded) => NoGrant::Refused(Refusal::InvalidKey),
        Some(Shortfall::KeyCap) => NoGrant::Refused(Refusal::Insufficient),
        Some(Shortfall::Frozen) => NoGrant::Refused(Refusal::Frozen),
        Some(Shortfall::Suspended) => NoGrant::Refused(Refusal::Suspended),
        _ => NoGrant::Dry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_with_those_before_begins_anew_whenever_one_has_landed() {
        let long = MAX_PAUSE * 2;
        let mut log = Progress(LeaseNumber(7), Instant::now() - long);
        assert!(log.at(LeaseNumber(7)) >= long);
        // A node that is behind is no progress.
        assert!(log.at(LeaseNumber(6)) >= long);
        assert!(log.at(LeaseNumber(8)) < long);
        assert!(log.at(LeaseNumber(8)) < long);
    }
}
