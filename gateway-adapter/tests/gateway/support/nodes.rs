//! The chain's nodes: the services that the gateway asks.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use tally_ledger::{
    action::Action,
    crypto::PublicKey,
    entry::Entry,
    transaction::{Body, Transaction},
    tree::Table,
};
use tally_proto::v1::{
    self,
    audit_service_server::{AuditService, AuditServiceServer},
    get_receipt_request::By,
    ledger_service_server::{LedgerService, LedgerServiceServer},
};
use tokio_stream::{Stream, StreamExt, wrappers::BroadcastStream};
use tonic::{Request, Response, Status};

use super::chain::Chain;

/// A node, and its place among the chain's nodes.
#[derive(Clone)]
struct Node(Arc<Chain>, usize);

pub async fn serve(listener: tokio::net::TcpListener, chain: Arc<Chain>, place: usize) {
    let node = Node(chain, place);
    tonic::transport::Server::builder()
        .add_service(LedgerServiceServer::new(node.clone()).max_decoding_message_size(16 << 20))
        .add_service(AuditServiceServer::new(node))
        .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener))
        .await
        .unwrap();
}

impl Node {
    fn up(&self) -> Result<&Chain, Status> {
        let gone = self.0.gone[self.1].load(Ordering::Relaxed);
        match gone || self.0.down.load(Ordering::Relaxed) {
            true => Err(Status::unavailable("down")),
            false => Ok(&self.0),
        }
    }
}

/// A Submit under way, also one whose client gives up.
struct Submitting<'a>(&'a Chain);

impl<'a> Submitting<'a> {
    fn new(chain: &'a Chain) -> Self {
        let now = chain.submitting.fetch_add(1, Ordering::SeqCst) + 1;
        chain.most_submitting.fetch_max(now, Ordering::SeqCst);
        Submitting(chain)
    }
}

impl Drop for Submitting<'_> {
    fn drop(&mut self) {
        self.0.submitting.fetch_sub(1, Ordering::SeqCst);
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this chain"))
}

#[tonic::async_trait]
impl LedgerService for Node {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Answer<v1::SubmitResponse> {
        let chain = self.up()?;
        let transaction = request.into_inner().transaction.unwrap();
        let transaction = Transaction::try_from(transaction)?;
        let body = Body::decode(&transaction.body).unwrap();
        let refuses = *chain.refuse_debits.lock().unwrap();
        if let (Action::Debits(_), Some(reason)) = (body.action, refuses) {
            return Err(tally_proto::error::refusal(reason));
        }
        let submitting = Submitting::new(chain);
        while chain.slow.load(Ordering::Relaxed) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        drop(submitting);
        let finality = chain
            .block(Some(&transaction))
            .map_err(tally_proto::error::refusal)?;
        if chain.mute.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(v1::SubmitResponse {
            id: transaction.id().0.to_vec().into(),
            outcome: v1::Outcome::Final.into(),
            finality: Some(finality),
        }))
    }
    async fn encode(&self, _: Request<v1::EncodeRequest>) -> Answer<v1::EncodeResponse> {
        not_here()
    }
    async fn get_transaction(
        &self,
        _: Request<v1::GetTransactionRequest>,
    ) -> Answer<v1::GetTransactionResponse> {
        not_here()
    }
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        not_here()
    }
}

#[tonic::async_trait]
impl AuditService for Node {
    async fn get_unit_totals(
        &self,
        _: Request<v1::GetUnitTotalsRequest>,
    ) -> Answer<v1::GetUnitTotalsResponse> {
        not_here()
    }

    async fn who_am_i(&self, _: Request<v1::WhoAmIRequest>) -> Answer<v1::WhoAmIResponse> {
        not_here()
    }

    async fn list_access(
        &self,
        _: Request<v1::ListAccessRequest>,
    ) -> Answer<v1::ListAccessResponse> {
        not_here()
    }

    async fn get_header(&self, _: Request<v1::GetHeaderRequest>) -> Answer<v1::GetHeaderResponse> {
        not_here()
    }
    async fn get_block(&self, _: Request<v1::GetBlockRequest>) -> Answer<v1::GetBlockResponse> {
        not_here()
    }
    async fn get_account(
        &self,
        _: Request<v1::GetAccountRequest>,
    ) -> Answer<v1::GetAccountResponse> {
        not_here()
    }
    async fn get_gateway(
        &self,
        _: Request<v1::GetGatewayRequest>,
    ) -> Answer<v1::GetGatewayResponse> {
        not_here()
    }
    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Answer<v1::GetReceiptResponse> {
        let Some(By::Hold(hold)) = request.into_inner().by else {
            return not_here();
        };
        let absent = || Status::not_found("no such receipt");
        let file = self.up()?.receipt_file(&hold).ok_or_else(absent)?;
        Ok(Response::new(v1::GetReceiptResponse {
            file: file.encode().into(),
            ..Default::default()
        }))
    }
    async fn get_history(
        &self,
        _: Request<v1::GetHistoryRequest>,
    ) -> Answer<v1::GetHistoryResponse> {
        not_here()
    }
    async fn get_receipts(
        &self,
        _: Request<v1::GetReceiptsRequest>,
    ) -> Answer<v1::GetReceiptsResponse> {
        not_here()
    }
    async fn get_supply(&self, _: Request<v1::GetSupplyRequest>) -> Answer<v1::GetSupplyResponse> {
        not_here()
    }
    async fn get_consistency(
        &self,
        _: Request<v1::GetConsistencyRequest>,
    ) -> Answer<v1::GetConsistencyResponse> {
        not_here()
    }

    async fn get_leaf(&self, request: Request<v1::GetLeafRequest>) -> Answer<v1::GetLeafResponse> {
        let request = request.into_inner();
        let inner = self.up()?.inner.lock().unwrap();
        let table = Table::try_from(request.table as u8).unwrap();
        let withheld = self.0.withholds_parameters.load(Ordering::Relaxed);
        if table == Table::Parameters && withheld {
            return Err(Status::unavailable("withheld"));
        }
        let proof = inner.state.prove(table, request.number);
        let (header, certificate) = inner.header.as_ref().unwrap();
        let proof = v1::StateProof {
            header: Some(v1::CertifiedHeader::new(header, certificate)),
            table: request.table,
            number: request.number,
            leaf: None,
            proof: proof.encode().into(),
            file: Default::default(),
        };
        Ok(Response::new(v1::GetLeafResponse { proof: Some(proof) }))
    }

    async fn find_api_key(
        &self,
        request: Request<v1::FindApiKeyRequest>,
    ) -> Answer<v1::FindApiKeyResponse> {
        let key = PublicKey(request.into_inner().key.as_ref().try_into().unwrap());
        let number = self
            .up()?
            .inner
            .lock()
            .unwrap()
            .state
            .api_key_by_public(&key);
        Ok(Response::new(v1::FindApiKeyResponse {
            number: number.map(|number| number.0),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Answer<v1::ListEntriesResponse> {
        let request = request.into_inner();
        let inner = self.up()?.inner.lock().unwrap();
        let size = inner.entries.len() as u64;
        let mut entries = Vec::new();
        for (index, entry) in (0..).zip(&inner.entries).skip(request.from as usize) {
            if matches!(entry, Entry::Event(leaf, _) if leaf.control > 0) {
                let mut proto = v1::Entry::new(index, entry);
                let path = inner.log.inclusion(index, size).unwrap();
                proto.path = path.iter().map(|hash| hash.0.to_vec().into()).collect();
                entries.push(proto);
            }
        }
        let (header, certificate) = inner.header.as_ref().unwrap();
        Ok(Response::new(v1::ListEntriesResponse {
            entries,
            next: 0,
            header: Some(v1::CertifiedHeader::new(header, certificate)),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let blocks = BroadcastStream::new(self.up()?.blocks.subscribe());
        let blocks = blocks.map(|block| block.map_err(|_| Status::aborted("slow")));
        Ok(Response::new(Box::pin(blocks)))
    }
}
