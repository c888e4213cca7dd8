//! Who may ask a node what: logins, roles, and the log of who asked.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tally_ledger::{
    action::{Action, Correct, OpenAccount, RegisterGateway, SetGatewayKey, SetRole, SetUnit},
    crypto::{ChainId, PublicKey, SecretKey},
    gateway::Caps,
    hash::Hash,
    ids::{AccountNumber, Amount, ApiKeyNumber, ClassNumber, GatewayNumber, Person, Time},
    person::Roles,
    transaction::{Author, Transaction},
};
use tally_node::{Engine, config::LoginOf};
use tally_proto::{
    LoggedIn, Login, Problem, jwt,
    login::now,
    v1::{
        self, audit_service_client::AuditServiceClient, get_history_request as history,
        get_receipt_request::By, ledger_service_client::LedgerServiceClient,
        list_entries_request::Of,
    },
};
use tonic::{Code, Request, Status};

use crate::net::{Audit, CT, GATEWAY, ISSUER, Net, Running, key, list, submit, until};

const SOLO: Engine = Engine::Solo;
const ADMINS: [Person; 2] = [Person(2), Person(3)];
const OWNER: Person = Person(4);
const AUDITOR: Person = Person(5);
const MANAGER: Person = Person(6);
const OTHER_MANAGER: Person = Person(7);
const RETIRED: Person = Person(8);
const OTHER_GATEWAY: GatewayNumber = GatewayNumber(1);

fn by_admins(net: &Net, id: u8, action: Action) -> Transaction {
    net.sign(id, &ADMINS.map(Author::from), action)
}

fn set_role(person: Person, roles: Roles) -> Action {
    Action::SetRole(SetRole {
        person,
        key: key(person).public(),
        roles,
    })
}

fn caps() -> Caps {
    let most = Amount(u64::MAX);
    Caps {
        open: most,
        open_account: most,
        hour: most,
        hour_account: most,
    }
}

fn login(net: &Net, who: impl Into<Author>) -> Login {
    let who = who.into();
    Login::new(who, key(who), net.chain())
}

/// A node that demands logins of everybody, on a chain with an auditor, two
/// unit managers, a retired person, three accounts, and two gateways. Account
/// 0 has a key and has spent through gateway 0, account 1 has a key, account
/// 2 has none; 0 and 1 are of unit 7, 2 is of unit 9.
async fn peopled(net: &Net) -> Running {
    net.configure(0, |config| config.rpc.login = LoginOf::All);
    let node = net.start(0, SOLO).await;
    let roles = [
        (AUDITOR, Roles::AUDITOR),
        (MANAGER, Roles::UNIT_MANAGER),
        (OTHER_MANAGER, Roles::UNIT_MANAGER),
        (RETIRED, Roles::NONE),
    ];
    let mut actions: Vec<Action> = roles.map(|(who, roles)| set_role(who, roles)).into();
    for (person, unit) in [(MANAGER, Some(7)), (OTHER_MANAGER, Some(8))] {
        actions.push(Action::SetUnit(SetUnit { person, unit }));
    }
    let (key_of_other, caps) = (key(OTHER_GATEWAY).public(), caps());
    actions.push(Action::RegisterGateway(RegisterGateway {
        key: key_of_other,
        caps,
    }));
    for (id, action) in (1..).zip(actions) {
        node.finalise(by_admins(net, id, action)).await;
    }
    for account in 0..3 {
        let open = OpenAccount {
            unit: if account < 2 { 7 } else { 9 },
            holder: key(AccountNumber(account)).public(),
            classes: list(vec![ClassNumber(0)]),
        };
        let (id, action) = (account as u8 + 1, Action::OpenAccount(open));
        node.finalise(net.sign(id, &[ISSUER.into()], action)).await;
        let amount = u64::from(account + 1) * 100 * CT;
        node.finalise(net.issue(account, amount)).await;
    }
    node.finalise(net.bind(0)).await;
    node.finalise(net.bind(1)).await;
    node.finalise(net.open_journal()).await;
    node.finalise(net.lease(1, 0, 10 * CT)).await;
    node.finalise(net.debits(1, 3, 1, 0, 1000)).await;
    node
}

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

/// What a question is answered when it comes with this header.
async fn with_header(audit: &Audit, value: &str) -> Status {
    let mut request = Request::new(v1::GetAccountRequest { account: 0 });
    let value = value.parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    audit.clone().get_account(request).await.unwrap_err()
}

/// A token of any header and claims, signed as one should be.
fn token(header: &str, claims: &str, key: &SecretKey) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", part(header), part(claims));
    let signature = key.sign_jws(&input).unwrap();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_opens_nothing_even_on_loopback() {
    let net = Net::new(1);
    let node = net.start(0, SOLO).await;
    node.finalise(net.open_account(0)).await;
    // Without one, a caller on this machine is answered here.
    let account = v1::GetAccountRequest { account: 0 };
    node.audit.clone().get_account(account).await.unwrap();
    let holder: Author = AccountNumber(0).into();
    let of = |who: Author, chain: ChainId, from: u64, life: u64| {
        jwt::issue(&key(who), who, &chain, from, life)
    };
    let good = of(holder, net.chain(), now(), 60);
    let forged = jwt::issue(&key(ISSUER), holder, &net.chain(), now(), 60);
    let claims = |alg: &str| {
        let claims = format!(
            r#"{{"iss":"{holder}","sub":"{holder}","aud":"{}","iat":{},"exp":{}}}"#,
            net.chain(),
            now(),
            now() + 60
        );
        token(&format!(r#"{{"alg":"{alg}"}}"#), &claims, &key(holder))
    };
    let unsigned = claims("none");
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    let (never, later) = ("NotLoggedIn", "NotLoggedInYet");
    let rows = [
        ("forged", forged, never, "not signed by the key"),
        (
            "expired",
            of(holder, net.chain(), now() - 120, 60),
            never,
            "expired",
        ),
        (
            "too early",
            of(holder, net.chain(), now() + 90, 60),
            later,
            "not valid yet",
        ),
        (
            "too long",
            of(holder, net.chain(), now(), 901),
            never,
            "exp must be",
        ),
        (
            "foreign chain",
            of(holder, ChainId(Hash([1; 32])), now(), 60),
            never,
            "aud must be",
        ),
        (
            "nobody",
            of(AccountNumber(7).into(), net.chain(), now(), 60),
            later,
            "no account:7",
        ),
        (
            "API key",
            of(ApiKeyNumber(0).into(), net.chain(), now(), 60),
            never,
            "name the caller",
        ),
        (
            "alg none",
            format!("{unsigned}."),
            never,
            "alg must be EdDSA",
        ),
        ("alg HS256", claims("HS256"), never, "alg must be EdDSA"),
        (
            "oversized",
            "a".repeat(jwt::MAX_BYTES + 1),
            never,
            "more than 1024 bytes",
        ),
        ("no token", "eyJ".to_owned(), never, "compact JWS"),
        (
            "cut",
            good[..good.len() - 2].to_owned(),
            never,
            "not logged in",
        ),
    ];
    for (name, token, wanted, why) in rows {
        let status = with_header(&node.audit, &format!("Bearer {token}")).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{name}: {status}");
        let problem = Problem::of(&status).unwrap();
        assert_eq!(problem.name, wanted, "{name}: {status}");
        let retry = if wanted == never { "never" } else { "later" };
        assert_eq!(problem.retry, retry, "{name}");
        assert!(status.message().contains(why), "{name}: {status}");
        assert!(
            !status.message().contains(&token),
            "{name}: a token is told"
        );
    }
    for value in ["Basic YTpi", "Bearer", &good] {
        let status = with_header(&node.audit, value).await;
        assert!(
            status.message().contains("authorization: Bearer"),
            "{status}"
        );
    }
    let mut twice = Request::new(account);
    for _ in 0..2 {
        let value = format!("Bearer {good}").parse().unwrap();
        twice.metadata_mut().append("authorization", value);
    }
    let status = node.audit.clone().get_account(twice).await.unwrap_err();
    assert!(status.message().contains("once"), "{status}");
    // The clocks may differ by half a minute, either way.
    for from in [now() + 25, now() - 85] {
        let mut request = Request::new(account);
        let value = format!("bearer {}", of(holder, net.chain(), from, 60));
        request
            .metadata_mut()
            .insert("authorization", value.parse().unwrap());
        node.audit.clone().get_account(request).await.unwrap();
    }
    // A token is no reason to lose what is signed by itself.
    let bad = Login::new(holder, key(ISSUER), net.chain());
    let mut ledger = LedgerServiceClient::with_interceptor(node.channel().await, bad);
    let request = v1::SubmitRequest {
        transaction: Some(net.open_account(1).into()),
        wait: v1::Wait::Final.into(),
        timeout_ms: 20_000,
    };
    let answer = ledger.submit(request).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), v1::Outcome::Final);
    node.stop().await;
}

type Client = AuditServiceClient<LoggedIn>;
type Stream = tonic::Streaming<v1::WatchResponse>;

async fn watch(client: &Client, control_only: bool) -> Stream {
    let request = v1::WatchRequest {
        from_height: 0,
        control_only,
        headers_only: false,
    };
    client.clone().watch(request).await.unwrap().into_inner()
}

/// Reads on to the end; the last height that was shown, and why it ended.
async fn end(mut stream: Stream) -> (u64, Status) {
    let mut last = 0;
    loop {
        match stream.message().await {
            Ok(Some(block)) => last = block.header.unwrap().header.unwrap().height,
            Ok(None) => panic!("a stream ended without a reason"),
            Err(status) => return (last, status),
        }
    }
}

/// The stream ended before the block that took the right was shown, and says
/// where to go on.
async fn ends_before(stream: Stream, height: u64, name: &str) {
    let (last, status) = end(stream).await;
    let problem = Problem::of(&status).unwrap();
    assert_eq!(problem.name, name, "{status}");
    assert_eq!(problem.get("from_height"), Some(&*height.to_string()));
    assert!(last < height, "{last} {height}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_key_or_role_is_shut_out_at_the_next_block() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    let account = v1::GetAccountRequest { account: 0 };
    let gateway = v1::GetGatewayRequest { gateway: 0 };

    // A role.
    let mut auditor = node.audit_as(login(&net, AUDITOR)).await;
    let open = watch(&auditor, false).await;
    let taken = by_admins(&net, 60, set_role(AUDITOR, Roles::VALIDATOR));
    let height = node.finalise(taken).await.height;
    ends_before(open, height, "NotAllowed").await;
    let refused = auditor.get_account(account).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    // A holder's key: the login of the old one is none.
    let mut holder = node.audit_as(login(&net, AccountNumber(0))).await;
    holder.get_account(account).await.unwrap();
    let fresh = SecretKey::from_seed(&[99; 32]);
    let signers = [AccountNumber(0).into()];
    let rotate = Action::RotateHolderKey(AccountNumber(0), fresh.public());
    node.finalise(net.sign(61, &signers, rotate)).await;
    let refused = holder.get_account(account).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let fresh = Login::new(AccountNumber(0).into(), fresh, net.chain());
    let mut holder = node.audit_as(fresh).await;
    holder.get_account(account).await.unwrap();

    // A gateway's key.
    let mut other = node.audit_as(login(&net, OTHER_GATEWAY)).await;
    let open = watch(&other, true).await;
    let set = Action::SetGatewayKey(SetGatewayKey {
        gateway: OTHER_GATEWAY,
        key: PublicKey([3; 32]),
        caps: caps(),
    });
    let height = node.finalise(by_admins(&net, 62, set)).await.height;
    ends_before(open, height, "NotLoggedIn").await;
    let refused = other.get_gateway(gateway).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    // A suspension: what settling takes is left.
    let mut serving = node.audit_as(login(&net, GATEWAY)).await;
    let open = watch(&serving, true).await;
    let other_account = v1::GetAccountRequest { account: 1 };
    serving.get_account(other_account).await.unwrap();
    let suspend = Action::SuspendGateway(GATEWAY);
    let suspend = net.sign(63, &[ADMINS[0].into()], suspend);
    let height = node.finalise(suspend).await.height;
    ends_before(open, height, "NotAllowed").await;
    let refused = serving.get_account(other_account).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let control = v1::ListEntriesRequest {
        of: Some(Of::Control(true)),
        ..Default::default()
    };
    let refused = serving.list_entries(control).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let own = serving.get_gateway(gateway).await.unwrap().into_inner();
    assert!(own.suspended);
    // Its lease on account 0 is open yet, and debits go through it.
    serving.get_account(account).await.unwrap();
    node.finalise(net.debits(4, 2, 1, 0, 1000)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_ends_its_streams() {
    let net = Net::new(1);
    let node = peopled(&net).await;
    // Its time is over already, by all but ten seconds of the difference that
    // clocks may have.
    let token = jwt::issue(&key(AUDITOR), AUDITOR.into(), &net.chain(), now() - 50, 30);
    let mut request = Request::new(v1::WatchRequest::default());
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let open = node.audit.clone().watch(request).await.unwrap();
    let (last, status) = end(open.into_inner()).await;
    let problem = Problem::of(&status).unwrap();
    assert_eq!(problem.name, "NotLoggedIn");
    assert!(status.message().contains("expired"), "{status}");
    let next: u64 = problem.get("from_height").unwrap().parse().unwrap();
    assert!(last == 0 || next == last + 1, "{last} {next}");
    node.stop().await;
}

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
