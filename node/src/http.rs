//! `/metrics` and `/healthz`, and the pages that the node adds, on loopback
//! only: there is no access control.
//!
//! `/healthz` answers 503 when something is wrong, else 200; either way a JSON
//! object with height, mode and what is wrong and what to do about it. That a
//! node only observes is shown, and not wrong: it ends by itself.

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{health, metrics::Metrics, view::View};

/// What the handlers read.
struct Shared<V> {
    view: Arc<V>,
    metrics: Metrics,
}

/// Serves until `shutdown`; gives back the address it listens on.
pub async fn serve<V: View>(
    address: SocketAddr,
    view: Arc<V>,
    metrics: Metrics,
    pages: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<(SocketAddr, JoinHandle<std::io::Result<()>>)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(show_metrics::<V>))
        .route("/healthz", get(show_health::<V>))
        .with_state(Arc::new(Shared { view, metrics }))
        .merge(pages);
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown);
    Ok((bound, tokio::spawn(server.into_future())))
}

async fn show_metrics<V: View>(State(shared): State<Arc<Shared<V>>>) -> impl IntoResponse {
    let view = shared.view.clone();
    let local = tokio::task::spawn_blocking(move || view.local()).await;
    if let Ok(local) = local {
        shared.metrics.disk_free.set(local.disk_free as f64);
        shared.metrics.waiting.set(local.waiting as i64);
        shared.metrics.waiting_bytes.set(local.waiting_bytes as i64);
    }
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = joined(&shared.metrics.text(), &tally_consensus::metrics());
    ([(header::CONTENT_TYPE, format)], text)
}

/// Two expositions as one: only the last ends with the end mark.
fn joined(node: &str, engine: &str) -> String {
    let node = node.trim_end().trim_end_matches("# EOF");
    format!("{node}{engine}")
}

async fn show_health<V: View>(State(shared): State<Arc<Shared<V>>>) -> impl IntoResponse {
    let view = shared.view.clone();
    let status = tokio::task::spawn_blocking(move || health::status(&*view)).await;
    let Ok(status) = status else {
        let stopping = json!({"problems": ["the node is stopping"]});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(stopping));
    };
    // Observing is one of the problems.
    let code = match status.problems.len() > usize::from(status.mode == "observer") {
        false => StatusCode::OK,
        true => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "height": status.height,
        "mode": status.mode,
        "peers": status.peers,
        "since_block_ms": status.since_block_ms,
        "problems": status.problems,
    });
    (code, Json(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expositions_are_joined_with_one_end_mark() {
        let text = joined("a 1\n# EOF\n", "b 2\n# EOF\n");
        assert_eq!(text, "a 1\nb 2\n# EOF\n");
    }
}
