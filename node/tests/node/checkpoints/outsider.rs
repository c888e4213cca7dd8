//! A witness that runs beside the nodes.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tally_ledger::{
    checkpoint::{LogKeys, SignedCheckpoint},
    crypto::SecretKey,
    note::VerifierKey,
    witness::AddCheckpoint,
};
use tally_node::{
    web::Web,
    witness::{StateFault, Witness, serve},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::net::Net;

pub(crate) const NAME: &str = "council.example/w1";

/// A witness that runs.
pub(crate) struct Outsider {
    pub(super) address: SocketAddr,
    pub(crate) key: VerifierKey,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), StateFault>>,
}

impl Outsider {
    pub(crate) async fn start(net: &Net, listen: SocketAddr, new: bool) -> Self {
        let state = net.dir.path().join("witness");
        let secret = SecretKey::from_seed(&[42; 32]);
        let witness = Witness::open(&state, &net.genesis, NAME, secret, new).unwrap();
        let key = witness.key().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        let (address, task) = serve(listener, Arc::new(witness), stopped).unwrap();
        Self {
            address,
            key,
            stop,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }

    /// The status and body of its answer.
    pub(super) async fn ask(&self, request: &AddCheckpoint) -> (u16, String) {
        let url = format!("http://{}/add-checkpoint", self.address);
        let body = Bytes::from(request.to_string());
        let (status, body) = Web::new().post(&url, body).await.unwrap();
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    }

    /// What it has cosigned last.
    pub(super) async fn latest(&self, log: &LogKeys) -> Option<SignedCheckpoint> {
        let url = format!("http://{}/{}/checkpoint", self.address, log.origin_hash());
        let (status, body) = Web::new().get(&url).await.unwrap();
        (status == 200).then(|| log.read(&body).unwrap())
    }
}
