//! `MeteringService.Meter`: holds and debits over one stream.

use std::collections::BTreeMap;

use crate::support::{
    Setup,
    metering::{metering, used, wish},
};
use tally_proto::v1::{self, meter_request::Ask, meter_response::Answer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// An open stream.
struct Meter {
    asks: mpsc::Sender<v1::MeterRequest>,
    answers: Streaming<v1::MeterResponse>,
}

impl Meter {
    async fn open(gateway: &crate::support::Running) -> Self {
        let (asks, stream) = mpsc::channel(1024);
        let mut client = metering(gateway).await;
        let answers = client.meter(ReceiverStream::new(stream)).await.unwrap();
        Meter {
            asks,
            answers: answers.into_inner(),
        }
    }

    async fn ask(&self, id: u64, ask: Option<Ask>) {
        self.asks.send(v1::MeterRequest { id, ask }).await.unwrap();
    }

    async fn answer(&mut self) -> (u64, Answer) {
        let answer = self.answers.message().await.unwrap().unwrap();
        (answer.id, answer.answer.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_spends_a_balance_exactly_and_refuses_the_rest() {
    // 10 input and 10 output tokens each: 50.
    let setup = Setup::new(100 * 50).await;
    let gateway = setup.gateway().await;
    let mut meter = Meter::open(&gateway).await;
    for id in 0..300 {
        meter.ask(id, Some(Ask::Authorize(wish(10, 10)))).await;
    }
    let (mut charged, mut refused, mut answers) = (0, 0, BTreeMap::<u64, u32>::new());
    while answers.values().sum::<u32>() < 300 + 100 {
        let (id, answer) = meter.answer().await;
        *answers.entry(id).or_default() += 1;
        match answer {
            Answer::Authorized(hold) => {
                meter
                    .ask(id, Some(Ask::Settle(used(hold.hold, 10, 10))))
                    .await;
            }
            Answer::Settled(settled) => charged += settled.charged,
            Answer::Refused(why) => {
                assert_eq!(why.code, Code::ResourceExhausted as u32, "{why:?}");
                assert_eq!(
                    (why.name.as_str(), why.retry.as_str()),
                    ("insufficient_quota", "never")
                );
                refused += 1;
            }
            Answer::Voided(_) => panic!("nothing was voided"),
        }
    }
    assert_eq!((charged, refused, answers.len()), (100 * 50, 200, 300));
    drop(meter);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().spent.0, 100 * 50);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_ends_its_request_only_and_a_client_that_leaves_is_charged() {
    let setup = Setup::new(1_000_000).await;
    let gateway = setup.gateway().await;
    let mut meter = Meter::open(&gateway).await;
    meter.ask(1, None).await;
    let (1, Answer::Refused(why)) = meter.answer().await else {
        panic!("nothing was asked");
    };
    assert_eq!(why.code, Code::InvalidArgument as u32);
    let void = |hold| Some(Ask::Void(v1::VoidRequest { hold }));
    meter.ask(2, Some(Ask::Authorize(wish(10, 10)))).await;
    let (2, Answer::Authorized(first)) = meter.answer().await else {
        panic!("it can be paid");
    };
    meter.ask(3, void(first.hold)).await;
    assert!(matches!(meter.answer().await, (3, Answer::Voided(_))));
    meter.ask(4, void(first.hold)).await;
    let (4, Answer::Refused(why)) = meter.answer().await else {
        panic!("it is resolved");
    };
    assert_eq!(why.code, Code::NotFound as u32);
    meter.ask(5, Some(Ask::Authorize(wish(10, 10)))).await;
    let (5, Answer::Authorized(second)) = meter.answer().await else {
        panic!("it can be paid");
    };
    // It asks, and goes without waiting.
    meter
        .ask(6, Some(Ask::Settle(used(second.hold, 10, 3))))
        .await;
    drop(meter.asks);
    while meter.answers.message().await.unwrap().is_some() {}
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().spent.0, 22);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_idempotency_key_has_one_hold_although_a_call_with_it_failed() {
    // For one hold, which another request has.
    let mut setup = Setup::new(50).await;
    setup.config.limits.wait_ms = 5_000;
    let gateway = setup.gateway().await;
    let mut client = metering(&gateway).await;
    let first = client.authorize(wish(10, 10)).await.unwrap().into_inner();
    let named = || {
        let mut client = client.clone();
        let mut wish = wish(10, 10);
        wish.idempotency_key = "k".into();
        tokio::spawn(async move { client.authorize(wish).await })
    };
    // One of them waits in vain; then the other tries.
    let (one, two) = (named(), named());
    let (failed, other) = match first_of(one, two).await {
        (Err(failed), other) => (failed, other),
        (Ok(hold), _) => panic!("{hold:?}"),
    };
    assert_eq!(failed.code(), Code::ResourceExhausted);
    let third = named();
    let void = v1::VoidRequest { hold: first.hold };
    client.void(void).await.unwrap();
    let second = other.await.unwrap().unwrap().into_inner();
    let third = third.await.unwrap().unwrap().into_inner();
    assert_eq!(second.hold, third.hold);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

type Call = tokio::task::JoinHandle<Result<tonic::Response<v1::AuthorizeResponse>, tonic::Status>>;

/// What the first of two to end says, and the other.
async fn first_of(
    mut one: Call,
    mut two: Call,
) -> (Result<v1::AuthorizeResponse, tonic::Status>, Call) {
    tokio::select! {
        said = &mut one => (said.unwrap().map(tonic::Response::into_inner), two),
        said = &mut two => (said.unwrap().map(tonic::Response::into_inner), one),
    }
}
