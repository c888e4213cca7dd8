//! Whether everything that was acknowledged is there, once, and the same on
//! all validators. Reads the log entry by entry over gRPC; every receipt
//! comes with its file, which must verify against the genesis alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use tally_ledger::{
    debit::Flags,
    genesis::Genesis,
    ids::Amount,
    receipt::{PriceCheck, ReceiptFile},
};
use tally_proto::v1::{
    self, audit_service_client::AuditServiceClient, entry::Fact, get_receipt_request::By,
    list_entries_request::Of,
};
use tonic::transport::Channel;

use crate::{
    http::{Ask, Http, counts, whole_usage},
    load::Served,
};

type Audit = AuditServiceClient<Channel>;

/// How long the ledger may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(120);
/// Receipts that are fetched at the same time.
const IN_FLIGHT: usize = 16;

/// What a receipt says.
#[derive(Debug, Clone, Copy)]
struct Booked {
    index: u64,
    class: u32,
    counts: [u64; 4],
    cost: Amount,
    charged: Amount,
    flags: Flags,
}

/// What is known of the log so far.
#[derive(Debug)]
pub(crate) struct Judge {
    genesis: Genesis,
    grpc: Vec<String>,
    engine: String,
    /// The next entry to be read.
    next: u64,
    /// Receipts by hold.
    receipts: BTreeMap<String, Booked>,
    /// Ids of the transactions that opened accounts.
    opened: BTreeSet<String>,
    /// Served requests that were compared.
    pub(crate) compared: usize,
}

impl Judge {
    /// Knows nothing yet.
    pub(crate) fn new(genesis: Genesis, grpc: Vec<String>, engine: String) -> Self {
        Judge {
            genesis,
            grpc,
            engine,
            next: 0,
            receipts: BTreeMap::new(),
            opened: BTreeSet::new(),
            compared: 0,
        }
    }

    /// How many receipts there are, and how many of them are estimates.
    pub(crate) fn receipts(&self) -> (usize, usize) {
        let estimated = |booked: &&Booked| booked.flags.0 & Flags::ESTIMATED.0 != 0;
        let estimates = self.receipts.values().filter(estimated).count();
        (self.receipts.len(), estimates)
    }

    async fn audit(&self, validator: usize) -> anyhow::Result<Audit> {
        let at = format!("http://{}", self.grpc[validator]);
        let channel = Channel::from_shared(at)?.connect().await?;
        Ok(AuditServiceClient::new(channel).max_decoding_message_size(64 << 20))
    }

    /// Judges a round, as `validator` tells it.
    pub(crate) async fn round(
        &mut self,
        validator: usize,
        served: &BTreeMap<String, Served>,
        finals: &[String],
    ) -> anyhow::Result<()> {
        let mut audit = self.audit(validator).await?;
        self.catch_up(&mut audit, served).await?;
        let supply = audit
            .get_supply(v1::GetSupplyRequest {})
            .await?
            .into_inner();
        let header = supply.header.clone().context("a supply has its header")?;
        self.read(&mut audit).await?;
        self.conserved(&supply)?;
        self.agreed(&header).await?;
        self.compare(served).await?;
        self.compared += served.len();
        self.executed(finals)
    }

    /// Final transactions are there.
    fn executed(&self, finals: &[String]) -> anyhow::Result<()> {
        for id in finals {
            ensure!(self.opened.contains(id), "{id} was final and is not there");
        }
        Ok(())
    }

    /// The checks notice what they are there for: receipts and transactions
    /// that are missing or say something else.
    pub(crate) async fn notices(&self, seen: &mut BTreeMap<String, Served>) -> bool {
        let none = "00".repeat(32);
        let noticed = self.executed(std::slice::from_ref(&none)).is_err();
        let Some((hold, mut served)) = seen.pop_first() else {
            return false;
        };
        let good = served.cost.replace("0.000001".to_owned());
        let altered = BTreeMap::from([(hold.clone(), served)]);
        let noticed = noticed && self.compare(&altered).await.is_err();
        let mut missing = altered;
        if let Some(mut served) = missing.remove(&hold) {
            served.cost = good;
            missing.insert(format!("{hold}0"), served);
        }
        noticed && self.compare(&missing).await.is_err()
    }

    /// Until every served request has its receipt.
    async fn catch_up(
        &mut self,
        audit: &mut Audit,
        served: &BTreeMap<String, Served>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + CATCH_UP;
        loop {
            self.read(audit).await?;
            let missing = served
                .keys()
                .filter(|hold| !self.receipts.contains_key(*hold));
            let missing: Vec<&String> = missing.collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("acknowledged and not there after {CATCH_UP:?}: {missing:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads the log on from where it was read to.
    async fn read(&mut self, audit: &mut Audit) -> anyhow::Result<()> {
        loop {
            let entries = page(audit, self.next).await?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in &entries {
                ensure!(
                    entry.index == self.next,
                    "{} after {}",
                    entry.index,
                    self.next
                );
                self.next += 1;
                if let Some(Fact::Event(event)) = &entry.fact
                    && event.name == "AccountOpened"
                {
                    let id = hex::encode(&event.transaction);
                    ensure!(self.opened.insert(id.clone()), "{id} was executed twice");
                }
            }
            let receipts = entries.iter().filter_map(|entry| match entry.fact {
                Some(Fact::Receipt(_)) => Some(entry.index),
                _ => None,
            });
            let genesis = &self.genesis;
            let fetched: Vec<(String, Booked)> = futures::stream::iter(receipts)
                .map(|index| receipt(audit.clone(), genesis, index))
                .buffered(IN_FLIGHT)
                .try_collect()
                .await?;
            for (hold, booked) in fetched {
                if let Some(other) = self.receipts.insert(hold.clone(), booked) {
                    bail!("two receipts of hold {hold}: {other:?} and {booked:?}");
                }
            }
        }
    }

    /// I1, and the totals are those of the receipts.
    fn conserved(&self, supply: &v1::GetSupplyResponse) -> anyhow::Result<()> {
        let header = supply.header.as_ref().and_then(|h| h.header.as_ref());
        let size = header.context("no header")?.log_size;
        for class in &supply.classes {
            let totals = class.totals.as_ref().context("no totals")?;
            let parts = [
                totals.unvested,
                totals.available,
                totals.leased,
                totals.spent,
                totals.expired,
                totals.revoked,
                totals.surrendered,
            ];
            let sum: u64 = parts.iter().sum();
            ensure!(totals.issued == sum, "I1 does not hold: {totals:?}");
            let ours = self
                .receipts
                .values()
                .filter(|booked| booked.class == class.class && booked.index < size);
            let (mut cost, mut charged) = (0, 0);
            for booked in ours {
                cost += booked.cost.0;
                charged += booked.charged.0;
            }
            let small = |sum: &Option<v1::Sum>| sum.as_ref().map_or(0, |sum| sum.low);
            let told = (small(&totals.costs), totals.spent, small(&totals.loss));
            ensure!(
                told == (cost, charged, cost - charged),
                "class {}: the totals say cost, spent, loss {told:?}, the receipts {cost}, \
                 {charged}",
                class.class
            );
        }
        Ok(())
    }

    /// All validators have this header.
    async fn agreed(&self, wanted: &v1::CertifiedHeader) -> anyhow::Result<()> {
        let header = wanted.header.as_ref().context("no header")?;
        let deadline = Instant::now() + CATCH_UP;
        for validator in 0..self.grpc.len() {
            let mut audit = self.audit(validator).await?;
            let request = v1::GetHeaderRequest {
                height: header.height,
            };
            let found = loop {
                match audit.get_header(request).await {
                    Ok(found) => break found.into_inner().header.context("no header")?,
                    Err(status) if Instant::now() > deadline => bail!(
                        "validator {validator} has no block {} after {CATCH_UP:?}: {status}",
                        header.height
                    ),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            // Hash, log root and state root are in it; certificates differ.
            ensure!(
                found.id == wanted.id && found.header == wanted.header,
                "validator {validator} has {found:?}, another {wanted:?}"
            );
        }
        Ok(())
    }

    /// Served requests are charged what their clients were told.
    async fn compare(&self, served: &BTreeMap<String, Served>) -> anyhow::Result<()> {
        let http = Http::new();
        for (hold, served) in served {
            let booked = self.receipts.get(hold).context("no receipt")?;
            let told = match &served.usage {
                Some(usage) => counts(usage),
                None => self.engines_word(&http, &served.ask).await?,
            };
            let right = booked.counts == told
                && booked.charged == booked.cost
                && booked.flags == Flags(0)
                && served
                    .cost
                    .as_ref()
                    .is_none_or(|cost| *cost == booked.charged.to_string());
            ensure!(
                right,
                "hold {hold}: {served:?}, usage {told:?}, receipt {booked:?}"
            );
        }
        Ok(())
    }

    /// What the engine says of a request: the same each time.
    async fn engines_word(&self, http: &Http, ask: &Ask) -> anyhow::Result<[u64; 4]> {
        let ask = Ask {
            url: self.engine.clone(),
            stream: false,
            ..ask.clone()
        };
        let answer = http.send(&ask).await?;
        let usage = whole_usage(std::str::from_utf8(answer.body())?)?;
        Ok(counts(&usage.context("the engine tells usage")?))
    }

    /// The whole log, read from every validator's own disk, is one.
    pub(crate) async fn same_logs(&self) -> anyhow::Result<()> {
        let mut audits = Vec::new();
        for validator in 0..self.grpc.len() {
            audits.push(self.audit(validator).await?);
        }
        let mut from = 0;
        while from < self.next {
            let mut pages = Vec::new();
            for audit in &mut audits {
                let mut entries = page(audit, from).await?;
                entries.retain(|entry| entry.index < self.next);
                pages.push(entries);
            }
            ensure!(!pages[0].is_empty(), "entry {from} is missing");
            let same = pages.iter().all(|page| *page == pages[0]);
            ensure!(same, "the logs differ after entry {from}");
            from += pages[0].len() as u64;
        }
        Ok(())
    }
}

async fn page(audit: &mut Audit, from: u64) -> anyhow::Result<Vec<v1::Entry>> {
    let request = v1::ListEntriesRequest {
        of: Some(Of::All(true)),
        from,
        limit: 1_000,
        ..Default::default()
    };
    Ok(audit.list_entries(request).await?.into_inner().entries)
}

/// The receipt at an index, proven.
async fn receipt(
    mut audit: Audit,
    genesis: &Genesis,
    index: u64,
) -> anyhow::Result<(String, Booked)> {
    let request = v1::GetReceiptRequest {
        by: Some(By::Index(index)),
    };
    let answer = audit.get_receipt(request).await?.into_inner();
    let verified = ReceiptFile::decode(&answer.file)?.verify(genesis)?;
    ensure!(verified.index == index && verified.price == PriceCheck::Exact);
    let detail = verified.detail.context("details are kept")?;
    let receipt = verified.receipt;
    let hold = format!(
        "{}-{}-{}",
        receipt.position.gateway, detail.hold_journal, detail.hold
    );
    let booked = Booked {
        index,
        class: u32::from(receipt.class.0),
        counts: [0, 1, 2, 3].map(|i| u64::from(detail.usage.0[i])),
        cost: receipt.cost,
        charged: receipt.charged,
        flags: receipt.flags,
    };
    Ok((hold, booked))
}
