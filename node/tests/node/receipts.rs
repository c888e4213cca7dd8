//! Receipts of a large block that is history: each is found and proven, and
//! asking for all of them is no work per receipt that grows with the block.

use std::time::Instant;

use crate::net::{CT, Net, by_debit, by_hold};
use tally_ledger::{
    certified::Trust,
    ids::Amount,
    receipt::{PriceCheck, ReceiptFile},
    receipts::ReceiptsFile,
};
use tally_node::Engine;
use tally_proto::v1::{self, get_receipt_request::By};

/// Debits of one batch.
const BATCH: u64 = 1_000;
/// Blocks after it: more than are kept in memory.
const LATER: u64 = 260;

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_a_large_old_block_are_proven_quickly() {
    let net = Net::new(1);
    let node = net.start(0, Engine::Solo).await;
    net.prepare(&node, 10 * CT).await;
    let batch = node.finalise(net.debits(1, BATCH, 1, 0, 1000)).await;
    for number in 1..=LATER {
        node.finalise(net.debits(BATCH + number, 1, 1, 0, 1000))
            .await;
    }

    for (name, by) in [
        ("index", None),
        ("hold", Some(by_hold as fn(u64) -> By)),
        ("debit", Some(by_debit)),
    ] {
        let mut answers = Vec::new();
        let started = Instant::now();
        for number in 1..=BATCH {
            let index = batch.first_receipt + number - 1;
            let by = by.map_or(By::Index(index), |by| by(number));
            answers.push(node.receipt(by).await.unwrap());
        }
        let took = started.elapsed();
        let mut trust = Trust::new(&net.genesis).unwrap();
        for (number, answer) in (1..).zip(&answers) {
            let file = ReceiptFile::decode(&answer.file).unwrap();
            let verified = file.verify_with(&mut trust).unwrap();
            assert_eq!(verified.receipt.position.number.0, number);
            assert_eq!(verified.receipt.charged, Amount(1000));
            assert_eq!(verified.price, PriceCheck::Exact);
            assert_eq!(verified.detail.unwrap().hold, 1000 + number);
            assert_eq!(verified.height.0, batch.height);
        }
        println!("{BATCH} receipts by {name}: {took:?}");
    }

    // The small blocks: each a batch of its own.
    let started = Instant::now();
    for number in BATCH + 1..=BATCH + LATER {
        let answer = node.receipt(by_hold(number)).await.unwrap();
        let verified = ReceiptFile::decode(&answer.file)
            .unwrap()
            .verify(&net.genesis)
            .unwrap();
        assert_eq!(verified.receipt.position.number.0, number);
        // Every second one is of the first version, which says nothing.
        let joined = verified.detail.unwrap().queued.map(|queued| queued.joined);
        assert_eq!(joined, (number % 2 == 0).then_some(2 * number));
        let told = answer.detail.unwrap();
        let queued = if number % 2 == 0 {
            (1, 2 * number, 1)
        } else {
            (0, 0, 0)
        };
        assert_eq!((told.queue, told.joined, told.dispatched), queued);
    }
    println!(
        "{LATER} receipts of as many blocks: {:?}",
        started.elapsed()
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_receipts_reads_few_blocks_and_says_how_to_go_on() {
    let net = Net::new(1);
    net.configure(0, |config| config.rpc.receipt_blocks = 2);
    let node = net.start(0, Engine::Solo).await;
    net.prepare(&node, 10 * CT).await;
    let (mut indexes, mut heights) = (Vec::new(), Vec::new());
    for batch in 0..3 {
        let made = node
            .finalise(net.debits(1 + batch * 5, 5, 1, 0, 1000))
            .await;
        indexes.extend(made.first_receipt..made.first_receipt + 5);
        heights.push(made.height);
    }
    let get = |indexes: &[u64], without_details: bool| {
        let mut audit = node.audit.clone();
        let request = v1::GetReceiptsRequest {
            indexes: indexes.to_vec(),
            without_details,
            ..Default::default()
        };
        async move { audit.get_receipts(request).await }
    };
    let refused = get(&indexes, false).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let why = "of 3 blocks, and with details a file takes those of 2";
    assert!(refused.message().contains(why), "{refused}");
    let go_on = format!("--to {}`, then `--from {}`", heights[1], heights[1] + 1);
    assert!(refused.message().contains(&go_on), "{refused}");
    for (indexes, without) in [
        (&indexes[..10], false),
        (&indexes[10..], false),
        (&indexes[..], true),
    ] {
        let file = get(indexes, without).await.unwrap().into_inner().file;
        let file = ReceiptsFile::decode(&file).unwrap();
        let mut trust = Trust::new(&net.genesis).unwrap();
        let verified = file.verify_with(&mut trust).unwrap();
        assert_eq!(verified.len(), indexes.len());
        assert!(verified.iter().all(|it| it.detail.is_none() == without));
    }
    node.stop().await;
}
