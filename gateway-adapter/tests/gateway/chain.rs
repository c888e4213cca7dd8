//! How the gateway deals with the chain: many leases at once, and what can
//! never be taken.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Setup, chain, chat, send, send_as, until};
use serde_json::json;
use tally_gateway_adapter::chain::leases::IN_FLIGHT;
use tally_ledger::reason::Reason;

const ACCOUNTS: u32 = 48;

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_many_accounts_are_asked_for_at_once() {
    let setup = Setup::new(1_000_000).await;
    for account in 1..ACCOUNTS {
        setup.chain.open_account();
        setup.chain.issue(account, chain::MAIN, 1_000_000);
        setup.chain.bind(account);
    }
    let gateway = setup.gateway().await;
    setup.chain.slow.store(true, Ordering::Relaxed);
    setup.chain.most_submitting.store(0, Ordering::Relaxed);
    let mut tasks = tokio::task::JoinSet::new();
    for key in 0..ACCOUNTS {
        let to = gateway.http;
        tasks.spawn(
            async move { send_as(to, &chat(5, json!({})), &chain::api_key_text(key)).await },
        );
    }
    let submitting = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    until("as many as may be", || {
        submitting(&setup.chain.submitting) >= IN_FLIGHT
    })
    .await;
    // Longer than a lease that is next may be refused as one that is not.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    setup.chain.slow.store(false, Ordering::Relaxed);
    let answers = tasks.join_all().await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    // One batch of debits may be among them.
    let most = submitting(&setup.chain.most_submitting);
    assert!(most <= IN_FLIGHT + 1, "{most}");
    gateway.stop().await.unwrap();
    assert!(setup.chain.gateway().last_lease.0 >= u64::from(ACCOUNTS));
    for account in 0..ACCOUNTS {
        let totals = setup.chain.totals(account, chain::MAIN);
        assert_eq!((totals.spent.0, totals.leased.0), (30, 0));
    }
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn debits_that_are_refused_for_good_stop_the_gateway() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let refuse = |reason| *setup.chain.refuse_debits.lock().unwrap() = reason;
    // A node that is behind says so too: the same bytes are sent again.
    refuse(Some(Reason::LeaseAhead));
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    refuse(None);
    until("the debit is taken", || setup.chain.receipts().len() == 1).await;
    refuse(Some(Reason::DebitForm));
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    let error = gateway.ended().await.unwrap_err().to_string();
    assert!(
        error.contains("refuses the debits from number 2"),
        "{error}"
    );
    refuse(None);
    // Nothing was lost: the journal goes on.
    let gateway = setup.gateway().await;
    until("the debit is taken", || setup.chain.receipts().len() == 2).await;
    gateway.stop().await.unwrap();
    setup.chain.check();
}
