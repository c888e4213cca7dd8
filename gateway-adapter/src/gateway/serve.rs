//! Listening: HTTP for clients, gRPC for `MeteringService` and for Envoy. All
//! stop taking connections when told, and end when those that run have.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::{
    auth::v3::authorization_server::AuthorizationServer,
    ext_proc::v3::external_processor_server::ExternalProcessorServer,
};
use hyper::body::Incoming;
use tally_proto::v1::metering_service_server::MeteringServiceServer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    cores::Cores,
    envoy::{authorize::Authorize, process::Process},
    live::Live,
    metering::{Metering, MeteringRpc},
    proxy::{Proxy, body::Arriving},
};

use super::connection::{self, Patience};

/// Requests that one connection of Envoy may have at once.
const ENVOY_STREAMS: u32 = 10_000;
/// Bytes of messages that one of them, and one connection, may have on its
/// way.
const ENVOY_WINDOWS: (u32, u32) = (1 << 20, 1 << 24);
/// Bytes of a message beside the request's body.
const ENVOY_MESSAGE: usize = 1 << 20;

/// Longest that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves HTTP/1 and HTTP/2 until `stop`, inside TLS if `tls` is given, on
/// all `cores`, or else where it runs itself.
pub(super) async fn http(
    listener: TcpListener,
    tls: Option<Arc<Live<ServerConfig>>>,
    proxy: Arc<Proxy>,
    (cores, connections): (Option<Arc<Cores>>, Arc<Semaphore>),
    stop: CancellationToken,
) {
    let builder = connection::builder();
    let mut running = JoinSet::new();
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            () = stop.cancelled() => break,
            Some(_) = running.join_next() => continue,
        };
        // It is watched on the thread that serves it, not on this one.
        let Ok(stream) = stream.and_then(|(stream, _)| stream.into_std()) else {
            // Out of files: let some connections end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        // A stream that stalls is cut before that, and charged for itself.
        let patience = Patience::of(proxy.policy.look().stall_time * 2);
        let (builder, stop) = (builder.clone(), stop.clone());
        let proxy = proxy.clone();
        let answer = move |request: http::Request<Incoming>| {
            proxy.clone().answer(request.map(Arriving::Http))
        };
        // With the certificate of now; who is connected keeps his.
        let tls = tls.as_ref().map(|tls| TlsAcceptor::from(tls.get()));
        let served = async move {
            let Ok(stream) = TcpStream::from_std(stream) else {
                return;
            };
            match tls {
                None => connection::serve(&builder, stream, answer, patience, stop).await,
                Some(tls) => {
                    // One that fails or takes too long is its client's affair.
                    let handshake = tokio::time::timeout(HANDSHAKE, tls.accept(stream));
                    if let Ok(Ok(stream)) = handshake.await {
                        connection::serve(&builder, stream, answer, patience, stop).await;
                    }
                }
            }
            drop(permit);
        };
        match &cores {
            Some(cores) => cores.spawn(&mut running, served),
            None => _ = running.spawn(served),
        }
    }
    drop(listener);
    while running.join_next().await.is_some() {}
}

/// Serves `MeteringService` until `stop`.
pub(super) async fn grpc(listener: TcpListener, metering: Arc<Metering>, stop: CancellationToken) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<MeteringServiceServer<MeteringRpc>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tally_proto::FILE_DESCRIPTOR_SET)
        .build_v1();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = tonic::transport::Server::builder();
    let mut router = server
        .add_service(MeteringServiceServer::new(MeteringRpc(metering)))
        .add_service(health);
    if let Ok(reflection) = reflection {
        router = router.add_service(reflection);
    }
    if let Err(error) = router
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
    {
        tracing::error!(%error, "MeteringService ended");
    }
}

/// Serves Envoy until `stop`.
pub(super) async fn envoy(listener: TcpListener, proxy: Arc<Proxy>, stop: CancellationToken) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<ExternalProcessorServer<Process>>()
        .await;
    let most = proxy.body_bytes.saturating_add(ENVOY_MESSAGE);
    // Streams that still run when this is dropped end with it.
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let process = ExternalProcessorServer::new(Process::new(proxy.clone(), cut));
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(ENVOY_STREAMS)
        .initial_stream_window_size(ENVOY_WINDOWS.0)
        .initial_connection_window_size(ENVOY_WINDOWS.1)
        .add_service(process.max_decoding_message_size(most))
        .add_service(AuthorizationServer::new(Authorize::new(proxy)))
        .add_service(health)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the services for Envoy ended");
    }
}
