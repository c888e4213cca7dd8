//! `GET /v1/tally/receipts/{id}`: the receipt of one of the caller's own
//! requests; `id` is what `x-tally-receipt` said.
//!
//! While the request runs or its debit is not on the chain the answer is 202
//! with a status; then 200 with the receipt, checked here against the
//! genesis, and the file that proves it: in `proof`, or alone with `accept:
//! application/octet-stream`. `tally receipt verify FILE --genesis G` checks
//! it again without any network. A receipt of another account does not exist
//! for the caller: 404, as one that was never made, or that ended void.

use base64::Engine as _;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER},
    request::Parts,
};
use serde_json::{Map, Value, json};
use tally_ledger::{
    class::ClassRules,
    ids::{AccountNumber, GatewayNumber},
    price::Model,
    receipt::{PriceCheck, VerifiedReceipt},
};

use super::{
    Body, Proxy, amount, found,
    reply::{self, error_object},
    unreachable,
};
use crate::{
    holds::parse_receipt_id,
    journal::{HoldId, Pending},
    key::Key,
    proxy::body::whole,
};

const PATH: &str = "/v1/tally/receipts/";
/// The receipt file as a body.
const BYTES: &str = "application/octet-stream";

/// The id in a path of this route.
pub(super) fn id(path: &str) -> Option<&str> {
    path.strip_prefix(PATH)
        .filter(|id| !id.is_empty() && !id.contains('/'))
}

pub(super) async fn answer(
    proxy: &Proxy,
    key: &Key,
    parts: &Parts,
) -> Result<Response<Body>, Box<Response<Body>>> {
    let text = id(parts.uri.path()).unwrap_or_default();
    let Some((gateway, hold)) = parse_receipt_id(text) else {
        let why = "a receipt's id is gateway-journal-hold, as in x-tally-receipt";
        return Err(Box::new(reply::bad_request(why, None)));
    };
    let account = key.account.number;
    if let Some(pending) = pending(proxy, gateway, hold) {
        return match pending {
            (whose, status) if whose == account => Ok(not_final(text, status)),
            _ => Err(Box::new(unknown(text))),
        };
    }
    let _turn = proxy.asking.acquire().await;
    let receipt = proxy.serving.light.receipt(gateway, hold).await;
    let receipt = receipt.map_err(|error| unreachable(proxy, &error))?;
    let Some((file, verified)) = receipt.filter(|(_, it)| it.receipt.account == account) else {
        return Err(Box::new(unknown(text)));
    };
    if wants_bytes(parts) {
        return Ok(bytes(text, file));
    }
    let mut page = page(proxy, &verified);
    page.insert("object".into(), "tally.receipt".into());
    page.insert("id".into(), text.into());
    page.insert("status".into(), "final".into());
    let proof = base64::engine::general_purpose::STANDARD.encode(file);
    page.insert("proof".into(), proof.into());
    Ok(found(&Value::Object(page)))
}

/// Whose hold it is and how far, if it is not known to be on the chain.
fn pending(
    proxy: &Proxy,
    gateway: GatewayNumber,
    hold: HoldId,
) -> Option<(AccountNumber, &'static str)> {
    let holds = &proxy.serving.holds;
    if gateway != holds.gateway {
        return None;
    }
    match holds.journal.pending(hold)? {
        Pending::Running(account) => Some((account, "running")),
        Pending::Settled(account) => Some((account, "pending")),
    }
}

fn not_final(id: &str, status: &str) -> Response<Body> {
    let page = json!({"object": "tally.receipt", "id": id, "status": status});
    let mut response = reply::json(StatusCode::ACCEPTED, &page);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn unknown(id: &str) -> Response<Body> {
    let message = format!("your account has no receipt {id}");
    let kind = "invalid_request_error";
    let object = error_object(&message, kind, None, "receipt_not_found");
    reply::json(StatusCode::NOT_FOUND, &object)
}

fn wants_bytes(parts: &Parts) -> bool {
    let accept = parts.headers.get(ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.split([',', ';']).any(|kind| kind.trim() == BYTES))
}

fn bytes(id: &str, file: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(whole(file));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(BYTES));
    let name = format!("attachment; filename=\"{id}.receipt\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    response
}

/// What the receipt says.
fn page(proxy: &Proxy, verified: &VerifiedReceipt) -> Map<String, Value> {
    let terms = proxy.serving.terms.get();
    let VerifiedReceipt { receipt, index, .. } = verified;
    let position = receipt.position;
    let class = terms.classes.get(usize::from(receipt.class.0));
    let fixed = verified.fixed;
    let mut page = json!({
        "entry": index,
        "height": receipt.height,
        "debit": format!("{}/{}/{}", position.gateway, position.journal, position.number),
        "class": class.map(|rules: &ClassRules| rules.name.as_str()),
        "cost": amount(receipt.cost),
        "charged": amount(receipt.charged),
        "loss": amount(verified.loss()),
        "flags": receipt.flags.names(),
        "limit": fixed.map(|fixed| amount(fixed.limit)),
        "fee": fixed.map(|fixed| amount(fixed.fee)),
        "price_checked": verified.price == PriceCheck::Exact,
    });
    if let (Some(detail), Some(page)) = (verified.detail, page.as_object_mut()) {
        let model = terms.prices.model(detail.model);
        page.insert("model".into(), json!(model.map(|model| &*model.name)));
        page.insert("price_table".into(), json!(detail.table));
        // Meters have these names in this table only.
        let model = model.filter(|_| terms.prices.version == detail.table);
        page.insert("usage".into(), usage(model, &detail.usage.0));
        page.insert("arrival_ms".into(), detail.arrival.into());
        page.insert("duration_ms".into(), detail.duration.into());
        let queued = detail.queued.filter(|queued| queued.queue > 0);
        if let Some(queued) = queued {
            let dispatched = queued.joined.saturating_add(queued.dispatched.into());
            page.insert("queue".into(), queued.queue.into());
            page.insert("joined".into(), queued.joined.into());
            page.insert("dispatched".into(), dispatched.into());
        }
        page.insert("project".into(), detail.project.into());
        page.insert("purpose".into(), detail.purpose.into());
        page.insert("request_hash".into(), json!(detail.request.to_string()));
    }
    match page {
        Value::Object(page) => page,
        _ => Map::new(),
    }
}

/// Counts by meter; without names in the order of the table's meters.
fn usage(model: Option<&Model>, counts: &[u32]) -> Value {
    match model {
        None => json!(counts),
        Some(model) => {
            let meters = model.meters.iter().zip(counts);
            let named = meters.map(|(meter, count)| (meter.name.to_string(), json!(count)));
            Value::Object(named.collect())
        }
    }
}
