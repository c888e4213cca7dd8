//! LedgerService: takes transactions in and says what became of them.
//!
//! `Submit` with `WAIT_FINAL` answers `OUTCOME_FINAL` only for a block that
//! is certified and fsynced here. What the ledger refuses after all, beside
//! the others of its block, is answered with the refusal at once. A deadline
//! answers `OUTCOME_UNKNOWN` with the id to ask again: it is no refusal.
//!
//! Nobody has to log in to submit, encode or see the status: what is submitted
//! is signed by keys that the chain knows, and a gateway whose login is late
//! must not lose a debit over it. A transaction is shown to who signed it, and
//! to auditors.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tally_ledger::{
    reason::Reason,
    transaction::{Body, Transaction},
};
use tally_proto::{
    Local,
    convert::{bytes_of, hash},
    error::refusal_of,
    v1::{self, ledger_service_server::LedgerService},
};
use tokio::sync::{Semaphore, broadcast, watch};
use tonic::{Request, Response, Status};

use super::{
    encode::encode,
    finality::finality,
    gate::{Gate, Visit},
    proofs,
    reads::Reads,
    rules::Ask,
    unreadable,
};
use crate::{
    access_log::AccessLog,
    config::Rpc,
    view::{CommittedBlock, NotAdmitted, View},
};

const DEFAULT_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The service.
pub(super) struct Service<V> {
    view: Arc<V>,
    gate: Gate<V>,
    reads: Reads<V>,
    /// Calls that may wait for finality at the same time.
    waiting: Arc<Semaphore>,
}

impl<V: View> Service<V> {
    pub(super) fn new(view: Arc<V>, log: AccessLog, config: &Rpc) -> Self {
        Self {
            gate: Gate::new(view.clone(), log),
            reads: Reads::new(view.clone()),
            waiting: Arc::new(Semaphore::new(config.max_waiting)),
            view,
        }
    }

    /// The finality of a transaction that is in the log.
    async fn find(&self, id: tally_ledger::hash::Hash) -> Result<Option<v1::Finality>, Status> {
        let find = move |view: &V| {
            let Some(place) = view.find_transaction(&id).map_err(unreadable)? else {
                return Ok(None);
            };
            let block = view.block(place.height).map_err(unreadable)?;
            Ok(block.map(|block| finality(&block, place.index)))
        };
        self.reads.run(find).await
    }

    /// Waits until a block brings the transaction, or the ledger refuses it.
    async fn wait(
        &self,
        id: tally_ledger::hash::Hash,
        mut news: News,
        deadline: Instant,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let _place = self.waiting.clone().try_acquire_owned().map_err(|_| {
            Local::Busy.status("too many calls wait for finality here; ask again with the id")
        })?;
        let stopping = || Local::Unavailable.status("the node is stopping");
        let found = loop {
            // Before the first wait too: it may have been refused already.
            if let Some(reason) = self.view.refusal(&id) {
                return self.refused(id, reason).await;
            }
            let block = tokio::select! {
                block = tokio::time::timeout_at(deadline.into(), news.blocks.recv()) => block,
                changed = news.refusals.changed() => {
                    changed.map_err(|_| stopping())?;
                    continue;
                }
            };
            match block {
                Err(_) => return Ok(response(id, v1::Outcome::Unknown, None)),
                Ok(Ok(block)) => {
                    if let Some(index) = block.transactions.iter().position(|other| *other == id) {
                        break finality(&block, index as u32);
                    }
                }
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => {
                    if let Some(finality) = self.find(id).await? {
                        break finality;
                    }
                }
                Ok(Err(broadcast::error::RecvError::Closed)) => return Err(stopping()),
            }
        };
        Ok(response(id, v1::Outcome::Final, Some(found)))
    }

    /// The answer for a transaction that the ledger refuses now. If it is in
    /// the log already, by these bytes or by an earlier try whose answer was
    /// lost, the answer is what became of it.
    async fn refused(
        &self,
        id: tally_ledger::hash::Hash,
        reason: Reason,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        match self.find(id).await? {
            Some(found) => Ok(response(id, v1::Outcome::Final, Some(found))),
            None if reason == Reason::Duplicate => Ok(response(id, v1::Outcome::Unknown, None)),
            None => Err(refusal_of(reason, Some(&id))),
        }
    }
}

/// What somebody who waits is woken by.
struct News {
    blocks: broadcast::Receiver<Arc<CommittedBlock>>,
    refusals: watch::Receiver<()>,
}

/// What a transaction discloses.
fn ask_of(transaction: &Transaction) -> Ask {
    let body = Body::decode(&transaction.body);
    Ask::Transaction(body.map_or_else(|_| Vec::new(), |body| body.signers.to_vec()))
}

fn response(
    id: tally_ledger::hash::Hash,
    outcome: v1::Outcome,
    finality: Option<v1::Finality>,
) -> Response<v1::SubmitResponse> {
    Response::new(v1::SubmitResponse {
        id: bytes_of(&id),
        outcome: outcome.into(),
        finality,
    })
}

#[tonic::async_trait]
impl<V: View> LedgerService for Service<V> {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let started = Instant::now();
        let request = request.into_inner();
        let wait_final = request.wait() == v1::Wait::Final;
        let asked = match request.timeout_ms {
            0 => DEFAULT_WAIT,
            ms => Duration::from_millis(ms.into()).min(LONGEST_WAIT),
        };
        let transaction = request
            .transaction
            .ok_or_else(|| Local::BadRequest.status("transaction: is missing"))?;
        let transaction = Transaction::try_from(transaction)?;
        let id = transaction.id();
        // Subscribed before it is handed in: its block cannot be missed.
        let news = News {
            blocks: self.view.subscribe(),
            refusals: self.view.refusals(),
        };
        let submit = move |view: &V| {
            let transaction = proofs::complete_correction(view, transaction)?;
            Ok(view.submit(transaction))
        };
        match self.reads.run(submit).await? {
            Ok(_) => {}
            Err(NotAdmitted::Busy) => {
                return Err(Local::Busy.status("too many transactions wait; send it again later"));
            }
            Err(NotAdmitted::Refused(reason)) => return self.refused(id, reason).await,
        }
        if !wait_final {
            return Ok(response(id, v1::Outcome::Admitted, None));
        }
        self.wait(id, news, started + asked).await
    }

    async fn encode(
        &self,
        request: Request<v1::EncodeRequest>,
    ) -> Result<Response<v1::EncodeResponse>, Status> {
        let chain = self.view.with_state(|state, _| *state.chain());
        encode(&chain, request.into_inner()).map(Response::new)
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::GetTransactionResponse>, Status> {
        let visit = Visit::of(&request, "GetTransaction");
        self.gate.pass(&visit, &Ask::Login)?;
        let id = hash("id", &request.into_inner().id)?;
        let gate = self.gate.clone();
        let find = move |view: &V| {
            if let Some(place) = view.find_transaction(&id).map_err(unreadable)?
                && let Some(block) = view.block(place.height).map_err(unreadable)?
            {
                let transaction = &block.block.transactions[place.index as usize];
                gate.pass(&visit, &ask_of(transaction))?;
                return Ok(v1::GetTransactionResponse {
                    outcome: v1::Outcome::Final.into(),
                    transaction: Some(transaction.clone().into()),
                    finality: Some(finality(&block, place.index)),
                });
            }
            let waiting = view.waiting(&id);
            if let Some(transaction) = &waiting {
                gate.pass(&visit, &ask_of(transaction))?;
            }
            let outcome = match waiting {
                Some(_) => v1::Outcome::Admitted,
                None => v1::Outcome::Unknown,
            };
            Ok(v1::GetTransactionResponse {
                outcome: outcome.into(),
                transaction: waiting.map(Into::into),
                finality: None,
            })
        };
        self.reads.run(find).await.map(Response::new)
    }

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.reads
            .run(|view| Ok(crate::health::status(view)))
            .await
            .map(Response::new)
    }
}
