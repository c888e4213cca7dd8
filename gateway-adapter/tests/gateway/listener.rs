//! The listener: TLS or not, HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use crate::support::{Setup, chain, chat, read};
use http::Version;
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client, connect::Connect},
    rt::TokioExecutor,
};
use serde_json::json;
use tally_gateway_adapter::{Gateway, GatewayError, config::Tls};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

/// A certificate for `localhost` in the home, and as a client trusts it.
pub(crate) fn certify(setup: &mut Setup) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let home = setup.home.path();
    std::fs::write(home.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(home.join("tls.key"), made.key_pair.serialize_pem()).unwrap();
    setup.config.listen.tls = Some(Tls {
        certificate: "tls.crt".into(),
        key: "tls.key".into(),
    });
    made.cert.der().clone()
}

pub(crate) fn trusting(certificate: CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A JSON and a streamed answer over `client`, in `version`.
async fn both<C>(client: Client<C, Full<bytes::Bytes>>, url: String, version: Version)
where
    C: Connect + Clone + Send + Sync + 'static,
{
    for stream in [false, true] {
        let mut body = chat(20, json!({"tokens": 5}));
        body["stream"] = stream.into();
        let request = http::Request::post(format!("{url}/v1/chat/completions"))
            .header(
                "authorization",
                format!("Bearer {}", chain::api_key_text(0)),
            )
            .body(Full::new(body.to_string().into()))
            .unwrap();
        let answer = client.request(request).await.unwrap();
        assert_eq!(answer.version(), version);
        let answer = read(answer).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        if stream {
            assert_eq!(answer.events().len(), 7, "{}", answer.body);
        } else {
            assert_eq!(answer.json()["usage"]["completion_tokens"], 5);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_over_tls_in_both_versions() {
    let mut setup = Setup::new(1_000_000).await;
    let certificate = certify(&mut setup);
    let gateway = setup.gateway().await;
    let url = format!("https://localhost:{}", gateway.http.port());
    let tls = || HttpsConnectorBuilder::new().with_tls_config(trusting(certificate.clone()));
    let client = || Client::builder(TokioExecutor::new());
    let one = tls().https_only().enable_http1().build();
    both(client().build(one), url.clone(), Version::HTTP_11).await;
    let two = tls().https_only().enable_http2().build();
    both(
        client().http2_only(true).build(two),
        url.clone(),
        Version::HTTP_2,
    )
    .await;
    // ALPN prefers HTTP/2.
    let any = tls().https_only().enable_all_versions().build();
    both(client().build(any), url, Version::HTTP_2).await;
    // In the clear nothing is said.
    let plain = http::Request::get(format!("http://{}/healthz", gateway.http))
        .body(Full::default())
        .unwrap();
    assert!(crate::support::client().request(plain).await.is_err());
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 6);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_works_without_tls_by_prior_knowledge() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    both(client, format!("http://{}", gateway.http), Version::HTTP_2).await;
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_work_are_named_at_the_start() {
    let mut setup = Setup::new(1_000).await;
    certify(&mut setup);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let home = setup.home.path().to_owned();
    let key = std::fs::read_to_string(home.join("tls.key")).unwrap();
    for (file, text, why) in [
        ("tls.crt", Some("nothing"), "no certificate"),
        ("tls.key", Some("nothing"), "no private key"),
        (
            "tls.key",
            Some(other.as_str()),
            "does not work with the key",
        ),
        ("tls.key", None, "tls.key"),
    ] {
        let before = std::fs::read(home.join(file)).unwrap();
        match text {
            Some(text) => std::fs::write(home.join(file), text).unwrap(),
            None => std::fs::remove_file(home.join(file)).unwrap(),
        }
        let error = Gateway::start(setup.config.clone()).await.unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(why), "{shown}");
        assert!(!shown.contains(key.lines().nth(1).unwrap()));
        assert!(matches!(
            error,
            GatewayError::Content { .. } | GatewayError::File { .. }
        ));
        std::fs::write(home.join(file), before).unwrap();
    }
    setup.gateway().await.stop().await.unwrap();
}
