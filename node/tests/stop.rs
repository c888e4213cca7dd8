//! Signals: at SIGTERM a node and a gateway stop in order, with exit code 0,
//! and start again as if nothing had been; at SIGHUP a gateway reads its
//! configuration again.

#![allow(clippy::unwrap_used)]

mod cli_common;

use std::{fs, thread::JoinHandle};

use cli_common::{
    LIMIT, Net, chat,
    gateway::{Metered, STOP},
    http, post, run, wait_for,
};
use serde_json::Value;

/// What is leased of account 0, over all classes.
fn leased(net: &Net) -> Vec<String> {
    let account = net.run(1, "account show 0 GENESIS").json();
    let totals = account["totals"].as_array().unwrap();
    let leased = totals.iter().map(|total| total["leased"].to_string());
    leased.filter(|amount| amount != "\"0.000000\"").collect()
}

const BODY: &str = r#"{"model": "tally-base", "messages": [{"role": "user", "content": "hello"}]}"#;

/// Asks for an answer, whatever it is.
fn answer(url: &str, secret: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let address = address.strip_suffix("/v1").unwrap();
    chat(address, secret, BODY)
}

fn hold_of(answer: &str) -> String {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let hold = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-tally-receipt: "));
    hold.unwrap().to_owned()
}

/// Asks for an answer; gives the hold that its receipt settles.
fn ask(url: &str, secret: &str) -> String {
    hold_of(&answer(url, secret))
}

fn receipt(net: &Net, i: usize, hold: &str) -> i32 {
    let file = format!("{hold}-{i}.receipt");
    let _ = fs::remove_file(net.folder.path().join(&file));
    net.run(
        i,
        &format!("receipt get --hold {hold} --out {file} GENESIS"),
    )
    .code
}

/// Asks with a priority fee, from a thread of its own.
fn ask_for(address: &str, secret: &str, fee: &str) -> JoinHandle<String> {
    let head = format!("authorization: Bearer {secret}\r\nx-tally-priority-fee: {fee}");
    let (address, body) = (address.to_owned(), BODY.to_owned());
    std::thread::spawn(move || post(&address, &head, &body))
}

/// Five requests before an engine with one place; what the log then shows of
/// their order, for the unit that the gateway goes by and for another one.
fn audit_queue(metered: &Metered, url: &str) {
    let net = &metered.net;
    let address = url.strip_prefix("http://").unwrap();
    let address = address.strip_suffix("/v1").unwrap();
    let ask = |fee| ask_for(address, &metered.secrets[0], fee);
    // Then there is a lease of each class.
    for fee in ["0", "0.5"] {
        hold_of(&ask(fee).join().unwrap());
    }
    // The engine is held up until all are there.
    metered.signal_engine("STOP");
    let mut sent = vec![ask("0")];
    for (i, fee) in ["0", "0", "0.02", "0.5"].into_iter().enumerate() {
        sent.push(ask(fee));
        let line = format!("}} {}", i + 1);
        wait_for("request in the queue", LIMIT, || {
            let metrics = http(address, "GET", "/metrics", "");
            let mut queued = metrics
                .lines()
                .filter(|line| line.contains("queued_requests{"));
            queued.any(|queued| queued.ends_with(&line)).then_some(())
        });
    }
    metered.signal_engine("CONT");
    let answers = sent.into_iter().map(|answer| answer.join().unwrap());
    let holds: Vec<String> = answers.map(|answer| hold_of(&answer)).collect();
    for hold in &holds {
        wait_for("receipt of an answer", LIMIT, || {
            (receipt(net, 1, hold) == 0).then_some(())
        });
    }
    let audit = "gateway audit-queue GENESIS";
    let found = net.run(1, &format!("{audit} --gateway 0")).json();
    assert_eq!(found["order kept"], "yes", "{found}");
    assert_eq!(
        (&found["queues"], &found["violations"]),
        (&1.into(), &0.into())
    );
    assert!(found["checked"].as_u64().unwrap() >= 7, "{found}");
    // Four waited for the fifth, and for each other.
    assert_eq!(found["pairs that waited at the same time"], 6, "{found}");
    let nobody = net.run(1, &format!("{audit} --gateway 9")).json();
    assert_eq!(
        (&nobody["requests"], &nobody["order kept"]),
        (&0.into(), &"yes".into())
    );
    net.run(1, &format!("{audit} --from 9 --to 8")).fails(2);
    let error = net.run(1, "gateway --home gateway audit-queue GENESIS");
    assert!(error.fails(2).contains("asks a node"));

    // Were a second worth 1,000 CT, nobody could have passed anybody.
    let wrong = net.run(1, &format!("{audit} --unit 1000"));
    assert_eq!(wrong.code, 7, "{}{}", wrong.out, wrong.err);
    let wrong: Value = serde_json::from_str(&wrong.out).unwrap();
    assert_eq!(wrong["order kept"], "NO");
    let row = &wrong["found"][0];
    assert_eq!(row["what"], "let go too early");
    assert_eq!(
        (&row["fee"], &row["passed fee"]),
        (&"0.500000".into(), &"0.000000".into())
    );
    let number = |name: &str| row[name].as_u64().unwrap();
    assert!(number("dispatched") < number("passed dispatched"));
    assert!(number("passed joined") < number("joined"));
    let entry = format!(
        "receipt get --index {} --out one.receipt GENESIS",
        number("entry")
    );
    net.run(2, &entry).ok();
    let explain = "--format json receipt explain one.receipt --genesis net/genesis.json";
    let explained = run(net.folder.path(), explain).json();
    assert_eq!(explained["queue"], 1);
    assert_eq!(explained["joined"], row["joined"]);
    assert_eq!(explained["dispatched"], row["dispatched"]);

    // Another unit; who came within a minute of the change is not judged.
    net.run(
        0,
        "parameter set-rates fee_unit=0.002 GENESIS --key KEYS/admin-0.key --key KEYS/admin-1.key",
    )
    .ok();
    let later = hold_of(&ask("0").join().unwrap());
    wait_for("receipt of a later answer", LIMIT, || {
        (receipt(net, 1, &later) == 0).then_some(())
    });
    let found = net.run(1, audit).json();
    assert_eq!(found["changes of the fee unit"], 1, "{found}");
    let unjudged = &found["not judged, close to a change of the fee unit"];
    assert_eq!((unjudged, &found["order kept"]), (&8.into(), &"yes".into()));
}

#[test]
fn a_gateway_returns_its_leases_and_nodes_stop_clean() {
    let mut metered = Metered::with("--think-ms 100", Some(1));
    metered.start_gateway();
    let url = metered.serving();
    audit_queue(&metered, &url);
    let first = ask(&url, &metered.secrets[0]);
    assert!(!leased(&metered.net).is_empty(), "it serves from a lease");
    assert_eq!(metered.terminate_gateway(), 0);
    assert_eq!(leased(&metered.net), Vec::<String>::new());
    assert_eq!(
        receipt(&metered.net, 1, &first),
        0,
        "settled before the end"
    );

    metered.start_gateway();
    let url = metered.serving();
    let second = ask(&url, &metered.secrets[0]);
    let journal = |hold: &str| hold.split('-').nth(1).unwrap().to_owned();
    assert_eq!(journal(&first), journal(&second), "the journal goes on");

    // SIGHUP: another configuration is in force, a bad one is not.
    let mut upstreams = Vec::new();
    let said =
        metered.reload_gateway(|config| std::mem::swap(&mut config.upstreams, &mut upstreams));
    assert!(said.contains("is in force"), "{said}");
    let refused = answer(&url, &metered.secrets[0]);
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    let said = metered.reload_gateway(|config| config.limits.wait_ms -= 1);
    assert!(said.contains("limits.wait_ms: only a restart"), "{said}");
    let said = metered.reload_gateway(|config| {
        config.limits.wait_ms += 1;
        config.upstreams = upstreams;
    });
    assert!(said.contains("is in force"), "{said}");
    ask(&url, &metered.secrets[0]);

    // Nodes, one after the other, with a gateway that follows them.
    for i in 0..4 {
        assert_eq!(metered.net.terminate(i, STOP), 0, "validator {i}");
        let log = fs::read_to_string(metered.net.log(i)).unwrap();
        let last = log.lines().last().unwrap();
        assert!(last.contains("node stopped"), "{last}");
        metered.net.start_node(i);
        let status = metered.net.status((i + 1) % 4);
        metered
            .net
            .wait_height(i, status["height"].as_u64().unwrap());
    }
    for i in 0..4 {
        wait_for("receipt of the second answer", LIMIT, || {
            (receipt(&metered.net, i, &second) == 0).then_some(())
        });
        let log = fs::read_to_string(metered.net.log(i)).unwrap();
        assert!(!log.contains("half-written"), "{log}");
    }
    ask(&url, &metered.secrets[0]);
    assert_eq!(metered.terminate_gateway(), 0);
    assert_eq!(leased(&metered.net), Vec::<String>::new());

    // All at once: nobody waits for a quorum to be able to stop.
    for i in 0..4 {
        assert_eq!(metered.net.terminate(i, STOP), 0, "validator {i}");
    }
}
