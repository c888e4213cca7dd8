//! State trees: against a naive tree that is built from nothing each time,
//! and proofs against every single-bit change.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tally_ledger::{
    codec::List,
    hash::Hash,
    state_proof::{StateProof, StateProofError},
    tree::{Table, Tree, depth, root_from_path, state_root, table_leaf_hash},
};

fn keyed(context: &str, parts: &[&[u8]]) -> Hash {
    let key = blake3::derive_key(context, b"");
    Hash(blake3::keyed_hash(&key, &parts.concat()).into())
}

/// The definition: pad to a power of two, hash level by level.
fn naive_root(leaves: &[Hash]) -> Hash {
    let mut level = leaves.to_vec();
    if level.is_empty() {
        return Hash::ZERO;
    }
    level.resize(level.len().next_power_of_two(), Hash::ZERO);
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| keyed("tally v1 state node", &[&pair[0].0, &pair[1].0]))
            .collect();
    }
    level[0]
}

fn leaf(value: u64) -> Hash {
    table_leaf_hash(Table::Accounts, 0, &value.to_le_bytes())
}

#[test]
fn a_leaf_is_bound_to_table_and_number() {
    let expected = keyed(
        "tally v1 state leaf",
        &[&[3], &0x0403_0201u32.to_le_bytes(), b"leaf"],
    );
    assert_eq!(
        table_leaf_hash(Table::Accounts, 0x0403_0201, b"leaf"),
        expected
    );
    assert_ne!(
        table_leaf_hash(Table::Gateways, 0x0403_0201, b"leaf"),
        expected
    );
    assert_ne!(table_leaf_hash(Table::Accounts, 1, b"leaf"), expected);
}

#[test]
fn depths() {
    for (size, expected) in [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 3),
        (u32::MAX, 32),
    ] {
        assert_eq!(depth(size), expected);
    }
}

#[test]
fn every_small_size_has_the_naive_root_and_paths() {
    let leaves: Vec<Hash> = (0..40).map(leaf).collect();
    for size in 0..=leaves.len() {
        let leaves = &leaves[..size];
        let tree = Tree::of(Table::Accounts, leaves.iter().copied());
        assert_eq!(tree.root(), naive_root(leaves));
        for (number, leaf) in (0..).zip(leaves) {
            let path = tree.path(number).unwrap();
            let root = root_from_path(number, size as u32, leaf, &path);
            assert_eq!(root, Some(tree.root()));
        }
        assert_eq!(tree.path(size as u32), None);
    }
}

proptest! {
    #[test]
    fn updates_equal_building_anew(
        rounds in prop::collection::vec(
            (prop::collection::btree_map(0u32..200, any::<u64>(), 0..12), 0usize..20),
            1..12,
        ),
    ) {
        let mut naive: Vec<Hash> = Vec::new();
        let mut tree = Tree::new(Table::Accounts);
        for (touched, grown) in rounds {
            let old = naive.len() as u32;
            let mut changes: Vec<(u32, Hash)> = touched
                .into_iter()
                .filter(|(number, _)| *number < old)
                .map(|(number, value)| (number, leaf(value)))
                .collect();
            changes.extend((old..).take(grown).map(|number| (number, leaf(number.into()))));
            for (number, hash) in &changes {
                match naive.get_mut(*number as usize) {
                    Some(old) => *old = *hash,
                    None => naive.push(*hash),
                }
            }
            let before = tree.clone();
            let update = tree.update(&changes);
            prop_assert_eq!(&tree, &before, "computing changes nothing");
            prop_assert_eq!(update.root(), naive_root(&naive));
            prop_assert_eq!(update.size(), naive.len() as u32);
            tree.apply(update);
            prop_assert_eq!(&tree, &Tree::of(Table::Accounts, naive.iter().copied()));
        }
    }
}

/// A state with a few leaves per table, and a proof about one number.
fn state(table: Table, number: u32) -> (Hash, StateProof) {
    let bytes = |table: Table, number: u32| [table.id(), number as u8, 7].to_vec();
    let trees = Table::ALL.map(|table| {
        let size = u32::from(table.id()) - 1;
        let leaves = (0..size).map(|n| table_leaf_hash(table, n, &bytes(table, n)));
        Tree::of(table, leaves)
    });
    let roots = trees
        .each_ref()
        .map(|tree| (tree.table(), tree.size(), tree.root()));
    let tree = &trees[usize::from(table.id()) - 1];
    let path = tree.path(number);
    let proof = StateProof {
        table,
        number,
        leaf: path
            .is_some()
            .then(|| List::new(bytes(table, number)).unwrap()),
        path: List::new(path.unwrap_or_default()).unwrap(),
        tables: roots.map(|(_, size, root)| (size, root)),
    };
    (state_root(&roots), proof)
}

#[test]
fn presence_and_absence_are_proven() {
    for table in Table::ALL {
        let size = u32::from(table.id()) - 1;
        for number in 0..size + 3 {
            let (root, proof) = state(table, number);
            let expected = [table.id(), number as u8, 7];
            let expected = (number < size).then_some(&expected[..]);
            assert_eq!(proof.verify(&root), Ok(expected));
            assert_eq!(proof.size(table), size);
            assert_eq!(StateProof::decode(&proof.encode()), Ok(proof));
        }
    }
}

#[test]
fn every_flipped_bit_of_a_proof_is_rejected() {
    for (table, number) in [
        (Table::Gateways, 2),
        (Table::Validators, 9),
        (Table::Persons, 1),
    ] {
        let (root, proof) = state(table, number);
        let bytes = proof.encode();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let Ok(altered) = StateProof::decode(&altered) else {
                continue;
            };
            // Absence of one number also proves absence of a larger one, but
            // never says anything about the number that was asked.
            let other_absence =
                altered.leaf.is_none() && altered.number >= altered.size(altered.table);
            if other_absence && (altered.table, altered.number) != (table, number) {
                continue;
            }
            assert!(altered.verify(&root).is_err(), "bit {bit}: {altered:?}");
        }
    }
}

#[test]
fn the_wrong_form_is_named() {
    let (root, present) = state(Table::Gateways, 2);
    let form = |number| StateProofError::Form {
        table: Table::Gateways,
        number,
        size: 3,
    };
    let hidden = StateProof {
        leaf: None,
        path: List::default(),
        ..present.clone()
    };
    assert_eq!(hidden.verify(&root), Err(form(2)));
    let beyond = StateProof {
        number: 3,
        ..present.clone()
    };
    assert_eq!(beyond.verify(&root), Err(form(3)));
    let moved = StateProof {
        number: 1,
        ..present.clone()
    };
    let leaf = StateProofError::Leaf {
        table: Table::Gateways,
        number: 1,
    };
    assert_eq!(moved.verify(&root), Err(leaf));
    assert_eq!(present.verify(&Hash::ZERO), Err(StateProofError::StateRoot));
    let mut shrunk = present;
    shrunk.tables[3].0 = 2;
    assert_eq!(shrunk.verify(&root), Err(StateProofError::StateRoot));
}
