//! Consensus of one: a chain with a single validator, which signs its own
//! precommit and commits at once. The same [`Application`], the same
//! [`Handle`], without the engine and the network.
//!
//! For tests of a node and for trying things out. It keeps no guard file: a
//! crash between signing and committing forgets a block that nobody else has
//! seen.

use std::time::Instant;

use tally_ledger::{
    block::{Certificate, vote_bytes},
    codec::List,
    crypto::Domain,
    ids::Height,
};
use tokio::{sync::watch, time::sleep_until};

use crate::{
    application::{Application, Decision, Effort, Slot, Wake},
    calls::Calls,
    config::Keys,
    handle::{ConsensusError, Handle, SentVote, Status, Stop},
};

/// Starts it. The only validator must be this node, at every height.
pub fn start<A: Application>(keys: Keys, application: A, wake: Wake) -> Handle {
    let (sender, status) = watch::channel(Status::new(application.committed()));
    let stop = Stop::default();
    let solo = Solo {
        keys,
        application: Calls::new(application),
        wake,
        status: sender,
    };
    let task = tokio::spawn(solo.run(stop.clone()));
    Handle { status, stop, task }
}

struct Solo<A> {
    keys: Keys,
    application: Calls<A>,
    wake: Wake,
    status: watch::Sender<Status>,
}

impl<A: Application> Solo<A> {
    async fn run(mut self, stop: Stop) -> Result<(), ConsensusError> {
        loop {
            let now = Instant::now();
            let begin = self.application.cheap().pace().begin(now);
            tokio::select! {
                biased;
                () = stop.stopped() => return Ok(()),
                () = self.wake.woken(), if begin > now => continue,
                () = sleep_until(begin.into()) => {}
            }
            if let Err(error) = self.decide().await {
                self.status
                    .send_modify(|s| s.unhealthy = Some(error.to_string()));
                return Err(error);
            }
        }
    }

    async fn decide(&mut self) -> Result<(), ConsensusError> {
        let application = self.application.cheap();
        let height = Height(application.committed().0 + 1);
        let (chain, validators) = (application.chain(), application.validators(height));
        let own = self.keys.consensus.public();
        if validators.0.len() != 1 || validators.index_of(&own) != Some(0) {
            let why = format!("this node is not the only validator of height {height}");
            return Err(ConsensusError::Engine(why));
        }
        let slot = Slot {
            height,
            round: 0,
            proposer: 0,
        };
        let candidate = self
            .application
            .blocking(move |a| a.propose(slot, Effort::Full))
            .await
            .map_err(ConsensusError::Application)?;
        let bytes = vote_bytes(height, 0, Some(&candidate.id));
        let signature = self.keys.consensus.sign(Domain::Precommit, &chain, &bytes);
        let precommits = List::new(vec![(0, signature)]).expect("one precommit fits");
        let decision = Decision {
            height,
            id: candidate.id,
            body: candidate.body,
            certificate: Certificate {
                round: 0,
                precommits,
            },
        };
        self.application
            .blocking(|a| a.commit(decision))
            .await
            .map_err(ConsensusError::Application)?;
        self.status.send_modify(|status| {
            status.committed = height;
            status.height = Height(height.0 + 1);
            let block = Some(candidate.id);
            status.last_vote = Some(SentVote {
                height,
                round: 0,
                precommit: true,
                block,
            });
        });
        Ok(())
    }
}
