//! Commands that need no node, run as a user runs them.

#![allow(clippy::unwrap_used)]

mod cli_common;

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use cli_common::{http, run, start, write};
use serde_json::Value;
use tally_ledger::tlog_proof::TLOG_PROOF;

/// Four owners, two admins, two issuers and a gateway make a genesis, each
/// with own keys.
fn ceremony(folder: &Path) -> String {
    for name in ["admin-0", "admin-1", "issuer-0", "issuer-1", "owner-0"] {
        run(folder, &format!("keypair create {name}.key --kind person")).ok();
    }
    run(folder, "keypair create gateway-0.key --kind gateway").ok();
    run(folder, "init --home v0 --name v0 --owner owner-0.pub").ok();
    for i in 1..4 {
        let port = 27_000 + 10 * i;
        run(
            folder,
            &format!("init --home v{i} --name v{i} --base-port {port}"),
        )
        .ok();
    }
    let example = run(folder, "genesis example").ok();
    write(folder, "genesis.toml", &example);
    let made = run(
        folder,
        "--format json genesis create --validator v0/validator.pub v1/validator.pub \
         v2/validator.pub v3/validator.pub --admin admin-0.pub admin-1.pub --threshold 2 \
         --config genesis.toml",
    );
    made.json()["hash"].as_str().unwrap().to_owned()
}

#[test]
fn owners_make_a_genesis_and_join_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let hash = ceremony(folder);
    let shown = run(folder, "genesis show genesis.json --format json").json();
    assert_eq!(shown["hash"], *hash);
    assert_eq!(shown["persons"].as_array().unwrap().len(), 8);
    assert_eq!(shown["classes"][1]["name"], "priority");

    let validators =
        "--validator v0/validator.pub v1/validator.pub v2/validator.pub v3/validator.pub";
    let wrong = "00".repeat(32);
    let error = run(
        folder,
        &format!("join --home v1 --genesis genesis.json --hash {wrong} {validators}"),
    );
    assert!(error.fails(1).contains(&hash), "says the hash it found");
    assert!(
        !folder.join("v1/genesis.json").exists(),
        "bad input changes nothing"
    );
    let joined = run(
        folder,
        &format!("--format json join --home v1 --genesis genesis.json --hash {hash} {validators}"),
    )
    .json();
    assert_eq!(
        (joined["validator"].as_u64(), joined["peers"].as_u64()),
        (Some(1), Some(3))
    );
}

#[test]
fn secrets_are_private_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    let mode = |name: &str| {
        fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    for name in ["admin-0.key", "v1/owner.key", "v0/keys.toml"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    let before = fs::read(folder.join("v0/keys.toml")).unwrap();
    run(folder, "init --home v0 --name v0").fails(1);
    run(folder, "keypair create admin-0.key --kind person").fails(1);
    assert_eq!(fs::read(folder.join("v0/keys.toml")).unwrap(), before);
    let public = fs::read_to_string(folder.join("v0/validator.pub")).unwrap();
    let secrets = fs::read_to_string(folder.join("v0/keys.toml")).unwrap();
    let seeds = secrets.split('"').filter(|text| text.len() == 64);
    assert_eq!(seeds.clone().count(), 3);
    seeds.for_each(|seed| assert!(!public.contains(seed)));
}

#[test]
fn a_genesis_without_two_issuers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    let text = fs::read_to_string(folder.join("genesis.toml")).unwrap();
    write(folder, "one.toml", &text.replace("\"issuer-0.pub\", ", ""));
    let error = run(
        folder,
        "genesis create --validator v0/validator.pub --admin admin-0.pub admin-1.pub \
         --threshold 2 --config one.toml --out one.json",
    )
    .fails(1);
    assert!(error.contains("1 issuers, at least 2 needed"), "{error}");
    assert!(!folder.join("one.json").exists());
}

#[test]
fn a_transaction_goes_from_signer_to_signer() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    write(folder, "action.json", "{\"Unfreeze\": 7}");
    let draft = "tx draft unfreeze.json --action action.json --genesis genesis.json";
    run(
        folder,
        &format!("{draft} --key issuer-0.key --signer person:3"),
    )
    .ok();
    let shown = run(folder, "--format json tx show unfreeze.json").json();
    assert_eq!(shown["action"]["Unfreeze"], 7);
    assert_eq!(shown["missing"][0], "person:3");
    // Incomplete: refused before any node is asked.
    let error = run(folder, "tx submit unfreeze.json --node 127.0.0.1:1").fails(1);
    assert!(error.contains("person:3"), "{error}");
    run(folder, "tx sign unfreeze.json --key admin-0.key").fails(1);
    run(folder, "keypair number issuer-1.key 3").ok();
    let signed = run(
        folder,
        "--format json tx sign unfreeze.json --key issuer-1.key",
    )
    .json();
    assert_eq!(signed["missing"], Value::Array(vec![]));
    let error = run(folder, "tx submit unfreeze.json --node 127.0.0.1:1").fails(6);
    assert!(error.contains("127.0.0.1:1"), "{error}");
    let same = format!("{draft} --key issuer-0.key --key issuer-0.key");
    let error = run(folder, &same.replace("unfreeze.json", "b.json")).fails(1);
    assert!(error.contains("different persons"), "{error}");
}

#[test]
fn a_csv_file_is_a_function_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    let file = |date: &str| {
        format!(
            "# valid_until: {date}\n# signers: person:2\nref,account,class,amount,vests,expires\n\
             a,0,innovation,250,,2099-01-01\nb,1,priority,0.5,2098-01-01,2099-01-01\n"
        )
    };
    // The date must lie within the next seven days: ask for one that does.
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let day = day_after_next(now);
    write(folder, "grants.csv", &file(&day));
    let line = "--format json grant issue --csv grants.csv --dry-run --genesis genesis.json";
    let first = run(folder, line).json();
    assert_eq!(
        first[1]["action"]["Issue"]["grants"][0]["amount"],
        "0.500000"
    );
    assert_eq!(first, run(folder, line).json());
    write(folder, "grants.csv", &file("2020-01-01"));
    let error = run(folder, line).fails(3);
    assert!(error.contains("never re-dated"), "{error}");
    write(
        folder,
        "grants.csv",
        &file(&day).replace("innovation", "renovation"),
    );
    let error = run(folder, line).fails(1);
    assert!(
        error.contains("line 4 (a)") && error.contains("renovation"),
        "{error}"
    );
}

/// The day after the next one, `seconds` after 1970, as a date.
fn day_after_next(seconds: u64) -> String {
    let mut days = seconds / 86_400 + 2;
    let mut year = 1970;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, days + 1)
}

#[test]
fn quotes_need_no_node() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    let line = "--format json price quote --genesis genesis.json --model tally-base \
                --count input=1200 --count cached_input=1000 --count output=300";
    assert_eq!(run(folder, line).json()["cost"], "0.033001");
    let error = run(folder, &line.replace("tally-base", "gpt-9")).fails(1);
    assert!(error.contains("tally-base, tally-large"), "{error}");
    run(folder, &line.replace("input=1200", "input")).fails(2);
}

#[test]
fn the_mock_engine_serves_chat_and_models() {
    let folder = tempfile::tempdir().unwrap();
    let (_engine, said) = start(folder.path(), "--format json mock-engine --port 0 --seed 7");
    let url = said["listening"].as_str().unwrap();
    let address = url
        .strip_prefix("http://")
        .unwrap()
        .strip_suffix("/v1")
        .unwrap();
    assert!(http(address, "GET", "/v1/models", "").contains("tally-large"));
    let ask = |extra: &str| {
        let body = format!(
            "{{\"model\":\"tally-base\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]{extra}}}"
        );
        http(address, "POST", "/v1/chat/completions", &body)
    };
    let whole = ask(",\"max_tokens\":3");
    assert!(
        whole.contains("\"completion_tokens\":") && whole.starts_with("HTTP/1.1 200"),
        "{whole}"
    );
    let stream = ask(",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    assert!(
        stream.contains("\"choices\":[]") && stream.contains("data: [DONE]"),
        "{stream}"
    );
    assert!(!ask(",\"stream\":true").contains("usage"));
    assert!(ask(",\"max_tokens\":0").starts_with("HTTP/1.1 400"));
}

#[test]
fn codes_tell_usage_from_reach() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder, "grant isue").fails(2);
    let error = run(folder, "entry list --node 127.0.0.1:1").fails(6);
    assert!(error.contains("no node answers"), "{error}");
    let out = run(folder, "status --node 127.0.0.1:1");
    assert_eq!(out.code, 9, "{}", out.out);
    assert!(run(folder, "--help").ok().contains("Exit codes:"));
}

/// What a newcomer gets wrong: each message says what to do instead.
#[test]
fn mistakes_are_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    let (_engine, said) = start(folder, "--format json mock-engine --port 0");
    let url = said["listening"].as_str().unwrap();
    let engine = url.strip_prefix("http://").unwrap();
    let engine = engine.split('/').next().unwrap();
    std::fs::create_dir(folder.join("empty")).unwrap();
    let genesis = "--genesis genesis.json";
    for (line, code, wanted) in [
        (
            "entry list --node 127.0.0.1:1".to_owned(),
            6,
            "Connection refused",
        ),
        ("entry list --node localhost".to_owned(), 2, "names no port"),
        (
            format!("entry list --node {engine}"),
            6,
            "is not the gRPC of a node",
        ),
        (
            format!("account show 0 {genesis} --node {engine}"),
            6,
            "`grpc` address",
        ),
        (
            format!("receipt prove genesis.json --log http://127.0.0.1:1 --out p {genesis}"),
            10,
            "is a genesis file",
        ),
        (
            format!("checkpoint verify http://127.0.0.1:1/a {genesis}"),
            6,
            "`http` address",
        ),
        (
            format!("account freeze 0 {genesis} --node 127.0.0.1:1"),
            2,
            "--key",
        ),
        (
            "node --home nowhere".to_owned(),
            1,
            "`tally init` makes one",
        ),
        (
            "gateway --home nowhere".to_owned(),
            1,
            "`tally gateway --example`",
        ),
        (
            "init --home v0 --name v0 --address 127.0.0.1".to_owned(),
            1,
            "another folder",
        ),
        (
            format!("verify --home nowhere {genesis}"),
            1,
            "nowhere/data/blocks",
        ),
        (
            format!("verify --blocks empty {genesis}"),
            1,
            "HOME/data/blocks",
        ),
        (
            format!("receipt audit genesis.json {genesis}"),
            10,
            "name the folder",
        ),
        (format!("receipt audit empty {genesis}"), 10, "no *.receipt"),
        (
            "receipt audit empty --genesis empty".to_owned(),
            10,
            "a genesis file",
        ),
        (
            "receipt audit empty --genesis none".to_owned(),
            1,
            "reading none, a genesis file",
        ),
        (
            "genesis show admin-0.key".to_owned(),
            10,
            "tally keypair show FILE",
        ),
        (
            "genesis create --validator v0/validator.pub v1/validator.pub v2/validator.pub \
             v3/validator.pub --admin admin-0.pub admin-1.pub --threshold 2 --config genesis.toml"
                .to_owned(),
            1,
            "genesis.json is there already and is not overwritten",
        ),
    ] {
        let said = run(folder, &line);
        assert!(
            said.code == code && format!("{}{}", said.err, said.out).contains(wanted),
            "{line}: {said:?}"
        );
    }
}

/// Answers every GET with this page, until the test ends.
fn page(body: &str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = body.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
            let _ = write!(stream, "{head} {length}\r\n\r\n{body}");
        }
    });
    format!("http://{address}")
}

/// Who answers with noise has answered falsely; a file of noise is no file of
/// ours.
#[test]
fn noise_is_false_from_the_network_and_unread_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    let proof = format!("{TLOG_PROOF}\nnoise\n");
    write(folder, "checkpoint", "noise");
    write(folder, "proof", &proof);
    let noise = page("noise");
    let is = |code: i32, line: &str| {
        let ran = run(folder, &format!("{line} --genesis genesis.json"));
        assert_eq!(ran.code, code, "{line}: {ran:?}");
    };
    for (place, code) in [(&noise[..], 7), (".", 10)] {
        is(code, &format!("checkpoint verify {place}/checkpoint"));
        is(code, &format!("checkpoint compare {place}/checkpoint ."));
        is(
            code,
            &format!("receipt verify none --checkpoint {place}/checkpoint"),
        );
        is(code, &format!("history verify none --log {place}"));
        is(code, &format!("export tiles there --log {place}"));
        let shown = run(folder, &format!("checkpoint show {place}/checkpoint"));
        let said = shown.fails(code);
        assert!(said.contains("expected was a checkpoint"), "{said}");
    }
    let proofs = page(&proof);
    is(
        7,
        &format!("receipt verify none --checkpoint {proofs}/proof"),
    );
    is(10, "receipt verify none --checkpoint proof");
}

/// A file may be as long as the longest history; what it is must not cost
/// many times that.
#[test]
fn naming_a_long_file_takes_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    let line = "receipt verify long --genesis genesis.json";
    for (begin, end) in [("[0", "]"), ("{\"a\":[0", "]}"), ("a = [0", "]")] {
        let zeros = ",0".repeat(15 << 20);
        write(folder, "long", &format!("{begin}{zeros}{end}"));
        let limited = format!("ulimit -v 600000 && exec \"$0\" {line}");
        let ended = std::process::Command::new("sh")
            .args(["-c", &limited, env!("CARGO_BIN_EXE_tally")])
            .current_dir(folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.code() == Some(10) && said.contains("no file that Tally makes"),
            "{ended:?}"
        );
    }
}

/// A party outside needs the genesis, a key and a state, and no node.
#[test]
fn a_witness_starts_with_its_memory_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ceremony(folder);
    run(folder, "keypair create w1.key --kind witness").ok();
    let line = "--format json witness --state w1.state --genesis genesis.json --key w1.key \
                --name council.example/w1 --listen 127.0.0.1:0";
    let error = run(folder, line).fails(1);
    assert!(
        error.contains("w1.state") && error.contains("--new"),
        "{error}"
    );
    let other_key = line.replace("w1.key", "admin-0.key");
    let error = run(folder, &format!("{other_key} --new")).fails(1);
    assert!(error.contains("--kind witness"), "{error}");
    let bad_name = line.replace("council.example/w1", "a+b");
    run(folder, &format!("{bad_name} --new")).fails(1);

    // A busy port leaves no state behind, so the same command does afterwards.
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = line.replace("127.0.0.1:0", &busy.local_addr().unwrap().to_string());
    let error = run(folder, &format!("{taken} --new")).fails(1);
    assert!(
        error.contains("listening on 127.0.0.1:") && error.contains("--listen"),
        "{error}"
    );
    assert!(!folder.join("w1.state").exists());

    let (running, said) = start(folder, &format!("{line} --new"));
    let keys = run(
        folder,
        "--format json checkpoint keys --genesis genesis.json",
    )
    .json();
    assert_eq!(said["log"], keys["log"]);
    assert_eq!(
        (&keys["a quorum is"], keys["keys"].as_array().unwrap().len()),
        (&3.into(), 4)
    );
    let key = said["witness"].as_str().unwrap();
    assert!(key.starts_with("council.example/w1+"), "{key}");
    let address = said["listen"].as_str().unwrap().to_owned();
    let status = http(&address, "GET", "/", "");
    assert!(
        status.starts_with("HTTP/1.1 200") && status.contains(key),
        "{status}"
    );
    let page = format!("/{}/checkpoint", keys["SHA-256 of it"].as_str().unwrap());
    assert!(http(&address, "GET", &page, "").starts_with("HTTP/1.1 404"));
    let noise = http(&address, "POST", "/add-checkpoint", "noise");
    assert!(noise.starts_with("HTTP/1.1 400"), "{noise}");
    let error = run(folder, line).fails(1);
    assert!(error.contains("another witness runs"), "{error}");
    drop(running); // SIGKILL
    run(folder, &format!("{line} --new")).fails(1);
    let (mut again, said_again) = start(folder, line);
    assert_eq!(said_again["witness"], said["witness"]);
    assert_eq!(again.terminate(cli_common::LIMIT), 0);

    // A checkpoint file that is none proves nothing; a witness needs one.
    write(folder, "noise", "noise\n");
    let noise = run(folder, "checkpoint show noise").fails(10);
    assert!(noise.contains("expected was a checkpoint"), "{noise}");
    let noise = run(folder, "checkpoint verify noise --genesis genesis.json");
    assert!(noise.out.contains("NOT READ: noise is"), "{}", noise.out);
    noise.fails(10);
    // Each file that people mix up says what it is, and for what.
    let other = run(folder, "genesis show w1.key").fails(10);
    assert!(
        other.contains("is a key file") && other.contains("tally keypair show"),
        "{other}"
    );
    let genesis = run(folder, "receipt verify genesis.json --genesis genesis.json");
    assert!(genesis.out.contains("is a genesis file"), "{}", genesis.out);
    genesis.fails(10);
    assert!(
        run(folder, "keypair show genesis.json")
            .fails(10)
            .contains("a genesis file")
    );
    assert!(run(folder, "tx show .").fails(10).contains("is a folder"));
    run(folder, "checkpoint verify nowhere --genesis genesis.json").fails(1);
    let ask = format!("receipt verify noise --genesis genesis.json --witness {key}");
    assert!(run(folder, &ask).fails(2).contains("--checkpoint"));
    let twice = format!("{ask} --witness {key} --checkpoint noise");
    assert!(run(folder, &twice).code != 0);
    run(
        folder,
        "export tiles there --home v0 --genesis genesis.json",
    )
    .fails(1);
    let gone = "export tiles there --log http://127.0.0.1:1 --genesis genesis.json";
    run(folder, gone).fails(6);
}
