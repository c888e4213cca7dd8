//! `tally evidence`: what validators signed twice. The list is proven to be
//! complete; a file and the genesis are enough to verify a piece.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tally_ledger::{
    action::Action,
    block::ValidatorSet,
    certified::Trust,
    entry::Event,
    evidence::{Evidence, EvidenceFile, Offence, Vote},
    genesis::Genesis,
    hash::Hash,
};

use super::{
    args::{GenesisArg, ProofFiles, runtime},
    client::NodeArg,
    clock::show_date,
    exit::{Exit, Failure},
    finality::invalid,
    keys::write_new_file,
    kind::{self, Kind},
    output::{self, Format},
    proven,
    submit::SubmitArgs,
};

/// Ending of evidence files.
const ENDING: &str = "evidence";

/// Evidence: what validators signed twice
#[derive(Debug, clap::Subcommand)]
pub(crate) enum EvidenceCommand {
    /// List all evidence that the chain has, proven to be complete
    #[command(after_help = "Example:\n  tally evidence list --genesis genesis.json")]
    List(List),
    /// Show who signed what twice, and keep it as a file
    #[command(
        after_help = "Example:\n  tally evidence show 4711 --out 4711.evidence --genesis genesis.json\n\n\
        The number is that of the entry, as `tally evidence list` prints it."
    )]
    Show(Show),
    /// Verify evidence files with nothing but the genesis
    #[command(after_help = "Example:\n  tally evidence verify *.evidence --genesis genesis.json")]
    Verify(ProofFiles),
    /// Make a file of two certified headers of one height
    #[command(
        after_help = "Example:\n  tally evidence make --certified mine.receipt \
        --certified theirs.consistency \\\n      --out fork.evidence --genesis genesis.json\n\n\
        Receipt, state, history and consistency files carry certified headers. Two of one height\n\
        with different blocks are proof that more than a third of the validators are faulty."
    )]
    Make(Make),
    /// Hand in an evidence file: any key that the ledger knows will do
    #[command(
        after_help = "Example:\n  tally evidence submit fork.evidence --genesis genesis.json \
        --key ann.key\n\nA fork in two rounds names nobody, so the ledger does not take it: show the file."
    )]
    Submit(Submit),
}

/// Arguments of `evidence list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only against this validator
    #[arg(long, value_name = "NUMBER")]
    validator: Option<u16>,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `evidence show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Index of the entry in the log
    entry: u64,
    /// Where to write the evidence
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `evidence make`.
#[derive(Debug, clap::Args)]
pub(crate) struct Make {
    /// A file with a certified header; give two or more
    #[arg(long, required = true, value_name = "FILE")]
    certified: Vec<PathBuf>,
    /// Where to write the evidence
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    genesis: GenesisArg,
}

/// Arguments of `evidence submit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// The evidence file
    file: PathBuf,
    #[command(flatten)]
    submit: SubmitArgs,
}

impl EvidenceCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            EvidenceCommand::List(list) => list.run(format),
            EvidenceCommand::Show(show) => show.run(format),
            EvidenceCommand::Verify(files) => verify_all(&files, format),
            EvidenceCommand::Make(make) => make.run(format),
            EvidenceCommand::Submit(submit) => submit.run(format),
        }
    }
}

impl List {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let mut trust = Trust::new(&genesis)?;
        let (found, to) = runtime()?.block_on(async {
            let mut client = self.node.connect().await?;
            proven::controls(&mut client, &mut trust, 0).await
        })?;
        let mut rows = Vec::new();
        for (index, leaf, event) in found {
            let Event::SignedTwice {
                place,
                signed,
                evidence,
                ..
            } = event
            else {
                continue;
            };
            if self
                .validator
                .is_some_and(|wanted| wanted != place.validator)
            {
                continue;
            }
            rows.push(json!({
                "entry": index,
                "in block": leaf.height,
                "validator": place.validator,
                "owner": owner(&genesis.validators, place.validator),
                "signed twice": signed.name(),
                "at height": place.height,
                "round": place.round,
                "evidence": evidence,
            }));
        }
        output::print(
            format,
            &json!({"complete up to height": to, "evidence": rows}),
        )?;
        Ok(Exit::Done)
    }
}

/// `person:6`.
fn owner(validators: &ValidatorSet, number: u16) -> String {
    let validator = validators.0.get(usize::from(number));
    validator.map_or_else(|| "-".to_owned(), |v| format!("person:{}", v.owner))
}

impl Show {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let mut trust = Trust::new(&genesis)?;
        let (evidence, mut value) = runtime()?.block_on(async {
            let mut client = self.node.connect().await?;
            let (found, _) = proven::controls(&mut client, &mut trust, 0).await?;
            let entry = found.into_iter().find(|(index, ..)| *index == self.entry);
            let Some((
                _,
                leaf,
                Event::SignedTwice {
                    transaction,
                    evidence,
                    ..
                },
            )) = entry
            else {
                let why = format!(
                    "entry {} is no evidence; see `tally evidence list`",
                    self.entry
                );
                return Err(Failure::error(Exit::Usage, why));
            };
            let (body, time) = proven::body(&client, &mut trust, leaf.height, transaction).await?;
            let Action::Evidence(found) = body.action else {
                let why = "it lacks the evidence that its log has";
                return Err(proven::false_block(leaf.height.0, why));
            };
            ensure!(
                found.hash() == evidence,
                "the block's evidence is another one"
            );
            let value = json!({
                "entry": self.entry,
                "in block": leaf.height,
                "time": show_date(time),
                "told by": super::tx_file::show_author(body.author),
                "transaction": transaction,
            });
            Ok((*found, value))
        })?;
        let file = EvidenceFile {
            chain: genesis.chain(),
            evidence,
        };
        let proves = file.verify(&genesis)?;
        if let Some(path) = &self.out {
            write_new_file(path, &file.encode(), 0o644)?;
            value["file"] = json!(path);
        }
        describe(&mut value, &file.evidence, &proves, &genesis);
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

/// Both messages, and whom they accuse.
fn describe(value: &mut Value, evidence: &Evidence, proves: &[Offence], genesis: &Genesis) {
    value["evidence"] = json!(evidence.hash());
    value["height"] = json!(evidence.height());
    let block = |id: &Option<Hash>| id.map_or_else(|| "nil".to_owned(), |id| id.to_string());
    let (what, messages): (String, Vec<Value>) = match evidence {
        Evidence::Votes(place, vote, pair) => {
            let step = match vote {
                Vote::Prevote => "prevote",
                Vote::Precommit => "precommit",
            };
            let messages = pair.iter().map(
                |signed| json!({"block": block(&signed.block), "signature": signed.signature}),
            );
            let what = format!("two {step}s of round {}", place.round);
            (what, messages.collect())
        }
        Evidence::Proposals(place, pair) => {
            let messages = pair.iter().map(|signed| {
                json!({
                    "block": signed.block,
                    "proof of lock": signed.pol_round,
                    "signature": signed.signature,
                })
            });
            let what = format!("two proposals of round {}", place.round);
            (what, messages.collect())
        }
        Evidence::Certificates(pair) => {
            let messages = pair.iter().map(|certified| {
                let signers = certified.certificate.precommits.iter();
                json!({
                    "block": certified.header.id(),
                    "round": certified.certificate.round,
                    "signed by": signers.map(|(who, _)| *who).collect::<Vec<_>>(),
                })
            });
            ("two certified blocks".to_owned(), messages.collect())
        }
    };
    value["signed twice"] = json!(what);
    value["messages"] = json!(messages);
    value["proven against"] = json!(against(evidence, proves, genesis));
}

/// `validator 2 (person:8)`, or why nobody.
fn against(evidence: &Evidence, proves: &[Offence], genesis: &Genesis) -> String {
    let name = |who: u16| format!("validator {who} ({})", owner(&genesis.validators, who));
    if proves.is_empty() {
        let both: Vec<String> = evidence.signed_both().into_iter().map(name).collect();
        return format!(
            "nobody by itself: a fork in two rounds; more than a third of the validators are \
             faulty, among those that signed both: {}",
            both.join(", ")
        );
    }
    let names: Vec<String> = proves.iter().map(|o| name(o.place.validator)).collect();
    names.join(", ")
}

/// Reads and verifies a file.
fn verify(path: &Path, genesis: &Genesis) -> anyhow::Result<(EvidenceFile, Vec<Offence>)> {
    let (kind, bytes) = kind::read(path, &[Kind::Evidence])?;
    let file = EvidenceFile::decode(&bytes);
    let file = file.map_err(|e| kind::misread(path, &bytes, kind, e.why))?;
    let proves = file.verify(genesis).map_err(invalid)?;
    Ok((file, proves))
}

fn verify_all(files: &ProofFiles, format: Format) -> anyhow::Result<Exit> {
    let genesis = files.genesis.read()?;
    genesis.validate()?;
    let (mut rows, mut exit) = (Vec::new(), Exit::Done);
    for path in &files.files {
        let mut row = json!({"file": path, "verified": "yes"});
        match verify(path, &genesis) {
            Ok((file, proves)) => describe(&mut row, &file.evidence, &proves, &genesis),
            Err(error) => row["verified"] = json!(exit.take(error)),
        }
        rows.push(row);
    }
    match &rows[..] {
        [one] => output::print(format, one)?,
        _ if format == Format::Json => output::print(format, &rows)?,
        _ => {
            for row in &rows {
                output::print(format, row)?;
                output::write("\n")?;
            }
        }
    }
    Ok(exit)
}

impl Make {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let mut trust = Trust::new(&genesis)?;
        for path in &self.certified {
            for certified in kind::certified(path)? {
                // Its error is what is looked for.
                let checked = trust.check(&certified);
                let Some(evidence) = trust.take_fork() else {
                    let at = || format!("{}", path.display());
                    checked
                        .map_err(|e| Failure::error(Exit::Invalid, e.to_string()))
                        .with_context(at)?;
                    continue;
                };
                let mut value = json!({"file": &self.out});
                let proves = write(&self.out, &genesis, evidence, &mut value)?;
                value["can be handed in"] = json!(!proves.is_empty());
                output::print(format, &value)?;
                return Ok(Exit::Done);
            }
        }
        let why = "no two of these headers are of one height and different blocks: no fork";
        Err(Failure::error(Exit::Invalid, why))
    }
}

/// Writes evidence that verifies to a new file.
fn write(
    path: &Path,
    genesis: &Genesis,
    evidence: Evidence,
    value: &mut Value,
) -> anyhow::Result<Vec<Offence>> {
    let file = EvidenceFile {
        chain: genesis.chain(),
        evidence,
    };
    let proves = file.verify(genesis)?;
    write_new_file(path, &file.encode(), 0o644)?;
    describe(value, &file.evidence, &proves, genesis);
    Ok(proves)
}

impl Submit {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.submit.sign.genesis.read()?;
        let (file, proves) = verify(&self.file, &genesis)?;
        if proves.is_empty() {
            let why = against(&file.evidence, &proves, &genesis);
            return Err(Failure::error(Exit::Refused, format!("it proves {why}")));
        }
        let action = Action::Evidence(Box::new(file.evidence));
        self.submit.run(format, action)
    }
}

/// What is said of a file or answer that does not verify.
pub(crate) fn unproven(trust: &mut Trust<'_>, why: impl std::fmt::Display) -> anyhow::Error {
    let message = with_fork(why, trust.take_fork(), trust.genesis());
    Failure::error(Exit::Invalid, message)
}

/// Why something does not verify. If it is because another header of its
/// height was certified too, both are kept as evidence in this folder:
/// whoever gave them lied, and cannot deny it.
pub(crate) fn with_fork(
    why: impl std::fmt::Display,
    fork: Option<Evidence>,
    genesis: &Genesis,
) -> String {
    let Some(evidence) = fork else {
        return why.to_string();
    };
    let name = &evidence.hash().to_string()[..16];
    let path = PathBuf::from(format!("fork-{}-{name}.{ENDING}", evidence.height()));
    let kept = path.exists() || write(&path, genesis, evidence, &mut json!({})).is_ok();
    match kept {
        true => format!(
            "{why}; kept as {}: show it to the owners and auditors, and see `tally evidence verify`",
            path.display()
        ),
        false => format!("{why}; keep both files, and see `tally evidence make`"),
    }
}
