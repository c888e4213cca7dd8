//! The loop of a board: blocks that may be due, notices of others, and time
//! to repeat one's own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tally_consensus::gossip::{Incoming, Notices};
use tokio::{
    sync::broadcast::error::RecvError,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{Board, CheckpointFault};

/// How often a validator repeats what it signed last.
const REPEAT: Duration = Duration::from_secs(2);

/// What woke the loop.
enum Event {
    Block,
    Notice(Bytes),
    Tick,
}

/// Runs until the chain is gone, or a fault of this machine.
pub(crate) async fn run(
    board: Arc<Board>,
    notices: Option<Notices>,
) -> Result<(), CheckpointFault> {
    let mut blocks = board.chain().subscribe();
    let mut incoming = notices.as_ref().map(Notices::receive);
    let mut tick = interval(REPEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            block = blocks.recv() => match block {
                Ok(block) if !board.may_be_due(block.block.header.time.0) => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => Event::Block,
                Err(RecvError::Closed) => return Ok(()),
            },
            notice = next(&mut incoming) => Event::Notice(notice),
            _ = tick.tick() => Event::Tick,
        };
        let board = board.clone();
        let said = spawn_blocking(move || on_event(&board, event)).await;
        let Ok(said) = said else {
            return Ok(()); // The runtime ends.
        };
        if let (Some(notice), Some(notices)) = (said?, &notices) {
            notices.send(&notice.into());
        }
    }
}

/// The next notice; waits for ever without a network.
async fn next(incoming: &mut Option<Incoming>) -> Bytes {
    if let Some(incoming) = incoming
        && let Some((_, notice)) = incoming.recv().await
    {
        return notice;
    }
    std::future::pending().await
}

/// What to tell the others.
fn on_event(board: &Board, event: Event) -> Result<Option<Vec<u8>>, CheckpointFault> {
    match event {
        Event::Block => board.sign_due(),
        Event::Notice(notice) => board.hear(&notice).map(|()| None),
        Event::Tick => {
            // Also the first one, of a chain that stands.
            let signed = board.sign_due()?;
            board.review()?;
            Ok(signed.or_else(|| board.own()))
        }
    }
}
