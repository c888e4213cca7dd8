//! A second history, of one validator or of all.

use std::fs;

use bytes::Bytes;
use serde_json::{Value, json};
use tally_consensus::gossip::{self, GossipConfig, MAX_NOTICE_BYTES};
use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys, Witnesses},
    crypto::SecretKey,
    hash::Hash,
    merkle::{Levels, leaf_hash, verify_inclusion},
    note::Note,
    witness::AddCheckpoint,
};
use tally_node::{Engine, config::multiaddr};

use super::*;
use crate::cli_common::run;

#[tokio::test(flavor = "multi_thread")]
async fn four_validators_are_witnessed_and_cannot_agree_on_a_second_history() {
    let net = Net::new(4);
    let log = LogKeys::new(&net.genesis);
    let outsider = Outsider::start(&net, "127.0.0.1:0".parse().unwrap(), true).await;
    let (address, key) = (outsider.address, outsider.key.clone());
    assert!(outsider.latest(&log).await.is_none());
    configure(&net, Some(&outsider));
    let mut nodes = Vec::new();
    for i in 0..4 {
        nodes.push(net.start(i, Engine::Validators).await);
    }
    for number in 0..5 {
        nodes[number as usize % 4]
            .finalise(net.open_account(number))
            .await;
    }
    // All serve a head that a quorum signed and the witness cosigned.
    for node in &nodes {
        let signed = served(node, &log, 6, std::slice::from_ref(&key)).await;
        assert!(signed.signers.len() >= log.quorum());
        assert_eq!(
            leaves(node.http, &signed.checkpoint).await.len() as u64,
            signed.checkpoint.size
        );
    }
    // The witness is away for a while; what is signed then is cosigned later.
    outsider.stop().await;
    nodes[0].finalise(net.open_account(5)).await;
    let size = log_size(&nodes[0]).await;
    served(&nodes[1], &log, size, &[]).await;
    let outsider = Outsider::start(&net, address, false).await;
    let last = served(&nodes[1], &log, size, std::slice::from_ref(&key)).await;
    // A node that starts again has it on its disk.
    let honest = leaves(nodes[0].http, &last.checkpoint).await;
    for node in nodes {
        node.stop().await;
    }
    let kept = fs::read(net.homes[1].checkpoints().join("latest")).unwrap();
    let kept = log.read(&kept).unwrap();
    assert!(
        Witnesses::new(vec![key.clone()], 1)
            .unwrap()
            .check(&kept.note)
            .is_ok()
    );

    // All validators collude: the same log with another first account.
    let mut forged = honest.clone();
    forged[1][20] ^= 1;
    forged.push(honest[2].clone());
    let tree = Levels::of(forged.iter().map(|leaf| leaf_hash(leaf)));
    let known = outsider.latest(&log).await.unwrap();
    let known_size = known.checkpoint.size;
    let sign = |size: u64| signed_by_all(&net, &tree, size);
    let all = sign(tree.size());
    let second = log.check(all.clone()).unwrap();
    assert_eq!(
        second.signers,
        [0, 1, 2, 3],
        "by itself it is as good as any"
    );
    for (old, proof, note, status) in [
        (0, vec![], all.clone(), 409),
        (known_size, vec![], all.clone(), 422),
        (
            known_size,
            tree.consistency(known_size, tree.size()).unwrap(),
            all.clone(),
            422,
        ),
        (known_size, vec![], sign(known_size), 422),
    ] {
        let request = AddCheckpoint {
            old,
            proof,
            checkpoint: note,
        };
        let (answered, body) = outsider.ask(&request).await;
        assert_eq!(answered, status, "{body}");
        if status == 409 {
            assert_eq!(body, format!("{known_size}\n"));
        }
    }
    // It has not moved, and keeps both of what it was shown: one is a fork by
    // itself.
    assert_eq!(outsider.latest(&log).await.unwrap(), known);
    for (name, size) in [("refused-1", tree.size()), ("fork-1", known_size)] {
        let path = net.dir.path().join(format!("witness.{name}"));
        let evidence = log.read(&fs::read(path).unwrap()).unwrap();
        assert_eq!(evidence.signers, [0, 1, 2, 3]);
        assert_eq!(evidence.checkpoint.size, size);
    }
    // An auditor who has both names both heads, and who signed them.
    let folder = net.dir.path();
    let heads = [known.note.to_string(), sign(known_size).to_string()];
    fs::write(folder.join("first"), &heads[0]).unwrap();
    fs::write(folder.join("second"), &heads[1]).unwrap();
    fs::write(folder.join("larger"), all.to_string()).unwrap();
    write_tiles(&folder.join("tiles"), &forged);
    let genesis = "--genesis v0/genesis.json";
    let compare = |line: &str, code| {
        let line = format!("--format json checkpoint compare {line} {genesis}");
        let ran = tokio::task::block_in_place(|| run(folder, &line));
        assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
        serde_json::from_str::<Value>(&ran.out).unwrap()
    };
    for (line, root) in [
        (
            "first second",
            log.read(heads[1].as_bytes()).unwrap().checkpoint.root,
        ),
        ("larger first --log tiles", tree.root()),
    ] {
        let found = compare(line, 7);
        let verdict = found["verdict"].as_str().unwrap();
        assert!(verdict.starts_with("TWO HISTORIES"), "{verdict}");
        assert_eq!(found["signed both"], json!(known.signers));
        let heads = found["heads"].as_array().unwrap();
        let roots: Vec<&Value> = heads.iter().map(|head| &head["root"]).collect();
        assert!(roots.contains(&&json!(root)), "{found}");
        assert!(roots.contains(&&json!(known.checkpoint.root)), "{found}");
        assert!(
            heads.iter().any(|head| head["entries"] == known_size),
            "{found}"
        );
    }
    let verdict = compare("first larger", 2)["verdict"].to_string();
    assert!(verdict.contains("--log"), "{verdict}");
    assert_eq!(
        compare("second larger --log tiles", 0)["heads"][1]["entries"],
        tree.size()
    );
    // What is true in the first history is not in the second.
    let path = Levels::of(honest.iter().map(|leaf| leaf_hash(leaf)))
        .inclusion(1, known_size)
        .unwrap();
    let leaf = leaf_hash(&honest[1]);
    assert!(verify_inclusion(
        &leaf,
        1,
        known_size,
        &path,
        &known.checkpoint.root
    ));
    assert!(!verify_inclusion(
        &leaf,
        1,
        tree.size(),
        &path,
        &tree.root()
    ));
    outsider.stop().await;
}

/// A head as validators tell each other.
fn notice(validator: u16, checkpoint: &Checkpoint, key: &SecretKey) -> Bytes {
    let mut bytes = vec![1];
    bytes.extend(validator.to_le_bytes());
    bytes.extend(checkpoint.size.to_le_bytes());
    bytes.extend(checkpoint.root.0);
    bytes.extend(checkpoint.sign(key).0);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_signs_another_history_is_named_and_the_others_go_on() {
    let net = Net::new(4);
    let log = LogKeys::new(&net.genesis);
    configure(&net, None);
    let mut nodes = Vec::new();
    for i in 0..3 {
        nodes.push(net.start(i, Engine::Validators).await);
    }
    // The fourth one takes part in nothing but the telling of heads.
    let (config, keys) = (net.homes[3].config().unwrap(), net.homes[3].keys().unwrap());
    let listen = multiaddr(config.listen.gossip);
    let network = GossipConfig::new(listen, config.gossip_peers());
    let (liar, _incoming, task) = gossip::start(network, &keys.network).unwrap();
    let notices = liar.notices();
    let forged = Checkpoint::new(&net.chain(), 1, Hash([9; 32]));
    let honest = Levels::of([tally_ledger::state::genesis_entry(net.chain()).leaf_hash()]);
    let honest = Checkpoint::new(&net.chain(), 1, honest.root());
    let heads = [
        notice(3, &forged, &keys.checkpoint),
        // In another's name; with a false signature; of a log that nobody has;
        // and noise.
        notice(2, &forged, &keys.checkpoint),
        notice(3, &honest, &keys.consensus),
        notice(
            3,
            &Checkpoint::new(&net.chain(), u64::MAX, Hash([9; 32])),
            &keys.checkpoint,
        ),
        Bytes::from_static(b"noise"),
        Bytes::from(vec![7; MAX_NOTICE_BYTES]),
    ];
    assert!(!notices.send(&Bytes::from(vec![7; MAX_NOTICE_BYTES + 1])));
    let evidence = |i: usize, validator: u16| {
        let path = net.homes[i]
            .checkpoints()
            .join(format!("conflict-{validator}"));
        fs::read(path).ok()
    };
    until("all have the evidence", || async {
        for head in &heads {
            assert!(notices.send(head));
        }
        (0..3).all(|i| evidence(i, 3).is_some())
    })
    .await;
    for (i, node) in nodes.iter().enumerate() {
        let kept = Note::parse(&evidence(i, 3).unwrap()).unwrap();
        assert_eq!(log.signers(&kept), Ok(vec![3]));
        assert_eq!(kept.text(), forged.text());
        assert!(evidence(i, 2).is_none(), "nobody is named for another");
        let metrics = node.page("/metrics").await;
        assert!(
            metrics.contains("tally_node_checkpoint_conflicts_total"),
            "{metrics}"
        );
    }
    // The other three are a quorum.
    nodes[0].finalise(net.open_account(0)).await;
    let size = log_size(&nodes[0]).await;
    for node in &nodes {
        assert_eq!(served(node, &log, size, &[]).await.signers, [0, 1, 2]);
    }
    liar.stop();
    task.await.unwrap();
    for node in nodes {
        node.stop().await;
    }
}
