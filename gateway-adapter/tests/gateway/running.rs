//! What happens to a hold while its answer is made: it is raised, made
//! smaller, moves to another lease, or ends for want of one.

use std::sync::atomic::Ordering;

use crate::support::{Answer, Setup, chain, chat, client, request, send, until};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tally_gateway_adapter::config::Tokenize;
use tally_ledger::{action::Action, debit::Flags, ids::AccountNumber};

/// A setup whose engine says the usage on each chunk.
async fn exact(amount: u64) -> Setup {
    let mut setup = Setup::new(amount).await;
    setup.config.upstreams[0].continuous_usage = true;
    setup
}

fn streamed(max_tokens: u32, test: Value) -> Value {
    let mut body = chat(max_tokens, test);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    body
}

fn words(answer: &Answer) -> usize {
    answer.body.matches("word ").count()
}

/// Sends in the background; waits until the engine has been asked that often.
async fn send_off(
    setup: &Setup,
    to: std::net::SocketAddr,
    body: Value,
    times: usize,
) -> tokio::task::JoinHandle<Answer> {
    let sent = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == times
    })
    .await;
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_stream_uses_what_its_bound_took_too_much_and_ends_by_length() {
    // Behind the bound (99) 2 tokens could be paid, behind the input (10) 25.
    let setup = exact(110).await;
    let gateway = setup.gateway().await;
    let answer = send(gateway.http, &streamed(100, json!({}))).await;
    assert_eq!(words(&answer), 25, "{}", answer.body);
    let events = answer.events();
    let event = |from_end: usize| -> Value {
        serde_json::from_str(&events[events.len() - from_end]).unwrap()
    };
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert_eq!(event(2)["usage"]["completion_tokens"], 25);
    assert_eq!(event(2)["choices"], json!([]));
    assert_eq!(event(3)["choices"][0]["finish_reason"], "length");
    assert_eq!(event(3)["id"], "x");
    gateway.stop().await.unwrap();
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!((receipt.charged.0, receipt.cost.0), (110, 110));
    assert_eq!(receipt.flags, Flags::COUNTED);
    assert_eq!(debit.detail.usage.0, [10, 0, 25, 0, 0, 0]);
    assert_eq!(setup.chain.main().available.0, 0);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_stream_is_raised_when_a_grant_arrives() {
    let setup = exact(110).await;
    let gateway = setup.gateway().await;
    let body = streamed(100, json!({"hold": 20}));
    let sent = send_off(&setup, gateway.http, body, 1).await;
    setup.chain.issue(0, chain::MAIN, 1_000);
    setup.engine.release(1);
    let answer = sent.await.unwrap();
    assert_eq!(words(&answer), 100, "{}", answer.body);
    gateway.stop().await.unwrap();
    let (receipt, _) = setup.chain.only_receipt().await;
    assert_eq!((receipt.charged.0, receipt.cost.0), (410, 410));
    let main = setup.chain.main();
    assert_eq!((main.available.0, main.leased.0), (700, 0));
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paid_does_not_wait_for_the_money_of_what_came_with_it() {
    let setup = exact(110).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let body = streamed(100, json!({"hold": 0, "together": true}));
    let asked = request(to, &body, &chain::api_key_text(0));
    let mut answer = client().request(asked).await.unwrap().into_body();
    // Whether there is more nobody can say: the stream waits for that.
    setup.chain.set_down(true);
    setup.engine.release(1);
    let first = answer.frame().await.unwrap().unwrap();
    let mut all = first.into_data().unwrap().to_vec();
    // Not all 25 at once, when the wait is over.
    let early = String::from_utf8_lossy(&all).matches("word ").count();
    assert!((1..25).contains(&early), "{early}");
    setup.chain.set_down(false);
    all.extend(answer.collect().await.unwrap().to_bytes());
    let text = String::from_utf8(all).unwrap();
    assert_eq!(text.matches("word ").count(), 25, "{text}");
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_cannot_use_any_more_serves_others_while_it_runs() {
    // The bound of 20 tokens of output: all there is.
    let mut setup = exact(179).await;
    setup.config.upstreams[0].tokenize = Tokenize::Vllm;
    let gateway = setup.gateway().await;
    let body = streamed(20, json!({"hold": 3}));
    let sent = send_off(&setup, gateway.http, body, 1).await;
    let other = send(gateway.http, &chat(10, json!({}))).await;
    assert_eq!(other.json()["usage"]["completion_tokens"], 10);
    assert!(!sent.is_finished());
    setup.engine.release(1);
    assert_eq!(words(&sent.await.unwrap()), 20);
    gateway.stop().await.unwrap();
    let main = setup.chain.main();
    assert_eq!((main.spent.0, main.loss.0), (50 + 90, 0));
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_hold_moves_to_the_renewed_lease() {
    for stream in [true, false] {
        let mut setup = Setup::new(1_000_000).await;
        setup.config.lease.seconds = 8;
        setup.config.lease.margin_ms = 500;
        let gateway = setup.gateway().await;
        let mut body = chat(20, json!({"hold": 2}));
        body["stream"] = stream.into();
        let sent = send_off(&setup, gateway.http, body, 1).await;
        until("the first lease is returned, another is open", || {
            let leases = setup.chain.account(0).leases;
            !leases.is_empty() && leases.iter().all(|lease| lease.number.0 > 1)
        })
        .await;
        assert!(!sent.is_finished());
        setup.engine.release(1);
        assert_eq!(sent.await.unwrap().status, 200);
        gateway.stop().await.unwrap();
        let (receipt, debit) = setup.chain.only_receipt().await;
        assert!(debit.fixed.lease.0 > 1);
        assert_eq!((receipt.charged.0, receipt.flags), (90, Flags::default()));
        assert_eq!(setup.chain.main().leased.0, 0);
        setup.chain.check();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_account_ends_an_answer_that_is_not_streamed() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let body = chat(20, json!({"hold": 0}));
    let sent = send_off(&setup, gateway.http, body, 1).await;
    setup.chain.by_issuers(Action::Freeze(AccountNumber(0)));
    let answer = sent.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (403, "account_frozen")
    );
    until("the engine notices", || {
        setup.engine.cancelled.load(Ordering::Relaxed) == 1
    })
    .await;
    let (receipt, _) = setup.chain.only_receipt().await;
    assert!(receipt.flags.has(Flags::ESTIMATED));
    assert_eq!(receipt.cost, receipt.charged);
    assert!(receipt.charged.0 > 0);
    gateway.stop().await.unwrap();
    setup.chain.check();
}
