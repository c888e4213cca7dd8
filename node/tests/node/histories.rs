//! History files as a node serves them: every pair of heights, of everybody,
//! from memory and from the sealed index.

use tally_ledger::{
    history::{HistoryFile, Subject},
    ids::{AccountNumber, GatewayNumber},
};
use tally_node::Engine;
use tally_proto::v1::{self, get_history_request::Of, list_entries_request};

use crate::net::{CT, GATEWAY, Net, Running};

/// Asks for a history; the file, and where to go on.
async fn ask(node: &Running, of: Of, from: u64, to: u64) -> (HistoryFile, u64) {
    let request = v1::GetHistoryRequest {
        of: Some(of),
        from_height: from,
        to_height: to,
    };
    let answer = node.audit.clone().get_history(request).await.unwrap();
    let answer = answer.into_inner();
    (
        HistoryFile::decode(&answer.file).unwrap(),
        answer.next_height,
    )
}

/// Log indexes of a listing between two heights, by the index alone.
async fn listed(node: &Running, of: list_entries_request::Of, from: u64, to: u64) -> Vec<u64> {
    let request = v1::ListEntriesRequest {
        of: Some(of),
        from_height: from,
        to_height: to,
        limit: 1000,
        ..Default::default()
    };
    let page = node.audit.clone().list_entries(request).await.unwrap();
    let entries = page.into_inner().entries;
    entries.iter().map(|entry| entry.index).collect()
}

async fn check_all(net: &Net, node: &Running) {
    let last = node.height().await;
    for from in 0..=last {
        for to in from.max(1)..=last {
            let (file, next) = ask(node, Of::Account(0), from, to).await;
            let verified = file.verify(&net.genesis).unwrap();
            assert_eq!(verified.subject, Subject::Account(AccountNumber(0)));
            assert_eq!((verified.from.0, verified.to.0, next), (from, to, 0));
            let indexes: Vec<u64> = verified.entries.iter().map(|(index, _)| *index).collect();
            let wanted = listed(node, list_entries_request::Of::Account(0), from, to).await;
            assert_eq!(indexes, wanted, "{from} to {to}");
            let (control, _) = ask(node, Of::Control(true), from, to).await;
            let verified = control.verify(&net.genesis).unwrap();
            let indexes: Vec<u64> = verified.entries.iter().map(|(index, _)| *index).collect();
            let wanted = listed(node, list_entries_request::Of::Control(true), from, to).await;
            assert_eq!(indexes, wanted, "control, {from} to {to}");
            let (gateway, _) = ask(node, Of::Gateway(GATEWAY.0), from, to).await;
            let verified = gateway.verify(&net.genesis).unwrap();
            assert_eq!(verified.subject, Subject::Gateway(GatewayNumber(GATEWAY.0)));
        }
    }
    let (gateway, _) = ask(node, Of::Gateway(GATEWAY.0), 0, last).await;
    let gateway = gateway.verify(&net.genesis).unwrap();
    assert_eq!(gateway.entries.len(), 41, "a journal and 40 receipts");
    let (nobody, _) = ask(node, Of::Account(99), 0, last).await;
    assert!(nobody.verify(&net.genesis).unwrap().entries.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_proves_all_that_happened_between_any_two_heights() {
    let net = Net::new(1);
    let node = net.start(0, Engine::Solo).await;
    node.finalise(net.open_account(0)).await;
    node.finalise(net.issue(0, 100 * CT)).await;
    node.finalise(net.bind(0)).await;
    node.finalise(net.open_journal()).await;
    node.finalise(net.lease(1, 0, 10 * CT)).await;
    node.finalise(net.debits(1, 30, 1, 0, 1000)).await;
    node.finalise(net.open_account(1)).await;
    node.finalise(net.debits(31, 10, 1, 0, 1000)).await;
    check_all(&net, &node).await;
    let refused = |from_height, to_height, of| {
        let mut audit = node.audit.clone();
        async move {
            let request = v1::GetHistoryRequest {
                of,
                from_height,
                to_height,
            };
            audit
                .get_history(request)
                .await
                .unwrap_err()
                .message()
                .to_owned()
        }
    };
    let control = Some(Of::Control(true));
    assert!(
        refused(0, 1_000_000, control)
            .await
            .contains("heights must")
    );
    assert!(refused(3, 2, control).await.contains("heights must"));
    assert!(refused(0, 0, None).await.contains("of:"));
    node.stop().await;
}
