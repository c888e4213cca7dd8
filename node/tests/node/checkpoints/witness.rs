//! What a witness answers, and what a node does with it.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use bytes::Bytes;
use serde_json::Value;
use tally_ledger::{
    checkpoint::LogKeys,
    merkle::{Levels, leaf_hash},
    note::NoteSignature,
    witness::AddCheckpoint,
};
use tally_node::{Engine, web::Web};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_answers_the_same_request_after_a_crash() {
    let net = Net::new(4);
    let log = LogKeys::new(&net.genesis);
    let tree = Levels::of((0..9u8).map(|i| leaf_hash(&[i])));
    let request = |old: u64, size: u64| AddCheckpoint {
        old,
        proof: tree.consistency(old, size).unwrap(),
        checkpoint: signed_by_all(&net, &tree, size),
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let outsider = Outsider::start(&net, any, true).await;
    let (status, _) = outsider.ask(&request(0, 4)).await;
    assert_eq!(status, 200);
    // The answer is lost with the process; the state is not.
    outsider.stop().await;
    let outsider = Outsider::start(&net, any, false).await;
    let (status, body) = outsider.ask(&request(0, 4)).await;
    assert_eq!((status, body.as_str()), (409, "4\n"));
    let (status, body) = outsider.ask(&request(4, 4)).await;
    assert_eq!(status, 200);
    let line = NoteSignature::parse_lines(body.as_bytes())
        .unwrap()
        .remove(0);
    let note = request(4, 4).checkpoint.with(line).unwrap();
    assert!(note.verify(std::slice::from_ref(&outsider.key)).unwrap()[0].is_some());
    // Many at once: each that is cosigned continues the one before.
    let mut asked = Vec::new();
    for size in [5, 6, 7, 8, 9, 5, 7, 9] {
        let request = request(4, size);
        let url = format!("http://{}/add-checkpoint", outsider.address);
        asked.push(tokio::spawn(async move {
            let body = Bytes::from(request.to_string());
            Web::new().post(&url, body).await.unwrap().0.as_u16()
        }));
    }
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, [200, 409, 409, 409, 409, 409, 409, 409]);
    // Sent as it comes, a request needs no more than its sizes.
    let url = format!("http://{}/add-checkpoint", outsider.address);
    let huge = Bytes::from(vec![b'a'; 1 << 20]);
    let answer = Web::new().post(&url, huge).await;
    assert!(answer.is_err() || answer.unwrap().0.as_u16() == 413);
    let (status, body) = get(outsider.address, "").await;
    let status_page: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &status_page["log"]), (200, &log.origin().into()));
    assert_eq!(get(outsider.address, "0000/checkpoint").await.0, 404);
    outsider.stop().await;
}

/// Gives each request one of these answers, and then no more.
fn canned(listener: TcpListener, answers: &'static [&'static str]) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut some = [0; 4096];
            // The checkpoint ends the request, and a newline the checkpoint.
            while !request.ends_with(b"\n") || !request.windows(4).any(|w| w == b"old ") {
                let count = stream.read(&mut some).unwrap();
                request.extend_from_slice(&some[..count]);
            }
            let head = "connection: close\r\ncontent-length";
            let (status, body) = answer.split_once(' ').unwrap();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\n{head}: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_witness_answers_is_checked_and_it_is_asked_again() {
    let net = Net::new(1);
    let log = LogKeys::new(&net.genesis);
    // The configuration needs the key before the witness runs.
    let outsider = Outsider::start(&net, "127.0.0.1:0".parse().unwrap(), true).await;
    configure(&net, Some(&outsider));
    let (address, key) = (outsider.address, outsider.key.clone());
    outsider.stop().await;
    let listener = TcpListener::bind(address).unwrap();
    let liar = canned(
        listener,
        &[
            "200 nonsense",
            "409 x",
            // A size that nobody has: it must not be believed for ever.
            "409 999999\n",
        ],
    );
    let node = net.start(0, Engine::Solo).await;
    node.finalise(net.open_account(0)).await;
    tokio::task::spawn_blocking(move || liar.join().unwrap())
        .await
        .unwrap();
    let (status, body) = get(node.http, "checkpoint").await;
    assert_eq!(status, 200);
    let unseen = log.read(&body).unwrap();
    assert_eq!(
        unseen.note.verify(std::slice::from_ref(&key)),
        Ok(vec![None])
    );
    let outsider = Outsider::start(&net, address, false).await;
    // The next checkpoint is handed in at once.
    node.finalise(net.open_account(1)).await;
    let size = log_size(&node).await;
    served(&node, &log, size, std::slice::from_ref(&key)).await;
    let metrics = node.page("/metrics").await;
    let none = "tally_node_witness_failures_total 0";
    assert!(
        !metrics.contains(none) && metrics.contains(&none[..33]),
        "{metrics}"
    );
    node.stop().await;
    outsider.stop().await;
}
