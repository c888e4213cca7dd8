//! What a node says of its log and blocks, believed only as far as it is
//! proven: control entries from histories that show them all, transactions
//! from blocks that are whole under a certified header.

use anyhow::Context;
use tally_ledger::{
    block::Certificate,
    certified::{CertifiedHeader, Trust},
    codec::List,
    entry::{Entry, Event, EventLeaf},
    history::{HistoryFile, Subject},
    ids::{Height, Time},
    redacted::StoredBlock,
    transaction::{Body, TransactionId},
};
use tally_proto::v1::{self, get_history_request::Of};

use super::{
    client::{Client, failure},
    evidence::unproven,
    exit::{Exit, Failure},
    history,
};

/// Largest block that is read.
const MAX_BLOCK: usize = 64 << 20;

/// A control entry and its index in the log.
pub(crate) type Control = (u64, EventLeaf, Event);

/// Every control entry up to a height, 0 being the last there is; none can
/// be left out. Comes with the height up to which these are all.
pub(crate) async fn controls(
    client: &mut Client,
    trust: &mut Trust<'_>,
    to: u64,
) -> anyhow::Result<(Vec<Control>, Height)> {
    let (mut from, mut to, mut found) = (0, to, Vec::new());
    loop {
        let (bytes, _) = history::fetch(client, Of::Control(true), from, to).await?;
        let wrong = |why: String| Failure::error(Exit::Invalid, why);
        let file = HistoryFile::decode(&bytes).map_err(|e| wrong(e.to_string()))?;
        let proven = file.verify_with(trust).map_err(|e| unproven(trust, e))?;
        if (proven.subject, proven.from.0) != (Subject::Control, from) {
            return Err(wrong("the node's history is of something else".to_owned()));
        }
        // Without a last height it is that of the first answer.
        to = match to {
            0 => proven.header.height.0,
            to => to,
        };
        // The entries before `from` and after `to` only show the ends.
        let within = proven.from..=proven.to;
        for (index, entry) in proven.entries {
            if let Entry::Event(leaf, event) = entry
                && within.contains(&leaf.height)
            {
                found.push((index, leaf, event));
            }
        }
        if proven.to.0 >= to {
            return Ok((found, proven.to));
        }
        from = proven.to.0 + 1;
    }
}

/// The body of a transaction of a block, and the block's time.
pub(crate) async fn body(
    client: &Client,
    trust: &mut Trust<'_>,
    height: Height,
    id: TransactionId,
) -> anyhow::Result<(Body, Time)> {
    let (found, certificate) = block(client.clone(), height.0).await?;
    let header = found.block().header;
    let certified = CertifiedHeader {
        header,
        certificate,
        set_changes: List::default(),
    };
    trust
        .check(&certified)
        .map_err(|e| false_block(height.0, unproven(trust, e)))?;
    if header.height != height || !found.is_whole() {
        return Err(false_block(
            height.0,
            "its content is not what it commits to",
        ));
    }
    let mut bodies = found.block().transactions.iter();
    let body = bodies.find(|body| body.id() == id);
    let body = body.and_then(|body| Body::decode(&body.body).ok());
    let body = body.ok_or_else(|| false_block(height.0, "it lacks what its log has"))?;
    Ok((body, header.time))
}

/// What is said of a block that is not what it should be.
pub(crate) fn false_block(height: u64, why: impl std::fmt::Display) -> anyhow::Error {
    let message = format!("the node's block {height} is false: {why}; ask another node");
    Failure::error(Exit::Invalid, message)
}

/// A block with all its transactions, and its certificate; nothing of it is
/// checked.
pub(crate) async fn block(
    mut client: Client,
    height: u64,
) -> anyhow::Result<(StoredBlock, Certificate)> {
    let request = v1::GetBlockRequest { height };
    let answer = client.audit.get_block(request).await;
    let answer = answer.map_err(|e| failure(&e))?.into_inner();
    let block = StoredBlock::decode(&answer.block, MAX_BLOCK);
    let block = block.map_err(|e| false_block(height, e))?;
    let header = answer
        .header
        .context("the node's answer lacks the header")?;
    let (_, certificate) = header.parts().map_err(|e| false_block(height, e))?;
    Ok((block, certificate))
}
