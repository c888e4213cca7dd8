//! `tally receipt`: fetching, verifying, explaining and correcting. To
//! verify, the file and the genesis are enough; no node is asked.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use tally_ledger::{
    action::{Action, Correct},
    certified::Trust,
    checkpoint::{Finality, LogKeys},
    ids::{Amount, Time},
    merkle::leaf_hash,
    price::PriceTable,
    receipt::{PriceCheck, ReceiptFile, VerifiedReceipt},
    tlog_proof::TlogProof,
};
use tally_proto::v1::{self, get_receipt_request::By};

use super::{
    args::{GenesisArg, ProofFiles, parse_amount, runtime},
    client::{Client, NodeArg, failure},
    clock::{parse_date, show_date},
    evidence::unproven,
    exit::{Exit, Failure},
    finality::{CosignerArgs, Measure, WitnessArgs, check_note, invalid},
    keys::write_new_file,
    output::{self, Format},
    receipt_file::{Named, Receipts, hold_of},
    receipts,
    submit::SubmitArgs,
    tiled::TiledLog,
};

/// Receipts: proofs of what was charged
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Fetch a receipt, or many in one file, from a node, and verify it
    #[command(
        after_help = "Example:\n  tally receipt get --hold 0/1/17 --out 17.receipt \
        --genesis genesis.json\n  tally receipt get --hold 0/1/17 --hold 0/1/18 --out two.receipts\n  \
        tally receipt get --account 7 --from 100 --to 200 --out ann.receipts\n\nThe hold is \
        what a response's x-tally-receipt header names. Several receipts share one proof; only \
        the file of a single one shows fee, limit, lease and API key."
    )]
    Get(Get),
    /// Verify receipt files with nothing but the genesis
    #[command(
        after_help = "Example:\n  tally receipt verify *.receipt --genesis genesis.json\n  tally \
        receipt verify 17.receipt --genesis genesis.json --checkpoint 17.tlog-proof \\\n    \
        --witness council.example/w1+bca0f392+BGKmEbRy2JsOX8k8BpufcAtMVS1VvA6HtWAI7xe2sr6+ \
        --witnesses 1\n\nIt is final: a quorum certified it. With cosignatures it is witnessed: \
        no other history\nwas shown to these witnesses. A tlog-proof is of one receipt: of a file of many, name it \
        by\n--hold, --debit or --index."
    )]
    Verify(ReceiptFiles),
    /// Make a tlog-proof: the receipt under a checkpoint that witnesses cosigned
    #[command(
        after_help = "Example:\n  tally receipt prove 17.receipt --log http://127.0.0.1:26653 \
        --out 17.tlog-proof \\\n    --genesis genesis.json\n  tally receipt prove ann.receipts \
        --hold 0/1/17 --log http://127.0.0.1:26653 \\\n    --out 17.tlog-proof --genesis \
        genesis.json\n\nThe proof is of one receipt: of a file of many, name one."
    )]
    Prove(Prove),
    /// Print how a receipt's cost was computed: the formula with its numbers
    #[command(
        after_help = "Example:\n  tally receipt explain 17.receipt --genesis genesis.json\n  \
        tally receipt explain ann.receipts --hold 0/1/17 --genesis genesis.json\n\nOf a file of \
        many receipts each is explained, or those that are named. Such a file does not\nshow the \
        fee: what the cost is above the price of the usage is taken for it."
    )]
    Explain(ReceiptFiles),
    /// Check that the receipts of a folder are all there are and add up
    #[command(after_help = super::audit::EXAMPLE)]
    Audit(super::audit::AuditArgs),
    /// Give back what a receipt charged, as a new grant (two issuers sign)
    #[command(
        after_help = "Example:\n  tally receipt correct --entry 812 --amount 0.5 \\\n    \
        --expires 2026-12-31 --genesis genesis.json --key maker.key --key checker.key"
    )]
    Correct(CorrectArgs),
}

/// Arguments of `receipt get`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("by").required(true).multiple(true)
    .args(["index", "hold", "debit", "account"])))]
pub(crate) struct Get {
    #[command(flatten)]
    named: Named,
    /// All of an account, between two heights
    #[arg(long, value_name = "NUMBER")]
    account: Option<u32>,
    /// First height, of an account's
    #[arg(long, default_value_t = 0, value_name = "HEIGHT", requires = "account")]
    from: u64,
    /// Last height, of an account's; without it the last there is
    #[arg(
        long,
        default_value_t = 0,
        value_name = "HEIGHT",
        hide_default_value = true,
        requires = "account"
    )]
    to: u64,
    /// Leave out what was bought; only with several receipts
    #[arg(long)]
    without_details: bool,
    /// Where to write the file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    witness: WitnessArgs,
    #[command(flatten)]
    node: NodeArg,
}

/// Arguments of `receipt prove`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prove {
    /// File of one receipt, or of many of which one is named
    file: PathBuf,
    #[command(flatten)]
    named: Named,
    /// Tiled log with its checkpoint: a node's HTTP address, or a folder
    #[arg(long, value_name = "PREFIX")]
    log: String,
    /// Where to write the tlog-proof
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    genesis: GenesisArg,
    #[command(flatten)]
    cosigners: CosignerArgs,
}

/// Arguments of `receipt correct`.
#[derive(Debug, clap::Args)]
pub(crate) struct CorrectArgs {
    /// Index of the receipt in the log
    #[arg(long)]
    entry: u64,
    /// How much, in CT
    #[arg(long, value_name = "CT", value_parser = parse_amount)]
    amount: Amount,
    /// UTC date at which the new grant expires
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    expires: Time,
    #[command(flatten)]
    submit: SubmitArgs,
}

impl ReceiptCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            ReceiptCommand::Get(get) => get.run(format),
            ReceiptCommand::Verify(files) => verify_all(&files, format),
            ReceiptCommand::Prove(prove) => prove.run(format),
            ReceiptCommand::Explain(files) => explain_all(&files, format),
            ReceiptCommand::Audit(audit) => audit.run(format),
            ReceiptCommand::Correct(args) => {
                let CorrectArgs {
                    entry,
                    amount,
                    expires,
                    submit,
                } = args;
                submit.run(
                    format,
                    Action::Correct(Correct {
                        entry,
                        amount,
                        expires,
                    }),
                )
            }
        }
    }
}

impl Get {
    /// The only receipt, if one is named and nothing else is asked for.
    fn single(&self) -> Option<By> {
        if self.account.is_some() || self.without_details {
            return None;
        }
        let v1::GetReceiptsRequest {
            indexes,
            holds,
            debits,
            ..
        } = self.named.request(false);
        let indexes = indexes.into_iter().map(By::Index);
        let holds = holds.into_iter().map(By::Hold);
        let mut named = indexes
            .chain(holds)
            .chain(debits.into_iter().map(By::Debit));
        named.next().filter(|_| named.next().is_none())
    }

    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let bytes = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            if let Some(by) = self.single() {
                return fetch(&mut client, by).await;
            }
            let mut request = self.named.request(self.without_details);
            if let Some(account) = self.account {
                let found = receipts::of_account(&mut client, account, self.from, self.to).await?;
                request.indexes.extend(found);
            }
            receipts::fetch(&mut client, request).await
        })?;
        let measure = self.witness.open(&genesis)?;
        let file = Receipts::decode(&bytes).map_err(invalid)?;
        let verified = file.verify(&mut Trust::new(&genesis)?)?;
        let proven = measured(&file, &verified, &Named::default(), &measure)?;
        let rows: Vec<Value> = proven
            .iter()
            .map(|(one, sure)| row(&self.out, one, sure))
            .collect();
        write_new_file(&self.out, &bytes, 0o644)?;
        match (&rows[..], self.single()) {
            ([row], Some(_)) => output::print(format, row)?,
            _ => output::print(format, &rows)?,
        }
        Ok(Exit::Done)
    }
}

impl Prove {
    /// The one receipt that is meant.
    fn chosen(&self, trust: &mut Trust<'_>) -> anyhow::Result<VerifiedReceipt> {
        let all = Receipts::read(&self.file)?.verify(trust)?;
        self.named.check(&all)?;
        let mut meant = all.iter().filter(|one| self.named.means(one));
        match (meant.next(), meant.next()) {
            (Some(one), None) => Ok(*one),
            _ => {
                let why = format!(
                    "a tlog-proof is of one receipt, and {} has {}: name one by --hold, --debit or \
                     --index; `tally receipt explain` lists them",
                    self.file.display(),
                    all.len()
                );
                Err(Failure::error(Exit::Usage, why))
            }
        }
    }

    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let log = LogKeys::new(&genesis);
        let verified = self.chosen(&mut Trust::new(&genesis)?)?;
        let tiles = TiledLog::open(&self.log)?;
        let signed = check_note(&self.log, &tiles.checkpoint()?, &log)?;
        let finality = self.cosigners.of(&signed.note)?;
        let (index, size) = (verified.index, signed.checkpoint.size);
        if index >= size {
            let why = format!(
                "the checkpoint is of {size} entries and does not have entry {index} yet: the \
                 next one will"
            );
            return Err(Failure::error(Exit::NotNow, why));
        }
        let proof = TlogProof {
            extra: None,
            index,
            path: tiles.inclusion(index, size)?,
            checkpoint: signed.note,
        };
        let leaf = leaf_hash(&verified.receipt.leaf());
        proof.verify(&leaf, &log).map_err(|error| {
            invalid(format!(
                "{error}: the tiles are of another log than the receipt"
            ))
        })?;
        write_new_file(&self.out, proof.to_string().as_bytes(), 0o644)?;
        let value = json!({
            "file": self.out,
            "entry": index,
            "entries": size,
            "root": signed.checkpoint.root,
            "validators": signed.signers,
            "finality": finality.to_string(),
        });
        output::print(format, &value)?;
        Ok(Exit::Done)
    }
}

/// A receipt file from a node.
pub(crate) async fn fetch(client: &mut Client, by: By) -> anyhow::Result<Vec<u8>> {
    let request = v1::GetReceiptRequest { by: Some(by) };
    let answer = client
        .audit
        .get_receipt(request)
        .await
        .map_err(|e| failure(&e))?;
    Ok(answer.into_inner().file.to_vec())
}

/// Verifies a file's bytes of one receipt, as a node gave them.
pub(crate) fn verify(bytes: &[u8], trust: &mut Trust<'_>) -> anyhow::Result<VerifiedReceipt> {
    let file = ReceiptFile::decode(bytes).map_err(invalid)?;
    file.verify_with(trust).map_err(|e| unproven(trust, e))
}

/// Arguments of the commands that read receipt files.
#[derive(Debug, clap::Args)]
pub(crate) struct ReceiptFiles {
    #[command(flatten)]
    files: ProofFiles,
    #[command(flatten)]
    named: Named,
}

/// The receipts of a verified file that are meant, and how sure it is of each
/// that it stays.
fn measured(
    file: &Receipts,
    verified: &[VerifiedReceipt],
    named: &Named,
    measure: &Measure,
) -> anyhow::Result<Vec<(VerifiedReceipt, Finality)>> {
    let header = file.header();
    let all = match measure.is_of_one_entry() {
        true => None,
        false => Some(measure.header(header)?),
    };
    let meant = verified.iter().filter(|one| named.means(one));
    let sure = |one: &VerifiedReceipt| match &all {
        Some(finality) => Ok((*one, finality.clone())),
        None => {
            let leaf = leaf_hash(&one.receipt.leaf());
            Ok((*one, measure.entry(one.index, &leaf, header)?))
        }
    };
    meant.map(sure).collect()
}

fn price_check(check: &PriceCheck) -> String {
    match check {
        PriceCheck::Exact => "exact".to_owned(),
        PriceCheck::ImpliedFee(fee) => format!("exact, if the fee was {fee}"),
        PriceCheck::UnknownTable(version) => format!("unknown: price table {version} not in file"),
        PriceCheck::NoDetail => "unknown: the detail is not kept".to_owned(),
    }
}

fn row(path: &Path, verified: &VerifiedReceipt, finality: &Finality) -> Value {
    let VerifiedReceipt { receipt, index, .. } = verified;
    let position = receipt.position;
    json!({
        "file": path,
        "verified": "yes",
        "entry": index,
        "height": receipt.height,
        "account": receipt.account,
        "class": receipt.class,
        "debit": format!("{}/{}/{}", position.gateway, position.journal, position.number),
        "cost": receipt.cost,
        "charged": receipt.charged,
        "loss": verified.loss(),
        "price": price_check(&verified.price),
        "flags": receipt.flags.names(),
        "finality": finality.to_string(),
    })
}

fn verify_all(args: &ReceiptFiles, format: Format) -> anyhow::Result<Exit> {
    let ReceiptFiles { files, named } = args;
    let genesis = files.genesis.read()?;
    let mut trust = Trust::new(&genesis)?;
    let measure = files.witness.open(&genesis)?;
    let (mut rows, mut seen, mut exit) = (Vec::new(), Vec::new(), Exit::Done);
    for path in &files.files {
        let proven = Receipts::read(path).and_then(|file| {
            let verified = file.verify(&mut trust)?;
            seen.extend_from_slice(&verified);
            measured(&file, &verified, named, &measure)
        });
        match proven {
            Ok(proven) => rows.extend(proven.iter().map(|(one, sure)| row(path, one, sure))),
            Err(error) => {
                let why = exit.take(error);
                rows.push(json!({"file": path, "verified": why}));
            }
        }
    }
    if exit == Exit::Done {
        named.check(&seen)?;
    }
    output::print(format, &rows)?;
    Ok(exit)
}

fn explain_all(args: &ReceiptFiles, format: Format) -> anyhow::Result<Exit> {
    let ReceiptFiles { files, named } = args;
    let genesis = files.genesis.read()?;
    let mut trust = Trust::new(&genesis)?;
    let measure = files.witness.open(&genesis)?;
    let (mut all, mut seen, mut exit) = (Vec::new(), Vec::new(), Exit::Done);
    let mut whole = true;
    for path in &files.files {
        let proven = Receipts::read(path).and_then(|file| {
            let verified = file.verify(&mut trust)?;
            seen.extend_from_slice(&verified);
            let tables = file.tables(&genesis)?;
            Ok((tables, measured(&file, &verified, named, &measure)?))
        });
        match proven {
            Ok((tables, proven)) => {
                let values = proven.iter();
                all.extend(values.map(|(one, sure)| explained(&tables, one, sure, &mut exit)));
            }
            Err(error) => {
                whole = false;
                let why = exit.take(error);
                all.push(json!({"file": path, "verified": why}));
            }
        }
    }
    // It may be in the file that shows nothing.
    if whole {
        named.check(&seen)?;
    }
    match &all[..] {
        [one] => output::print(format, one)?,
        _ if format == Format::Json => output::print(format, &all)?,
        _ => {
            for one in &all {
                output::print(format, one)?;
                output::write("\n")?;
            }
        }
    }
    Ok(exit)
}

/// How a receipt's cost was computed, or why that cannot be said; the others
/// are explained all the same.
fn explained(
    tables: &[PriceTable],
    verified: &VerifiedReceipt,
    finality: &Finality,
    exit: &mut Exit,
) -> Value {
    let mut value = explain(tables, verified).unwrap_or_else(|error| {
        exit.add(Exit::Failed);
        unexplained(verified, &error)
    });
    value["finality"] = json!(finality.to_string());
    value
}

/// What is left to say of a receipt whose cost cannot be computed again.
fn unexplained(verified: &VerifiedReceipt, error: &anyhow::Error) -> Value {
    let receipt = verified.receipt;
    json!({
        "not explained": error.to_string(),
        "cost": receipt.cost,
        "charged": receipt.charged,
        "account": receipt.account,
        "entry": verified.index,
        "final in block": receipt.height,
    })
}

/// The formula with its numbers, then who bears the cost.
fn explain(tables: &[PriceTable], verified: &VerifiedReceipt) -> anyhow::Result<Value> {
    let detail = verified
        .detail
        .context("the detail is not kept, so the usage is unknown")?;
    let table = tables.iter().find(|table| table.version == detail.table);
    let table =
        table.with_context(|| format!("price table {} is not in the file", detail.table))?;
    let model = table
        .model(detail.model)
        .context("the table lacks the model")?;
    let fee = match (verified.fixed, verified.price) {
        (Some(fixed), _) => fixed.fee,
        (None, PriceCheck::ImpliedFee(fee)) => fee,
        _ => Amount::ZERO,
    };
    let mut value = super::price::explain(model, &detail.usage, fee)?;
    let receipt = verified.receipt;
    value["price table"] = json!(detail.table);
    value["price"] = json!(price_check(&verified.price));
    value["limit (hold)"] = json!(verified.fixed.map(|fixed| fixed.limit));
    value["charged"] = json!(receipt.charged);
    value["loss of the gateway"] = json!(verified.loss());
    value["account"] = json!(receipt.account);
    value["class"] = json!(receipt.class);
    value["flags"] = json!(receipt.flags.names());
    value["hold"] = json!(hold_of(verified).map(|(g, j, n)| format!("{g}/{j}/{n}")));
    value["arrival"] = json!(show_date(Time(detail.arrival)));
    value["duration ms"] = json!(detail.duration);
    // Version 1 of a debit does not say; queue 0 is none.
    if let Some(queued) = detail.queued.filter(|queued| queued.queue > 0) {
        value["queue"] = json!(queued.queue);
        value["joined"] = json!(queued.joined);
        value["dispatched"] = json!(queued.joined.saturating_add(queued.dispatched.into()));
    }
    value["entry"] = json!(verified.index);
    value["final in block"] = json!(receipt.height);
    Ok(value)
}
