//! Stops, kills, lost journals, validators that are down: nothing is lost,
//! nothing is charged twice.

use std::{io::Write, path::Path, sync::atomic::Ordering};

use crate::support::{Setup, begun, chat, send, until};
use serde_json::json;
use tally_gateway_adapter::journal::{DebitBytes, LeaseSent, Record};
use tally_ledger::{
    action::{Action, Lease, OpenJournal},
    debit::{FIRST_DEBIT_VERSION, Flags},
    ids::{AccountNumber, Amount, ApiKeyNumber, ClassNumber, JournalNumber, LeaseNumber},
    reason::Reason,
};

const PLENTY: u64 = 1_000_000;

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What a kill leaves: the journal as it is now. The old process never
/// reaches the chain again.
async fn killed(setup: &mut Setup, gateway: crate::support::Running) {
    let home = tempfile::tempdir().unwrap();
    copy(
        &setup.home.path().join("journal"),
        &home.path().join("journal"),
    );
    for file in ["genesis.json", "gateway.key"] {
        std::fs::copy(setup.home.path().join(file), home.path().join(file)).unwrap();
    }
    gateway.kill().await;
    setup.home = home;
    setup.config.home = setup.home.path().to_owned();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intact_journal_goes_on_and_holds_are_charged_their_last_marks() {
    let mut setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    let (to, mut body) = (gateway.http, chat(20, json!({"hold": 2})));
    body["stream"] = true.into();
    tokio::spawn(async move { send(to, &body).await });
    begun(to, 2).await;
    until("the first is on the chain", || {
        setup.chain.receipts().len() == 1
    })
    .await;
    setup.chain.set_down(true);
    killed(&mut setup, gateway).await;
    setup.chain.set_down(false);
    let gateway = setup.gateway().await;
    until("the hold is settled", || setup.chain.receipts().len() == 2).await;
    let debit = setup.chain.debits()[1];
    assert_eq!(debit.fixed.flags, Flags::ESTIMATED);
    assert_eq!((debit.detail.hold_journal.0, debit.detail.hold), (1, 2));
    assert!(debit.detail.usage.0[0] > 0);
    until("old leases are returned", || {
        setup.chain.account(0).leases.is_empty()
    })
    .await;
    let answer = send(gateway.http, &chat(5, json!({}))).await;
    assert_eq!(answer.header("x-tally-receipt"), "0-1-3");
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.gateway().journal.0, 1);
    assert_eq!(setup.chain.main().leased.0, 0);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_moved_is_charged_to_its_new_lease_after_a_kill() {
    let mut setup = Setup::new(PLENTY).await;
    setup.config.lease.seconds = 8;
    setup.config.lease.margin_ms = 500;
    let gateway = setup.gateway().await;
    let (to, mut body) = (gateway.http, chat(20, json!({"hold": 2})));
    body["stream"] = true.into();
    tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 1
    })
    .await;
    until("the first lease is returned, another is open", || {
        let leases = setup.chain.account(0).leases;
        !leases.is_empty() && leases.iter().all(|lease| lease.number.0 > 1)
    })
    .await;
    setup.chain.set_down(true);
    killed(&mut setup, gateway).await;
    setup.chain.set_down(false);
    let gateway = setup.gateway().await;
    let (receipt, debit) = setup.chain.only_receipt().await;
    assert!(debit.fixed.lease.0 > 1);
    assert_eq!(receipt.flags, Flags::ESTIMATED);
    assert!(receipt.charged.0 > 0 && receipt.charged == receipt.cost);
    gateway.stop().await.unwrap();
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn served_requests_reach_the_chain_after_an_outage_and_a_kill() {
    let mut setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    until("the first is on the chain", || {
        setup.chain.receipts().len() == 1
    })
    .await;
    setup.chain.set_down(true);
    // Inside the lease the gateway serves; beyond it, it says why not.
    let mut served = 1;
    loop {
        let answer = send(gateway.http, &chat(5, json!({}))).await;
        if answer.status != 200 {
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (503, "ledger_unreachable")
            );
            break;
        }
        served += 1;
        assert!(served < 1_000);
    }
    assert!(served > 1);
    killed(&mut setup, gateway).await;
    setup.chain.set_down(false);
    let gateway = setup.gateway().await;
    until("all are on the chain", || {
        setup.chain.receipts().len() == served
    })
    .await;
    assert!(
        setup
            .chain
            .receipts()
            .iter()
            .all(|receipt| receipt.charged.0 == 30)
    );
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().spent.0, 30 * served as u64);
    setup.chain.check();
}

/// Rewrites a journal's debits as the build before version 2 wrote them.
fn as_first_version(journal: &Path) {
    let path = journal.join("00000000000000000001.journal");
    let bytes = std::fs::read(&path).unwrap();
    let (mut at, mut out) = (0, Vec::new());
    while let Some((mut record, length)) = Record::read(&bytes[at..]) {
        at += length;
        match &mut record {
            Record::Synced { offset } => *offset = out.len() as u64,
            Record::Debit { debit, .. } => {
                let mut first = debit.read();
                first.fixed.version = FIRST_DEBIT_VERSION;
                first.detail.queued = None;
                **debit = DebitBytes::of(&first);
            }
            _ => {}
        }
        record.frame(&mut out);
    }
    assert_eq!(at, bytes.len());
    assert!(out.len() < bytes.len());
    std::fs::write(path, out).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_the_first_debit_version_is_sent_as_it_is_and_goes_on_in_the_second() {
    let mut setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let refuse = |setup: &Setup, reason| *setup.chain.refuse_debits.lock().unwrap() = reason;
    // Nothing of it is on the chain when the builds change.
    refuse(&setup, Some(Reason::JournalAhead));
    for tokens in [1, 2, 3] {
        let answer = send(gateway.http, &chat(tokens, json!({}))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let (to, mut body) = (gateway.http, chat(20, json!({"hold": 2})));
    body["stream"] = true.into();
    tokio::spawn(async move { send(to, &body).await });
    begun(to, 4).await;
    setup.chain.set_down(true);
    killed(&mut setup, gateway).await;
    as_first_version(&setup.home.path().join("journal"));
    refuse(&setup, None);
    setup.chain.set_down(false);
    let gateway = setup.gateway().await;
    until("what was held is settled", || {
        setup.chain.receipts().len() == 4
    })
    .await;
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    gateway.stop().await.unwrap();
    let debits = setup.chain.debits();
    let versions: Vec<_> = debits.iter().map(|debit| debit.fixed.version).collect();
    assert_eq!(versions, [1, 1, 1, 2, 2]);
    let queue = |i: usize| debits[i].detail.queued.map(|queued| queued.queue);
    // Nobody wrote down where the one that the kill ended had waited.
    assert_eq!([0, 2, 3, 4].map(queue), [None, None, Some(0), Some(1)]);
    assert_eq!(debits[3].fixed.flags, Flags::ESTIMATED);
    assert_eq!(setup.chain.gateway().last_debit.0, 5);
    setup.chain.check();
}

/// Notes in a stopped gateway's journal that it has sent a lease.
fn note_sent(setup: &Setup, lease: &Lease) {
    let folder = std::fs::read_dir(setup.home.path().join("journal")).unwrap();
    let last = folder.map(|entry| entry.unwrap().path()).max().unwrap();
    let mut bytes = Vec::new();
    let sent = LeaseSent {
        number: lease.number,
        account: lease.account,
        class: lease.class,
        api_key: lease.api_key,
    };
    Record::LeaseSent(sent).frame(&mut bytes);
    let mut file = std::fs::File::options().append(true).open(last).unwrap();
    file.write_all(&bytes).unwrap();
}

/// A Lease was on its way when the gateway was killed, and is executed after
/// the restart, for the account and key that the next request comes from: it
/// is given back, so nothing may be spent from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_on_its_way_at_a_kill_is_given_back_and_never_spent() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    gateway.stop().await.unwrap();
    let lease = Lease {
        journal: JournalNumber(1),
        number: LeaseNumber(2),
        account: AccountNumber(0),
        class: ClassNumber(0),
        api_key: ApiKeyNumber(0),
        wanted: Amount(PLENTY / 4),
        worst_case: Amount(1_000),
        duration_ms: 60_000,
    };
    note_sent(&setup, &lease);
    let gateway = setup.gateway().await;
    setup.chain.lease(lease);
    let (to, mut body) = (gateway.http, chat(20, json!({"hold": 2})));
    body["stream"] = true.into();
    let answer = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 2
    })
    .await;
    until("the lease is given back", || {
        let leases = setup.chain.account(0).leases;
        leases.iter().all(|lease| lease.number != LeaseNumber(2))
    })
    .await;
    setup.engine.release(1);
    assert_eq!(answer.await.unwrap().status, 200);
    until("both are on the chain", || {
        setup.chain.receipts().len() == 2
    })
    .await;
    for receipt in setup.chain.receipts() {
        assert_eq!((receipt.charged, receipt.flags), (receipt.cost, Flags(0)));
    }
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.main().leased.0, 0);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_of_nodes_double_nothing() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    setup.chain.mute.store(true, Ordering::Relaxed);
    let to = gateway.http;
    let sent = tokio::spawn(async move { send(to, &chat(5, json!({}))).await });
    until("the lease is granted", || {
        setup.chain.gateway().last_lease.0 == 1
    })
    .await;
    let answer = sent.await.unwrap();
    assert_eq!(answer.code(), "ledger_unreachable");
    setup.chain.mute.store(false, Ordering::Relaxed);
    until("it is known here too", || {
        setup.chain.gateway().last_lease.0 == 1 && !setup.chain.account(0).leases.is_empty()
    })
    .await;
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while send(gateway.http, &chat(5, json!({}))).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "still refused");
    }
    setup.chain.mute.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        send(gateway.http, &chat(1, json!({}))).await;
    }
    until("debits are on the chain", || {
        setup.chain.receipts().len() == 4
    })
    .await;
    setup.chain.mute.store(false, Ordering::Relaxed);
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 4);
    assert_eq!(setup.chain.main().leased.0, 0);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_journal_is_a_lost_one() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    until("it is on the chain", || setup.chain.receipts().len() == 1).await;
    setup.chain.set_down(true);
    gateway.kill().await;
    setup.chain.set_down(false);
    std::fs::remove_dir_all(setup.home.path().join("journal")).unwrap();
    let gateway = setup.gateway().await;
    assert_eq!(setup.chain.gateway().journal.0, 2);
    let recalled = setup.chain.account(0).leases[0].recall;
    assert_eq!(recalled, tally_ledger::account::Recall::JournalLost);
    let answer = send(gateway.http, &chat(5, json!({}))).await;
    assert_eq!(answer.header("x-tally-receipt"), "0-2-1");
    gateway.stop().await.unwrap();
    assert_eq!(setup.chain.receipts().len(), 2);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_behind_doubles_nothing() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let (journal, backup) = (
        setup.home.path().join("journal"),
        setup.home.path().join("backup"),
    );
    let (to, mut body) = (gateway.http, chat(20, json!({"hold": 2})));
    body["stream"] = true.into();
    let sent = tokio::spawn(async move { send(to, &body).await });
    until("the engine is asked", || {
        setup.engine.requests.load(Ordering::Relaxed) == 1
    })
    .await;
    copy(&journal, &backup);
    setup.engine.release(1);
    assert_eq!(sent.await.unwrap().status, 200);
    until("it is on the chain", || setup.chain.receipts().len() == 1).await;
    gateway.stop().await.unwrap();
    copy(&backup, &journal);
    let gateway = setup.gateway().await;
    assert_eq!(setup.chain.gateway().journal.0, 2);
    send(gateway.http, &chat(5, json!({}))).await;
    gateway.stop().await.unwrap();
    // The hold of the backup is not charged again.
    assert_eq!(setup.chain.receipts().len(), 2);
    setup.chain.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn debits_before_the_damage_move_into_the_new_journal() {
    let mut setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    until("it is on the chain", || setup.chain.receipts().len() == 1).await;
    setup.chain.set_down(true);
    for tokens in [1, 2, 3] {
        let answer = send(gateway.http, &chat(tokens, json!({}))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    killed(&mut setup, gateway).await;
    damage_debit(&setup.home.path().join("journal"), 3);
    setup.chain.set_down(false);
    let gateway = setup.gateway().await;
    assert_eq!(setup.chain.gateway().journal.0, 2);
    until("what is readable is on the chain", || {
        setup.chain.receipts().len() == 3
    })
    .await;
    gateway.stop().await.unwrap();
    let debits = setup.chain.debits();
    let holds: Vec<u64> = debits.iter().map(|debit| debit.detail.hold).collect();
    // The second whole, the third at its mark, the fourth is lost.
    assert_eq!(holds, [1, 2, 3]);
    assert_eq!(debits[1].fixed.flags, Flags::default());
    assert_eq!(debits[2].fixed.flags, Flags::ESTIMATED);
    assert!(debits.iter().all(|debit| debit.detail.hold_journal.0 == 1));
    setup.chain.check();
}

/// Flips a bit inside the record of this debit.
fn damage_debit(journal: &Path, number: u64) {
    use tally_gateway_adapter::journal::Record;
    let path = journal.join("00000000000000000001.journal");
    let mut bytes = std::fs::read(&path).unwrap();
    let mut at = 0;
    while let Some((record, length)) = Record::read(&bytes[at..]) {
        if matches!(&record, Record::Debit { number: found, .. } if found.0 == number) {
            bytes[at + length - 1] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return;
        }
        at += length;
    }
    panic!("no such debit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_same_key_stops_the_first() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    assert_eq!(send(gateway.http, &chat(5, json!({}))).await.status, 200);
    setup.chain.act_as_gateway(Action::OpenJournal(OpenJournal {
        journal: JournalNumber(2),
        previous_intact: false,
    }));
    let error = gateway.ended().await.unwrap_err();
    assert!(error.to_string().contains("another journal"), "{error}");
    assert_eq!(setup.chain.gateway().journal, JournalNumber(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_home_has_one_process() {
    let setup = Setup::new(PLENTY).await;
    let gateway = setup.gateway().await;
    let second = tally_gateway_adapter::Gateway::start(setup.config.clone()).await;
    assert!(second.unwrap_err().to_string().contains("in use"));
    gateway.stop().await.unwrap();
    setup.gateway().await.stop().await.unwrap();
}
