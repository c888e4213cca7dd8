//! From a stopped gateway to one that may serve: recovers the journal, opens
//! a new one if it must, settles what was held. See [`crate::journal::start`]
//! for what is decided when.

use std::{collections::BTreeSet, time::Duration};

use tally_ledger::{
    action::{Action, OpenJournal},
    gateway::Gateway,
    ids::{Height, JournalNumber},
    reason::Reason,
};

use super::{ChainError, follow::closed_journals, light::Light, nodes::Submitted, sign::Signer};
use crate::{
    error::GatewayError,
    holds::settle_recovered,
    journal::{
        Head, Journal, LeaseSent, Record, Store, Urgency,
        recovery::recover,
        start::{Decision, begin, decide},
    },
};

/// A journal that may be served from.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// Leases from before the start, to be returned.
    pub old: Vec<LeaseSent>,
    /// The gateway's leaf.
    pub leaf: Gateway,
}

/// The gateway's leaf, however long it takes until a node proves it.
async fn leaf_at_last(light: &Light, signer: &Signer) -> Result<Gateway, GatewayError> {
    let mut pause = Duration::from_millis(50);
    loop {
        match light.gateway(signer.gateway, Height(0)).await {
            Ok((_, leaf)) if leaf.key == signer.key.public() => return Ok(leaf),
            Ok(_) => return Err(GatewayError::NotOurs(signer.gateway)),
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "waiting for a node to prove this gateway"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Opens the journal in `store`.
pub async fn open(
    light: &Light,
    signer: &Signer,
    mut store: Box<dyn Store>,
    limits: crate::journal::Limits,
) -> Result<Opened, GatewayError> {
    let leaf = leaf_at_last(light, signer).await?;
    let head = Head {
        journal: leaf.journal,
        last: leaf.last_debit,
        hash: leaf.journal_hash,
    };
    let recovered = recover(store.as_mut()).map_err(GatewayError::Journal)?;
    let contents = match decide(light.chain, signer.gateway, head, recovered)? {
        Decision::Continue(contents) => contents,
        Decision::Open { state, why } => {
            tracing::warn!(journal = %state.head().journal, "a new journal: {why}");
            begin(store.as_mut(), state).map_err(GatewayError::Journal)?
        }
    };
    let journal = Journal::resume(store, contents, limits);
    if !journal.look(|state| state.base.opened) {
        open_on_chain(light, signer, &journal).await?;
    }
    carry_over(light, signer, &journal).await?;
    let settled = settle_recovered(&journal).await.map_err(ChainError::from)?;
    if settled > 0 {
        tracing::warn!(
            settled,
            "requests from before the start are charged their last marks"
        );
    }
    let (_, leaf) = loop {
        match light.gateway(signer.gateway, Height(0)).await {
            Ok(proven) => break proven,
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    if leaf.journal == journal.number() {
        let head = Head {
            journal: leaf.journal,
            last: leaf.last_debit,
            hash: leaf.journal_hash,
        };
        journal.proven(head).map_err(ChainError::from)?;
    }
    let old = journal.look(|state| state.leases.values().copied().collect());
    Ok(Opened { journal, old, leaf })
}

/// Sends OpenJournal until the proven leaf has this journal.
async fn open_on_chain(
    light: &Light,
    signer: &Signer,
    journal: &Journal,
) -> Result<(), GatewayError> {
    let (number, previous_intact) =
        journal.look(|state| (state.base.head.journal, state.base.previous_intact));
    let action = Action::OpenJournal(OpenJournal {
        journal: number,
        previous_intact,
    });
    let transaction = signer.action(action);
    let mut pause = Duration::from_millis(20);
    let mut at_least = Height(0);
    loop {
        match light.gateway(signer.gateway, at_least).await {
            Ok((_, leaf)) if leaf.journal == number => break,
            Ok((_, leaf)) if leaf.journal > number => return Err(ChainError::Fenced.into()),
            Ok(_) => match light.nodes.submit(&transaction).await {
                Ok(Submitted::Final(finality)) => {
                    at_least = Height(finality.height);
                    continue;
                }
                Ok(Submitted::Refused(Reason::JournalNotNext)) => {}
                Ok(Submitted::Refused(reason)) => return Err(GatewayError::NotOpened(reason)),
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "the journal is not opened yet"),
            },
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "the journal is not opened yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    let opened = Record::Opened { journal: number };
    let durable = journal.append(&opened, Urgency::Now);
    Ok(durable.wait().await.map_err(ChainError::from)?)
}

/// Carried debits that the chain has are dropped, the rest become debits of
/// this journal.
async fn carry_over(light: &Light, signer: &Signer, journal: &Journal) -> Result<(), GatewayError> {
    let journals: BTreeSet<JournalNumber> = journal.look(|state| {
        state
            .carried
            .values()
            .map(|carried| carried.journal)
            .collect()
    });
    if journals.is_empty() {
        return Ok(());
    }
    let closed = loop {
        match closed_journals(light, signer.gateway).await {
            // Each was closed by the next one, this one at the latest.
            Ok(closed) if journals.iter().all(|j| closed.iter().any(|(c, _)| c == j)) => {
                break closed;
            }
            Ok(_) => tracing::warn!("waiting for a node that has the opening of this journal"),
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "waiting for the end of the earlier journal"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for (earlier, last) in closed.into_iter().filter(|(c, _)| journals.contains(c)) {
        let record = Record::CarriedProven {
            journal: earlier,
            last,
        };
        journal.append(&record, Urgency::Soon);
    }
    let rest = journal.look(|state| state.carried.values().cloned().collect::<Vec<_>>());
    let mut last = None;
    for carried in rest {
        last = journal.debit(&carried.debit.read()).or(last);
    }
    if let Some((number, durable)) = last {
        durable.wait().await.map_err(ChainError::from)?;
        tracing::warn!(last = %number, "debits of an earlier journal move into this one");
    }
    Ok(())
}
