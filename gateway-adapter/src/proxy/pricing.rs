//! From a request's bytes to its price: understood and bounded, nothing
//! reserved. What a quote and the request itself have in common.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response};

use super::{
    Proxy, body::Body, endpoint::Endpoint, policy::Policy, reply, request::Call, tokenize,
};
use crate::{
    ask::{Ask, Need},
    headers::{CLASS, PROJECT, PURPOSE},
    key::Key,
    refusal::Refusal,
    routing::{Errand, Route, fee},
    serving::Wish,
    usage::{Counted, known},
};

/// A request with its price.
pub(super) struct Priced<'a> {
    /// The request.
    pub(super) call: Call<'a>,
    /// Its engines.
    pub(super) route: Route,
    /// What it asks of them.
    pub(super) errand: Errand,
    /// Largest output of one answer.
    pub(super) per_choice: u32,
    /// What to reserve.
    pub(super) ask: Ask,
}

/// Reads and prices a request; else says what is wrong with it.
pub(super) fn price<'a>(
    proxy: &Proxy,
    policy: &Policy,
    endpoint: &'static Endpoint,
    key: Arc<Key>,
    headers: &HeaderMap,
    body: &'a Bytes,
) -> Result<Priced<'a>, Box<Response<Body>>> {
    let refuse = |refusal| Box::new(proxy.refuse(refusal));
    let call = Call::parse(endpoint, body)
        .map_err(|bad| Box::new(reply::bad_request(&bad.message, bad.param)))?;
    let route = proxy.upstreams.of(&call.model);
    let route = route.ok_or_else(|| refuse(Refusal::ModelNotFound))?;
    let (tier, sells) = (call.tier.as_deref(), route.sells_priority());
    let fee = fee::offered(&policy.priority, headers, tier, sells).map_err(refuse)?;
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str());
    let number = |name| match text(name) {
        None => Some(0),
        Some(value) => value.ok()?.parse::<u32>().ok(),
    };
    let (Some(project), Some(purpose)) = (number(PROJECT), number(PURPOSE)) else {
        let why = "x-tally-project and x-tally-purpose are numbers";
        return Err(Box::new(reply::bad_request(why, None)));
    };
    let class = text(CLASS).transpose();
    let class = class.map_err(|_| refuse(Refusal::ClassUnknown))?;
    let wish = Wish {
        model: &call.model,
        class: class.unwrap_or_default(),
        fee,
        project,
        purpose,
        request: key.hash_request(body),
        choices: call.choices,
    };
    let (size, choices) = (call.size, call.choices);
    let per_choice = call.output(route.max_output());
    let ask = proxy.serving.ask(key, &wish, |model| {
        let likely = known(model, None, Counted::default(), size.likely()).0;
        let need = Need::Tokens {
            input: size.bound(),
            output: per_choice.saturating_mul(choices),
            lower: endpoint.generates(),
        };
        Ok((need, Some(likely)))
    });
    let mut ask = ask.map_err(refuse)?;
    ask.countable = tokenize::counts(&route, &call);
    let errand = route.errand(&ask, &proxy.serving.terms.get().rates);
    Ok(Priced {
        call,
        route,
        errand,
        per_choice,
        ask,
    })
}
