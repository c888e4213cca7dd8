//! What somebody outside checks with the command line: receipts, histories
//! and exports under a checkpoint that a witness cosigned.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tally_ledger::checkpoint::{LogKeys, sign_note};
use tally_node::Engine;
use tokio::task::block_in_place;

use crate::{
    checkpoints::{NAME, Outsider, configure, leaves, log_size, served, write_tiles},
    cli_common::{Ran, run},
    net::{CT, Net},
};

/// Every file below a folder with its bytes, by name.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Flips a bit of a file, runs something, and puts the file back.
fn with_flipped(path: &Path, at: usize, then: impl FnOnce()) {
    let bytes = fs::read(path).unwrap();
    let mut flipped = bytes.clone();
    flipped[at] ^= 4;
    fs::write(path, flipped).unwrap();
    then();
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_learns_whether_it_is_final_or_witnessed() {
    let net = Net::new(1);
    let log = LogKeys::new(&net.genesis);
    let outsider = Outsider::start(&net, "127.0.0.1:0".parse().unwrap(), true).await;
    let key = outsider.key.clone();
    configure(&net, Some(&outsider));
    let node = net.start(0, Engine::Solo).await;
    net.prepare(&node, 100 * CT).await;
    node.finalise(net.debits(1, 300, 1, 0, 1000)).await;
    node.finalise(net.debits(301, 40, 1, 0, 1000)).await;
    let size = log_size(&node).await;
    let signed = served(&node, &log, size, std::slice::from_ref(&key)).await;
    let honest = leaves(node.http, &signed.checkpoint).await;

    let folder = net.dir.path();
    let grpc = net.homes[0].config().unwrap().listen.grpc;
    let prefix = format!("http://{}", node.http);
    let tally = |line: &str| -> Ran {
        let line = line
            .replace("GENESIS", "--genesis v0/genesis.json")
            .replace("NODE", &format!("--node {grpc}"))
            .replace("LOG", &format!("--log {prefix}"))
            .replace("WITNESS", &format!("--witness {key} --witnesses 1"));
        block_in_place(|| run(folder, &format!("--format json {line}")))
    };
    let witnessed = format!("witnessed by 1 ({NAME})");

    // Receipts: final by themselves, witnessed under a checkpoint.
    let row = tally("receipt get --debit 0/1/7 --out 7.receipt GENESIS NODE").json();
    assert_eq!(row["finality"], "final");
    tally("receipt get --debit 0/1/320 --out 320.receipt GENESIS NODE").ok();
    let row = tally("receipt prove 7.receipt LOG --out 7.tlog-proof GENESIS WITNESS").json();
    assert_eq!(row["finality"], witnessed.as_str());
    assert!(row["entries"].as_u64().unwrap() >= size);
    let verify = "receipt verify 7.receipt GENESIS";
    let finality = |ran: Ran| ran.json()[0]["finality"].clone();
    assert_eq!(finality(tally(verify)), "final");
    // A checkpoint is not witnessed by a witness that nobody named.
    let proven = format!("{verify} --checkpoint 7.tlog-proof");
    assert_eq!(finality(tally(&proven)), "final");
    assert_eq!(
        finality(tally(&format!("{proven} WITNESS"))),
        witnessed.as_str()
    );
    assert_eq!(
        finality(tally(&format!("{verify} LOG WITNESS"))),
        witnessed.as_str()
    );
    let both = tally("receipt verify 7.receipt 320.receipt GENESIS LOG WITNESS").json();
    assert_eq!(both[1]["finality"], witnessed.as_str());
    let explained = tally("receipt explain 7.receipt GENESIS LOG WITNESS").json();
    assert_eq!(explained["finality"], witnessed.as_str());
    // Another receipt, another witness, no checkpoint, no way there.
    let other = "receipt verify 320.receipt GENESIS --checkpoint 7.tlog-proof WITNESS";
    tally(other).fails(7);
    let stranger = "witness.example/w1+cb6cf90e+BGKmEbRy2JsOX8k8BpufcAtMVS1VvA6HtWAI7xe2sr6+";
    let error = tally(&format!("{verify} LOG --witness {stranger}")).fails(7);
    assert!(error.contains("witnessed by 0, 1 needed"), "{error}");
    tally(&format!("{verify} WITNESS")).fails(2);
    fs::write(folder.join("plain"), signed.note.to_string()).unwrap();
    let ran = tally(&format!("{verify} --checkpoint plain WITNESS"));
    assert!(ran.out.contains("--log") && ran.code == 2, "{ran:?}");
    // A false one outweighs that no way to the checkpoint was given.
    let mut altered = fs::read(folder.join("320.receipt")).unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(folder.join("altered.receipt"), &altered).unwrap();
    for files in ["altered.receipt 7.receipt", "7.receipt altered.receipt"] {
        let ran = tally(&format!(
            "receipt verify {files} GENESIS --checkpoint plain WITNESS"
        ));
        let said = |what: &str| ran.out.contains(what);
        assert!(
            ran.code == 7 && said("NO: ") && said("NOT VERIFIED: ") && said("--log"),
            "{ran:?}"
        );
    }

    // Of a file of many, each is explained, and the one that is named proven.
    tally("receipt get --debit 0/1/7 --debit 0/1/320 --out two.receipts GENESIS NODE").ok();
    let explained = tally("receipt explain two.receipts GENESIS").json();
    let [first, second] = &explained.as_array().unwrap()[..] else {
        panic!("two receipts: {explained}");
    };
    let alone = tally("receipt explain 7.receipt GENESIS").json();
    for field in ["sum", "cost", "charged", "account", "hold", "entry"] {
        assert_eq!(first[field], alone[field], "{field}: {explained}");
    }
    let named = format!("--hold {}", second["hold"].as_str().unwrap());
    let one = tally(&format!("receipt explain two.receipts {named} GENESIS")).json();
    assert_eq!(&one, second);
    let prove = |named: &str| {
        let line = "receipt prove two.receipts LOG --out two.tlog-proof GENESIS WITNESS";
        tally(&format!("{line} {named}"))
    };
    let which = prove("").fails(2);
    assert!(which.contains("name one by --hold"), "{which}");
    let none = prove("--hold 0/1/9999").fails(2);
    assert!(
        none.contains("hold 0/1/9999 is not in these files"),
        "{none}"
    );
    assert_eq!(prove(&named).json()["entry"], second["entry"]);
    let verify_two = "receipt verify two.receipts GENESIS --checkpoint two.tlog-proof WITNESS";
    let rows = tally(&format!("{verify_two} {named}")).json();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["finality"], witnessed.as_str());
    let all = tally(verify_two);
    assert!(all.out.contains("the tlog-proof is of entry"), "{all:?}");
    all.fails(7);
    // Without details an entry has no hold, and its cost no formula.
    let bare = "receipt get --debit 0/1/7 --debit 0/1/320 --without-details";
    tally(&format!("{bare} --out bare.receipts GENESIS NODE")).ok();
    let ran = tally("receipt explain bare.receipts GENESIS");
    assert!(
        ran.code == 1 && ran.out.contains("the detail is not kept"),
        "{ran:?}"
    );
    let none = tally(&format!("receipt explain bare.receipts {named} GENESIS")).fails(2);
    assert!(none.contains("--index"), "{none}");
    // One kind for another, here and where evidence is made.
    let explain = |files: &str, code: i32, wanted: &str| {
        let ran = tally(&format!("receipt explain {files} GENESIS"));
        assert!(ran.code == code && ran.out.contains(wanted), "{ran:?}");
    };
    explain("ann-0.history", 1, "reading ann-0.history");
    explain("v0/genesis.json", 10, "is a genesis file");
    // Neither hides that another one is false.
    explain(
        "v0/genesis.json altered.receipt 7.receipt",
        7,
        "is a genesis file",
    );
    explain("altered.receipt ann-0.history bare.receipts", 7, "NO: ");
    explain("v0/genesis.json 7.receipt", 10, "nano-CT");

    // Histories and consistency say it too; an account's state is final.
    let row = tally("history get --account 0 --out ann GENESIS NODE").json();
    assert_eq!(row[0]["finality"], "final");
    let ran = tally("history verify ann-1.history GENESIS LOG WITNESS");
    let row = ran.json();
    assert!(row[0]["finality"] == witnessed.as_str(), "{row}");
    tally("consistency get --old 2 --new 5 --out c GENESIS NODE LOG WITNESS").ok();
    let row = tally("consistency verify c GENESIS LOG WITNESS").json();
    assert_eq!(row[0]["finality"], witnessed.as_str());
    let account = tally("account show 0 GENESIS NODE").json();
    assert_eq!(account["finality"], "final");

    // The log as files, twice: the second time only what is new.
    let row = tally("export tiles site LOG GENESIS").json();
    assert_eq!(row["new"], row["tiles"]);
    let again = tally("export tiles site LOG GENESIS").json();
    assert!(again["new"].as_u64() < row["tiles"].as_u64());
    let checked = tally("checkpoint verify site --log site GENESIS WITNESS").json();
    assert_eq!(checked[0]["finality"], witnessed.as_str());
    assert_eq!(checked[0]["validators"], json!([0]));
    assert_eq!(
        finality(tally(&format!("{verify} --log site WITNESS"))),
        witnessed.as_str()
    );
    let keys = tally("checkpoint keys GENESIS").json();
    assert_eq!(keys["keys"], json!([log.keys()[0].to_string()]));
    assert_eq!(
        (&keys["log"], &keys["a quorum is"]),
        (&json!(log.origin()), &json!(1))
    );
    let shown = tally("checkpoint show site").json();
    assert_eq!(shown["log"], log.origin());
    for name in ["tile/0/000", "tile/entries/000", "tile/1/000.p/1"] {
        with_flipped(&folder.join("site").join(name), 20, || {
            let ran = tally("checkpoint verify site --log site GENESIS");
            assert!(ran.code == 7 && ran.out.contains("NO: "), "{name}: {ran:?}");
            // Nor does an export pass over it.
            tally("export tiles site LOG GENESIS").fails(7);
        });
    }
    // What a source got wrong is not kept, so the next export is whole; nor
    // what a run that was killed had fetched.
    for (name, at) in [("tile/0/000", 20), ("tile/entries/000", 30)] {
        with_flipped(&folder.join("site").join(name), at, || {
            let error = tally("export tiles copy --log site GENESIS").fails(7);
            assert!(error.contains("nothing was added"), "{error}");
        });
        assert!(tree(&folder.join("copy")).is_empty());
    }
    let killed = folder.join("copy/.unverified/tile/0/000");
    fs::create_dir_all(killed.parent().unwrap()).unwrap();
    fs::write(killed, "half").unwrap();
    tally("export tiles copy --log site GENESIS").fails(7);
    tally("export tiles copy --log site GENESIS").ok();
    assert!(!folder.join("copy/.unverified").exists());
    tally("checkpoint verify copy --log copy GENESIS WITNESS").ok();
    with_flipped(&folder.join("site/checkpoint"), 80, || {
        tally("checkpoint verify site GENESIS").fails(7);
    });

    // A second history, signed by the same validator: under its checkpoint
    // no receipt of the first one stands.
    let mut forged = honest.clone();
    forged[6][3] ^= 1;
    write_tiles(&folder.join("forged"), &forged);
    let tree_of = |leaves: &[Vec<u8>]| {
        use tally_ledger::merkle::{leaf_hash, root_of};
        root_of(
            &leaves
                .iter()
                .map(|leaf| leaf_hash(leaf))
                .collect::<Vec<_>>(),
        )
    };
    let mut second = signed.checkpoint.clone();
    second.root = tree_of(&forged);
    let secret = net.homes[0].keys().unwrap().checkpoint;
    let note = sign_note(&second, log.keys(), [(0, second.sign(&secret))]).unwrap();
    fs::write(folder.join("forged/checkpoint"), note.to_string()).unwrap();
    tally("checkpoint verify forged --log forged GENESIS").ok();
    tally("checkpoint verify forged GENESIS WITNESS").fails(7);
    let ran = tally(&format!("{verify} --log forged"));
    let row: Value = serde_json::from_str(&ran.out).unwrap();
    let why = row[0]["verified"].as_str().unwrap();
    assert!(ran.code == 7 && why.contains("TWO HISTORIES"), "{ran:?}");

    // From the home of a node that does not run: the same files.
    node.stop().await;
    outsider.stop().await;
    tally("export tiles from-home --home v0 GENESIS").ok();
    let (home, site) = (tree(&folder.join("from-home")), tree(&folder.join("site")));
    let full = |files: &[(String, Vec<u8>)]| {
        let full = |(name, _): &&(String, Vec<u8>)| name != "checkpoint" && !name.contains(".p/");
        files.iter().filter(full).cloned().collect::<Vec<_>>()
    };
    assert_eq!(full(&home), full(&site));
    tally("checkpoint verify from-home --log from-home GENESIS WITNESS").ok();

    // A home whose log is shorter than what was signed: nothing is written.
    let mut longer = signed.checkpoint.clone();
    longer.size += 1000;
    let note = sign_note(&longer, log.keys(), [(0, longer.sign(&secret))]).unwrap();
    fs::write(net.homes[0].checkpoints().join("latest"), note.to_string()).unwrap();
    let error = tally("export tiles short --home v0 GENESIS").fails(1);
    assert!(error.contains("start the node"), "{error}");
    assert!(!folder.join("short").exists());
}
