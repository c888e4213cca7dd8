//! The world of a trial: validators, an engine, a gateway, and three holders
//! with grants and API keys. Everything is made through the same calls that
//! an operator's commands make.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, bail};
use tally_gateway_adapter::{
    GatewayConfig,
    config::{FILE, Tokenize, Upstream},
};
use tally_ledger::{
    action::{Action, BindApiKey, Issue, NewGrant, OpenAccount},
    codec::List,
    crypto::SecretKey,
    ids::{AccountNumber, Amount, ClassNumber, Time},
    transaction::Author,
};
use tally_proto::v1;
use tokio::time::{Instant, sleep};

use super::children::Process;
use crate::cli::{
    account::account_of,
    client::{Client, NodeArg},
    clock::now,
    exit::Exit,
    key::{api_key_of, secret_text, write_secret},
    keys::{KeyFile, random_seed},
    status,
    submit::{fresh_id, submit, valid_until},
    testnet::{self, Net},
    tx_file::TxFile,
};

/// How long anything may take to come up.
const START: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 86_400_000;

/// Grants of each holder in micro-CT: `innovation`, `priority`. The third one's
/// runs out under a long load.
const GRANTS: [(u64, u64); testnet::HOLDERS] =
    [(50_000_000, 20_000_000), (50_000_000, 0), (250_000, 0)];
/// What the others are granted at least for each request of a load, so that
/// theirs never do: more than a third of such requests' largest cost.
const PER_REQUEST: (u64, u64) = (2_500, 3_500);

/// A holder with an API key.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    /// Account number.
    pub(crate) account: u32,
    /// API key number.
    pub(crate) api_key: u32,
    /// What a client sends.
    pub(crate) secret: String,
    /// Whether the account has `priority` too.
    pub(crate) priority: bool,
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct World {
    /// Homes, keys, genesis.
    pub(crate) net: Net,
    /// The validators, by number; one may be taken out.
    nodes: Vec<Option<Process>>,
    /// The mock engine, unless there is a real one.
    engine: Option<Process>,
    gateway: Option<Process>,
    /// Base URL of the gateway, with `/v1`.
    pub(crate) url: String,
    /// Who may spend.
    pub(crate) holders: Vec<Holder>,
    /// Models, as requests name them; the first is the base model.
    pub(crate) models: Vec<String>,
}

/// What serves the requests.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    /// A real engine's URL; absent: the mock engine is started.
    pub(crate) upstream: Option<String>,
    /// Models of it.
    pub(crate) models: Vec<String>,
    /// Largest output of one answer.
    pub(crate) max_output: u32,
}

impl World {
    /// Brings everything up, step by step, for a load of that many requests;
    /// says what it waits for.
    pub(crate) async fn start(
        dir: &Path,
        config: &str,
        engine: &Engine,
        requests: u64,
        say: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        let net = testnet::make(dir, 4, None, config)?;
        let logs = dir.join("logs");
        let mut nodes = Vec::new();
        for i in 0..4 {
            nodes.push(Some(start_node(&net, i)?));
        }
        let models = engine.models.clone();
        let mut world = World {
            net,
            nodes,
            engine: None,
            gateway: None,
            url: String::new(),
            holders: Vec::new(),
            models,
        };
        world.first_block().await?;
        say("four validators agree");
        let mut client = world.node(0).connect().await?;
        for (i, (mut innovation, mut priority)) in GRANTS.into_iter().enumerate() {
            if i + 1 < GRANTS.len() {
                innovation = innovation.max(requests * PER_REQUEST.0);
            }
            if priority > 0 {
                priority = priority.max(requests * PER_REQUEST.1);
            }
            let holder = world.holder(&mut client, i, innovation, priority).await?;
            world.holders.push(holder);
        }
        say("three accounts opened, grants issued, API keys bound");
        world.start_gateway(&logs, engine).await?;
        say("the gateway serves");
        Ok(world)
    }

    /// How to reach a validator.
    pub(crate) fn node(&self, validator: usize) -> NodeArg {
        NodeArg::plain(self.net.listen[validator].grpc)
    }

    /// How many validators there are.
    pub(crate) fn validators(&self) -> usize {
        self.nodes.len()
    }

    /// Takes a validator's process out.
    pub(crate) fn take_node(&mut self, validator: usize) -> anyhow::Result<Process> {
        self.nodes[validator]
            .take()
            .context("the validator is out already")
    }

    /// Starts a validator on its home.
    pub(crate) fn start_node(&self, validator: usize) -> anyhow::Result<Process> {
        start_node(&self.net, validator)
    }

    /// Puts a validator's process back.
    pub(crate) fn put_node(&mut self, validator: usize, process: Process) {
        self.nodes[validator] = Some(process);
    }

    /// Fails if anything has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let mut nodes = self.nodes.iter_mut().flatten();
        nodes.try_for_each(Process::check)?;
        self.check_services()
    }

    /// Fails if the engine or the gateway has ended.
    pub(crate) fn check_services(&mut self) -> anyhow::Result<()> {
        let mut services = self.engine.iter_mut().chain(&mut self.gateway);
        services.try_for_each(Process::check)
    }

    /// How a validator's process has ended, if it has.
    pub(crate) fn ended(&mut self, validator: usize) -> anyhow::Result<Option<ExitStatus>> {
        let node = self.nodes[validator].as_mut();
        node.map_or(Ok(None), Process::ended)
    }

    /// The number of each validator's process.
    pub(crate) fn process_ids(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().flatten().filter_map(Process::id)
    }

    /// Stops the gateway first, so that it settles what it holds.
    pub(crate) async fn stop(self) {
        for process in self.gateway.into_iter().chain(self.engine) {
            process.stop().await;
        }
        futures::future::join_all(self.nodes.into_iter().flatten().map(Process::stop)).await;
    }

    /// Until every validator has a block.
    async fn first_block(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        for i in 0..self.nodes.len() {
            while !status::ask(&self.node(i))
                .await
                .is_ok_and(|status| status.height > 0)
            {
                self.check()?;
                if Instant::now() >= deadline {
                    bail!(
                        "validator {i} has no block after {START:?}; see {}",
                        self.net.dir.join("logs").display()
                    );
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    async fn holder(
        &self,
        client: &mut Client,
        index: usize,
        innovation: u64,
        priority: u64,
    ) -> anyhow::Result<Holder> {
        let classes = if priority > 0 {
            vec![ClassNumber(0), ClassNumber(1)]
        } else {
            vec![ClassNumber(0)]
        };
        let key = self.net.key_file(&format!("holder-{index}"));
        let open = Action::OpenAccount(OpenAccount {
            unit: index as u32,
            holder: KeyFile::read(&key)?.public,
            classes: List::new(classes).unwrap_or_default(),
        });
        let finality = self.act(client, "issuer-0", open).await?;
        let account = finality
            .entries
            .iter()
            .find_map(account_of)
            .context("no account was opened")?;
        KeyFile::set_number(&key, account)?;
        let grant = |class, amount| NewGrant {
            account: AccountNumber(account),
            class: ClassNumber(class),
            amount: Amount(amount),
            vests: Time(0),
            expires: Time(now().0 + 30 * DAY_MS),
        };
        let both = [grant(0, innovation), grant(1, priority)];
        let grants = both
            .into_iter()
            .filter(|grant| grant.amount.0 > 0)
            .collect();
        let grants = List::new(grants).unwrap_or_default();
        self.act(client, "issuer-0", Action::Issue(Issue { grants }))
            .await?;
        let seed = random_seed();
        let bind = Action::BindApiKey(BindApiKey {
            account: AccountNumber(account),
            key: SecretKey::from_seed(&seed).public(),
            models: List::default(),
            cap: Amount(u64::MAX),
            expires: Time(u64::MAX),
        });
        write_secret(
            &self
                .net
                .dir
                .join("keys")
                .join(format!("holder-{index}.apikey")),
            &seed,
        )?;
        let finality = self.act(client, &format!("holder-{index}"), bind).await?;
        let api_key = finality
            .entries
            .iter()
            .find_map(api_key_of)
            .context("no key was bound")?;
        let secret = secret_text(&seed).to_string();
        Ok(Holder {
            account,
            api_key,
            secret,
            priority: priority > 0,
        })
    }

    /// Signs an action with a key of the net and waits until it is final.
    async fn act(
        &self,
        client: &mut Client,
        key: &str,
        action: Action,
    ) -> anyhow::Result<v1::Finality> {
        let key = KeyFile::read(&self.net.key_file(key))?;
        let author: Author = key.author().context("the key has no number")?;
        let until = valid_until(Duration::from_secs(3600))?;
        let body = tally_ledger::transaction::Body::new(author, &[], fresh_id(), until, action);
        let mut file = TxFile::new(self.net.genesis.chain(), &body, b"");
        file.sign(&key)?;
        let submitted = submit(client, file.transaction()?, true, START).await?;
        match (submitted.exit, submitted.finality) {
            (Exit::Done, Some(finality)) => Ok(finality),
            _ => bail!("not final after {START:?}: {}", submitted.value),
        }
    }

    async fn start_gateway(&mut self, logs: &Path, engine: &Engine) -> anyhow::Result<()> {
        let upstream = match &engine.upstream {
            Some(url) => url.clone(),
            None => self.start_engine(logs, engine).await?,
        };
        let home = self.net.dir.join("gateway");
        fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        let nodes = (0..2)
            .map(|i| self.net.listen[i].grpc.to_string())
            .collect();
        let any = "127.0.0.1:0".parse().context("an address")?;
        let mut config = GatewayConfig::new(&home, nodes, any);
        config.key = absolute(&self.net.key_file("gateway-0"))?;
        config.genesis = absolute(&self.net.genesis_file())?;
        let url = upstream.trim_end_matches('/').trim_end_matches("/v1");
        config.upstreams = vec![Upstream {
            max_output: engine.max_output,
            tokenize: Tokenize::Vllm,
            ..Upstream::new(url, engine.models.clone())
        }];
        config.validate()?;
        fs::write(home.join(FILE), config.to_toml())?;
        let folder = home.display().to_string();
        let args = ["gateway", "--format", "json", "--home", &folder];
        let mut gateway = Process::start(logs, "gateway", &args)?;
        let said = gateway.said(START).await?;
        self.gateway = Some(gateway);
        self.url = said["listening"]
            .as_str()
            .context("the gateway said no address")?
            .to_owned();
        Ok(())
    }

    async fn start_engine(&mut self, logs: &Path, engine: &Engine) -> anyhow::Result<String> {
        let max_output = engine.max_output.to_string();
        let mut args = vec![
            "mock-engine",
            "--format",
            "json",
            "--port",
            "0",
            "--max-output",
            &max_output,
        ];
        args.extend(engine.models.iter().flat_map(|model| ["--model", model]));
        let mut process = Process::start(logs, "engine", &args)?;
        let said = process.said(START).await?;
        self.engine = Some(process);
        Ok(said["listening"]
            .as_str()
            .context("the engine said no address")?
            .to_owned())
    }
}

fn start_node(net: &Net, validator: usize) -> anyhow::Result<Process> {
    let home = net.home(validator).folder().display().to_string();
    Process::start(
        &net.dir.join("logs"),
        &format!("v{validator}"),
        &["node", "--home", &home],
    )
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{}", path.display()))
}
