//! TLS of a node's gRPC, from the files that its configuration names: who has
//! the authority's certificate reaches it, nobody else does.

#![allow(clippy::unwrap_used)]

mod cli_common;

use std::fs;

use cli_common::{LIMIT, Net, Ran, run, wait_for, write};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tally_node::config::Tls;
use tally_proto::v1::{self, ledger_service_client::LedgerServiceClient};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

/// Who signs certificates.
struct Authority {
    pem: String,
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let pem = certificate.pem();
        Authority {
            pem,
            certificate,
            key,
        }
    }

    /// A certificate for a name or IP address, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params
            .signed_by(&key, &self.certificate, &self.key)
            .unwrap();
        (signed.pem(), key.serialize_pem())
    }
}

/// A validator alone, with a certificate of `authority`.
fn secured(authority: &Authority, client_ca: bool) -> Net {
    let mut net = Net::make(1);
    let home = net.home(0);
    let mut config = home.config().unwrap();
    let (certificate, key) = authority.sign(&config.listen.grpc.ip().to_string());
    write(home.folder(), "tls.crt", &certificate);
    write(home.folder(), "tls.key", &key);
    write(home.folder(), "clients.crt", &authority.pem);
    write(net.folder.path(), "ca.crt", &authority.pem);
    config.tls = Some(Tls {
        certificate: "tls.crt".into(),
        key: "tls.key".into(),
        client_ca: client_ca.then(|| "clients.crt".into()),
    });
    home.write_config(&config).unwrap();
    net.start_node(0);
    net
}

/// Asks for something that is proven.
fn ask(net: &Net, options: &str) -> Ran {
    net.run(0, &format!("parameter show GENESIS {options}"))
}

#[test]
fn with_the_authority_a_node_is_reached_and_otherwise_not() {
    let net = secured(&Authority::new("ours"), false);
    wait_for("an answer over TLS", LIMIT, || {
        (ask(&net, "--ca ca.crt").code == 0).then_some(())
    });
    let opened = net.run(
        0,
        "account open --unit 1 --holder KEYS/holder-0.key --class innovation GENESIS \
         --key KEYS/issuer-0.key --ca ca.crt",
    );
    assert_eq!(opened.json()["outcome"], "final");

    // How it fails depends on who hangs up first.
    let plain = ask(&net, "");
    assert!(plain.code != 0 && plain.out.is_empty(), "{plain:?}");
    write(
        net.folder.path(),
        "other.crt",
        &Authority::new("another").pem,
    );
    let error = ask(&net, "--ca other.crt").fails(6);
    assert!(error.contains("certificate"), "{error}");
    let line = format!(
        "parameter show --genesis net/genesis.json --node https://{}",
        net.grpc[0]
    );
    let error = run(net.folder.path(), &line).fails(1);
    assert!(error.contains("needs --ca"), "{error}");
    // It is still there for those who may.
    ask(&net, "--ca ca.crt").ok();
}

async fn connect(
    net: &Net,
    authority: &Authority,
    identity: Option<(String, String)>,
) -> Result<u64, String> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Channel::from_shared(format!("https://{}", net.grpc[0])).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap();
    let channel = endpoint.connect().await.map_err(|e| format!("{e:?}"))?;
    let mut client = LedgerServiceClient::new(channel);
    let status = client.get_status(v1::GetStatusRequest {}).await;
    status
        .map(|status| status.into_inner().height)
        .map_err(|e| format!("{e:?}"))
}

#[test]
fn with_client_ca_clients_need_a_certificate_too() {
    let authority = Authority::new("ours");
    let net = secured(&authority, true);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ask = |identity| runtime.block_on(connect(&net, &authority, identity));
    wait_for("an answer over TLS", LIMIT, || {
        ask(Some(authority.sign("client"))).ok()
    });
    ask(None).unwrap_err();
    ask(Some(Authority::new("another").sign("client"))).unwrap_err();
}

#[test]
fn what_would_be_open_or_broken_is_refused_with_a_reason() {
    let net = Net::make(1);
    let home = net.home(0);
    let file = home.config_file();
    let good = fs::read_to_string(&file).unwrap();
    let refused = |text: &str| {
        fs::write(&file, text).unwrap();
        run(net.folder.path(), "node --home net/v0").fails(1)
    };
    let ip = home.config().unwrap().listen.grpc.ip().to_string();
    let open = good.replace(&format!("grpc = \"{ip}:"), "grpc = \"0.0.0.0:");
    assert_ne!(open, good);
    let error = refused(&open);
    assert!(error.contains("is not on loopback: set [tls]"), "{error}");

    let tls = "\n[tls]\ncertificate = \"tls.crt\"\nkey = \"tls.key\"\n";
    let error = refused(&format!("{good}{tls}"));
    assert!(error.contains("tls.crt, named in [tls]"), "{error}");
    write(home.folder(), "tls.crt", "no certificate");
    write(home.folder(), "tls.key", "no key");
    let error = refused(&format!("{good}{tls}"));
    assert!(error.contains("named in [tls] cannot be used"), "{error}");
}
