//! `tally demo`: the whole of Tally on one machine, in separate processes
//! that end with this one.

mod check;
mod children;
mod evidence;
mod follow;
mod http;
mod load;
mod outages;
mod show;
mod world;

use std::path::PathBuf;

use anyhow::{Context, ensure};

use super::{args::runtime, exit::Exit, genesis_config::EXAMPLE, output::Format, stop};
use world::{Engine, World};

/// Largest output of one answer of the mock engine.
const MOCK_OUTPUT: u32 = 64;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Keep everything in this new folder; absent: a temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A real OpenAI-compatible engine instead of the mock one
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Run a scripted load and verify everything instead of waiting for you
    #[arg(long)]
    check: bool,
    /// Requests of the scripted load; from 600 on one account must run out of balance
    #[arg(long, default_value_t = 1200, requires = "check",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    requests: u64,
}

impl Demo {
    /// Runs until Ctrl-C, or until the check is over.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        ensure!(
            !(self.check && self.upstream.is_some()),
            "--check runs against the mock engine: leave --upstream out"
        );
        let temporary = match self.dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().context("making a temporary folder")?),
        };
        let dir = self
            .dir
            .clone()
            .or(temporary.as_ref().map(|dir| dir.path().to_owned()));
        // What is printed works from any folder.
        let dir = std::path::absolute(dir.context("no folder")?)?;
        let result = runtime()?.block_on(async {
            tokio::select! {
                result = self.go(&dir, format) => result,
                () = stop::signal(), if self.check => anyhow::bail!("interrupted"),
            }
        });
        if let (Err(_), Some(temporary)) = (&result, temporary) {
            eprintln!(
                "tally: homes and logs are kept in {}",
                temporary.keep().display()
            );
        }
        result
    }

    async fn go(&self, dir: &std::path::Path, format: Format) -> anyhow::Result<Exit> {
        let began = std::time::Instant::now();
        let say = |what: &str| eprintln!("{:5.1} s  {what}", began.elapsed().as_secs_f64());
        let (config, engine) = self.engine().await?;
        let requests = if self.check { self.requests } else { 0 };
        let mut world = World::start(dir, &config, &engine, requests, say).await?;
        let result = if self.check {
            check::run(&mut world, self.requests as usize, format, &say).await
        } else {
            show::instructions(&world)?;
            show::watch(&mut world).await.map(|()| Exit::Done)
        };
        world.stop().await;
        result
    }

    /// The engine, and a genesis config that prices its models: those of the
    /// example, or the ones that the real engine names, at the same prices.
    async fn engine(&self) -> anyhow::Result<(String, Engine)> {
        let Some(url) = &self.upstream else {
            let models = vec!["tally-base".to_owned(), "tally-large".to_owned()];
            let engine = Engine {
                upstream: None,
                models,
                max_output: MOCK_OUTPUT,
            };
            return Ok((EXAMPLE.to_owned(), engine));
        };
        let base = url.trim_end_matches('/').trim_end_matches("/v1");
        let list = self::http::Http::new()
            .get(&format!("{base}/v1/models"))
            .await?;
        let models: Vec<String> = list["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|model| model["id"].as_str().map(str::to_owned))
            .take(2)
            .collect();
        let first = models
            .first()
            .context("the engine names no model at /v1/models")?;
        let mut config = EXAMPLE.replace("tally-base", first);
        if let Some(second) = models.get(1) {
            config = config.replace("tally-large", second);
        }
        let engine = Engine {
            upstream: Some(base.to_owned()),
            models,
            max_output: 4_096,
        };
        Ok((config, engine))
    }
}
