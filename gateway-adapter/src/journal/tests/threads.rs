//! Who writes, and who is woken: the journal on threads that serve.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::*;
use crate::cores::{self, Cores};

const LONG: Duration = Duration::from_secs(60);
/// The writer does not look by itself, and the disk is quick.
const QUIET: Limits = Limits {
    segment_bytes: 1 << 20,
    linger: LONG,
    quick: LONG,
};

/// A journal that is used on threads that serve.
fn serving(fake: &Fake, limits: Limits) -> (Arc<Journal>, Cores) {
    let journal = Arc::new(started(fake, limits));
    (journal, Cores::start(write_here).unwrap())
}

/// A hold and its debit, waited for on a thread that serves.
async fn served(journal: Arc<Journal>) {
    assert_ne!(cores::here(), 0);
    let mut record = hold();
    drop(journal.hold(&mut record, Urgency::Soon));
    let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
    let (number, durable) = journal.debit(&debit).unwrap();
    durable.wait().await.unwrap();
    let unproven = journal.unproven_after(DebitNumber(number.0 - 1), 1);
    assert_eq!(unproven[0].number, number);
}

async fn all(mut tasks: JoinSet<()>) {
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    };
    tokio::time::timeout(LONG, ended)
        .await
        .expect("all are woken");
}

fn writers(fake: &Fake) -> Vec<String> {
    std::mem::take(&mut fake.disk().synced)
}

#[tokio::test]
async fn a_thread_that_has_nothing_else_to_do_writes_itself_while_the_disk_is_quick() {
    let fake = Fake::default();
    // The writer does not look by itself.
    let limits = Limits {
        linger: LONG,
        quick: Duration::from_secs(2),
        ..Limits::default()
    };
    let (journal, cores) = serving(&fake, limits);
    for (pause, by) in [
        (0, "serve-"),
        (2_500, "serve-"),
        (0, "journal"),
        (0, "serve-"),
    ] {
        fake.disk().pause = Duration::from_millis(pause);
        writers(&fake);
        let mut tasks = JoinSet::new();
        cores.spawn(&mut tasks, served(journal.clone()));
        all(tasks).await;
        let writers = writers(&fake);
        assert_eq!(writers.len(), 1, "{writers:?}");
        assert!(writers[0].starts_with(by), "{writers:?}, not {by}");
        assert_eq!(contents(&fake.crashed()).unproven.len(), journal.unproven());
    }
}

#[tokio::test]
async fn what_a_thread_that_serves_promises_it_writes_once_it_has_nothing_else_to_do() {
    let fake = Fake::default();
    let (journal, cores) = serving(&fake, QUIET);
    writers(&fake);
    let mut tasks = JoinSet::new();
    let (disk, made) = (fake.clone(), journal.clone());
    cores.spawn(&mut tasks, async move {
        // Nobody waits for it here.
        drop(made.hold(&mut hold(), Urgency::Now));
        let mut turns = 0..10;
        let busy = std::future::poll_fn(|context| match turns.next() {
            Some(_) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(()),
        });
        busy.await;
        assert!(disk.disk().synced.is_empty(), "there was more to do");
    });
    all(tasks).await;
    soon("it is written", || !fake.disk().synced.is_empty());
    let writers = writers(&fake);
    assert!(
        writers.len() == 1 && writers[0].starts_with("serve-"),
        "{writers:?}"
    );
    assert_eq!(contents(&fake.crashed()).state.holds.len(), 1);
}

#[tokio::test]
async fn where_many_wait_on_a_thread_the_one_that_is_there_for_it_writes() {
    let fake = Fake::default();
    let (journal, cores) = serving(&fake, QUIET);
    for (waiting, by) in [(writer::FEW, "serve-"), (writer::FEW + 1, "journal")] {
        writers(&fake);
        let mut tasks = JoinSet::new();
        let journal = journal.clone();
        cores.spawn(&mut tasks, async move {
            let together = (0..waiting).map(|_| served(journal.clone()));
            futures::future::join_all(together).await;
        });
        all(tasks).await;
        let writers = writers(&fake);
        assert_eq!(writers.len(), 1, "{writers:?}");
        assert!(writers[0].starts_with(by), "{writers:?}, not {by}");
    }
}

#[tokio::test]
async fn on_a_thread_that_never_rests_the_one_that_is_there_for_it_writes_soon() {
    let fake = Fake::default();
    let (journal, cores) = serving(&fake, Limits::default());
    let mut record = hold();
    let made = journal.hold(&mut record, Urgency::Now);
    made.wait().await.unwrap();
    soon("the writer sleeps", || journal.shared.inner().asleep);
    writers(&fake);
    let mut tasks = JoinSet::new();
    cores.spawn(&mut tasks, async move {
        let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
        let (_, durable) = journal.debit(&debit).unwrap();
        let mut waiting = Box::pin(durable.wait());
        let written = std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            waiting.as_mut().poll(context)
        });
        written.await.unwrap();
    });
    all(tasks).await;
    let writers = writers(&fake);
    assert_eq!(writers, ["journal"]);
}

#[tokio::test]
async fn a_hold_and_its_name_are_written_whatever_their_urgency() {
    let fake = Fake::default();
    let (journal, _cores) = serving(&fake, Limits::default());
    for (i, urgency) in [Urgency::Now, Urgency::Waited, Urgency::Soon]
        .into_iter()
        .enumerate()
    {
        let named = Some((name(i as u32), Time(1)));
        let made = journal.hold_named(&mut hold(), named, urgency);
        let made = tokio::time::timeout(LONG, made.wait()).await;
        made.expect("it is written").unwrap();
    }
    assert_eq!(contents(&fake.crashed()).state.names.iter().count(), 3);
}

#[tokio::test]
async fn who_waits_is_woken_on_every_thread_with_ushers_and_without() {
    for ushers in [false, true] {
        let fake = Fake::default();
        let (journal, cores) = serving(&fake, Limits::default());
        let mut rest = JoinSet::new();
        if ushers {
            cores.on_each(&mut rest, || {
                let journal = journal.clone();
                async move { journal.usher().await }
            });
        }
        fake.disk().pause = Duration::from_millis(1);
        let mut tasks = JoinSet::new();
        for _ in 0..50 {
            for _ in 0..4 {
                cores.spawn(&mut tasks, served(journal.clone()));
            }
            let journal = journal.clone();
            tasks.spawn(async move { journal.barrier().wait().await.unwrap() });
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        all(tasks).await;
        assert_eq!(contents(&fake.crashed()).unproven.len(), 200);
        rest.shutdown().await;
    }
}

#[tokio::test]
async fn a_debit_for_which_nobody_waits_is_written_all_the_same() {
    let fake = Fake::default();
    let limits = Limits {
        linger: LONG,
        ..Limits::default()
    };
    let (journal, _cores) = serving(&fake, limits);
    let mut record = hold();
    drop(journal.hold(&mut record, Urgency::Soon));
    let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
    drop(journal.debit(&debit).unwrap());
    soon("it is durable", || journal.unproven() == 1);
}

#[tokio::test]
async fn a_fsync_that_fails_on_a_thread_that_serves_ends_all_promises() {
    let fake = Fake::default();
    let (journal, cores) = serving(&fake, Limits::default());
    fake.disk().fail_sync = Some(0);
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let journal = journal.clone();
        cores.spawn(&mut tasks, async move {
            let mut record = hold();
            drop(journal.hold(&mut record, Urgency::Soon));
            let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
            let (_, durable) = journal.debit(&debit).unwrap();
            assert_eq!(durable.wait().await, Err(JournalFailed));
        });
    }
    all(tasks).await;
    assert!(!journal.works());
    assert_eq!(journal.unproven(), 0);
    assert_eq!(wait(journal.barrier()), Err(JournalFailed));
    // Nothing is left that would wait.
    journal.close();
}

#[tokio::test]
async fn segments_end_and_go_as_ever_where_threads_write_themselves() {
    let fake = Fake::default();
    let limits = Limits {
        segment_bytes: 4_096,
        quick: LONG,
        ..Limits::default()
    };
    let (journal, cores) = serving(&fake, limits);
    for _ in 0..30 {
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            cores.spawn(&mut tasks, served(journal.clone()));
        }
        all(tasks).await;
    }
    assert!(fake.disk().segments.len() > 4);
    // The first one by the start.
    let began = fake.disk().began.split_off(1);
    assert!(began.iter().all(|by| by == "journal"), "{began:?}");
    let found = contents(&fake.crashed());
    assert_eq!(found.unproven.len(), 120);
    assert_eq!(found.state, journal.look(Clone::clone));
    let last = found.unproven.last().unwrap();
    journal.proven(head(1, last.number.0, last.hash)).unwrap();
    let mut tasks = JoinSet::new();
    cores.spawn(&mut tasks, served(journal.clone()));
    all(tasks).await;
    soon("they are removed", || fake.disk().segments.len() <= 2);
}

/// A debit that is waited for on a thread that serves, however that ends.
async fn attempted(journal: Arc<Journal>) {
    let mut record = hold();
    drop(journal.hold(&mut record, Urgency::Soon));
    let debit = debit_of(&record, Usage::default(), Flags::default(), 0);
    let (_, durable) = journal.debit(&debit).unwrap();
    let _ = durable.wait().await;
}

#[tokio::test]
async fn a_panic_in_a_write_ends_all_promises_whoever_writes() {
    for serves in [false, true] {
        let fake = Fake::default();
        let (journal, cores) = serving(&fake, QUIET);
        let record = Record::Opened {
            journal: journal.number(),
        };
        let lost = journal.append(&record, Urgency::Soon);
        fake.disk().panic = true;
        let mut tasks = JoinSet::new();
        if serves {
            cores.spawn(&mut tasks, attempted(journal.clone()));
            let ended = tokio::time::timeout(LONG, cores.lost());
            ended.await.expect("the thread's end is known");
        } else {
            drop(journal.append(&record, Urgency::Now));
        }
        let told = tokio::time::timeout(LONG, lost.wait());
        let told = told.await.expect("who waits is told");
        assert_eq!(told, Err(JournalFailed));
        assert!(!journal.works());
        // A disk that recovers changes nothing: what was lost stays so.
        fake.disk().panic = false;
        assert_eq!(wait(journal.barrier()), Err(JournalFailed));
        journal.shared.write_up_to(u64::MAX);
        assert_eq!(wait(journal.barrier()), Err(JournalFailed));
        assert_eq!(journal.unproven(), 0);
        assert!(contents(&fake.crashed()).unproven.is_empty());
        journal.close();
    }
}

#[test]
fn a_failure_is_known_before_a_record_is_refused() {
    let journal = started(&Fake::default(), Limits::default());
    let inner = journal.shared.inner();
    let shared = journal.shared.clone();
    let failing = std::thread::spawn(move || shared.fail());
    soon("it is known", || !journal.works());
    assert!(!inner.failed);
    drop(inner);
    failing.join().unwrap();
    assert_eq!(wait(journal.barrier()), Err(JournalFailed));
}

#[tokio::test]
async fn a_thread_on_which_nobody_waits_sleeps_on() {
    let fake = Fake::default();
    let (journal, cores) = serving(&fake, Limits::default());
    let woken = Arc::<AtomicUsize>::default();
    let mut ushers = JoinSet::new();
    cores.on_each(&mut ushers, || {
        let (journal, woken) = (journal.clone(), woken.clone());
        async move {
            let mut usher = std::pin::pin!(journal.usher());
            let counted = std::future::poll_fn(|context| {
                woken.fetch_add(1, Ordering::Relaxed);
                usher.as_mut().poll(context)
            });
            counted.await;
        }
    });
    // Behind what was woken before.
    let settled = async || {
        let mut tasks = JoinSet::new();
        cores.on_each(&mut tasks, || async {});
        all(tasks).await;
    };
    settled().await;
    for _ in 0..20 {
        journal.barrier().wait().await.unwrap();
    }
    // The last rooms are open then.
    journal.close();
    settled().await;
    assert_eq!(woken.load(Ordering::Relaxed), cores::count());
    ushers.shutdown().await;
}

#[tokio::test]
async fn what_comes_after_a_thread_has_written_may_wait_for_as_long_as_ever() {
    let limits = Limits {
        linger: Duration::from_millis(200),
        ..QUIET
    };
    // Whether the writer sees the first record as it comes or a linger later,
    // one of these is while it waits with that record.
    for pause in [limits.linger / 2, limits.linger * 3 / 2] {
        let fake = Fake::default();
        let (journal, cores) = serving(&fake, limits);
        let record = Record::Opened {
            journal: journal.number(),
        };
        drop(journal.append(&record, Urgency::Soon));
        tokio::time::sleep(pause).await;
        let mut tasks = JoinSet::new();
        cores.spawn(&mut tasks, served(journal.clone()));
        all(tasks).await;
        let began = Instant::now();
        let later = journal.append(&record, Urgency::Soon);
        later.wait().await.unwrap();
        assert!(began.elapsed() >= limits.linger, "{:?}", began.elapsed());
    }
}
