//! How sure it is that what a file proves stays: `final`, a quorum certified
//! it, or `witnessed by K`, outsiders have also cosigned a log that it is part
//! of. All commands that verify say which.

use anyhow::Context;
use tally_ledger::{
    block::Header,
    checkpoint::{Checkpoint, Finality, LogKeys, SignedCheckpoint, Witnesses},
    genesis::Genesis,
    hash::Hash,
    merkle::verify_inclusion,
    note::{Note, VerifierKey},
    tlog_proof::{TLOG_PROOF, TlogProof},
};
use tally_node::web::is_url;

use super::{
    exit::{Exit, Failure},
    kind::{self, Kind},
    tiled::TiledLog,
};

/// Whose cosignatures count.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CosignerArgs {
    /// Verifier key of a witness that is believed; repeat for each
    #[arg(long = "witness", value_name = "VKEY")]
    witness: Vec<VerifierKey>,
    /// How many of them must have cosigned; without it all
    #[arg(long, value_name = "K")]
    witnesses: Option<usize>,
}

/// Whether outsiders have seen it, too.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WitnessArgs {
    /// Checkpoint under which it must stand: a file, an address, or a
    /// receipt's tlog-proof
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<String>,
    /// Tiled log that leads to the checkpoint: a folder or an address
    #[arg(long, value_name = "PREFIX")]
    log: Option<String>,
    #[command(flatten)]
    cosigners: CosignerArgs,
}

/// Reads a checkpoint: a file, a folder that has one, or an address.
pub(crate) fn read_note(place: &str) -> anyhow::Result<Vec<u8>> {
    if is_url(place) {
        let (prefix, name) = place.rsplit_once('/').context("no address of a page")?;
        let bytes = TiledLog::open(prefix)?.read(name)?;
        return bytes.with_context(|| format!("{place} is not there"));
    }
    let path = std::path::Path::new(place);
    match path.is_dir() {
        true => kind::bytes_of(&path.join("checkpoint"), &[Kind::Checkpoint]),
        false => kind::bytes_of(path, &[Kind::Checkpoint]),
    }
}

/// The note of a checkpoint's bytes, of which nothing is verified.
pub(crate) fn note_of(place: &str, bytes: &[u8]) -> anyhow::Result<Note> {
    let note = Note::parse(bytes).ok();
    let note = note.filter(|note| Checkpoint::parse(note.text()).is_some());
    note.ok_or_else(|| formless(place, kind::other(place, bytes, &[Kind::Checkpoint])))
}

/// A checkpoint that a quorum signed, from its bytes.
pub(crate) fn check_note(
    place: &str,
    bytes: &[u8],
    log: &LogKeys,
) -> anyhow::Result<SignedCheckpoint> {
    log.check(note_of(place, bytes)?).map_err(invalid)
}

/// The error of bytes in no readable form: of a file that it is not read, of
/// what answers at an address that it is false.
pub(crate) fn formless(place: &str, unread: anyhow::Error) -> anyhow::Error {
    match is_url(place) {
        true => invalid(unread),
        false => unread,
    }
}

/// An error of something that is false.
pub(crate) fn invalid(why: impl ToString) -> anyhow::Error {
    Failure::error(Exit::Invalid, why.to_string())
}

impl CosignerArgs {
    fn is_empty(&self) -> bool {
        self.witness.is_empty() && self.witnesses.is_none()
    }

    fn witnesses(&self) -> anyhow::Result<Witnesses> {
        let need = self.witnesses.unwrap_or(self.witness.len());
        Witnesses::new(self.witness.clone(), need).ok_or_else(|| {
            let why = "--witness takes keys of type 0x04, each party once, and at least as many \
                       as --witnesses";
            Failure::error(Exit::Usage, why)
        })
    }

    /// Who of the witnesses has cosigned a checkpoint.
    pub(crate) fn of(&self, note: &Note) -> anyhow::Result<Finality> {
        self.witnesses()?.check(note).map_err(invalid)
    }
}

impl WitnessArgs {
    /// What to measure files by.
    pub(crate) fn open(&self, genesis: &Genesis) -> anyhow::Result<Measure> {
        let log = LogKeys::new(genesis);
        let tiles = self.log.as_deref().map(TiledLog::open).transpose()?;
        let bytes = match (&self.checkpoint, &tiles) {
            (Some(place), _) => Some(read_note(place)?),
            (None, Some(tiles)) => Some(tiles.checkpoint()?),
            (None, None) if self.cosigners.is_empty() => None,
            (None, None) => {
                let why = "--witness needs the --checkpoint that was cosigned, or a --log";
                return Err(Failure::error(Exit::Usage, why));
            }
        };
        let Some(bytes) = bytes else {
            let under = None;
            return Ok(Measure { under, tiles });
        };
        let place = self.checkpoint.as_deref().or(self.log.as_deref());
        let place = place.unwrap_or_default();
        let (proof, signed) = match bytes.starts_with(TLOG_PROOF.as_bytes()) {
            true => {
                let proof = TlogProof::decode(&bytes)
                    .map_err(|error| formless(place, kind::unread(format!("{place}: {error}"))))?;
                let signed = log.check(proof.checkpoint.clone()).map_err(invalid)?;
                (Some(proof), signed)
            }
            false => (None, check_note(place, &bytes, &log)?),
        };
        let finality = self.cosigners.of(&signed.note)?;
        let under = Some(Under {
            signed,
            proof,
            finality,
        });
        Ok(Measure { under, tiles })
    }
}

/// The checkpoint that counts.
#[derive(Debug)]
struct Under {
    signed: SignedCheckpoint,
    proof: Option<TlogProof>,
    finality: Finality,
}

/// What files are measured by.
#[derive(Debug)]
pub(crate) struct Measure {
    under: Option<Under>,
    tiles: Option<TiledLog>,
}

impl Measure {
    /// Whether the checkpoint is a tlog-proof, of one entry alone.
    pub(crate) fn is_of_one_entry(&self) -> bool {
        let under = self.under.as_ref();
        under.is_some_and(|under| under.proof.is_some())
    }

    /// How sure the log of a certified header is.
    pub(crate) fn header(&self, header: &Header) -> anyhow::Result<Finality> {
        let Some(under) = &self.under else {
            return Ok(Finality::Final);
        };
        let checkpoint = &under.signed.checkpoint;
        let (size, root) = (header.log_size, header.log_root);
        if size > checkpoint.size {
            return Err(invalid(format!(
                "the checkpoint is of {} entries, older than height {} with {size}: take a newer \
                 one",
                checkpoint.size, header.height
            )));
        }
        let found = match &self.tiles {
            _ if size == checkpoint.size => checkpoint.root,
            Some(tiles) => tiles.beginning(size, checkpoint)?,
            None => {
                let why = format!(
                    "from the log of {size} entries to the checkpoint's {}: give the tiles that \
                     lead there by --log, or the receipt's tlog-proof as --checkpoint",
                    checkpoint.size
                );
                return Err(Failure::error(Exit::Usage, why));
            }
        };
        match found == root {
            true => Ok(under.finality.clone()),
            false => Err(invalid(format!(
                "TWO HISTORIES: height {} was certified with a log of {size} entries and root \
                 {root}; the log of the checkpoint of {} entries with root {} has root {found} \
                 there, signed by validators {:?}",
                header.height, checkpoint.size, checkpoint.root, under.signed.signers
            ))),
        }
    }

    /// How sure an entry is that stands in the log of a certified header.
    pub(crate) fn entry(
        &self,
        index: u64,
        leaf: &Hash,
        header: &Header,
    ) -> anyhow::Result<Finality> {
        let proven = self.under.as_ref().and_then(|under| {
            let proof = under.proof.as_ref()?;
            Some((under, proof))
        });
        let Some((under, proof)) = proven else {
            return self.header(header);
        };
        let checkpoint = &under.signed.checkpoint;
        let (size, root) = (checkpoint.size, &checkpoint.root);
        let same = proof.index == index;
        match same && verify_inclusion(leaf, index, size, &proof.path, root) {
            true => Ok(under.finality.clone()),
            false => Err(invalid(format!(
                "the tlog-proof is of entry {}: it does not show this one, entry {index}, in the \
                 log of the checkpoint of {size} entries",
                proof.index
            ))),
        }
    }
}
