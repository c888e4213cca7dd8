//! `DELETE /v1/tally/key`: the caller's API key revokes itself, for good.
//!
//! The transaction is signed by the key alone. The answer comes once it is in
//! the log; then no new request of the key is served here, and its running
//! streams are cut. Other gateways follow within a block.

use http::Response;
use rand::RngCore;
use serde_json::json;
use tally_ledger::{
    action::Action,
    reason::Reason,
    transaction::{Body as Signed, Transaction},
};

use super::{Body, Proxy, found, unreachable};
use crate::{
    chain::{ChainError, nodes::Submitted},
    key::Key,
};

/// Clock hours for which the transaction is valid, this one included.
const HOURS: u32 = 2;

pub(super) async fn answer(
    proxy: &Proxy,
    key: &Key,
) -> Result<Response<Body>, Box<Response<Body>>> {
    let _turn = proxy.asking.acquire().await;
    let light = &proxy.serving.light;
    let mut id = [0; 16];
    rand::thread_rng().fill_bytes(&mut id);
    let until = light.time().hour().saturating_add(HOURS);
    let action = Action::RevokeApiKey(key.number);
    let body = Signed::new(key.number.into(), &[], id, until, action);
    let transaction = Transaction::sign(&light.chain, &body, &[&key.secret], Vec::new());
    let height = match light.nodes.submit(&transaction).await {
        Ok(Submitted::Final(finality)) => Some(finality.height),
        // An earlier attempt whose answer was lost.
        Ok(Submitted::Refused(Reason::AlreadyRevoked)) => None,
        Ok(Submitted::Refused(reason)) => {
            let error = ChainError::Unreachable(format!("a node refuses it: {reason}"));
            return Err(unreachable(proxy, &error));
        }
        Err(error) => return Err(unreachable(proxy, &error)),
    };
    proxy.serving.pool.revoke(key.number);
    Ok(found(&json!({
        "object": "tally.key",
        "number": key.number,
        "deleted": true,
        "height": height,
    })))
}
