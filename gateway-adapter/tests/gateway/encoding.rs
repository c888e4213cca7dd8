//! An engine that compresses though it was asked not to: its answers are
//! metered, and reach the client plain.

use std::sync::atomic::Ordering;

use crate::support::{Setup, chain, chat, send, until};
use http_body_util::BodyExt;
use serde_json::json;
use tally_ledger::debit::Flags;

const PLENTY: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_are_charged_and_reach_the_client_plain() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let encodings = ["gzip", "deflate", "br", "zstd"];
    for encoding in encodings {
        for stream in [false, true] {
            let mut body = chat(20, json!({"tokens": 5, "encoding": encoding}));
            body["stream"] = stream.into();
            let answer = send(gateway.http, &body).await;
            assert_eq!(answer.status, 200, "{encoding}: {}", answer.body);
            assert_eq!(answer.header("content-encoding"), "");
            assert_eq!(setup.engine.last().0["accept-encoding"], "identity");
            if stream {
                assert_eq!(answer.events().len(), 5 + 1 + 1, "{}", answer.body);
            } else {
                assert_eq!(answer.json()["usage"]["completion_tokens"], 5);
            }
        }
    }
    gateway.stop().await.unwrap();
    let debits = setup.chain.debits();
    assert_eq!(debits.len(), 2 * encodings.len());
    for debit in debits {
        assert_eq!(debit.detail.usage.0, [10, 0, 5, 0, 0, 0]);
        assert_eq!(debit.fixed.flags, Flags::default());
    }
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_stream_is_delivered_as_it_comes() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let mut body = chat(20, json!({"hold": 3, "encoding": "gzip"}));
    body["stream"] = true.into();
    let client = crate::support::client();
    let request = crate::support::request(gateway.http, &body, &chain::api_key_text(0));
    let mut answer = client.request(request).await.unwrap().into_body();
    let mut seen = String::new();
    // The engine waits: what came before must come through.
    while seen.matches("word ").count() < 3 {
        let frame = answer.frame().await.unwrap().unwrap();
        seen += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    drop((answer, client));
    until("the engine notices", || {
        setup.engine.cancelled.load(Ordering::Relaxed) == 1
    })
    .await;
    let (_, debit) = setup.chain.only_receipt().await;
    assert_eq!(debit.detail.usage.0[2], 3);
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_answer_that_grows_without_end_is_cut_off() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.limits.answer_bytes = 1_024;
    setup.config.upstreams[0].max_output = 10_000;
    let gateway = setup.gateway().await;
    let body = chat(10_000, json!({"encoding": "gzip"}));
    let answer = send(gateway.http, &body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (502, "upstream_error")
    );
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().available.0, PLENTY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_compression_is_charged_what_came_and_an_unknown_one_nothing() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let unknown = chat(20, json!({"encoding": "compress"}));
    let answer = send(gateway.http, &unknown).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (502, "upstream_error")
    );
    assert_eq!(
        setup.chain.main().available.0 + setup.chain.main().leased.0,
        PLENTY
    );
    let mut body = chat(20, json!({"break": 3, "encoding": "gzip"}));
    body["stream"] = true.into();
    let answer = send(gateway.http, &body).await;
    assert!(answer.body.contains("upstream_error"), "{}", answer.body);
    gateway.stop().await.unwrap();
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert_eq!(receipt.flags, Flags::COUNTED);
    assert_eq!(debit.detail.usage.0[2], 3);
    setup.chain.check();
}
