//! The offline verifier of whole histories: what is sound is accepted at each
//! level, each kind of divergence is named where it is, and no stored bit can
//! be another.

#![allow(clippy::unwrap_used)]

mod world;

use tally_ledger::{
    action::{
        Action, Correct, RegisterGateway, Revoke, SetClass, SetGatewayKey, SetRole, Surrender,
    },
    block::{Block, Certificate, HEADER_BYTES, Header},
    codec,
    correction::CorrectionProof,
    debit::Flags,
    entry::{Entry, Event},
    execute::{SignatureCheck, Strict, Trusted},
    genesis::Genesis,
    hash::{Context, Hash},
    ids::*,
    merkle::Frontier,
    person::Roles,
    rates::{Rate, Rates},
    redacted::{Dropped, REDACTED_VERSION, RedactedBlock, StoredBlock},
    state::State,
    transaction::Body,
    verify::{Beside, Bytes, Divergence, Field, Headers, Replay, StoredEntry, read_block},
};
use world::*;

const LIMIT: usize = 8 << 20;

/// An entry as files have it.
#[derive(Debug, Clone)]
struct Stored {
    leaf: Vec<u8>,
    event: Option<Vec<u8>>,
}

impl Stored {
    fn of(entry: &Entry) -> Self {
        let event = match entry {
            Entry::Receipt(_) => None,
            Entry::Event(_, event) => Some(event.encode()),
        };
        let leaf = entry.leaf();
        Stored { leaf, event }
    }

    fn view(&self) -> StoredEntry<'_> {
        match &self.event {
            None => StoredEntry::Receipt(self.leaf[..].try_into().unwrap()),
            Some(event) => StoredEntry::Event(self.leaf[..].try_into().unwrap(), event),
        }
    }
}

/// A stored history: bodies and certificates, and each block's entries.
#[derive(Clone)]
struct History {
    world: std::rc::Rc<World>,
    blocks: Vec<(Certificate, Vec<u8>)>,
    entries: Vec<Vec<Stored>>,
}

impl History {
    fn of(world: World) -> Self {
        let mut all = world.entries.iter().map(Stored::of);
        let mut size = 0;
        let entries = world.blocks.iter().map(|block| {
            let count = block.header.log_size - size;
            size = block.header.log_size;
            all.by_ref().take(count as usize).collect()
        });
        let entries = entries.collect();
        let blocks = world.blocks.iter();
        let blocks = blocks.map(|block| (world.certify(&block.header), block.encode()));
        History {
            blocks: blocks.collect(),
            entries,
            world: world.into(),
        }
    }

    fn genesis(&self) -> &Genesis {
        &self.world.genesis
    }

    /// The last block, changed and signed again by validators that lie, with
    /// the roots of its transactions and of the stored log made anew.
    fn forge(&mut self, change: impl FnOnce(&mut Block)) {
        let last = self.blocks.len() - 1;
        let mut block = Block::decode(&self.blocks[last].1, LIMIT).unwrap();
        let mut log = Frontier::new();
        let stored = self.entries.iter().flatten();
        stored.for_each(|entry| log.append(tally_ledger::merkle::leaf_hash(&entry.leaf)));
        block.header.log_size = log.size();
        block.header.log_root = log.root();
        change(&mut block);
        self.blocks[last] = (self.world.certify(&block.header), block.encode());
    }

    fn last(&mut self) -> &mut Vec<Stored> {
        self.entries.last_mut().unwrap()
    }

    fn roots(&self) -> Result<Headers, Divergence> {
        let mut headers = Headers::new(self.genesis()).unwrap();
        for (certificate, body) in &self.blocks {
            headers.next(certificate, body)?;
        }
        Ok(headers)
    }

    fn bytes(&self) -> Result<Bytes, Divergence> {
        let mut bytes = Bytes::new(self.genesis());
        for (height, ((_, body), entries)) in (1..).zip(self.blocks.iter().zip(&self.entries)) {
            let block = read_block(Height(height), body, LIMIT)?;
            let entries: Vec<_> = entries.iter().map(Stored::view).collect();
            bytes.block(&block, &entries)?;
        }
        Ok(bytes)
    }

    /// Execution with what `signatures` says; with the log beside, or without.
    fn replay(
        &self,
        signatures: &dyn SignatureCheck,
        with_log: bool,
    ) -> Result<Replay, Divergence> {
        let mut replay = Replay::new(self.genesis()).unwrap();
        for (height, ((_, body), entries)) in (1..).zip(self.blocks.iter().zip(&self.entries)) {
            let block = read_block(Height(height), body, LIMIT)?;
            let entries: Vec<_> = entries.iter().map(Stored::view).collect();
            let beside = Beside {
                entries: with_log.then_some(&entries),
                state: None,
            };
            replay.block(&block, signatures, &beside)?;
        }
        replay.check_balances()?;
        Ok(replay)
    }
}

fn by_admins(world: &mut World, action: Action) {
    let transaction = world.by_admins(action);
    world.run(transaction);
}

fn by_issuers(world: &mut World, action: Action) {
    let transaction = world.by_two(action);
    world.run(transaction);
}

/// Every kind of transaction, one in a block.
fn everything() -> World {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let batch = [
        first_version(debit(lease, 5)),
        first_version(debit(lease, 6)),
    ];
    let batch = world.debits_tx(G0, &batch);
    world.run(batch);
    let entry = world.log.size() - 1;
    world.debit(G0, debit(lease, 7));
    world.return_lease(G0, lease);
    let action = Action::Correct(Correct {
        entry,
        amount: Amount(3),
        expires: Time(world.now + DAY_MS),
    });
    let body = world.body(ISSUER, &[CHECKER.into()], action);
    let proof = CorrectionProof {
        leaf: list(world.entries[entry as usize].leaf()),
        path: list(world.log.inclusion(entry, world.log.size()).unwrap()),
    };
    let correct = world.sign(&body, proof.encode());
    world.run(correct);
    world.issue(0, BASE, 5 * CT);
    let surrender = world.by_holder(
        0,
        Action::Surrender(Surrender {
            account: AccountNumber(0),
            grant: GrantNumber(3),
            amount: Amount(CT),
        }),
    );
    world.run(surrender);
    let revoke = Action::Revoke(Revoke {
        account: AccountNumber(0),
        grant: GrantNumber(3),
    });
    by_issuers(&mut world, revoke);
    by_issuers(&mut world, Action::Freeze(AccountNumber(0)));
    by_issuers(&mut world, Action::Unfreeze(AccountNumber(0)));
    by_issuers(&mut world, Action::RevokeApiKey(ApiKeyNumber(0)));
    let rotate = Action::RotateHolderKey(AccountNumber(0), stray_key(77));
    by_issuers(&mut world, rotate);
    let role = SetRole {
        person: Person(9),
        key: stray_key(78),
        roles: Roles::ISSUER,
    };
    by_admins(&mut world, Action::SetRole(role));
    let class = SetClass {
        class: ClassNumber(2),
        rules: rules("third"),
    };
    by_admins(&mut world, Action::SetClass(class));
    by_admins(&mut world, Action::SetPriceTable(prices(2, 2)));
    let mut parameters = *world.state.parameters();
    parameters.heartbeat_ms = 7_000;
    by_admins(&mut world, Action::SetParameters(parameters));
    let register = RegisterGateway {
        key: stray_key(79),
        caps: caps(CT),
    };
    by_admins(&mut world, Action::RegisterGateway(register));
    let set = SetGatewayKey {
        gateway: GatewayNumber(2),
        key: stray_key(80),
        caps: caps(CT),
    };
    by_admins(&mut world, Action::SetGatewayKey(set));
    let rates = Rates {
        fee_unit: Amount(2_000),
        key: Rate {
            requests: 60,
            tokens: 10_000,
        },
        account: Rate::NONE,
        classes: list(vec![]),
    };
    by_admins(&mut world, Action::SetRates(rates));
    by_admins(&mut world, Action::SuspendGateway(G1));
    // A heartbeat: no entries.
    world.block(&[]);
    let mut tags: Vec<u32> = (world.blocks.iter().flat_map(|block| &block.transactions))
        .map(|transaction| {
            let action = Body::decode(&transaction.body).unwrap().action;
            u32::from_le_bytes(codec::encode(&action)[..4].try_into().unwrap())
        })
        .collect();
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags, (0..22).collect::<Vec<_>>(), "every kind is there");
    world
}

/// Four transactions in the last block; the last of them has 20 debits.
fn busy() -> History {
    let mut world = World::ready();
    let (lease, ..) = world.lease(G0, |_| ());
    let (other, ..) = world.lease(G1, |_| ());
    let open = open_account(1);
    let open = world.by_issuer(open);
    let grant = issue_one(0, PRIORITY, CT, world.time(), Time(world.now + DAY_MS));
    let grant = world.by_two(grant);
    let small = world.debits_tx(G1, &[debit(other, 3)]);
    let mut twenty: Vec<_> = (1..=20).map(|input| debit(lease, input)).collect();
    twenty[17].fixed.flags = Flags::ESTIMATED;
    let twenty = world.debits_tx(G0, &twenty);
    world.block(&[open, grant, small, twenty]);
    History::of(world)
}

#[test]
fn a_sound_history_is_accepted_at_each_level() {
    let world = everything();
    let (last, size, root) = (world.state.height(), world.log.size(), world.log.root());
    let (state_root, id) = (world.state.state_root(), world.state.block_id());
    let history = History::of(world);
    let headers = history.roots().unwrap();
    assert_eq!((headers.height(), headers.id()), (last, id));
    assert_eq!(headers.precommits(), 3 * last.0);
    let bytes = history.bytes().unwrap();
    assert_eq!((bytes.log().size(), bytes.log().root()), (size, root));
    assert_eq!(bytes.receipts(), 3);
    for with_log in [false, true] {
        let replay = history.replay(&Strict, with_log).unwrap();
        assert_eq!(replay.state().state_root(), state_root);
        assert_eq!(replay.entries(), size);
    }
}

/// A stored body's header, whatever the rest is.
fn header_of(body: &[u8]) -> Header {
    Header::decode(&body[..HEADER_BYTES]).unwrap()
}

type HeaderChange = fn(&mut Header);

#[test]
fn a_header_that_does_not_follow_is_named() {
    let history = History::of(everything());
    let at = history.blocks.len() - 1;
    let of = |change: &dyn Fn(&mut Header)| {
        let mut other = history.clone();
        let mut header = header_of(&other.blocks[at].1);
        change(&mut header);
        // Signed by all validators: only the header itself is wrong.
        let certificate = other.world.certify(&header);
        other.blocks[at].1[..HEADER_BYTES].copy_from_slice(&header.encode());
        other.blocks[at].0 = certificate;
        let wrong = other.roots().unwrap_err();
        assert_eq!(wrong.height.0, at as u64 + 1);
        wrong.field.to_string()
    };
    let changes: [(&str, HeaderChange); 10] = [
        ("version", |h| h.version = 2),
        ("chain", |h| h.chain.0.0[0] ^= 1),
        ("height", |h| h.height.0 += 1),
        ("previous block", |h| h.previous.0[31] ^= 1),
        ("next validators", |h| h.next_validators.0[5] ^= 1),
        ("time", |h| h.time.0 -= 1000),
        ("proposer", |h| h.proposer = 3),
        ("log size", |h| h.log_size -= 1),
        // The block has no entries, so its log is the one before.
        ("log root", |h| h.log_root.0[0] ^= 1),
        ("height", |h| h.height.0 = 1),
    ];
    for (field, change) in changes {
        assert_eq!(of(&change), field);
    }
}

#[test]
fn a_certificate_that_is_none_is_named() {
    let history = History::of(everything());
    let of = |change: &dyn Fn(&mut Certificate)| {
        let mut other = history.clone();
        change(&mut other.blocks[3].0);
        let wrong = other.roots().unwrap_err();
        assert_eq!(
            (wrong.height, wrong.field.to_string()),
            (Height(4), "certificate".into())
        );
        wrong.found
    };
    assert_eq!(
        of(&|c| c.precommits.retain(|(i, _)| *i > 0)),
        "2 precommits, 3 needed"
    );
    assert_eq!(
        of(&|c| c.round = 1),
        "bad precommit signature of validator 0"
    );
    let other = history.blocks[4].0.precommits[1];
    let foreign = |c: &mut Certificate| c.precommits[1] = other;
    assert_eq!(of(&foreign), "bad precommit signature of validator 1");
    assert_eq!(
        of(&|c| c.precommits.swap(0, 1)),
        "precommits are not in ascending order of validator"
    );
    // A missing block is a header that does not follow.
    let mut gap = history.clone();
    gap.blocks.remove(3);
    let wrong = gap.roots().unwrap_err();
    assert_eq!(
        (wrong.height, wrong.field.to_string()),
        (Height(4), "height".into())
    );
}

/// What level `bytes` names of a history whose last block was forged.
fn bytes_names(change: impl FnOnce(&mut History)) -> String {
    let mut history = busy();
    change(&mut history);
    history.roots().expect("the validators signed all of it");
    history.bytes().unwrap_err().to_string()
}

/// The same of level `replay` with the log beside.
fn replay_names(change: impl FnOnce(&mut History)) -> String {
    let mut history = busy();
    change(&mut history);
    history.replay(&Strict, true).unwrap_err().to_string()
}

/// Where the twenty debits' receipts begin among the block's entries.
const TWENTY: usize = 3;

#[test]
fn bytes_that_do_not_fit_are_named() {
    let named = bytes_names(|history| {
        let last = history.blocks.len() - 1;
        history.blocks[last].1[HEADER_BYTES + 30] ^= 1;
    });
    assert!(named.contains(": transactions root: expected "), "{named}");

    let rooted = |block: &mut Block| {
        let mut root = Frontier::new();
        for transaction in &block.transactions {
            root.append(tally_ledger::merkle::leaf_hash(&transaction.leaf()));
        }
        block.header.transactions_root = root.root();
    };
    let named = bytes_names(|history| {
        history.forge(|block| {
            block.transactions[3].payload[170] ^= 1;
            rooted(block);
        });
    });
    assert!(named.contains("transaction 3 ("), "{named}");
    assert!(named.contains("): root of the batch: expected "), "{named}");
    let named = bytes_names(|history| {
        history.forge(|block| {
            block.transactions[3].payload.truncate(166 * 19);
            rooted(block);
        });
    });
    assert!(
        named.contains(": number of debits: expected 20, found 3154 bytes"),
        "{named}"
    );
    let named = bytes_names(|history| {
        history.forge(|block| {
            block.transactions[0].body.push(0);
            rooted(block);
        });
    });
    assert!(
        named.contains("body of the transaction: expected a body"),
        "{named}"
    );

    // A receipt's leaf is made of the block's debit, whatever the log says.
    for (at, what) in [
        (2, "flags"),
        (4, "height"),
        (12, "account"),
        (16, "account's entry number"),
        (20, "gateway"),
        (24, "journal"),
        (28, "number"),
        (36, "class"),
        (54, "detail's hash"),
    ] {
        let named = bytes_names(|history| {
            history.last()[TWENTY + 17].leaf[at] ^= 1;
            history.forge(|_| ());
        });
        let wanted = format!("{what} of debit 17 of transaction 3: expected ");
        assert!(named.contains(&wanted), "{named}");
    }
    // What only execution knows is bound by the root, and by its bounds.
    let named = bytes_names(|history| {
        let signed = history.blocks.last().unwrap().clone();
        history.last()[TWENTY + 17].leaf[38] ^= 64;
        *history.blocks.last_mut().unwrap() = signed;
    });
    assert!(named.contains(": log root: expected "), "{named}");
    let named = bytes_names(|history| {
        history.last()[TWENTY + 17].leaf[46] ^= 64;
        history.forge(|_| ());
    });
    let wanted =
        "charged amount of debit 17 of transaction 3: expected at most 0.000018, found 0.000082";
    assert!(named.ends_with(wanted), "{named}");
}

#[test]
fn entries_that_are_missing_too_many_or_others_are_named() {
    let named = bytes_names(|history| {
        history.last().pop();
        history.forge(|_| ());
    });
    let wanted = "receipt of debit 19 of transaction 3: expected one, found none";
    assert!(named.ends_with(wanted), "{named}");
    let named = bytes_names(|history| {
        let again = history.last()[TWENTY].clone();
        history.last().push(again);
        history.forge(|_| ());
    });
    assert!(
        named.ends_with(": expected no further receipt, found a receipt"),
        "{named}"
    );
    // Fewer than the header says, each of them right.
    let named = bytes_names(|history| {
        history.forge(|block| block.header.log_size += 1);
    });
    assert!(named.contains(": log size: expected "), "{named}");
    // The event behind a leaf.
    let named = bytes_names(|history| {
        history.last()[0].event.as_mut().unwrap()[40] ^= 1;
    });
    assert!(named.contains("leaf of entry "), "{named}");
    let changed = |change: &dyn Fn(&mut Event)| {
        bytes_names(|history| {
            let first = history.world.log.size() as usize - 23;
            let Entry::Event(mut leaf, mut event) = history.world.entries[first].clone() else {
                panic!("the first entry opens an account");
            };
            change(&mut event);
            leaf.event = event.hash();
            history.last()[0] = Stored::of(&Entry::Event(leaf, event));
            history.forge(|_| ());
        })
    };
    let named = changed(&|event| {
        let Event::AccountOpened { transaction, .. } = event else {
            panic!("{event:?}");
        };
        *transaction = Hash([1; 32]);
    });
    assert!(named.contains(": transaction of entry "), "{named}");
    for (at, what) in [
        (2, "height"),
        (10, "account"),
        (14, "account's entry number"),
        (18, "control number"),
    ] {
        let named = bytes_names(|history| {
            history.last()[0].leaf[at] ^= 64;
            history.forge(|_| ());
        });
        assert!(named.contains(&format!(": {what} of entry ")), "{named}");
    }
    let mut other = busy();
    other.entries[0][0] = other.entries[0][1].clone();
    let wrong = other.bytes().unwrap_err();
    assert_eq!(
        (wrong.entry, wrong.field.to_string()),
        (Some(0), "event of entry 0".into())
    );
    let wrong = other.replay(&Strict, true).unwrap_err();
    assert_eq!(
        (wrong.entry, wrong.field.to_string()),
        (Some(0), "event of entry 0".into())
    );
}

#[test]
fn execution_names_what_the_certified_log_has_otherwise() {
    // A quorum signed another cost: nothing but execution can tell.
    let lie = |history: &mut History| {
        history.last()[TWENTY + 17].leaf[38] ^= 64;
        history.forge(|_| ());
    };
    let mut history = busy();
    lie(&mut history);
    history.bytes().unwrap();
    let wrong = history.replay(&Strict, true).unwrap_err();
    let first = history.world.log.size() - 23;
    assert_eq!(wrong.height, history.world.state.height());
    assert_eq!(wrong.entry, Some(first + TWENTY as u64 + 17));
    assert_eq!(wrong.transaction.as_ref().unwrap().0, 3);
    assert_eq!(wrong.field.to_string(), "cost of debit 17 of transaction 3");
    assert_eq!(
        (&wrong.expected[..], &wrong.found[..]),
        ("0.000018", "0.000082")
    );
    // Without the log the root is all that there is to compare.
    let wrong = history.replay(&Strict, false).unwrap_err();
    assert_eq!(
        (wrong.entry, wrong.field.to_string()),
        (None, "log root".into())
    );

    let named = replay_names(|history| {
        history.last().remove(1);
        history.forge(|_| ());
    });
    assert!(named.contains("transaction 1 ("), "{named}");
    assert!(named.contains(": kind of entry "), "{named}");
    let named = replay_names(|history| {
        history.last().pop();
        history.forge(|_| ());
    });
    assert!(
        named.ends_with("kind of debit 19 of transaction 3: expected a receipt, found no entry"),
        "{named}"
    );
    let named = replay_names(|history| {
        let again = history.last()[0].clone();
        history.last().push(again);
        history.forge(|_| ());
    });
    assert!(
        named.contains(": expected no entry, found AccountOpened"),
        "{named}"
    );
    // The roots are right, and the files beside have something else.
    let named = replay_names(|history| history.last()[TWENTY + 2].leaf[12] ^= 1);
    assert!(
        named.ends_with("account of debit 2 of transaction 3: expected 0, found 1"),
        "{named}"
    );
    let named = replay_names(|history| {
        let Some(event) = &mut history.last()[0].event else {
            panic!("the first entry opens an account");
        };
        event.push(0);
    });
    assert!(named.contains("leaf of entry "), "{named}");
}

#[test]
fn execution_names_refusals_and_roots() {
    let named = replay_names(|history| {
        history.forge(|block| block.header.state_root.0[7] ^= 1);
    });
    assert!(named.contains(": state root: expected "), "{named}");
    let named = replay_names(|history| {
        history.forge(|block| block.transactions.swap(0, 1));
    });
    assert!(named.contains(": transactions root: expected "), "{named}");
    let named = replay_names(|history| {
        history.forge(|block| drop(block.transactions.remove(3)));
    });
    assert!(named.contains(": transactions root: expected "), "{named}");
    let named = replay_names(|history| {
        history.forge(|block| block.transactions.push(block.transactions[3].clone()));
    });
    assert!(named.contains("transaction 4 ("), "{named}");
    assert!(
        named.contains("): verdict on the transaction: expected accepted, found refused: "),
        "{named}"
    );
    let named = replay_names(|history| {
        history.forge(|block| {
            let many = block.transactions[3].clone();
            block.transactions.extend(vec![many; 1_100]);
        });
    });
    assert!(named.contains(": verdict on the transaction: "), "{named}");
    // The rules of a block come before what is in it.
    for (field, change) in [
        ("time", (|b| b.header.time = Time(1)) as fn(&mut Block)),
        ("previous block", |b| b.header.previous = Hash::ZERO),
    ] {
        let named = replay_names(|history| history.forge(change));
        assert!(
            named.contains(&format!(": {field}: expected what follows block ")),
            "{named}"
        );
    }
}

#[test]
fn signatures_of_transactions_are_checked_or_trusted() {
    let mut history = busy();
    history.forge(|block| {
        let foreign = block.transactions[3].signatures[0];
        block.transactions[2].signatures[0] = foreign;
        let mut root = Frontier::new();
        for transaction in &block.transactions {
            root.append(tally_ledger::merkle::leaf_hash(&transaction.leaf()));
        }
        block.header.transactions_root = root.root();
    });
    let wrong = history.replay(&Strict, true).unwrap_err();
    assert_eq!(wrong.transaction.as_ref().unwrap().0, 2);
    assert!(wrong.found.contains("refused: "), "{wrong}");
    history.replay(&Trusted, true).unwrap();
}

#[test]
fn a_snapshot_is_begun_with_only_if_its_header_is_the_certified_one() {
    let world = everything();
    let half = world.blocks.len() / 2;
    let mut state = State::genesis(&world.genesis).unwrap();
    let mut replay = Replay::new(&world.genesis).unwrap();
    for block in &world.blocks[..half] {
        let execution = tally_ledger::execute::check(&state, block, &Strict).unwrap();
        state.commit(execution);
        replay
            .block(
                &StoredBlock::Whole(block.clone()),
                &Strict,
                &Beside::default(),
            )
            .unwrap();
    }
    let (genesis, snapshot) = (&world.genesis, state.snapshot());
    let header = world.blocks[half - 1].header;
    let mut from = Replay::from_snapshot(genesis, &snapshot, &header).unwrap();
    for block in &world.blocks[half..] {
        from.block(
            &StoredBlock::Whole(block.clone()),
            &Strict,
            &Beside::default(),
        )
        .unwrap();
        replay
            .block(
                &StoredBlock::Whole(block.clone()),
                &Strict,
                &Beside::default(),
            )
            .unwrap();
    }
    from.check_balances().unwrap();
    assert_eq!(from.state().state_root(), replay.state().state_root());
    assert_eq!(from.entries() + state.log().size(), replay.entries());

    let field = |snapshot: &[u8], header: &Header| {
        let wrong = Replay::from_snapshot(genesis, snapshot, header).unwrap_err();
        wrong.field.to_string()
    };
    let other = world.blocks[half].header;
    assert_eq!(field(&snapshot, &other), "snapshot's block");
    let mut same_height = header;
    same_height.state_root.0[0] ^= 1;
    assert_eq!(field(&snapshot, &same_height), "snapshot's block");
    let mut damaged = snapshot.clone();
    damaged[300] ^= 1;
    assert_eq!(field(&damaged, &header), "snapshot");
}

/// Every bit of a block's stored bytes, and of its entries', is bound. Which
/// level must reject it is said for each range of bits.
#[test]
fn no_stored_bit_can_be_another() {
    let history = History::of(everything());
    let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    let mut headers = Headers::new(history.genesis()).unwrap();
    let mut bytes = Bytes::new(history.genesis());
    let mut replay = Replay::new(history.genesis()).unwrap();
    for ((certificate, body), entries) in history.blocks.iter().zip(&history.entries) {
        let height = Height(headers.height().0 + 1);
        // The header and the certificate: level `roots`.
        for bit in 0..HEADER_BYTES * 8 {
            let mut other = body.clone();
            flip(&mut other, bit);
            assert!(
                headers.clone().next(certificate, &other).is_err(),
                "{height}, bit {bit}"
            );
        }
        let encoded = codec::encode(certificate);
        for bit in 0..encoded.len() * 8 {
            let mut other = encoded.clone();
            flip(&mut other, bit);
            if let Ok(other) = codec::decode::<Certificate>(&other, other.len()) {
                assert!(
                    headers.clone().next(&other, body).is_err(),
                    "{height}, bit {bit}"
                );
            }
        }
        let header = headers.next(certificate, body).unwrap();
        // The transactions: levels `bytes` and `replay`, each alone.
        let stored: Vec<_> = entries.iter().map(Stored::view).collect();
        for bit in HEADER_BYTES * 8..body.len() * 8 {
            let mut other = body.clone();
            flip(&mut other, bit);
            let Ok(block) = read_block(height, &other, LIMIT) else {
                continue;
            };
            assert_eq!(
                block.block().header,
                header,
                "the certified header leads the body"
            );
            assert!(
                bytes.clone().block(&block, &stored).is_err(),
                "{height}, bit {bit}"
            );
            let executed = replay.block(&block, &Trusted, &Beside::default());
            assert!(executed.is_err(), "{height}, bit {bit}");
        }
        // The entries: both levels, if the log is beside.
        let block = read_block(height, body, LIMIT).unwrap();
        for (at, entry) in entries.iter().enumerate() {
            let (leaf, event) = (entry.leaf.len(), entry.event.as_ref().map_or(0, Vec::len));
            for bit in 0..(leaf + event) * 8 {
                let mut other = entry.clone();
                match bit.checked_sub(leaf * 8) {
                    None => flip(&mut other.leaf, bit),
                    Some(bit) => flip(other.event.as_mut().unwrap(), bit),
                }
                let mut stored = stored.clone();
                stored[at] = other.view();
                assert!(
                    bytes.clone().block(&block, &stored).is_err(),
                    "entry {at}, bit {bit}"
                );
                // Execution compares whole entries: one bit of each byte will do.
                if bit % 8 == bit / 8 % 8 {
                    let beside = Beside {
                        entries: Some(&stored),
                        state: None,
                    };
                    let executed = replay.block(&block, &Trusted, &beside);
                    assert!(executed.is_err(), "entry {at}, bit {bit}");
                }
            }
        }
        bytes.block(&block, &stored).unwrap();
        replay.block(&block, &Strict, &Beside::default()).unwrap();
    }
}

/// The same history after every second detail was dropped.
fn redacted() -> History {
    let mut history = History::of(everything());
    let (mut first, mut dropped) = (0, 0);
    for (block, (_, body)) in history.world.blocks.iter().zip(&mut history.blocks) {
        let entries = &history.world.entries[first..block.header.log_size as usize];
        first = block.header.log_size as usize;
        let receipts = entries.iter().filter_map(|entry| match entry {
            Entry::Receipt(receipt) => Some(receipt),
            Entry::Event(..) => None,
        });
        let left = StoredBlock::Whole(block.clone())
            .redact(receipts, |receipt| receipt.position.number.0 % 2 == 1)
            .unwrap();
        if let Some((left, count)) = left {
            *body = left.encode();
            dropped += count;
        }
    }
    assert!(dropped > 1);
    history
}

/// Changes the first block that lost details.
fn change_redacted(history: &mut History, change: impl FnOnce(&mut RedactedBlock)) -> usize {
    let stored = history.blocks.iter_mut();
    let (at, body) = stored
        .map(|(_, body)| body)
        .enumerate()
        .find(|(_, body)| body[0] == REDACTED_VERSION)
        .unwrap();
    let mut block = RedactedBlock::decode(body, LIMIT).unwrap();
    change(&mut block);
    *body = block.encode();
    at
}

/// What both levels say of it.
fn both(history: &History) -> [Divergence; 2] {
    history.roots().unwrap();
    [
        history.bytes().unwrap_err(),
        history.replay(&Trusted, false).unwrap_err(),
    ]
}

#[test]
fn a_history_that_lost_details_is_verified_but_for_what_is_gone() {
    let history = redacted();
    history.roots().unwrap();
    history.bytes().unwrap();
    history.replay(&Strict, true).unwrap();
}

#[test]
fn what_is_left_of_details_cannot_be_another() {
    let change = |change: fn(&mut Dropped)| {
        let mut history = redacted();
        change_redacted(&mut history, |block| {
            let mut dropped = block.batches[0].dropped.to_vec();
            change(&mut dropped[0]);
            block.batches[0].dropped = list(dropped);
        });
        both(&history)
    };
    let [bytes, _] = change(|left| left.cost.0 += 1);
    assert_eq!(bytes.field.to_string(), "cost of debit 0 of transaction 0");
    let [bytes, _] = change(|left| left.class_rule ^= true);
    assert!(
        bytes.field.to_string().starts_with("class rule of"),
        "{bytes}"
    );
    let [bytes, _] = change(|left| left.detail = Hash([7; 32]));
    assert_eq!(bytes.field, Field::BatchRoot);
    // No bit of such a block, either.
    let whole = redacted();
    let mut history = whole.clone();
    let at = change_redacted(&mut history, |_| ());
    let (mut bytes, mut replay) = (
        Bytes::new(whole.genesis()),
        Replay::new(whole.genesis()).unwrap(),
    );
    let stored = |at: usize| {
        whole.entries[at]
            .iter()
            .map(Stored::view)
            .collect::<Vec<_>>()
    };
    for before in 0..at {
        let height = Height(before as u64 + 1);
        let block = read_block(height, &whole.blocks[before].1, LIMIT).unwrap();
        bytes.block(&block, &stored(before)).unwrap();
        replay.block(&block, &Trusted, &Beside::default()).unwrap();
    }
    let (height, body) = (Height(at as u64 + 1), &whole.blocks[at].1);
    for bit in (1 + HEADER_BYTES) * 8..body.len() * 8 {
        let mut other = body.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let Ok(block) = read_block(height, &other, LIMIT) else {
            continue;
        };
        assert!(
            bytes.clone().block(&block, &stored(at)).is_err(),
            "bit {bit}"
        );
        let executed = replay.block(&block, &Trusted, &Beside::default());
        assert!(executed.is_err(), "bit {bit}");
    }
}

#[test]
fn only_a_batch_can_lose_details() {
    let mut history = redacted();
    let mut taken = None;
    change_redacted(&mut history, |block| taken = Some(block.batches[0].clone()));
    let mut batch = taken.unwrap();
    // The first transaction of all, of another kind, pretends to have lost some.
    let block = Block::decode(&history.blocks[0].1, LIMIT).unwrap();
    batch.index = 0;
    batch.payload = Context::Payload.hash(&block.transactions[0].payload);
    let batches = vec![batch];
    history.blocks[0].1 = RedactedBlock { block, batches }.encode();
    let [bytes, _] = both(&history);
    assert_eq!(bytes.field, Field::TransactionBody);
}
