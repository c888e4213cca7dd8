//! The way to the engine through Envoy, for one request.
//!
//! Where Envoy has the connection to the engine, the gateway's exchange asks
//! it by one call and gets an answer as from its own connection. Only a
//! body that Envoy has ended ends here, and an answer that never comes is
//! never made up: the exchange learns from the closed way to the client that
//! Envoy's stream is over, as it learns that a client hung up.

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use tokio::sync::{mpsc, oneshot};

use crate::{headers::UPSTREAM, proxy::body::Arriving};

/// What is asked of Envoy.
#[derive(Debug)]
pub(super) struct Call {
    /// As it shall reach the engine.
    pub(super) request: Request<Bytes>,
    /// Where the engine's answer goes.
    pub(super) answer: oneshot::Sender<Response<Arriving>>,
}

/// Takes one call.
#[derive(Debug, Clone)]
pub struct Leg(mpsc::Sender<Call>);

impl Leg {
    /// Both ends.
    pub(super) fn new() -> (Leg, mpsc::Receiver<Call>) {
        let (calls, called) = mpsc::channel(1);
        (Leg(calls), called)
    }

    /// Has Envoy send `request` to `engine`; waits for the answer, for ever
    /// if Envoy's stream is over before that.
    pub async fn call(&self, mut request: Request<Bytes>, engine: &str) -> Response<Arriving> {
        let name = HeaderValue::from_str(engine).ok();
        let headers = request.headers_mut();
        // To Envoy's routes: its `url` of `gateway.toml`.
        headers.extend(name.map(|name| (UPSTREAM, name)));
        let (answer, answered) = oneshot::channel();
        if self.0.send(Call { request, answer }).await.is_ok()
            && let Ok(response) = answered.await
        {
            return response;
        }
        std::future::pending().await
    }
}
