//! AuditService: reads history and state. Nothing it answers has to be
//! believed: headers bring certificates, leaves and receipts proofs.

use std::{collections::BTreeSet, sync::Arc};

use tally_ledger::{
    ids::{AccountNumber, ClassNumber, DebitNumber, GatewayNumber, Height, JournalNumber},
    tree::Table,
};
use tally_proto::{
    Local,
    convert::{bytes_of, key},
    v1::{self, audit_service_server::AuditService, get_receipt_request::By},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    blocking, histories, lists, proofs, proven_block::ProvenBlocks, receipts, unreadable, watch,
};
use crate::{
    config::Rpc,
    view::{CommittedBlock, ReceiptName, View},
};

/// The service.
pub(super) struct Service<V> {
    view: Arc<V>,
    blocks: Arc<ProvenBlocks>,
    watches: Arc<Semaphore>,
    histories: Semaphore,
    buffer: usize,
    history_entries: usize,
}

impl<V: View> Service<V> {
    pub(super) fn new(view: Arc<V>, config: &Rpc) -> Self {
        Self {
            view,
            blocks: Arc::default(),
            watches: Arc::new(Semaphore::new(config.max_watches)),
            histories: Semaphore::new(config.max_histories),
            buffer: config.watch_buffer,
            history_entries: config.history_entries,
        }
    }

    fn proof(&self, table: Table, number: u32) -> Result<v1::StateProof, Status> {
        self.view
            .with_state(|state, certificate| proofs::state_proof(state, certificate, table, number))
    }
}

fn no_block(height: u64) -> Status {
    Local::NotFound.status(format!("there is no block {height} here (yet)"))
}

/// Height 0 in a request means the last.
fn height_of<V: View>(view: &V, height: u64) -> Height {
    match height {
        0 => view.with_state(|state, _| state.height()),
        height => Height(height),
    }
}

fn block_at<V: View>(view: &V, height: u64) -> Result<Arc<CommittedBlock>, Status> {
    let block = view.block(height_of(view, height)).map_err(unreadable)?;
    block.ok_or_else(|| no_block(height))
}

/// The log indexes of all receipts that a request names, at most `most`.
fn receipt_indexes<V: View>(
    view: &V,
    request: v1::GetReceiptsRequest,
    most: usize,
) -> Result<BTreeSet<u64>, Status> {
    let v1::GetReceiptsRequest {
        indexes,
        holds,
        debits,
        ..
    } = request;
    let count = indexes.len() + holds.len() + debits.len();
    if count == 0 || count > most {
        let why = format!("name 1 to {most} receipts by index, hold or debit");
        return Err(Local::BadRequest.status(why));
    }
    let indexes = indexes.into_iter().map(By::Index);
    let holds = holds.into_iter().map(By::Hold);
    let named = indexes
        .chain(holds)
        .chain(debits.into_iter().map(By::Debit));
    named.map(|by| receipt_index(view, Some(&by))).collect()
}

fn receipt_index<V: View>(view: &V, by: Option<&By>) -> Result<u64, Status> {
    let name = match by {
        Some(By::Index(index)) => return Ok(*index),
        Some(By::Hold(hold)) => ReceiptName::Hold(
            GatewayNumber(hold.gateway),
            JournalNumber(hold.journal),
            hold.number,
        ),
        Some(By::Debit(debit)) => ReceiptName::Debit(
            GatewayNumber(debit.gateway),
            JournalNumber(debit.journal),
            DebitNumber(debit.number),
        ),
        None => {
            return Err(Local::BadRequest.status("by: name the receipt by index, hold or debit"));
        }
    };
    let found = view.find_receipt(name).map_err(unreadable)?;
    found.ok_or_else(|| Local::NotFound.status("there is no such receipt here (yet)"))
}

#[tonic::async_trait]
impl<V: View> AuditService for Service<V> {
    async fn get_header(
        &self,
        request: Request<v1::GetHeaderRequest>,
    ) -> Result<Response<v1::GetHeaderResponse>, Status> {
        let height = request.into_inner().height;
        let read = move |view: &V| {
            let header = view.header(height_of(view, height)).map_err(unreadable)?;
            let (header, certificate) = header.ok_or_else(|| no_block(height))?;
            Ok(v1::GetHeaderResponse {
                header: Some(v1::CertifiedHeader::new(&header, &certificate)),
            })
        };
        blocking(&self.view, read).await.map(Response::new)
    }

    async fn get_block(
        &self,
        request: Request<v1::GetBlockRequest>,
    ) -> Result<Response<v1::GetBlockResponse>, Status> {
        let height = request.into_inner().height;
        let read = move |view: &V| {
            let found = block_at(view, height)?;
            Ok(v1::GetBlockResponse {
                header: Some(v1::CertifiedHeader::new(
                    &found.block.header,
                    &found.certificate,
                )),
                block: found.block.encode().into(),
                transactions: found.transactions.iter().map(bytes_of).collect(),
                first_entry: found.first_entry,
            })
        };
        blocking(&self.view, read).await.map(Response::new)
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        let number = AccountNumber(request.into_inner().account);
        self.view.with_state(|state, certificate| {
            let account = state
                .account(number)
                .ok_or_else(|| Local::NotFound.status(format!("there is no account {number}")))?;
            let mut answer = v1::GetAccountResponse::new(number, account);
            let proof = proofs::state_proof(state, certificate, Table::Accounts, number.0)?;
            answer.proof = Some(proof);
            Ok(Response::new(answer))
        })
    }

    async fn get_gateway(
        &self,
        request: Request<v1::GetGatewayRequest>,
    ) -> Result<Response<v1::GetGatewayResponse>, Status> {
        let number = GatewayNumber(request.into_inner().gateway);
        self.view.with_state(|state, certificate| {
            let gateway = state
                .gateway(number)
                .ok_or_else(|| Local::NotFound.status(format!("there is no gateway {number}")))?;
            let mut answer = v1::GetGatewayResponse::new(number, gateway);
            let proof = proofs::state_proof(state, certificate, Table::Gateways, number.0)?;
            answer.proof = Some(proof);
            Ok(Response::new(answer))
        })
    }

    async fn get_leaf(
        &self,
        request: Request<v1::GetLeafRequest>,
    ) -> Result<Response<v1::GetLeafResponse>, Status> {
        let request = request.into_inner();
        let table = u8::try_from(request.table).ok();
        let table = Table::ALL
            .into_iter()
            .find(|known| Some(known.id()) == table)
            .ok_or_else(|| Local::BadRequest.status("table: must be 1 to 11"))?;
        let proof = self.proof(table, request.number)?;
        Ok(Response::new(v1::GetLeafResponse { proof: Some(proof) }))
    }

    async fn find_api_key(
        &self,
        request: Request<v1::FindApiKeyRequest>,
    ) -> Result<Response<v1::FindApiKeyResponse>, Status> {
        let key = key("key", &request.into_inner().key)?;
        let number = self
            .view
            .with_state(|state, _| state.api_key_by_public(&key));
        Ok(Response::new(v1::FindApiKeyResponse {
            number: number.map(|number| number.0),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        let request = request.into_inner();
        blocking(&self.view, move |view| lists::list(view, &request))
            .await
            .map(Response::new)
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        let request = request.into_inner();
        let blocks = self.blocks.clone();
        let read = move |view: &V| {
            receipts::receipt(view, &blocks, receipt_index(view, request.by.as_ref())?)
        };
        blocking(&self.view, read).await.map(Response::new)
    }

    async fn get_receipts(
        &self,
        request: Request<v1::GetReceiptsRequest>,
    ) -> Result<Response<v1::GetReceiptsResponse>, Status> {
        let request = request.into_inner();
        let busy = |_| Local::Busy.status("too many files are being gathered; ask again later");
        let _place = self.histories.try_acquire().map_err(busy)?;
        let (blocks, most) = (self.blocks.clone(), self.history_entries);
        let without = request.without_details;
        let read = move |view: &V| {
            let indexes = receipt_indexes(view, request, most)?;
            receipts::together(view, &blocks, &indexes, without)
        };
        blocking(&self.view, read).await.map(Response::new)
    }

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::GetHistoryResponse>, Status> {
        let request = request.into_inner();
        let busy = |_| Local::Busy.status("too many histories are being gathered; ask again later");
        let _place = self.histories.try_acquire().map_err(busy)?;
        let most = self.history_entries;
        blocking(&self.view, move |view| {
            histories::history(view, &request, most)
        })
        .await
        .map(Response::new)
    }

    async fn get_supply(
        &self,
        _request: Request<v1::GetSupplyRequest>,
    ) -> Result<Response<v1::GetSupplyResponse>, Status> {
        self.view.with_state(|state, certificate| {
            let (header, certificate) = proofs::last_certified(state, certificate)?;
            let classes = state.classes().iter().enumerate();
            Ok(Response::new(v1::GetSupplyResponse {
                header: Some(v1::CertifiedHeader::new(header, certificate)),
                classes: classes
                    .map(|(i, class)| v1::ClassInfo::new(ClassNumber(i as u16), class))
                    .collect(),
            }))
        })
    }

    async fn get_consistency(
        &self,
        request: Request<v1::GetConsistencyRequest>,
    ) -> Result<Response<v1::GetConsistencyResponse>, Status> {
        let request = request.into_inner();
        let read = move |view: &V| {
            let last = view.with_state(|state, _| state.log().size());
            let new = if request.new == 0 { last } else { request.new };
            if request.old > new || new > last {
                let why = format!("sizes must satisfy old <= new <= {last}");
                return Err(Local::BadRequest.status(why));
            }
            let path = view.consistency(request.old, new).map_err(unreadable)?;
            Ok(v1::GetConsistencyResponse {
                new,
                path: path.unwrap_or_default().iter().map(bytes_of).collect(),
            })
        };
        blocking(&self.view, read).await.map(Response::new)
    }

    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let place = self
            .watches
            .clone()
            .try_acquire_owned()
            .map_err(|_| Local::Busy.status("too many watchers here; ask another node"))?;
        let last = self.view.with_state(|state, _| state.height());
        let from = match request.from_height {
            0 => Height(last.0 + 1),
            height if height > last.0 + 1 => return Err(no_block(height - 1)),
            height => Height(height),
        };
        let (sender, receiver) = mpsc::channel(self.buffer);
        let filter = watch::Filter::from(&request);
        tokio::spawn(watch::feed(self.view.clone(), filter, from, sender, place));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
