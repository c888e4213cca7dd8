//! Talking to a node: the address, TLS, the login, and what its errors mean
//! for the exit code.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use tally_ledger::{
    codec, crypto::SecretKey, genesis::Genesis, ids::Height, state_file::StateFile,
    transaction::Author, tree::Table,
};
use tally_proto::{
    LoggedIn, Login, Problem,
    login::may_be_shown_to,
    v1::{
        self, audit_service_client::AuditServiceClient, ledger_service_client::LedgerServiceClient,
    },
};
use tonic::{
    Code, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use super::{
    exit::{Exit, Failure},
    keys::{KeyFile, KeyKind},
    submit::author_of,
};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// Which node to ask.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArg {
    /// Node to talk to
    #[arg(
        long,
        env = "TALLY_NODE",
        value_name = "ADDR",
        default_value = "127.0.0.1:26650"
    )]
    pub(crate) node: String,
    /// Certificate that the node's TLS must lead to; needed beyond loopback
    #[arg(long, env = "TALLY_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Secret key file of a person, gateway or holder to log in with; needed beyond loopback to
    /// read anything
    #[arg(long, env = "TALLY_LOGIN", value_name = "FILE")]
    pub(crate) login: Option<PathBuf>,
    /// Genesis file of the chain to log in to; needed where --genesis is no option
    #[arg(long, env = "TALLY_GENESIS", value_name = "FILE", hide_env = true)]
    pub(crate) login_genesis: Option<PathBuf>,
}

/// A connection to a node.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Writing.
    pub(crate) ledger: LedgerServiceClient<LoggedIn>,
    /// Reading.
    pub(crate) audit: AuditServiceClient<LoggedIn>,
}

/// Whose key a file holds, and the key.
pub(crate) fn login_key(
    path: &std::path::Path,
    genesis: &Genesis,
) -> anyhow::Result<(Author, SecretKey)> {
    let at = || format!("key file {}", path.display());
    let key = KeyFile::read(path)?;
    anyhow::ensure!(
        key.kind != KeyKind::ApiKey,
        "{}: an API key cannot log in; its account's holder can",
        at()
    );
    let name = author_of(&key, genesis).with_context(|| {
        format!(
            "{}: not in the genesis and without a number; run: tally keypair number {} N",
            at(),
            path.display()
        )
    })?;
    Ok((name, key.secret().with_context(at)?))
}

impl NodeArg {
    /// A node at an address without TLS.
    pub(crate) fn plain(address: impl ToString) -> Self {
        NodeArg {
            node: address.to_string(),
            ca: None,
            login: None,
            login_genesis: None,
        }
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let wrong = || {
            let node = &self.node;
            Failure::error(
                Exit::Usage,
                format!("`{node}` is no address such as 127.0.0.1:26650"),
            )
        };
        let uri = match (self.node.contains("://"), &self.ca) {
            (true, _) => self.node.clone(),
            (false, None) => format!("http://{}", self.node),
            (false, Some(_)) => format!("https://{}", self.node),
        };
        anyhow::ensure!(
            self.ca.is_some() || !uri.starts_with("https://"),
            "an https node needs --ca: the certificate that its own must lead to"
        );
        let endpoint = Endpoint::from_shared(uri).map_err(|_| wrong())?;
        // An address with a scheme has that one's port.
        if !self.node.contains("://") && endpoint.uri().port().is_none() {
            let why = format!("`{}` names no port, as 127.0.0.1:26650 does", self.node);
            return Err(Failure::error(Exit::Usage, why));
        }
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10));
        let Some(ca) = &self.ca else {
            return Ok(endpoint);
        };
        let pem = std::fs::read(ca).with_context(|| format!("certificate {}", ca.display()))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        Ok(endpoint.tls_config(tls)?)
    }

    /// Connects, and logs in if a key is given; the chain is that of
    /// `--login-genesis`.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let Some(key) = &self.login else {
            return self.connect_open().await;
        };
        let genesis = self.login_genesis.as_ref().ok_or_else(|| {
            let message = "--login needs the chain: give --login-genesis or set TALLY_GENESIS";
            Failure::error(Exit::Usage, message.to_owned())
        })?;
        let genesis = super::genesis::read(genesis)?;
        self.connect_with(self.login(key, &genesis)?).await
    }

    /// Connects to a node of this chain, and logs in if a key is given.
    pub(crate) async fn connect_to(&self, genesis: &Genesis) -> anyhow::Result<Client> {
        match &self.login {
            Some(key) => self.connect_with(self.login(key, genesis)?).await,
            None => self.connect_open().await,
        }
    }

    /// Connects without logging in: to hand something in, or see the status.
    pub(crate) async fn connect_open(&self) -> anyhow::Result<Client> {
        self.connect_with(Login::none()).await
    }

    /// A login is shown to this node and nobody on the way to it.
    fn login(&self, key: &std::path::Path, genesis: &Genesis) -> anyhow::Result<Login> {
        let (name, key) = login_key(key, genesis)?;
        let endpoint = self.endpoint()?;
        anyhow::ensure!(
            may_be_shown_to(endpoint.uri()),
            "a login beyond loopback needs TLS: give --ca"
        );
        Ok(Login::new(name, key, genesis.chain()))
    }

    async fn connect_with(&self, login: Login) -> anyhow::Result<Client> {
        let channel = self.endpoint()?.connect().await.map_err(|e| {
            let message = format!(
                "no node answers at {}: {}; is it running, and is --node its gRPC address?",
                self.node,
                causes(&e)
            );
            Failure::error(Exit::Unreachable, message)
        })?;
        Ok(Client {
            ledger: LedgerServiceClient::with_interceptor(channel.clone(), login.clone()),
            audit: AuditServiceClient::with_interceptor(channel, login)
                .max_decoding_message_size(MAX_ANSWER),
        })
    }
}

/// Why there is no connection, down to what the system says.
fn causes(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    let mut said = Vec::new();
    while let Some(source) = inner.source() {
        inner = source;
        said.push(source.to_string());
    }
    // Each often repeats the next one.
    said.dedup_by(|next, before| before.ends_with(&**next));
    match said.is_empty() {
        true => error.to_string(),
        false => said.join(": "),
    }
}

/// What to say of an answer that is none of a node.
fn no_node(status: &Status) -> Option<String> {
    let said = status.message();
    let what = if said.contains("grpc-status header missing") {
        "what answers is not the gRPC of a node"
    } else if status.code() == Code::Unknown && said.contains("transport error") {
        "the connection broke, or what answers is not the gRPC of a node"
    } else {
        return None;
    };
    let how = "is --node the `grpc` address of its config.toml, and does it need TLS (--ca)?";
    Some(format!("{what}; {how}"))
}

/// What a status means: the ledger's own words, and the exit code.
pub(crate) fn failure(status: &Status) -> anyhow::Error {
    let Some(problem) = Problem::of(status) else {
        if let Some(why) = no_node(status) {
            return Failure::error(Exit::Unreachable, why);
        }
        let exit = match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Exit::Unknown,
            Code::Unavailable | Code::Unknown => Exit::Unreachable,
            _ => Exit::Failed,
        };
        return Failure::error(
            exit,
            format!("the node answers {}: {}", status.code(), status.message()),
        );
    };
    let exit = match problem.retry.as_str() {
        "done" => Exit::Done,
        "never" => Exit::Refused,
        _ => Exit::NotNow,
    };
    let advice = match problem.retry.as_str() {
        "never" if problem.name == "NotLoggedIn" => "see --login and `tally auth --help`",
        "never" if problem.reason.is_none() => "asking the same again will not do",
        "never" => "these bytes will never be accepted",
        "same_bytes" => "the same bytes may be accepted later",
        "later" => "ask again later",
        _ => "it has happened already",
    };
    let number = problem
        .reason
        .map(|reason| format!(" ({})", reason.number()))
        .unwrap_or_default();
    let message = format!("{}{number}: {}; {advice}", problem.name, status.message());
    Failure::error(exit, message)
}

/// A leaf of the state that was verified.
pub(crate) struct ProvenLeaf {
    /// Under the header of which height.
    pub(crate) height: Height,
    /// Its bytes.
    pub(crate) leaf: Vec<u8>,
    /// The bytes of the state file.
    pub(crate) file: Vec<u8>,
}

impl Client {
    /// A leaf of the state, proven under a header that a quorum of the
    /// genesis's validators signed: the node need not be believed. `None`:
    /// there provably is no such number.
    pub(crate) async fn leaf(
        &mut self,
        genesis: &Genesis,
        table: Table,
        number: u32,
    ) -> anyhow::Result<Option<(Height, Vec<u8>)>> {
        let proven = self.leaf_file(genesis, table, number).await?;
        Ok(proven.map(|proven| (proven.height, proven.leaf)))
    }

    /// The same, with the file that proves it.
    pub(crate) async fn leaf_file(
        &mut self,
        genesis: &Genesis,
        table: Table,
        number: u32,
    ) -> anyhow::Result<Option<ProvenLeaf>> {
        let request = v1::GetLeafRequest {
            table: u32::from(table as u8),
            number,
        };
        let answer = self
            .audit
            .get_leaf(request)
            .await
            .map_err(|e| failure(&e))?
            .into_inner();
        let proof = answer.proof.context("the node's answer lacks the proof")?;
        let false_proof = |why: String| {
            Failure::error(
                Exit::Invalid,
                format!("the node's proof is false: {why}; ask another node"),
            )
        };
        let file = StateFile::decode(&proof.file).map_err(|e| false_proof(e.to_string()))?;
        if (file.proof.table, file.proof.number) != (table, number) {
            return Err(false_proof("it is of another leaf".to_owned()));
        }
        let leaf = file
            .verify(genesis)
            .map_err(|e| false_proof(e.to_string()))?;
        let height = file.certified.header.height;
        Ok(leaf.map(|leaf| ProvenLeaf {
            height,
            leaf: leaf.to_vec(),
            file: proof.file.to_vec(),
        }))
    }

    /// The same, decoded; an absent one is an error.
    pub(crate) async fn state<T: serde::de::DeserializeOwned>(
        &mut self,
        genesis: &Genesis,
        table: Table,
        number: u32,
        what: &str,
    ) -> anyhow::Result<(Height, T)> {
        let (height, leaf) = self
            .leaf(genesis, table, number)
            .await?
            .ok_or_else(|| Failure::error(Exit::NotNow, format!("there is no {what} {number}")))?;
        Ok((height, codec::decode(&leaf, leaf.len())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_without_a_scheme_must_name_its_port() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let issued = rcgen::generate_simple_self_signed(vec!["host.example".to_owned()]);
        std::fs::write(&ca, issued.unwrap().cert.pem()).unwrap();
        let endpoint = |node: &str, ca: Option<&std::path::Path>| {
            let mut arg = NodeArg::plain(node);
            arg.ca = ca.map(Into::into);
            arg.endpoint().map(|endpoint| endpoint.uri().to_string())
        };
        let ca = Some(ca.as_path());
        let proxied = endpoint("https://host.example", ca).unwrap();
        assert_eq!(proxied, "https://host.example/");
        endpoint("http://host.example", None).unwrap();
        endpoint("127.0.0.1:26650", None).unwrap();
        endpoint("host.example:443", ca).unwrap();
        for (node, ca) in [("host.example", None), ("host.example", ca)] {
            let error = endpoint(node, ca).unwrap_err();
            assert_eq!(Failure::code(&error), Exit::Usage);
            assert!(error.to_string().contains("names no port"), "{error}");
        }
    }
}
