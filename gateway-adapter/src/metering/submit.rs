//! Debits of gateways that hold their own key and journal.
//!
//! A batch is passed on as it is, to one node after another until it is final
//! or refused. Before that its form is checked here, and its signature under
//! the gateway's proven key, so that nobody sends nodes rubbish through this
//! gateway. Whether its number is the next one only the node can tell: those
//! between may be on their way. Of a node's answer the place in the chain is
//! believed only if the gateway's proven leaf has the batch.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use tally_ledger::{
    action::{Action, Debits},
    debit::{MAX_BATCH, Position, record_bytes},
    gateway::Gateway,
    hash::Hash,
    ids::{GatewayNumber, Height},
    reason::Reason,
    transaction::{AuthorKind, BODY_VERSION, Body, Transaction, signing_domain},
    tree::Table,
};
use tally_proto::{Local, error::refusal_of, v1};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};
use tonic::Status;

use crate::chain::{ChainError, light::Light, nodes::Submitted, sign::batch_root};

/// Batches that are passed on at once; each has 3 MiB at most.
const AT_ONCE: usize = 32;
/// How long a batch that names no time is waited for, and the longest time.
const WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Pauses between two rounds over the nodes.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Passes batches on.
#[derive(Debug)]
pub(super) struct Relay {
    light: Arc<Light>,
    /// This gateway sends its own debits itself.
    own: GatewayNumber,
    room: Semaphore,
}

/// A batch whose form is right.
struct Batch {
    transaction: Transaction,
    id: Hash,
    body: Body,
    gateway: GatewayNumber,
    debits: Debits,
}

impl Batch {
    /// Checks what can be said without the chain, in the ledger's order.
    fn read(transaction: Transaction) -> Result<Batch, Status> {
        let id = transaction.id();
        let refused = |reason| refusal_of(reason, Some(&id));
        let version = transaction.body.first();
        if version.is_some_and(|version| *version != BODY_VERSION) {
            return Err(refused(Reason::UnknownVersion));
        }
        let body = Body::decode(&transaction.body).map_err(|_| refused(Reason::Malformed))?;
        let (AuthorKind::Gateway, Action::Debits(debits)) = (body.author.kind, &body.action) else {
            let why = "transaction: only a gateway's Debits are taken here";
            return Err(Local::BadRequest.status(why));
        };
        let (debits, count) = (*debits, debits.count as usize);
        let of = |version: &u8| record_bytes(*version).ok_or(Reason::DebitForm);
        let version = transaction.payload.first().ok_or(Reason::DebitCount);
        let size = version.and_then(of).map_err(refused)?;
        if !(1..=MAX_BATCH).contains(&count) || transaction.payload.len() != count * size {
            return Err(refused(Reason::DebitCount));
        }
        if body.signers[..] != [body.author] {
            return Err(refused(Reason::SignerList));
        }
        if transaction.signatures.len() != 1 {
            return Err(refused(Reason::SignatureCount));
        }
        Ok(Batch {
            gateway: GatewayNumber(body.author.number),
            transaction,
            id,
            body,
            debits,
        })
    }

    /// What the chain's word about the gateway adds.
    fn check(&self, light: &Light, gateway: Option<&Gateway>) -> Result<(), Reason> {
        let gateway = gateway.ok_or(Reason::UnknownSigner)?;
        let domain = signing_domain(self.body.author, &self.body);
        let Transaction {
            body, signatures, ..
        } = &self.transaction;
        if !gateway
            .key
            .verify(domain, &light.chain, body, &signatures[0])
        {
            return Err(Reason::BadSignature);
        }
        let start = Position {
            gateway: self.gateway,
            journal: self.debits.journal,
            number: self.debits.first,
        };
        let behind = start.number.0.checked_add(u64::from(self.debits.count));
        behind.ok_or(Reason::TableFull)?;
        if batch_root(start, &self.transaction.payload) != self.debits.root {
            return Err(Reason::DebitRoot);
        }
        Ok(())
    }

    /// Whether a proven leaf has all of it; `None` if it does not say, as its
    /// journal is a later one.
    fn is_in(&self, leaf: &Gateway) -> Option<bool> {
        let last = self.debits.first.0 + u64::from(self.debits.count) - 1;
        match leaf.journal.cmp(&self.debits.journal) {
            Ordering::Less => Some(false),
            Ordering::Equal => Some(leaf.last_debit.0 >= last),
            Ordering::Greater => None,
        }
    }
}

impl Relay {
    /// For a gateway with this number.
    pub(super) fn new(light: Arc<Light>, own: GatewayNumber) -> Self {
        Relay {
            light,
            own,
            room: Semaphore::new(AT_ONCE),
        }
    }

    /// Until the batch is final, refused, or its time is over.
    pub(super) async fn submit(
        &self,
        request: v1::SubmitDebitsRequest,
    ) -> Result<v1::SubmitDebitsResponse, Status> {
        let busy = |_| Local::Busy.status("too many batches wait; send it again later");
        let _room = self.room.try_acquire().map_err(busy)?;
        let wait = match request.timeout_ms {
            0 => WAIT,
            ms => Duration::from_millis(ms.into()).min(LONGEST_WAIT),
        };
        let deadline = Instant::now() + wait;
        let missing = || Local::BadRequest.status("transaction: is missing");
        let transaction = request.transaction.ok_or_else(missing)?;
        let batch = Batch::read(Transaction::try_from(transaction)?)?;
        if batch.gateway == self.own {
            let why = "this gateway sends its own debits itself, from its own journal";
            return Err(Local::NotAllowed.status(why));
        }
        let passed = async {
            self.check(&batch).await?;
            self.pass(&batch).await
        };
        match timeout_at(deadline, passed).await {
            Ok(answer) => answer,
            Err(_) => Ok(v1::SubmitDebitsResponse {
                id: batch.id.0.to_vec().into(),
                outcome: v1::Outcome::Unknown.into(),
                ..Default::default()
            }),
        }
    }

    async fn check(&self, batch: &Batch) -> Result<(), Status> {
        let (table, number) = (Table::Gateways, batch.gateway.0);
        let proven = self.light.leaf::<Gateway>(table, number, Height(0)).await;
        let proven = proven.map_err(|error| Local::Unavailable.status(error.to_string()))?;
        let checked = batch.check(&self.light, proven.leaf.as_ref());
        checked.map_err(|reason| refusal_of(reason, Some(&batch.id)))
    }

    async fn pass(&self, batch: &Batch) -> Result<v1::SubmitDebitsResponse, Status> {
        let mut pause = PAUSE;
        loop {
            let waits = match self.once(batch).await {
                Ok(answer) => return answer,
                Err(error) => error,
            };
            tracing::warn!(gateway = %batch.gateway, first = %batch.debits.first, error = %waits, "another gateway's debits wait for the chain");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One round over the nodes; an error: nobody could say.
    async fn once(
        &self,
        batch: &Batch,
    ) -> Result<Result<v1::SubmitDebitsResponse, Status>, ChainError> {
        let finality = match self.light.nodes.submit(&batch.transaction).await? {
            Submitted::Final(finality) => finality,
            Submitted::Refused(reason) => return Ok(Err(refusal_of(reason, Some(&batch.id)))),
        };
        let at_least = Height(finality.height);
        let (header, leaf) = self.light.gateway(batch.gateway, at_least).await?;
        let (outcome, finality) = match batch.is_in(&leaf) {
            Some(true) => (v1::Outcome::Final, Some(finality)),
            // The node's word alone; the head says why.
            None => (v1::Outcome::Unknown, None),
            Some(false) => {
                let why = "a node says that debits are final, the gateway's leaf has them not";
                return Err(ChainError::Unproven(why.into()));
            }
        };
        Ok(Ok(v1::SubmitDebitsResponse {
            id: batch.id.0.to_vec().into(),
            outcome: outcome.into(),
            finality,
            head: Some(v1::JournalHead {
                journal: leaf.journal.0,
                last_debit: leaf.last_debit.0,
                hash: leaf.journal_hash.0.to_vec().into(),
                height: header.height.0,
            }),
        }))
    }
}
