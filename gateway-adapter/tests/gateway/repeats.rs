//! `Idempotency-Key`: the same request twice is served and charged once.

use std::{net::SocketAddr, sync::atomic::Ordering};

use crate::support::{Answer, Setup, chain, chat, client, read, request, until};
use serde_json::{Value, json};

async fn send_named(to: SocketAddr, body: &Value, key: u32, name: &str) -> Answer {
    let mut request = request(to, body, &chain::api_key_text(key));
    let headers = request.headers_mut();
    headers.insert("idempotency-key", name.parse().unwrap());
    read(client().request(request).await.unwrap()).await
}

fn code(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    body["error"]["code"].as_str().unwrap().to_owned()
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers[name].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_is_told_that_the_first_runs_and_then_its_receipt() {
    let setup = Setup::new(1_000_000).await;
    setup.chain.open_account();
    setup.chain.issue(1, chain::MAIN, 1_000_000);
    setup.chain.bind(1);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    for stream in [false, true] {
        let name = format!("order {stream}");
        let mut body = chat(5, json!({"hold": 1}));
        body["stream"] = stream.into();
        let asked = setup.engine.requests.load(Ordering::Relaxed);
        let first = {
            let (body, name) = (body.clone(), name.clone());
            tokio::spawn(async move { send_named(to, &body, 0, &name).await })
        };
        until("the engine is asked", || {
            setup.engine.requests.load(Ordering::Relaxed) == asked + 1
        })
        .await;
        let second = send_named(to, &body, 0, &name).await;
        assert_eq!(second.status, 409, "{}", second.body);
        assert_eq!(code(&second), "request_in_progress");
        assert_eq!(header(&second, "x-should-retry"), "true");
        setup.engine.release(1);
        let first = first.await.unwrap();
        assert_eq!(first.status, 200, "{}", first.body);
        let third = send_named(to, &body, 0, &name).await;
        assert_eq!(
            (third.status.as_u16(), code(&third)),
            (409, "idempotency_key_used".into())
        );
        assert_eq!(header(&third, "x-should-retry"), "false");
        assert_eq!(
            header(&third, "x-tally-receipt"),
            header(&first, "x-tally-receipt")
        );
        // Nobody else's names are in the way, nor other names.
        let open = chat(5, json!({}));
        assert_eq!(send_named(to, &open, 1, &name).await.status, 200);
        assert_eq!(
            send_named(to, &open, 0, &format!("{name}!")).await.status,
            200
        );
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 6);
    // The journal remembers over a restart.
    let gateway = setup.gateway().await;
    let again = send_named(gateway.http, &chat(5, json!({})), 0, "order true").await;
    assert_eq!(
        (again.status.as_u16(), code(&again)),
        (409, "idempotency_key_used".into())
    );
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 6);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_served_leaves_the_key_free() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let failed = send_named(to, &chat(5, json!({"status": 500})), 0, "a").await;
    assert_eq!(failed.status, 500);
    let mut unknown = chat(5, json!({}));
    unknown["model"] = "nobody".into();
    assert_eq!(send_named(to, &unknown, 0, "a").await.status, 404);
    assert_eq!(
        send_named(to, &chat(5, json!({})), 0, "a").await.status,
        200
    );
    assert_eq!(
        send_named(to, &chat(5, json!({})), 0, "a").await.status,
        409
    );
    for bad in [String::new(), "x".repeat(256)] {
        assert_eq!(
            send_named(to, &chat(5, json!({})), 0, &bad).await.status,
            400
        );
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 1);
    setup.chain.check();
}
