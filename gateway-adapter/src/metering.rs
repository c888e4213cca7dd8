//! `MeteringService`: the same holds for gateways that meter themselves.
//!
//! `Authorize` answers once the hold is durable, `Settle` once the debit is.
//! A hold that nobody settles in its time is charged its worst case, since
//! what was used is not known. An idempotency key gives the same hold as long
//! as that lives. The service is not authenticated; it listens on loopback.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tally_ledger::{
    debit::Flags,
    hash::Hash,
    ids::{Amount, ApiKeyNumber, JournalNumber},
    price::{Model, Usage},
};
use tally_proto::{Local, v1};
use tokio::sync::OnceCell;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    ask::{Ask, Need},
    clock::unix_ms,
    holds::{EARLY_PART, Hold},
    journal::{HoldId, Urgency},
    key::Key,
    refusal::Refusal,
    routing::Upstreams,
    serving::{Serving, Wish},
    usage::{INPUT, OUTPUT},
};

mod rpc;
mod submit;

pub use rpc::MeteringRpc;

/// Maps of holds; each has its own lock.
const SHARDS: usize = 64;
/// Output that a request may have where no engine is configured.
const DEFAULT_OUTPUT: u32 = 4_096;
/// Longest idempotency key.
const MAX_IDEMPOTENCY: usize = 64;

type Idempotency = (ApiKeyNumber, String);

struct Held {
    hold: Hold,
    until: Instant,
    idempotency: Option<Idempotency>,
}

/// The service.
pub struct Metering {
    serving: Arc<Serving>,
    hold_time: Duration,
    relay: submit::Relay,
    upstreams: Arc<Upstreams>,
    held: Vec<Mutex<HashMap<HoldId, Held>>>,
    repeated: Mutex<HashMap<Idempotency, Arc<OnceCell<v1::AuthorizeResponse>>>>,
}

impl std::fmt::Debug for Metering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metering(..)")
    }
}

/// The status of a refusal.
fn status_of(refusal: Refusal) -> Status {
    let code = match refusal.status().as_u16() {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        429 => Code::ResourceExhausted,
        _ => Code::Unavailable,
    };
    let retry = if refusal.retry() { "later" } else { "never" };
    let metadata = HashMap::from([("retry".to_owned(), retry.to_owned())]);
    let details =
        ErrorDetails::with_error_info(refusal.code(), tally_proto::error::DOMAIN, metadata);
    Status::with_error_details(code, refusal.to_string(), details)
}

impl Metering {
    /// The service over `serving`. The largest output of the engines bounds
    /// that of a request which names no bound.
    pub fn new(serving: Arc<Serving>, hold_time: Duration, upstreams: Arc<Upstreams>) -> Self {
        Metering {
            relay: submit::Relay::new(serving.light.clone(), serving.holds.gateway),
            serving,
            hold_time,
            upstreams,
            held: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
            repeated: Mutex::new(HashMap::new()),
        }
    }

    fn shard(&self, id: HoldId) -> MutexGuard<'_, HashMap<HoldId, Held>> {
        let shard = &self.held[(id.number % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repeated(
        &self,
    ) -> MutexGuard<'_, HashMap<Idempotency, Arc<OnceCell<v1::AuthorizeResponse>>>> {
        self.repeated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges the worst case of holds whose time is over; all, if `all`.
    pub fn sweep(&self, all: bool) {
        let now = Instant::now();
        for shard in &self.held {
            let mut held = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for held in held.values_mut() {
                held.hold.keep(self.serving.lease_time / EARLY_PART);
            }
            let over: Vec<HoldId> = held
                .iter()
                .filter(|(_, held)| all || held.until <= now)
                .map(|(id, _)| *id)
                .collect();
            let over: Vec<Held> = over.iter().filter_map(|id| held.remove(id)).collect();
            drop(held);
            for held in over {
                self.forget(&held);
                let worst = held.hold.record.worst;
                tracing::warn!(
                    hold = held.hold.receipt(),
                    "nobody settled a hold: its worst case is charged"
                );
                self.serving.metrics.end("estimated");
                held.hold.settle(worst, Flags::ESTIMATED);
            }
        }
    }

    fn forget(&self, held: &Held) {
        if let Some(idempotency) = &held.idempotency {
            self.repeated().remove(idempotency);
        }
    }

    /// Lets go of a cell that is still empty: another call with the same key
    /// may be filling it, and whoever comes must find that one.
    fn release(&self, name: &Idempotency, cell: Arc<OnceCell<v1::AuthorizeResponse>>) {
        let mut repeated = self.repeated();
        let is_ours = repeated
            .get(name)
            .is_some_and(|known| Arc::ptr_eq(known, &cell));
        // The map's and ours: cells are taken and let go under the map's lock.
        if is_ours && !cell.initialized() && Arc::strong_count(&cell) == 2 {
            repeated.remove(name);
        }
        drop(cell);
    }

    async fn authorized(
        &self,
        key: Arc<Key>,
        request: &v1::AuthorizeRequest,
        idempotency: Option<Idempotency>,
    ) -> Result<v1::AuthorizeResponse, Status> {
        let ask = self.ask(key, request).map_err(status_of)?;
        let (hold, durable) = self
            .serving
            .holds
            .authorize(&ask, Urgency::Now)
            .await
            .map_err(status_of)?;
        let class = hold.record.class;
        let class_name = ask.rules(class).map(|rules| rules.name.clone());
        let response = v1::AuthorizeResponse {
            hold: Some(v1::HoldId {
                gateway: self.serving.holds.gateway.0,
                journal: hold.id().journal.0,
                number: hold.id().number,
            }),
            hold_text: hold.receipt(),
            limit: hold.record.limit.0,
            class: class.0.into(),
            class_name: class_name.unwrap_or_default(),
            max_output: hold.output,
            account: hold.record.account.0,
            table: hold.record.table.0,
            until: unix_ms() + self.hold_time.as_millis() as u64,
        };
        let id = hold.id();
        let held = Held {
            hold,
            until: Instant::now() + self.hold_time,
            idempotency,
        };
        self.shard(id).insert(id, held);
        // If the journal has failed, nothing was promised, and the gateway is
        // stopping.
        durable
            .wait()
            .await
            .map_err(|_| status_of(Refusal::NotServing))?;
        Ok(response)
    }

    fn ask(&self, key: Arc<Key>, request: &v1::AuthorizeRequest) -> Result<Ask, Refusal> {
        let hash = match request.request_hash.len() {
            0 => Hash::ZERO,
            _ => Hash(
                request
                    .request_hash
                    .as_ref()
                    .try_into()
                    .map_err(|_| Refusal::OutOfRange)?,
            ),
        };
        let wish = Wish {
            model: &request.model,
            class: &request.class,
            fee: Amount(request.priority_fee),
            project: request.project,
            purpose: request.purpose,
            request: hash,
            choices: 1,
        };
        let output = match request.max_output {
            0 => self.upstreams.most_output().unwrap_or(DEFAULT_OUTPUT),
            output => output,
        };
        self.serving.ask(key, &wish, |model| {
            if request.bounds.is_empty() {
                let need = Need::Tokens {
                    input: request.input,
                    output,
                    lower: true,
                };
                return Ok((need, None));
            }
            let mut counts = counts_of(model, &request.bounds)?;
            for (name, count) in [(INPUT, request.input), (OUTPUT, output)] {
                if let Some(meter) = model.meter(name) {
                    counts.0[meter] = counts.0[meter].max(count);
                }
            }
            Ok((Need::Exact(counts), None))
        })
    }
}

/// Counts by meter, in the model's order.
fn counts_of(model: &Model, meters: &[v1::MeterCount]) -> Result<Usage, Refusal> {
    let mut usage = Usage::default();
    for meter in meters {
        let index = model.meter(&meter.meter).ok_or(Refusal::OutOfRange)?;
        usage.0[index] = meter.count;
    }
    Ok(usage)
}

/// Lowers subsets to their wholes, so that the usage has a price; whether it
/// had to.
fn fitted(model: &Model, mut usage: Usage) -> (Usage, bool) {
    let before = usage;
    for (i, meter) in model.meters.iter().enumerate() {
        if let Some(whole) = meter.subset_of {
            let others: u32 = model
                .meters
                .iter()
                .enumerate()
                .filter(|(j, other)| *j < i && other.subset_of == Some(whole))
                .fold(0, |sum, (j, _)| sum.saturating_add(usage.0[j]));
            let room = usage.0[usize::from(whole)].saturating_sub(others);
            usage.0[i] = usage.0[i].min(room);
        }
    }
    (usage, usage != before)
}

/// The usage that a request settles with, and how it is known.
fn used(hold: &Hold, request: &v1::SettleRequest) -> Result<(Usage, Flags), Refusal> {
    if request.usage.is_empty() {
        return Ok((hold.record.worst, Flags::ESTIMATED));
    }
    let model = hold.model();
    let (usage, lowered) = fitted(model, counts_of(model, &request.usage)?);
    let known = match request.known() {
        _ if lowered => Flags::ESTIMATED,
        v1::Known::Unspecified | v1::Known::Reported => Flags::default(),
        v1::Known::Counted => Flags::COUNTED,
        v1::Known::Estimated => Flags::ESTIMATED,
    };
    Ok((usage, known))
}

impl Metering {
    /// Makes a hold; answers once it is durable.
    pub async fn authorize(
        &self,
        request: v1::AuthorizeRequest,
    ) -> Result<v1::AuthorizeResponse, Status> {
        let key = match &request.key {
            Some(v1::authorize_request::Key::Bearer(bearer)) => self.serving.key(bearer).await,
            Some(v1::authorize_request::Key::Seed(seed)) => match seed.as_ref().try_into() {
                Ok(seed) => self.serving.pool.key(seed).await,
                Err(_) => Err(Refusal::MissingKey),
            },
            None => Err(Refusal::MissingKey),
        };
        let key = key.map_err(|refusal| {
            self.serving.metrics.refuse(refusal.code());
            status_of(refusal)
        })?;
        let name = request.idempotency_key.clone();
        if name.is_empty() {
            return self.authorized(key, &request, None).await;
        }
        if name.len() > MAX_IDEMPOTENCY {
            return Err(status_of(Refusal::OutOfRange));
        }
        let name = (key.number, name);
        let cell = self.repeated().entry(name.clone()).or_default().clone();
        let result = cell
            .get_or_try_init(|| self.authorized(key, &request, Some(name.clone())))
            .await
            .cloned();
        if result.is_err() {
            self.release(&name, cell);
        }
        result
    }

    /// Charges what a hold used; answers once the debit is durable.
    pub async fn settle(&self, request: v1::SettleRequest) -> Result<v1::SettleResponse, Status> {
        let held = self.take(request.hold.as_ref(), |hold| {
            // Checked before the hold is taken: a mistake can be mended.
            counts_of(hold.model(), &request.usage).map(|_| ())
        })?;
        let (usage, flags) = used(&held.hold, &request).map_err(status_of)?;
        self.serving.metrics.settled(flags);
        let journal = self.serving.holds.journal.number();
        let settled = held.hold.settle(usage, flags);
        settled
            .durable
            .wait()
            .await
            .map_err(|_| status_of(Refusal::NotServing))?;
        Ok(v1::SettleResponse {
            debit: Some(v1::DebitId {
                gateway: self.serving.holds.gateway.0,
                journal: journal.0,
                number: settled.debit.0,
            }),
            cost: settled.cost.0,
            charged: settled.charged.0,
        })
    }

    /// Passes on debits that another gateway has signed.
    pub async fn submit_debits(
        &self,
        request: v1::SubmitDebitsRequest,
    ) -> Result<v1::SubmitDebitsResponse, Status> {
        self.relay.submit(request).await
    }

    /// Gives a hold back; answers once that is durable.
    pub async fn void(&self, request: v1::VoidRequest) -> Result<v1::VoidResponse, Status> {
        let held = self.take(request.hold.as_ref(), |_| Ok(()))?;
        self.serving.metrics.end("void");
        held.hold
            .void()
            .wait()
            .await
            .map_err(|_| status_of(Refusal::NotServing))?;
        Ok(v1::VoidResponse {})
    }
}

impl Metering {
    /// Takes a hold out, if `check` allows.
    fn take(
        &self,
        hold: Option<&v1::HoldId>,
        check: impl FnOnce(&Hold) -> Result<(), Refusal>,
    ) -> Result<Held, Status> {
        let hold = hold.ok_or_else(|| Local::BadRequest.status("hold is missing"))?;
        let id = HoldId {
            journal: JournalNumber(hold.journal),
            number: hold.number,
        };
        let unknown = || Local::NotFound.status("no such hold, or it is resolved already");
        if hold.gateway != self.serving.holds.gateway.0 {
            return Err(unknown());
        }
        let mut shard = self.shard(id);
        let held = shard.get(&id).ok_or_else(unknown)?;
        check(&held.hold).map_err(status_of)?;
        let held = shard.remove(&id).ok_or_else(unknown)?;
        drop(shard);
        self.forget(&held);
        Ok(held)
    }
}
