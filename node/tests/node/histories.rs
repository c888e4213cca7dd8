//! History files as a node serves them: every pair of heights, of everybody,
//! from memory and from the sealed index.

use tally_ledger::{
    history::{HistoryFile, Subject},
    ids::{AccountNumber, GatewayNumber},
};
use tally_node::{Engine, config::Storage};
use tally_proto::v1::{self, get_history_request::Of, list_entries_request};

use crate::net::{CT, GATEWAY, Net, Running};

/// Asks for a history until it is whole; log indexes of all entries that the
/// files prove, and how many files it took.
async fn ask(net: &Net, node: &Running, of: Of, from: u64, to: u64) -> (Vec<u64>, usize) {
    let subject = match of {
        Of::Account(number) => Subject::Account(AccountNumber(number)),
        Of::Gateway(number) => Subject::Gateway(GatewayNumber(number)),
        Of::Control(_) => Subject::Control,
    };
    let (mut indexes, mut files, mut next) = (Vec::new(), 0, from);
    loop {
        let request = v1::GetHistoryRequest {
            of: Some(of),
            from_height: next,
            to_height: to,
        };
        let answer = node.audit.clone().get_history(request).await.unwrap();
        let answer = answer.into_inner();
        let file = HistoryFile::decode(&answer.file).unwrap();
        let verified = file.verify(&net.genesis).unwrap();
        assert_eq!((verified.subject, verified.from.0), (subject, next));
        indexes.extend(verified.entries.iter().map(|(index, _)| *index));
        files += 1;
        if answer.next_height == 0 {
            assert_eq!(verified.to.0, to);
            return (indexes, files);
        }
        assert_eq!(answer.next_height, verified.to.0 + 1);
        next = answer.next_height;
    }
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
    let mut most = 0;
    for from in 0..=last {
        for to in from.max(1)..=last {
            let (found, files) = ask(net, node, Of::Account(0), from, to).await;
            let wanted = listed(node, list_entries_request::Of::Account(0), from, to).await;
            assert_eq!(found, wanted, "{from} to {to}");
            most = most.max(files);
            let (found, _) = ask(net, node, Of::Control(true), from, to).await;
            let wanted = listed(node, list_entries_request::Of::Control(true), from, to).await;
            assert_eq!(found, wanted, "control, {from} to {to}");
            ask(net, node, Of::Gateway(GATEWAY.0), from, to).await;
        }
    }
    assert!(most >= 3, "{most} files at most");
    let (gateway, _) = ask(net, node, Of::Gateway(GATEWAY.0), 0, last).await;
    assert_eq!(gateway.len(), 41, "a journal and 40 receipts");
    let (nobody, _) = ask(net, node, Of::Account(99), 0, last).await;
    assert!(nobody.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_proves_all_that_happened_between_any_two_heights() {
    // Small segments, so that the index has sealed ones.
    let storage = Storage {
        index_segment_entries: 16,
        ..Storage::default()
    };
    let net = Net::with(1, storage);
    let mut config = net.homes[0].config().unwrap();
    config.rpc.history_entries = 4;
    net.homes[0].write_config(&config).unwrap();
    let node = net.start(0, Engine::Solo).await;
    net.prepare(&node, 10 * CT).await;
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
            .contains("the last block here is")
    );
    assert!(refused(3, 2, control).await.contains("heights must"));
    assert!(refused(0, 0, None).await.contains("of:"));
    node.stop().await;
}
