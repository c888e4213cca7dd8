//! Hands checkpoints to a witness (C2SP tlog-witness) and takes its
//! cosignatures in. One task per witness, one request at a time, always of
//! the newest checkpoint; what fails is tried again after a pause that
//! doubles up to a minute.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use tally_ledger::{
    checkpoint::SignedCheckpoint,
    note::{Note, NoteSignature, VerifierKey},
    witness::AddCheckpoint,
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{debug, error, info, warn};

use super::{Board, CheckpointFault};
use crate::{config::Witness, metrics::Metrics, web::Web};

/// Pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Requests of one checkpoint in a row: the second has the size that the
/// witness named, the third if another validator was faster meanwhile.
const ROUNDS: usize = 4;

/// What came of handing a checkpoint in.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Cosigned(NoteSignature),
    /// The witness has cosigned a larger one.
    Behind(u64),
}

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
enum Failed {
    /// Not reached, or an answer that says nothing.
    #[error("{0}")]
    Answer(String),
    /// It says that the log does not continue what it cosigned.
    #[error("it answers {status}: {text}")]
    Refused {
        /// HTTP.
        status: StatusCode,
        /// What it says.
        text: String,
    },
    /// This node.
    #[error(transparent)]
    Fault(#[from] CheckpointFault),
}

/// Hands checkpoints to one witness.
#[derive(Debug)]
pub(crate) struct Submitter {
    board: Arc<Board>,
    url: String,
    key: VerifierKey,
    web: Web,
    metrics: Metrics,
    /// Size that the witness cosigned last, as far as is known.
    size: u64,
}

impl Submitter {
    pub(crate) fn new(board: Arc<Board>, witness: &Witness, web: Web, metrics: Metrics) -> Self {
        Self {
            board,
            url: format!("{}/add-checkpoint", witness.url.trim_end_matches('/')),
            key: witness.key.clone(),
            web,
            metrics,
            size: 0,
        }
    }

    /// Runs until the board is gone, or a fault of this machine.
    pub(crate) async fn run(mut self) -> Result<(), CheckpointFault> {
        let mut latest = self.board.follow();
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(signed) = self.next(&mut latest).await else {
                return Ok(());
            };
            match self.submit(&signed).await {
                Ok(Outcome::Cosigned(line)) => {
                    pause = FIRST_PAUSE;
                    self.size = signed.checkpoint.size;
                    debug!(witness = self.key.name(), size = self.size, "cosigned");
                    let board = self.board.clone();
                    let text = signed.note.text().to_owned();
                    let added = spawn_blocking(move || board.add_cosignature(&text, line));
                    match added.await {
                        Ok(added) => added?,
                        Err(_) => return Ok(()),
                    }
                }
                Ok(Outcome::Behind(size)) => {
                    let behind = signed.checkpoint.size;
                    info!(
                        witness = self.key.name(),
                        size, behind, "a witness is ahead"
                    );
                    // Another validator's newer checkpoint: ours comes soon.
                    // What it says is no proof, so it is asked again.
                    self.size = 0;
                    if !self.wait(&mut latest, LONGEST_PAUSE).await {
                        return Ok(());
                    }
                }
                Err(Failed::Fault(fault)) => return Err(fault),
                Err(failed) => {
                    self.metrics.witness_failures.inc();
                    let (witness, url) = (self.key.name(), &self.url);
                    match &failed {
                        Failed::Refused { status, .. } if status.as_u16() == 422 => error!(
                            witness, %url, error = %failed,
                            "a witness has cosigned another history than this node's: compare \
                             its checkpoint with this one's by `tally checkpoint compare`"
                        ),
                        _ => warn!(witness, %url, error = %failed, "a witness did not cosign"),
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// The newest checkpoint, once there is one that this witness has not
    /// cosigned.
    async fn next(
        &self,
        latest: &mut watch::Receiver<Option<Arc<SignedCheckpoint>>>,
    ) -> Option<Arc<SignedCheckpoint>> {
        let open = |signed: &Option<Arc<SignedCheckpoint>>| {
            signed
                .as_ref()
                .is_some_and(|signed| !self.has_cosigned(&signed.note))
        };
        let signed = latest.wait_for(open).await.ok()?;
        signed.clone()
    }

    fn has_cosigned(&self, note: &Note) -> bool {
        let times = note.verify(std::slice::from_ref(&self.key));
        times.is_ok_and(|times| times[0].is_some())
    }

    /// Waits for another checkpoint, and at most so long; `false`: the board
    /// is gone.
    async fn wait(
        &self,
        latest: &mut watch::Receiver<Option<Arc<SignedCheckpoint>>>,
        most: Duration,
    ) -> bool {
        tokio::select! {
            changed = latest.changed() => changed.is_ok(),
            () = sleep(most) => true,
        }
    }

    async fn submit(&self, signed: &SignedCheckpoint) -> Result<Outcome, Failed> {
        let size = signed.checkpoint.size;
        let mut old = self.size;
        for _ in 0..ROUNDS {
            if old > size {
                return Ok(Outcome::Behind(old));
            }
            let request = self.request(signed, old).await?;
            let answer = self.web.post(&self.url, request).await;
            let (status, body) = answer.map_err(|error| Failed::Answer(error.to_string()))?;
            match status {
                StatusCode::OK => return self.cosignature(&signed.note, &body),
                StatusCode::CONFLICT => {
                    let text = std::str::from_utf8(&body).unwrap_or_default();
                    let said = text.trim_end().parse();
                    old = said.map_err(|_| Failed::Answer("409 without a size".into()))?;
                }
                status => {
                    let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                    let text = text.trim().to_owned();
                    return Err(Failed::Refused { status, text });
                }
            }
        }
        Err(Failed::Answer("it names another size each time".into()))
    }

    /// The body with the path from a size on.
    async fn request(&self, signed: &SignedCheckpoint, old: u64) -> Result<Bytes, Failed> {
        let (board, size) = (self.board.clone(), signed.checkpoint.size);
        let path = spawn_blocking(move || match old {
            0 => Ok(Some(Vec::new())),
            old => board.chain().consistency(old, size),
        });
        let path = path
            .await
            .map_err(|error| Failed::Answer(error.to_string()))?;
        let path = path.map_err(CheckpointFault::Log)?;
        let request = AddCheckpoint {
            old,
            proof: path.ok_or_else(|| Failed::Answer("the log is not here yet".into()))?,
            checkpoint: signed.note.clone(),
        };
        Ok(request.to_string().into())
    }

    /// The witness's own line of its answer; others are nobody's.
    fn cosignature(&self, note: &Note, body: &[u8]) -> Result<Outcome, Failed> {
        let bad = || Failed::Answer("200 without a cosignature that verifies".into());
        let lines = NoteSignature::parse_lines(body).map_err(|_| bad())?;
        let own = lines.into_iter().find(|line| self.key.is_named_by(line));
        let line = own.ok_or_else(bad)?;
        let with = note.with(line.clone()).ok_or_else(bad)?;
        match self.has_cosigned(&with) {
            true => Ok(Outcome::Cosigned(line)),
            false => Err(bad()),
        }
    }
}
