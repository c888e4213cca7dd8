//! The load: clients that ask the gateway without end, over all accounts,
//! streamed and not, and remember every answer that was whole.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::{runtime::Handle, sync::watch, task::JoinSet};

use crate::{
    cli_common::gateway::MODELS,
    http::{Answer, Ask, Http},
};

/// Clients, each with one request at a time.
const CLIENTS: u64 = 12;
/// No answer takes longer: the gateway itself gives up before.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a client waits after a request that failed.
const PAUSE: Duration = Duration::from_millis(20);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Served {
    /// What was asked.
    pub(crate) ask: Ask,
    /// The usage that the client was told.
    pub(crate) usage: Option<Value>,
    /// The charge that it was told.
    pub(crate) cost: Option<String>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Whole answers by hold.
    pub(crate) served: BTreeMap<String, Served>,
    /// How many by account.
    pub(crate) by_account: BTreeMap<usize, u64>,
    /// Requests that reached nobody.
    pub(crate) unsent: u64,
    /// Requests that were sent and got no answer, or one that broke off.
    pub(crate) broken: u64,
    /// The last reason for that.
    pub(crate) last: String,
    /// What must never be.
    pub(crate) wrong: Vec<String>,
}

/// Clients that run.
#[derive(Debug)]
pub(crate) struct Load {
    seen: Arc<Mutex<Seen>>,
    /// Where the gateway is; closed when the clients shall stop.
    url: watch::Sender<String>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts the clients.
    pub(crate) fn start(runtime: &Handle, seed: u64, url: &str, secrets: &[String]) -> Self {
        let (sender, url) = watch::channel(url.to_owned());
        let seen = Arc::new(Mutex::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                rng: StdRng::seed_from_u64(seed.wrapping_add(number)),
                number,
                url: url.clone(),
                secrets: secrets.to_vec(),
                seen: Arc::clone(&seen),
            };
            clients.spawn_on(client.run(), runtime);
        }
        Load {
            seen,
            url: sender,
            clients,
        }
    }

    /// The gateway has moved.
    pub(crate) fn moved(&self, url: String) {
        self.url.send_replace(url);
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Lets every client finish its request.
    pub(crate) async fn stop(self) -> Seen {
        drop(self.url);
        self.clients.join_all().await;
        std::mem::take(&mut lock(&self.seen))
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("nobody panics while it is locked")
}

/// Whether there was no connection to send the request on.
fn unsent(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<hyper_util::client::legacy::Error>()
        .is_some_and(hyper_util::client::legacy::Error::is_connect)
}

struct Client {
    rng: StdRng,
    number: u64,
    url: watch::Receiver<String>,
    secrets: Vec<String>,
    seen: Arc<Mutex<Seen>>,
}

impl Client {
    async fn run(mut self) {
        let http = Http::new();
        let mut count = 0;
        while self.url.has_changed().is_ok() {
            count += 1;
            let (account, ask) = self.ask(count);
            let answer = tokio::time::timeout(LONGEST, http.ask(&ask)).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(_) => Ok(Answer::Refused),
            };
            if self.note(account, ask, answer) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn ask(&mut self, count: u64) -> (usize, Ask) {
        let url = self.url.borrow().clone();
        let (number, rng) = (self.number, &mut self.rng);
        let account = rng.gen_range(0..self.secrets.len());
        let words = "say something about receipts. ".repeat(rng.gen_range(1..8));
        let ask = Ask {
            url,
            secret: self.secrets[account].clone(),
            model: MODELS[rng.gen_range(0..MODELS.len())].to_owned(),
            prompt: format!("Client {number}, request {count}: {words}"),
            stream: rng.gen_bool(0.6),
            usage: rng.gen_bool(0.5),
            max_tokens: rng.gen_range(8..64),
        };
        (account, ask)
    }

    /// Notes an answer; whether it failed.
    fn note(&self, account: usize, ask: Ask, answer: anyhow::Result<Answer>) -> bool {
        let mut seen = lock(&self.seen);
        match answer {
            Ok(Answer::Served { hold, usage, cost }) => {
                *seen.by_account.entry(account).or_default() += 1;
                let served = Served { ask, usage, cost };
                if seen.served.insert(hold.clone(), served).is_some() {
                    let why = format!("two answers carry the receipt {hold}");
                    seen.wrong.push(why);
                }
                false
            }
            Ok(Answer::Refused) => {
                let why = format!("account {account}: refused for want of balance, or no answer");
                seen.wrong.push(why);
                true
            }
            Err(error) if unsent(&error) => {
                seen.unsent += 1;
                true
            }
            Err(error) => {
                seen.broken += 1;
                seen.last = format!("{error:#}");
                true
            }
        }
    }
}
