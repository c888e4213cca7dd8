//! What a node has seen signed twice: kept over restarts, told by whose turn
//! it is, bounded; and on the chain of running nodes.

use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

use tally_ledger::{
    block::ValidatorSet,
    codec::List,
    crypto::SecretKey,
    evidence::{Evidence, EvidenceFile, MAX_EVIDENCE_PER_BLOCK},
    execute::{Strict, build},
    genesis::Genesis,
    ids::{Height, Time},
    state::State,
    transaction::Transaction,
};
use tally_node::{
    Engine,
    storage::RealDisk,
    testimony::{MAX_WAITING, Testimony},
};
use tally_proto::v1;

use crate::net::{Net, Running, prevoted_twice, until};

/// The key of a validator of three, or of nobody.
fn key(n: u16) -> SecretKey {
    SecretKey::from_seed(&[n as u8 + 1; 32])
}

fn genesis() -> Genesis {
    static GENESIS: LazyLock<Genesis> = LazyLock::new(|| {
        let mut genesis = Net::new(3).genesis;
        let mut validators = genesis.validators.0.to_vec();
        for (n, validator) in (0..).zip(&mut validators) {
            validator.consensus_key = key(n).public();
        }
        genesis.validators = ValidatorSet(List::new(validators).unwrap());
        genesis
    });
    GENESIS.clone()
}

fn seen(state: &State, validator: u16, height: u64) -> Evidence {
    prevoted_twice(state.chain(), &key(validator), validator, height)
}

fn step(state: &mut State, transactions: &[Transaction]) {
    let time = Time(state.time().0 + 1);
    let built = build(state, time, 0, transactions, &Strict);
    assert_eq!(built.refused, []);
    state.commit(built.execution);
}

fn open(folder: &Path, own: u16) -> Testimony {
    let disk = Arc::new(RealDisk);
    Testimony::open(disk, folder.to_owned(), &genesis(), key(own)).unwrap()
}

#[test]
fn what_was_seen_is_told_once_by_whose_turn_it_is() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let all = || (0..3).map(|own| open(folders[usize::from(own)].path(), own));
    let mut state = State::genesis(&genesis()).unwrap();
    (0..3).for_each(|_| step(&mut state, &[]));
    for mut one in all() {
        let twice = vec![seen(&state, 2, 3), seen(&state, 2, 3), seen(&state, 1, 2)];
        one.keep(&state, twice).unwrap();
        assert_eq!(one.waiting(), 2);
    }
    // After a restart it waits still; height 4 is validator 1's.
    let told: Vec<Vec<Transaction>> = all().map(|one| one.tell(&state, Time(0))).collect();
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 0]);
    step(&mut state, &told[1]);
    assert_eq!(state.marks()[2].heights[..], [Height(3)]);
    // The chain has it, so nobody tells it again.
    for (own, mut one) in (0..).zip(all()) {
        one.settle(&state).unwrap();
        assert_eq!(one.waiting(), 0);
        one.keep(&state, vec![seen(&state, 2, 3)]).unwrap();
        assert_eq!(
            (
                one.waiting(),
                open(folders[usize::from(own)].path(), own).waiting()
            ),
            (0, 0)
        );
    }
}

#[test]
fn what_waits_is_bounded_and_so_is_what_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::genesis(&genesis()).unwrap();
    (0..80).for_each(|_| step(&mut state, &[]));
    let mut one = open(folder.path(), 0);
    for height in 1..=80 {
        one.keep(&state, vec![seen(&state, 1, height)]).unwrap();
    }
    assert_eq!(one.waiting(), MAX_WAITING);
    let told = one.tell(&state, Time(0));
    // Height 81 is validator 0's.
    assert_eq!(told.len(), MAX_EVIDENCE_PER_BLOCK as usize);
}

#[test]
fn a_file_that_proves_nothing_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::genesis(&genesis()).unwrap();
    step(&mut state, &[]);
    let mut one = open(folder.path(), 0);
    let both = vec![seen(&state, 1, 1), seen(&state, 2, 1)];
    one.keep(&state, both).unwrap();
    let path = folder.path().join(format!("{:020}-1.evidence", 1));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::write(folder.path().join("notes.txt"), "x").unwrap();
    assert_eq!(open(folder.path(), 0).waiting(), 1);
}

#[test]
fn who_is_no_validator_keeps_and_tells_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::genesis(&genesis()).unwrap();
    let mut one = open(folder.path(), 7);
    for _ in 0..4 {
        step(&mut state, &[]);
        one.keep(&state, vec![seen(&state, 1, 1)]).unwrap();
        assert!(one.tell(&state, Time(0)).is_empty());
    }
    assert_eq!(one.waiting(), 1);
}

/// A validator that is not to report says what waits, and does when it may.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_be_reported_waits_and_is_shown() {
    let net = Net::new(1);
    let home = &net.homes[0];
    let report = |report_evidence: bool| {
        let mut config = home.config().unwrap();
        config.consensus.report_evidence = report_evidence;
        home.write_config(&config).unwrap();
    };
    report(false);
    let node = net.start(0, Engine::Solo).await;
    let first = node.finalise(net.open_account(0)).await;
    node.stop().await;
    let key = home.keys().unwrap().consensus;
    let chain = net.chain();
    let file = EvidenceFile {
        chain,
        evidence: prevoted_twice(&chain, &key, 0, first.height),
    };
    let folder = home.data().join("evidence");
    fs::write(folder.join("1.evidence"), file.encode()).unwrap();
    let status = |node: &Running| {
        let mut ledger = node.ledger.clone();
        async move {
            let status = ledger.get_status(v1::GetStatusRequest {}).await;
            status.unwrap().into_inner()
        }
    };
    let node = net.start(0, Engine::Solo).await;
    node.finalise(net.open_account(1)).await;
    let said = status(&node).await;
    assert_eq!((said.evidence, said.evidence_waiting), (0, 1));
    let problem = said.problems.iter().find(|p| p.contains("report_evidence"));
    assert!(problem.is_some(), "{:?}", said.problems);
    let page = node.page("/metrics").await;
    assert!(page.contains("tally_node_evidence_waiting 1"), "{page}");
    node.stop().await;
    report(true);
    let node = net.start(0, Engine::Solo).await;
    until("the chain has it", || async {
        status(&node).await.evidence == 1
    })
    .await;
    until("nothing waits", || async {
        status(&node).await.evidence_waiting == 0
    })
    .await;
    assert_eq!(status(&node).await.problems, Vec::<String>::new());
    let page = node.page("/metrics").await;
    assert!(page.contains("tally_node_evidence 1"), "{page}");
    node.stop().await;
}
