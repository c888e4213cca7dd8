//! The gRPC services: LedgerService and AuditService, reflection and health.
//!
//! A plain listener is on loopback only ([`NodeConfig::validate`]
//! (crate::config::NodeConfig::validate) sees to it). Who is calling is found
//! out in `login`; what a caller may ask is in `rules`, and every method
//! passes `gate`. Nothing here blocks the runtime: what may touch the disk
//! runs on blocking threads (`reads`), few at a time.

mod audit;
mod encode;
mod finality;
mod gate;
mod histories;
mod ledger;
mod lists;
mod login;
mod places;
mod proofs;
mod proven_block;
mod reads;
mod receipts;
mod rules;
mod units;
mod watch;

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc};

use tally_proto::{
    FILE_DESCRIPTOR_SET, Local,
    v1::{audit_service_server::AuditServiceServer, ledger_service_server::LedgerServiceServer},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Status,
    service::interceptor::InterceptedService,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::{
    access_log::AccessLog,
    config::NodeConfig,
    view::{ReadError, View},
};

/// Why the services cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen for gRPC on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// A file of `[tls]` cannot be read.
    #[error("cannot read {path}, named in [tls]: {error}")]
    TlsFile {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log in {folder}: {error}")]
    AccessLog {
        /// Where.
        folder: std::path::PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The files of `[tls]` are no certificate chain and its key.
    #[error("the files named in [tls] cannot be used: {0}")]
    Tls(#[source] tonic::transport::Error),
    /// The server failed.
    #[error("gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of reflection are broken: our own fault.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves both services until `shutdown`; gives back the address it listens
/// on. `home` is what paths in the configuration are relative to.
pub async fn serve<V: View>(
    config: &NodeConfig,
    home: &Path,
    view: Arc<V>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, JoinHandle<Result<(), RpcError>>), RpcError> {
    let address = config.listen.grpc;
    let listen = |error| RpcError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<LedgerServiceServer<ledger::Service<V>>>()
        .await;
    reporter
        .set_serving::<AuditServiceServer<audit::Service<V>>>()
        .await;
    let limit = config.rpc.max_message_bytes;
    let log = access_log(config, home)?;
    let logins = login::Logins::new(view.clone(), config.rpc.login);
    let ledger = ledger::Service::new(view.clone(), log.clone(), &config.rpc);
    let ledger = LedgerServiceServer::new(ledger).max_decoding_message_size(limit);
    let audit = audit::Service::new(view, log, &config.rpc);
    let audit = AuditServiceServer::new(audit).max_decoding_message_size(64 * 1024);
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .concurrency_limit_per_connection(1024);
    if let Some(tls) = &config.tls {
        let tls = tls_config(tls, home)?;
        server = server.tls_config(tls).map_err(RpcError::Tls)?;
    }
    let router = server
        .add_service(reflection)
        .add_service(health)
        .add_service(InterceptedService::new(ledger, logins.clone()))
        .add_service(InterceptedService::new(audit, logins));
    // The server's own setting does not reach connections that it is handed:
    // without this, the end of each answer waits for an acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let task = tokio::spawn(async move {
        router
            .serve_with_incoming_shutdown(incoming, shutdown)
            .await
            .map_err(RpcError::from)
    });
    Ok((bound, task))
}

fn access_log(config: &NodeConfig, home: &Path) -> Result<AccessLog, RpcError> {
    let folder = home.join("access");
    AccessLog::open(&folder, &config.access_log)
        .map_err(|error| RpcError::AccessLog { folder, error })
}

fn tls_config(tls: &crate::config::Tls, home: &Path) -> Result<ServerTlsConfig, RpcError> {
    let read = |path: &Path| {
        let path = home.join(path);
        std::fs::read(&path).map_err(|error| RpcError::TlsFile { path, error })
    };
    let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
    let mut config = ServerTlsConfig::new().identity(identity);
    if let Some(authority) = &tls.client_ca {
        config = config
            .client_ca_root(Certificate::from_pem(read(authority)?))
            .client_auth_optional(tls.client_optional);
    }
    Ok(config)
}

/// This machine's fault, as a caller sees it.
fn unreadable(error: ReadError) -> Status {
    tracing::error!(%error, "a query could not read the history");
    Local::Unavailable.status("this node cannot read its history now; ask another")
}
