//! `GET /v1/models`: what the key may buy and an engine serves.

use http::Response;
use serde_json::{Value, json};

use super::{Body, Proxy, found};
use crate::key::Key;

pub(super) fn answer(proxy: &Proxy, key: &Key) -> Response<Body> {
    let terms = proxy.serving.terms.get();
    let models = terms.prices.models.iter();
    let models: Vec<Value> = models
        .filter(|model| key.buys(model.number) && proxy.upstreams.serves(&model.name))
        .map(
            |model| json!({"id": model.name, "object": "model", "created": 0, "owned_by": "tally"}),
        )
        .collect();
    found(&json!({"object": "list", "data": models}))
}
