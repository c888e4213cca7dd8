//! Starts that cannot work: each says what is wrong, and changes nothing.

use std::time::Duration;

use crate::support::{Setup, chat, send};
use serde_json::json;
use tally_gateway_adapter::{Gateway, GatewayConfig, GatewayError, run_gateway};

const PLENTY: u64 = 1_000_000;

/// Why a start with this configuration ends.
async fn why(config: &GatewayConfig) -> GatewayError {
    let started = tokio::time::timeout(crate::support::DEADLINE, Gateway::start(config.clone()));
    started.await.unwrap().unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_start_is_named() {
    let setup = Setup::new(PLENTY).await;
    let home = setup.home.path().to_owned();
    let running = setup.gateway().await;
    // The home is another process's.
    let error = why(&setup.config).await;
    assert!(matches!(error, GatewayError::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by another gateway"));
    assert_eq!(send(running.http, &chat(5, json!({}))).await.status, 200);
    running.stop().await.unwrap();
    // The address is another process's.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = setup.config.clone();
    config.listen.http = taken.local_addr().unwrap();
    let error = why(&config).await.to_string();
    let address = config.listen.http.to_string();
    assert!(
        error.contains("cannot listen on") && error.contains(&address),
        "{error}"
    );
    // The key is another gateway's.
    let mut config = setup.config.clone();
    config.gateway = Some(1);
    let error = why(&config).await;
    assert!(matches!(error, GatewayError::NotOurs(_)), "{error}");
    // Files that are missing, or are something else.
    for (file, text, named) in [
        ("gateway.key", None, "gateway.key"),
        (
            "gateway.key",
            Some("kind = \"issuer\""),
            "not a secret key file",
        ),
        ("genesis.json", None, "genesis.json"),
        ("genesis.json", Some("{}"), "genesis.json"),
    ] {
        let before = std::fs::read(home.join(file)).unwrap();
        match text {
            Some(text) => std::fs::write(home.join(file), text).unwrap(),
            None => std::fs::remove_file(home.join(file)).unwrap(),
        }
        let error = why(&setup.config).await.to_string();
        assert!(error.contains(named), "{named}: {error}");
        std::fs::write(home.join(file), before).unwrap();
    }
    // The journal is of another gateway.
    let mut config = setup.config.clone();
    config.gateway = Some(1);
    let key = tally_ledger::ids::GatewayNumber(1).into();
    crate::support::write_key(
        &home.join("other.key"),
        &crate::support::chain::key_of(key),
        1,
    );
    config.key = "other.key".into();
    let error = why(&config).await;
    assert!(matches!(error, GatewayError::Start(_)), "{error}");
    assert!(
        error.to_string().contains("the journal is of gateway 0"),
        "{error}"
    );
    // After all that it starts as if nothing had been.
    let running = setup.gateway().await;
    assert_eq!(send(running.http, &chat(5, json!({}))).await.status, 200);
    running.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_nodes_that_prove_its_chain_and_can_be_stopped() {
    let setup = Setup::new(PLENTY).await;
    let (_socket, nobody) = crate::support::nowhere();
    let mut unreachable = setup.config.clone();
    unreachable.nodes = vec![nobody.to_string()];
    let other = Setup::new(PLENTY).await;
    let mut other_chain = setup.config.clone();
    other_chain.nodes = other.config.nodes.clone();
    let mut unregistered = setup.config.clone();
    unregistered.gateway = Some(9);
    for config in [unreachable, other_chain, unregistered] {
        // Its ports are open, but it does not serve; SIGTERM ends it.
        let stop = tokio::time::sleep(Duration::from_millis(500));
        run_gateway(config, stop).await.unwrap();
    }
    assert!(
        !setup
            .home
            .path()
            .join("journal/00000000000000000001.journal")
            .exists()
    );
    setup.gateway().await.stop().await.unwrap();
    setup.chain.check();
}
