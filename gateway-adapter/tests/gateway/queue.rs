//! The queue before an engine: its order, its bounds, and that nothing is
//! charged for waiting in it.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::support::{Answer, Setup, chain, chat, metric, queued, send};
use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    debit::{Debit, Queued},
    ids::{AccountNumber, Amount},
    queue_order::{self, Order, Served},
    rates::{Rates, RatesState},
};
use tokio::task::JoinHandle;

const PLENTY: u64 = 1_000_000;

/// One place at the engine, and a balance in both classes.
async fn setup(queue: u32) -> Setup {
    let mut setup = Setup::new(PLENTY).await;
    setup.chain.issue(0, chain::SPARE, PLENTY);
    setup.config.upstreams[0].concurrency = Some(1);
    setup.config.upstreams[0].queue = queue;
    setup
}

/// Sends a request with a fee.
async fn paying(to: SocketAddr, body: &Value, fee: &str) -> Answer {
    let mut request = crate::support::request(to, body, &chain::api_key_text(0));
    let headers = request.headers_mut();
    headers.insert("x-tally-priority-fee", fee.parse().unwrap());
    crate::support::read(crate::support::client().request(request).await.unwrap()).await
}

fn spawn(to: SocketAddr, name: &str, fee: &'static str) -> JoinHandle<Answer> {
    let mut body = chat(5, json!({"tokens": 1}));
    body["user"] = name.into();
    tokio::spawn(async move { paying(to, &body, fee).await })
}

/// Takes the only place until the engine is told to release it.
async fn occupy(setup: &Setup, to: SocketAddr) -> JoinHandle<Answer> {
    let before = setup.engine.asked();
    let first = tokio::spawn(async move { send(to, &chat(5, json!({"hold": 0}))).await });
    crate::support::until("the engine is asked", || setup.engine.asked() > before).await;
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn fees_decide_the_order_and_are_charged() {
    let setup = setup(16).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let first = occupy(&setup, to).await;
    let mut waiting = Vec::new();
    for (i, (name, fee)) in [("none", "0"), ("some", "0.003"), ("most", "0.005")]
        .into_iter()
        .enumerate()
    {
        waiting.push(spawn(to, name, fee));
        queued(to, i as i64 + 1).await;
    }
    assert_eq!(setup.engine.asked(), 1);
    setup.engine.release(1);
    assert_eq!(first.await.unwrap().status, 200);
    for request in waiting {
        assert_eq!(request.await.unwrap().status, 200);
    }
    let seen = setup.engine.seen.lock().unwrap().clone();
    let order: Vec<_> = seen[1..]
        .iter()
        .map(|(_, body)| body["user"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["most", "some", "none"]);
    assert!(seen.iter().all(|(headers, body)| {
        headers.get("x-tally-priority-fee").is_none() && body.get("priority").is_none()
    }));
    assert_eq!(setup.engine.most_running.load(Ordering::SeqCst), 1);
    assert_eq!(
        metric(to, "tally_gateway_queue_wait_seconds_count").await,
        4
    );
    gateway.stop().await.unwrap();
    // The class that pays no fee is not charged one. In the order of their
    // turns: an engine is free for the next one before an answer is settled.
    let mut debits = setup.chain.debits();
    debits.sort_by_key(|debit| end(debit.detail.queued.unwrap()));
    let fees: Vec<_> = debits
        .iter()
        .map(|debit| (debit.fixed.class, debit.fixed.fee.0))
        .collect();
    assert_eq!(
        fees,
        [
            (chain::MAIN, 0),
            (chain::SPARE, 5_000),
            (chain::SPARE, 3_000),
            (chain::MAIN, 0)
        ]
    );
    let spare = setup.chain.totals(0, chain::SPARE);
    assert_eq!((spare.spent.0, spare.loss.0), (8_000 + 2 * 14, 0));
    setup.chain.check();
    order_is_kept_and_shows_tampering(debits);
}

/// The number that a request took when it was let go.
fn end(queued: Queued) -> u64 {
    queued.joined + u64::from(queued.dispatched)
}

/// What anybody reads from the log about the only queue.
fn order_of(debits: &[Debit]) -> Order {
    let rates = RatesState::default();
    let of = |debit: &Debit| {
        let (queue, served) = Served::of(debit, &rates).unwrap();
        assert_eq!(queue, 1);
        served
    };
    queue_order::check(&debits.iter().map(of).collect::<Vec<_>>())
}

/// The debits of one that ran and three that waited, in the order in which
/// they were let go: first, most, some, none.
fn order_is_kept_and_shows_tampering(mut debits: Vec<Debit>) {
    let order = order_of(&debits);
    assert!(order.is_kept(), "{order:?}");
    assert_eq!(order.pairs, 3);
    let queued = |debits: &[Debit], i: usize| debits[i].detail.queued.unwrap();
    let first = queued(&debits, 0);
    assert_eq!(first.dispatched, 1);
    // The three joined in the order of their requests.
    let after = |i: usize| queued(&debits, i).joined - first.joined;
    assert_eq!([after(3), after(2), after(1)], [2, 3, 4]);
    // Each dispatch takes the next number.
    let dispatched = |i: usize| after(i) + u64::from(queued(&debits, i).dispatched);
    assert_eq!([1, 2, 3].map(dispatched), [5, 6, 7]);

    // Somebody had been let go before the one with the highest fee.
    let (most, none) = (queued(&debits, 1), queued(&debits, 3));
    let until = |from: Queued, end: u64| {
        Some(Queued {
            dispatched: (end - from.joined) as u32,
            ..from
        })
    };
    debits[1].detail.queued = until(most, end(none));
    debits[3].detail.queued = until(none, end(most));
    let order = order_of(&debits);
    // The one without a fee passed both, the other one passed the highest.
    assert_eq!((order.passed(), order.violations.len()), (3, 2));
    assert_eq!(
        (order.violations[0].served, order.violations[0].passed),
        (3, 1)
    );
    debits[3].detail.queued = Some(none);
    let order = order_of(&debits);
    assert_eq!(order.duplicates.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fee_that_nobody_pays_is_refused_before_anything_is_reserved() {
    let mut setup = setup(16).await;
    let body = chat(5, json!({}));
    let mut main = body.clone();
    main["test"] = json!({"tokens": 1});
    let gateway = setup.gateway().await;
    for (fee, code) in [
        ("0.005001", "priority_fee_too_high"),
        ("5000000000000", "invalid_value"),
        ("much", "invalid_value"),
        ("0.0000001", "invalid_value"),
        ("-1", "invalid_value"),
    ] {
        let answer = paying(gateway.http, &body, fee).await;
        let said = (answer.status.as_u16(), answer.code());
        assert_eq!(said, (400, code.to_owned()), "{fee}");
    }
    let answer = paying(gateway.http, &body, "1").await;
    assert!(
        answer.body.contains("0.005000 CT at most"),
        "{}",
        answer.body
    );
    // The class that the client chose pays none.
    let mut request = crate::support::request(gateway.http, &body, &chain::api_key_text(0));
    let headers = request.headers_mut();
    headers.insert("x-tally-priority-fee", "0.001".parse().unwrap());
    headers.insert("x-tally-class", "main".parse().unwrap());
    let answer =
        crate::support::read(crate::support::client().request(request).await.unwrap()).await;
    let said = (answer.status.as_u16(), answer.code());
    assert_eq!(said, (400, "priority_fee_too_high".to_owned()));
    assert_eq!(metric(gateway.http, "tally_gateway_leases_total").await, 0);
    gateway.stop().await.unwrap();
    // Nor is one taken where it would buy nothing.
    setup.config.upstreams[0].concurrency = None;
    let gateway = setup.gateway().await;
    let answer = paying(gateway.http, &body, "0.001").await;
    let said = (answer.status.as_u16(), answer.code());
    assert_eq!(said, (400, "priority_not_available".to_owned()));
    assert_eq!(paying(gateway.http, &body, "0").await.status, 200);
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.asked(), 1);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_has_the_fee_of_the_policy_and_the_engine_the_same_order() {
    let mut setup = setup(16).await;
    setup.config.priority.service_tier_fee = Some(tally_ledger::ids::Amount(2_000));
    setup.config.upstreams[0].priority = true;
    let gateway = setup.gateway().await;
    let mut body = chat(5, json!({"tokens": 1}));
    // Nobody names a priority of its own.
    body["priority"] = json!(-9_000_000_000_000_000_000i64);
    for tier in ["default", "priority"] {
        body["service_tier"] = tier.into();
        assert_eq!(send(gateway.http, &body).await.status, 200);
    }
    gateway.stop().await.unwrap();
    let fees: Vec<_> = setup.chain.debits().iter().map(|d| d.fixed.fee.0).collect();
    assert_eq!(fees, [0, 2_000]);
    let seen = setup.engine.seen.lock().unwrap().clone();
    let priority = |i: usize| seen[i].1["priority"].as_i64().unwrap();
    // Lower is earlier: two units less, and a little later.
    let step = priority(1) - priority(0);
    assert!((-2_000..-1_000).contains(&step), "{step}");
    // It is paid here, and would cost again at a provider.
    assert_eq!(seen[0].1["service_tier"], "default");
    assert_eq!(seen[1].1.get("service_tier"), None);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fee_unit_of_the_chain_counts_from_then_on() {
    let setup = setup(16).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let first = occupy(&setup, to).await;
    let mut waiting = Vec::new();
    let mut wait = async |name, fee| {
        waiting.push(spawn(to, name, fee));
        queued(to, waiting.len() as i64).await;
    };
    // A fee of five units passes who came a little earlier.
    wait("early", "0").await;
    wait("early and paid", "0.005").await;
    let unit = async |fee_unit| {
        setup.chain.set_rates(&Rates {
            fee_unit: Amount(fee_unit),
            ..Rates::default()
        });
        setup.chain.followed(to).await;
    };
    // From now on it is worth five milliseconds.
    unit(1_000_000).await;
    wait("late", "0").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    wait("late and paid", "0.005").await;
    // And now more than an hour; what was waited before keeps its worth.
    unit(1).await;
    wait("last", "0").await;
    wait("last and paid", "0.005").await;
    setup.engine.release(1);
    assert_eq!(first.await.unwrap().status, 200);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    gateway.stop().await.unwrap();
    let seen = setup.engine.seen.lock().unwrap().clone();
    let users: Vec<_> = seen.iter().skip(1).map(|(_, body)| &body["user"]).collect();
    assert_eq!(
        users,
        [
            "early and paid",
            "early",
            "late",
            "late and paid",
            "last and paid",
            "last"
        ]
    );
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_queue_is_charged_nothing() {
    let setup = setup(16).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let first = occupy(&setup, to).await;
    let client = crate::support::client();
    let key = chain::api_key_text(0);
    let sent = tokio::spawn(client.request(crate::support::request(to, &chat(5, json!({})), &key)));
    queued(to, 1).await;
    sent.abort();
    let _ = sent.await;
    drop(client);
    queued(to, 0).await;
    assert_eq!(metric(to, "tally_gateway_voids_total").await, 1);
    setup.engine.release(1);
    assert_eq!(first.await.unwrap().status, 200);
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.asked(), 1);
    assert_eq!(setup.chain.receipts().len(), 1);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_before_anything_is_reserved() {
    let setup = setup(2).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let first = occupy(&setup, to).await;
    let waiting = [spawn(to, "a", "0"), spawn(to, "b", "0")];
    queued(to, 2).await;
    let answer = send(to, &chat(5, json!({}))).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.code(), "queue_full");
    assert_eq!(answer.json()["error"]["type"], "rate_limit_exceeded");
    assert_eq!(answer.header("x-should-retry"), "true");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("retry-after-ms"), "1000");
    assert_eq!(answer.header("x-tally-receipt"), "");
    assert_eq!(metric(to, "tally_gateway_voids_total").await, 0);
    setup.engine.release(1);
    assert_eq!(first.await.unwrap().status, 200);
    for request in waiting {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!(send(to, &chat(5, json!({}))).await.status, 200);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_account_and_a_stop_end_the_wait() {
    let setup = setup(16).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let _first = occupy(&setup, to).await;
    let waits = spawn(to, "a", "0");
    queued(to, 1).await;
    setup.chain.by_issuers(Action::Freeze(AccountNumber(0)));
    let answer = waits.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (403, "account_frozen".into())
    );
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.asked(), 1);

    let setup = self::setup(16).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let first = occupy(&setup, to).await;
    let waits = spawn(to, "a", "0");
    queued(to, 1).await;
    let engine = setup.engine.clone();
    let stopped = tokio::spawn(gateway.stop());
    let answer = waits.await.unwrap();
    assert_eq!(answer.code(), "gateway_not_serving");
    engine.release(1);
    // Who is at the engine is served.
    assert_eq!(first.await.unwrap().status, 200);
    stopped.await.unwrap().unwrap();
    assert_eq!(setup.chain.receipts().len(), 1);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_the_capacity_is_refused_and_waits_stay_bounded() {
    const EACH: u64 = 200;
    const WAITING: u32 = 8;
    let mut setup = Setup::new(100 * PLENTY).await;
    setup.config.upstreams[0].concurrency = Some(4);
    setup.config.upstreams[0].queue = WAITING;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    send(to, &chat(1, json!({}))).await;
    // Four places of 200 ms: twenty a second. Eight times that come for two
    // seconds, so that it is too much on a slow machine too.
    let client = crate::support::client();
    let mut tasks = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_micros(6_250));
    for _ in 0..320 {
        tick.tick().await;
        let client = client.clone();
        tasks.spawn(async move {
            let body = chat(1, json!({"ms": EACH}));
            let began = Instant::now();
            let request = crate::support::request(to, &body, &chain::api_key_text(0));
            let answer = crate::support::read(client.request(request).await.unwrap()).await;
            (answer.status.as_u16(), began.elapsed())
        });
    }
    let ended = tasks.join_all().await;
    let refused = ended.iter().filter(|(status, _)| *status == 429).count();
    let mut times: Vec<_> = ended
        .iter()
        .filter(|(status, _)| *status == 200)
        .map(|(_, time)| *time)
        .collect();
    assert_eq!(times.len() + refused, 320, "{ended:?}");
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    println!("served {}, refused {refused}, p99 {p99:?}", times.len());
    assert!(refused >= 100, "{refused}");
    // Eight before it at twenty a second, its own 200 ms; ten times that on a
    // busy machine.
    let waits = u64::from(WAITING) * EACH / 4;
    assert!(p99 < Duration::from_millis(10 * (waits + EACH)), "{p99:?}");
    assert_eq!(setup.engine.most_running.load(Ordering::SeqCst), 4);
    gateway.stop().await.unwrap();
    setup.chain.check();
    let debits = setup.chain.debits();
    // While one waits, eight go before it, and no more come than these leave
    // room for, beside those who were there: however slow the machine is.
    for debit in &debits {
        let queued = debit.detail.queued.unwrap();
        assert!(queued.dispatched <= 3 * WAITING, "{queued:?}");
    }
    let order = order_of(&debits);
    assert!(order.is_kept() && order.pairs > 20, "{order:?}");
}
