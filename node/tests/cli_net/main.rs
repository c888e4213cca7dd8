//! Four validators as separate processes, used through the command line as
//! an operator uses it.

#![allow(clippy::unwrap_used)]

#[path = "../cli_common/mod.rs"]
mod cli_common;
mod evidence;

use cli_common::{LIMIT, Net, run, wait_for, write};
use serde_json::Value;

const OPEN: &str = "account open --unit 12 --holder KEYS/holder-0.key --class innovation \
                    --class priority GENESIS --key KEYS/issuer-0.key";

fn entry<'a>(done: &'a Value, what: &str) -> &'a Value {
    assert_eq!(done["outcome"], "final", "{done}");
    let entries = done["entries"].as_array().unwrap();
    entries.iter().find(|entry| entry["what"] == what).unwrap()
}

/// The walking skeleton: one transaction, executed by the ledger, final, read
/// back from every validator with its proof.
#[test]
fn four_processes_finalise_an_account() {
    let net = Net::start(4);
    let opened = net.run(0, OPEN).json();
    assert_eq!(entry(&opened, "AccountOpened")["account"], 0);
    let height = opened["height"].as_u64().unwrap();
    let public = run(
        net.folder.path(),
        "--format json keypair show net/keys/holder-0.key",
    )
    .json();
    assert_eq!(public["number"], 0, "the key file knows its account");
    for i in 0..4 {
        net.wait_height(i, height);
        let account = net.run(i, "account show 0 GENESIS").json();
        assert_eq!(account["holder"], public["public"]);
        assert_eq!(
            (&account["unit"], &account["frozen"]),
            (&12.into(), &false.into())
        );
    }
}

/// Every noun once, with the refusals that an operator meets.
#[test]
fn an_operator_governs_a_chain() {
    let net = Net::start(4);
    let folder = net.folder.path();
    entry(&net.run(0, OPEN).json(), "AccountOpened");

    // Issue, with a refusal that names its number and changes nothing.
    let issue = "grant issue --account 0 --class innovation --expires 2099-01-01 GENESIS \
                 --key KEYS/issuer-0.key";
    entry(
        &net.run(1, &format!("{issue} --amount 250")).json(),
        "GrantIssued",
    );
    let error = net.run(1, &format!("{issue} --amount 20000")).fails(4);
    assert!(error.contains("CheckerMissing (32)"), "{error}");
    let two = format!("{issue} --amount 20000 --key KEYS/issuer-1.key");
    entry(&net.run(1, &two).json(), "GrantIssued");
    let error = net
        .run(1, "account freeze 0 GENESIS --key KEYS/admin-0.key")
        .fails(4);
    assert!(error.contains("RoleMissing (31)"), "{error}");
    let grants = net.run(2, "grant list --account 0 GENESIS").json();
    assert_eq!(grants.as_array().unwrap().len(), 2);
    let given = net.run(
        2,
        "account surrender 0 --grant 1 --amount 50 GENESIS --key KEYS/holder-0.key",
    );
    entry(&given.json(), "Surrendered");
    let taken = net.run(
        2,
        "grant revoke --account 0 --grant 2 GENESIS --key KEYS/issuer-0.key \
                            --key KEYS/issuer-1.key",
    );
    entry(&taken.json(), "GrantRevoked");

    // Maker and checker on two machines: a file goes between them.
    let frozen = net.run(3, "account freeze 0 GENESIS --key KEYS/issuer-0.key");
    entry(&frozen.json(), "Frozen");
    let issuer = run(folder, "--format json keypair show net/keys/issuer-1.key").json();
    let signer = format!("person:{}", issuer["number"]);
    net.run(3, &format!(
        "account unfreeze 0 GENESIS --key KEYS/issuer-0.key --signer {signer} --draft unfreeze.json"
    )).ok();
    run(folder, "tx sign unfreeze.json --key net/keys/issuer-1.key").ok();
    let unfrozen = net.run(3, "tx submit unfreeze.json").json();
    entry(&unfrozen, "Unfrozen");
    // The same bytes again say the same and do nothing twice.
    let again = net.run(0, "tx submit unfreeze.json").json();
    assert_eq!(again["height"], unfrozen["height"]);

    // Erased by two issuers, or by the holder with one.
    let erase = "account erase 0 GENESIS --key KEYS/issuer-0.key";
    let error = net.run(0, erase).fails(4);
    assert!(error.contains("CheckerMissing (32)"), "{error}");
    let erased = net
        .run(1, &format!("{erase} --key KEYS/issuer-1.key"))
        .json();
    let erased = entry(&erased, "Erased").clone();
    assert_eq!(erased["account"], 0);
    let by_holder = "account erase 0 GENESIS --key KEYS/holder-0.key";
    let error = net.run(2, by_holder).fails(4);
    assert!(error.contains("CheckerMissing (32)"), "{error}");
    let again = net.run(2, &format!("{by_holder} --key KEYS/issuer-0.key"));
    entry(&again.json(), "Erased");

    // Keys.
    let bound = net.run(
        0,
        "key create --account 0 --out a.apikey --cap 10 --model tally-base \
                            GENESIS --key KEYS/holder-0.key",
    );
    assert_eq!(entry(&bound.json(), "ApiKeyBound")["api key"], 0);
    assert!(
        std::fs::read_to_string(folder.join("a.apikey"))
            .unwrap()
            .starts_with("tally-")
    );
    entry(
        &net.run(0, "key revoke 0 GENESIS --key KEYS/holder-0.key")
            .json(),
        "ApiKeyRevoked",
    );
    run(folder, "keypair create new.key --kind account").ok();
    let rotated = net.run(
        1,
        "account rotate-key 0 --new new.key GENESIS --key KEYS/holder-0.key",
    );
    entry(&rotated.json(), "HolderKeyRotated");
    let error = net.run(
        1,
        "account surrender 0 --grant 1 --amount 1 GENESIS --key KEYS/holder-0.key",
    );
    assert!(error.fails(4).contains("BadSignature"));

    govern(&net);
    csv_twice(&net);

    // What everybody can read back.
    let log = net.run(2, "entry list --control --limit 1000").json();
    let log = log.as_array().unwrap();
    assert_eq!(log[0]["what"], "Genesis");
    assert!(log.iter().any(|entry| entry["what"] == "ParametersSet"));
    prove_histories(&net, log.len());
    let watched = run(
        folder,
        &format!("entry watch --from 1 --to 3 --node {}", net.grpc[2]),
    )
    .ok();
    assert!(watched.contains("block 3 "), "{watched}");
    net.run(2, "status").ok();
}

/// What happened, complete: files that prove it, and one that is altered.
fn prove_histories(net: &Net, controls: usize) {
    let folder = net.folder.path();
    let rows = net
        .run(1, "history get --control --out control GENESIS")
        .json();
    let [row] = &rows.as_array().unwrap()[..] else {
        panic!("one file holds all: {rows}");
    };
    assert_eq!(row["verified"], "yes, complete");
    assert_eq!(row["entries"], controls);
    net.run(
        3,
        "history get --account 0 --from 2 --to 4 --out ann GENESIS",
    )
    .ok();
    let verify = |files: &str| {
        run(
            folder,
            &format!("--format json history verify {files} --genesis net/genesis.json"),
        )
    };
    let rows = verify("control-1.history ann-1.history").json();
    assert_eq!((&rows[1]["from"], &rows[1]["to"]), (&2.into(), &4.into()));
    net.run(
        3,
        "history get --account 0 --from 6 --to 7 --out later GENESIS",
    )
    .ok();
    let gap = verify("ann-1.history later-1.history").fails(7);
    assert!(gap.is_empty(), "it is in the table: {gap}");
    let grown = net.run(2, "consistency get --old 2 --out grown.consistency GENESIS");
    assert_eq!(grown.json()["old height"], 2);
    let check = |file: &str| {
        let verify = format!("--format json consistency verify {file} --genesis net/genesis.json");
        run(folder, &verify)
    };
    check("grown.consistency").ok();
    let other = check("ann-1.history");
    let said = "ann-1.history is a history file, expected was a consistency file";
    assert!(
        other.out.contains(said) && other.out.contains("tally history verify"),
        "{other:?}"
    );
    other.fails(10);
    let mut bytes = std::fs::read(folder.join("ann-1.history")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(folder.join("altered.history"), bytes).unwrap();
    verify("altered.history").fails(7);
    let bytes = std::fs::read(folder.join("ann-1.history")).unwrap();
    std::fs::write(folder.join("cut.history"), &bytes[..bytes.len() / 2]).unwrap();
    let cut = verify("cut.history");
    assert!(
        cut.out.contains("cannot be read as a history file"),
        "{cut:?}"
    );
    cut.fails(10);
    // What is false outweighs what cannot be read.
    let both = verify("altered.history cut.history");
    assert!(
        both.out.contains("NO: ") && both.out.contains("NOT READ: "),
        "{both:?}"
    );
    both.fails(7);
    // So it does what is not there, in either order; all are listed.
    for files in [
        "altered.history gone.history",
        "gone.history altered.history",
    ] {
        let both = verify(&format!("{files} ann-1.history"));
        let rows: Value = serde_json::from_str(&both.out).unwrap();
        let said = |begin: &str| {
            let rows = rows.as_array().unwrap().iter();
            rows.filter(|row| row["verified"].as_str().unwrap().starts_with(begin))
                .count()
        };
        assert_eq!(
            (said("NO: "), said("NOT VERIFIED: "), said("yes")),
            (1, 1, 1),
            "{both:?}"
        );
        both.fails(7);
    }
    verify("ann-1.history gone.history").fails(1);
    let proof = "verify --home net/v0 --level roots --proof net/keys/issuer-0.pub";
    let proof = run(folder, proof).fails(10);
    assert!(proof.contains("is a key file"), "{proof}");
}

/// Roles, classes, parameters, prices and gateways: two admins sign.
fn govern(net: &Net) {
    let folder = net.folder.path();
    let admins = "GENESIS --key KEYS/admin-0.key --key KEYS/admin-1.key";
    let error = net.run(
        0,
        "parameter set heartbeat_ms=4000 GENESIS --key KEYS/admin-0.key",
    );
    assert!(error.fails(4).contains("ThresholdMissing (33)"));
    entry(
        &net.run(0, &format!("parameter set heartbeat_ms=4000 {admins}"))
            .json(),
        "ParametersSet",
    );
    assert_eq!(
        net.run(1, "parameter show GENESIS").json()["heartbeat_ms"],
        4000
    );
    let shown = net.run(1, "parameter show GENESIS").json();
    assert_eq!(
        (&shown["fee_unit"], &shown["key.requests"]),
        (&"0.001000".into(), &"none".into())
    );
    let unknown = net.run(0, &format!("parameter set-rates class.5.tokens=9 {admins}"));
    assert!(unknown.fails(4).contains("UnknownClass (41)"));
    let set = "parameter set-rates key.requests=60 class.priority.tokens=9000 fee_unit=0.002";
    entry(&net.run(0, &format!("{set} {admins}")).json(), "RatesSet");
    let more = net.run(1, &format!("parameter set-rates account.tokens=5 {admins}"));
    entry(&more.json(), "RatesSet");
    let shown = net.run(2, "parameter show GENESIS").json();
    assert_eq!(
        (&shown["fee_unit"], &shown["key.requests"]),
        (&"0.002000".into(), &60.into())
    );
    assert_eq!(shown["class.priority.tokens"], 9000);
    assert_eq!(shown["account.tokens"], 5);

    run(folder, "keypair create eva.key --kind person").ok();
    let persons = net
        .run(0, "role list GENESIS")
        .json()
        .as_array()
        .unwrap()
        .len();
    let set = format!("role set --person {persons} --public eva.pub --role auditor {admins}");
    entry(&net.run(0, &set).json(), "RoleSet");
    assert_eq!(
        net.run(0, "role list GENESIS").json()[persons]["roles"],
        "auditor"
    );

    write(
        folder,
        "bio.toml",
        "name = \"bio\"\nmodels = [\"tally-large\"]\nmax_fee = \"0\"\n\
          burn = \"neither\"\nsupply_cap = \"unlimited\"\nperiod_days = 7\n",
    );
    entry(
        &net.run(0, &format!("class set --class 2 --rules bio.toml {admins}"))
            .json(),
        "ClassSet",
    );
    assert_eq!(net.run(1, "class list GENESIS").json()[2]["name"], "bio");

    let example = run(folder, "genesis example").ok();
    let models = &example[example.find("[[model]]").unwrap()..example.find("# Base").unwrap()];
    write(folder, "prices.toml", &models.replace("80000", "90000"));
    let priced = net.run(0, &format!("price set --models prices.toml {admins}"));
    entry(&priced.json(), "PriceTableSet");
    let shown = wait_for("price table 2", LIMIT, || {
        let shown = net.run(0, "price show GENESIS").json();
        (shown["version"] == 2).then_some(shown)
    });
    assert_eq!(shown["models"][0]["meters"][2]["coefficient"], 90_000);

    run(folder, "keypair create gw.key --kind gateway").ok();
    let caps = "--open 10 --open-account 5 --hour 100 --hour-account unlimited";
    let registered = net.run(
        0,
        &format!("gateway-key register --public gw.pub {caps} {admins}"),
    );
    assert_eq!(entry(&registered.json(), "GatewayRegistered")["gateway"], 1);
    run(folder, "keypair create gw-2.key --kind gateway").ok();
    let rotated = net.run(
        0,
        &format!("gateway-key rotate 1 --public gw-2.pub {caps} {admins}"),
    );
    entry(&rotated.json(), "GatewayKeySet");
    let stopped = net.run(0, "gateway-key suspend 1 GENESIS --key KEYS/admin-0.key");
    entry(&stopped.json(), "GatewaySuspended");
}

/// A CSV file that is run twice issues nothing twice.
fn csv_twice(net: &Net) {
    let folder = net.folder.path();
    let issuer = run(folder, "--format json keypair show net/keys/issuer-0.key").json();
    let csv = format!(
        "# valid_until: {}\n# signers: person:{}\nref,account,class,amount,vests,expires\n\
         a,0,innovation,1,,2099-01-01\nb,0,innovation,1,,2099-01-01\n",
        in_a_day(net),
        issuer["number"],
    );
    write(folder, "grants.csv", &csv);
    let line = "grant issue --csv grants.csv GENESIS --key KEYS/issuer-0.key";
    let first = net.run(0, line).json();
    assert_eq!(first[1]["outcome"], "final");
    let count = |net: &Net| {
        net.run(0, "grant list --account 0 GENESIS")
            .json()
            .as_array()
            .unwrap()
            .len()
    };
    let grants = count(net);
    let second = net.run(1, line).json();
    assert_eq!(second[0]["height"], first[0]["height"]);
    assert_eq!(count(net), grants);
}

/// A full hour within the next day, taken from a draft's own end.
fn in_a_day(net: &Net) -> String {
    let folder = net.folder.path();
    let drafted = net.run(
        0,
        "account freeze 0 GENESIS --key KEYS/issuer-0.key --valid-for 20h --draft day.json",
    );
    drafted.ok();
    let shown = run(folder, "--format json tx show day.json").json();
    shown["valid until"].as_str().unwrap().to_owned()
}

/// One validator less: degraded. Two less: nothing is final, and a
/// transaction whose outcome is open is handed in again, not made again.
#[test]
fn without_a_quorum_nothing_is_final_and_nothing_is_lost() {
    let mut net = Net::start(4);
    let all = |net: &Net| {
        let also: Vec<String> = net.grpc[1..]
            .iter()
            .map(|node| format!("--also {node}"))
            .collect();
        net.run(0, &format!("status {}", also.join(" "))).code
    };
    wait_for("a healthy chain", LIMIT, || (all(&net) == 0).then_some(()));
    net.kill(3);
    wait_for("a degraded chain", LIMIT, || (all(&net) == 8).then_some(()));
    entry(&net.run(0, OPEN).json(), "AccountOpened");
    net.kill(2);
    let open = net.run(
        1,
        "account freeze 0 GENESIS --key KEYS/issuer-0.key --timeout 3s",
    );
    assert_eq!(open.code, 5, "{}{}", open.out, open.err);
    let kept = open.err.split_whitespace().last().unwrap().to_owned();
    wait_for("a chain that is not final", LIMIT, || {
        (all(&net) == 9).then_some(())
    });
    net.start_node(2);
    let done = net
        .run(1, &format!("tx submit {kept} --timeout 60s"))
        .json();
    entry(&done, "Frozen");
    net.start_node(3);
    wait_for("a healthy chain again", LIMIT, || {
        (all(&net) == 0).then_some(())
    });
    let height = net.wait_height(0, 1);
    net.wait_height(3, height);
    assert_eq!(net.run(3, "account show 0 GENESIS").json()["frozen"], true);
}

/// What the block files imply is rebuilt from them.
#[test]
fn a_deleted_index_is_rebuilt() {
    let mut net = Net::start(4);
    let opened = net.run(0, OPEN).json();
    net.wait_height(1, opened["height"].as_u64().unwrap());
    let error = run(net.folder.path(), "reindex --home net/v1").fails(1);
    assert!(error.contains("another node runs"), "{error}");
    net.kill(1);
    let home = net.folder.path().join("net/v1");
    std::fs::remove_dir_all(home.join("data/index")).unwrap();
    let rebuilt = run(net.folder.path(), "--format json reindex --home net/v1").json();
    assert!(rebuilt["height"].as_u64() >= opened["height"].as_u64());
    net.start_node(1);
    net.wait_height(1, opened["height"].as_u64().unwrap());
    let entries = net.run(1, "entry list --account 0").json();
    assert_eq!(entries[0]["what"], "AccountOpened");
}
