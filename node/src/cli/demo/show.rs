//! What `tally demo` prints: how to reach it, and then what happens.

use anyhow::Context;
use tally_ledger::ids::{Amount, Time};
use tally_proto::v1::{self, entry::Fact};

use super::world::World;
use crate::cli::{
    client::failure,
    clock::show_date,
    entry::{height_of, row},
    output, stop,
};

/// A `curl` line, an SDK snippet and the auditors' address.
pub(crate) fn instructions(world: &World) -> anyhow::Result<()> {
    let World { url, models, .. } = world;
    let holder = world.holders.first().context("no holder")?;
    let model = models.first().context("no model")?;
    let secret = &holder.secret;
    let dir = world.net.dir.display();
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
        export TALLY_NODE={grpc} TALLY_GENESIS={dir}/genesis.json\n\
        tally account show {}\n\
        tally history get --account {} --out history\n\
        tally receipt get --hold 0-1-1 --out first.receipt && tally receipt explain first.receipt\n\n\
        Everything is in {dir}; Ctrl-C ends it.\n\n",
        holder.account, holder.account
    );
    output::write(&text)
}

/// One line per block and receipt, until Ctrl-C.
pub(crate) async fn watch(world: &mut World) -> anyhow::Result<()> {
    let mut client = world.node(0).connect().await?;
    let request = v1::WatchRequest::default();
    let mut stream = client
        .audit
        .watch(request)
        .await
        .map_err(|e| failure(&e))?
        .into_inner();
    let stop = stop::signal();
    tokio::pin!(stop);
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(|e| failure(&e))?,
            () = &mut stop => return Ok(()),
        };
        let Some(block) = message else { return Ok(()) };
        world.check()?;
        output::write(&lines(&block))?;
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
