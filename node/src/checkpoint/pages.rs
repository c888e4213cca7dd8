//! `/checkpoint` and `/tile/...`, as C2SP tlog-tiles names them: what a
//! monitor or a mirror needs to follow the log.
//!
//! Tiles are read from the log's files. A bundle of entries holds the leaves,
//! 86 bytes of a receipt or 58 of an event: these are what the tree is over.
//! Details and events, whose hashes the leaves carry, are asked for by gRPC.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tally_ledger::{
    merkle::leaf_hash,
    tile::{TileKind, TileName, push_entry},
};
use tokio::task::spawn_blocking;

use super::Board;
use crate::{
    storage::{LogReader, logfile::LogFileError},
    store::Store,
    view::ReadError,
};

const TEXT: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
const BYTES: (HeaderName, &str) = (header::CONTENT_TYPE, "application/octet-stream");
/// A tile never changes.
const FOR_GOOD: (HeaderName, &str) = (header::CACHE_CONTROL, "public, max-age=31536000, immutable");
const NOT_KEPT: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

/// The pages of a board.
pub(crate) fn pages(board: Arc<Board>) -> Router {
    Router::new()
        .route("/checkpoint", get(show_checkpoint))
        .route("/tile/{*name}", get(show_tile))
        .with_state(board)
}

async fn show_checkpoint(State(board): State<Arc<Board>>) -> Response {
    match spawn_blocking(move || board.served()).await {
        Ok(Some(signed)) => ([TEXT, NOT_KEPT], signed.note.to_string()).into_response(),
        Ok(None) => {
            let why = "no checkpoint yet: a quorum of validators signs one at the first block of \
                       each period\n";
            (StatusCode::NOT_FOUND, [TEXT, NOT_KEPT], why).into_response()
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn show_tile(State(board): State<Arc<Board>>, Path(name): Path<String>) -> Response {
    let Some(name) = TileName::parse(&format!("tile/{name}")) else {
        return (StatusCode::NOT_FOUND, [NOT_KEPT], "no name of a tile\n").into_response();
    };
    match spawn_blocking(move || tile(&board, &name)).await {
        Ok(Ok(Some(bytes))) => ([BYTES, FOR_GOOD], bytes).into_response(),
        Ok(Ok(None)) => (StatusCode::NOT_FOUND, [NOT_KEPT], "the log is shorter\n").into_response(),
        Ok(Err(error)) => {
            tracing::error!(%error, "a tile cannot be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// A tile's bytes; `None`: the committed log does not have it.
fn tile(board: &Board, name: &TileName) -> Result<Option<Vec<u8>>, ReadError> {
    if !name.is_in(board.log_size()) {
        return Ok(None);
    }
    let bytes = tile_bytes(&board.chain().log, name);
    bytes
        .map(Some)
        .map_err(|error| ReadError(error.to_string()))
}

/// A tile of the log of an open store that has it, for exports of a node that
/// does not run.
pub fn home_tile(store: &Store, name: &TileName) -> Result<Vec<u8>, LogFileError> {
    tile_bytes(&store.chain().log, name)
}

fn tile_bytes(log: &LogReader, name: &TileName) -> Result<Vec<u8>, LogFileError> {
    let (start, width) = (name.start(), u64::from(name.width));
    let mut bytes = Vec::new();
    match name.kind {
        TileKind::Entries => {
            for leaf in log.leaves(start, width)? {
                push_entry(&mut bytes, &leaf);
            }
        }
        TileKind::Hashes(0) => {
            for leaf in log.leaves(start, width)? {
                bytes.extend_from_slice(&leaf_hash(&leaf).0);
            }
        }
        TileKind::Hashes(level) => {
            for index in start..start + width {
                let root = log.subtree(8 * u32::from(level), index)?;
                bytes.extend_from_slice(&root.0);
            }
        }
    }
    Ok(bytes)
}
