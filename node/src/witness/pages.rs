//! The witness over HTTP (C2SP tlog-witness).
//!
//! ```text
//! POST /add-checkpoint            200 cosignature | 400 | 403 | 404 | 409 size | 422
//! GET  /<SHA-256 of the origin>/checkpoint    the last one that was cosigned
//! GET  /                          the same in short, for people
//! ```
//!
//! There is no access control but the validators' signatures, and a limit to
//! what connections take. TLS is the business of a proxy in front.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use tally_ledger::{
    checkpoint::Checkpoint,
    witness::{MAX_REQUEST_BYTES, Refused},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};
use tracing::{debug, warn};

use super::{
    NotCosigned, StateFault, Witness,
    connections::{self, Limits},
};

const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of the answer 409.
const SIZE: &str = "text/x.tlog.size";

/// What the handlers share.
struct Shared {
    witness: Arc<Witness>,
    fault: watch::Sender<Option<StateFault>>,
}

/// Serves until `shutdown`, or until the state cannot be written; gives back
/// the address it listens on. The listener comes first and the witness then,
/// which makes its state: a busy port must leave none behind.
pub fn serve(
    listener: TcpListener,
    witness: Arc<Witness>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<(SocketAddr, JoinHandle<Result<(), StateFault>>)> {
    let bound = listener.local_addr()?;
    let (fault, mut faults) = watch::channel(None);
    let router = Router::new()
        .route("/", get(show_status))
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/{origin}/checkpoint", get(show_checkpoint))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(Arc::new(Shared { witness, fault }));
    let mut stop = faults.clone();
    let ended = async move {
        tokio::select! {
            () = shutdown => {}
            _ = stop.wait_for(Option::is_some) => {}
        }
    };
    let task = tokio::spawn(async move {
        connections::serve(listener, router, Limits::default(), ended).await;
        let fault = faults.borrow_and_update().clone();
        fault.map_or(Ok(()), Err)
    });
    Ok((bound, task))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

async fn add_checkpoint(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let witness = shared.witness.clone();
    let added = spawn_blocking(move || witness.add(&body, now())).await;
    let Ok(added) = added else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match added {
        Ok(line) => ([(header::CONTENT_TYPE, TEXT)], line.to_string()).into_response(),
        Err(NotCosigned::Refused(refused)) => {
            let status = StatusCode::from_u16(refused.status());
            let status = status.expect("each refusal has a status of HTTP");
            // Anybody can make it refuse, as often as they like.
            debug!(status = status.as_u16(), %refused, "not cosigned");
            match refused {
                Refused::OtherSize(size) => {
                    (status, [(header::CONTENT_TYPE, SIZE)], format!("{size}\n")).into_response()
                }
                refused => {
                    let text = format!("{refused}\n");
                    (status, [(header::CONTENT_TYPE, TEXT)], text).into_response()
                }
            }
        }
        Err(NotCosigned::Fault(fault)) => {
            warn!(%fault, "the witness stops");
            shared.fault.send_replace(Some(fault));
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn show_checkpoint(
    State(shared): State<Arc<Shared>>,
    Path(origin): Path<String>,
) -> Response {
    let witness = shared.witness.clone();
    let latest = spawn_blocking(move || {
        let known = origin == witness.log().origin_hash();
        known.then(|| witness.latest()).flatten()
    });
    match latest.await {
        Ok(Some(note)) => ([(header::CONTENT_TYPE, TEXT)], note.to_string()).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn show_status(State(shared): State<Arc<Shared>>) -> Response {
    let witness = shared.witness.clone();
    let latest = spawn_blocking(move || {
        let note = witness.latest();
        let time = note.as_ref().and_then(|note| {
            let times = note.verify(std::slice::from_ref(witness.key()));
            times.ok()?[0]
        });
        let checkpoint = note.and_then(|note| Checkpoint::parse(note.text()));
        json!({
            "witness": witness.key().to_string(),
            "log": witness.log().origin(),
            "checkpoint": format!("/{}/checkpoint", witness.log().origin_hash()),
            "size": checkpoint.as_ref().map(|checkpoint| checkpoint.size),
            "root": checkpoint.as_ref().map(|checkpoint| checkpoint.root),
            "cosigned": time,
        })
    });
    match latest.await {
        Ok(status) => Json(status).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
