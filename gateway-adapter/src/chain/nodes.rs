//! Calls to the nodes: the preferred one first, then the others.
//!
//! Nothing that a node says is believed here; [`super::light`] checks it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tally_ledger::{
    crypto::PublicKey,
    ids::{ApiKeyNumber, GatewayNumber, Height},
    reason::{Reason, Retry},
    transaction::Transaction,
    tree::Table,
};
use tally_proto::{
    LoggedIn, Login, Problem,
    login::may_be_shown_to,
    v1::{
        self, audit_service_client::AuditServiceClient, ledger_service_client::LedgerServiceClient,
    },
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::ChainError;
use crate::journal::HoldId;

/// Largest message that a node may send.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// How long a question may take.
const QUESTION: Duration = Duration::from_secs(3);
/// How long a Submit waits at a node before the same bytes go elsewhere.
const SUBMIT: Duration = Duration::from_secs(5);

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its address, for logs.
    pub address: String,
    channel: Channel,
    login: Login,
}

/// The nodes of a gateway.
#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
    preferred: AtomicUsize,
}

/// What a Submit came to.
#[derive(Debug)]
pub enum Submitted {
    /// It is in the log.
    Final(v1::Finality),
    /// The node refused it at its height.
    Refused(Reason),
}

impl Node {
    /// A node at `address`; connects when first used, and logs in with each
    /// call. A login leaves this machine inside TLS only.
    pub fn new(address: &str, ca: Option<&[u8]>, login: Login) -> Result<Self, ChainError> {
        let address = match address.contains("://") {
            true => address.to_owned(),
            false => format!("http://{address}"),
        };
        let bad = |error: tonic::transport::Error| ChainError::Address {
            address: address.clone(),
            why: error.to_string(),
        };
        let mut endpoint = Endpoint::from_shared(address.clone())
            .map_err(bad)?
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        if address.starts_with("https://") {
            let tls = match ca {
                Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
                None => ClientTlsConfig::new().with_enabled_roots(),
            };
            endpoint = endpoint.tls_config(tls).map_err(bad)?;
        }
        let login = match may_be_shown_to(endpoint.uri()) {
            true => login,
            false => Login::none(),
        };
        Ok(Node {
            channel: endpoint.connect_lazy(),
            login,
            address,
        })
    }

    fn audit(&self) -> AuditServiceClient<LoggedIn> {
        AuditServiceClient::with_interceptor(self.channel.clone(), self.login.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn ledger(&self) -> LedgerServiceClient<LoggedIn> {
        LedgerServiceClient::with_interceptor(self.channel.clone(), self.login.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A leaf with its proof.
    pub async fn leaf(&self, table: Table, number: u32) -> Result<v1::StateProof, Status> {
        let request = v1::GetLeafRequest {
            table: table.id().into(),
            number,
        };
        let answer = timed(self.audit().get_leaf(with_deadline(request))).await?;
        answer.proof.ok_or_else(|| Status::internal("no proof"))
    }

    /// The number of an API key: a hint.
    pub async fn find_api_key(&self, key: &PublicKey) -> Result<Option<ApiKeyNumber>, Status> {
        let request = v1::FindApiKeyRequest {
            key: key.0.to_vec().into(),
        };
        let answer = timed(self.audit().find_api_key(with_deadline(request))).await?;
        Ok(answer.number.map(ApiKeyNumber))
    }

    /// The file of a hold's receipt.
    pub async fn receipt(&self, gateway: GatewayNumber, hold: HoldId) -> Result<Bytes, Status> {
        let by = v1::get_receipt_request::By::Hold(v1::HoldId {
            gateway: gateway.0,
            journal: hold.journal.0,
            number: hold.number,
        });
        let request = v1::GetReceiptRequest { by: Some(by) };
        let answer = timed(self.audit().get_receipt(with_deadline(request))).await?;
        Ok(answer.file)
    }

    /// Control entries from a log index on, with paths.
    pub async fn control(&self, from: u64) -> Result<v1::ListEntriesResponse, Status> {
        let request = v1::ListEntriesRequest {
            of: Some(v1::list_entries_request::Of::Control(true)),
            from,
            limit: 500,
            with_paths: true,
            ..Default::default()
        };
        timed(self.audit().list_entries(with_deadline(request))).await
    }

    /// Headers as they become final, with control entries as hints.
    pub async fn watch(&self) -> Result<tonic::Streaming<v1::WatchResponse>, Status> {
        let request = v1::WatchRequest {
            from_height: 0,
            control_only: true,
            headers_only: false,
        };
        Ok(self.audit().watch(request).await?.into_inner())
    }

    /// The header of a height; 0: the last.
    pub async fn header(&self, height: Height) -> Result<v1::CertifiedHeader, Status> {
        let request = v1::GetHeaderRequest { height: height.0 };
        let answer = timed(self.audit().get_header(with_deadline(request))).await?;
        answer.header.ok_or_else(|| Status::internal("no header"))
    }

    async fn submit(&self, transaction: &v1::Transaction) -> Result<v1::SubmitResponse, Status> {
        let request = v1::SubmitRequest {
            transaction: Some(transaction.clone()),
            wait: v1::Wait::Final.into(),
            timeout_ms: SUBMIT.as_millis() as u32,
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(SUBMIT + QUESTION);
        Ok(self.ledger().submit(request).await?.into_inner())
    }
}

fn with_deadline<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(QUESTION);
    request
}

async fn timed<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(QUESTION, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

impl Nodes {
    /// These nodes, at least one.
    pub fn new(nodes: Vec<Node>) -> Self {
        assert!(!nodes.is_empty(), "the configuration was validated");
        Nodes {
            nodes,
            preferred: AtomicUsize::new(0),
        }
    }

    /// All of them.
    pub fn all(&self) -> &[Node] {
        &self.nodes
    }

    /// The preferred one, then the others.
    pub fn in_order(&self) -> impl Iterator<Item = (usize, &Node)> {
        let first = self.preferred.load(Ordering::Relaxed);
        (0..self.nodes.len()).map(move |i| {
            let i = (first + i) % self.nodes.len();
            (i, &self.nodes[i])
        })
    }

    /// Use this one first from now on.
    pub fn prefer(&self, node: usize) {
        self.preferred.store(node, Ordering::Relaxed);
    }

    /// Hands a transaction in at one node after another, until one has it in
    /// a block or refuses it.
    pub async fn submit(&self, transaction: &Transaction) -> Result<Submitted, ChainError> {
        let message = v1::Transaction::from(transaction.clone());
        let mut last = ChainError::Unreachable("no node".into());
        for (i, node) in self.in_order() {
            match node.submit(&message).await {
                Ok(answer) => match (answer.outcome(), answer.finality) {
                    (v1::Outcome::Final, Some(finality)) => {
                        self.prefer(i);
                        return Ok(Submitted::Final(finality));
                    }
                    _ => last = ChainError::Unreachable(format!("{}: not final", node.address)),
                },
                Err(status) => match Problem::of(&status).and_then(|problem| problem.reason) {
                    Some(reason) if reason.retry() == Retry::Done => {
                        last = ChainError::Unreachable(format!("{}: {reason}", node.address));
                    }
                    Some(reason) => {
                        self.prefer(i);
                        return Ok(Submitted::Refused(reason));
                    }
                    None => last = unreachable(node, &status),
                },
            }
        }
        Err(last)
    }
}

/// What a failed call means.
pub fn unreachable(node: &Node, status: &Status) -> ChainError {
    ChainError::Unreachable(format!(
        "{}: {:?} {}",
        node.address,
        status.code(),
        status.message()
    ))
}

/// Whether the node says that this gateway may not ask.
pub fn is_forbidden(status: &Status) -> bool {
    status.code() == Code::PermissionDenied
}

/// Whether the node says that it does not have what was asked for.
pub fn is_absent(status: &Status) -> bool {
    status.code() == Code::NotFound
}
