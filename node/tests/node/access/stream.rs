//! Streams that are open when their caller loses the right to them.

use tally_ledger::{
    action::{Action, SetGatewayKey},
    crypto::{PublicKey, SecretKey},
    ids::AccountNumber,
    person::Roles,
};
use tally_proto::{
    LoggedIn, Login, Problem, jwt,
    login::now,
    v1::{self, audit_service_client::AuditServiceClient, list_entries_request::Of},
};
use tonic::{Code, Request, Status};

use super::*;

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
