//! `MeteringService.SubmitDebits`: batches of gateways that sign themselves.

use std::sync::{Arc, atomic::Ordering};

use crate::support::{
    Chain, Running, Setup, chain, chat,
    metering::{metering, used, wish},
    send, until,
};
use serde_json::json;
use tally_gateway_adapter::{
    chain::sign::Signer,
    journal::{DebitBytes, Unproven},
};
use tally_ledger::{
    action::{Action, Lease, OpenJournal},
    debit::{
        DEBIT_VERSION, DETAIL_BYTES, Debit, Detail, FIXED_BYTES, Fixed, KIND_REQUEST, Position,
        RECORD_BYTES, batch_leaf, journal_hash,
    },
    hash::{Context, Hash},
    ids::*,
    merkle::leaf_hash,
    reason::Reason,
    transaction::Transaction,
};
use tally_proto::{Problem, v1};
use tonic::{Code, Status};

const PLENTY: u64 = 1_000_000;
/// What one debit here costs: 10 input and 5 output tokens.
const COST: u64 = 10 * chain::INPUT + 5 * chain::OUTPUT;
/// The gateway that signs itself. Gateway 0 passes its batches on.
const OTHER: GatewayNumber = GatewayNumber(1);

fn signer(chain: &Chain, number: GatewayNumber) -> Signer {
    Signer {
        chain: chain.genesis.chain(),
        gateway: number,
        key: chain::key_of(number.into()),
    }
}

/// Its journal 1 and a lease on account 0.
fn begin(chain: &Chain) {
    chain.act(
        OTHER,
        &[],
        Action::OpenJournal(OpenJournal {
            journal: JournalNumber(1),
            previous_intact: true,
        }),
    );
    let lease = Lease {
        journal: JournalNumber(1),
        number: LeaseNumber(1),
        account: AccountNumber(0),
        class: chain::MAIN,
        api_key: ApiKeyNumber(0),
        wanted: Amount(PLENTY / 4),
        worst_case: Amount(1_000),
        duration_ms: 60_000,
    };
    chain.act(OTHER, &[lease.api_key.into()], Action::Lease(lease));
}

fn debit(number: u64) -> Unproven {
    let mut fixed = Fixed::read(&[0; FIXED_BYTES]);
    fixed.version = DEBIT_VERSION;
    fixed.kind = KIND_REQUEST;
    fixed.lease = LeaseNumber(1);
    fixed.limit = Amount(COST);
    let mut detail = Detail::read(&[0; DETAIL_BYTES]).unwrap();
    detail.model = ModelNumber(1);
    detail.table = TableVersion(1);
    detail.usage.0 = [10, 0, 5, 0, 0, 0];
    detail.hold_journal = JournalNumber(1);
    detail.hold = number;
    Unproven {
        number: DebitNumber(number),
        debit: Box::new(DebitBytes::of(&Debit { fixed, detail })),
        hash: Hash::ZERO,
    }
}

/// Debits `first` to `last` of journal 1, signed by that gateway.
fn batch(chain: &Chain, by: GatewayNumber, first: u64, last: u64) -> Transaction {
    let debits: Vec<Unproven> = (first..=last).map(debit).collect();
    signer(chain, by).debits(JournalNumber(1), &debits)
}

/// The running hash of that gateway's journal after that many debits.
fn running_hash(last: u64) -> Hash {
    (1..=last).fold(Hash::ZERO, |before, number| {
        let read = debit(number).debit.read();
        let position = Position {
            gateway: OTHER,
            journal: JournalNumber(1),
            number: DebitNumber(number),
        };
        let detail = Context::Detail.hash(&read.detail.write());
        let leaf = batch_leaf(&position, &read.fixed.write(), &detail);
        journal_hash(&before, &leaf_hash(&leaf))
    })
}

type Answer = Result<v1::SubmitDebitsResponse, Status>;

async fn submit_for(gateway: &Running, transaction: &Transaction, timeout_ms: u32) -> Answer {
    let request = v1::SubmitDebitsRequest {
        transaction: Some(transaction.clone().into()),
        timeout_ms,
    };
    let answer = metering(gateway).await.submit_debits(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn submit(gateway: &Running, transaction: &Transaction) -> Answer {
    submit_for(gateway, transaction, 0).await
}

/// The answer says that debits up to `last` are in the log, as the chain does.
fn assert_final(chain: &Arc<Chain>, answer: Answer, transaction: &Transaction, last: u64) {
    let answer = answer.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::Final);
    assert_eq!(answer.id.as_ref(), transaction.id().0);
    let head = answer.head.unwrap();
    assert_eq!((head.journal, head.last_debit), (1, last));
    assert_eq!(head.hash.as_ref(), running_hash(last).0);
    assert!(head.height >= answer.finality.unwrap().height);
    let receipts = chain.receipts();
    assert_eq!(receipts.len() as u64, last);
    for receipt in receipts {
        assert_eq!((receipt.charged.0, receipt.position.gateway), (COST, OTHER));
    }
}

fn refusal(answer: Answer) -> (Code, Option<Reason>) {
    let status = answer.unwrap_err();
    let reason = Problem::of(&status).and_then(|problem| problem.reason);
    (status.code(), reason)
}

async fn started() -> (Setup, Running) {
    let setup = Setup::new(PLENTY).await;
    begin(&setup.chain);
    let gateway = setup.gateway().await;
    (setup, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_passed_on_and_repeated_bytes_get_the_same_answer() {
    let (setup, gateway) = started().await;
    let first = batch(&setup.chain, OTHER, 1, 3);
    for _ in 0..2 {
        let answer = submit(&gateway, &first).await;
        assert_final(&setup.chain, answer, &first, 3);
    }
    let second = batch(&setup.chain, OTHER, 4, 4);
    let answer = submit(&gateway, &second).await;
    assert_final(&setup.chain, answer, &second, 4);
    // The first again, now that the journal has gone on.
    let again = submit(&gateway, &first).await.unwrap();
    assert_eq!(again.outcome(), v1::Outcome::Final);
    assert_eq!(setup.chain.receipts().len(), 4);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_journal_does_not_prove_is_not_called_final() {
    let (setup, gateway) = started().await;
    let first = batch(&setup.chain, OTHER, 1, 3);
    assert_final(&setup.chain, submit(&gateway, &first).await, &first, 3);
    setup.chain.act(
        OTHER,
        &[],
        Action::OpenJournal(OpenJournal {
            journal: JournalNumber(2),
            previous_intact: true,
        }),
    );
    // The node says that it is, the gateway's leaf cannot.
    let again = submit(&gateway, &first).await.unwrap();
    assert_eq!(again.outcome(), v1::Outcome::Unknown);
    assert_eq!(again.finality, None);
    assert_eq!(again.head.unwrap().journal, 2);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_would_refuse_is_refused_with_its_reason_and_changes_nothing() {
    let (setup, gateway) = started().await;
    let chain = &setup.chain;
    let good = batch(chain, OTHER, 1, 2);
    let with = |change: &dyn Fn(&mut Transaction)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let mut foreign = batch(chain, GatewayNumber(2), 1, 2);
    foreign.body = good.body.clone();
    let beyond = Signer {
        gateway: GatewayNumber(9),
        ..signer(chain, OTHER)
    };
    let later = signer(chain, OTHER).debits(JournalNumber(2), &[debit(1)]);
    for (what, transaction, code, reason) in [
        (
            "another's signature",
            foreign,
            Code::Unauthenticated,
            Reason::BadSignature,
        ),
        (
            "another debit",
            with(&|t| t.payload[40] ^= 1),
            Code::FailedPrecondition,
            Reason::DebitRoot,
        ),
        (
            "a debit less",
            with(&|t| t.payload.truncate(RECORD_BYTES)),
            Code::FailedPrecondition,
            Reason::DebitCount,
        ),
        (
            "no signature",
            with(&|t| t.signatures = chain::list(Vec::new())),
            Code::Unauthenticated,
            Reason::SignatureCount,
        ),
        (
            "a cut body",
            with(&|t| t.body.truncate(20)),
            Code::InvalidArgument,
            Reason::Malformed,
        ),
        (
            "another version",
            with(&|t| t.body[0] = 9),
            Code::InvalidArgument,
            Reason::UnknownVersion,
        ),
        (
            "no such gateway",
            beyond.debits(JournalNumber(1), &[debit(1)]),
            Code::Unauthenticated,
            Reason::UnknownSigner,
        ),
        (
            "a gap",
            batch(chain, OTHER, 2, 3),
            Code::FailedPrecondition,
            Reason::DebitNotNext,
        ),
        (
            "a journal ahead",
            later,
            Code::FailedPrecondition,
            Reason::JournalAhead,
        ),
    ] {
        let answer = submit(&gateway, &transaction).await;
        assert_eq!(refusal(answer), (code, Some(reason)), "{what}");
    }
    let own = submit(&gateway, &batch(chain, GatewayNumber(0), 1, 1)).await;
    assert_eq!(refusal(own), (Code::PermissionDenied, None));
    let other = signer(chain, OTHER).action(Action::ReturnLease(LeaseNumber(1)));
    assert_eq!(
        refusal(submit(&gateway, &other).await),
        (Code::InvalidArgument, None)
    );
    assert_eq!(chain.receipts(), []);
    // None of it was in the way of the right one, after which a repeat of its
    // number is refused.
    assert_final(chain, submit(&gateway, &good).await, &good, 2);
    let twice = submit(&gateway, &batch(chain, OTHER, 1, 1)).await;
    assert_eq!(refusal(twice).1, Some(Reason::DebitNotNext));
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_passed_over_and_with_none_the_outcome_is_unknown() {
    let (setup, gateway) = started().await;
    let chain = &setup.chain;
    for gone in [0, 1] {
        chain.gone[gone].store(true, Ordering::Relaxed);
        let number = gone as u64 + 1;
        let batch = batch(chain, OTHER, number, number);
        assert_final(chain, submit(&gateway, &batch).await, &batch, number);
        chain.gone[gone].store(false, Ordering::Relaxed);
    }
    // Executed, but nobody can say so.
    let lost = batch(chain, OTHER, 3, 3);
    chain.mute.store(true, Ordering::Relaxed);
    let answer = submit_for(&gateway, &lost, 300).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::Unknown);
    assert_eq!(answer.id.as_ref(), lost.id().0);
    assert!(answer.head.is_none() && answer.finality.is_none());
    chain.mute.store(false, Ordering::Relaxed);
    assert_final(chain, submit(&gateway, &lost).await, &lost, 3);
    chain.set_down(true);
    let answer = submit_for(&gateway, &lost, 300).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::Unknown);
    chain.set_down(false);
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_wait_are_bounded_and_leave_this_gateways_own_debits_alone() {
    let (setup, gateway) = started().await;
    let batch = batch(&setup.chain, OTHER, 1, 1);
    setup.chain.slow.store(true, Ordering::Relaxed);
    let gateway = Arc::new(gateway);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (gateway, batch) = (gateway.clone(), batch.clone());
        waiting.spawn(async move { submit_for(&gateway, &batch, 60_000).await });
    }
    until("all wait", || {
        setup.chain.submitting.load(Ordering::Relaxed) == 32
    })
    .await;
    let busy = submit(&gateway, &batch).await.unwrap_err();
    assert_eq!(Problem::of(&busy).unwrap().name, "Busy");
    setup.chain.slow.store(false, Ordering::Relaxed);
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().unwrap().outcome(), v1::Outcome::Final);
    }
    // Its own requests are held for, settled and proven as ever.
    let hold = metering(&gateway).await.authorize(wish(10, 5)).await;
    let hold = hold.unwrap().into_inner().hold;
    let settled = metering(&gateway).await.settle(used(hold, 10, 5)).await;
    assert_eq!(settled.unwrap().into_inner().charged, COST);
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    let answer = submit(&gateway, &batch).await.unwrap();
    assert_eq!(answer.head.unwrap().last_debit, 1);
    Arc::into_inner(gateway).unwrap().stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 3);
    setup.chain.check();
}
