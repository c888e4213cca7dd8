//! How this node is: its status, and what an operator should do about it.

use tally_consensus::{Mode, Observing};
use tally_ledger::hash::Hash;
use tally_proto::{convert::bytes_of, v1};

use crate::view::{Local, View};

/// Less free space than this is a problem.
const LOW_DISK_BYTES: u64 = 1 << 30;
/// Heartbeats without a block after which the chain counts as stuck.
const STUCK_HEARTBEATS: u64 = 3;

/// What is wrong with this node; empty: nothing. Each says what to do.
pub fn problems(local: &Local, heartbeat_ms: u32) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(why) = &local.consensus.unhealthy {
        problems.push(format!("consensus: {why}"));
    }
    if let Mode::Observer(observing) = local.consensus.mode {
        problems.push(match observing {
            Observing::NoGuard => "observes: there is no guard file; it votes again once a block \
                                   is certified that is later than its start and the largest \
                                   clock error"
                .into(),
            Observing::UpTo(height) => {
                format!("observes: it may have signed up to height {height}; it votes above it")
            }
        });
    }
    if local.since_block_ms > STUCK_HEARTBEATS * u64::from(heartbeat_ms) {
        problems.push(format!(
            "no block for {} s: check that more than two thirds of the validators run and reach \
             each other ({} consensus peers connected)",
            local.since_block_ms / 1000,
            local.consensus.peers
        ));
    }
    if local.evidence_waiting > 0 && !local.reports {
        problems.push(format!(
            "{} pieces of evidence against validators wait in data/evidence: once all validators \
             are of a build that knows it, set consensus.report_evidence and restart",
            local.evidence_waiting
        ));
    }
    if local.disk_free < LOW_DISK_BYTES {
        problems.push(format!(
            "only {} MiB free on the data folder's disk: make room, the node stops when it is full",
            local.disk_free >> 20
        ));
    }
    problems
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Validator => "validator",
        Mode::Observer(_) => "observer",
    }
}

/// The node's status.
pub fn status<V: View>(view: &V) -> v1::GetStatusResponse {
    let local = view.local();
    let consensus = &local.consensus;
    let last_vote = consensus.last_vote.map(|vote| v1::SentVote {
        height: vote.height.0,
        round: vote.round,
        precommit: vote.precommit,
        block: vote.block.map(|id: Hash| bytes_of(&id)).unwrap_or_default(),
    });
    view.with_state(|state, _| {
        let heartbeat_ms = state.parameters().heartbeat_ms;
        v1::GetStatusResponse {
            name: view.genesis().name.clone(),
            chain: bytes_of(&state.chain().0),
            height: state.height().0,
            time: state.time().0,
            block: bytes_of(&state.block_id()),
            log_size: state.log().size(),
            log_root: bytes_of(&state.log().root()),
            state_root: bytes_of(&state.state_root()),
            validators: state.validators().0.iter().map(Into::into).collect(),
            validator: local.validator.map(u32::from),
            peers: consensus.peers as u32,
            mode: mode_name(consensus.mode).into(),
            round: consensus.round,
            last_vote,
            waiting: local.waiting as u32,
            waiting_bytes: local.waiting_bytes as u64,
            disk_free: local.disk_free,
            disk_used: local.disk_used,
            problems: problems(&local, heartbeat_ms),
            since_block_ms: local.since_block_ms,
            heartbeat_ms,
            version: env!("CARGO_PKG_VERSION").into(),
            equivocations: consensus.equivocations,
            table: state.counts().table.0,
            gossip_peers: local.gossip_peers as u32,
            evidence: state.marks().iter().map(|marks| marks.count).sum(),
            evidence_waiting: local.evidence_waiting as u32,
        }
    })
}
