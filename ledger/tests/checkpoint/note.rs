//! Notes and the keys that sign them.

use proptest::{collection::vec, prelude::*};
use tally_ledger::{
    checkpoint::Checkpoint,
    crypto::SecretKey,
    note::{
        KeyType, MAX_NOTE_BYTES, MAX_NOTE_SIGNATURES, Note, NoteError, NoteSignature, VerifierKey,
    },
};

use crate::{heads::*, published::*, world::*};

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
}
