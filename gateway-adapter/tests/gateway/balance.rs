//! The end of a balance: never overspent, nobody refused falsely.

use std::sync::Arc;

use crate::support::{
    Answer, Setup, chain, chat,
    metering::{metering, used, wish},
    send,
};
use serde_json::json;
use tally_ledger::{action::Action, ids::AccountNumber};
use tally_proto::v1;
use tokio::sync::Semaphore;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_for_a_hundred_serves_exactly_a_hundred_of_three_hundred() {
    // 10 input and 10 output tokens each: 50.
    let setup = Setup::new(100 * 50).await;
    let gateway = setup.gateway().await;
    let client = metering(&gateway).await;
    let (slots, mut tasks) = (Arc::new(Semaphore::new(64)), tokio::task::JoinSet::new());
    for _ in 0..300 {
        let (slots, mut client) = (slots.clone(), client.clone());
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            match client.authorize(wish(10, 10)).await {
                Ok(hold) => {
                    let hold = hold.into_inner();
                    assert_eq!(hold.max_output, 10, "shortened while others ran");
                    let settled = client.settle(used(hold.hold, 10, 10)).await.unwrap();
                    assert_eq!(settled.into_inner().charged, 50);
                    true
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    false
                }
            }
        });
    }
    let served = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|served| *served)
        .count();
    assert_eq!(served, 100);
    gateway.stop().await.unwrap();
    let main = setup.chain.main();
    assert_eq!(
        (main.spent.0, main.available.0, main.leased.0),
        (5_000, 0, 0)
    );
    assert_eq!(setup.chain.receipts().len(), 100);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_of_many_lengths_never_overspend() {
    let setup = Setup::new(4_000).await;
    let gateway = setup.gateway().await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..60u64 {
        let to = gateway.http;
        tasks.spawn(async move {
            let mut body = chat(60, json!({"tokens": 1 + i * 7 % 60}));
            body["stream"] = (i % 2 == 0).into();
            send(to, &body).await
        });
    }
    let answers: Vec<Answer> = tasks.join_all().await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let refused = answers.iter().filter(|answer| answer.status == 429);
    for answer in refused.clone() {
        assert_eq!(answer.code(), "insufficient_quota");
        assert_eq!(answer.header("x-should-retry"), "false");
    }
    assert_eq!(served + refused.count(), 60);
    assert!(served > 20, "{served}");
    gateway.stop().await.unwrap();
    let main = setup.chain.main();
    assert_eq!(
        (main.spent.0 + main.available.0, main.leased.0, main.loss.0),
        (4_000, 0, 0)
    );
    // What is left does not pay one token behind the input's bound.
    assert!(main.available.0 < 150, "{}", main.available.0);
    assert_eq!(setup.chain.receipts().len(), served);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rests_of_two_keys_are_gathered_for_one_request() {
    // Each key first takes half of what there is.
    let setup = Setup::new(1_000).await;
    setup.chain.bind(0);
    let gateway = setup.gateway().await;
    let mut client = metering(&gateway).await;
    for key in [0, 1] {
        let mut request = wish(10, 10);
        request.key = Some(v1::authorize_request::Key::Bearer(chain::api_key_text(key)));
        let hold = client.authorize(request).await.unwrap().into_inner();
        client
            .void(v1::VoidRequest { hold: hold.hold })
            .await
            .unwrap();
    }
    // 10 + 4 * 240 = 970: only all of it pays.
    let hold = client.authorize(wish(10, 240)).await.unwrap().into_inner();
    assert_eq!((hold.limit, hold.max_output), (970, 240));
    client.settle(used(hold.hold, 10, 240)).await.unwrap();
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_request_is_lowered_to_what_can_be_paid() {
    let setup = Setup::new(110).await;
    let gateway = setup.gateway().await;
    let mut client = metering(&gateway).await;
    let hold = client
        .authorize(wish(10, 1_000))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((hold.max_output, hold.limit), (25, 110));
    // While it runs, nobody else is lowered: it waits, and is refused after.
    let mut waiting = client.clone();
    let second = tokio::spawn(async move { waiting.authorize(wish(10, 1_000)).await });
    client.settle(used(hold.hold, 10, 20)).await.unwrap();
    // 20 are left: 2 tokens of output.
    let hold = second.await.unwrap().unwrap().into_inner();
    assert_eq!(hold.max_output, 2);
    client
        .void(v1::VoidRequest { hold: hold.hold })
        .await
        .unwrap();
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_served_in_the_order_of_arrival() {
    // One at a time.
    let setup = Setup::new(50).await;
    let gateway = setup.gateway().await;
    let mut client = metering(&gateway).await;
    let waited = async || {
        let page = crate::support::get(gateway.http, "/metrics").await.body;
        let line = page
            .lines()
            .find(|line| line.starts_with("tally_gateway_waited_total"));
        line.unwrap()
            .rsplit(' ')
            .next()
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let void = |hold| v1::VoidRequest { hold };
    let mut running = client.authorize(wish(10, 10)).await.unwrap().into_inner();
    let before = waited().await;
    let mut tasks = Vec::new();
    for i in 1..=4 {
        let mut client = client.clone();
        tasks.push(tokio::spawn(
            async move { client.authorize(wish(10, 10)).await },
        ));
        let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
        while waited().await < before + i {
            assert!(tokio::time::Instant::now() < deadline, "{i} does not wait");
        }
    }
    let mut tasks = tasks.into_iter();
    while let Some(next) = tasks.next() {
        client.void(void(running.hold)).await.unwrap();
        running = next.await.unwrap().unwrap().into_inner();
        assert!(tasks.as_slice().iter().all(|later| !later.is_finished()));
    }
    client.void(void(running.hold)).await.unwrap();
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_covers_is_preferred_and_can_be_chosen() {
    let setup = Setup::new(40).await;
    setup.chain.issue(0, chain::SPARE, 10_000);
    let gateway = setup.gateway().await;
    let mut client = metering(&gateway).await;
    let small = client.authorize(wish(10, 5)).await.unwrap().into_inner();
    assert_eq!(small.class_name, "main");
    let large = client.authorize(wish(10, 50)).await.unwrap().into_inner();
    assert_eq!(large.class_name, "spare");
    let mut chosen = wish(10, 1);
    chosen.class = "spare".into();
    let chosen = client.authorize(chosen).await.unwrap().into_inner();
    assert_eq!(chosen.class_name, "spare");
    let mut unknown = wish(10, 1);
    unknown.class = "gold".into();
    assert_eq!(
        client.authorize(unknown).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    for hold in [small, large, chosen] {
        client
            .void(v1::VoidRequest { hold: hold.hold })
            .await
            .unwrap();
    }
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_arrives_serves_the_next_request() {
    let setup = Setup::new(0).await;
    let gateway = setup.gateway().await;
    let answer = send(gateway.http, &chat(5, json!({}))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (429, "insufficient_quota")
    );
    setup.chain.issue(0, chain::MAIN, 1_000);
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while send(gateway.http, &chat(5, json!({}))).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "still refused");
    }
    setup.chain.by_issuers(Action::Freeze(AccountNumber(0)));
    while send(gateway.http, &chat(5, json!({}))).await.status == 200 {
        assert!(tokio::time::Instant::now() < deadline, "still served");
    }
    let answer = send(gateway.http, &chat(5, json!({}))).await;
    assert_eq!(answer.code(), "account_frozen");
    setup.chain.by_issuers(Action::Unfreeze(AccountNumber(0)));
    while send(gateway.http, &chat(5, json!({}))).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "still frozen");
    }
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn metering_holds_are_settled_once() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let mut client = metering(&gateway).await;
    let mut named = wish(10, 10);
    named.idempotency_key = "once".into();
    let first = client.authorize(named.clone()).await.unwrap().into_inner();
    let again = client.authorize(named).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(first.hold_text, "0-1-1");
    let mut odd = used(first.hold, 1, 1);
    odd.usage[0].meter = "furlongs".into();
    assert_eq!(
        client.settle(odd).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let settled = client
        .settle(used(first.hold, 10, 3))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((settled.charged, settled.debit.unwrap().number), (22, 1));
    let twice = client.settle(used(first.hold, 10, 3)).await.unwrap_err();
    assert_eq!(twice.code(), Code::NotFound);
    // Nothing is known: the worst case.
    let hold = client.authorize(wish(10, 10)).await.unwrap().into_inner();
    let unknown = v1::SettleRequest {
        hold: hold.hold,
        ..Default::default()
    };
    assert_eq!(
        client.settle(unknown).await.unwrap().into_inner().charged,
        50
    );
    // Never settled: the worst case, when the gateway stops.
    client.authorize(wish(10, 5)).await.unwrap();
    let mut stranger = wish(1, 1);
    stranger.key = Some(v1::authorize_request::Key::Bearer(chain::api_key_text(77)));
    assert_eq!(
        client.authorize(stranger).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    drop(client);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().spent.0, 22 + 50 + 30);
    setup.chain.check();
}
