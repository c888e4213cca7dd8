//! Heads of a log of four validators: signed by some of them, cosigned by a
//! witness.

use tally_ledger::{
    block::{Validator, ValidatorSet},
    checkpoint::{Checkpoint, Witnesses, log_keys, sign_note},
    crypto::SecretKey,
    genesis::Genesis,
    merkle::{Levels, leaf_hash},
    note::{KeyType, Note, NoteSignature, VerifierKey},
};

use crate::world::*;

pub(crate) const WITNESS: &str = "witness.example/w1";
/// Seconds since 1970.
pub(crate) const COSIGNED_AT: u64 = 1_700_000_000;

/// A genesis of four validators, of which three are a quorum.
pub(crate) fn four() -> Genesis {
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

pub(crate) fn checkpoint_key(validator: u16) -> SecretKey {
    SecretKey::from_seed(&[210 + validator as u8; 32])
}

pub(crate) fn witness_key() -> SecretKey {
    SecretKey::from_seed(&[77; 32])
}

pub(crate) fn signed(genesis: &Genesis, checkpoint: &Checkpoint, by: &[u16]) -> Note {
    let signatures = by
        .iter()
        .map(|validator| (*validator, checkpoint.sign(&checkpoint_key(*validator))));
    sign_note(checkpoint, &log_keys(genesis), signatures).unwrap()
}

pub(crate) fn cosigned(note: &Note) -> Note {
    let line = NoteSignature::cosign(WITNESS, &witness_key(), COSIGNED_AT, note.text());
    note.with(line.unwrap()).unwrap()
}

pub(crate) fn witnesses(need: usize) -> Witnesses {
    let key = VerifierKey::new(WITNESS, KeyType::Cosignature, witness_key().public());
    Witnesses::new(vec![key.unwrap()], need).unwrap()
}

/// Leaves of this and the next lengths.
pub(crate) fn leaf(index: u64) -> Vec<u8> {
    vec![index as u8; if index.is_multiple_of(3) { 58 } else { 86 }]
}

pub(crate) fn log(size: u64) -> Levels {
    Levels::of((0..size).map(|index| leaf_hash(&leaf(index))))
}

/// Every way in which one bit is another: which bit, and the bytes.
pub(crate) fn one_bit_off(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..8 * bytes.len()).map(|bit| {
        let mut altered = bytes.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        (bit, altered)
    })
}
