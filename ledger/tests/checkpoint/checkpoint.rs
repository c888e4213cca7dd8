//! Checkpoints: who has to sign, who counts as a witness, and which histories
//! two of them can belong to.

use tally_ledger::{
    checkpoint::{Checkpoint, CheckpointError, Finality, LogKeys, Witnesses, log_keys},
    merkle::empty_root,
    note::{KeyType, MAX_NOTE_SIGNATURES, Note, NoteError, NoteSignature, VerifierKey},
    witness::{Relation, relate},
};

use crate::heads::*;

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
    for (bit, altered) in one_bit_off(&bytes) {
        let Ok(read) = log_keys.read(&altered) else {
            continue;
        };
        // Only the witness's line can be turned into one of somebody
        // unknown: then nobody has witnessed it.
        assert_eq!(read.checkpoint, checkpoint);
        assert!(witnesses(1).check(&read.note).is_err(), "bit {bit}");
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
