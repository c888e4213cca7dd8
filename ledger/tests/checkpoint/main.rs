//! Notes, checkpoints, tlog-proofs and tiles: the published examples, pinned
//! bytes, every bit flipped, and hostile input.

#![allow(clippy::unwrap_used)]

mod checkpoint;
mod heads;
mod note;
mod proof;
mod published;
mod tile;
#[path = "../support/vectors.rs"]
mod vectors;
mod witness;
#[path = "../world/mod.rs"]
mod world;

use heads::*;
use proptest::{collection::vec, prelude::*};
use published::*;
use serde_json::json;
use tally_ledger::{
    checkpoint::{Checkpoint, log_keys, origin},
    note::{Note, NoteSignature, VerifierKey},
    tile::{TileName, bundle_entries},
    tlog_proof::TlogProof,
};

#[test]
fn bytes_of_checkpoints_are_pinned() {
    let genesis = four();
    let checkpoint = Checkpoint::new(&genesis.chain(), 1205, log(1205).root());
    let note = signed(&genesis, &checkpoint, &[0, 1, 3]);
    let proof = TlogProof {
        extra: Some(b"why not".to_vec()),
        index: 700,
        path: log(1205).inclusion(700, 1205).unwrap(),
        checkpoint: cosigned(&note),
    };
    let keys = log_keys(&genesis);
    let shown: Vec<_> = keys.iter().map(VerifierKey::to_string).collect();
    let tiles: Vec<_> = TileName::all(70_000).map(|name| name.to_string()).collect();
    vectors::check(
        "checkpoints",
        json!({
            "chain": genesis.chain(),
            "origin": origin(&genesis.chain()),
            "log_keys": shown,
            "witness_key": witnesses(1).keys()[0].to_string(),
            "text": checkpoint.text(),
            "signed": note.to_string(),
            "cosigned": cosigned(&note).to_string(),
            "tlog_proof": proof.to_string(),
            "last_tiles_of_70000": &tiles[tiles.len() - 6..],
        }),
    );
}

proptest! {
    #[test]
    fn noise_is_refused_or_read_in_one_way(
        at in 0usize..700,
        noise in vec(any::<u8>(), 0..24),
        cut in 0usize..24,
    ) {
        for example in [EXAMPLE_NOTE, EXAMPLE_COSIGNED] {
            let mut bytes = example.as_bytes().to_vec();
            let at = at % bytes.len();
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, noise.iter().copied());
            if let Ok(note) = Note::parse(&bytes) {
                prop_assert_eq!(note.to_string().into_bytes(), bytes.clone());
                if let Some(checkpoint) = Checkpoint::parse(note.text()) {
                    prop_assert_eq!(checkpoint.text(), note.text());
                }
            }
            let _ = NoteSignature::parse_lines(&bytes);
            let _ = TlogProof::decode(&bytes);
            let _ = bundle_entries(&bytes, at as u16);
        }
    }
}
