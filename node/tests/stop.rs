//! Signals: at SIGTERM a node and a gateway stop in order, with exit code 0,
//! and start again as if nothing had been; at SIGHUP a gateway reads its
//! configuration again.

#![allow(clippy::unwrap_used)]

mod cli_common;

use std::{fs, time::Duration};

use cli_common::{LIMIT, Net, chat, gateway::Metered, wait_for};

/// How long a node that stops in order may take.
const STOP: Duration = Duration::from_secs(10);

/// What is leased of account 0, over all classes.
fn leased(net: &Net) -> Vec<String> {
    let account = net.run(1, "account show 0 GENESIS").json();
    let totals = account["totals"].as_array().unwrap();
    let leased = totals.iter().map(|total| total["leased"].to_string());
    leased.filter(|amount| amount != "\"0.000000\"").collect()
}

/// Asks for an answer, whatever it is.
fn answer(url: &str, secret: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let address = address.strip_suffix("/v1").unwrap();
    let body = r#"{"model": "tally-base", "messages": [{"role": "user", "content": "hello"}]}"#;
    chat(address, secret, body)
}

/// Asks for an answer; gives the hold that its receipt settles.
fn ask(url: &str, secret: &str) -> String {
    let answer = answer(url, secret);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let hold = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-tally-receipt: "));
    hold.unwrap().to_owned()
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

#[test]
fn a_gateway_returns_its_leases_and_nodes_stop_clean() {
    let mut metered = Metered::new("");
    metered.start_gateway();
    let url = metered.serving();
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
