//! The log of who asked for what.

use tally_ledger::ids::AccountNumber;
use tally_proto::v1;

use super::*;
use crate::net::until;

#[tokio::test(flavor = "multi_thread")]
async fn auditors_read_who_asked_for_what() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    let holder = login(&net, AccountNumber(0));
    let mut mine = node.audit_as(holder).await;
    mine.get_account(v1::GetAccountRequest { account: 0 })
        .await
        .unwrap();
    mine.get_account(v1::GetAccountRequest { account: 1 })
        .await
        .unwrap_err();
    mine.get_header(v1::GetHeaderRequest { height: 0 })
        .await
        .unwrap();
    with_header(&node.audit, "Bearer eyJhbGciOiJub25lIn0.e30.").await;
    let stranger = v1::GetAccountRequest { account: 1 };
    node.audit.clone().get_account(stranger).await.unwrap_err();
    let auditor = node.audit_as(login(&net, AUDITOR)).await;
    let read = |from: u64, limit: u32| {
        let mut auditor = auditor.clone();
        async move {
            let request = v1::ListAccessRequest { from, limit };
            auditor.list_access(request).await.unwrap().into_inner()
        }
    };
    until("the records are written", || async {
        let page = read(0, 1_000).await;
        page.records
            .iter()
            .any(|record| record.method == "ListAccess")
    })
    .await;
    let page = read(0, 1_000).await;
    let rows: Vec<_> = page
        .records
        .iter()
        .filter(|record| record.method == "GetAccount")
        .map(|record| (&*record.caller, &*record.subject, &*record.answer))
        .collect();
    assert_eq!(
        rows,
        [
            ("account:0", "account:0", "allowed"),
            ("account:0", "account:1", "NotAllowed"),
            ("unknown", "account:0", "NotLoggedIn"),
            ("nobody", "account:1", "NotLoggedIn"),
        ]
    );
    // Headers are about nobody. Nothing of a token is kept.
    assert!(
        page.records
            .iter()
            .all(|record| record.method != "GetHeader")
    );
    assert!(
        page.records
            .iter()
            .all(|record| record.address == "127.0.0.1")
    );
    assert!(!format!("{page:?}").contains("eyJ"));
    let numbers: Vec<u64> = page.records.iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let part = read(2, 2).await;
    let numbers: Vec<u64> = part.records.iter().map(|record| record.number).collect();
    assert_eq!((numbers, part.next, part.first), (vec![2, 3], 4, 1));
    // It outlives the process.
    node.stop().await;
    let node = net.start(0, SOLO).await;
    let mut auditor = node.audit_as(login(&net, AUDITOR)).await;
    let request = v1::ListAccessRequest { from: 0, limit: 4 };
    let kept = auditor.list_access(request).await.unwrap().into_inner();
    assert_eq!(kept.records, page.records[..4]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_receipts_in_one_call_are_one_record() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    let debit = |number| v1::DebitId {
        gateway: 0,
        journal: 1,
        number,
    };
    let request = v1::GetReceiptsRequest {
        debits: (1..=3).map(debit).collect(),
        ..Default::default()
    };
    let mut mine = node.audit_as(login(&net, AccountNumber(0))).await;
    mine.get_receipts(request.clone()).await.unwrap();
    let mut other = node.audit_as(login(&net, AccountNumber(1))).await;
    other.get_receipts(request).await.unwrap_err();
    let auditor = node.audit_as(login(&net, AUDITOR)).await;
    let rows = || async {
        let request = v1::ListAccessRequest { from: 0, limit: 0 };
        let page = auditor.clone().list_access(request).await.unwrap();
        let records = page.into_inner().records.into_iter();
        records
            .filter(|record| record.method == "GetReceipts")
            .map(|record| (record.caller, record.subject, record.answer))
            .collect::<Vec<_>>()
    };
    until("both are written", || async { rows().await.len() > 1 }).await;
    let row = |caller: &str, answer: &str| {
        let subject = "3 of: receipt of account:0 by gateway:0";
        (caller.to_owned(), subject.to_owned(), answer.to_owned())
    };
    let wanted = [row("account:0", "allowed"), row("account:1", "NotAllowed")];
    assert_eq!(rows().await, wanted);
    node.stop().await;
}
