//! What `tally demo` prints: how to reach it, and then what happens.

use std::time::Duration;

use anyhow::Context;
use tally_ledger::ids::{Amount, Time};
use tally_proto::v1::{self, entry::Fact};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{outages::Outages, world::World};
use crate::cli::{
    client::{NodeArg, failure},
    clock::show_date,
    entry::{height_of, row},
    output, stop,
};

/// How often validators and services are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a validator may show no block: the heartbeat is a fraction of it.
const QUIET: Duration = Duration::from_secs(20);
/// The pause before another validator is asked.
const AGAIN: Duration = Duration::from_millis(200);

/// A `curl` line, an SDK snippet and the auditors' address.
pub(crate) fn instructions(world: &World) -> anyhow::Result<()> {
    let World { url, models, .. } = world;
    let holder = world.holders.first().context("no holder")?;
    let model = models.first().context("no model")?;
    let secret = &holder.secret;
    let dir = world.net.dir.display();
    let program = std::env::current_exe().context("finding this program")?;
    let programs = program.parent().context("no folder")?.display();
    let ids: Vec<String> = world.process_ids().map(|id| id.to_string()).collect();
    let (number, ids) = (ids.len().saturating_sub(1), ids.join(" "));
    let last = ids.rsplit(' ').next().unwrap_or_default();
    let grpc = world.net.listen[0].grpc;
    let mut text = format!(
        "\n\
        Ask through the gateway:\n\n\
        curl -N {url}/chat/completions -H 'Authorization: Bearer {secret}' \\\n  \
          -H 'Content-Type: application/json' \\\n  \
          -d '{{\"model\": \"{model}\", \"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'\n\n\
        from openai import OpenAI\n\
        client = OpenAI(base_url=\"{url}\", api_key=\"{secret}\")\n\
        answer = client.chat.completions.create(model=\"{model}\", messages=[{{\"role\": \"user\", \"content\": \"hello\"}}])\n\
        print(answer.choices[0].message.content, answer.usage)\n\n"
    );
    for holder in &world.holders {
        let classes = if holder.priority {
            "innovation, priority"
        } else {
            "innovation"
        };
        text += &format!(
            "account {} ({classes}), API key {}: {}\n",
            holder.account, holder.api_key, holder.secret
        );
    }
    text += &format!(
        "\nAudit without trust (gRPC {grpc}):\n\n\
        export PATH=\"{programs}:$PATH\" TALLY_NODE={grpc} TALLY_GENESIS={dir}/genesis.json\n\
        tally account show {}\n\
        tally history get --account {} --out history\n\
        tally receipt get --hold 0-1-1 --out first.receipt && tally receipt explain first.receipt\n\n\
        End a validator and ask again, then start it again (processes of the validators: {ids}):\n\n\
        kill -9 {last}\n\
        tally node --home {dir}/v{number}\n\n\
        Everything is in {dir}; Ctrl-C ends it.\n\n",
        holder.account, holder.account
    );
    output::write(&text)
}

/// One line per block and receipt, until Ctrl-C; validators may come and go.
pub(crate) async fn watch(world: &mut World) -> anyhow::Result<()> {
    let nodes = (0..world.validators()).map(|i| world.node(i)).collect();
    let (sender, mut blocks) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_any(nodes, sender));
    let mut outages = Outages::new(world.validators());
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = stop::signal();
    tokio::pin!(stop);
    // Whatever ends it, the lines below are said.
    let result = loop {
        let said = tokio::select! {
            block = blocks.recv() => {
                let block = block.context("nobody follows the chain any more");
                block.map(|block| lines(&block))
            }
            _ = look.tick() => match world.check_services() {
                Ok(()) => outages.look(world).await.map(|said| said.concat()),
                Err(error) => Err(error),
            },
            () = &mut stop => break Ok(()),
        };
        if let Err(error) = said.and_then(|said| output::write(&said)) {
            break Err(error);
        }
    };
    for i in outages.left() {
        eprintln!("tally: validator {i}, which was started by hand, runs on: end it yourself");
    }
    result
}

/// Every block from now on, from whichever validator answers.
async fn follow_any(nodes: Vec<NodeArg>, sender: mpsc::Sender<v1::WatchResponse>) {
    let mut next = 0;
    for node in nodes.iter().cycle() {
        // Its error is that this validator has ended or hangs: ask another.
        if let Err(error) = follow(node, &mut next, &sender).await {
            tracing::debug!(node = node.node, %error, "no longer followed");
        }
        if sender.is_closed() {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// One validator's blocks from height `next` on, which is moved along; 0: from
/// its next one on.
async fn follow(
    node: &NodeArg,
    next: &mut u64,
    sender: &mpsc::Sender<v1::WatchResponse>,
) -> anyhow::Result<()> {
    let mut client = timeout(QUIET, node.connect()).await??;
    let request = v1::WatchRequest {
        from_height: *next,
        ..Default::default()
    };
    let stream = client.audit.watch(request).await;
    let mut stream = stream.map_err(|e| failure(&e))?.into_inner();
    loop {
        let message = timeout(QUIET, stream.message()).await?;
        let Some(block) = message.map_err(|e| failure(&e))? else {
            return Ok(());
        };
        if !block.more {
            *next = height_of(&block) + 1;
        }
        sender.send(block).await?;
    }
}

fn lines(block: &v1::WatchResponse) -> String {
    let header = block
        .header
        .as_ref()
        .and_then(|header| header.header.as_ref());
    let time = header.map_or(0, |header| header.time);
    let mut text = format!(
        "block {} {} entries {}\n",
        height_of(block),
        show_date(Time(time)),
        block.entries.len()
    );
    for entry in &block.entries {
        text += &match &entry.fact {
            Some(Fact::Receipt(receipt)) => format!(
                "  receipt {} account {} cost {} charged {} loss {}\n",
                entry.index,
                receipt.account,
                Amount(receipt.cost),
                Amount(receipt.charged),
                Amount(receipt.loss)
            ),
            _ => {
                let row = row(entry);
                let what = row["what"].as_str().unwrap_or("entry").to_owned();
                let account = row.get("account").map(|a| format!(" account {a}"));
                let amount = row
                    .get("amount")
                    .and_then(|a| a.as_str())
                    .map(|a| format!(" {a} CT"));
                format!(
                    "  {what} {}{}{}\n",
                    entry.index,
                    account.unwrap_or_default(),
                    amount.unwrap_or_default()
                )
            }
        };
    }
    text
}
