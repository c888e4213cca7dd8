//! Child processes of a trial: the same binary, each with a log file. A child
//! ends with its parent: its standard input is a pipe that only the parent
//! holds open, and an end of that input tells it to stop.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::cli::stop::WITH_PARENT;

/// How long a child may take to stop by itself.
const GRACE: Duration = Duration::from_secs(20);

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `tally ARGS`, its output in `logs/NAME.{out,log}`.
    pub(crate) fn start(logs: &Path, name: &str, args: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
        let (out, err) = (
            logs.join(format!("{name}.out")),
            logs.join(format!("{name}.log")),
        );
        let create = |path: &Path| {
            let at = || format!("writing {}", path.display());
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(at)
        };
        let child = Command::new(program)
            .args(args)
            .env(WITH_PARENT, "1")
            .env_remove("TALLY_GENESIS")
            .stdin(Stdio::piped())
            .stdout(create(&out)?)
            .stderr(create(&err)?)
            // Ctrl-C is for the parent, which stops them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            out,
            err,
        })
    }

    /// The number of its process; absent: it has ended.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// How the child has ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let status = self.child.try_wait();
        status.with_context(|| format!("looking at {}", self.name))
    }

    /// Fails if the child has ended, with the end of its log.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.ended()? else {
            return Ok(());
        };
        let log = fs::read_to_string(&self.err).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(8).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!(
            "{} ended with {status}; its log {} ends:\n{}",
            self.name,
            self.err.display(),
            tail.join("\n")
        )
    }

    /// Waits for the JSON with which a child says where it listens.
    pub(crate) async fn said(&mut self, limit: Duration) -> anyhow::Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let text = fs::read_to_string(&self.out).unwrap_or_default();
            if let Ok(value) = serde_json::from_str(&text) {
                return Ok(value);
            }
            self.check()?;
            if Instant::now() >= deadline {
                bail!(
                    "{} is not ready after {limit:?}; see {}",
                    self.name,
                    self.err.display()
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL, as a power cut or the kernel would.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("killing {}", self.name))
    }

    /// Asks the child to stop and waits; kills it if it does not.
    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if timeout(GRACE, self.child.wait()).await.is_err() {
            eprintln!(
                "tally: {} did not stop within {GRACE:?} and is killed",
                self.name
            );
            let _ = self.child.kill().await;
        }
    }
}
