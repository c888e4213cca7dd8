//! How fast history is verified: receipt files with nothing but the genesis,
//! and blocks executed again from the genesis on one core.

use std::time::{Duration, Instant};

use serde_json::json;
use tally_ledger::{
    block::Block,
    certified::Trust,
    crypto::{ChainId, Domain, PublicKey, Signature},
    execute::{SignatureCheck, Strict, check},
    receipt::ReceiptFile,
    state::State,
};
use tally_proto::v1::{GetBlockRequest, GetReceiptRequest, Wait, get_receipt_request::By};

use crate::{
    Options,
    cluster::Cluster,
    driver::{Driver, submit},
    figure::{print, summary},
    machine::Probe,
};

const RECEIPTS: u64 = 1_000;

/// Believes signatures: a certificate vouched for the block.
struct Certified;

impl SignatureCheck for Certified {
    fn verify(&self, _: &PublicKey, _: Domain, _: &ChainId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// Entries per second of both.
pub(crate) async fn verify(cluster: &Cluster, driver: &mut Driver, options: &Options) {
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
    let mut blocks = Vec::new();
    for height in 1..=finality.height.min(400) {
        let answer = audit.get_block(GetBlockRequest { height }).await.unwrap();
        blocks.push(answer.into_inner().block);
    }
    let probe = Probe::start(cluster.folder());
    let (mut receipts, mut replayed, mut strictly) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        receipts.push(verify_files(cluster, &files));
        replayed.push(replay(cluster, &blocks, &Certified));
        strictly.push(replay(cluster, &blocks, &Strict));
    }
    let load = json!({"files": files.len(), "one batch": true});
    print(
        "verify_receipt_files",
        "files/s, one core",
        load,
        summary(&receipts),
        &probe,
    );
    let load = json!({"blocks": blocks.len()});
    print(
        "replay_certified",
        "entries/s, one core",
        load.clone(),
        summary(&replayed),
        &probe,
    );
    print(
        "replay_all_signatures",
        "entries/s, one core",
        load,
        summary(&strictly),
        &probe,
    );
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

fn replay(cluster: &Cluster, blocks: &[bytes::Bytes], signatures: &dyn SignatureCheck) -> f64 {
    let mut state = State::genesis(&cluster.genesis).unwrap();
    let started = Instant::now();
    for bytes in blocks {
        let block = Block::decode(bytes, 64 << 20).unwrap();
        let execution = check(&state, &block, signatures).unwrap();
        state.commit(execution);
    }
    state.log().size() as f64 / started.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}
