//! Requests and tokens per minute: counted for keys, accounts and classes,
//! told in headers, and settled by what was used.

use crate::support::{Setup, chain, chat, metric, send, send_as};
use serde_json::json;
use tally_gateway_adapter::config::Rate;
use tally_proto::v1::{self, metering_service_client::MeteringServiceClient};

const PLENTY: u64 = 1_000_000;

fn requests(most: u32) -> Rate {
    Rate {
        requests: Some(most),
        tokens: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_send_so_many_requests_and_is_told() {
    let mut setup = Setup::new(PLENTY).await;
    setup.chain.bind(0);
    setup.config.rates.key = requests(3);
    setup.config.rates.account = requests(5);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let body = chat(5, json!({"tokens": 1}));
    for left in ["2", "1", "0"] {
        let answer = send(to, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), "3");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), left);
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), "");
    }
    let answer = send(to, &body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (429, "rate_limit_exceeded".into())
    );
    assert_eq!(answer.json()["error"]["type"], "requests");
    assert_eq!(answer.header("x-should-retry"), "true");
    // A third of a minute for one.
    let retry: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&retry), "{retry}");
    let ms: u64 = answer.header("retry-after-ms").parse().unwrap();
    assert_eq!(ms.div_ceil(1_000), retry);
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), "0");
    let reset = answer.header("x-ratelimit-reset-requests");
    assert!(reset.ends_with('s') && reset.len() <= 7, "{reset}");
    assert_eq!(answer.header("x-tally-receipt"), "");
    // Another key of the account has its own, and the account's.
    let other = chain::api_key_text(1);
    for left in ["1", "0"] {
        let answer = send_as(to, &body, &other).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), left);
    }
    assert_eq!(send_as(to, &body, &other).await.status, 429);
    // `MeteringService` counts the same.
    let mut client = MeteringServiceClient::connect(format!("http://{}", gateway.grpc))
        .await
        .unwrap();
    let asked = v1::AuthorizeRequest {
        key: Some(v1::authorize_request::Key::Bearer(other)),
        model: "m".into(),
        input: 1,
        max_output: 1,
        ..Default::default()
    };
    let refused = client.authorize(asked).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.asked(), 5);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_count_as_they_were_used() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.rates.key.tokens = Some(200);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    // Ten of input and one of output each, although ninety were likely.
    for i in 1..=5u64 {
        let mut body = chat(80, json!({"tokens": 1}));
        body["stream"] = (i % 2 == 0).into();
        let answer = send(to, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), "200");
        let left: u64 = answer
            .header("x-ratelimit-remaining-tokens")
            .parse()
            .unwrap();
        // The head is written while what is likely still counts; of those
        // before it only what they used does.
        let before = 200 - 11 * (i - 1);
        assert!((before - 105..=before - 75).contains(&left), "{i}: {left}");
    }
    // A refused or failed one takes none.
    send(to, &chat(80, json!({"status": 400}))).await;
    let answer = send(to, &chat(1, json!({"more": 500}))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // What was used beyond it is owed.
    let answer = send(to, &chat(1, json!({}))).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.json()["error"]["type"], "tokens");
    let ms: u64 = answer.header("retry-after-ms").parse().unwrap();
    assert!(ms > 90_000, "{ms}");
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_is_limited_over_all_accounts_and_nothing_stays_reserved() {
    let mut setup = Setup::new(PLENTY).await;
    let account = setup.chain.open_account();
    setup.chain.issue(account.0, chain::MAIN, PLENTY);
    setup.chain.bind(account.0);
    setup.config.rates.class = [("main".to_owned(), requests(1))].into();
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let body = chat(5, json!({"tokens": 1}));
    assert_eq!(send(to, &body).await.status, 200);
    for key in [0, 1] {
        let answer = send_as(to, &body, &chain::api_key_text(key)).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.code(), "rate_limit_exceeded");
    }
    assert_eq!(metric(to, "tally_gateway_debits_total").await, 1);
    gateway.stop().await.unwrap();
    let totals = [0, account.0].map(|account| setup.chain.totals(account, chain::MAIN));
    assert_eq!(totals.map(|totals| totals.leased.0), [0, 0]);
    assert_eq!(totals[1].available.0, PLENTY);
    setup.chain.check();
}
