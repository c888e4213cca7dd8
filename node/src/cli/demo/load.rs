//! The scripted load: requests over all accounts, streamed and not, on both
//! models, more for one account than it can pay.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::StreamExt;
use serde_json::Value;

use super::{
    http::{Answer, Ask, Http},
    world::World,
};

/// Requests in flight.
const CONCURRENCY: usize = 24;

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Holds of served requests, with what the client was told.
    pub(crate) served: BTreeMap<String, Told>,
    /// Of these, streamed.
    pub(crate) streamed: usize,
    /// Refused for want of balance, by account.
    pub(crate) refused: BTreeMap<u32, usize>,
    /// Anything else.
    pub(crate) failed: Vec<String>,
}

/// What an answer said about itself.
#[derive(Debug)]
pub(crate) struct Told {
    /// OpenAI's usage object, if the client was to see it.
    pub(crate) usage: Option<Value>,
    /// What it was charged, if it was not streamed.
    pub(crate) cost: Option<String>,
}

/// Request number `i` of the load.
fn ask(world: &World, i: usize) -> (u32, Ask) {
    let holder = &world.holders[i % world.holders.len()];
    // Only an account with `priority` may buy the large model.
    let large = holder.priority && i.is_multiple_of(4);
    let model = if large {
        world.models.last()
    } else {
        world.models.first()
    };
    let ask = Ask {
        url: world.url.clone(),
        secret: holder.secret.clone(),
        model: model.cloned().unwrap_or_default(),
        prompt: format!(
            "Request {i}: {}",
            "say something about receipts. ".repeat(1 + i % 7)
        ),
        stream: i % 2 == 1,
        usage: i % 4 == 1,
        max_tokens: 16 + (i % 3) as u32 * 16,
    };
    (holder.account, ask)
}

/// How far the load is, for whoever does something half way.
pub(crate) type Progress = Arc<AtomicUsize>;

/// Runs all requests; counts in `progress`.
pub(crate) async fn run(world: &World, requests: usize, progress: Progress) -> Seen {
    let http = Http::new();
    let asks: Vec<(u32, Ask)> = (0..requests).map(|i| ask(world, i)).collect();
    let answers = futures::stream::iter(asks).map(|(account, ask)| {
        let (http, progress) = (http.clone(), progress.clone());
        async move {
            let answer = http.ask(&ask).await;
            progress.fetch_add(1, Ordering::Relaxed);
            (account, ask.stream, answer)
        }
    });
    let mut answers = answers.buffer_unordered(CONCURRENCY);
    let mut seen = Seen::default();
    while let Some((account, stream, answer)) = answers.next().await {
        match answer {
            Ok(Answer::Served { hold, usage, cost }) => {
                seen.streamed += usize::from(stream);
                let told = Told { usage, cost };
                if seen.served.insert(hold.clone(), told).is_some() {
                    seen.failed
                        .push(format!("two answers carry the receipt {hold}"));
                }
            }
            Ok(Answer::Refused) => *seen.refused.entry(account).or_default() += 1,
            Err(error) => seen.failed.push(format!("account {account}: {error:#}")),
        }
    }
    seen
}
