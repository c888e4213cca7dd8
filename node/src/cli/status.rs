//! `tally status`: how each validator is, and what to do about it. Healthy:
//! every node answers, votes, agrees and made a block lately. Degraded: blocks
//! are final, but a node is missing, behind or complains. Not final: no new
//! block for three heartbeats, or nobody answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tally_proto::v1;

use super::{
    args::runtime,
    client::{NodeArg, failure},
    exit::Exit,
    output::{self, Format},
};

/// Blocks that a node may be behind the others without being told so.
const BEHIND: u64 = 20;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    node: NodeArg,
    /// Further nodes to ask; repeat for each
    #[arg(long = "also", value_name = "ADDR")]
    also: Vec<String>,
}

/// A node's answer, or why there is none.
type Answer = (String, Result<v1::GetStatusResponse, String>);

impl Status {
    /// Runs the command.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let nodes = self.also.iter().map(|node| NodeArg {
            node: node.clone(),
            ..self.node.clone()
        });
        let nodes: Vec<NodeArg> = std::iter::once(self.node.clone()).chain(nodes).collect();
        let answers = runtime()?.block_on(async {
            let asked = nodes.iter().map(|node| async {
                let answer = ask(node).await.map_err(|e| format!("{e:#}"));
                (node.node.clone(), answer)
            });
            futures::future::join_all(asked).await
        });
        let rows: Vec<Value> = answers.iter().map(|answer| row(answer, &answers)).collect();
        let exit = judge(&answers);
        let health = match exit {
            Exit::Done => "healthy",
            Exit::NotFinal => "NOT FINAL: no new block is decided",
            _ => "degraded: blocks are final, but see what to do",
        };
        output::print(format, &json!({"chain": health, "validators": rows}))?;
        Ok(exit)
    }
}

/// A node's own view.
pub(crate) async fn ask(node: &NodeArg) -> anyhow::Result<v1::GetStatusResponse> {
    let mut client = node.connect_open().await?;
    let answer = client.ledger.get_status(v1::GetStatusRequest {}).await;
    Ok(answer.map_err(|e| failure(&e))?.into_inner())
}

fn is_final(status: &v1::GetStatusResponse) -> bool {
    status.since_block_ms <= 3 * u64::from(status.heartbeat_ms.max(1000))
}

fn top(answers: &[Answer]) -> u64 {
    let heights = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    heights.map(|status| status.height).max().unwrap_or(0)
}

/// What an operator should do about a node; empty: nothing.
fn advice(status: &v1::GetStatusResponse, answers: &[Answer]) -> Vec<String> {
    let mut advice = status.problems.clone();
    let peers = status.validators.len().saturating_sub(1);
    if !is_final(status) {
        let seconds = status.since_block_ms / 1000;
        advice.push(format!(
            "no block for {seconds} s: start the validators that do not answer"
        ));
    }
    if status.height + BEHIND < top(answers) {
        advice.push("behind the others: let it catch up; if it does not, look at its log".into());
    }
    if status.validator.is_some() && (status.peers as usize) < peers {
        let have = status.peers;
        advice.push(format!(
            "{have} of {peers} peers: check the others and the network"
        ));
    }
    if status.equivocations > 0 {
        advice.push("a validator signed twice: find out whose, see tally evidence list".into());
    }
    advice
}

fn row((node, answer): &Answer, answers: &[Answer]) -> Value {
    match answer {
        Err(why) => json!({"node": node, "mode": "no answer", "what to do": why}),
        Ok(status) => {
            let vote = status.last_vote.as_ref().map(|vote| {
                let kind = if vote.precommit {
                    "precommit"
                } else {
                    "prevote"
                };
                let nil = if vote.block.is_empty() { " nil" } else { "" };
                format!("{kind}{nil} {}/{}", vote.height, vote.round)
            });
            let advice = advice(status, answers);
            json!({
                "node": node,
                "validator": status.validator,
                "mode": status.mode,
                "height": status.height,
                "peers": status.peers,
                "last vote": vote,
                "last block ms": status.since_block_ms,
                "waiting": status.waiting,
                "evidence": status.evidence,
                "disk used MB": status.disk_used >> 20,
                "disk free MB": status.disk_free >> 20,
                "what to do": if advice.is_empty() { "nothing".into() } else { advice.join("; ") },
            })
        }
    }
}

fn judge(answers: &[Answer]) -> Exit {
    let known: Vec<&v1::GetStatusResponse> = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
        .collect();
    let chains: BTreeSet<&[u8]> = known.iter().map(|status| &status.chain[..]).collect();
    if !known.iter().any(|status| is_final(status)) {
        return Exit::NotFinal;
    }
    let well = known.len() == answers.len()
        && chains.len() == 1
        && known
            .iter()
            .all(|status| advice(status, answers).is_empty());
    if well { Exit::Done } else { Exit::Degraded }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(height: u64, since_block_ms: u64) -> Answer {
        let status = v1::GetStatusResponse {
            height,
            since_block_ms,
            heartbeat_ms: 5_000,
            chain: vec![1; 32].into(),
            validator: Some(0),
            validators: vec![v1::ValidatorInfo::default(); 4],
            peers: 3,
            ..Default::default()
        };
        ("n".to_owned(), Ok(status))
    }

    fn change(answer: &mut Answer, change: impl Fn(&mut v1::GetStatusResponse)) {
        change(answer.1.as_mut().unwrap());
    }

    #[test]
    fn health_has_three_degrees() {
        let mut all = vec![node(100, 10), node(99, 20)];
        assert_eq!(judge(&all), Exit::Done);
        assert_eq!(row(&all[0], &all)["what to do"], "nothing");
        change(&mut all[1], |status| status.height = 50);
        assert_eq!(judge(&all), Exit::Degraded);
        change(&mut all[1], |status| {
            (status.height, status.peers) = (99, 2)
        });
        assert_eq!(judge(&all), Exit::Degraded);
        all[1].1 = Err("no node answers".to_owned());
        assert_eq!(judge(&all), Exit::Degraded);
        change(&mut all[0], |status| status.since_block_ms = 60_000);
        assert_eq!(judge(&all), Exit::NotFinal);
        assert_eq!(judge(&[]), Exit::NotFinal);
    }
}
