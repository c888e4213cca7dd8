//! Many watchers, idle ones and slow ones: they cost bounded memory and stall
//! nobody.

use std::time::{Duration, Instant};

use tally_ledger::{
    action::{Action, SetRole},
    ids::{GatewayNumber, Person},
    person::Roles,
};
use tally_node::Engine;
use tally_proto::{LoggedIn, Login, Problem, jwt, login::now, v1};
use tonic::{Code, Request};

use crate::net::{CT, Net, Running, key};

const SOLO: Engine = Engine::Solo;
/// Debits of a block.
const DEBITS: u64 = 100;

type Client = v1::audit_service_client::AuditServiceClient<LoggedIn>;
type Stream = tonic::Streaming<v1::WatchResponse>;

async fn spender(net: &Net) -> Running {
    let node = net.start(0, SOLO).await;
    net.prepare(&node, 10_000 * CT).await;
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
    node.finalise(net.sign(90, &[Person(2).into()], gateway))
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

/// Watches from block 1 on as long as there is no place.
async fn gets_a_place(client: &Client) {
    crate::net::until("there is a place", || async {
        watch(client, 1).await.is_ok()
    })
    .await;
}

/// Reads on to the end: the first height that was not shown whole, and why it
/// ended.
async fn end(mut stream: Stream) -> (u64, tonic::Status) {
    let mut next = 1;
    loop {
        match stream.message().await {
            Ok(block) => {
                let block = block.expect("a stream ends with a reason");
                let height = block.header.unwrap().header.unwrap().height;
                next = height + u64::from(!block.more);
            }
            Err(status) => return (next, status),
        }
    }
}

/// A node with more to read than a stream's window holds, and one place.
async fn crowded(net: &Net, change: impl FnOnce(&mut tally_node::config::Rpc)) -> Running {
    net.configure(0, |config| {
        config.rpc.max_watches = 1;
        change(&mut config.rpc);
    });
    let node = spender(net).await;
    blocks(net, &node, 1, 30).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_takes_nothing_makes_room() {
    let net = Net::new(1);
    let node = crowded(&net, |rpc| rpc.watch_stall_s = 5).await;
    let client = node.audit_as(Login::none()).await;
    let started = Instant::now();
    let stalled = watch(&client, 1).await.unwrap();
    let refused = watch(&client, 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    gets_a_place(&client).await;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(4), "{took:?}");
    // It is told so when it reads again, and where to go on.
    let (next, status) = end(stalled).await;
    let problem = Problem::of(&status).unwrap();
    assert_eq!(problem.name, "SlowReader", "{status}");
    assert!(status.message().contains("nothing was taken"), "{status}");
    assert_eq!(problem.get("from_height"), Some(&*next.to_string()));
    // Who takes what there is may wait for the next block for as long.
    let mut stream = loop {
        match watch(&client, 1).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let last = node.height().await;
    let mut shown = 0;
    while shown < last {
        let block = stream.message().await.unwrap().unwrap();
        shown = block.header.unwrap().header.unwrap().height;
    }
    let late = tokio::time::timeout(Duration::from_secs(7), stream.message()).await;
    assert!(late.is_err() || late.unwrap().is_ok(), "it waits, and may");
    drop((stream, client));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_reads_nothing_leaves_with_its_login_and_its_right() {
    let net = Net::new(1);
    let node = crowded(&net, |rpc| rpc.watch_stall_s = 3_600).await;
    let trusted = node.audit_as(Login::none()).await;
    let auditor = Person(5);
    let set_role = |roles| {
        let key = key(auditor).public();
        Action::SetRole(SetRole {
            person: auditor,
            key,
            roles,
        })
    };
    let admins = [Person(2).into(), Person(3).into()];
    node.finalise(net.sign(91, &admins, set_role(Roles::AUDITOR)))
        .await;
    // Its time is over already, by all but ten seconds of the difference that
    // clocks may have.
    let from = now() - 50;
    let token = jwt::issue(&key(auditor), auditor.into(), &net.chain(), from, 30);
    let mut request = Request::new(v1::WatchRequest {
        from_height: 1,
        ..Default::default()
    });
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let stalled = trusted.clone().watch(request).await.unwrap().into_inner();
    watch(&trusted, 1).await.unwrap_err();
    gets_a_place(&trusted).await;
    let (next, status) = end(stalled).await;
    let problem = Problem::of(&status).unwrap();
    assert_eq!(problem.name, "NotLoggedIn", "{status}");
    assert_eq!(problem.get("from_height"), Some(&*next.to_string()));

    let login = Login::new(auditor.into(), key(auditor), net.chain());
    let client = node.audit_as(login).await;
    let stalled = loop {
        match watch(&client, 1).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    watch(&trusted, 1).await.unwrap_err();
    node.finalise(net.sign(92, &admins, set_role(Roles::NONE)))
        .await;
    gets_a_place(&trusted).await;
    let (next, status) = end(stalled).await;
    let problem = Problem::of(&status).unwrap();
    assert_eq!(problem.name, "NotAllowed", "{status}");
    assert_eq!(problem.get("from_height"), Some(&*next.to_string()));
    drop((client, trusted));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_has_so_many_streams_and_no_more() {
    let net = Net::new(1);
    net.configure(0, |config| {
        config.rpc.max_watches_per_caller = 2;
        config.rpc.watch_stall_s = 1;
    });
    let node = spender(&net).await;
    blocks(&net, &node, 1, 30).await;
    let gateway = GatewayNumber(0);
    let headers = |client: &Client| {
        let request = v1::WatchRequest {
            from_height: 1,
            control_only: true,
            headers_only: false,
        };
        let mut client = client.clone();
        async move { client.watch(request).await }
    };
    let login = || Login::new(gateway.into(), key(gateway), net.chain());
    let (one, two) = (node.audit_as(login()).await, node.audit_as(login()).await);
    let first = headers(&one).await.unwrap();
    let second = headers(&two).await.unwrap();
    let refused = headers(&two).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("gateway:0 has 2"), "{refused}");
    // Others are answered, and so is whoever is trusted on this machine.
    let trusted = node.audit_as(Login::none()).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(watch(&trusted, 1).await.unwrap());
    }
    drop(first);
    crate::net::until("there is room again", || async {
        headers(&one).await.is_ok()
    })
    .await;
    drop((second, others, one, two, trusted));
    node.stop().await;
}
