//! tlog-proofs: every entry has one, and it holds in one form only.

use tally_ledger::{
    checkpoint::{Checkpoint, LogKeys},
    merkle::leaf_hash,
    tlog_proof::{TlogProof, TlogProofError},
};

use crate::heads::*;

#[test]
fn every_entry_has_a_proof_and_no_flipped_bit_of_one_holds() {
    let genesis = four();
    let log_keys = LogKeys::new(&genesis);
    for size in [1, 2, 7, 64, 300] {
        let tree = log(size);
        let checkpoint = Checkpoint::new(&genesis.chain(), size, tree.root());
        let note = signed(&genesis, &checkpoint, &[1, 2, 3]);
        for index in 0..size {
            let proof = TlogProof {
                extra: None,
                index,
                path: tree.inclusion(index, size).unwrap(),
                checkpoint: note.clone(),
            };
            let read = TlogProof::decode(proof.to_string().as_bytes()).unwrap();
            assert_eq!(read, proof);
            let hash = leaf_hash(&leaf(index));
            assert!(read.verify(&hash, &log_keys).is_ok());
            let other = leaf_hash(b"another");
            let not = TlogProofError::NotInLog { index };
            assert_eq!(read.verify(&other, &log_keys), Err(not));
        }
    }
    let tree = log(7);
    let checkpoint = Checkpoint::new(&genesis.chain(), 7, tree.root());
    let proof = TlogProof {
        extra: None,
        index: 4,
        path: tree.inclusion(4, 7).unwrap(),
        checkpoint: signed(&genesis, &checkpoint, &[1, 2, 3]),
    };
    let (bytes, hash) = (proof.to_string().into_bytes(), leaf_hash(&leaf(4)));
    for (bit, altered) in one_bit_off(&bytes) {
        let read = TlogProof::decode(&altered);
        let verified = read.is_ok_and(|proof| proof.verify(&hash, &log_keys).is_ok());
        assert!(!verified, "bit {bit}");
    }
}

#[test]
fn proofs_in_other_forms_are_refused() {
    let genesis = four();
    let checkpoint = Checkpoint::new(&genesis.chain(), 1, log(1).root());
    let note = signed(&genesis, &checkpoint, &[0, 1, 2]).to_string();
    let decode = |head: &str| TlogProof::decode(format!("{head}{note}").as_bytes());
    let first = "c2sp.org/tlog-proof@v1\n";
    assert!(decode(&format!("{first}index 0\n\n")).is_ok());
    assert!(decode(&format!("{first}extra \nindex 0\n\n")).is_ok());
    for head in [
        "index 0\n\n",
        "c2sp.org/tlog-proof@v2\nindex 0\n\n",
        &format!("{first}\n"),
        &format!("{first}index 00\n\n"),
        &format!("{first}index 0\nAA==\n\n"),
        &format!("{first}index 0\nextra AA==\n\n"),
        &format!("{first}extra !\nindex 0\n\n"),
        &format!("{first}index 0\n"),
        &format!(
            "{first}index 0\n{}\n",
            format!("{}\n", "A".repeat(43) + "=").repeat(64)
        ),
        &format!("{first}extra {}\nindex 0\n\n", "AAAA".repeat(40_000)),
    ] {
        assert!(decode(head).is_err(), "{head:?}");
    }
}
