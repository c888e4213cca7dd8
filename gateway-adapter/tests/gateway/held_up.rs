//! What still works while the threads that serve are held up.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::support::{DEADLINE, Setup, chat, get, send, until};

/// A log that holds up each thread that serves and writes to it.
#[derive(Clone, Default)]
struct Slow {
    held: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| name.starts_with("serve-")) {
            self.held.fetch_add(1, Ordering::Relaxed);
            while !self.over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Slow {
    type Writer = Slow;

    fn make_writer(&self) -> Slow {
        self.clone()
    }
}

#[tokio::test]
async fn the_admin_page_is_served_while_all_threads_are_held_up() {
    let slow = Slow::default();
    // One line at the end of each request.
    let filter = EnvFilter::new("off,tally_gateway_adapter::proxy::measures=debug");
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(slow.clone())
        .finish();
    // See the test of what is logged.
    let _nobody = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _log = tracing::subscriber::set_default(lines);
    let mut setup = Setup::new(1_000_000).await;
    setup.config.listen.admin = Some("127.0.0.1:0".parse().unwrap());
    let gateway = setup.gateway().await;
    let threads = std::thread::available_parallelism().unwrap().get();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..threads {
        let http = gateway.http;
        asked.spawn(async move { send(http, &chat(5, json!({}))).await });
    }
    until("all are held up", || {
        slow.held.load(Ordering::Relaxed) == threads
    })
    .await;
    for path in ["/healthz", "/metrics"] {
        let page = get(gateway.admin.unwrap(), path);
        let page = tokio::time::timeout(DEADLINE, page).await;
        assert_eq!(page.expect("it is served").status, 200);
    }
    slow.over.store(true, Ordering::Relaxed);
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap().status, 200);
    }
    gateway.stop().await.unwrap();
    setup.chain.check();
}
