//! TLS of a node's gRPC, from the files that its configuration names: who has
//! the authority's certificate reaches it, nobody else does. Logins of the
//! command line, of client certificates and of a gateway.

#![allow(clippy::unwrap_used)]

mod cli_common;

use std::fs;

use cli_common::{LIMIT, Net, Ran, chat, gateway::Metered, run, wait_for, write};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tally_node::config::{LoginOf, Tls};
use tally_proto::v1::{
    self, audit_service_client::AuditServiceClient, ledger_service_client::LedgerServiceClient,
};
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
        client_optional: false,
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

/// A client certificate of a caller's name for a key.
fn named(authority: &Authority, name: &str, pem: &str) -> (String, String) {
    let key = KeyPair::from_pem(pem).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let signed = params.signed_by(&key, &authority.certificate, &authority.key);
    (signed.unwrap().pem(), pem.to_owned())
}

/// Who the node says is calling.
async fn who(
    net: &Net,
    authority: &Authority,
    identity: Option<(String, String)>,
) -> Result<String, tonic::Status> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Channel::from_shared(format!("https://{}", net.grpc[0])).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await;
    let channel = channel.map_err(|e| tonic::Status::unavailable(format!("{e:?}")))?;
    let mut client = AuditServiceClient::new(channel);
    let me = client.who_am_i(v1::WhoAmIRequest {}).await?;
    Ok(me.into_inner().caller)
}

#[test]
fn a_client_certificate_of_a_key_on_the_chain_is_a_login() {
    let authority = Authority::new("ours");
    let mut net = secured(&authority, true);
    let home = net.home(0);
    net.kill(0);
    let mut config = home.config().unwrap();
    config.rpc.login = LoginOf::All;
    config.tls.as_mut().unwrap().client_optional = true;
    home.write_config(&config).unwrap();
    net.start_node(0);
    let folder = net.folder.path();
    let pem = |name: &str| run(folder, &format!("auth pem --key net/keys/{name}.key")).ok();
    let (admin, issuer) = (pem("admin-0"), pem("issuer-0"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ask = |identity| runtime.block_on(who(&net, &authority, identity));
    let whoami = |login: &str| {
        let line = format!("auth whoami GENESIS --ca ca.crt --login KEYS/{login}.key");
        net.run(0, &line)
    };
    wait_for("an answer over TLS", LIMIT, || {
        (whoami("admin-0").code == 0).then_some(())
    });
    let name = |login: &str| whoami(login).json()["caller"].as_str().unwrap().to_owned();
    let (admin_name, issuer_name) = (name("admin-0"), name("issuer-0"));
    assert_ne!(admin_name, issuer_name);
    let good = named(&authority, &admin_name, &admin);
    assert_eq!(ask(Some(good)).unwrap(), admin_name);
    // The name of one and the key of another; a key that is no ed25519 key.
    for identity in [
        named(&authority, &admin_name, &issuer),
        named(
            &authority,
            &admin_name,
            &KeyPair::generate().unwrap().serialize_pem(),
        ),
    ] {
        let refused = ask(Some(identity)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
        assert!(
            refused.message().contains("not signed by the key"),
            "{refused}"
        );
    }
    // Of no caller, and none at all: let in by TLS, and nobody.
    for identity in [Some(named(&authority, "a proxy", &issuer)), None] {
        let refused = ask(identity).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
        assert!(refused.message().contains("log in"), "{refused}");
    }
    // Of another authority: not even let in.
    let other = named(&Authority::new("another"), &admin_name, &admin);
    assert_ne!(
        ask(Some(other)).unwrap_err().code(),
        tonic::Code::Unauthenticated
    );
}

#[test]
fn commands_log_in_where_a_login_is_needed() {
    let authority = Authority::new("ours");
    let mut net = secured(&authority, false);
    let home = net.home(0);
    net.kill(0);
    let mut config = home.config().unwrap();
    config.rpc.login = LoginOf::All;
    home.write_config(&config).unwrap();
    net.start_node(0);
    wait_for("an answer over TLS", LIMIT, || {
        (ask(&net, "--ca ca.crt --login KEYS/issuer-0.key").code == 0).then_some(())
    });
    let needed = ask(&net, "--ca ca.crt").fails(3);
    assert!(
        needed.contains("NotLoggedIn") && needed.contains("tally auth"),
        "{needed}"
    );
    ask(&net, "--ca ca.crt --login KEYS/issuer-0.key").ok();
    let line = "entry list --control --ca ca.crt --login KEYS/admin-0.key";
    let chain = net.run(0, line).fails(2);
    assert!(chain.contains("--login-genesis"), "{chain}");
    net.run(0, &format!("{line} --login-genesis net/genesis.json"))
        .ok();
    let line = line.replace("admin", "issuer");
    let refused = net
        .run(0, &format!("{line} --login-genesis net/genesis.json"))
        .fails(3);
    assert!(
        refused.contains("NotAllowed") && refused.contains("auditors, admins"),
        "{refused}"
    );
    // A login is shown to nobody on the way.
    let plain = "parameter show --genesis net/genesis.json --node 192.0.2.1:26650 \
                 --login net/keys/issuer-0.key";
    let error = run(net.folder.path(), plain).fails(1);
    assert!(error.contains("needs TLS"), "{error}");
    let token = run(
        net.folder.path(),
        "auth jwt --key net/keys/issuer-0.key --genesis net/genesis.json --for 5m",
    );
    assert_eq!(token.ok().trim().split('.').count(), 3);
    let long = "auth jwt --key net/keys/issuer-0.key --genesis net/genesis.json --for 16m";
    assert!(run(net.folder.path(), long).fails(1).contains("900s"));
    // Handing in needs none.
    let role = "role set --person 7 --public eva.pub --role auditor GENESIS \
                --key KEYS/admin-0.key --key KEYS/admin-1.key --ca ca.crt";
    run(net.folder.path(), "keypair create eva.key --kind person").ok();
    let persons = net
        .run(0, "role list GENESIS --ca ca.crt --login KEYS/admin-0.key")
        .json();
    let next = persons.as_array().unwrap().len();
    let role = role.replace("--person 7", &format!("--person {next}"));
    net.run(0, &role).ok();
    let unit = format!(
        "role set-unit --person {next} --unit 12 GENESIS --key KEYS/admin-0.key \
         --key KEYS/admin-1.key --ca ca.crt"
    );
    assert_eq!(net.run(0, &unit).json()["entries"][0]["what"], "UnitSet");
    run(net.folder.path(), &format!("keypair number eva.key {next}")).ok();
    let open = "account open --unit 12 --holder KEYS/holder-0.key --class innovation GENESIS \
                --key KEYS/issuer-0.key --ca ca.crt";
    net.run(0, open).ok();
    let totals = "account totals --unit 12 GENESIS --ca ca.crt --login eva.key";
    assert_eq!(net.run(0, totals).json()["accounts"], 1);
    let totals = totals.replace("eva.key", "KEYS/holder-0.key");
    assert!(net.run(0, &totals).fails(3).contains("managers"));
    let log = net
        .run(0, "auth log GENESIS --ca ca.crt --login eva.key")
        .json();
    let has = |caller: &str, answer: &str| {
        let mut rows = log.as_array().unwrap().iter();
        rows.any(|row| row["caller"] == caller && row["answer"] == answer)
    };
    assert!(
        has("nobody", "NotLoggedIn") && has("person:0", "allowed"),
        "{log}"
    );
}

const BODY: &str = r#"{"model": "tally-base", "messages": [{"role": "user", "content": "hello"}]}"#;

#[test]
fn a_gateway_serves_a_chain_that_demands_logins_until_it_is_suspended() {
    let mut net = Net::make(1);
    let home = net.home(0);
    let mut config = home.config().unwrap();
    config.rpc.login = LoginOf::All;
    home.write_config(&config).unwrap();
    net.start_node(0);
    net.wait_height(0, 1);
    let mut metered = Metered::on(net, "--seed 7 --think-ms 5", None);
    metered.start_gateway();
    let url = metered.serving();
    let address = url.strip_prefix("http://").unwrap().trim_end_matches("/v1");
    let answer = chat(address, &metered.secrets[0], BODY);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let hold = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-tally-receipt: "));
    let hold = hold.unwrap();
    let get = |login: &str| {
        let line = format!("receipt get --hold {hold} --out {login}.receipt GENESIS");
        metered
            .net
            .run(0, &format!("{line} --login KEYS/{login}.key"))
    };
    wait_for("its receipt", LIMIT, || {
        (get("holder-0").code == 0).then_some(())
    });
    let others = get("holder-1").fails(3);
    assert!(others.contains("NotAllowed"), "{others}");
    let suspend = "gateway-key suspend 0 GENESIS --key KEYS/admin-0.key";
    metered.net.run(0, suspend).ok();
    wait_for("the gateway's end", LIMIT, || {
        let answer = chat(address, &metered.secrets[0], BODY);
        (!answer.starts_with("HTTP/1.1 200")).then_some(())
    });
    let log = fs::read_to_string(metered.net.folder.path().join("gateway.log")).unwrap();
    assert!(log.contains("this gateway was suspended"), "{log}");
    assert_eq!(metered.terminate_gateway(), 0);
    // Everything was settled and given back.
    let show = "account show 0 GENESIS --login KEYS/issuer-0.key";
    let account = metered.net.run(0, show).json();
    assert_eq!(account["leases"], serde_json::json!([]));
    assert_ne!(account["totals"][0]["spent"], "0.000000");
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
