//! Checkpoints of running validators: signed by a quorum, served with their
//! tiles, cosigned by a witness; and what happens when all validators agree on
//! a second history.

mod alone;
mod fork;
mod outsider;
mod witness;

use std::{fs, net::SocketAddr, path::Path, sync::Mutex};

use bytes::Bytes;
pub(crate) use outsider::{NAME, Outsider};
use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys, SignedCheckpoint, Witnesses, log_keys, sign_note},
    hash::Hash,
    merkle::{Levels, leaf_hash},
    note::{Note, VerifierKey},
    tile::{TileKind, TileName, bundle_entries, push_entry, tile_hashes},
};
use tally_node::{config::Witness as WitnessConfig, web::Web};
use tally_proto::v1;

use crate::net::{Net, Running, until};

/// Long enough for votes, short enough for a test.
const PERIOD_MS: u64 = 200;

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

/// The head of a tree's first leaves, signed by all validators.
fn signed_by_all(net: &Net, tree: &Levels, size: u64) -> Note {
    let root = Levels::of((0..size).map(|i| tree.subtree(0, i).unwrap())).root();
    let checkpoint = Checkpoint::new(&net.chain(), size, root);
    let keys = net.homes.iter().map(|home| home.keys().unwrap().checkpoint);
    let signatures = (0u16..)
        .zip(keys)
        .map(|(i, key)| (i, checkpoint.sign(&key)));
    sign_note(&checkpoint, &log_keys(&net.genesis), signatures).unwrap()
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
