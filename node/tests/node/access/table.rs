//! Who is answered what, and what a refusal tells.

use tally_ledger::{
    action::{Action, SetUnit},
    ids::{AccountNumber, ApiKeyNumber},
    transaction::{Author, Transaction},
};
use tally_proto::{
    Login, Problem,
    v1::{
        self, get_history_request as history, get_receipt_request::By,
        ledger_service_client::LedgerServiceClient, list_entries_request::Of,
    },
};
use tonic::{Code, Status};

use super::*;
use crate::net::{CT, submit};

/// What each question is answered; `None`: it is.
async fn answers(
    node: &Running,
    login: Login,
    transaction: &Transaction,
) -> Vec<(&'static str, Option<Status>)> {
    let audit = node.audit_as(login.clone()).await;
    let mut ledger = LedgerServiceClient::with_interceptor(node.channel().await, login);
    let mut all = Vec::new();
    macro_rules! ask {
        ($name:literal, $method:ident, $request:ident { $($fields:tt)* }) => {{
            let request = v1::$request { $($fields)* };
            all.push(($name, audit.clone().$method(request).await.err()));
        }};
    }
    ask!("who am I", who_am_i, WhoAmIRequest {});
    ask!("header", get_header, GetHeaderRequest { height: 0 });
    ask!(
        "consistency",
        get_consistency,
        GetConsistencyRequest { old: 1, new: 0 }
    );
    ask!("supply", get_supply, GetSupplyRequest {});
    for (name, table, number) in [
        ("chain", 1, 0),
        ("parameters", 7, 0),
        ("prices", 9, 0),
        ("validators", 11, 0),
        ("class", 5, 0),
        ("ids", 8, 0),
        ("corrections", 10, 0),
        ("account 0's leaf", 3, 0),
        ("key 0's leaf", 6, 0),
        ("gateway 0's leaf", 4, 0),
        ("the manager", 2, MANAGER.0),
    ] {
        let request = v1::GetLeafRequest { table, number };
        all.push((name, audit.clone().get_leaf(request).await.err()));
    }
    for (name, of) in [
        ("control", Of::Control(true)),
        ("all entries", Of::All(true)),
        ("a class's entries", Of::Class(0)),
        ("account 0's entries", Of::Account(0)),
        ("gateway 0's entries", Of::Gateway(0)),
    ] {
        let request = v1::ListEntriesRequest {
            of: Some(of),
            ..Default::default()
        };
        all.push((name, audit.clone().list_entries(request).await.err()));
    }
    for (name, of) in [
        ("control's history", history::Of::Control(true)),
        ("account 0's history", history::Of::Account(0)),
        ("gateway 0's history", history::Of::Gateway(0)),
    ] {
        let request = v1::GetHistoryRequest {
            of: Some(of),
            ..Default::default()
        };
        all.push((name, audit.clone().get_history(request).await.err()));
    }
    for (name, control_only, headers_only) in [
        ("watch headers", false, true),
        ("watch control", true, false),
        ("watch all", false, false),
    ] {
        let request = v1::WatchRequest {
            from_height: 0,
            control_only,
            headers_only,
        };
        all.push((name, audit.clone().watch(request).await.err()));
    }
    ask!("block", get_block, GetBlockRequest { height: 0 });
    ask!("account 0", get_account, GetAccountRequest { account: 0 });
    ask!("account 2", get_account, GetAccountRequest { account: 2 });
    ask!("gateway 0", get_gateway, GetGatewayRequest { gateway: 0 });
    let known = key(ApiKeyNumber(0)).public().0.to_vec();
    ask!(
        "key 0",
        find_api_key,
        FindApiKeyRequest { key: known.into() }
    );
    let unknown = vec![9; 32];
    ask!(
        "no key",
        find_api_key,
        FindApiKeyRequest {
            key: unknown.into()
        }
    );
    let debit = By::Debit(v1::DebitId {
        gateway: 0,
        journal: 1,
        number: 1,
    });
    ask!(
        "a receipt of 0 by 0",
        get_receipt,
        GetReceiptRequest { by: Some(debit) }
    );
    ask!("unit 7", get_unit_totals, GetUnitTotalsRequest { unit: 7 });
    ask!(
        "access log",
        list_access,
        ListAccessRequest { from: 0, limit: 0 }
    );
    let id = transaction.id().0.to_vec().into();
    let mine = ledger.get_transaction(v1::GetTransactionRequest { id });
    all.push(("holder 0's transaction", mine.await.err()));
    all
}

/// Who is answered what: the table of `node/README.md`.
const TABLE: [(&str, &str); 36] = [
    ("who am I", "AIDOMNRHJGK"),
    ("header", "AIDOMNHJGK"),
    ("consistency", "AIDOMNHJGK"),
    ("supply", "AIDGK"),
    ("chain", "AIDOMNHJGK"),
    ("parameters", "AIDOMNHJGK"),
    ("prices", "AIDOMNHJGK"),
    ("validators", "AIDOMNHJGK"),
    ("class", "AIDGK"),
    ("ids", "A"),
    ("corrections", "A"),
    ("account 0's leaf", "AIHGK"),
    ("key 0's leaf", "AIHGK"),
    ("gateway 0's leaf", "ADGK"),
    ("the manager", "ADM"),
    ("control", "ADGK"),
    ("all entries", "A"),
    ("a class's entries", "A"),
    ("account 0's entries", "AH"),
    ("gateway 0's entries", "AG"),
    ("control's history", "ADGK"),
    ("account 0's history", "AH"),
    ("gateway 0's history", "AG"),
    ("watch headers", "AIDOMNHJGK"),
    ("watch control", "ADGK"),
    ("watch all", "A"),
    ("block", "A"),
    ("account 0", "AIHGK"),
    ("account 2", "AI"),
    ("gateway 0", "ADGK"),
    ("key 0", "AIHGK"),
    ("no key", "AIGK"),
    ("a receipt of 0 by 0", "AIHG"),
    ("unit 7", "AM"),
    ("access log", "A"),
    ("holder 0's transaction", "AH"),
];

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_answered_what_the_table_says() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    let bound = net.bind(0);
    let callers: [(char, Author); 11] = [
        ('A', AUDITOR.into()),
        ('I', ISSUER.into()),
        ('D', ADMINS[0].into()),
        ('O', OWNER.into()),
        ('M', MANAGER.into()),
        ('N', OTHER_MANAGER.into()),
        ('R', RETIRED.into()),
        ('H', AccountNumber(0).into()),
        ('J', AccountNumber(1).into()),
        ('G', GATEWAY.into()),
        ('K', OTHER_GATEWAY.into()),
    ];
    let mut found: Vec<(&str, String)> = Vec::new();
    for (letter, caller) in callers {
        let answers = answers(&node, login(&net, caller), &bound).await;
        for (i, (name, refused)) in answers.into_iter().enumerate() {
            if found.len() == i {
                found.push((name, String::new()));
            }
            match refused {
                None => found[i].1.push(letter),
                Some(status) => {
                    assert_eq!(status.code(), Code::PermissionDenied, "{name}: {status}");
                    let problem = Problem::of(&status).unwrap();
                    assert_eq!((&*problem.name, &*problem.retry), ("NotAllowed", "never"));
                    assert!(status.message().contains(&caller.to_string()), "{status}");
                }
            }
        }
    }
    let found: Vec<_> = found.iter().map(|(name, who)| (*name, &**who)).collect();
    assert_eq!(found, TABLE);
    // Who does not log in is told so, each time.
    for (name, refused) in answers(&node, Login::none(), &bound).await {
        let status = refused.unwrap_or_else(|| panic!("{name} is answered"));
        assert_eq!(status.code(), Code::Unauthenticated, "{name}");
        assert_eq!(Problem::of(&status).unwrap().name, "NotLoggedIn");
    }
    // Submit, Encode and GetStatus ask nobody.
    assert!(node.height().await > 0);
    let again = submit(&node.ledger, net.bind(0)).await.unwrap();
    assert_eq!(again.outcome(), v1::Outcome::Final);
    let encode = v1::EncodeRequest::default();
    let refused = node.ledger.clone().encode(encode).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    node.stop().await;
}

/// What `who` is refused when it names what it does not know the owner of.
async fn strangers_refusals(
    net: &Net,
    node: &Running,
    who: Author,
    id: &Transaction,
) -> Vec<Status> {
    let login = login(net, who);
    let mut audit = node.audit_as(login.clone()).await;
    let mut ledger = LedgerServiceClient::with_interceptor(node.channel().await, login);
    let debit = v1::DebitId {
        gateway: 0,
        journal: 1,
        number: 1,
    };
    let one = v1::GetReceiptRequest {
        by: Some(By::Debit(debit)),
    };
    let many = v1::GetReceiptsRequest {
        debits: vec![debit],
        ..Default::default()
    };
    let public = key(ApiKeyNumber(0)).public().0.to_vec().into();
    let leaf = v1::GetLeafRequest {
        table: 6,
        number: 0,
    };
    let id = id.id().0.to_vec().into();
    vec![
        audit.get_receipt(one).await.unwrap_err(),
        audit.get_receipts(many).await.unwrap_err(),
        audit
            .find_api_key(v1::FindApiKeyRequest { key: public })
            .await
            .unwrap_err(),
        audit.get_leaf(leaf).await.unwrap_err(),
        ledger
            .get_transaction(v1::GetTransactionRequest { id })
            .await
            .unwrap_err(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_tell_whose_it_is() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    let mine = net.bind(0);
    for who in [
        Author::from(AccountNumber(1)),
        MANAGER.into(),
        RETIRED.into(),
    ] {
        for status in strangers_refusals(&net, &node, who, &mine).await {
            assert_eq!(status.code(), Code::PermissionDenied, "{status}");
            // Its own name is the only number in it.
            let rest = status.message().replacen(&who.to_string(), "", 1);
            assert!(!rest.contains(char::is_numeric), "{status}");
            let told = String::from_utf8_lossy(status.details()).into_owned();
            assert!(!told.contains("account:0"), "{told}");
        }
    }
    // Who has no role is not even told that there is no such receipt.
    let mut retired = node.audit_as(login(&net, RETIRED)).await;
    let none = v1::GetReceiptsRequest {
        indexes: vec![1 << 40],
        ..Default::default()
    };
    let refused = retired.get_receipts(none).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let none = v1::GetReceiptRequest {
        by: Some(By::Debit(v1::DebitId {
            gateway: 9,
            journal: 1,
            number: 1,
        })),
    };
    let refused = retired.get_receipt(none).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_summed_and_nothing_of_one_account_shown() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    let mut manager = node.audit_as(login(&net, MANAGER)).await;
    let request = v1::GetUnitTotalsRequest { unit: 7 };
    let totals = manager.get_unit_totals(request).await.unwrap().into_inner();
    assert_eq!(
        (totals.unit, totals.accounts, totals.totals.len()),
        (7, 2, 1)
    );
    let sum = &totals.totals[0];
    assert_eq!((sum.issued, sum.spent), (300 * CT, 3_000));
    assert_eq!(sum.available + sum.leased + sum.spent, sum.issued);
    let mut auditor = node.audit_as(login(&net, AUDITOR)).await;
    let nobody = auditor.get_unit_totals(v1::GetUnitTotalsRequest { unit: 8 });
    assert_eq!(nobody.await.unwrap_err().code(), Code::NotFound);
    // Another unit from the next block on.
    let set = Action::SetUnit(SetUnit {
        person: MANAGER,
        unit: Some(9),
    });
    node.finalise(by_admins(&net, 40, set)).await;
    let refused = manager.get_unit_totals(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let nine = v1::GetUnitTotalsRequest { unit: 9 };
    let totals = manager.get_unit_totals(nine).await.unwrap().into_inner();
    assert_eq!((totals.accounts, totals.totals[0].issued), (1, 300 * CT));
    let me = manager
        .who_am_i(v1::WhoAmIRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((&*me.caller, me.unit), ("person:6", Some(9)));
    assert_eq!(me.roles, ["unit-manager"]);
    assert_eq!(me.chain[..], net.chain().0.0);
    node.stop().await;
}
