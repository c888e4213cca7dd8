//! Structured logs of the commands that keep running, on standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging; `RUST_LOG` overrides the filter.
pub(crate) fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(filter))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if json {
        log.json().try_init()
    } else {
        log.with_ansi(false).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}
