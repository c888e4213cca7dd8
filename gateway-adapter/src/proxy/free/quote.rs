//! `POST /v1/tally/quote`: what a request would cost, and whether it would be
//! served now. The body is that of a chat completion, or of the route that
//! the query names (`?route=/v1/embeddings`). Nothing is reserved, nothing
//! reaches the engine but, near the end of a balance, the question how many
//! tokens the prompt has (as for the request itself).

use std::{sync::Arc, time::Instant};

use http::{Response, request::Parts};
use serde_json::{Value, json};
use tally_ledger::{
    ids::{ClassNumber, Height},
    price::Usage,
};

use super::{Arriving, Body, Proxy, amount, found};
use crate::{
    account::{Prospect, When},
    ask::{Ask, Need},
    key::Key,
    pool::account_leaf,
    proxy::{
        endpoint::{CHAT, Endpoint},
        gather::gather,
        pricing::{self, Priced},
        reply, tokenize,
    },
    view::View,
};

pub(super) async fn answer(
    proxy: &Arc<Proxy>,
    key: Arc<Key>,
    parts: &Parts,
    body: Arriving,
) -> Result<Response<Body>, Box<Response<Body>>> {
    let route = route(parts.uri.query())?;
    let policy = proxy.policy.get();
    let (body, _room) = gather(proxy, &policy, body).await?;
    let mut priced = pricing::price(proxy, &policy, route, key, &parts.headers, &body)?;
    let mut prospect = priced.ask.key.account.prospect(&priced.ask, Instant::now());
    if !is_covered(&prospect) {
        let _turn = proxy.asking.acquire().await;
        look_again(proxy, &priced.ask).await;
        count(&mut priced)
            .await
            .map_err(|refusal| Box::new(proxy.refuse(refusal)))?;
        prospect = priced.ask.key.account.prospect(&priced.ask, Instant::now());
    }
    Ok(found(&page(&priced, &prospect)))
}

/// The metered route that the query names; chat completions without one.
fn route(query: Option<&str>) -> Result<&'static Endpoint, Box<Response<Body>>> {
    let named = match query {
        None | Some("") => return Ok(&CHAT),
        Some(query) => query.strip_prefix("route="),
    };
    let path = named.map(|path| path.replace("%2F", "/").replace("%2f", "/"));
    let route = path.and_then(|path| Endpoint::of(&path));
    let why = "the query is route= and a metered route, such as /v1/embeddings";
    route.ok_or_else(|| Box::new(reply::bad_request(why, None)))
}

fn is_covered(prospect: &Prospect) -> bool {
    let now = When::Now;
    matches!(prospect, Prospect::Served { when, .. } if *when == now)
}

/// Has the account proven again: a grant may have come since. What is known
/// is the best there is if no node answers.
async fn look_again(proxy: &Proxy, ask: &Ask) {
    let account = &ask.key.account;
    if let Ok((header, leaf)) = account_leaf(&proxy.serving.light, account.number, Height(0)).await
    {
        let gateway = proxy.serving.holds.gateway;
        let view = View::of(&leaf, gateway, header.height, header.time);
        account.viewed(view, Instant::now());
    }
}

/// Has the prompt counted where the request itself would.
async fn count(priced: &mut Priced<'_>) -> Result<(), crate::refusal::Refusal> {
    let ask = &mut priced.ask;
    if ask.countable && ask.key.account.must_count(ask, Instant::now()) {
        let counted = tokenize::count(&priced.route, &priced.call).await;
        ask.counted(counted)?;
    }
    Ok(())
}

fn page(priced: &Priced<'_>, prospect: &Prospect) -> Value {
    let ask = &priced.ask;
    let full = priced.route.choose(priced.errand, &[]).err();
    let (input, output) = match ask.need {
        Need::Tokens { input, output, .. } => (input, output),
        Need::Exact(_) => (0, 0),
    };
    let name = |class: ClassNumber| ask.rules(class).map(|rules| rules.name.to_string());
    let (admitted, when, class, payable, refusal) = match prospect {
        Prospect::Served {
            when,
            class,
            output,
        } => {
            let when = match when {
                When::Now => "now",
                When::AfterLease => "after_lease",
                When::AfterOthers => "after_others",
            };
            (true, Some(when), Some(*class), *output, None)
        }
        Prospect::Refused { why, class } => (false, None, *class, 0, Some(*why)),
    };
    // No engine takes it now: whatever the balance says.
    let (admitted, when, refusal) = match full {
        Some(full) => (false, None, Some(full)),
        None => (admitted, when, refusal),
    };
    let likely = ask.exact.unwrap_or(priced.call.size.likely());
    json!({
        "object": "tally.quote",
        "model": ask.model().name,
        "price_table": ask.prices.version,
        "class": class.and_then(name),
        "worst_case": amount(ask.cost),
        "likely_input": amount(input_cost(ask)),
        "fee": amount(ask.fee),
        "input_tokens": {"bound": input, "likely": likely},
        "output_tokens": {"bound": output, "payable": payable},
        "choices": ask.choices,
        "admitted": admitted,
        "when": when,
        "refusal": refusal.map(|why| json!({"code": why.code(), "message": why.to_string()})),
    })
}

/// Price of the likely input and the fee, without any output.
fn input_cost(ask: &Ask) -> tally_ledger::ids::Amount {
    let usage: Usage = ask.mark.unwrap_or_default();
    ask.model().cost(&usage, ask.fee).unwrap_or(ask.cost)
}
