//! Exact budgets: a balance for a hundred requests serves a hundred, through
//! one gateway or several, and nobody's answer is cut short while somebody
//! else's runs.

use std::sync::{Arc, atomic::Ordering};

use crate::support::{Answer, Running, Setup, chat, send};
use serde_json::{Value, json};
use tally_gateway_adapter::config::Tokenize;
use tokio::{sync::Semaphore, task::JoinSet};

/// Input and output of a request, as the engine counts them, and its price.
const INPUT: u64 = 10;
const OUTPUT: u64 = 10;

fn price(output: u64) -> u64 {
    INPUT + 4 * output
}

/// Sends all, 64 at a time, to the gateways in turn.
async fn send_all(gateways: &[Running], bodies: Vec<Value>) -> Vec<(Value, Answer)> {
    let (slots, mut tasks) = (Arc::new(Semaphore::new(64)), JoinSet::new());
    for (i, body) in bodies.into_iter().enumerate() {
        let to = gateways[i % gateways.len()].http;
        let slots = slots.clone();
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            let answer = send(to, &body).await;
            (body, answer)
        });
    }
    tasks.join_all().await
}

/// Output tokens of an answer, streamed or not.
fn output(answer: &Answer) -> u64 {
    if answer.header("content-type") == "text/event-stream" {
        assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
        return answer.body.matches("word ").count() as u64;
    }
    answer.json()["usage"]["completion_tokens"]
        .as_u64()
        .unwrap()
}

async fn stop(gateways: Vec<Running>) {
    for gateway in gateways {
        gateway.stop().await.unwrap();
    }
}

/// What each request asks as its largest output.
fn limited(i: usize, limit: &str) -> Value {
    let mut body = chat(1, json!({"tokens": OUTPUT}));
    let same = json!(OUTPUT);
    let huge = json!(999_999_999u64);
    body["max_tokens"] = match limit {
        "same" => same,
        "huge" => huge,
        "absent" => Value::Null,
        _ => [same, huge, Value::Null][i % 3].clone(),
    };
    body["stream"] = (limit == "mixed" && i.is_multiple_of(2)).into();
    body
}

async fn exactly_a_hundred(count: u32, limit: &str) {
    let mut setup = Setup::new(100 * price(OUTPUT)).await;
    setup.config.upstreams[0].tokenize = Tokenize::Vllm;
    let gateways = setup.gateways(count).await;
    let bodies = (0..300).map(|i| limited(i, limit)).collect();
    let answers = send_all(&gateways, bodies).await;
    let mut served = 0;
    for (_, answer) in &answers {
        if answer.status == 200 {
            assert_eq!(output(answer), OUTPUT);
            served += 1;
        } else {
            let told = (answer.status.as_u16(), answer.code());
            assert_eq!(told, (429, "insufficient_quota".to_owned()), "{limit}");
        }
    }
    assert_eq!(served, 100, "{count} gateways, limit {limit}");
    stop(gateways).await;
    let main = setup.chain.main();
    let left = (main.spent.0, main.available.0, main.leased.0, main.loss.0);
    assert_eq!(left, (100 * price(OUTPUT), 0, 0, 0));
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_serves_exactly_what_the_balance_pays() {
    for limit in ["same", "absent", "huge", "mixed"] {
        exactly_a_hundred(1, limit).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_serve_exactly_what_the_balance_pays() {
    for limit in ["same", "absent", "huge", "mixed"] {
        exactly_a_hundred(3, limit).await;
    }
}

/// SplitMix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

async fn all_lengths(count: u32, mut seed: u64) {
    let balance = 40 * price(520);
    let mut setup = Setup::new(balance).await;
    setup.config.upstreams[0].tokenize = Tokenize::Vllm;
    setup.config.upstreams[0].max_output = 1_024;
    let gateways = setup.gateways(count).await;
    let bodies = (0..120).map(|i| {
        let tokens = 16 + random(&mut seed) % 1_009;
        let asked = if i % 2 == 0 { tokens } else { 1_024 };
        let mut body = chat(asked as u32, json!({"tokens": tokens, "asked": asked}));
        body["stream"] = (i % 3 == 0).into();
        body
    });
    let answers = send_all(&gateways, bodies.collect()).await;
    stop(gateways).await;
    let mut spent = 0;
    let mut cheapest = u64::MAX;
    for (body, answer) in &answers {
        let tokens = body["test"]["tokens"].as_u64().unwrap();
        if answer.status == 200 {
            let made = output(answer);
            assert!(made <= tokens);
            spent += price(made);
        } else {
            assert_eq!(answer.code(), "insufficient_quota");
            cheapest = cheapest.min(price(tokens));
        }
    }
    assert!(spent <= balance);
    assert!(balance - spent < cheapest, "{} left", balance - spent);
    let main = setup.chain.main();
    assert_eq!((main.spent.0, main.leased.0, main.loss.0), (spent, 0, 0));
    let beside = setup.engine.lowered_beside_others.load(Ordering::Relaxed);
    assert_eq!(beside, 0, "lowered while others ran");
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_of_all_kinds_through_one_gateway() {
    for seed in 1..4 {
        all_lengths(1, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_of_all_kinds_through_three_gateways() {
    for seed in 1..4 {
        all_lengths(3, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_counted_only_when_their_bound_does_not_fit() {
    for (balance, times, counts) in [(100_000, 20, false), (400, 8, true)] {
        let mut setup = Setup::new(balance).await;
        setup.config.upstreams[0].tokenize = Tokenize::Vllm;
        let gateway = setup.gateway().await;
        let body = chat(10, json!({}));
        for _ in 0..times {
            assert_eq!(send(gateway.http, &body).await.status, 200);
        }
        let counted = setup.engine.tokenized.load(Ordering::Relaxed);
        assert_eq!(counted > 0, counts, "{counted} of {times}");
        gateway.stop().await.unwrap();
        assert_eq!(setup.chain.main().spent.0, times * price(OUTPUT));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_count_leaves_the_bound() {
    // 139 would be the bound's hold: 3 tokens behind the bound can be paid.
    let mut setup = Setup::new(111).await;
    setup.config.upstreams[0].tokenize = Tokenize::Vllm;
    setup.engine.cannot_count.store(true, Ordering::Relaxed);
    let gateway = setup.gateway().await;
    let answer = send(gateway.http, &chat(10, json!({}))).await;
    assert_eq!(output(&answer), 3);
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "length");
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().spent.0, price(3));
}
