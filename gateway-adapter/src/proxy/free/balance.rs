//! `GET /v1/tally/balance`: the caller's account by class, from its leaf as
//! the chain proves it now, and what this gateway holds of it.
//!
//! `available` is what a lease could take now; `here` is inside the leases of
//! this gateway, `elsewhere` inside those of others. What was served here and
//! is not on the chain yet has left `here.free` already, but not `leased`.

use std::{sync::Arc, time::Instant};

use http::Response;
use serde_json::{Value, json};
use tally_ledger::{
    account::{Account as Leaf, Grant},
    ids::{Amount, ClassNumber, Height},
};

use super::{Body, Proxy, amount, found, unreachable};
use crate::{account::Account, key::Key, pool::account_leaf, view::View};

pub(super) async fn answer(
    proxy: &Proxy,
    key: &Key,
) -> Result<Response<Body>, Box<Response<Body>>> {
    let _turn = proxy.asking.acquire().await;
    let (light, account) = (&proxy.serving.light, &key.account);
    let leaf = account_leaf(light, account.number, Height(0)).await;
    let (header, leaf) = leaf.map_err(|error| unreachable(proxy, &error))?;
    let view = View::of(
        &leaf,
        proxy.serving.holds.gateway,
        header.height,
        header.time,
    );
    account.viewed(view.clone(), Instant::now());
    let terms = proxy.serving.terms.get();
    let classes = leaf.totals.iter().map(|(class, _)| *class);
    let mut classes: Vec<ClassNumber> = leaf.classes.iter().copied().chain(classes).collect();
    let mut seen = std::collections::BTreeSet::new();
    classes.retain(|class| seen.insert(*class));
    let rows = classes.iter().map(|class| {
        let rules = terms.classes.get(usize::from(class.0));
        let name = rules.map(|rules| rules.name.as_str());
        row(name, *class, &leaf, &view, account)
    });
    Ok(found(&json!({
        "object": "tally.balance",
        "account": account.number,
        "frozen": leaf.frozen,
        "height": header.height,
        "time_ms": header.time,
        "key": {
            "number": key.number,
            "models": (!key.models.is_empty()).then(|| names(proxy, key)),
            "expires_ms": key.expires,
        },
        "classes": rows.collect::<Vec<Value>>(),
    })))
}

/// Names of the models that a limited key may buy.
fn names(proxy: &Proxy, key: &Key) -> Vec<String> {
    let terms = proxy.serving.terms.get();
    let models = terms.prices.models.iter();
    let buys = models.filter(|model| key.buys(model.number));
    buys.map(|model| model.name.to_string()).collect()
}

fn row(
    name: Option<&str>,
    class: ClassNumber,
    leaf: &Leaf,
    view: &View,
    account: &Arc<Account>,
) -> Value {
    let totals = leaf.totals_of(class);
    let (held, free) = account.sums(Some(class));
    let available = view.available.get(&class).copied().unwrap_or(0);
    let others = view.others.get(&class).copied().unwrap_or_default();
    let grants = leaf.grants.iter().filter(|grant| grant.class == class);
    json!({
        "class": name,
        "number": class,
        "remaining": amount(Amount(available.saturating_add(free))),
        "available": amount(Amount(available)),
        "unvested": amount(totals.unvested),
        "leased": amount(totals.leased),
        "spent": amount(totals.spent),
        "here": {
            "leased": amount(Amount(held.saturating_add(free))),
            "held": amount(Amount(held)),
            "free": amount(Amount(free)),
        },
        "elsewhere": amount(Amount(others.held)),
        "grants": grants.map(grant).collect::<Vec<Value>>(),
    })
}

fn grant(grant: &Grant) -> Value {
    json!({
        "number": grant.number,
        "amount": amount(grant.amount),
        "free": amount(grant.free),
        "leased": amount(grant.leased),
        "vests_ms": grant.vests,
        "expires_ms": grant.expires,
        "revoked": grant.revoked,
    })
}
