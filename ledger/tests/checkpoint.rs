//! Notes, checkpoints, tlog-proofs and tiles: the published examples, pinned
//! bytes, every bit flipped, and hostile input.

#![allow(clippy::unwrap_used)]

#[path = "support/vectors.rs"]
mod vectors;
mod world;

use proptest::{collection::vec, prelude::*};
use serde_json::json;
use tally_ledger::{
    block::{Validator, ValidatorSet},
    checkpoint::{
        Checkpoint, CheckpointError, Finality, LogKeys, Witnesses, log_keys, origin, sign_note,
    },
    crypto::SecretKey,
    genesis::Genesis,
    merkle::{Levels, empty_root, inclusion_path, leaf_hash, tree_root},
    note::{
        KeyType, MAX_NOTE_BYTES, MAX_NOTE_SIGNATURES, Note, NoteError, NoteSignature, VerifierKey,
    },
    tile::{
        TILE_WIDTH, TileKind, TileName, bundle_entries, bundle_hashes, push_entry, subtree,
        tile_hashes,
    },
    tlog_proof::{TlogProof, TlogProofError},
    witness::{AddCheckpoint, MAX_REQUEST_BYTES, Refused, Relation, relate},
};
use world::*;

/// The example of signed-note.
const EXAMPLE_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const EXAMPLE_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
    Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
/// The example of tlog-cosignature.
const EXAMPLE_COSIGNED: &str = "example.com/behind-the-sofa\n20852163\n\
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} example.com/behind-the-sofa \
    Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
    \u{2014} witness.example.com/w1 \
    jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";
const WITNESS: &str = "witness.example/w1";
/// Seconds since 1970.
const COSIGNED_AT: u64 = 1_700_000_000;

/// A genesis of four validators, of which three are a quorum.
fn four() -> Genesis {
    let mut genesis = genesis();
    let fourth = Validator {
        consensus_key: stray_key(203),
        checkpoint_key: stray_key(213),
        network_key: stray_key(223),
        owner: OWNER,
    };
    let validators = genesis.validators.0.iter().copied().chain([fourth]);
    genesis.validators = ValidatorSet(list(validators.collect()));
    genesis.validate().unwrap();
    genesis
}

fn checkpoint_key(validator: u16) -> SecretKey {
    SecretKey::from_seed(&[210 + validator as u8; 32])
}

fn witness_key() -> SecretKey {
    SecretKey::from_seed(&[77; 32])
}

fn signed(genesis: &Genesis, checkpoint: &Checkpoint, by: &[u16]) -> Note {
    let signatures = by
        .iter()
        .map(|validator| (*validator, checkpoint.sign(&checkpoint_key(*validator))));
    sign_note(checkpoint, &log_keys(genesis), signatures).unwrap()
}

fn cosigned(note: &Note) -> Note {
    let line = NoteSignature::cosign(WITNESS, &witness_key(), COSIGNED_AT, note.text());
    note.with(line.unwrap()).unwrap()
}

fn witnesses(need: usize) -> Witnesses {
    let key = VerifierKey::new(WITNESS, KeyType::Cosignature, witness_key().public());
    Witnesses::new(vec![key.unwrap()], need).unwrap()
}

/// Leaves of this and the next lengths.
fn leaf(index: u64) -> Vec<u8> {
    vec![index as u8; if index.is_multiple_of(3) { 58 } else { 86 }]
}

fn log(size: u64) -> Levels {
    Levels::of((0..size).map(|index| leaf_hash(&leaf(index))))
}

#[test]
fn the_published_examples_are_read_and_verified() {
    let key: VerifierKey = EXAMPLE_KEY.parse().unwrap();
    assert_eq!(
        (key.name(), key.kind()),
        ("example.com/foo", KeyType::Ed25519)
    );
    assert_eq!(key.to_string(), EXAMPLE_KEY);
    let note = Note::parse(EXAMPLE_NOTE.as_bytes()).unwrap();
    assert_eq!(note.text(), "This is an example message.\n");
    assert_eq!(note.to_string(), EXAMPLE_NOTE);
    assert_eq!(note.verify(std::slice::from_ref(&key)), Ok(vec![Some(0)]));
    // A log's key is no witness's.
    let cosigner = VerifierKey::new("example.com/foo", KeyType::Cosignature, key.key()).unwrap();
    assert_eq!(note.verify(&[cosigner]), Ok(vec![None]));

    let note = Note::parse(EXAMPLE_COSIGNED.as_bytes()).unwrap();
    assert_eq!(note.to_string(), EXAMPLE_COSIGNED);
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
    assert_eq!(checkpoint.size, 20_852_163);
    assert_eq!(checkpoint.text(), note.text());
    let names: Vec<_> = note.signatures().iter().map(NoteSignature::name).collect();
    assert_eq!(
        names,
        ["example.com/behind-the-sofa", "witness.example.com/w1"]
    );
}

#[test]
fn a_verifier_key_reads_in_one_way_only() {
    for from in 0..EXAMPLE_KEY.len() {
        for to in from..=EXAMPLE_KEY.len() {
            let part = &EXAMPLE_KEY[from..to];
            assert_eq!(part.parse::<VerifierKey>().is_ok(), part == EXAMPLE_KEY);
        }
    }
    for i in 0..EXAMPLE_KEY.len() {
        let mut bytes = EXAMPLE_KEY.as_bytes().to_vec();
        bytes[i] ^= 1;
        let altered = String::from_utf8(bytes).unwrap();
        assert!(altered.parse::<VerifierKey>().is_err(), "{altered}");
    }
    for name in ["", "a b", "a+b", "a\u{a0}b", "a\nb", &"a".repeat(256)] {
        let key = VerifierKey::new(name, KeyType::Ed25519, stray_key(1));
        assert_eq!(key, Err(NoteError::KeyName), "{name:?}");
    }
}

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

#[test]
fn a_quorum_signs_and_what_does_not_count_is_left_out() {
    let genesis = four();
    let (log_keys, root) = (LogKeys::new(&genesis), log(9).root());
    let checkpoint = Checkpoint::new(&genesis.chain(), 9, root);
    let read = |note: &Note| log_keys.read(note.to_string().as_bytes());
    for signers in [&[0u16, 1, 2][..], &[0, 2, 3], &[0, 1, 2, 3]] {
        let verified = read(&signed(&genesis, &checkpoint, signers)).unwrap();
        assert_eq!(
            (verified.checkpoint, &verified.signers[..]),
            (checkpoint.clone(), signers)
        );
    }
    let (have, need) = (2, 3);
    let two = signed(&genesis, &checkpoint, &[0, 3]);
    assert_eq!(read(&two), Err(CheckpointError::NoQuorum { have, need }));
    // One validator many times, and strangers, are no quorum.
    let twice = signed(&genesis, &checkpoint, &[0, 3, 3, 0]);
    assert_eq!(read(&twice), Err(CheckpointError::NoQuorum { have, need }));
    let stranger = NoteSignature::sign("somebody", &witness_key(), two.text()).unwrap();
    let mut note = two.with(stranger).unwrap();
    let impostor = NoteSignature::sign(log_keys.origin(), &witness_key(), two.text()).unwrap();
    note = note.with(impostor).unwrap();
    assert_eq!(read(&note), Err(CheckpointError::NoQuorum { have, need }));
    // A witness's signature is none of the validators'.
    let own = NoteSignature::cosign(log_keys.origin(), &checkpoint_key(1), 5, two.text()).unwrap();
    note = two.with(own).unwrap();
    assert_eq!(read(&note), Err(CheckpointError::NoQuorum { have, need }));
    // One false line of a known key spoils a note that would have a quorum.
    let other = Checkpoint::new(&genesis.chain(), 10, root).sign(&checkpoint_key(3));
    let line = NoteSignature::of(&log_keys.keys()[3], other);
    let spoilt = signed(&genesis, &checkpoint, &[0, 1, 2])
        .with(line)
        .unwrap();
    let id = log_keys.keys()[3].id();
    let name = log_keys.origin().to_owned();
    assert_eq!(read(&spoilt), Err(NoteError::False { name, id }.into()));
}

/// Key ids are short: somebody may choose a key whose id is another's.
#[test]
fn a_key_with_anothers_id_does_not_spoil_what_the_other_signs() {
    let secret = |number: u32| {
        let seed: Vec<u8> = [number.to_le_bytes(); 8].concat();
        SecretKey::from_seed(&seed.try_into().unwrap())
    };
    let secrets = [secret(97_273), secret(100_167)];
    let name = "log.example";
    let key =
        |secret: &SecretKey| VerifierKey::new(name, KeyType::Ed25519, secret.public()).unwrap();
    let keys = [key(&secrets[0]), key(&secrets[1])];
    assert_eq!(
        (keys[0].id(), keys[0].key() == keys[1].key()),
        (keys[1].id(), false)
    );
    let line = |secret: &SecretKey, text| NoteSignature::sign(name, secret, text).unwrap();
    let text = "text\n";
    for (by, signed) in [
        (&[0][..], [Some(0), None]),
        (&[1], [None, Some(0)]),
        (&[0, 1], [Some(0), Some(0)]),
        (&[1, 1], [None, Some(0)]),
    ] {
        let lines = by
            .iter()
            .map(|i: &usize| line(&secrets[*i], text))
            .collect();
        let note = Note::new(text, lines).unwrap();
        assert_eq!(note.verify(&keys), Ok(signed.to_vec()));
    }
    let other = line(&secrets[0], "another\n");
    let note = Note::new(text, vec![line(&secrets[1], text), other]).unwrap();
    assert!(note.verify(&keys).is_err());
}

#[test]
fn checkpoints_of_other_logs_or_forms_are_refused() {
    let genesis = four();
    let (log_keys, chain) = (LogKeys::new(&genesis), genesis.chain());
    let all = [0, 1, 2, 3];
    let read = |checkpoint: &Checkpoint| {
        log_keys.read(signed(&genesis, checkpoint, &all).to_string().as_bytes())
    };
    let good = Checkpoint::new(&chain, 9, log(9).root());
    let mut other = good.clone();
    other.origin = "tally/other".into();
    let (wanted, found) = (good.origin.clone(), other.origin.clone());
    assert_eq!(
        read(&other),
        Err(CheckpointError::OtherOrigin { wanted, found })
    );
    let empty = Checkpoint::new(&chain, 0, empty_root());
    assert!(empty.is_possible() && !Checkpoint::new(&chain, 0, good.root).is_possible());
    assert_eq!(read(&empty), Err(CheckpointError::Foreign));
    let mut extended = good.clone();
    extended.extension.push("more".into());
    assert_eq!(Checkpoint::parse(&extended.text()), Some(extended.clone()));
    assert_eq!(read(&extended), Err(CheckpointError::Foreign));
    let text = good.text();
    let bad = [
        text.replace("\n9\n", "\n09\n"),
        text.replace("\n9\n", "\n+9\n"),
        text.replace("\n9\n", "\n-9\n"),
        text.replace("\n9\n", "\n\n"),
        text.replace("\n9\n", "\n18446744073709551616\n"),
        text.replace("=\n", "\n"),
        text.replacen("tally", "\ntally", 1),
        format!("{text}\n"),
        text.trim_end().to_owned(),
        text.lines().take(2).collect::<Vec<_>>().join("\n") + "\n",
    ];
    for text in bad {
        assert_eq!(Checkpoint::parse(&text), None, "{text:?}");
    }
}

#[test]
fn witnesses_count_only_if_named_and_only_once() {
    let genesis = four();
    let checkpoint = Checkpoint::new(&genesis.chain(), 9, log(9).root());
    let plain = signed(&genesis, &checkpoint, &[0, 1, 2]);
    let note = cosigned(&plain);
    assert_eq!(witnesses(0).check(&plain), Ok(Finality::Final));
    let (have, need) = (0, 1);
    let few = Err(CheckpointError::NotWitnessed { have, need });
    assert_eq!(witnesses(1).check(&plain), few);
    let finality = witnesses(1).check(&note).unwrap();
    assert_eq!(finality.to_string(), "witnessed by 1 (witness.example/w1)");
    assert_eq!(Witnesses::default().check(&note), Ok(Finality::Final));
    let Finality::Witnessed(cosigners) = finality else {
        panic!("{finality}")
    };
    assert_eq!(cosigners[0].time, COSIGNED_AT);
    // A new cosignature takes the place of the old one.
    let later = NoteSignature::cosign(WITNESS, &witness_key(), COSIGNED_AT + 9, note.text());
    let later = note.with(later.unwrap()).unwrap();
    assert_eq!(later.signatures().len(), note.signatures().len());
    assert_eq!(
        later.verify(witnesses(1).keys()),
        Ok(vec![Some(COSIGNED_AT + 9)])
    );
    // Zero says nothing of time, and one party is not two.
    let timeless = NoteSignature::cosign(WITNESS, &witness_key(), 0, note.text()).unwrap();
    assert!(
        plain
            .with(timeless)
            .unwrap()
            .verify(witnesses(1).keys())
            .is_err()
    );
    let key =
        |name: &str| VerifierKey::new(name, KeyType::Cosignature, witness_key().public()).unwrap();
    assert!(Witnesses::new(vec![key("a"), key("b")], 2).is_none());
    assert!(Witnesses::new(vec![key("a")], 2).is_none());
    assert!(Witnesses::new(vec![log_keys(&genesis)[0].clone()], 1).is_none());
    assert_eq!(
        note.only(witnesses(1).keys()).unwrap().signatures().len(),
        1
    );
}

#[test]
fn a_note_that_repeats_its_lines_is_brought_to_one_per_key() {
    let genesis = four();
    let keys = LogKeys::new(&genesis);
    let checkpoint = Checkpoint::new(&genesis.chain(), 9, log(9).root());
    let once = signed(&genesis, &checkpoint, &[0, 1, 2]).to_string();
    let line = once.lines().last().unwrap();
    let many = once.clone() + &format!("{line}\n").repeat(MAX_NOTE_SIGNATURES - 3);
    let read = keys.read(many.as_bytes()).unwrap().note;
    assert_eq!(read.signatures().len(), MAX_NOTE_SIGNATURES);
    let own = read.only(keys.keys()).unwrap();
    assert_eq!(own.to_string(), once);
    // There is room for whoever cosigns it.
    let line = NoteSignature::cosign(WITNESS, &witness_key(), COSIGNED_AT, own.text());
    assert!(own.with(line.unwrap()).is_some());
}

#[test]
fn no_flipped_bit_of_a_checkpoint_goes_unnoticed() {
    let genesis = four();
    let log_keys = LogKeys::new(&genesis);
    let checkpoint = Checkpoint::new(&genesis.chain(), 9, log(9).root());
    let bytes = cosigned(&signed(&genesis, &checkpoint, &[0, 1, 2]))
        .to_string()
        .into_bytes();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut altered = bytes.clone();
            altered[i] ^= 1 << bit;
            let Ok(read) = log_keys.read(&altered) else {
                continue;
            };
            // Only the witness's line can be turned into one of somebody
            // unknown: then nobody has witnessed it.
            assert_eq!(read.checkpoint, checkpoint);
            assert!(
                witnesses(1).check(&read.note).is_err(),
                "byte {i}, bit {bit}"
            );
        }
    }
}

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
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut altered = bytes.clone();
            altered[i] ^= 1 << bit;
            let read = TlogProof::decode(&altered);
            let verified = read.is_ok_and(|proof| proof.verify(&hash, &log_keys).is_ok());
            assert!(!verified, "byte {i}, bit {bit}");
        }
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

#[test]
fn tiles_are_those_of_the_specification() {
    let names: Vec<_> = TileName::all(70_000).collect();
    let count = |kind, full| {
        let is = |name: &&TileName| name.kind == kind && name.is_full() == full;
        names.iter().filter(is).count()
    };
    let width = |kind| names.iter().rfind(|name| name.kind == kind).unwrap().width;
    assert_eq!(
        (count(TileKind::Hashes(0), true), width(TileKind::Hashes(0))),
        (273, 112)
    );
    assert_eq!(
        (count(TileKind::Entries, true), width(TileKind::Entries)),
        (273, 112)
    );
    assert_eq!(
        (count(TileKind::Hashes(1), true), width(TileKind::Hashes(1))),
        (1, 17)
    );
    assert_eq!(
        (count(TileKind::Hashes(2), true), width(TileKind::Hashes(2))),
        (0, 1)
    );
    let shown: Vec<_> = TileName::all(256).map(|name| name.to_string()).collect();
    assert_eq!(shown, ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
    let name = TileName {
        kind: TileKind::Hashes(0),
        index: 1_234_067,
        width: 256,
    };
    assert_eq!(name.to_string(), "tile/0/x001/x234/067");
    for (path, good) in [
        ("tile/0/x001/x234/067", true),
        ("tile/63/000", true),
        ("tile/entries/999.p/255", true),
        ("tile/entries/x001/000.p/1", true),
        ("tile/64/000", false),
        ("tile/00/000", false),
        ("tile/+1/000", false),
        ("tile/0/0", false),
        ("tile/0/1000", false),
        ("tile/0/x000/001", false),
        ("tile/0/001/002", false),
        ("tile/0/x001", false),
        ("tile/0/+01", false),
        ("tile/0/000.p/0", false),
        ("tile/0/000.p/256", false),
        ("tile/0/000.p/01", false),
        ("tile/0/000.p/", false),
        ("tile/0/000/", false),
        ("tile/0/x099/x999/x999/x999/x999/x999/999", false),
        ("tile/data/000", false),
        ("tile/0/../000", false),
        ("checkpoint", false),
    ] {
        let read = TileName::parse(path);
        assert_eq!(read.is_some(), good, "{path}");
        assert!(read.is_none_or(|name| name.to_string() == path));
    }
    assert_eq!(TileKind::Hashes(9).width(0, u64::MAX), 0);
    assert_eq!(TileKind::Hashes(0).width(u64::MAX, u64::MAX), 0);
}

#[test]
fn any_proof_can_be_made_from_tiles() {
    const SIZE: u64 = 66_000;
    let tree = log(SIZE);
    let mut read = |name: TileName| {
        let TileKind::Hashes(level) = name.kind else {
            return Err("entries");
        };
        assert!(name.is_in(SIZE));
        let hash = |i| {
            tree.subtree(8 * u32::from(level), name.start() + i)
                .unwrap()
        };
        let hashes: Vec<_> = (0..name.width.into()).map(hash).collect();
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        assert_eq!(tile_hashes(&name, &bytes[1..]), None);
        assert_eq!(tile_hashes(&name, &bytes).as_ref(), Some(&hashes));
        Ok(hashes)
    };
    for size in [0, 1, 255, 256, 257, 65_535, 65_536, 65_999, SIZE] {
        let root = tree_root(size, |level, index| subtree(level, index, SIZE, &mut read));
        assert_eq!(
            root,
            Ok(Levels::of((0..size).map(|i| leaf_hash(&leaf(i)))).root())
        );
    }
    for index in [0, 255, 256, 65_535, 65_536, SIZE - 1] {
        let path = inclusion_path(index, SIZE, |l, i| subtree(l, i, SIZE, &mut read)).unwrap();
        assert_eq!(Some(path), tree.inclusion(index, SIZE));
    }
    let broken = tree_root(SIZE, |l, i| {
        subtree(l, i, SIZE, &mut |_| Err::<Vec<_>, _>("disk"))
    });
    assert_eq!(broken, Err("disk"));
}

#[test]
fn bundles_hold_the_leaves_and_nothing_else() {
    let mut bundle = Vec::new();
    (0..5).for_each(|index| push_entry(&mut bundle, &leaf(index)));
    let leaves: Vec<_> = (0..5).map(leaf).collect();
    assert_eq!(bundle_entries(&bundle, 5).unwrap(), leaves);
    let hashes: Vec<_> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    assert_eq!(bundle_hashes(&bundle, 5).unwrap(), hashes);
    for count in [0, 4, 6] {
        assert!(bundle_entries(&bundle, count).is_err());
    }
    for length in 0..bundle.len() {
        assert!(
            bundle_entries(&bundle[..length], 5).is_err(),
            "cut to {length}"
        );
    }
}

/// The example of tlog-witness.
const EXAMPLE_REQUEST: &str = "old 20852014\n\
    PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\
    jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n\
    5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n\
    /6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\n";

/// A request from one size of an honest log to another.
fn request(genesis: &Genesis, tree: &Levels, old: u64, size: u64) -> AddCheckpoint {
    let root = Levels::of((0..size).map(|i| tree.subtree(0, i).unwrap())).root();
    let checkpoint = Checkpoint::new(&genesis.chain(), size, root);
    AddCheckpoint {
        old,
        proof: tree.consistency(old, size).unwrap(),
        checkpoint: signed(genesis, &checkpoint, &[0, 1, 2, 3]),
    }
}

#[test]
fn requests_to_a_witness_read_and_write_as_published() {
    let bytes = format!("{EXAMPLE_REQUEST}{EXAMPLE_COSIGNED}");
    let request = AddCheckpoint::decode(bytes.as_bytes()).unwrap();
    assert_eq!((request.old, request.proof.len()), (20_852_014, 4));
    assert_eq!(request.to_string(), bytes);
    let log_keys = LogKeys::new(&four());
    let unknown = Refused::UnknownLog("example.com/behind-the-sofa".into());
    assert_eq!(request.check(&log_keys, None), Err(unknown));
    let note = EXAMPLE_COSIGNED;
    let line = "A".repeat(43) + "=\n";
    for body in [
        String::new(),
        note.to_owned(),
        format!("old 1\n{note}"),
        format!("old 01\n\n{note}"),
        format!("old -1\n\n{note}"),
        format!("old  1\n\n{note}"),
        format!("new 1\n\n{note}"),
        format!("old 1\nAA==\n\n{note}"),
        format!("old 1\n{}\n{note}", line.repeat(64)),
        "old 1\n\nno note\n".to_owned(),
        format!("old 1\n\n{}", "a".repeat(MAX_REQUEST_BYTES)),
    ] {
        let refused = AddCheckpoint::decode(body.as_bytes()).unwrap_err();
        assert_eq!(refused.status(), 400, "{body:.60}");
    }
    assert!(
        AddCheckpoint::decode(format!("old 1\n{}\n{note}", line.repeat(63)).as_bytes()).is_ok()
    );
}

#[test]
fn a_witness_follows_one_history_and_says_why_not() {
    let genesis = four();
    let (log_keys, tree) = (LogKeys::new(&genesis), log(40));
    let check = |request: AddCheckpoint, last: Option<&Checkpoint>| {
        let bytes = request.to_string();
        let read = AddCheckpoint::decode(bytes.as_bytes()).unwrap();
        assert_eq!(read, request);
        read.check(&log_keys, last).map(|signed| signed.checkpoint)
    };
    let code = |request, last| check(request, last).unwrap_err().status();
    // What it cosigns: a first one, any later one, the same one again.
    let first = check(request(&genesis, &tree, 0, 7), None).unwrap();
    let later = check(request(&genesis, &tree, 7, 33), Some(&first)).unwrap();
    assert_eq!(
        check(request(&genesis, &tree, 33, 33), Some(&later)),
        Ok(later.clone())
    );
    // 409 names the size to begin with.
    let other = Err(Refused::OtherSize(33));
    assert_eq!(check(request(&genesis, &tree, 7, 40), Some(&later)), other);
    assert_eq!(check(request(&genesis, &tree, 0, 33), Some(&later)), other);
    assert_eq!(check(request(&genesis, &tree, 7, 7), Some(&later)), other);
    assert_eq!(code(request(&genesis, &tree, 7, 40), None), 409);
    // 400: backwards.
    let mut back = request(&genesis, &tree, 7, 7);
    back.old = 33;
    assert_eq!(code(back, Some(&later)), 400);
    // 404 and 403.
    let mut stranger = request(&genesis, &tree, 33, 40);
    let mut elsewhere = Checkpoint::new(&genesis.chain(), 40, tree.root());
    elsewhere.origin = "tally/elsewhere".into();
    stranger.checkpoint = signed(&genesis, &elsewhere, &[0, 1, 2]);
    assert_eq!(code(stranger, Some(&later)), 404);
    let mut few = request(&genesis, &tree, 33, 40);
    few.checkpoint = few.checkpoint.only(&log_keys.keys()[1..3]).unwrap();
    assert_eq!(code(few.clone(), Some(&later)), 403);
    let line = NoteSignature::of(&log_keys.keys()[0], first.sign(&checkpoint_key(0)));
    few.checkpoint = request(&genesis, &tree, 33, 40)
        .checkpoint
        .with(line)
        .unwrap();
    assert_eq!(code(few, Some(&later)), 403);
    // 422: all validators together, on another history.
    let forged = Levels::of((0..50).map(|i| leaf_hash(&leaf(i + u64::from(i == 5)))));
    let paths = [
        vec![],
        tree.consistency(33, 40).unwrap(),
        forged.consistency(33, 40).unwrap(),
    ];
    for size in [33, 34, 40, 50] {
        for path in paths.iter().cloned().chain(forged.consistency(33, size)) {
            let mut fork = request(&genesis, &forged, 0, size);
            (fork.old, fork.proof) = (33, path);
            let refused = Err(Refused::Inconsistent { old: 33 });
            assert_eq!(check(fork, Some(&later)), refused);
        }
    }
    // A first one has no path, an empty log no place, and lines no meaning.
    let mut with_path = request(&genesis, &tree, 0, 7);
    with_path.proof = tree.consistency(7, 33).unwrap();
    assert_eq!(code(with_path, None), 422);
    let mut empty = request(&genesis, &tree, 0, 7);
    for root in [empty_root(), tree.root()] {
        let zero = Checkpoint::new(&genesis.chain(), 0, root);
        empty.checkpoint = signed(&genesis, &zero, &[0, 1, 2]);
        assert_eq!(code(empty.clone(), None), 422);
    }
    let mut extended = first.clone();
    extended.extension.push("and more".into());
    empty.checkpoint = signed(&genesis, &extended, &[0, 1, 2]);
    assert_eq!(code(empty, None), 422);
}

#[test]
fn no_flipped_bit_makes_a_witness_cosign_another_head() {
    let genesis = four();
    let (log_keys, tree) = (LogKeys::new(&genesis), log(12));
    let first = request(&genesis, &tree, 0, 7)
        .check(&log_keys, None)
        .unwrap();
    let bytes = request(&genesis, &tree, 7, 12).to_string().into_bytes();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut altered = bytes.clone();
            altered[i] ^= 1 << bit;
            let Ok(read) = AddCheckpoint::decode(&altered) else {
                continue;
            };
            if let Ok(signed) = read.check(&log_keys, Some(&first.checkpoint)) {
                let (size, root) = (signed.checkpoint.size, signed.checkpoint.root);
                assert_eq!((size, root), (12, tree.root()), "byte {i}, bit {bit}");
            }
        }
    }
}

#[test]
fn two_checkpoints_are_one_history_or_two() {
    let chain = four().chain();
    let at = |size, root| Checkpoint::new(&chain, size, root);
    let (small, large) = (at(7, log(7).root()), at(12, log(12).root()));
    assert_eq!(relate(&small, &small, None), Relation::Same);
    assert_eq!(relate(&small, &at(7, log(8).root()), None), Relation::Fork);
    assert_eq!(relate(&small, &large, None), Relation::Unknown);
    assert_eq!(relate(&small, &large, Some(small.root)), Relation::Grown);
    assert_eq!(relate(&small, &large, Some(large.root)), Relation::Fork);
}

#[test]
fn notes_are_bounded() {
    let secret = witness_key();
    let line = |i: usize| NoteSignature::sign(&format!("n{i}"), &secret, "text\n").unwrap();
    let most: Vec<_> = (0..MAX_NOTE_SIGNATURES).map(line).collect();
    assert!(Note::new("text\n", most.clone()).is_some());
    let more = most.into_iter().chain([line(999)]).collect();
    assert!(Note::new("text\n", more).is_none());
    let long = "a".repeat(MAX_NOTE_BYTES) + "\n";
    assert!(Note::new(&long, vec![line(0)]).is_none());
    assert!(Note::new("text\n", vec![]).is_none());
    assert!(Note::new("no end", vec![line(0)]).is_none());
    assert!(Note::new("a\rb\n", vec![line(0)]).is_none());
    // Texts may have empty lines, at their ends too.
    for text in ["\n", "\n\n", "a\n\nb\n\n"] {
        assert_eq!(Note::new(text, vec![line(0)]).unwrap().text(), text);
    }
}

proptest! {
    #[test]
    fn what_is_read_writes_back(
        text in "[a-z\n \u{e9}\u{2014}]{0,40}",
        names in vec("[a-z./\u{e9}-]{1,12}", 1..6),
        time in 1u64..1 << 62,
    ) {
        let text = text + "\n";
        let secret = witness_key();
        let line = |(i, name): (usize, &String)| match i % 2 {
            0 => NoteSignature::sign(name, &secret, &text).unwrap(),
            _ => NoteSignature::cosign(name, &secret, time, &text).unwrap(),
        };
        let note = Note::new(&text, names.iter().enumerate().map(line).collect()).unwrap();
        let read = Note::parse(note.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&read, &note);
        for (i, name) in names.iter().enumerate() {
            let kind = [KeyType::Ed25519, KeyType::Cosignature][i % 2];
            let key = VerifierKey::new(name, kind, secret.public()).unwrap();
            prop_assert_eq!(read.verify(&[key]).unwrap()[0], Some([0, time][i % 2]));
        }
    }

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

    #[test]
    fn names_of_tiles_read_back(
        level in 0u8..64,
        index in 0u64..u64::MAX / TILE_WIDTH,
        width in 1u16..=256,
        entries: bool,
    ) {
        let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
        let name = TileName { kind, index, width };
        prop_assert_eq!(TileName::parse(&name.to_string()), Some(name));
    }
}
