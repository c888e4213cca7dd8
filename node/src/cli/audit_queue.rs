//! `tally gateway audit-queue`: whether gateways served the requests of their
//! queues in the right order, from the debits in the log. The check itself is
//! the ledger's `queue_order`.
//!
//! The node is not believed: the last block comes with a quorum of the
//! genesis's validators, each one before it is named by the id that its
//! successor carries, and a block's transactions are all that its header
//! commits to. So no debit of these blocks can be hidden or altered; one whose
//! detail the node has dropped is counted and not judged.

use std::{collections::BTreeMap, ops::RangeInclusive};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    certified::{CertifiedHeader, Trust},
    codec::List,
    debit::{Debit, raw_debits},
    genesis::Genesis,
    hash::Hash,
    ids::{Amount, Height},
    queue_order::{self, Order, Served},
    receipt::VerifiedReceipt,
    redacted::{Remains, StoredBlock, batch_of},
    transaction::{AuthorKind, Body, Transaction},
};
use tally_proto::v1::{self, get_receipt_request::By};

use super::{
    args::{GenesisArg, parse_amount, runtime},
    client::{Client, NodeArg, failure},
    exit::{Exit, Failure},
    output::{self, Format},
    proven::{block, false_block},
    receipt::{fetch, verify},
};

mod rates;

use rates::Course;

/// Example of the command.
pub(crate) const EXAMPLE: &str = "\
Example:
  tally gateway audit-queue --gateway 0 --from 1 --genesis genesis.json

Of those who wait before an engine, the one with the highest fee and fee unit
per second of waiting is to go next; the unit is the chain's, with all its
changes. What the debits say of their arrival and of their numbers in the queue
is the gateway's signed word; a request that left the queue has no debit.
Requests that came within a minute of a change are not judged: the gateway may
not have known of it yet, or its clock may differ. Exit code 7: the order was not kept.";

/// Blocks that are fetched at the same time.
const IN_FLIGHT: usize = 16;
/// Violations that are shown; all are counted.
const SHOWN: usize = 100;

/// Arguments of `gateway audit-queue`.
#[derive(Debug, clap::Args)]
pub(crate) struct AuditQueue {
    /// Only this gateway's queues
    #[arg(long)]
    gateway: Option<u32>,
    /// First block
    #[arg(long, value_name = "HEIGHT", default_value_t = 1)]
    from: u64,
    /// Last block; 0: the last there is
    #[arg(long, value_name = "HEIGHT", default_value_t = 0)]
    to: u64,
    /// Judge as if a second of waiting had always been worth this, in CT
    #[arg(long, value_name = "CT", value_parser = parse_amount)]
    unit: Option<Amount>,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// The requests of one queue, and their debits' (journal, number).
#[derive(Debug, Default)]
struct Queue {
    served: Vec<Served>,
    debits: Vec<(u32, u64)>,
}

/// What the blocks say, by (gateway, queue).
#[derive(Debug, Default)]
struct Queues {
    queues: BTreeMap<(u32, u32), Queue>,
    /// Debits that name no queue.
    unqueued: u64,
    /// Requests that came when their gateway may not have known the rates.
    unjudged: u64,
    /// Debits whose details the node has not kept.
    dropped: u64,
}

impl Queues {
    /// Takes in the debits of a block.
    fn add_block(&mut self, args: &AuditQueue, course: &Course, block: &StoredBlock) {
        for (index, transaction) in block.block().transactions.iter().enumerate() {
            let Some(batch) = batch_of(block.batches(), index) else {
                let debits = raw_debits(&transaction.payload).map(|raw| raw.read());
                self.add(args, course, transaction, debits);
                continue;
            };
            let debits = batch.remains().map(|(fixed, remains)| match remains {
                Remains::Kept(detail) => Some(Debit {
                    fixed: *fixed,
                    detail: *detail,
                }),
                Remains::Dropped(_) => None,
            });
            self.add(args, course, transaction, debits);
        }
    }

    /// Takes in the debits of a transaction, if it brings any.
    fn add(
        &mut self,
        args: &AuditQueue,
        course: &Course,
        transaction: &Transaction,
        debits: impl Iterator<Item = Option<Debit>>,
    ) {
        let Ok(body) = Body::decode(&transaction.body) else {
            return;
        };
        let (Action::Debits(batch), AuthorKind::Gateway) = (&body.action, body.author.kind) else {
            return;
        };
        let gateway = body.author.number;
        if args.gateway.is_some_and(|wanted| wanted != gateway) {
            return;
        }
        for (number, debit) in (batch.first.0..).zip(debits) {
            let Some(debit) = debit else {
                self.dropped += 1;
                continue;
            };
            let rates = course.at(debit.detail.arrival);
            let Some((queue, served)) = Served::of(&debit, rates.unwrap_or(&course.first)) else {
                self.unqueued += 1;
                continue;
            };
            if rates.is_none() {
                self.unjudged += 1;
                continue;
            }
            let queue = self.queues.entry((gateway, queue)).or_default();
            queue.served.push(served);
            queue.debits.push((batch.journal.0, number));
        }
    }
}

/// Reads blocks, the last one first: each names the id of the one before.
async fn read(
    client: &Client,
    genesis: &Genesis,
    heights: RangeInclusive<u64>,
    mut each: impl FnMut(&StoredBlock),
) -> anyhow::Result<()> {
    let mut trust = Trust::new(genesis)?;
    let mut expected: Option<Hash> = None;
    let mut blocks = futures::stream::iter(heights.rev())
        .map(|height| async move {
            let read = block(client.clone(), height).await?;
            anyhow::Ok((height, read))
        })
        .buffered(IN_FLIGHT);
    while let Some((height, (block, certificate))) = blocks.try_next().await? {
        let header = block.block().header;
        match expected {
            Some(id) if id != header.id() => {
                return Err(false_block(height, "the one after it names another"));
            }
            Some(_) => {}
            None => trust
                .check(&CertifiedHeader {
                    header,
                    certificate,
                    set_changes: List::default(),
                })
                .map_err(|e| false_block(height, e))?,
        }
        if header.height != Height(height) || !block.is_whole() {
            return Err(false_block(height, "its content is not what it commits to"));
        }
        expected = Some(header.previous);
        each(&block);
    }
    Ok(())
}

impl AuditQueue {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let (kept, value) = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            let to = match self.to {
                0 => last(&mut client).await?,
                to => to,
            };
            let from = self.from.max(1);
            if from > to {
                let message = format!("there is no block from {from} to {to}");
                return Err(Failure::error(Exit::Usage, message));
            }
            let course = match self.unit {
                Some(unit) => Course::of(unit),
                None => rates::course(&mut client, &genesis, to).await?,
            };
            let mut queues = Queues::default();
            read(&client, &genesis, from..=to, |block| {
                queues.add_block(&self, &course, block);
            })
            .await?;
            let mut report = Report::default();
            for ((gateway, number), queue) in &queues.queues {
                report.add(*gateway, *number, queue);
            }
            let trust = &mut Trust::new(&genesis)?;
            let found = report.rows(&mut client, trust).await?;
            let value = json!({
                "blocks": format!("{from} to {to}"),
                "requests": queues.unqueued + queues.unjudged + queues.dropped + report.requests,
                "checked": report.requests,
                "not judged, close to a change of the fee unit": queues.unjudged,
                "without a queue": queues.unqueued,
                "without a kept detail": queues.dropped,
                "queues": queues.queues.len(),
                "changes of the fee unit": course.changes.len(),
                "pairs that waited at the same time": report.pairs,
                "pairs in the wrong order": report.passed,
                "violations": report.violations,
                "numbers taken twice": report.duplicates,
                "numbers that cannot be": report.impossible,
                "order kept": if report.is_kept() { "yes" } else { "NO" },
                "found": found,
            });
            anyhow::Ok((report.is_kept(), value))
        })?;
        output::print(format, &value)?;
        Ok(if kept { Exit::Done } else { Exit::Invalid })
    }
}

async fn last(client: &mut Client) -> anyhow::Result<u64> {
    let request = v1::GetHeaderRequest { height: 0 };
    let answer = client.audit.get_header(request).await;
    let header = answer.map_err(|e| failure(&e))?.into_inner().header;
    let header = header.and_then(|header| header.header);
    Ok(header.context("the node's answer lacks the header")?.height)
}

/// A debit, as receipts are asked for.
#[derive(Debug, Clone, Copy)]
struct Name {
    gateway: u32,
    journal: u32,
    number: u64,
}

/// What is wrong with a request, and with whom.
#[derive(Debug)]
struct Found {
    what: &'static str,
    queue: u32,
    of: Name,
    passed: Option<Name>,
}

/// What all queues show.
#[derive(Debug, Default)]
struct Report {
    requests: u64,
    pairs: u64,
    passed: u64,
    violations: u64,
    duplicates: u64,
    impossible: u64,
    found: Vec<Found>,
}

impl Report {
    fn is_kept(&self) -> bool {
        self.violations + self.duplicates + self.impossible == 0
    }

    fn add(&mut self, gateway: u32, number: u32, queue: &Queue) {
        let order = queue_order::check(&queue.served);
        self.requests += queue.served.len() as u64;
        self.pairs = self.pairs.saturating_add(order.pairs);
        self.passed = self.passed.saturating_add(order.passed());
        let Order {
            violations,
            duplicates,
            impossible,
            ..
        } = order;
        self.violations += violations.len() as u64;
        self.duplicates += duplicates.len() as u64;
        self.impossible += impossible.len() as u64;
        let name = |index: usize| {
            let (journal, number) = queue.debits[index];
            Name {
                gateway,
                journal,
                number,
            }
        };
        let found = |what, of: usize, passed: Option<usize>| Found {
            what,
            queue: number,
            of: name(of),
            passed: passed.map(name),
        };
        let wrong = violations
            .iter()
            .map(|one| found("let go too early", one.served, Some(one.passed)));
        let twice = duplicates.iter();
        let twice = twice.map(|index| found("a number taken twice", *index, None));
        let never = impossible.iter();
        let never = never.map(|index| found("let go before it joined", *index, None));
        let room = SHOWN.saturating_sub(self.found.len());
        self.found
            .extend(wrong.chain(twice).chain(never).take(room));
    }

    /// The first things that are wrong, with their receipts as proven.
    async fn rows(&self, client: &mut Client, trust: &mut Trust<'_>) -> anyhow::Result<Vec<Value>> {
        let mut rows = Vec::new();
        for found in &self.found {
            let mut row = json!({ "what": found.what, "queue": found.queue });
            let of = receipt(client, trust, found.of).await?;
            describe(&mut row, "", found.of, &of);
            if let Some(name) = found.passed {
                let passed = receipt(client, trust, name).await?;
                describe(&mut row, "passed ", name, &passed);
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

async fn receipt(
    client: &mut Client,
    trust: &mut Trust<'_>,
    name: Name,
) -> anyhow::Result<VerifiedReceipt> {
    let by = By::Debit(v1::DebitId {
        gateway: name.gateway,
        journal: name.journal,
        number: name.number,
    });
    verify(&fetch(client, by).await?, trust)
}

fn describe(row: &mut Value, which: &str, name: Name, receipt: &VerifiedReceipt) {
    let Name {
        gateway,
        journal,
        number,
    } = name;
    row[format!("{which}debit")] = json!(format!("{gateway}/{journal}/{number}"));
    row[format!("{which}entry")] = json!(receipt.index);
    let detail = receipt.detail.unwrap_or_default();
    let queued = detail.queued.unwrap_or_default();
    row[format!("{which}arrival")] = json!(detail.arrival);
    row[format!("{which}fee")] = json!(receipt.fixed.map(|fixed| fixed.fee));
    row[format!("{which}joined")] = json!(queued.joined);
    let dispatched = queued.joined.saturating_add(queued.dispatched.into());
    row[format!("{which}dispatched")] = json!(dispatched);
}
