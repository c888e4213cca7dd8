//! `tally mock-engine`: an OpenAI-compatible inference engine without a
//! model, for trials and tests. Lengths and counts follow from the seed and
//! the request, so a run can be repeated.

mod answer;
mod server;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::serve::ListenerExt;
use serde_json::json;

use super::{
    args::runtime,
    exit::Exit,
    output::{self, Format},
};
use server::{Engine, router};

/// Arguments of `mock-engine`.
#[derive(Debug, clap::Args)]
pub(crate) struct MockEngine {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Listen on this port instead; 0: any free one, the address is printed
    #[arg(long)]
    port: Option<u16>,
    /// Varies output length, cached and reasoning counts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Model that it serves; repeat for each
    #[arg(long = "model", value_name = "NAME", default_values = ["tally-base", "tally-large"])]
    models: Vec<String>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    max_output: u32,
    /// Time before the first token, in ms
    #[arg(long, value_name = "MS", default_value_t = 0)]
    think_ms: u64,
    /// Time between two chunks of a stream, in ms
    #[arg(long, value_name = "MS", default_value_t = 0)]
    chunk_ms: u64,
}

impl MockEngine {
    /// Serves until the process is stopped.
    pub(crate) fn run(self, format: Format) -> anyhow::Result<Exit> {
        let engine = Engine {
            seed: self.seed,
            models: self.models,
            max_output: self.max_output,
            think: Duration::from_millis(self.think_ms),
            chunk_delay: Duration::from_millis(self.chunk_ms),
        };
        let mut listen = self.listen;
        listen.set_port(self.port.unwrap_or(listen.port()));
        runtime()?.block_on(async {
            let listener = tokio::net::TcpListener::bind(listen)
                .await
                .with_context(|| format!("listening on {listen}; choose another --port"))?;
            let address = listener.local_addr()?;
            output::print(
                format,
                &json!({"listening": format!("http://{address}/v1")}),
            )?;
            // Small pieces of a stream must not wait for an acknowledgement.
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            axum::serve(listener, router(engine))
                .with_graceful_shutdown(super::stop::signal())
                .await?;
            Ok(Exit::Done)
        })
    }
}
