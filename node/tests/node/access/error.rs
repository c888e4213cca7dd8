//! Questions that have no answer.

use tally_ledger::{
    action::{Action, Correct},
    ids::{Amount, Time},
};
use tally_proto::{
    Problem,
    v1::{self, get_history_request as history, get_receipt_request::By, list_entries_request::Of},
};
use tonic::{Code, Status};

use super::*;
use crate::net::submit;

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_or_asks_for_too_much_is_a_clear_error() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    let mut audit = node.audit_as(login(&net, AUDITOR)).await;
    let most = u64::MAX;
    let list = |of: Option<Of>, from: u64, limit: u32| v1::ListEntriesRequest {
        of,
        from,
        limit,
        ..Default::default()
    };
    let all = Some(Of::All(true));
    let page = audit
        .list_entries(list(all, most, 7))
        .await
        .unwrap()
        .into_inner();
    assert!(page.entries.is_empty() && page.next == 0);
    let page = audit
        .list_entries(list(all, 0, u32::MAX))
        .await
        .unwrap()
        .into_inner();
    assert!(page.entries.len() <= 1_000);
    let page = v1::ListAccessRequest {
        from: most,
        limit: u32::MAX,
    };
    let page = audit.list_access(page).await.unwrap().into_inner();
    assert!(page.records.is_empty() && page.next == 0);
    let mut refusals: Vec<(&str, Code, Status)> = Vec::new();
    macro_rules! refused {
        ($name:literal, $code:ident, $method:ident, $request:expr) => {
            let status = audit.$method($request).await.unwrap_err();
            refusals.push(($name, Code::$code, status));
        };
    }
    refused!("no list", InvalidArgument, list_entries, list(None, 0, 1));
    let control = Some(Of::Control(false));
    refused!(
        "no control",
        InvalidArgument,
        list_entries,
        list(control, 0, 1)
    );
    refused!(
        "account",
        NotFound,
        list_entries,
        list(Some(Of::Account(99)), 0, 1)
    );
    refused!(
        "class",
        NotFound,
        list_entries,
        list(Some(Of::Class(u32::MAX)), 0, 1)
    );
    refused!(
        "header",
        NotFound,
        get_header,
        v1::GetHeaderRequest { height: most }
    );
    refused!(
        "block",
        NotFound,
        get_block,
        v1::GetBlockRequest { height: most }
    );
    let account = v1::GetAccountRequest { account: u32::MAX };
    refused!("no account", NotFound, get_account, account);
    let leaf = v1::GetLeafRequest {
        table: 257,
        number: 0,
    };
    refused!("table", InvalidArgument, get_leaf, leaf);
    let by = Some(By::Index(most));
    refused!(
        "receipt",
        NotFound,
        get_receipt,
        v1::GetReceiptRequest { by }
    );
    refused!(
        "no receipt",
        InvalidArgument,
        get_receipt,
        v1::GetReceiptRequest { by: None }
    );
    let range = |from_height: u64, to_height: u64| v1::GetHistoryRequest {
        of: Some(history::Of::Account(0)),
        from_height,
        to_height,
    };
    refused!("backwards", InvalidArgument, get_history, range(3, 2));
    refused!("beyond the end", NotFound, get_history, range(0, most));
    refused!("far beyond", NotFound, get_history, range(most, most));
    let sizes = |old: u64, new: u64| v1::GetConsistencyRequest { old, new };
    refused!("sizes", InvalidArgument, get_consistency, sizes(2, 1));
    refused!("size", InvalidArgument, get_consistency, sizes(1, most));
    let far = v1::WatchRequest {
        from_height: most,
        ..Default::default()
    };
    refused!("watch", NotFound, watch, far);
    let short = v1::FindApiKeyRequest {
        key: vec![1; 31].into(),
    };
    refused!("key", InvalidArgument, find_api_key, short);
    // A correction's proof is looked up before the ledger sees it.
    let correct = Action::Correct(Correct {
        entry: most,
        amount: Amount(1),
        expires: Time(most),
    });
    let signers = [ISSUER.into(), Person(1).into()];
    let transaction = net.sign(99, &signers, correct);
    submit(&node.ledger, transaction).await.unwrap_err();
    for (name, code, status) in refusals {
        assert_eq!(status.code(), code, "{name}: {status}");
        let problem = Problem::of(&status).unwrap_or_else(|| panic!("{name}: {status}"));
        assert!(
            ["never", "later"].contains(&&*problem.retry),
            "{name}: {problem:?}"
        );
    }
    node.stop().await;
}
