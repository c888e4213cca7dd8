//! Checkpoints of running validators: signed by a quorum, served with their
//! tiles, cosigned by a witness; and what happens when all validators agree on
//! a second history.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tally_consensus::gossip::{self, GossipConfig, MAX_NOTICE_BYTES};
use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys, SignedCheckpoint, Witnesses, sign_note},
    crypto::SecretKey,
    hash::Hash,
    merkle::{Levels, leaf_hash, verify_inclusion},
    note::{Note, NoteSignature, VerifierKey},
    tile::{TileKind, TileName, bundle_entries, push_entry, tile_hashes},
    witness::AddCheckpoint,
};
use tally_node::{
    Engine, NodeError,
    checkpoint::CheckpointFault,
    config::{Witness as WitnessConfig, multiaddr},
    web::Web,
    witness::{StateFault, Witness, serve},
};
use tally_proto::v1;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    cli_common::run,
    net::{Net, Running, until},
};

pub(crate) const NAME: &str = "council.example/w1";
/// Long enough for votes, short enough for a test.
const PERIOD_MS: u64 = 200;

/// A witness that runs.
pub(crate) struct Outsider {
    address: SocketAddr,
    pub(crate) key: VerifierKey,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), StateFault>>,
}

impl Outsider {
    pub(crate) async fn start(net: &Net, listen: SocketAddr, new: bool) -> Self {
        let state = net.dir.path().join("witness");
        let secret = SecretKey::from_seed(&[42; 32]);
        let witness = Witness::open(&state, &net.genesis, NAME, secret, new).unwrap();
        let key = witness.key().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        let (address, task) = serve(listener, Arc::new(witness), stopped).unwrap();
        Self {
            address,
            key,
            stop,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }

    /// The status and body of its answer.
    async fn ask(&self, request: &AddCheckpoint) -> (u16, String) {
        let url = format!("http://{}/add-checkpoint", self.address);
        let body = Bytes::from(request.to_string());
        let (status, body) = Web::new().post(&url, body).await.unwrap();
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    }

    /// What it has cosigned last.
    async fn latest(&self, log: &LogKeys) -> Option<SignedCheckpoint> {
        let url = format!("http://{}/{}/checkpoint", self.address, log.origin_hash());
        let (status, body) = Web::new().get(&url).await.unwrap();
        (status == 200).then(|| log.read(&body).unwrap())
    }
}

pub(crate) fn configure(net: &Net, witness: Option<&Outsider>) {
    for home in &net.homes {
        let mut config = home.config().unwrap();
        config.checkpoint.period_ms = PERIOD_MS;
        config.witness = witness
            .map(|witness| WitnessConfig {
                url: format!("http://{}", witness.address),
                key: witness.key.clone(),
            })
            .into_iter()
            .collect();
        home.write_config(&config).unwrap();
    }
}

async fn get(http: SocketAddr, path: &str) -> (u16, Bytes) {
    let url = format!("http://{http}/{path}");
    let (status, body) = Web::new().get(&url).await.unwrap();
    (status.as_u16(), body)
}

/// The checkpoint that a node serves, once it is of so many entries and
/// cosigned by all of these.
pub(crate) async fn served(
    node: &Running,
    log: &LogKeys,
    size: u64,
    by: &[VerifierKey],
) -> SignedCheckpoint {
    let witnesses = Witnesses::new(by.to_vec(), by.len()).unwrap();
    let found = Mutex::new(None);
    until("a checkpoint is served", || async {
        let (status, body) = get(node.http, "checkpoint").await;
        if status != 200 {
            return false;
        }
        let signed = log.read(&body).unwrap();
        let good = signed.checkpoint.size >= size && witnesses.check(&signed.note).is_ok();
        *found.lock().unwrap() = Some(signed);
        good
    })
    .await;
    found.into_inner().unwrap().unwrap()
}

/// Writes the tiles of a log as `tally export tiles` does.
pub(crate) fn write_tiles(folder: &Path, leaves: &[Vec<u8>]) {
    let tree = Levels::of(leaves.iter().map(|leaf| leaf_hash(leaf)));
    for name in TileName::all(tree.size()) {
        let items = name.start()..name.start() + u64::from(name.width);
        let mut bytes = Vec::new();
        for i in items {
            match name.kind {
                TileKind::Entries => push_entry(&mut bytes, &leaves[i as usize]),
                TileKind::Hashes(level) => {
                    let hash = tree.subtree(8 * u32::from(level), i).unwrap();
                    bytes.extend_from_slice(&hash.0);
                }
            }
        }
        let path = folder.join(name.to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Entries of a node's log.
pub(crate) async fn log_size(node: &Running) -> u64 {
    let request = v1::GetStatusRequest {};
    let status = node.ledger.clone().get_status(request).await;
    status.unwrap().into_inner().log_size
}

/// All leaves of a checkpoint's log, from the tiles of a node, checked on the
/// way.
pub(crate) async fn leaves(http: SocketAddr, checkpoint: &Checkpoint) -> Vec<Vec<u8>> {
    let mut leaves = Vec::new();
    for name in TileName::all(checkpoint.size) {
        let (status, bytes) = get(http, &name.to_string()).await;
        assert_eq!(status, 200, "{name}");
        match name.kind {
            TileKind::Entries => {
                let bundle = bundle_entries(&bytes, name.width).unwrap();
                leaves.extend(bundle.into_iter().map(<[u8]>::to_vec));
            }
            TileKind::Hashes(level) => {
                let tree = Levels::of(leaves.iter().map(|leaf| leaf_hash(leaf)));
                let hash = |i| {
                    tree.subtree(8 * u32::from(level), name.start() + i)
                        .unwrap()
                };
                let wanted: Vec<Hash> = (0..name.width.into()).map(hash).collect();
                assert_eq!(tile_hashes(&name, &bytes), Some(wanted), "{name}");
            }
        }
    }
    let root = Levels::of(leaves.iter().map(|leaf| leaf_hash(leaf))).root();
    assert_eq!(
        (leaves.len() as u64, root),
        (checkpoint.size, checkpoint.root)
    );
    leaves
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_signs_its_log_and_serves_every_tile() {
    let net = Net::new(1);
    configure(&net, None);
    let log = LogKeys::new(&net.genesis);
    let node = net.start(0, Engine::Solo).await;
    node.finalise(net.open_account(0)).await;
    node.finalise(net.issue(0, 1_000_000_000)).await;
    node.finalise(net.bind(0)).await;
    node.finalise(net.open_journal()).await;
    node.finalise(net.lease(1, 0, 100_000_000)).await;
    // More than one full tile of level 0.
    node.finalise(net.debits(1, 600, 1, 0, 1000)).await;
    let size = log_size(&node).await;
    let signed = served(&node, &log, size, &[]).await;
    assert_eq!(signed.signers, [0]);
    let all = leaves(node.http, &signed.checkpoint).await;
    let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
    assert!(lengths.contains(&58) && lengths.contains(&86));
    for path in [
        "tile/0/003",
        "tile/0/002.p/255",
        "tile/1/000.p/200",
        "tile/3/000.p/1",
        "tile/9/000.p/1",
        "tile/entries/003.p/1",
        "tile/0/0",
        "tile/nothing",
    ] {
        assert_eq!(get(node.http, path).await.0, 404, "{path}");
    }
    assert_eq!(
        get(node.http, "tile/0/000.p/7").await.1,
        get(node.http, "tile/0/000").await.1[..224]
    );
    let head = node.page("/checkpoint").await.to_ascii_lowercase();
    assert!(
        head.contains("content-type: text/plain; charset=utf-8"),
        "{head}"
    );
    let head = node.page("/tile/0/000.p/1").await;
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("application/octet-stream") && head.contains("immutable"),
        "{head}"
    );
    let metrics = node.page("/metrics").await;
    let shown = format!("tally_node_checkpoint_size {}", signed.checkpoint.size);
    assert!(metrics.contains(&shown), "{metrics}");
    node.stop().await;

    // It is there again after a restart, before another block.
    let node = net.start(0, Engine::Solo).await;
    let again = served(&node, &log, size, &[]).await;
    assert!(again.checkpoint.size >= signed.checkpoint.size);
    node.stop().await;

    // Its own signature of another history stops it, and names both.
    let folder = net.homes[0].checkpoints();
    let key = net.homes[0].keys().unwrap().checkpoint;
    let other = Checkpoint::new(&net.chain(), 5, Hash([9; 32]));
    let note = sign_note(&other, log.keys(), [(0, other.sign(&key))]).unwrap();
    fs::write(folder.join("signed"), note.to_string()).unwrap();
    let error = tally_node::RunningNode::start(&net.homes[0], Engine::Solo)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            NodeError::Checkpoint(CheckpointFault::Exchanged { size: 5, signed, .. })
                if *signed == other.root
        ),
        "{error}"
    );
    // So does a file that is not what it wrote.
    for bytes in [&b"noise"[..], &note.to_string().into_bytes()[..100]] {
        fs::write(folder.join("signed"), bytes).unwrap();
        let error = tally_node::RunningNode::start(&net.homes[0], Engine::Solo).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("signed: is damaged"), "{error}");
        // It is not told to forget what it signed.
        assert!(
            error.contains("keep it") && error.contains("compare"),
            "{error}"
        );
        assert!(!error.contains("move"), "{error}");
    }
}

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
    let sign = |size: u64| {
        let root = Levels::of((0..size).map(|i| tree.subtree(0, i).unwrap())).root();
        let checkpoint = Checkpoint::new(&net.chain(), size, root);
        let keys = net.homes.iter().map(|home| home.keys().unwrap().checkpoint);
        let signatures = (0u16..)
            .zip(keys)
            .map(|(i, key)| (i, checkpoint.sign(&key)));
        sign_note(&checkpoint, log.keys(), signatures).unwrap()
    };
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

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_answers_the_same_request_after_a_crash() {
    let net = Net::new(4);
    let log = LogKeys::new(&net.genesis);
    let tree = Levels::of((0..9u8).map(|i| leaf_hash(&[i])));
    let request = |old: u64, size: u64| {
        let root = Levels::of((0..size).map(|i| tree.subtree(0, i).unwrap())).root();
        let checkpoint = Checkpoint::new(&net.chain(), size, root);
        let keys = net.homes.iter().map(|home| home.keys().unwrap().checkpoint);
        let signatures = (0u16..)
            .zip(keys)
            .map(|(i, key)| (i, checkpoint.sign(&key)));
        AddCheckpoint {
            old,
            proof: tree.consistency(old, size).unwrap(),
            checkpoint: sign_note(&checkpoint, log.keys(), signatures).unwrap(),
        }
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
