//! Tokens: which open something, and for how long.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tally_ledger::{
    crypto::{ChainId, SecretKey},
    hash::Hash,
    ids::{AccountNumber, ApiKeyNumber},
    transaction::Author,
};
use tally_proto::{
    Login, Problem, jwt,
    login::now,
    v1::{self, ledger_service_client::LedgerServiceClient},
};
use tonic::{Code, Request};

use super::*;

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
