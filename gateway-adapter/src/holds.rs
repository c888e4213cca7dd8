//! Holds: from the promise that a request is paid for to its debit.
//!
//! A hold is reserved in memory inside a lease and recorded in the journal;
//! it is resolved exactly once, by a debit or a void. A hold that is dropped
//! unresolved settles itself at its last mark, so nothing that was promised
//! can be forgotten.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::RngCore;
use tally_ledger::{
    debit::{DEBIT_VERSION, Debit, Detail, Fixed, Flags, KIND_REQUEST, Queued},
    ids::{Amount, DebitNumber, GatewayNumber, JournalNumber},
    price::{PriceTable, Usage},
};
use tokio::time::timeout_at;

use crate::{
    account::{Account, Reservation, Step},
    ask::Ask,
    job::Jobs,
    journal::{Durable, HoldId, HoldRecord, Journal, JournalFailed, Urgency},
    key::Key,
    metrics::Metrics,
    rates::{Pass, Rates},
    refusal::Refusal,
};

mod change;

/// Holds move when this part of their lease's time is left.
pub const EARLY_PART: u32 = 8;

/// How often a waiting request looks again without being told.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Makes and resolves holds.
#[derive(Debug)]
pub struct Holds {
    /// Where they are promised.
    pub journal: Arc<Journal>,
    /// Which gateway this is.
    pub gateway: GatewayNumber,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How much per minute is let in.
    pub rates: Arc<Rates>,
    /// Work for the chain's side.
    pub jobs: Jobs,
    /// How long a request may wait near the end of a balance.
    pub wait: Duration,
    /// Most debits that may be waiting for the chain; beyond it nothing new
    /// is served.
    pub max_unproven: usize,
    /// Nothing new is served: stopping, or fenced.
    pub stopped: AtomicBool,
    /// Holds that are not resolved.
    pub running: AtomicUsize,
}

/// A promise: up to `limit` of a lease is reserved for one request.
#[derive(Debug)]
pub struct Hold {
    holds: Arc<Holds>,
    account: Arc<Account>,
    key: Arc<Key>,
    prices: Arc<PriceTable>,
    model: usize,
    /// As it stands in the journal.
    pub record: HoldRecord,
    /// Output tokens that it pays for.
    pub output: u32,
    /// The prompt's tokens, if the engine counted them.
    pub exact: Option<u32>,
    /// Where the request waited for the engine that has it. Not journalled:
    /// it is known only after the hold was promised.
    pub queued: Queued,
    /// The client's own name of the request, for logs.
    pub request: Option<Box<str>>,
    /// What it counts for in the limits per minute.
    pass: Pass,
    started: Instant,
    resolved: bool,
}

/// A resolved hold.
#[derive(Debug)]
pub struct Settled {
    /// Price of the usage and the fee.
    pub cost: Amount,
    /// What the account pays.
    pub charged: Amount,
    /// The debit's number in the journal.
    pub debit: DebitNumber,
    /// The flags it carries.
    pub flags: Flags,
    /// Its fsync.
    pub durable: Durable,
}

/// Text of a hold's id: `gateway-journal-hold`.
pub fn receipt_id(gateway: GatewayNumber, hold: HoldId) -> String {
    format!("{gateway}-{}-{}", hold.journal, hold.number)
}

/// Reads the text of a hold's id.
pub fn parse_receipt_id(text: &str) -> Option<(GatewayNumber, HoldId)> {
    let mut parts = text.split('-');
    let gateway = parts.next()?.parse().ok()?;
    let journal = parts.next()?.parse().ok()?;
    let number = parts.next()?.parse().ok()?;
    let id = HoldId {
        journal: JournalNumber(journal),
        number,
    };
    parts
        .next()
        .is_none()
        .then_some((GatewayNumber(gateway), id))
}

/// The debit that settles a hold of a request that waited as `queued` says.
pub fn debit_of(
    hold: &HoldRecord,
    usage: Usage,
    flags: Flags,
    duration: u32,
    queued: Queued,
) -> Debit {
    let mut salt = [0; 16];
    rand::thread_rng().fill_bytes(&mut salt);
    Debit {
        fixed: Fixed {
            version: DEBIT_VERSION,
            kind: KIND_REQUEST,
            flags,
            account: hold.account,
            class: hold.class,
            api_key: hold.api_key,
            lease: hold.lease,
            limit: hold.limit,
            fee: hold.fee,
        },
        detail: Detail {
            salt,
            model: hold.model,
            table: hold.table,
            usage,
            hold_journal: hold.id.journal,
            hold: hold.id.number,
            project: hold.project,
            purpose: hold.purpose,
            arrival: hold.arrival,
            duration,
            request: hold.request,
            queued: Some(queued),
        },
    }
}

/// What a hold is charged when nothing better is known: its last mark, else
/// its worst case. Never zero by ignorance.
pub fn fallback(hold: &HoldRecord) -> Usage {
    hold.mark.unwrap_or(hold.worst)
}

/// Settles what was held before a restart, at the last marks. Returns how
/// many; the debits are durable.
pub async fn settle_recovered(journal: &Journal) -> Result<usize, JournalFailed> {
    let mut held: Vec<HoldRecord> = journal.look(|state| state.holds.values().copied().collect());
    held.sort_unstable_by_key(|hold| hold.id);
    let mut last = None;
    for hold in &held {
        // Where it waited died with the process.
        let queued = Queued::default();
        let debit = debit_of(hold, fallback(hold), Flags::ESTIMATED, 0, queued);
        last = journal.debit(&debit).or(last);
    }
    if let Some((_, durable)) = last {
        durable.wait().await?;
    }
    Ok(held.len())
}

impl Holds {
    /// Nothing new is served from now on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Reserves what `ask` needs, waiting near the end of a balance. The
    /// returned promise holds once it is durable.
    pub async fn authorize(
        self: &Arc<Self>,
        ask: &Ask,
        urgency: Urgency,
    ) -> Result<(Hold, Durable), Refusal> {
        let nobody = std::future::ready(None);
        self.authorize_counting(ask, nobody, urgency).await
    }

    /// The same; `count` counts the prompt's tokens. It is only polled if the
    /// bound does not fit.
    pub async fn authorize_counting(
        self: &Arc<Self>,
        ask: &Ask,
        count: impl Future<Output = Option<u32>>,
        urgency: Urgency,
    ) -> Result<(Hold, Durable), Refusal> {
        if self.stopped.load(Ordering::Relaxed) || !self.journal.works() {
            return Err(Refusal::NotServing);
        }
        if self.journal.unproven() >= self.max_unproven {
            return Err(Refusal::Unreachable);
        }
        let account = &ask.key.account;
        let pass = self.rates.admit(ask)?;
        if account.waiting.load(Ordering::Relaxed) == 0 {
            match self.step(ask) {
                Step::Reserved(reservation) => {
                    return self.reserved(ask, reservation, pass, urgency);
                }
                Step::Refuse(refusal) => return Err(refusal),
                Step::Wait | Step::Count => {}
            }
        }
        let mut ask = ask.clone();
        match self.queue(&mut ask, count).await {
            Ok(reservation) => self.reserved(&ask, reservation, pass, urgency),
            Err(refusal) => {
                // It may have been the last to want a lease that others want.
                self.give_back(account);
                Err(refusal)
            }
        }
    }

    /// Gives back what the account does not need any more.
    pub(crate) fn give_back(&self, account: &Arc<Account>) {
        let mut jobs = Vec::new();
        account.returns(Instant::now(), false, &mut jobs);
        self.jobs.send_all(jobs);
    }

    fn step(&self, ask: &Ask) -> Step {
        let mut jobs = Vec::new();
        let step = ask.key.account.step(ask, Instant::now(), &mut jobs);
        self.jobs.send_all(jobs);
        step
    }

    /// Waits in the account's lane until the request can go, or may not. The
    /// prompt is counted at most once, if possible while others have their
    /// turn.
    async fn queue(
        &self,
        ask: &mut Ask,
        count: impl Future<Output = Option<u32>>,
    ) -> Result<Reservation, Refusal> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        tokio::pin!(count);
        let account = ask.key.account.clone();
        account.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&account.waiting);
        self.metrics.waited.inc();
        let deadline = tokio::time::Instant::now() + self.wait;
        let turn = timeout_at(deadline, account.lane.lock());
        let turn = if account.must_count(ask, Instant::now()) {
            // The lane is entered first: order of arrival is kept.
            let (turn, counted) = tokio::join!(turn, self.count(ask, count.as_mut()));
            counted?;
            turn
        } else {
            turn.await
        };
        let Ok(_turn) = turn else {
            return Err(Refusal::Busy);
        };
        loop {
            let changed = account.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.step(ask) {
                Step::Reserved(reservation) => return Ok(reservation),
                Step::Refuse(refusal) => return Err(refusal),
                Step::Wait => {}
                Step::Count => {
                    self.count(ask, count.as_mut()).await?;
                    continue;
                }
            }
            if self.stopped.load(Ordering::Relaxed) || !ask.key.is_live_now() {
                return Err(Refusal::NotServing);
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Err(Refusal::Busy);
            }
            let _ = timeout_at(deadline.min(now + LOOK_AGAIN), changed).await;
        }
    }

    /// Replaces the bound of `ask` by what is counted.
    async fn count(
        &self,
        ask: &mut Ask,
        count: Pin<&mut impl Future<Output = Option<u32>>>,
    ) -> Result<(), Refusal> {
        self.metrics.counted_prompts.inc();
        ask.counted(count.await)
    }

    /// Makes the hold, if its class may be used so much.
    fn reserved(
        self: &Arc<Self>,
        ask: &Ask,
        reservation: Reservation,
        mut pass: Pass,
        urgency: Urgency,
    ) -> Result<(Hold, Durable), Refusal> {
        if let Err(refusal) = pass.with_class(ask, reservation.class, reservation.output) {
            let (account, limit) = (&ask.key.account, reservation.limit);
            account.released(reservation.lease, limit, 0, None);
            self.give_back(account);
            return Err(refusal);
        }
        Ok(self.promise(ask, reservation, pass, urgency))
    }

    fn promise(
        self: &Arc<Self>,
        ask: &Ask,
        reservation: Reservation,
        pass: Pass,
        urgency: Urgency,
    ) -> (Hold, Durable) {
        let mut record = HoldRecord {
            // Given by the journal.
            id: HoldId {
                journal: JournalNumber(0),
                number: 0,
            },
            lease: reservation.lease,
            account: ask.key.account.number,
            class: reservation.class,
            api_key: ask.key.number,
            model: ask.model().number,
            table: ask.prices.version,
            limit: Amount(reservation.limit),
            fee: ask.fee,
            worst: reservation.worst,
            mark: ask.mark,
            arrival: ask.arrival,
            project: ask.project,
            purpose: ask.purpose,
            request: ask.request,
        };
        let durable = self.journal.hold_named(&mut record, ask.named, urgency);
        self.running.fetch_add(1, Ordering::Relaxed);
        let hold = Hold {
            holds: self.clone(),
            account: ask.key.account.clone(),
            key: ask.key.clone(),
            prices: ask.prices.clone(),
            model: ask.model,
            record,
            output: reservation.output,
            exact: ask.exact,
            queued: Queued::default(),
            request: None,
            pass,
            started: Instant::now(),
            resolved: false,
        };
        (hold, durable)
    }
}

impl Hold {
    /// Its name.
    pub fn id(&self) -> HoldId {
        self.record.id
    }

    /// Its name as text.
    pub fn receipt(&self) -> String {
        receipt_id(self.holds.gateway, self.record.id)
    }

    /// At which gateway.
    pub fn gateway(&self) -> GatewayNumber {
        self.holds.gateway
    }

    /// What the request is called in logs, as its client is told.
    pub fn request_id(&self) -> String {
        let own = self.request.as_deref();
        own.map_or_else(|| self.receipt(), str::to_owned)
    }

    /// The model's price.
    pub fn model(&self) -> &tally_ledger::price::Model {
        &self.prices.models[self.model]
    }

    /// What the account can still spend of the hold's class.
    pub fn remaining(&self) -> Amount {
        self.account.remaining(self.record.class)
    }

    /// Writes what is left of the limits per minute.
    pub fn tell_rates(&self, headers: &mut http::HeaderMap) {
        self.holds.rates.tell(&self.key, headers);
    }

    /// Why the request must be cut short, if it must: its account was frozen
    /// or its key revoked.
    pub fn cut(&self) -> Option<Refusal> {
        if self.key.revoked.load(Ordering::Relaxed) {
            return Some(Refusal::InvalidKey);
        }
        self.account.is_frozen().then_some(Refusal::Frozen)
    }

    /// Remembers what was used so far, within a second durably.
    pub fn mark(&mut self, usage: Usage) {
        self.record.mark = Some(usage);
        self.holds.journal.progress(self.record.id, usage);
    }

    /// Settles with `usage`.
    pub fn settle(mut self, usage: Usage, flags: Flags) -> Settled {
        self.settle_now(usage, flags)
    }

    fn settle_now(&mut self, mut usage: Usage, mut flags: Flags) -> Settled {
        // Usage without a price (a subset above its whole from a caller) is
        // replaced, so that the ledger accepts every number.
        let cost = self
            .model()
            .cost(&usage, self.record.fee)
            .unwrap_or_else(|_| {
                usage = fallback(&self.record);
                flags = flags.with(Flags::ESTIMATED);
                let cost = self.model().cost(&usage, self.record.fee);
                cost.unwrap_or(self.record.limit)
            });
        if cost > self.record.limit {
            flags = flags.with(Flags::CAPPED);
            self.holds.metrics.capped.inc();
            tracing::warn!(
                request = self.request_id(),
                hold = self.receipt(),
                "usage above the hold: charged the hold"
            );
        }
        let charged = cost.min(self.record.limit);
        self.pass.settle(&self.prices.models[self.model], &usage);
        let millis = u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX);
        let debit = debit_of(&self.record, usage, flags, millis, self.queued);
        let (number, durable) = self
            .holds
            .journal
            .debit(&debit)
            .expect("a hold is resolved once: by its only handle");
        self.finish(charged, Some(number));
        self.holds.metrics.debits.inc();
        Settled {
            cost,
            charged,
            debit: number,
            flags,
            durable,
        }
    }

    /// Resolves it without a charge: nothing was served.
    pub fn void(mut self) -> Durable {
        let durable = self
            .holds
            .journal
            .void(self.record.id)
            .expect("a hold is resolved once: by its only handle");
        self.finish(Amount::ZERO, None);
        self.holds.metrics.voids.inc();
        durable
    }

    fn finish(&mut self, charged: Amount, debit: Option<DebitNumber>) {
        self.resolved = true;
        let limit = self.record.limit.0;
        self.account
            .released(self.record.lease, limit, charged.0, debit);
        self.holds.give_back(&self.account);
        self.holds.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.resolved {
            self.settle_now(fallback(&self.record), Flags::ESTIMATED);
        }
    }
}
