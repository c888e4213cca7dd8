//! How fast history is verified: receipt files with nothing but the genesis,
//! and a validator's stored history as `tally verify` does, on one core, while
//! the validators stand still.

use std::time::{Duration, Instant};

use serde_json::json;
use tally_ledger::{certified::Trust, receipt::ReceiptFile};
use tally_node::{
    Home,
    verify::{Level, Report, Sources, Task},
};
use tally_proto::v1::{GetReceiptRequest, Wait, get_receipt_request::By};
use tokio::task::JoinSet;

use crate::{
    Options,
    cluster::Cluster,
    driver::{Driver, submit},
    figure::{print, summary},
    machine::Probe,
};

const RECEIPTS: u64 = 1_000;
/// Batches of 1,000 debits that are put into the history, so many at a time.
const BATCHES: (usize, usize) = (200, 10);

/// What is verified, and which part of the entries counts.
const TASKS: [(&str, Level, bool); 4] = [
    ("verify_history_roots", Level::Roots, true),
    ("verify_history_bytes", Level::Bytes, true),
    ("verify_history_replay_certified", Level::Replay, true),
    ("verify_history_replay", Level::Replay, false),
];

/// Files per second, and entries per second of each level.
pub(crate) async fn verify(cluster: &Cluster, driver: &mut Driver, options: &Options) {
    for _ in 0..BATCHES.0 / BATCHES.1 {
        let mut calls = JoinSet::new();
        for _ in 0..BATCHES.1 {
            calls.spawn(submit(
                driver.ledger.clone(),
                driver.batch(1_000),
                Wait::Final,
            ));
        }
        calls.join_all().await;
    }
    let last = submit(driver.ledger.clone(), driver.batch(1_000), Wait::Final).await;
    let finality = last.finality.unwrap();
    let mut audit = cluster.audit(0).await;
    let mut files = Vec::new();
    for index in finality.first_receipt..finality.first_receipt + RECEIPTS {
        let request = GetReceiptRequest {
            by: Some(By::Index(index)),
        };
        files.push(audit.get_receipt(request).await.unwrap().into_inner().file);
    }
    let _stopped = cluster.stop();
    let probe = Probe::start(cluster.folder());
    let mut receipts = Vec::new();
    for _ in 0..options.runs {
        receipts.push(verify_files(cluster, &files));
    }
    let load = json!({"files": files.len(), "one batch": true});
    print(
        "verify_receipt_files",
        "files/s, one core",
        load,
        summary(&receipts),
        &probe,
    );
    for (name, level, trust_signatures) in TASKS {
        let mut rates = Vec::new();
        let mut last = None;
        for _ in 0..options.runs {
            let report = history(cluster, level, trust_signatures);
            rates.push(report.entries as f64 / report.seconds);
            last = Some(report);
        }
        let load = last.map_or(
            json!({}),
            |report| json!({"blocks": report.height, "entries": report.entries}),
        );
        let unit = "entries/s, one core";
        print(name, unit, load, summary(&rates), &probe);
    }
}

fn history(cluster: &Cluster, level: Level, trust_signatures: bool) -> Report {
    let sources = Sources::of_data(&Home::new(cluster.home(0)).data());
    let task = Task {
        level,
        trust_signatures,
        from_snapshot: None,
        expected: Vec::new(),
    };
    tally_node::verify::verify(&cluster.genesis, &sources, &task, &mut |_, _| ()).unwrap()
}

fn verify_files(cluster: &Cluster, files: &[bytes::Bytes]) -> f64 {
    let started = Instant::now();
    let mut trust = Trust::new(&cluster.genesis).unwrap();
    for file in files {
        ReceiptFile::decode(file)
            .unwrap()
            .verify_with(&mut trust)
            .unwrap();
    }
    files.len() as f64 / started.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}
