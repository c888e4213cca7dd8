//! `tally auth`: logging in to a node, and who did.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tally_ledger::ids::Time;
use tally_proto::{jwt, login::now, v1};
use zeroize::Zeroizing;

use super::{
    args::{GenesisArg, runtime},
    client::{NodeArg, failure, login_key},
    clock::{parse_duration, show_date},
    exit::Exit,
    output::{self, Format},
};

const JWT_EXAMPLE: &str = "\
Example:
  tally auth jwt --key ann.key --genesis genesis.json
  buf curl --protocol grpc -H \"authorization: Bearer $(tally auth jwt --key ann.key)\" ...

The token is good for this chain alone, for reading what the key's owner may read, and for as
long as the chain has that key for it. `tally` itself logs in with --login and needs no token.";

const PEM_EXAMPLE: &str = "\
Example:
  tally auth pem --key ann.key > ann.pem
  openssl req -new -key ann.pem -subj /CN=account:7 -out ann.csr

Who runs the node signs ann.csr with the authority of its [tls] client_ca. The common name is the
caller's name on the chain; the certificate logs in as that caller while its key is the caller's.";

/// Log in to a node from any gRPC client; see who did
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuthCommand {
    /// Print a token for `authorization: Bearer`, good for minutes
    #[command(after_help = JWT_EXAMPLE)]
    Jwt(Jwt),
    /// Print a key as PKCS#8, for a client certificate
    #[command(after_help = PEM_EXAMPLE)]
    Pem(Pem),
    /// Print who a node takes the caller for, and until when
    #[command(after_help = "Example:\n  tally auth whoami --login ann.key --genesis genesis.json")]
    Whoami(Whoami),
    /// Print who asked a node for what (an auditor logs in)
    #[command(
        after_help = "Example:\n  tally auth log --login carl.key --genesis genesis.json \
        --from 1200\n\nEach node keeps its own. A gap in the numbers: more was asked at once than \
        is written."
    )]
    Log(Log),
}

/// Arguments of `auth jwt`.
#[derive(Debug, clap::Args)]
pub(crate) struct Jwt {
    /// Secret key file of a person, gateway or holder
    #[arg(long, env = "TALLY_LOGIN", value_name = "FILE")]
    key: PathBuf,
    /// How long it is good for, at most 15m
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    life: Duration,
    #[command(flatten)]
    genesis: GenesisArg,
}

/// Arguments of `auth pem`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pem {
    /// Secret key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Arguments of `auth whoami`.
#[derive(Debug, clap::Args)]
pub(crate) struct Whoami {
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `auth log`.
#[derive(Debug, clap::Args)]
pub(crate) struct Log {
    /// First record
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Most records
    #[arg(long, default_value_t = 1_000)]
    limit: u32,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

impl AuthCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            AuthCommand::Jwt(jwt) => jwt.run(),
            AuthCommand::Pem(pem) => pem.run(),
            AuthCommand::Whoami(whoami) => whoami.run(format),
            AuthCommand::Log(log) => log.run(format),
        }
    }
}

impl Jwt {
    fn run(self) -> anyhow::Result<Exit> {
        let life = self.life.as_secs();
        anyhow::ensure!(
            (1..=jwt::MAX_LIFE_S).contains(&life),
            "--for must be between 1s and {}s",
            jwt::MAX_LIFE_S
        );
        let genesis = self.genesis.read()?;
        let (name, key) = login_key(&self.key, &genesis)?;
        let token = jwt::issue(&key, name, &genesis.chain(), now(), life);
        output::write(&format!("{token}\n"))?;
        Ok(Exit::Done)
    }
}

/// What comes before the seed in the PKCS#8 form of an ed25519 key (RFC 8410,
/// section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// An ed25519 seed as a PEM file.
fn pem(seed: &[u8; 32]) -> Zeroizing<String> {
    let mut der = Zeroizing::new([0; 48]);
    der[..16].copy_from_slice(&PKCS8);
    der[16..].copy_from_slice(seed);
    let text = Zeroizing::new(STANDARD.encode(der.as_slice()));
    Zeroizing::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        *text
    ))
}

impl Pem {
    fn run(self) -> anyhow::Result<Exit> {
        let key = super::keys::KeyFile::read(&self.key)?.secret()?;
        output::write(&pem(&Zeroizing::new(key.seed())))?;
        Ok(Exit::Done)
    }
}

impl Whoami {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let answer = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            let answer = client.audit.who_am_i(v1::WhoAmIRequest {}).await;
            answer.map_err(|e| failure(&e))
        })?;
        let answer = answer.into_inner();
        anyhow::ensure!(
            answer.chain[..] == genesis.chain().0.0,
            "the node is of another chain: {}",
            hex::encode(&answer.chain)
        );
        let mut value = match answer.caller.is_empty() {
            true => json!({"caller": "nobody by name: trusted without a login"}),
            false => json!({
                "caller": answer.caller,
                "until": show_date(Time(answer.until)),
            }),
        };
        if !answer.roles.is_empty() {
            value["roles"] = answer.roles.into();
        }
        if let Some(unit) = answer.unit {
            value["unit"] = unit.into();
        }
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

fn row(record: v1::Access) -> Value {
    json!({
        "record": record.number,
        "time": show_date(Time(record.time)),
        "caller": record.caller,
        "address": record.address,
        "method": record.method,
        "subject": record.subject,
        "answer": record.answer,
    })
}

impl Log {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let rows = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            let mut rows = Vec::new();
            let mut from = self.from;
            while rows.len() < self.limit as usize {
                let limit = (self.limit as usize - rows.len()).min(1_000) as u32;
                let request = v1::ListAccessRequest { from, limit };
                let answer = client.audit.list_access(request).await;
                let answer = answer.map_err(|e| failure(&e))?.into_inner();
                rows.extend(answer.records.into_iter().map(row));
                if answer.next <= from {
                    break;
                }
                from = answer.next;
            }
            anyhow::Ok(rows)
        })?;
        output::print(format, &rows)?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_read_the_pem() {
        let key = rcgen::KeyPair::from_pem(&pem(&[7; 32])).unwrap();
        let public = tally_ledger::crypto::SecretKey::from_seed(&[7; 32]).public();
        assert_eq!(key.public_key_raw(), public.0);
    }
}
