//! Many watchers, idle ones and slow ones: they cost bounded memory and stall
//! nobody.

use std::time::{Duration, Instant};

use tally_ledger::{action::Action, ids::GatewayNumber};
use tally_node::Engine;
use tally_proto::{LoggedIn, Login, Problem, v1};
use tonic::Code;

use crate::net::{CT, Net, Running};

const SOLO: Engine = Engine::Solo;
/// Debits of a block.
const DEBITS: u64 = 100;

type Client = v1::audit_service_client::AuditServiceClient<LoggedIn>;
type Stream = tonic::Streaming<v1::WatchResponse>;

async fn spender(net: &Net) -> Running {
    let node = net.start(0, SOLO).await;
    node.finalise(net.open_account(0)).await;
    node.finalise(net.issue(0, 100_000 * CT)).await;
    node.finalise(net.bind(0)).await;
    node.finalise(net.open_journal()).await;
    node.finalise(net.lease(1, 0, 10_000 * CT)).await;
    node
}

async fn watch(client: &Client, from_height: u64) -> Result<Stream, tonic::Status> {
    let request = v1::WatchRequest {
        from_height,
        ..Default::default()
    };
    let answer = client.clone().watch(request).await;
    answer.map(tonic::Response::into_inner)
}

/// Blocks with many receipts; the longest that one took.
async fn blocks(net: &Net, node: &Running, first: u64, count: u64) -> Duration {
    let mut longest = Duration::ZERO;
    for i in 0..count {
        let debits = net.debits(first + i * DEBITS, DEBITS, 1, 0, 1000);
        let started = Instant::now();
        node.finalise(debits).await;
        longest = longest.max(started.elapsed());
    }
    longest
}

/// Bytes of memory that this process uses.
fn memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident = pages.split(' ').nth(1).unwrap();
    resident.parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_dropped_and_goes_on_from_its_cursor() {
    let net = Net::new(1);
    net.configure(0, |config| config.rpc.watch_buffer = 5);
    let node = spender(&net).await;
    let client = node.audit_as(Login::none()).await;
    let mut stream = watch(&client, 1).await.unwrap();
    // It has caught up once it was shown the last block.
    let last = node.height().await;
    let mut heights = Vec::new();
    let mut entries = 1;
    let mut read = |block: &v1::WatchResponse, heights: &mut Vec<u64>| {
        assert_eq!(block.first_entry.max(entries), entries, "none is left out");
        entries += block.entries.len() as u64;
        if !block.more {
            heights.push(
                block
                    .header
                    .as_ref()
                    .unwrap()
                    .header
                    .as_ref()
                    .unwrap()
                    .height,
            );
        }
    };
    while heights.last().is_none_or(|height| *height < last) {
        read(&stream.message().await.unwrap().unwrap(), &mut heights);
    }
    // More than the window of the connection holds.
    blocks(&net, &node, 1, 30).await;
    let dropped = loop {
        match stream.message().await {
            Ok(block) => read(&block.unwrap(), &mut heights),
            Err(status) => break status,
        }
    };
    assert_eq!(dropped.code(), Code::Aborted);
    let problem = Problem::of(&dropped).unwrap();
    assert_eq!((&*problem.name, &*problem.retry), ("SlowReader", "later"));
    let next: u64 = problem.get("from_height").unwrap().parse().unwrap();
    assert_eq!(next, heights.last().unwrap() + 1);
    let end = node.height().await;
    assert!(end - next > 5, "{next} {end}");
    let mut stream = watch(&client, next).await.unwrap();
    while *heights.last().unwrap() < end {
        read(&stream.message().await.unwrap().unwrap(), &mut heights);
    }
    assert_eq!(heights, (1..=end).collect::<Vec<_>>());
    drop((stream, client));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_watchers_cost_little_and_stall_nobody() {
    const WATCHERS: usize = 1_000;
    let net = Net::new(1);
    net.configure(0, |config| config.rpc.max_watches = WATCHERS);
    let node = spender(&net).await;
    let alone = blocks(&net, &node, 1, 10).await;
    let before = memory();
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    while streams.len() < WATCHERS {
        let client = node.audit_as(Login::none()).await;
        for _ in 0..100 {
            streams.push(watch(&client, 0).await.unwrap());
        }
        clients.push(client);
    }
    let client = node.audit_as(Login::none()).await;
    let refused = watch(&client, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("too many watchers"), "{refused}");
    // Each has 2,000 receipts to read by now, and reads none.
    let crowded = blocks(&net, &node, 1 + 10 * DEBITS, 20).await;
    let grown = memory().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes for {WATCHERS} watchers");
    let bound = alone * 20 + Duration::from_secs(10);
    assert!(
        crowded < bound,
        "{alone:?} alone, {crowded:?} among idle watchers"
    );
    // Others are answered all the same.
    let gateway = Action::SuspendGateway(GatewayNumber(0));
    node.finalise(net.sign(90, &[tally_ledger::ids::Person(2).into()], gateway))
        .await;
    // Who goes makes room.
    drop((streams, clients));
    crate::net::until("there is room again", || async {
        watch(&client, 0).await.is_ok()
    })
    .await;
    drop(client);
    node.stop().await;
}
