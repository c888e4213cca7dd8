//! Proposing: building a block, making it durable, streaming it.

use bytes::Bytes;
use malachitebft_app_channel::{
    NetworkMsg, Reply,
    app::{
        streaming::{StreamContent, StreamId, StreamMessage},
        types::LocallyProposedValue,
    },
};
use malachitebft_core_types::Round;
use tally_ledger::{hash::Hash, ids::Height};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Exit, Host};
use crate::{
    application::{Application, Fatal, Slot, Source, Verdict},
    context::{BlockId, Engine},
    parts,
    undecided::Entry,
};

impl<A: Application> Host<A> {
    /// The engine asks for a value: the one it got before for this round, or
    /// a new block, durable before the answer.
    pub(super) async fn on_get_value(
        &mut self,
        height: Height,
        round: Round,
        reply: Reply<LocallyProposedValue<Engine>>,
        network: &mpsc::Sender<NetworkMsg<Engine>>,
    ) -> Result<(), Exit> {
        let number = round.as_u32().unwrap_or(0);
        let known = self.undecided_now(|u| u.own(height, number).cloned());
        let (id, body) = match known {
            Some(entry) => {
                let verdict = self
                    .judge(number, true, entry.id, &entry.body, Source::Replayed)
                    .await?;
                if let Verdict::Invalid(why) = verdict {
                    // Valid when it was built: the state is another one now.
                    let why = format!("a block that this node built is invalid now: {why}");
                    return Err(Fatal::new(why).into());
                }
                (entry.id, entry.body)
            }
            None => self.build(height, number).await?,
        };
        self.height.told.insert((number, id));
        self.height.seen.insert(id);
        let _ = reply.send(LocallyProposedValue::new(height.into(), round, BlockId(id)));
        self.stream(height, number, None, &body, network).await;
        Ok(())
    }

    async fn build(&mut self, height: Height, round: u32) -> Result<(Hash, Bytes), Exit> {
        let slot = Slot {
            height,
            round,
            proposer: self.proposer(round).0,
        };
        let effort = self.efforts.next();
        let candidate = self
            .application
            .blocking(move |a| a.propose(slot, effort))
            .await?;
        let (id, body) = (candidate.id, candidate.body);
        if body.len() > self.config.max_block_bytes {
            return Err(Fatal::new("a block larger than max_block_bytes was proposed").into());
        }
        let entry = Entry {
            height,
            round,
            own: true,
            id,
            body: body.clone(),
        };
        self.undecided(move |u| u.put(entry)).await??;
        self.height.valid.insert(id);
        self.efforts.proposed(height, id);
        Ok((id, body))
    }

    /// The engine wants everybody to have a block's body again.
    pub(super) async fn on_restream(
        &mut self,
        height: Height,
        round: Round,
        valid_round: Round,
        id: Hash,
        network: &mpsc::Sender<NetworkMsg<Engine>>,
    ) -> Result<(), Exit> {
        let round = round.as_u32().unwrap_or(0);
        match self.undecided_now(|u| u.body(height, &id).cloned()) {
            Some(body) => {
                self.stream(height, round, valid_round.as_u32(), &body, network)
                    .await
            }
            None => warn!(%height, round, %id, "asked to repeat a body that is not here"),
        }
        Ok(())
    }

    async fn stream(
        &mut self,
        height: Height,
        round: u32,
        pol_round: Option<u32>,
        body: &Bytes,
        network: &mpsc::Sender<NetworkMsg<Engine>>,
    ) {
        self.streams += 1;
        let stream = StreamId::new(Bytes::copy_from_slice(&self.streams.to_be_bytes()));
        for (sequence, part) in (0..).zip(parts::cut(height, round, pol_round, body)) {
            let message = StreamMessage::new(stream.clone(), sequence, StreamContent::Data(part));
            // If the network is gone, so is the engine: the loop will see it.
            let _ = network.send(NetworkMsg::PublishProposalPart(message)).await;
        }
    }
}
