//! A request's body, whole: bounded in size, in the time that it takes to
//! arrive, and in what all bodies in memory have together.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;

use super::{
    Proxy,
    body::{Arriving, Body},
    policy::Policy,
    reply,
};
use crate::{metrics::Metrics, refusal::Refusal};

/// What a body counts for while it is in memory; dropped, it counts no more.
#[derive(Debug)]
pub(super) struct Room {
    metrics: Arc<Metrics>,
    bytes: usize,
}

impl Room {
    /// Room for nothing yet.
    fn new(metrics: &Arc<Metrics>) -> Self {
        Room {
            metrics: metrics.clone(),
            bytes: 0,
        }
    }

    /// Room for so many bytes more, if all together stay below `most`.
    fn grow(&mut self, bytes: usize, most: u64) -> bool {
        let more = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.metrics.bodies.inc_by(more);
        self.bytes += bytes;
        u64::try_from(before.saturating_add(more)).is_ok_and(|all| all <= most)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let bytes = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        self.metrics.bodies.dec_by(bytes);
    }
}

/// All of a request's body.
pub(super) async fn gather(
    proxy: &Proxy,
    policy: &Policy,
    body: Arriving,
) -> Result<(Bytes, Room), Box<Response<Body>>> {
    let whole = tokio::time::timeout(policy.body_time, read(proxy, policy, body));
    let slow = |_| Box::new(proxy.refuse(Refusal::BodySlow));
    whole.await.map_err(slow)?
}

async fn read(
    proxy: &Proxy,
    policy: &Policy,
    mut body: Arriving,
) -> Result<(Bytes, Room), Box<Response<Body>>> {
    let mut room = Room::new(&proxy.serving.metrics);
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let why = "the request's body broke off";
            Box::new(reply::bad_request(why, None))
        })?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        if room.bytes + bytes.len() > proxy.body_bytes {
            return Err(Box::new(reply::too_large(proxy.body_bytes)));
        }
        if !room.grow(bytes.len(), policy.bodies_bytes) {
            return Err(Box::new(proxy.refuse(Refusal::BodiesFull)));
        }
        // Most bodies are one piece, and are not copied.
        if first.is_empty() {
            first = bytes;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&bytes);
        }
    }
    let whole = if rest.is_empty() {
        first
    } else {
        rest.freeze()
    };
    Ok((whole, room))
}
