//! Signing and submitting: the same for every command that changes
//! something. A transaction is signed for the chain of the genesis file,
//! never for one that a node names; the command waits until it is final and
//! prints what became of it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use rand::RngCore;
use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    genesis::Genesis,
    ids::HOUR_MS,
    transaction::{Author, AuthorKind, Body, Transaction},
};
use tally_proto::{Problem, v1};
use tonic::Status;

use super::{
    args::{GenesisArg, runtime},
    client::{Client, NodeArg, failure},
    clock::{now, parse_duration, show_date},
    exit::{Exit, Failure},
    keys::KeyFile,
    output::{self, Format},
    tx_file::{TxFile, parse_author},
};

/// Who signs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SignArgs {
    #[command(flatten)]
    pub(crate) genesis: GenesisArg,
    /// Secret key file of a signer, the author first; repeat for a second person
    #[arg(
        long = "key",
        env = "TALLY_KEY",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub(crate) keys: Vec<PathBuf>,
    /// Somebody who is to sign later, such as person:3; needs --draft
    #[arg(long = "signer", value_name = "KIND:N", value_parser = parse_author)]
    signers: Vec<Author>,
}

/// How to submit.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) sign: SignArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    /// How long the transaction may wait to be accepted, at most 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    valid_for: Duration,
    /// Write a transaction file for further signers instead of submitting
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,
}

/// Where to submit and how long to wait.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    pub(crate) node: NodeArg,
    /// Return as soon as the node has admitted it, before it is final
    #[arg(long)]
    no_wait: bool,
    /// Longest wait; then the outcome is unknown (exit code 5)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// Keys that are read, and who signs with each.
pub(crate) struct Signers {
    /// Author first.
    keys: Vec<(Author, KeyFile)>,
    /// Those who sign later.
    later: Vec<Author>,
}

impl SignArgs {
    /// Reads all keys.
    pub(crate) fn read(&self, genesis: &Genesis) -> anyhow::Result<Signers> {
        let mut keys = Vec::new();
        for path in &self.keys {
            let mut key = KeyFile::read(path)?;
            key.secret()
                .with_context(|| format!("key file {}", path.display()))?;
            let author = author_of(&key, genesis).with_context(|| {
                format!(
                    "key file {}: not in the genesis and without a number; once the ledger has \
                     given one, run: tally keypair number {} N",
                    path.display(),
                    path.display()
                )
            })?;
            key.number = Some(author.number);
            ensure!(
                !keys.iter().any(|(other, _)| *other == author),
                "key file {}: the same signer twice; maker and checker are different persons",
                path.display()
            );
            keys.push((author, key));
        }
        Ok(Signers {
            keys,
            later: self.signers.clone(),
        })
    }
}

/// A key's owner: by its own number, or by its place in the genesis.
pub(crate) fn author_of(key: &KeyFile, genesis: &Genesis) -> Option<Author> {
    let kind = key.kind.author_kind()?;
    let listed = match kind {
        AuthorKind::Person => genesis.persons.iter().position(|p| p.key == key.public),
        AuthorKind::Gateway => genesis.gateways.iter().position(|g| g.key == key.public),
        AuthorKind::Account | AuthorKind::ApiKey | AuthorKind::Validator => None,
    };
    key.author().or(listed.map(|number| Author {
        kind,
        number: number as u32,
    }))
}

impl Signers {
    /// The body of an action by these signers.
    pub(crate) fn body(
        &self,
        id: [u8; 16],
        valid_until: u32,
        action: Action,
    ) -> anyhow::Result<Body> {
        let mut all: Vec<Author> = self.keys.iter().map(|(author, _)| *author).collect();
        all.extend(&self.later);
        let (author, others) = all.split_first().ok_or_else(|| {
            let why = "who signs this? Give the secret key file by --key";
            Failure::error(Exit::Usage, why)
        })?;
        Ok(Body::new(*author, others, id, valid_until, action))
    }

    /// A file with the signatures of all keys.
    pub(crate) fn sign(
        &self,
        genesis: &Genesis,
        body: &Body,
        payload: &[u8],
    ) -> anyhow::Result<TxFile> {
        let mut file = TxFile::new(genesis.chain(), body, payload);
        for (_, key) in &self.keys {
            file.sign(key)?;
        }
        Ok(file)
    }
}

/// A fresh id: 16 bytes that the author has not used before.
pub(crate) fn fresh_id() -> [u8; 16] {
    let mut id = [0; 16];
    rand::rngs::OsRng.fill_bytes(&mut id);
    id
}

/// The clock hour in which a transaction made now stops being valid.
pub(crate) fn valid_until(valid_for: Duration) -> anyhow::Result<u32> {
    let hours = valid_for.as_millis().div_ceil(u128::from(HOUR_MS));
    ensure!(
        (1..=167).contains(&hours),
        "--valid-for must be between 1h and 167h"
    );
    Ok(now().hour() + hours as u32 + 1)
}

/// What became of a transaction, with how to say it.
pub(crate) struct Submitted {
    /// The outcome.
    pub(crate) exit: Exit,
    /// Its place, when final.
    pub(crate) finality: Option<v1::Finality>,
    /// For printing.
    pub(crate) value: Value,
}

impl SubmitArgs {
    /// Signs an action; submits it, or writes the draft.
    pub(crate) fn run(&self, format: Format, action: Action) -> anyhow::Result<Exit> {
        self.run_then(format, action, |_| Ok(()))
    }

    /// The same, and does something with the place of a final transaction.
    pub(crate) fn run_then(
        &self,
        format: Format,
        action: Action,
        then: impl FnOnce(&v1::Finality) -> anyhow::Result<()>,
    ) -> anyhow::Result<Exit> {
        let genesis = self.sign.genesis.read()?;
        let signers = self.sign.read(&genesis)?;
        ensure!(
            self.draft.is_some() || signers.later.is_empty(),
            "--signer needs --draft FILE: the others sign that file with `tally tx sign`"
        );
        let body = signers.body(fresh_id(), valid_until(self.valid_for)?, action)?;
        let file = signers.sign(&genesis, &body, b"")?;
        if let Some(path) = &self.draft {
            file.write_new(path)?;
            super::tx::show(format, &file)?;
            return Ok(Exit::Done);
        }
        let submitted = self.wait.submit_file(&file)?;
        if let Some(finality) = &submitted.finality {
            then(finality)?;
        }
        output::print(format, &submitted.value)?;
        Ok(submitted.exit)
    }
}

impl WaitArgs {
    /// Submits a complete file; keeps it if the outcome stays open, so that
    /// the same bytes can be handed in again.
    pub(crate) fn submit_file(&self, file: &TxFile) -> anyhow::Result<Submitted> {
        let transaction = file.transaction()?;
        let id = transaction.id();
        let submitted = runtime()?.block_on(async {
            let mut client = self.node.connect_open().await?;
            submit(&mut client, transaction, !self.no_wait, self.timeout).await
        })?;
        if submitted.exit == Exit::Unknown {
            let path = PathBuf::from(format!("tally-{}.json", &id.to_string()[..16]));
            let kept = path.exists() || file.write_new(&path).is_ok();
            let again = if kept {
                path.as_path()
            } else {
                Path::new("FILE")
            };
            eprintln!(
                "tally: the outcome of {id} is unknown. Hand in the same bytes again; a new \
                 transaction could do it twice.\n  tally tx submit {}",
                again.display()
            );
        }
        Ok(submitted)
    }
}

/// Submits a transaction. Refusals are errors; an open outcome is not.
pub(crate) async fn submit(
    client: &mut Client,
    transaction: Transaction,
    wait: bool,
    timeout: Duration,
) -> anyhow::Result<Submitted> {
    let id = transaction.id();
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let request = v1::SubmitRequest {
            transaction: Some(transaction.clone().into()),
            wait: if wait {
                v1::Wait::Final
            } else {
                v1::Wait::Admitted
            }
            .into(),
            timeout_ms: left.as_millis().clamp(1, 60_000) as u32,
        };
        let call = client.ledger.submit(request);
        let answer = tokio::time::timeout(left + Duration::from_secs(5), call).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) if is_open(&status) => return Ok(open(&id, status.message())),
            Ok(Err(status)) => return Err(failure(&status)),
            Err(_) => return Ok(open(&id, "the deadline passed")),
        };
        let outcome = answer.outcome();
        if outcome == v1::Outcome::Final || (!wait && outcome == v1::Outcome::Admitted) {
            return Ok(done(&id, outcome, answer.finality));
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(open(&id, "the deadline passed"));
        }
    }
}

/// Whether a transaction may be final although the call failed: a broken
/// connection says nothing about it.
fn is_open(status: &Status) -> bool {
    Problem::of(status).is_none()
}

fn open(id: &impl serde::Serialize, why: &str) -> Submitted {
    let value = json!({"transaction": id, "outcome": "unknown", "why": why});
    Submitted {
        exit: Exit::Unknown,
        finality: None,
        value,
    }
}

fn done(
    id: &impl serde::Serialize,
    outcome: v1::Outcome,
    finality: Option<v1::Finality>,
) -> Submitted {
    let mut value = json!({
        "transaction": id,
        "outcome": if outcome == v1::Outcome::Final { "final" } else { "admitted" },
    });
    if let Some(finality) = &finality {
        value["height"] = finality.height.into();
        value["time"] = show_date(tally_ledger::ids::Time(finality.time)).into();
        let entries = finality.entries.iter().map(super::entry::row);
        value["entries"] = entries.collect::<Vec<_>>().into();
    }
    Submitted {
        exit: Exit::Done,
        finality,
        value,
    }
}
