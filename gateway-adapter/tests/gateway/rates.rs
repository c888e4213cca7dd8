//! Requests and tokens per minute: counted for keys, accounts and classes,
//! told in headers, settled by what was used, and shared by the gateways when
//! the chain sets them.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Instant};

use crate::support::{
    Answer, Setup, chain, chat,
    metering::{metering, wish},
    metric, send, send_as,
};
use serde_json::json;
use tally_gateway_adapter::config::Rate;
use tally_ledger::rates::{self, ClassRate, Rates};
use tally_proto::v1::{self, metering_service_client::MeteringServiceClient};

const PLENTY: u64 = 1_000_000;

fn requests(most: u32) -> Rate {
    Rate {
        requests: Some(most),
        tokens: None,
    }
}

/// The most of a limit that has come back since then: a slow machine gives it
/// time.
fn regained(limit: u64, since: Instant) -> u64 {
    let ms = u64::try_from(since.elapsed().as_millis()).unwrap();
    limit * ms / 60_000
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
    let began = Instant::now();
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
        let most = before - 75 + regained(200, began);
        assert!((before - 105..=most).contains(&left), "{i}: {left}");
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

/// A limit of the chain on the requests of each key.
fn of_keys(requests: u32) -> Rates {
    Rates {
        key: rates::Rate {
            requests,
            ..rates::Rate::NONE
        },
        ..Rates::default()
    }
}

/// A short request that is answered, or refused for its rate.
async fn one(to: SocketAddr) -> Answer {
    let answer = send(to, &chat(5, json!({"tokens": 1}))).await;
    let code = answer.status.as_u16();
    assert!(code == 200 || code == 429, "{}", answer.body);
    answer
}

/// What an answer says of its requests: limit and rest.
fn told(answer: &Answer) -> (&str, &str) {
    let of = |name| answer.header(name);
    (
        of("x-ratelimit-limit-requests"),
        of("x-ratelimit-remaining-requests"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_follows_the_rates_of_the_chain_and_its_share() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    assert_eq!(told(&one(to).await), ("", ""));
    let began = Instant::now();
    let has = |answer: &Answer, limit: u64, left: u64| {
        let most = left + regained(limit, began);
        let (of, now) = told(answer);
        let now: u64 = now.parse().unwrap();
        assert!(
            of == limit.to_string() && (left..=most).contains(&now),
            "{now} of {of}, not {left} of {limit}"
        );
    };
    // There are three gateways: four each, and one of the two left over.
    setup.chain.set_rates(&Rates {
        key: rates::Rate {
            requests: 14,
            tokens: 3_000,
        },
        ..Rates::default()
    });
    setup.chain.followed(to).await;
    let answer = one(to).await;
    has(&answer, 5, 4);
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), "1000");
    has(&one(to).await, 5, 3);
    // Two share: seven each, and two are used.
    setup.chain.suspend(2);
    setup.chain.followed(to).await;
    has(&one(to).await, 7, 4);
    // Less than is used: nothing until that is made up for.
    setup.chain.set_rates(&of_keys(4));
    setup.chain.followed(to).await;
    let refused = one(to).await;
    assert_eq!((refused.status.as_u16(), told(&refused)), (429, ("2", "0")));
    assert_eq!(refused.header("x-ratelimit-limit-tokens"), "");
    let ms: u64 = refused.header("retry-after-ms").parse().unwrap();
    // A place in thirty seconds, and one is owed.
    let spent = u64::try_from(began.elapsed().as_millis()).unwrap();
    assert!((30_000 - spent.min(30_000)..=60_000).contains(&ms), "{ms}");
    // What was used is not forgotten by more, nor asked for by none.
    setup.chain.set_rates(&of_keys(14));
    setup.chain.followed(to).await;
    has(&one(to).await, 7, 3);
    setup.chain.set_rates(&Rates::default());
    setup.chain.followed(to).await;
    let answer = one(to).await;
    assert_eq!((answer.status.as_u16(), told(&answer)), (200, ("", "")));
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_that_cannot_be_read_at_once_are_read_later() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let to = gateway.http;
    let withhold = |it| {
        let withholds = &setup.chain.withholds_parameters;
        withholds.store(it, Ordering::Relaxed);
    };
    withhold(true);
    setup.chain.set_rates(&of_keys(14));
    // It has seen the entry, asked in vain, and given up.
    setup.chain.followed(to).await;
    assert_eq!(told(&one(to).await), ("", ""));
    withhold(false);
    setup.chain.followed(to).await;
    assert_eq!(told(&one(to).await), ("5", "4"));
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_a_limit_and_together_keep_it() {
    let setup = Setup::new(PLENTY).await;
    setup.chain.suspend(2);
    setup.chain.set_rates(&of_keys(5));
    let gateways = setup.gateways(2).await;
    let mut served = [0; 2];
    for i in 0..10 {
        let answer = one(gateways[i % 2].http).await;
        assert_eq!(told(&answer).0, ["3", "2"][i % 2]);
        served[i % 2] += usize::from(answer.status == 200);
    }
    assert_eq!(served, [3, 2]);
    for gateway in gateways {
        gateway.stop().await.unwrap();
    }
    assert_eq!(setup.engine.asked(), 5);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_below_the_number_of_gateways_leaves_one_for_each() {
    let setup = Setup::new(PLENTY).await;
    setup.chain.set_rates(&of_keys(1));
    let gateways = setup.gateways(3).await;
    for gateway in gateways {
        assert_eq!(told(&one(gateway.http).await), ("1", "0"));
        assert_eq!(one(gateway.http).await.status, 429);
        gateway.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_sticky_routing_only_classes_are_shared_and_the_lower_limit_holds() {
    let mut setup = Setup::new(PLENTY).await;
    setup.chain.bind(0);
    let rate = |requests| rates::Rate {
        requests,
        ..rates::Rate::NONE
    };
    setup.chain.set_rates(&Rates {
        key: rate(6),
        account: rate(8),
        classes: chain::list(vec![ClassRate {
            class: chain::MAIN,
            rate: rate(12),
        }]),
        ..Rates::default()
    });
    setup.config.rates.sticky = true;
    setup.config.rates.account = requests(7);
    let gateway = setup.gateway().await;
    let to = gateway.http;
    // The key's six are all here, and so are the account's eight, but its
    // own configuration allows seven.
    assert_eq!(told(&one(to).await), ("6", "5"));
    let other = chain::api_key_text(1);
    let body = chat(5, json!({"tokens": 1}));
    let answer = send_as(to, &body, &other).await;
    assert_eq!(told(&answer), ("6", "5"));
    // A third of the class's twelve is here.
    for status in [200, 200, 429] {
        assert_eq!(send_as(to, &body, &other).await.status, status);
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.engine.asked(), 4);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_hold_takes_what_it_may_use() {
    let mut setup = Setup::new(110).await;
    let account = setup.chain.open_account();
    setup.chain.issue(account.0, chain::MAIN, PLENTY);
    setup.chain.bind(account.0);
    let tokens = Rate {
        requests: None,
        tokens: Some(1_100),
    };
    setup.config.rates.class = [("main".to_owned(), tokens)].into();
    setup.config.rates.key = tokens;
    let gateway = setup.gateway().await;
    let mut client = metering(&gateway).await;
    // A thousand are asked for, 25 can be paid.
    let hold = client.authorize(wish(10, 1_000)).await.unwrap();
    assert_eq!(hold.into_inner().max_output, 25);
    // Of the class's 1,100 tokens 35 are taken.
    let mut other = wish(10, 1_055);
    other.key = Some(v1::authorize_request::Key::Bearer(chain::api_key_text(1)));
    let hold = client.authorize(other).await.unwrap().into_inner();
    assert_eq!(hold.max_output, 1_055);
    gateway.stop().await.unwrap();
    setup.chain.check();
}
