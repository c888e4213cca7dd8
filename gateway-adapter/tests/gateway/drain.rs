//! What a gateway that was told to stop still does, and for how long.

use std::time::{Duration, Instant};

use crate::support::{Answer, Running, Setup, begun, call, chat, get, send, until};
use serde_json::json;
use tally_ledger::debit::Flags;
use tokio::task::JoinHandle;

const PLENTY: u64 = 1_000_000;

/// A stream that has given two of its five tokens and waits.
async fn halfway(setup: &Setup, gateway: &Running) -> JoinHandle<Answer> {
    let mut body = chat(5, json!({"hold": 2}));
    body["stream"] = true.into();
    let to = gateway.http;
    let stream = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || setup.engine.asked() == 1).await;
    begun(to, 1).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_finishes_and_who_comes_is_told_to_go_elsewhere() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let stream = halfway(&setup, &gateway).await;
    assert_eq!(get(to, "/healthz").await.status, 200);
    let stopped = tokio::spawn(gateway.stop());
    let deadline = Instant::now() + crate::support::DEADLINE;
    while get(to, "/healthz").await.status != 503 {
        assert!(Instant::now() < deadline, "it never stops");
    }
    let answer = send(to, &chat(5, json!({}))).await;
    let said = (answer.status.as_u16(), answer.code());
    assert_eq!(said, (503, "gateway_not_serving".to_owned()));
    assert_eq!(answer.header("x-should-retry"), "true");
    setup.engine.release(1);
    let answer = stream.await.unwrap();
    assert_eq!(answer.events().last().unwrap(), "[DONE]");
    stopped.await.unwrap().unwrap();
    let request = call(to, "GET", "/healthz", "", String::new());
    assert!(tokio::spawn(request).await.is_err(), "nobody listens");
    let receipts = setup.chain.receipts();
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].flags, Flags::default());
    assert_eq!(setup.chain.main().leased.0, 0);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_in_time_is_cut_and_pays_what_was_made() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.limits.drain_seconds = 1;
    let gateway = setup.gateway().await;
    let stream = halfway(&setup, &gateway).await;
    let began = Instant::now();
    gateway.stop().await.unwrap();
    // A second to finish, two for connections to end, and the chain's word.
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(1 + 2 + 15), "{took:?}");
    assert!(!stream.await.unwrap().body.contains("[DONE]"));
    let (receipts, debits) = (setup.chain.receipts(), setup.chain.debits());
    assert_eq!((receipts.len(), debits[0].detail.usage.0[2]), (1, 2));
    assert_eq!(receipts[0].flags, Flags::COUNTED);
    assert_eq!(setup.chain.main().leased.0, 0);
    setup.chain.check();
}
