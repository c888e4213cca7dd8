//! `tally consistency`: that the log only grew between two heights, as a file
//! that proves it. To verify, the file and the genesis are enough.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tally_ledger::{
    certified::{CertifiedHeader, Trust},
    codec::List,
    consistency_file::ConsistencyFile,
};
use tally_proto::{convert::hash, v1};

use super::{
    args::{GenesisArg, ProofFiles, runtime},
    client::{Client, NodeArg, failure},
    evidence::unproven,
    exit::Exit,
    finality::{Measure, WitnessArgs, invalid},
    keys::write_new_file,
    kind::{self, Kind},
    output::{self, Format},
};

/// Consistency: proof that the log only grew
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConsistencyCommand {
    /// Fetch the proof between two heights from a node, and verify it
    #[command(
        after_help = "Example:\n  tally consistency get --old 1200 --new 5000 --out may.consistency \
        --genesis genesis.json"
    )]
    Get(Get),
    /// Verify consistency files with nothing but the genesis
    #[command(
        after_help = "Example:\n  tally consistency verify *.consistency --genesis genesis.json"
    )]
    Verify(ProofFiles),
}

/// Arguments of `consistency get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// Height of the older log
    #[arg(long, value_name = "HEIGHT", value_parser = clap::value_parser!(u64).range(1..))]
    old: u64,
    /// Height of the newer log; without it the last
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "HEIGHT"
    )]
    new: u64,
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

impl ConsistencyCommand {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        match self {
            ConsistencyCommand::Get(get) => get.run(format),
            ConsistencyCommand::Verify(files) => verify_all(&files, format),
        }
    }
}

impl Get {
    fn run(self, format: Format) -> anyhow::Result<Exit> {
        let genesis = self.genesis.read()?;
        let bytes = runtime()?.block_on(async {
            let mut client = self.node.connect_to(&genesis).await?;
            fetch(&mut client, self.old, self.new).await
        })?;
        let measure = self.witness.open(&genesis)?;
        let file = ConsistencyFile::decode(&bytes).map_err(invalid)?;
        let row = prove(&file, &mut Trust::new(&genesis)?, &measure)?;
        write_new_file(&self.out, &bytes, 0o644)?;
        output::print(format, &row)?;
        Ok(Exit::Done)
    }
}

fn verify_all(files: &ProofFiles, format: Format) -> anyhow::Result<Exit> {
    let genesis = files.genesis.read()?;
    let mut trust = Trust::new(&genesis)?;
    let measure = files.witness.open(&genesis)?;
    let (mut rows, mut exit) = (Vec::new(), Exit::Done);
    for path in &files.files {
        let proven = read(path).and_then(|file| prove(&file, &mut trust, &measure));
        let mut row = match proven {
            Ok(row) => row,
            Err(error) => json!({"verified": exit.take(error)}),
        };
        row["file"] = json!(path);
        rows.push(row);
    }
    output::print(format, &rows)?;
    Ok(exit)
}

/// A consistency file between two heights, 0 being the last, from a node.
pub(crate) async fn fetch(client: &mut Client, old: u64, new: u64) -> anyhow::Result<Vec<u8>> {
    let old = certified(client, old).await?;
    let new = certified(client, new).await?;
    let request = v1::GetConsistencyRequest {
        old: old.header.log_size,
        new: new.header.log_size,
    };
    let answer = client.audit.get_consistency(request).await;
    let path = answer.map_err(|e| failure(&e))?.into_inner().path;
    let path: Result<Vec<_>, _> = path.iter().map(|bytes| hash("path", bytes)).collect();
    let path = List::new(path.map_err(invalid)?);
    let path = path.map_err(|_| invalid("the node's path is too long"))?;
    Ok(ConsistencyFile { old, new, path }.encode())
}

async fn certified(client: &mut Client, height: u64) -> anyhow::Result<CertifiedHeader> {
    let request = v1::GetHeaderRequest { height };
    let answer = client.audit.get_header(request).await;
    let found = answer.map_err(|e| failure(&e))?.into_inner().header;
    let found = found.ok_or_else(|| invalid("the node's answer lacks the header"))?;
    let (header, certificate) = found.parts().map_err(invalid)?;
    Ok(CertifiedHeader {
        header,
        certificate,
        set_changes: List::default(),
    })
}

fn read(path: &Path) -> anyhow::Result<ConsistencyFile> {
    let (kind, bytes) = kind::read(path, &[Kind::Consistency])?;
    ConsistencyFile::decode(&bytes).map_err(|e| kind::misread(path, &bytes, kind, e.why))
}

/// Verifies a file; what it proves.
fn prove(
    file: &ConsistencyFile,
    trust: &mut Trust<'_>,
    measure: &Measure,
) -> anyhow::Result<Value> {
    let (old, new) = file.verify_with(trust).map_err(|e| unproven(trust, e))?;
    let finality = measure.header(&new)?;
    Ok(json!({
        "verified": "yes, the log only grew",
        "old height": old.height,
        "old entries": old.log_size,
        "new height": new.height,
        "new entries": new.log_size,
        "finality": finality.to_string(),
    }))
}
