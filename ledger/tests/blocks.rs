//! Blocks: every header field is checked, bounds are kept, replays are seen
//! for as long as they could do harm, refusals leave no trace, and a snapshot
//! is the state it was taken of.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    account::Account,
    action::{Action, RegisterGateway, SetGatewayKey, SetRole},
    block::{Block, Header},
    codec,
    crypto::{ChainId, SecretKey},
    entry::{Entry, Event},
    execute::{BlockError, Strict, admit, build, check},
    genesis::GenesisError,
    hash::Hash,
    ids::*,
    merkle,
    person::Roles,
    reason::Reason,
    snapshot::SnapshotError,
    state::{Chain, IdBucket, State},
    transaction::{Body, Transaction},
    tree::Table,
};
use world::*;

#[test]
fn a_block_with_any_other_header_field_is_rejected() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let transaction = world.debits_tx(G0, &[debit(lease, 5)]);
    let now = world.time();
    let good = build(&world.state, now, 1, [&transaction], &Strict).block;
    assert!(check(&world.state, &good, &Strict).is_ok());
    type Change = fn(&mut Header);
    let rows: [(&str, Change); 11] = [
        ("version", |header| header.version = 2),
        ("chain", |header| header.chain = ChainId(Hash([1; 32]))),
        ("height", |header| header.height.0 += 1),
        ("previous block", |header| header.previous.0[0] ^= 1),
        ("proposer", |header| header.proposer = 3),
        ("transactions root", |header| {
            header.transactions_root.0[9] ^= 1
        }),
        ("log size", |header| header.log_size += 1),
        ("log root", |header| header.log_root.0[31] ^= 1),
        ("state root", |header| header.state_root.0[0] ^= 1),
        ("next validators", |header| header.next_validators.0[0] ^= 1),
        ("time", |header| header.time.0 -= 2_000),
    ];
    for (name, change) in rows {
        let mut block = good.clone();
        change(&mut block.header);
        let error = check(&world.state, &block, &Strict).unwrap_err();
        let named = format!("the header's {name} is ");
        assert!(error.to_string().starts_with(&named), "{error}");
    }
    // Transactions are under a root: none can be left out or added.
    let mut block = good.clone();
    block.transactions.clear();
    let checked = check(&world.state, &block, &Strict).map(|_| ());
    let root = BlockError::Root {
        name: "transactions root",
        header: block.header.transactions_root,
        made: merkle::root_of(&[]),
    };
    assert_eq!(checked, Err(root));
    // Nor can a signature or payload be exchanged for another valid one.
    let mut block = good;
    let twice = block.transactions[0].clone();
    block.transactions.push(twice);
    let refused = BlockError::Refused {
        index: 1,
        id: block.transactions[1].id(),
        reason: Reason::DebitNotNext,
    };
    let checked = check(&world.state, &block, &Strict).map(|_| ());
    assert_eq!(checked, Err(refused));
}

/// What an operator compares with another node's.
#[test]
fn a_block_that_executes_to_another_says_to_what() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let transaction = world.debits_tx(G0, &[debit(lease, 5), debit(lease, 6)]);
    let good = build(&world.state, world.time(), 1, [&transaction], &Strict).block;
    let (first, made) = (world.log.size(), good.header);
    let error = |change: fn(&mut Header)| {
        let mut block = good.clone();
        change(&mut block.header);
        let error = check(&world.state, &block, &Strict).unwrap_err();
        (error, block.header)
    };
    let (found, header) = error(|header| header.log_size -= 1);
    let (header, made_size) = (header.log_size, made.log_size);
    let size = BlockError::LogSize {
        first,
        header,
        made: made_size,
    };
    assert_eq!(found, size);
    let (found, header) = error(|header| header.log_root.0[0] ^= 1);
    let root = BlockError::LogRoot {
        first,
        last: first + 1,
        header: header.log_root,
        made: made.log_root,
    };
    assert_eq!(found, root);
    let (found, header) = error(|header| header.state_root.0[0] ^= 1);
    let text = found.to_string();
    assert!(text.contains("state root"), "{text}");
    for root in [header.state_root, made.state_root] {
        assert!(text.contains(&root.to_string()), "{text}");
    }
}

#[test]
fn time_only_goes_forward() {
    let world = World::ready();
    let parent = world.state.time();
    let none = Vec::<Transaction>::new;
    let built = build(&world.state, Time(0), 0, none(), &Strict);
    assert_eq!(built.block.header.time, Time(parent.0 + 1));
    let mut block = built.block;
    block.header.time = parent;
    let checked = check(&world.state, &block, &Strict).map(|_| ());
    assert_eq!(checked, Err(BlockError::Header("time")));
}

#[test]
fn the_first_block_follows_the_genesis() {
    let genesis = genesis();
    let state = State::genesis(&genesis).unwrap();
    assert_eq!((state.height(), state.time()), (Height(0), genesis.time));
    assert_eq!(state.log().size(), 1);
    let counts = Chain {
        entries: 1,
        controls: 1,
        protocol: 1,
        table: TableVersion(1),
    };
    assert_eq!(*state.counts(), counts);
    let none = Vec::<Transaction>::new();
    let header = build(&state, Time(0), 2, none, &Strict).block.header;
    assert_eq!(header.height, Height(1));
    assert_eq!(header.previous, genesis.chain().0);
    assert_eq!(header.next_validators, genesis.validators.hash());
    let mut bad = genesis;
    bad.version = 9;
    assert_eq!(State::genesis(&bad).err(), Some(GenesisError::Version(9)));
}

#[test]
fn what_does_not_fit_is_left_for_the_next_block() {
    let mut genesis = genesis();
    genesis.parameters.max_block_debits = 5;
    genesis.parameters.max_block_bytes = 512 * 1024;
    let mut world = World::ready_of(genesis);
    let (lease, ..) = world.lease(G0, |_| ());
    let batch = |world: &mut World, first: u64, count: usize| {
        let debits = vec![debit(lease, 1); count];
        let body = world.debits_body(G0, JournalNumber(1), DebitNumber(first), &debits);
        world.sign(&body, payload(&debits))
    };
    let three = batch(&mut world, 1, 3);
    let two = batch(&mut world, 4, 2);
    let one = batch(&mut world, 6, 1);
    let now = world.time();
    let built = build(&world.state, now, 0, [&three, &two, &one], &Strict);
    assert_eq!(built.block.transactions, [three, two]);
    assert_eq!(built.refused, []);
    let mut block = built.block;
    block.transactions.push(one);
    let checked = check(&world.state, &block, &Strict).map(|_| ());
    assert_eq!(checked, Err(BlockError::TooManyDebits(6)));

    // Bytes: the built block is as large as its encoding says.
    let long: Vec<Transaction> = (0..4)
        .map(|_| {
            let grant = tally_ledger::action::NewGrant {
                account: AccountNumber(0),
                class: BASE,
                amount: Amount(0),
                vests: Time(0),
                expires: NEVER,
            };
            let grants = list(vec![grant; 256]);
            let action = Action::Issue(tally_ledger::action::Issue { grants });
            world.by_issuer(action)
        })
        .collect();
    let many: Vec<Transaction> = (0..4000).map(|_| long[0].clone()).collect();
    block.transactions = many;
    let bytes = block.encode().len();
    assert!(bytes > 512 * 1024);
    let sizes = block.transactions.iter().map(Transaction::encoded_len);
    let empty = Block {
        transactions: Vec::new(),
        ..block.clone()
    };
    assert_eq!(sizes.sum::<usize>() + empty.encode().len(), bytes);
    for transaction in &long {
        assert_eq!(transaction.encode().len(), transaction.encoded_len());
    }
}

#[test]
fn a_block_is_at_most_as_large_as_the_parameters_say() {
    let mut genesis = genesis();
    genesis.parameters.max_block_bytes = 512 * 1024;
    let mut world = World::ready_of(genesis);
    let (lease, ..) = world.lease(G0, |_| ());
    let mut batches = Vec::new();
    for i in 0..3 {
        let debits = vec![debit(lease, 1); 1500];
        let first = DebitNumber(i * 1500 + 1);
        let body = world.debits_body(G0, JournalNumber(1), first, &debits);
        batches.push(world.sign(&body, payload(&debits)));
    }
    let now = world.time();
    let built = build(&world.state, now, 0, &batches, &Strict);
    assert_eq!(built.block.transactions.len(), 2);
    assert!(built.block.encode().len() <= 512 * 1024);
    let mut block = built.block;
    block.transactions.push(batches[2].clone());
    let bytes = block.encode().len();
    let checked = check(&world.state, &block, &Strict).map(|_| ());
    assert_eq!(checked, Err(BlockError::TooLarge(bytes)));
}

#[test]
fn ids_are_remembered_until_their_hour_has_passed() {
    let mut world = World::ready();
    let hour = world.time().hour();
    let far = hour + 168;
    let action = Action::RotateHolderKey(AccountNumber(0), key(AccountNumber(0)).public());
    let mut body = world.body(AccountNumber(0), &[], action);
    body.valid_until = far;
    let transaction = world.sign(&body, Vec::new());
    world.run(transaction.clone());
    let leaf = |world: &World, hour| -> IdBucket {
        let proof = world.state.prove(Table::IdBuckets, IdBucket::slot(hour));
        let leaf = proof.verify(&world.state.state_root()).unwrap().unwrap();
        codec::decode(leaf, 64).unwrap()
    };
    assert_eq!((leaf(&world, far).hour, leaf(&world, far).count), (far, 1));
    // Live to the last millisecond, also as another body, and across a
    // snapshot; the same id is free for another author.
    world.now = u64::from(far) * HOUR_MS - 1;
    assert_eq!(world.refusal(&transaction), Reason::Duplicate);
    let mut other = body.clone();
    other.action = Action::Unfreeze(AccountNumber(0));
    let other = world.sign(&other, Vec::new());
    assert_eq!(world.refusal(&other), Reason::IdTaken);
    let snapshot = world.state.snapshot();
    let restored = State::from_snapshot(&world.genesis, &snapshot).unwrap();
    let again = admit(&restored, world.time(), &transaction, &Strict);
    assert_eq!(again, Err(Reason::Duplicate));
    let mut theirs = world.body(ISSUER, &[], Action::Freeze(AccountNumber(0)));
    theirs.id = body.id;
    theirs.valid_until = far;
    let theirs = world.sign(&theirs, Vec::new());
    world.run(theirs);
    // Its hour passes: forgotten, and no longer valid itself.
    world.block_at(u64::from(far) * HOUR_MS, &[]);
    assert_eq!(leaf(&world, far), IdBucket::default());
    assert_eq!(world.refusal(&transaction), Reason::Expired);
    body.valid_until = far + 1;
    let unfreeze = world.by_two(Action::Unfreeze(AccountNumber(0)));
    world.run(unfreeze);
    let renewed = world.sign(&body, Vec::new());
    world.run(renewed);
}

#[test]
fn an_id_is_used_once_within_a_block() {
    let mut world = World::ready();
    let freeze = world.by_issuer(Action::Freeze(AccountNumber(0)));
    let mut body = Body::decode(&freeze.body).unwrap();
    body.action = Action::RevokeApiKey(ApiKeyNumber(0));
    let other = world.sign(&body, Vec::new());
    let now = world.time();
    let built = build(&world.state, now, 0, [&freeze, &freeze, &other], &Strict);
    let reasons: Vec<Reason> = built.refused.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [Reason::Duplicate, Reason::IdTaken]);
    // A refused transaction does not use up its id.
    let unfreeze = world.by_two(Action::Unfreeze(AccountNumber(0)));
    assert_eq!(world.refusal(&unfreeze), Reason::NotFrozen);
    world.run(freeze);
    world.run(unfreeze);
}

#[test]
fn counted_transactions_replay_as_a_wrong_number() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let returned = world.tx(G0, &[], Action::ReturnLease(lease));
    world.run(returned.clone());
    assert_eq!(world.refusal(&returned), Reason::LeaseNotOpen);
}

#[test]
fn entries_of_an_account_and_control_entries_are_contiguous() {
    let mut world = World::ready();
    world.open_account();
    let (lease, ..) = world.lease(G0, |_| ());
    world.debit(G0, debit(lease, 5));
    world.return_lease(G0, lease);
    let freeze = world.by_issuer(Action::Freeze(AccountNumber(0)));
    world.run(freeze);
    let mut control = 0;
    let mut numbers = [0, 0];
    for entry in &world.entries {
        if let Entry::Event(leaf, event) = entry {
            assert_eq!(leaf.event, event.hash());
            if event.is_control() {
                control += 1;
                assert_eq!(leaf.control, control);
            } else {
                assert_eq!(leaf.control, 0);
            }
        }
        let number = match entry {
            Entry::Receipt(receipt) => receipt.entry,
            Entry::Event(leaf, _) => leaf.entry,
        };
        if let Some(account) = entry.account() {
            numbers[account.0 as usize] += 1;
            assert_eq!(number, numbers[account.0 as usize]);
        } else {
            assert_eq!(number, 0);
        }
    }
    assert_eq!(world.state.counts().controls, control);
    let counts: Vec<u32> = world.state.accounts().iter().map(|a| a.entries).collect();
    assert_eq!(counts, numbers);
    assert_eq!(world.state.counts().entries, world.entries.len() as u64);
}

/// A world in which something of everything has happened.
fn busy() -> World {
    let mut world = World::ready();
    world.open_account();
    world.issue(1, PRIORITY, 5 * CT);
    let later = Time(world.now + DAY_MS);
    world.issue_dated(1, BASE, CT, later, NEVER);
    let (lease, ..) = world.lease(G0, |_| ());
    world.debit(G0, debit(lease, 77));
    world.lease(G1, |_| ());
    let end = world.state.accounts()[0].leases[0].end;
    world.block_at(end.0, &[]);
    let table = world.by_admins(Action::SetPriceTable(prices(2, 2)));
    world.run(table);
    world
}

#[test]
fn a_snapshot_is_the_state_it_was_taken_of() {
    let mut world = busy();
    let bytes = world.state.snapshot();
    let mut restored = State::from_snapshot(&world.genesis, &bytes).unwrap();
    assert_eq!(restored.snapshot(), bytes);
    assert_eq!(restored.state_root(), world.state.state_root());
    assert_eq!(restored.log(), world.state.log());
    assert_eq!(restored.header(), world.state.header());
    assert_eq!(restored.next_due(), world.state.next_due());
    // It goes on as the live one does: leases close, ids stay used.
    for step in 0..6 {
        let (lease, transaction) = (world.next_lease(G0), step % 2 == 0);
        let mut transactions = Vec::new();
        if transaction {
            transactions.push(world.lease_tx(G0, lease));
        }
        world.now += HOUR_MS;
        let block = build(&restored, world.time(), 0, &transactions, &Strict).block;
        world.block(&transactions);
        assert_eq!(Some(&block.header), world.state.header());
        let execution = check(&restored, &block, &Strict).unwrap();
        restored.commit(execution);
    }
    assert_eq!(restored.snapshot(), world.state.snapshot());
    // Also the state of the genesis itself.
    let start = State::genesis(&world.genesis).unwrap();
    let bytes = start.snapshot();
    let again = State::from_snapshot(&world.genesis, &bytes).unwrap();
    assert_eq!(again.state_root(), start.state_root());
}

#[test]
fn a_damaged_or_foreign_snapshot_is_refused() {
    let world = busy();
    let good = world.state.snapshot();
    for at in [0, 33, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let error = State::from_snapshot(&world.genesis, &bytes).unwrap_err();
        assert_eq!(error, SnapshotError::Damaged);
    }
    let error = State::from_snapshot(&world.genesis, &good[..good.len() - 1]);
    assert_eq!(error.unwrap_err(), SnapshotError::Damaged);
    assert!(State::from_snapshot(&world.genesis, &[]).is_err());
    let mut other = genesis();
    other.name = "other".into();
    let error = State::from_snapshot(&other, &good).unwrap_err();
    assert_eq!(error, SnapshotError::OtherChain(*world.state.chain()));
    // With a hash that fits, every bit of the content is still held to the
    // header's roots, or does not decode.
    let body = good.len() - 32;
    let rehash = |bytes: &mut Vec<u8>| {
        let hash = tally_ledger::hash::Context::Snapshot.hash(&bytes[..body]);
        bytes[body..].copy_from_slice(&hash.0);
    };
    let header_end = 33 + 1 + tally_ledger::block::HEADER_BYTES;
    for at in (header_end..body).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        rehash(&mut bytes);
        let read = State::from_snapshot(&world.genesis, &bytes);
        assert!(read.is_err(), "byte {at}");
    }
    let mut bytes = good.clone();
    bytes[0] = 9;
    rehash(&mut bytes);
    let error = State::from_snapshot(&world.genesis, &bytes).unwrap_err();
    assert_eq!(error, SnapshotError::Version(9));
}

#[test]
fn the_state_proves_what_it_holds_and_what_it_does_not() {
    let world = busy();
    let root = world.state.state_root();
    let proof = world.state.prove(Table::Accounts, 1);
    let leaf = proof.verify(&root).unwrap().unwrap();
    let account: Account = codec::decode(leaf, 1 << 20).unwrap();
    assert_eq!(account, world.state.accounts()[1]);
    for table in Table::ALL {
        let size = world.state.size(table);
        for number in 0..size {
            let proof = world.state.prove(table, number);
            assert!(proof.verify(&root).unwrap().is_some());
        }
        let absent = world.state.prove(table, size);
        assert_eq!(absent.verify(&root), Ok(None));
    }
    let proof = world.state.prove(Table::Chain, 0);
    let leaf = proof.verify(&root).unwrap().unwrap();
    let chain: Chain = codec::decode(leaf, 64).unwrap();
    assert_eq!(chain.entries, world.log.size());
}

#[test]
fn keys_change_hands_at_once() {
    let mut world = World::ready();
    let sign = |world: &World, body: &Body, seed: u8| {
        let key = SecretKey::from_seed(&[seed; 32]);
        Transaction::sign(world.state.chain(), body, &[&key], Vec::new())
    };
    // Holder: the old key is good until the very transaction.
    let rotate = Action::RotateHolderKey(AccountNumber(0), stray_key(1));
    let rotate = world.by_holder(0, rotate);
    let body = world.body(AccountNumber(0), &[], bind(0, 5));
    let (old, new) = (world.sign(&body, Vec::new()), sign(&world, &body, 1));
    assert_eq!(world.refusal(&new), Reason::BadSignature);
    world.block(&[rotate, new]);
    assert_eq!(world.refusal(&old), Reason::BadSignature);
    // Gateway.
    let set = world.by_admins(Action::SetGatewayKey(SetGatewayKey {
        gateway: G0,
        key: stray_key(2),
        caps: caps(7),
    }));
    world.run(set);
    let lease = world.next_lease(G0);
    let transaction = world.lease_tx(G0, lease);
    assert_eq!(world.refusal(&transaction), Reason::BadSignature);
    // Person: retired, then a new one with the next number.
    let retire = world.by_admins(Action::SetRole(SetRole {
        person: CHECKER,
        key: stray_key(3),
        roles: Roles::NONE,
    }));
    world.run(retire);
    let hire = world.by_admins(Action::SetRole(SetRole {
        person: Person(9),
        key: key(Person(9)).public(),
        roles: Roles::ISSUER,
    }));
    world.run(hire);
    let transaction = world.tx(Person(9), &[], Action::Freeze(AccountNumber(0)));
    world.run(transaction);
    let register = world.by_admins(Action::RegisterGateway(RegisterGateway {
        key: key(GatewayNumber(2)).public(),
        caps: caps(1),
    }));
    world.run(register);
    world.open_journal(GatewayNumber(2), true);
}

#[test]
fn an_api_key_can_end_itself_and_its_leases() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let number = ApiKeyNumber(0);
    let own = world.tx(number, &[], Action::RevokeApiKey(number));
    let entries = events(&world.run(own));
    assert!(matches!(entries[0], Event::ApiKeyRevoked { .. }));
    let account = &world.state.accounts()[0];
    assert!(account.api_keys.is_empty());
    assert_eq!(
        account.lease(G0, lease).unwrap().recall,
        tally_ledger::account::Recall::KeyRevoked
    );
    let public = key(number).public();
    assert_eq!(world.state.api_key_by_public(&public), Some(number));
}

#[test]
fn a_longer_grace_holds_for_leases_that_have_ended() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let end = world.state.accounts()[0].lease(G0, lease).unwrap().end.0;
    world.block_at(end, &[]);
    let mut parameters = *world.state.parameters();
    parameters.lease_grace_ms = 2 * HOUR_MS as u32;
    let set = world.by_admins(Action::SetParameters(parameters));
    world.run(set);
    for _ in 0..3 {
        world.block(&[]);
    }
    assert_eq!(world.state.next_due(), Some(Time(end + 2 * HOUR_MS)));
    assert!(world.block_at(end + 2 * HOUR_MS - 1, &[]).is_empty());
    assert_eq!(world.block_at(end + 2 * HOUR_MS, &[]).len(), 1);
}

#[test]
fn a_refused_transaction_between_two_good_ones_leaves_no_trace() {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let first = world.debits_tx(G0, &[debit(lease, 1)]);
    let mut bad = debit(lease, 2);
    bad.detail.model = ModelNumber(99);
    let body = world.debits_body(
        G0,
        JournalNumber(1),
        DebitNumber(2),
        &[debit(lease, 3), bad],
    );
    let refused = world.sign(&body, payload(&[debit(lease, 3), bad]));
    let body = world.debits_body(G0, JournalNumber(1), DebitNumber(2), &[debit(lease, 4)]);
    let last = world.sign(&body, payload(&[debit(lease, 4)]));
    let now = world.time();
    let with = build(&world.state, now, 0, [&first, &refused, &last], &Strict);
    let without = build(&world.state, now, 0, [&first, &last], &Strict);
    assert_eq!(with.refused, [(refused.id(), Reason::UnknownModel)]);
    assert_eq!(with.block, without.block);
}
