//! `tally verify` over what a node has stored, run as an auditor runs it: over
//! a home in use, a copy, and copies in which something was changed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde_json::Value;
use tally_ledger::{
    block::{Block, Certificate, vote_bytes},
    crypto::Domain,
    ids::Height,
    merkle::{Frontier, leaf_hash},
};
use tally_node::{
    Engine,
    storage::{BlockFiles, BlockReader, ReadOnlyDisk, RealDisk},
    verify::{Level, Sources, Task},
};

use crate::{
    cli_common::{Ran, run},
    net::{CT, Net, Running, by_debit},
};

/// Bytes of a slot of the log's files.
const SLOT: usize = 88;

/// Seven blocks with an account, a lease and 25 debits, and the node.
async fn chain() -> (Net, Running) {
    let net = Net::new(1);
    let node = net.start(0, Engine::Solo).await;
    net.prepare(&node, 10 * CT).await;
    node.finalise(net.debits(1, 20, 1, 0, 1000)).await;
    node.finalise(net.debits(21, 5, 1, 0, 1000)).await;
    (net, node)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Every file below a folder, with its length and when it was changed.
fn files(folder: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let data = entry.metadata().unwrap();
        match data.is_dir() {
            true => all.extend(files(&entry.path())),
            false => all.push((entry.path(), data.len(), data.modified().unwrap())),
        }
    }
    all.sort();
    all
}

fn verify(net: &Net, line: &str) -> Ran {
    run(net.dir.path(), &format!("--format json verify {line}"))
}

/// The result of a verification that found something wrong.
fn wrong(net: &Net, line: &str) -> Value {
    let ran = verify(net, line);
    assert_eq!(ran.code, 7, "{line}: {}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn notes(value: &Value) -> String {
    value["notes"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_verified_in_place_and_nothing_is_touched() {
    let (net, node) = chain().await;
    let running = verify(&net, "--home v0").json();
    assert_eq!(running["verified"], "yes", "{running}");
    assert!(running["height"].as_u64().unwrap() >= 7);
    // The same blocks from the node itself.
    let grpc = net.homes[0].config().unwrap().listen.grpc;
    let asked = verify(&net, &format!("--genesis v0/genesis.json --node {grpc}")).json();
    assert_eq!(asked["verified"], "yes", "{asked}");
    assert!(asked["entries"].as_u64() >= running["entries"].as_u64());
    verify(&net, "--genesis v0/genesis.json --node 127.0.0.1:1").fails(6);
    let receipt = node.receipt(by_debit(22)).await.unwrap().file;
    fs::write(net.dir.path().join("22.receipt"), receipt).unwrap();
    node.stop().await;

    let data = net.homes[0].data();
    let before = files(&data);
    for level in ["roots", "bytes", "replay"] {
        let value = verify(&net, &format!("--home v0 --level {level}")).json();
        assert_eq!(
            (&value["verified"], &value["level"]),
            (&"yes".into(), &level.into())
        );
        assert_eq!(value["validators' signatures"], value["height"]);
        assert_eq!(notes(&value), "[]");
        if level != "roots" {
            assert_eq!(value["entries checked"], value["entries"]);
            assert_eq!(value["stored log compared to block"], value["height"]);
            assert_eq!(value["transactions"], 7);
        }
    }
    let value = verify(&net, "--home v0").json();
    assert_eq!(
        (&value["level"], &value["transactions' signatures"]),
        (&"replay".into(), &"checked".into())
    );
    let value = verify(&net, "--home v0 --trust-signatures").json();
    assert_eq!(
        value["transactions' signatures"],
        "trusted: the quorum checked them"
    );
    let snapshot = "v0/data/snapshots/snapshot-00000000000000000005";
    let value = verify(&net, &format!("--home v0 --from-snapshot {snapshot}")).json();
    assert_eq!(value["bodies from block"], 6);
    assert!(value["entries checked"].as_u64() < value["entries"].as_u64());
    assert_eq!(files(&data), before, "nothing was made, cut or written");

    // A copy without a lock, of the block files alone, is enough to replay.
    let elsewhere = net.dir.path().join("elsewhere");
    copy(&data.join("blocks"), &elsewhere);
    let only = "--genesis v0/genesis.json --blocks elsewhere";
    let value = verify(&net, only).json();
    assert_eq!(value["stored log compared to block"], Value::Null);
    let error = verify(&net, &format!("{only} --level bytes")).fails(1);
    assert!(error.contains("--log"), "{error}");
    verify(&net, &format!("{only} --level bytes --log v0/data/log")).ok();
    verify(&net, &format!("{only} --level roots --trust-signatures")).fails(2);
    verify(&net, "--blocks elsewhere").fails(2);
    verify(&net, "--home v1").fails(1);

    let (height, block) = (
        value["height"].as_u64().unwrap(),
        value["block"].as_str().unwrap(),
    );
    let found = verify(
        &net,
        &format!("--home v0 --expect {height}:{block} --proof 22.receipt"),
    )
    .json();
    assert_eq!(found["expected blocks found"], 2);
    let other = block.replace(&block[..4], "0000");
    let named = wrong(&net, &format!("--home v0 --expect {height}:{other}"));
    assert_eq!(
        (&named["field"], &named["height"]),
        (&"block id".into(), &height.into())
    );
    let named = wrong(&net, &format!("--home v0 --expect {}:{block}", height + 1));
    assert_eq!(named["found"], format!("blocks 1 to {height}"));
    // Another chain's receipt is on no block of this one.
    let (foreign, other) = chain().await;
    other.stop().await;
    let error = verify(
        &foreign,
        &format!(
            "--genesis {} --home v0",
            net.homes[0].genesis_file().display()
        ),
    );
    assert!(error.fails(7).contains("belongs to another chain"));
    let named = wrong(
        &foreign,
        &format!("--home v0 --proof {}/22.receipt", net.dir.path().display()),
    );
    assert_eq!(named["field"], "block id");
}

/// A copy of the stopped node's home in which `change` changed something.
fn changed(net: &Net, name: &str, change: impl FnOnce(&Path)) -> String {
    let home = net.dir.path().join(name);
    let _ = fs::remove_dir_all(&home);
    copy(net.homes[0].folder(), &home);
    change(&home.join("data"));
    format!("--home {name}")
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn segment(data: &Path) -> PathBuf {
    data.join("blocks/blocks-00000000000000000001")
}

/// Changes a slot and makes its check anew.
fn edit_slot(data: &Path, index: usize, change: impl FnOnce(&mut [u8])) {
    edit(&data.join("log/leaves"), |bytes| {
        let slot = &mut bytes[index * SLOT..(index + 1) * SLOT];
        change(slot);
        slot[SLOT - 1] = crc32c::crc32c(&slot[..SLOT - 1]) as u8;
    });
}

/// Writes the block files again with one block changed, which the validator
/// signs.
fn forge(net: &Net, data: &Path, height: u64, change: impl Fn(&mut Block, &Path)) {
    let folder = data.join("blocks");
    let chain = net.chain();
    let (reader, last, _) = BlockReader::open(&ReadOnlyDisk, &folder, &chain).unwrap();
    let (disk, to) = (Arc::new(RealDisk), data.join("forged"));
    let (mut files, _) = BlockFiles::open(disk, &to, chain, 1 << 20).unwrap();
    for at in 1..=last.0.min(height) {
        let record = reader.read(Height(at)).unwrap().unwrap();
        if at < height {
            files
                .append(Height(at), &record.certificate, &record.body)
                .unwrap();
            continue;
        }
        let mut block = Block::decode(&record.body, 1 << 24).unwrap();
        change(&mut block, data);
        let vote = vote_bytes(Height(at), 0, Some(&block.header.id()));
        let key = net.homes[0].keys().unwrap().consensus;
        let certificate = Certificate {
            round: 0,
            precommits: crate::net::list(vec![(0, key.sign(Domain::Precommit, &chain, &vote))]),
        };
        files
            .append(Height(at), &certificate, &block.encode())
            .unwrap();
    }
    drop(files);
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(to, folder).unwrap();
}

/// The log root over the first `size` stored entries.
fn stored_root(data: &Path, size: u64) -> tally_ledger::hash::Hash {
    let bytes = fs::read(data.join("log/leaves")).unwrap();
    let mut log = Frontier::new();
    for slot in bytes.chunks_exact(SLOT).take(size as usize) {
        let length = if slot[0] == 1 { 86 } else { 58 };
        log.append(leaf_hash(&slot[1..=length]));
    }
    log.root()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_on_disk_is_named() {
    let (net, node) = chain().await;
    let first = node.receipt(by_debit(1)).await.unwrap().entry.unwrap();
    let (first, height) = (first.index as usize, first.height);
    node.stop().await;

    // A byte of a block that is not the last: its checksum tells.
    let home = changed(&net, "byte", |data| {
        edit(&segment(data), |bytes| bytes[300] ^= 1)
    });
    let named = wrong(&net, &format!("{home} --level roots"));
    assert_eq!(
        (&named["height"], &named["field"]),
        (&1.into(), &"stored record".into())
    );
    assert!(
        named["expected"]
            .as_str()
            .unwrap()
            .contains("blocks-00000000000000000001"),
        "{named}"
    );

    // Whole records that say something else.
    let forged = |name: &str, change: fn(&mut Block, &Path)| {
        changed(&net, name, |data| forge(&net, data, height, change))
    };
    let home = forged("header", |block, _| block.header.previous.0[0] ^= 1);
    let named = wrong(&net, &format!("{home} --level roots"));
    assert_eq!(
        (&named["height"], &named["field"]),
        (&height.into(), &"previous block".into())
    );
    let home = forged("state", |block, _| block.header.state_root.0[0] ^= 1);
    verify(&net, &format!("{home} --level bytes")).ok();
    let named = wrong(&net, &home);
    assert_eq!(
        (&named["height"], &named["field"]),
        (&height.into(), &"state root".into())
    );
    let home = forged("payload", |block, _| block.transactions[0].payload[40] ^= 1);
    let named = wrong(&net, &format!("{home} --level bytes"));
    assert_eq!(named["field"], "transactions root");
    verify(&net, &format!("{home} --level roots")).ok();

    // A validator that signs another cost than the price: execution tells which.
    let home = changed(&net, "cost", |data| {
        edit_slot(data, first + 17, |slot| slot[1 + 38] ^= 1);
        forge(&net, data, height, |block, data| {
            block.header.log_root = stored_root(data, block.header.log_size);
        });
    });
    verify(&net, &format!("{home} --level bytes")).ok();
    let named = wrong(&net, &home);
    assert_eq!(named["field"], "cost of debit 17 of transaction 0");
    assert_eq!(
        (&named["expected"], &named["found"]),
        (&"0.001000".into(), &"0.001001".into())
    );
    assert_eq!(
        (&named["height"], &named["entry"]),
        (&height.into(), &(first + 17).into())
    );
    let table = run(net.dir.path(), &format!("verify {home}"));
    assert!(table.out.contains("NO: block "), "{}", table.out);

    // The log's files alone.
    let slot = |name: &str, change: fn(&mut [u8])| {
        changed(&net, name, |data| edit_slot(data, first + 17, change))
    };
    let home = slot("leaf", |slot| slot[1 + 38] ^= 1);
    assert_eq!(
        wrong(&net, &format!("{home} --level bytes"))["field"],
        "log root"
    );
    assert_eq!(
        wrong(&net, &home)["field"],
        "cost of debit 17 of transaction 0"
    );
    let home = slot("account", |slot| slot[1 + 12] ^= 1);
    let named = wrong(&net, &format!("{home} --level bytes"));
    assert_eq!(named["field"], "account of debit 17 of transaction 0");
    let home = slot("kind", |slot| slot[0] = 3);
    let named = wrong(&net, &format!("{home} --level bytes"));
    assert_eq!(
        (&named["field"], &named["entry"]),
        (&"stored record".into(), &(first + 17).into())
    );
    let home = changed(&net, "unused", |data| {
        edit_slot(data, 1, |slot| slot[80] = 1)
    });
    let named = wrong(&net, &format!("{home} --level bytes"));
    assert_eq!(
        (&named["field"], &named["entry"]),
        (&"stored record".into(), &1.into())
    );
    let home = changed(&net, "event", |data| {
        edit(&data.join("log/events"), |bytes| bytes[10] ^= 1);
    });
    let named = wrong(&net, &format!("{home} --level bytes"));
    assert_eq!(
        (&named["field"], &named["entry"]),
        (&"leaf of entry 0".into(), &0.into())
    );

    // A snapshot that is none, or of another block.
    let home = changed(&net, "snapshot", |data| {
        let snapshot = data.join("snapshots/snapshot-00000000000000000005");
        edit(&snapshot, |bytes| bytes[200] ^= 1);
    });
    let line =
        format!("{home} --from-snapshot snapshot/data/snapshots/snapshot-00000000000000000005");
    assert_eq!(wrong(&net, &line)["field"], "snapshot");
    let home = changed(&net, "other", |data| {
        forge(&net, data, 5, |block, _| block.header.state_root.0[0] ^= 1);
    });
    let line = format!("{home} --from-snapshot v0/data/snapshots/snapshot-00000000000000000005");
    assert_eq!(wrong(&net, &line)["field"], "snapshot's block");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_early_is_taken_as_the_end_and_said() {
    let (net, node) = chain().await;
    // Heartbeats behind it have no entries.
    let with_entries = node
        .receipt(by_debit(25))
        .await
        .unwrap()
        .entry
        .unwrap()
        .height;
    node.stop().await;
    let whole = verify(&net, "--home v0").json()["height"].as_u64().unwrap();

    // As a copy of a running node has it: half a record at the end.
    let home = changed(&net, "torn", |data| {
        edit(&segment(data), |bytes| bytes.truncate(bytes.len() - 7));
    });
    let before = files(&net.dir.path().join("torn"));
    for level in ["roots", "bytes", "replay"] {
        let value = verify(&net, &format!("{home} --level {level}")).json();
        assert_eq!(value["height"].as_u64(), Some(whole - 1));
        assert!(
            notes(&value).contains("taken as the history's end"),
            "{value}"
        );
    }
    assert_eq!(
        files(&net.dir.path().join("torn")),
        before,
        "nothing was cut"
    );

    // The log's files are written a moment after the block.
    let home = changed(&net, "short", |data| {
        edit(&data.join("log/leaves"), |bytes| {
            bytes.truncate(bytes.len() - SLOT - 3)
        });
    });
    let value = verify(&net, &format!("{home} --level bytes")).json();
    let height = value["height"].as_u64().unwrap();
    assert_eq!(height, with_entries - 1);
    assert!(
        notes(&value).contains(&format!("end within block {with_entries}")),
        "{value}"
    );
    let value = verify(&net, &home).json();
    assert_eq!(value["height"].as_u64(), Some(whole));
    assert_eq!(value["stored log compared to block"].as_u64(), Some(height));
    assert!(notes(&value).contains("were not compared"), "{value}");
    // What somebody saw beyond that end is missed.
    let id = "0".repeat(64);
    wrong(&net, &format!("{home} --level bytes --expect {whole}:{id}"));
    let home = changed(&net, "none", |data| {
        edit(&data.join("log/leaves"), Vec::clear);
    });
    verify(&net, &format!("{home} --level bytes")).fails(1);
    // And a node that was stopped between the two.
    let home = changed(&net, "beyond", |data| {
        forge(&net, data, whole - 1, |_, _| ());
    });
    let value = verify(&net, &format!("{home} --level bytes")).json();
    assert_eq!(value["height"].as_u64(), Some(whole - 1));
}

/// Height and number of notes of a verification; `None`: it was refused.
fn outcome(net: &Net, data: &Path, level: Level) -> Option<(u64, usize)> {
    let task = Task {
        level,
        trust_signatures: false,
        from_snapshot: None,
        expected: Vec::new(),
    };
    let sources = Sources::of_data(data);
    let verified = tally_node::verify::verify(&net.genesis, &sources, &task, &mut |_, _| ());
    verified
        .ok()
        .map(|report| (report.height.0, report.notes.len()))
}

/// The ledger's tests flip every bit of what records and slots hold; here it is
/// all of their frames, and some between.
#[tokio::test(flavor = "multi_thread")]
async fn no_bit_of_a_file_can_be_another() {
    let (net, node) = chain().await;
    node.stop().await;
    changed(&net, "flipped", |_| ());
    let data = net.dir.path().join("flipped/data");
    let (whole, _) = outcome(&net, &data, Level::Bytes).unwrap();
    let flip = |path: &Path, bytes: &[u8], bit: usize| {
        let mut other = bytes.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, other).unwrap();
    };

    let path = segment(&data);
    let bytes = fs::read(&path).unwrap();
    // Where each record begins; 20 bytes of it are its frame.
    let mut starts = vec![56];
    while *starts.last().unwrap() < bytes.len() {
        let at = *starts.last().unwrap();
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        starts.push(at + 8 + length as usize);
    }
    let last = starts[starts.len() - 2];
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        let start = starts.iter().rev().find(|start| **start <= at);
        let framed = start.is_none_or(|start| at < start + 20);
        if !framed && (at % 5 > 0 || bit % 8 != at % 8) {
            continue;
        }
        flip(&path, &bytes, bit);
        match outcome(&net, &data, Level::Roots) {
            None => assert!(at < last, "byte {at} of the last record"),
            // Nothing tells a last record that is not whole from a torn one.
            Some(end) => assert_eq!((at >= last, end), (true, (whole - 1, 1)), "bit {bit}"),
        }
    }
    fs::write(&path, &bytes).unwrap();

    let path = data.join("log/leaves");
    let bytes = fs::read(&path).unwrap();
    for bit in 0..bytes.len() * 8 {
        let (slot, at) = (bit / 8 / SLOT, bit / 8 % SLOT);
        let leaf = if bytes[slot * SLOT] == 1 { 86 } else { 58 };
        if (1..=leaf).contains(&at) && (at % 5 > 0 || bit % 8 != at % 8) {
            continue;
        }
        flip(&path, &bytes, bit);
        assert_eq!(
            outcome(&net, &data, Level::Bytes),
            None,
            "slot {slot}, bit {bit}"
        );
    }
    fs::write(&path, &bytes).unwrap();

    let path = data.join("log/events");
    let bytes = fs::read(&path).unwrap();
    for bit in (0..bytes.len()).map(|at| at * 8 + at % 8) {
        flip(&path, &bytes, bit);
        assert_eq!(
            outcome(&net, &data, Level::Bytes),
            None,
            "events, bit {bit}"
        );
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(outcome(&net, &data, Level::Replay), Some((whole, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_receipts_come_in_one_file() {
    let (net, node) = chain().await;
    let listen = net.homes[0].config().unwrap().listen.grpc;
    let at = |line: &str| {
        let line = format!("--format json receipt {line} --genesis v0/genesis.json");
        run(net.dir.path(), &line)
    };
    let get = |line: &str| at(&format!("get {line} --node {listen}"));
    let rows = get("--hold 0/1/1021 --hold 0/1/1003 --debit 0/1/7 --out three.receipts").json();
    let debits: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["debit"])
        .collect();
    assert_eq!(debits, ["0/1/3", "0/1/7", "0/1/21"]);
    assert_eq!(rows[0]["price"], "exact, if the fee was 0.000000");
    let rows = get("--account 0 --out all.receipts --without-details").json();
    assert_eq!(rows.as_array().unwrap().len(), 25);
    assert_eq!(rows[3]["price"], "unknown: the detail is not kept");
    let height = node
        .receipt(by_debit(21))
        .await
        .unwrap()
        .entry
        .unwrap()
        .height;
    let line = format!("--account 0 --from {height} --to {height} --out last.receipts");
    let rows = get(&line).json();
    assert_eq!(rows.as_array().unwrap().len(), 5);
    let one = get("--hold 0/1/1001 --out one.receipt").json();
    assert_eq!(one["price"], "exact");
    let error = get("--hold 0/1/1001 --hold 0/1/9999 --out x.receipts").fails(4);
    assert!(error.contains("no such receipt"), "{error}");
    assert!(!net.dir.path().join("x.receipts").exists());
    get("--account 9 --out x.receipts").fails(4);
    get("--account 0 --from 1 --to 2 --out x.receipts").fails(1);
    node.stop().await;

    let rows = at("verify three.receipts one.receipt all.receipts last.receipts").json();
    assert_eq!(rows.as_array().unwrap().len(), 3 + 1 + 25 + 5);
    let size = |name: &str| fs::metadata(net.dir.path().join(name)).unwrap().len();
    assert!(size("all.receipts") < 4 * size("one.receipt"));
    verify(&net, "--home v0 --proof three.receipts one.receipt").ok();
    edit(&net.dir.path().join("all.receipts"), |bytes| {
        bytes[700] ^= 1
    });
    let ran = at("verify all.receipts");
    assert_eq!(ran.code, 7);
    assert!(ran.out.contains("NO: "), "{}", ran.out);
}
