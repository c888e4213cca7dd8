//! `tally demo --check`, and that its audit fails on what it is there to
//! find.

#![allow(clippy::unwrap_used)]

mod cli_common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
};

use cli_common::{LIMIT, Ran, Running, chat, http, run, start, wait_for};
use tally_ledger::receipt::ReceiptFile;

fn files(audit: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(audit)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect();
    files.sort();
    files
}

fn run_audit(folder: &Path) -> Ran {
    run(
        folder,
        "receipt audit demo/audit --genesis demo/genesis.json",
    )
}

/// The audit's complaint; it must have one.
fn complaint(folder: &Path) -> String {
    run_audit(folder).fails(7)
}

#[test]
fn the_check_passes_and_finds_what_is_missing_doubled_or_altered() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let report = run(folder, "--format json demo --check --dir demo").json();
    let count = |name: &str| report[name].as_u64().unwrap();
    assert!(count("requests") >= 1_000 && count("refused") > 0 && count("streamed") > 0);
    assert_eq!(count("served"), count("receipts"));
    assert_eq!(count("served") + count("refused"), count("requests"));
    assert!(count("files of many receipts") > 0);
    assert!(count("blocks that it executed again") >= count("blocks"));
    let audited = &report["audit by a separate process"];
    assert_eq!(audited["receipts"], report["receipts"]);
    assert_eq!(audited["price recomputed exactly"], report["receipts"]);

    let audit = folder.join("demo/audit");
    let receipts = files(&audit, "receipt");
    let victim = &receipts[receipts.len() / 2];
    let bytes = fs::read(victim).unwrap();

    fs::remove_file(victim).unwrap();
    let missing = complaint(folder);
    assert!(missing.contains("no receipt of debit"), "{missing}");

    fs::write(victim, &bytes).unwrap();
    let copy = audit.join("copy.receipt");
    fs::write(&copy, &bytes).unwrap();
    let doubled = complaint(folder);
    assert!(doubled.contains("two receipts"), "{doubled}");
    fs::remove_file(copy).unwrap();

    // Every hundredth byte, one at a time: nothing in a file is idle. Altered
    // where it is the file's form, it cannot be read at all; little of it is.
    let (mut looked_at, mut formless) = (0, 0);
    for at in (0..bytes.len()).step_by(100) {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        fs::write(victim, &altered).unwrap();
        let readable = ReceiptFile::decode(&altered).is_ok();
        let said = run_audit(folder);
        let code = if readable { 7 } else { 10 };
        assert_eq!(said.code, code, "byte {at}: {said:?}");
        looked_at += 1;
        formless += usize::from(!readable);
    }
    assert!(
        looked_at > 4 * formless,
        "{formless} of {looked_at} alterations leave nothing to read"
    );
    fs::write(victim, &bytes).unwrap();

    // One that cannot be read, first or last, hides no altered one; alone it
    // is what the audit ends with, and not that its receipt is missing.
    let garbage = audit.join("0.receipt");
    fs::write(&garbage, "garbage").unwrap();
    let unread = run_audit(folder).fails(10);
    assert!(
        unread.contains("0.receipt") && unread.contains("not finished"),
        "{unread}"
    );
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 1;
    fs::write(victim, &altered).unwrap();
    let name = victim.file_name().unwrap().to_str().unwrap();
    assert!(complaint(folder).contains(name));
    fs::write(&garbage, &altered).unwrap();
    fs::write(victim, "garbage").unwrap();
    assert!(complaint(folder).contains("0.receipt"));
    fs::remove_file(garbage).unwrap();
    fs::write(victim, &bytes).unwrap();
    let states = audit.join("0.state");
    fs::write(&states, "garbage").unwrap();
    fs::write(victim, &altered).unwrap();
    assert!(complaint(folder).contains(name));
    fs::remove_file(states).unwrap();
    fs::write(victim, &bytes).unwrap();

    let class = files(&audit, "state").remove(0);
    let bytes = fs::read(&class).unwrap();
    fs::remove_file(&class).unwrap();
    assert!(complaint(folder).contains("no state file of class 0"));
    fs::write(&class, bytes).unwrap();
    run_audit(folder).ok();

    let path = victim.display();
    let verified = run(
        folder,
        &format!("receipt verify {path} --genesis demo/genesis.json"),
    )
    .ok();
    assert!(verified.contains("exact"), "{verified}");
    let explained = run(
        folder,
        &format!("receipt explain {path} --genesis demo/genesis.json"),
    )
    .ok();
    assert!(
        explained.contains("nano-CT") && explained.contains("rounded up"),
        "{explained}"
    );
    // The same receipts in one file are explained one by one.
    let together = files(&audit, "receipts").remove(0);
    let explain = format!(
        "receipt explain {} --genesis demo/genesis.json",
        together.display()
    );
    let all = run(folder, &format!("--format json {explain}")).json();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), receipts.len().min(1_000));
    let hold = all[3]["hold"].as_str().unwrap();
    let one = run(folder, &format!("--format json {explain} --hold {hold}")).json();
    assert_eq!(one, all[3]);
    prune(folder, count("receipts"));
}

/// The details of a stopped validator go, but for those that a hold keeps.
fn prune(folder: &Path, receipts: u64) {
    let json = |line: &str| run(folder, &format!("--format json {line} --home demo/v0")).json();
    let fails = |line: &str| run(folder, &format!("{line} --home demo/v0")).fails(1);
    let held = json("hold add --account 0 --reason case-12");
    assert_eq!(
        (&held["account"], &held["reason"]),
        (&0.into(), &"case-12".into())
    );
    let twice = fails("hold add --account 0 --reason again");
    assert!(twice.contains("remove it first"), "{twice}");
    assert_eq!(json("hold list")[0]["account"], 0);

    let count = |value: &serde_json::Value, name: &str| value[name].as_u64().unwrap();
    let dry = json("prune --before 1000000 --dry-run");
    let (goes, stays) = (
        count(&dry, "details dropped"),
        count(&dry, "details kept by a legal hold"),
    );
    assert_eq!(goes + stays, receipts);
    assert!(goes > 0 && stays > 0, "{dry}");
    let old = json("prune --before 2020-01-01");
    assert_eq!(
        count(&old, "details dropped") + count(&old, "details kept by a legal hold"),
        0
    );
    let unknown = fails("prune --before 1000000 --class gold");
    assert!(unknown.contains("no class `gold`"), "{unknown}");
    let pruned = json("prune --before 9999-01-01");
    assert_eq!(
        (
            count(&pruned, "details dropped"),
            count(&pruned, "details kept by a legal hold")
        ),
        (goes, stays)
    );
    let freed = count(&pruned, "bytes before") - count(&pruned, "bytes after");
    assert!(freed > goes * 70, "{pruned}");

    json("hold remove --account 0 --reason closed");
    let unset = fails("prune --by-retention");
    assert!(unset.contains("[retention]"), "{unset}");
    let config = folder.join("demo/v0/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("{text}\n[retention]\ninnovation = 400\npriority = 0\n"),
    )
    .unwrap();
    let rest = json("prune --by-retention");
    let now = count(&rest, "details dropped");
    assert!(now <= stays);
    fs::write(&config, &text).unwrap();
    let rest = json("prune --before 1000000 --class innovation");
    assert_eq!(count(&rest, "details dropped"), stays - now);
    let log = fs::read_to_string(folder.join("demo/v0/privacy.log")).unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let is = |at: usize, what: &str| lines[at]["what"] == what;
    assert!(is(0, "hold added") && is(1, "prune begins"), "{log}");
    // What is to go, before anything does; then each file; then the sum.
    assert_eq!(count(&lines[1], "details"), goes);
    assert!(lines[1]["classes"][0]["below height"].is_u64(), "{log}");
    let end = lines
        .iter()
        .position(|line| line["what"] == "details pruned");
    let end = end.unwrap();
    assert!(
        (2..end).all(|at| is(at, "details of a file pruned")),
        "{log}"
    );
    let files = lines[2..end].iter().map(|line| count(line, "details"));
    assert_eq!(files.sum::<u64>(), goes);
    assert!(is(end + 1, "hold removed"), "{log}");

    // What is left of the blocks is executed again, to the same roots.
    let rebuilt = json("reindex");
    assert!(count(&rebuilt, "height") > 0);
}

/// The demo, and what it prints.
fn start_demo(folder: &Path, more: &str) -> (Running, impl Iterator<Item = String> + use<>) {
    let log = folder.join("demo.log");
    let mut demo = Running::start(folder, &log, &format!("demo --dir demo {more}"));
    let lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    (demo, lines.map(Result::unwrap))
}

/// The processes of its validators, from the line that names them.
fn validators(line: &str) -> Vec<String> {
    let pids = line.split(": ").nth(1).unwrap().trim_end_matches("):");
    pids.split(' ').map(str::to_owned).collect()
}

/// It ends with code 1; what it says then.
fn fails(folder: &Path, demo: &mut Running, lines: impl Iterator<Item = String>) -> String {
    // The rest is read so that it can be written.
    let _ = lines.count();
    let ended = wait_for("the demo to end", LIMIT, || demo.0.try_wait().unwrap());
    let said = fs::read_to_string(folder.join("demo.log")).unwrap();
    assert_eq!(ended.code(), Some(1), "{said}");
    said
}

/// The interactive demo: what it prints works when pasted, and its processes
/// end with it.
#[test]
fn what_the_demo_prints_works_and_its_children_end_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (mut demo, mut lines) = start_demo(folder, "");
    let mut next = |wanted: &str| lines.find(|line| line.contains(wanted)).unwrap();
    let curl = next("curl -N");
    let url = curl.split_whitespace().nth(2).unwrap().to_owned();
    let secret = curl
        .split("Bearer ")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap()
        .to_owned();
    let data = next("-d '");
    let body = data.split('\'').nth(1).unwrap().to_owned();
    let address = url
        .strip_prefix("http://")
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let answer = chat(&address, &secret, &body);
    assert!(answer.contains("data: [DONE]"), "{answer}");
    let pids = validators(&next("processes of the validators: "));
    let receipt = next("  receipt ");
    assert!(receipt.contains("account 0"), "{receipt}");
    assert!(
        http(&address, "GET", "/v1/models", "").contains("401"),
        "no key, no answer"
    );

    give_back(folder, &grpc_of(folder, 0));
    let mut by_hand = one_may_end(folder, &pids, &mut next, || {
        let answer = chat(&address, &secret, &body);
        assert!(answer.contains("data: [DONE]"), "{answer}");
    });

    // SIGKILL: the children notice by themselves.
    demo.0.kill().unwrap();
    demo.0.wait().unwrap();
    wait_for("the gateway to end", LIMIT, || {
        std::net::TcpStream::connect(&address)
            .is_err()
            .then_some(())
    });
    assert_eq!(by_hand.terminate(LIMIT), 0);
    let grpc = grpc_of(folder, 1);
    wait_for("validator 1 to end", LIMIT, || {
        std::net::TcpStream::connect(&grpc).is_err().then_some(())
    });
}

fn kill(pid: &str) {
    let status = Command::new("kill").args(["-9", pid]).status();
    assert!(status.unwrap().success());
}

/// Validator 0 is killed; how the demo says to start it again.
fn kill_first(pid: &str, next: &mut impl FnMut(&str) -> String) -> String {
    kill(pid);
    let said = next("validator 0 has ended");
    assert!(
        said.contains("SIGKILL") && said.contains("with 3 of 4 the chain goes on"),
        "{said}"
    );
    said.split("tally node --home ").nth(1).unwrap().to_owned()
}

/// Validator 0 is started by hand, and the demo sees it.
fn start_by_hand(folder: &Path, home: &str, next: &mut impl FnMut(&str) -> String) -> Running {
    let log = folder.join("by-hand.log");
    let by_hand = Running::start(folder, &log, &format!("node --home {home}"));
    let back = next("validator 0 ");
    assert!(back.contains("validator 0 is back, at height"), "{back}");
    by_hand
}

/// Any one validator may be killed and started again by hand, also the one
/// whose blocks are shown; two may not.
fn one_may_end(
    folder: &Path,
    pids: &[String],
    next: &mut impl FnMut(&str) -> String,
    ask: impl Fn(),
) -> Running {
    let home = kill_first(&pids[0], next);
    ask();
    next("  receipt ");
    let by_hand = start_by_hand(folder, &home, next);
    ask();
    next("  receipt ");
    kill(&pids[2]);
    let said = next("validator 2 has ended");
    assert!(said.contains("with 3 of 4"), "{said}");
    by_hand
}

/// Where a validator listens.
fn grpc_of(folder: &Path, validator: usize) -> String {
    let config = folder.join(format!("demo/v{validator}/config.toml"));
    let config = fs::read_to_string(config).unwrap();
    let mut lines = config.lines();
    let grpc = lines.find_map(|line| line.strip_prefix("grpc = "));
    grpc.unwrap().trim_matches('"').to_owned()
}

/// A receipt, fetched and verified, is given back by maker and checker, and
/// never more than it charged.
fn give_back(folder: &Path, grpc: &str) {
    let tally = |line: &str| {
        run(
            folder,
            &format!("--format json {line} --genesis demo/genesis.json"),
        )
    };
    let ask = format!("receipt get --hold 0-1-1 --out first.receipt --node {grpc}");
    let got = tally(&ask).json();
    assert_eq!(got["price"], "exact");
    let (entry, charged) = (&got["entry"], got["charged"].as_str().unwrap().to_owned());
    let correct = |amount: &str, keys: &str| {
        tally(&format!(
            "receipt correct --entry {entry} --amount {amount} --expires 2099-01-01 \
             --node {grpc} {keys}"
        ))
    };
    let both = "--key demo/keys/issuer-0.key --key demo/keys/issuer-1.key";
    let alone = correct(&charged, "--key demo/keys/issuer-0.key").fails(4);
    assert!(alone.contains("CheckerMissing (32)"), "{alone}");
    let given = correct(&charged, both).json();
    assert_eq!(given["entries"][0]["what"], "Corrected");
    assert_eq!(given["entries"][0]["amount"], *charged);
    let more = correct("0.000001", both).fails(4);
    assert!(more.contains("OverReceipt (69)"), "{more}");
}

/// The child of a process whose arguments begin so.
fn child_of(parent: u32, command: &str) -> String {
    let parent = format!("PPid:\t{parent}");
    let is = |folder: &Path| {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let arguments = read("cmdline");
        read("status").lines().any(|line| line == parent)
            && arguments.split('\0').nth(1) == Some(command)
    };
    let mut processes = fs::read_dir("/proc")
        .unwrap()
        .map(|one| one.unwrap().path());
    let found = processes.find(|folder| is(folder)).unwrap();
    found.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Whatever ends the demo, it says what it does not end.
#[test]
fn a_validator_started_by_hand_is_named_when_the_gateway_ends_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (mut demo, mut lines) = start_demo(folder, "");
    let mut next = |wanted: &str| lines.find(|line| line.contains(wanted)).unwrap();
    let pids = validators(&next("processes of the validators: "));
    let home = kill_first(&pids[0], &mut next);
    let mut by_hand = start_by_hand(folder, &home, &mut next);
    kill(&child_of(demo.0.id(), "gateway"));
    let said = fails(folder, &mut demo, lines);
    assert!(
        said.contains("gateway")
            && said.contains("validator 0, which was started by hand, runs on"),
        "{said}"
    );
    assert_eq!(by_hand.terminate(LIMIT), 0);
}

/// Without a quorum the demo ends, and says why.
#[test]
fn the_demo_ends_when_two_validators_have() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (mut demo, mut lines) = start_demo(folder, "");
    let processes = lines.find(|line| line.contains("processes of the validators: "));
    let pids = validators(&processes.unwrap());
    let killed = Command::new("kill").arg("-9").args(&pids[2..]).status();
    assert!(killed.unwrap().success());
    let said = fails(folder, &mut demo, lines);
    assert!(
        said.contains("validators 2 and 3 have ended") && said.contains("3 of 4 are needed"),
        "{said}"
    );
}

/// A load of one request is one.
#[test]
fn the_check_works_for_a_single_request() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let report = run(folder, "--format json demo --check --requests 1").json();
    assert_eq!(
        (&report["served"], &report["receipts"]),
        (&1.into(), &1.into())
    );
    let none = run(folder, "demo --check --requests 0").fails(2);
    assert!(none.contains("0 is not in 1..="), "{none}");
}

/// A real engine's models are priced and served.
#[test]
fn another_engine_can_stand_behind_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (_engine, said) = start(
        folder,
        "--format json mock-engine --port 0 --model own-model",
    );
    let url = said["listening"].as_str().unwrap();
    let (_demo, mut lines) = start_demo(folder, &format!("--upstream {url}"));
    let data = lines.find(|line| line.contains("-d '")).unwrap();
    assert!(data.contains("\"model\": \"own-model\""), "{data}");
}
